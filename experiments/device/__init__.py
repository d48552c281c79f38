"""What `experiments.device_check` checks and measures on a GPU.

`agreement` compares kernels with XLA's engine on the processor. `promises` trains the same students in other ways, and
compares bits. `speed` measures ticks, and `figure` the time of a whole figure in a process of its own. `pages` makes
the table.
"""
