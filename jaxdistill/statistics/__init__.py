"""Statistics over MDPs: `intervals` of averages and wins, speed of `learning_curves`, and performance `profiles`."""

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
from jaxdistill.statistics.profiles import performance_profile

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
    "performance_profile",
    "reached_interval",
]
