"""Statistics over MDPs: `intervals` of averages and of wins, and the speed of `learning_curves`."""

from jaxdistill.statistics.intervals import (
    BOOTSTRAP_SEED,
    NUM_RESAMPLES,
    Interval,
    bootstrap_interval,
    improvement_interval,
    iqm,
    mean_interval,
)
from jaxdistill.statistics.learning_curves import Reached, average_height, reached_interval

__all__ = [
    "BOOTSTRAP_SEED",
    "NUM_RESAMPLES",
    "Interval",
    "Reached",
    "average_height",
    "bootstrap_interval",
    "improvement_interval",
    "iqm",
    "mean_interval",
    "reached_interval",
]
