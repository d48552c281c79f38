"""The command line `jaxdistill`: `main` parses it, `commands` does what each command says."""
