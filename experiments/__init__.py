"""The experiments of the paper, each a module and a command: `python -m experiments.fig8`."""

import jaxdistill as jaxdistill  # first, since it makes errors of the other imports errors of one line
