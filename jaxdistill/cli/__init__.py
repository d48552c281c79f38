"""The command line `jaxdistill`: `main` parses the arguments, `commands` holds a function for each command."""
