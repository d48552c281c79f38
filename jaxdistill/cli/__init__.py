"""The command line `jaxdistill`: `main` parses the arguments, and `commands` holds a function for each command.

`describing` is what `jaxdistill methods NAME` prints, and `sweep_command` trains all combinations of some numbers.
`flags` reads flags, also for experiments.
"""
