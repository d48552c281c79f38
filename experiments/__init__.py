"""The experiments of the paper, each a module and a command: `python -m experiments.fig8`."""

import jaxdistill as jaxdistill  # first, so that a failure of a later import is reported in one line
