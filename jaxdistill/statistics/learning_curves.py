"""Measures of how fast a method learns: the average height of its curve, and the iteration that reaches a level."""

from typing import Any, NamedTuple

import numpy as np

from jaxdistill.statistics.intervals import median_ranks


def average_height(iterations: Any, curves: Any) -> np.ndarray:
    """Mean return over training, [...]: the area under each curve [..., C] divided by the number of iterations.

    A point is weighted by the number of iterations since the point before it; a sampled point is their mean.
    """
    widths = np.diff(np.asarray(iterations, np.float64), prepend=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(curves, np.float64) @ widths / widths.sum()


class Reached(NamedTuple):
    """The iteration by which half of the MDPs had reached a level of return, with its confidence interval.

    An iteration is inf if it lies beyond the end of the training, `last`. The ends of the interval are nan if there are
    too few MDPs for an interval.
    """

    median: float
    low: float
    high: float
    num_reached: int  # MDPs that reached the level within the training
    num_mdps: int
    last: int  # last iteration of the training


def reached_interval(iterations: Any, curves: Any, level: Any, confidence: float = 0.95) -> Reached:
    """Median over MDPs of the first iteration at which a curve is at or above the level.

    A curve that never reaches the level (nan is below it) counts as later than every curve that does, and never enters
    an average. The interval is made of order statistics (`median_ranks`) and is exact for any distribution.

    Args:
      iterations: [C], increasing.
      curves: [M, C].
      level: a number for all MDPs or one for each, [M].
      confidence: in (0, 1).
    """
    iterations, curves = np.asarray(iterations), np.asarray(curves, np.float64)
    above = curves >= np.asarray(level, np.float64)[..., None]
    first = np.sort(np.where(above.any(1), iterations[above.argmax(1)].astype(np.float64), np.inf))
    n = len(first)
    ranks = median_ranks(n, confidence)
    low, high = first[list(ranks)] if ranks else (np.nan, np.nan)
    num_reached = int(np.isfinite(first).sum())
    return Reached(float(first[(n - 1) // 2]), float(low), float(high), num_reached, n, int(iterations[-1]))
