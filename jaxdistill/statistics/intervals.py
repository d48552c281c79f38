"""Averages over MDPs with their uncertainty.

MDPs are the independent samples (the paper averages over 1000 sampled worlds), so every interval here is over
the MDP axis, and methods are compared on the *same* worlds: the difference is taken world by world before it
is averaged, which removes the spread between easy and hard worlds. Everything is computed in float64.
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
    """An estimate and the ends of its confidence interval; nan ends where fewer than two MDPs are finite."""

    estimate: Any
    low: Any
    high: Any


def iqm(x: Any, axis: int = -1) -> Any:
    """Interquartile mean: the mean of what remains when a quarter of the MDPs is cut off at either end."""
    return stats.trim_mean(np.asarray(x, np.float64), 0.25, axis=axis)


def mean_interval(x: Any, axis: int = 0, confidence: float = 0.95) -> Interval:
    """Mean over MDPs with its normal-approximation interval, mean +- t sd / sqrt(n): the band of a curve.

    Student's t quantile with n - 1 degrees of freedom makes the interval right for few MDPs as well.

    Args:
      x: values, any shape; entries that are not finite are left out of the average.
      axis: the MDP axis.
      confidence: in (0, 1).

    Returns:
      An `Interval` of float64 arrays without `axis`; nan where no (ends: fewer than two) entries are finite.
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
    """Bootstrap interval of a statistic of `x` [M] over MDPs: BCa, or percentile where BCa is undefined.

    The resampling seed is fixed, so the same data give the same interval and two methods are resampled alike.

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
            # BCa is undefined when leaving out any one world changes nothing; scipy warns and answers nan.
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
    """Probability that x is better than y in an MDP, ties counting half, with its Wilson interval.

    Unlike a bootstrap, which is sure of itself when x wins everywhere, Wilson's interval has a width for any number of
    MDPs; ties make it wider than it need be.

    Args:
      x, y: [M], in the same MDPs; pairs that are not finite are left out.
      confidence: in (0, 1).

    Returns:
      An `Interval` of floats in [0, 1]; nan without a finite pair. Values within 1e-6 of each other, relative where
      they are large, tie: so far apart rounding can bring what is equal.
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


def average_height(iterations: Any, curves: Any) -> np.ndarray:
    """Area under each curve [..., C] divided by the number of iterations: [...], the mean return over training.

    A point of a curve counts for the iterations since the one before it, of which it is the mean if it was sampled.
    """
    widths = np.diff(np.asarray(iterations, np.float64), prepend=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(curves, np.float64) @ widths / widths.sum()


class Reached(NamedTuple):
    """When a level was reached: the iteration by which half of the MDPs had reached it, inf if they never did."""

    median: float
    low: float  # ends of its interval; inf: never within the training, nan: too few MDPs for an interval
    high: float
    num_reached: int  # MDPs that reached it at all
    num_mdps: int
    last: int  # iterations trained: inf means later than that


def reached_interval(iterations: Any, curves: Any, level: Any, confidence: float = 0.95) -> Reached:
    """First iteration at which each curve is at the level or above: its median over MDPs.

    A curve that never gets there (or is not finite) counts as later than any that does, and is never averaged. The
    interval is that of order statistics: exact, whatever the distribution.

    Args:
      iterations: [C], increasing.
      curves: [M, C].
      level: one for all MDPs or one for each, [M].
      confidence: in (0, 1).
    """
    iterations, curves = np.asarray(iterations), np.asarray(curves, np.float64)
    above = curves >= np.asarray(level, np.float64)[..., None]
    first = np.sort(np.where(above.any(1), iterations[above.argmax(1)].astype(np.float64), np.inf))
    n = len(first)
    rank = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    low, high = (first[rank - 1], first[n - rank]) if rank > 0 else (np.nan, np.nan)
    num_reached = int(np.isfinite(first).sum())
    return Reached(float(first[(n - 1) // 2]), float(low), float(high), num_reached, n, int(iterations[-1]))


def import_pandas() -> Any:
    """pandas, which only the data frames need, or one line saying how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe() needs pandas: pip install pandas; to_csv() does without") from error
    return pandas
