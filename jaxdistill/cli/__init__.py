"""The command line `jaxdistill`: `main` parses the arguments, and `commands` holds a function for each command.

`sweep_command` is the command that trains all combinations of some numbers. `flags` reads flags, also for experiments.
"""
