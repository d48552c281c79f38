"""Averages over MDPs with their uncertainty: `intervals` of means, quartiles, wins and times."""

from jaxdistill.statistics.intervals import (
    BOOTSTRAP_SEED,
    NUM_RESAMPLES,
    Interval,
    Reached,
    average_height,
    bootstrap_interval,
    import_pandas,
    improvement_interval,
    iqm,
    mean_interval,
    reached_interval,
)

__all__ = [
    "BOOTSTRAP_SEED",
    "NUM_RESAMPLES",
    "Interval",
    "Reached",
    "average_height",
    "bootstrap_interval",
    "import_pandas",
    "improvement_interval",
    "iqm",
    "mean_interval",
    "reached_interval",
]
