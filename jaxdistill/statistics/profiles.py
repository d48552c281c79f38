"""Performance profiles: the share of worlds in which a method is better than each level (Agarwal et al., 2021)."""

from typing import Any

import numpy as np
from scipy import special

from jaxdistill.statistics.intervals import Interval


def performance_profile(scores: Any, levels: Any, confidence: float = 0.95) -> Interval:
    """The share of worlds whose score is above each level, with the interval of Clopper and Pearson at each level.

    Two profiles show more than two means: the curve that is higher everywhere belongs to the better method in every
    quantile of the worlds.

    Args:
      scores: [M], one score for each world, such as `Result.normalised_scores`; values that are not finite count as
        below every level, because a student that diverged has failed.
      levels: [L].
      confidence: in (0, 1), of the interval at a single level; the band does not hold for all levels at once.

    Returns:
      An `Interval` of arrays [L] in [0, 1].
    """
    scores, levels = np.asarray(scores, np.float64), np.asarray(levels, np.float64)
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    number, tail = scores.size, (1 - confidence) / 2
    above = (scores[None] > levels[:, None]).sum(axis=1)
    with np.errstate(invalid="ignore"):
        low = np.where(above > 0, special.betaincinv(np.maximum(above, 1), number - above + 1, tail), 0.0)
        high = np.where(above < number, special.betaincinv(above + 1, np.maximum(number - above, 1), 1 - tail), 1.0)
    return Interval(above / number, low, high)
