"""Averages over MDPs, and their confidence intervals.

MDPs are the independent samples (the paper averages over 1000 sampled worlds), so every interval is over the MDP axis.
Methods are compared on the *same* worlds: the difference is taken world by world before it is averaged, which removes
the spread between easy and hard worlds. Everything is computed in float64.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

NUM_RESAMPLES = 2000
BOOTSTRAP_SEED = 0
_MAX_RESAMPLED_VALUES = 2**21  # resampled values held at once, 16 MiB


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; the ends are nan if fewer than two MDPs are finite."""

    estimate: Any
    low: Any
    high: Any


def iqm(x: Any, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter of the MDPs."""
    return stats.trim_mean(np.asarray(x, np.float64), 0.25, axis=axis)


def mean_interval(x: Any, axis: int = 0, confidence: float = 0.95) -> Interval:
    """Mean over MDPs with the interval mean +- t sd / sqrt(n), which is the band of a learning curve.

    t is the quantile of Student's t with n - 1 degrees of freedom, so the interval also holds for few MDPs.

    Args:
      x: values, any shape; entries that are not finite are left out of the average.
      axis: the MDP axis.
      confidence: in (0, 1).

    Returns:
      An `Interval` of float64 arrays without `axis`. The mean is nan where no entry is finite, the ends are nan where
      fewer than two are.
    """
    x = np.asarray(x, np.float64)
    finite = np.isfinite(x)
    count = finite.sum(axis=axis)
    kept = np.where(finite, x, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = kept.sum(axis=axis) / count
        squares = np.where(finite, (kept - np.expand_dims(mean, axis)) ** 2, 0.0).sum(axis=axis)
        half = stats.t.ppf(0.5 + confidence / 2, count - 1) * np.sqrt(squares / (count - 1) / count)
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    x: Any,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Bootstrap interval of a statistic of `x` [M] over MDPs: BCa, or the percentile interval if BCa is undefined.

    The resampling seed is fixed, so the same data give the same interval and all methods use the same resamples.

    Args:
      x: one value per MDP; entries that are not finite are left out.
      statistic: called with an array and `axis`, for example `numpy.mean` or `iqm`.
      confidence: in (0, 1).
      num_resamples: number of bootstrap samples.

    Returns:
      An `Interval` of floats; nan ends for fewer than two finite values, nan throughout for none.
    """
    x = np.asarray(x, np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    estimate = float(statistic(x, axis=-1))
    if x.size == 1:
        return Interval(estimate, np.nan, np.nan)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # BCa is undefined if the statistic never changes when one world is left out; scipy then warns and
            # returns nan.
            warnings.simplefilter("ignore")
            low, high = stats.bootstrap(
                (x,),
                statistic,
                confidence_level=confidence,
                n_resamples=num_resamples,
                batch=max(1, _MAX_RESAMPLED_VALUES // x.size),
                method=method,
                vectorized=True,
                rng=np.random.default_rng(BOOTSTRAP_SEED),
            ).confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            break
    return Interval(estimate, float(low), float(high))


def improvement_interval(x: Any, y: Any, confidence: float = 0.95) -> Interval:
    """Probability that x is better than y in an MDP, where a tie counts half, with its Wilson interval.

    A bootstrap interval has no width if x wins in every MDP; Wilson's interval always has one. Ties make it wider than
    necessary.

    Args:
      x, y: [M], in the same MDPs; pairs that are not finite are left out.
      confidence: in (0, 1).

    Returns:
      An `Interval` of floats in [0, 1]; nan without a finite pair. Values that differ by at most 1e-6, relative to
      their size if it is above 1, are a tie, because rounding can separate equal returns by that much.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[finite], y[finite], int(finite.sum())
    if n == 0:
        return Interval(np.nan, np.nan, np.nan)
    tie = np.abs(x - y) <= 1e-6 * np.maximum(1, np.maximum(np.abs(x), np.abs(y)))
    p = float(np.where(tie, 0.5, x > y).mean())
    z = stats.norm.ppf(0.5 + confidence / 2)
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return Interval(p, max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale)))
