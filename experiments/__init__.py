"""The experiments of the paper, each a module and a command: `python -m experiments.fig8`."""
