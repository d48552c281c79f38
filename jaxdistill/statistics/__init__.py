"""Statistics over MDPs: `intervals` of averages and of wins, and the speed of `learning_curves`."""

from jaxdistill.statistics.intervals import (
    LEAST_MDPS,
    NO_INTERVAL,
    Interval,
    extreme_share,
    improvement_interval,
    iqm,
    iqm_interval,
    mean_interval,
    median_interval,
    paired_difference,
)
from jaxdistill.statistics.learning_curves import Reached, average_height, reached_interval

__all__ = [
    "LEAST_MDPS",
    "NO_INTERVAL",
    "Interval",
    "Reached",
    "average_height",
    "extreme_share",
    "improvement_interval",
    "iqm",
    "iqm_interval",
    "mean_interval",
    "median_interval",
    "paired_difference",
    "reached_interval",
]
