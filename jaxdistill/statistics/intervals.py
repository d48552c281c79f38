"""Averages over MDPs, and their confidence intervals.

MDPs are the independent samples (the paper averages over 1000 sampled worlds), so every interval is over the MDP axis.
Methods are compared on the *same* worlds: the difference is taken world by world before it is averaged, which removes
the spread between easy and hard worlds. Everything is computed in float64, and nothing is resampled, so the same data
always give the same interval.

The intervals of 95 % contain the truth in at least 93 % of the samples if the values of the worlds are normal, skewed
(exponential, lognormal with sigma 1) or heavy-tailed (Student's t with 3 degrees of freedom), if there are only two
values, and for differences that are 0 in most worlds and, in the others, follow one of these distributions, on one side
of 0 or on both. `tests/statistics/test_coverage.py` measures this. The ends are nan where no formula reaches it. An
interval cannot account for a kind of world that is absent from the sample. If a few worlds carry most of the mean, the
sample must hold about ten of them on average (docs/limits.md).
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

LEAST_MDPS = 8  # the different values that an interval of a mean needs (`_num_different`)
NO_INTERVAL = (
    f"[n/a]: the interval of a mean needs {LEAST_MDPS} different values, because fewer show too little of how values "
    "are distributed"
)
_TIE = 1e-6  # relative difference up to which two values count as equal; rounding in float32 can be as large


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; the ends are nan where no interval can be given."""

    estimate: Any
    low: Any
    high: Any

    def __format__(self, form: str) -> str:
        """The interval as text, such as "0.41 [0.35, 0.5]"; `form` is the format of each of its numbers."""
        ends = f"[{self.low:{form}}, {self.high:{form}}]" if np.isfinite(self.low) else "[n/a]"
        return f"{self.estimate:{form}} {ends}"


def iqm(x: Any, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter of the MDPs."""
    return stats.trim_mean(np.asarray(x, np.float64), 0.25, axis=axis)


def mean_interval(x: Any, axis: int = 0, confidence: float = 0.95) -> Interval:
    """Mean over MDPs with Student's interval, whose ends are moved outward for skewed values.

    Student's interval alone is too short on that side: for eight lognormal worlds it contains the mean in 83 % of the
    samples and not in 95 %. The same interval is the band of a learning curve.

    Args:
      x: values, any shape; entries that are not finite are left out of the average.
      axis: the MDP axis.
      confidence: in (0, 1).

    Returns:
      An `Interval` of float64 arrays without `axis`. The mean is nan where no entry is finite. The ends are nan where
      there are fewer than `LEAST_MDPS` different values; of the values that equal the most common one, only one is
      counted. So that the interval contains the mean of skewed worlds in 93 % of the samples, it is wider than needed
      for others: it contains the mean of eight normal worlds in 97 %.
    """
    x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    finite = np.isfinite(x)
    count = finite.sum(axis=0)
    different = np.apply_along_axis(_num_different, 0, x) if x.size else count
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(finite, x, 0.0).sum(axis=0) / count
        deviations = np.where(finite, x - mean, 0.0)
        error = np.sqrt((deviations**2).sum(axis=0) / (count - 1) / count)
    known = different >= LEAST_MDPS
    return _skewed_student(mean, error, _skewness(deviations, count), count, different, known, confidence)


def iqm_interval(x: Any, confidence: float = 0.95) -> Interval:
    """Interquartile mean of `x` [M] over MDPs with the interval of Tukey and McLaughlin for a trimmed mean.

    Its standard error is that of the winsorised values, in which the lowest and the highest quarter are replaced by the
    values next to them. The degrees of freedom of Student's quantile are those of the MDPs in the middle half. The ends
    are moved outward as in `mean_interval`.

    Args:
      x: one value per MDP; entries that are not finite are left out.
      confidence: in (0, 1).

    Returns:
      An `Interval` of floats; nan without a finite value. The ends are nan for fewer than `LEAST_MDPS` MDPs, and for
      fewer than half as many different values in the middle half. Where many values are equal, the interval contains
      the IQM in more than 97 % of the samples.
    """
    x = np.asarray(x, np.float64)
    x = np.sort(x[np.isfinite(x)])
    cut = x.size // 4
    middle = x[cut : x.size - cut]
    if x.size < LEAST_MDPS:
        return Interval(float(middle.mean()) if x.size else np.nan, np.nan, np.nan)
    count = middle.size
    winsorised = np.clip(x, middle[0], middle[-1])
    deviations = winsorised - winsorised.mean()
    error = np.sqrt((deviations**2).sum() / (count * (count - 1)))
    different = _num_different(middle)
    known = different >= LEAST_MDPS // 2
    interval = _skewed_student(middle.mean(), error, _skewness(deviations, x.size), count, different, known, confidence)
    return Interval(*map(float, interval))


def _num_different(x: np.ndarray) -> int:
    """Number of finite values in `x` [M]; of the values that equal the most common one, only one is counted.

    If most values are equal, the uncertainty of the mean comes from the few others, so these are counted.
    """
    x = np.sort(x[np.isfinite(x)])
    if x.size == 0:
        return 0
    num_equal = np.searchsorted(x, x + _TIE * np.abs(x).max(), side="right") - np.arange(x.size)
    return int(x.size - num_equal.max() + 1)


def _skewness(deviations: np.ndarray, count: Any) -> Any:
    """Skewness of `count` values [...] by their deviations from their mean, 0 for values left out, [M, ...]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        second, third = ((deviations**power).sum(axis=0) / count for power in (2, 3))
        return third / second**1.5 * np.sqrt(count * (count - 1.0)) / (count - 2)


def _skewed_student(
    mean: Any, error: Any, skewness: Any, count: Any, different: Any, known: Any, confidence: float
) -> Interval:
    """Student's interval of a mean with its ends moved outward for skewed values; all arguments [...].

    The end on the side of the longer tail is moved by error * skewness * (2 t^2 + 1) / (6 sqrt(count)), the first term
    of the expansion by Cornish and Fisher (Johnson 1978), times 1 + 30 / `different`, because the skewness of a small
    sample is too small on average. The other end is moved outward by half as much, because a small sample of values
    with two long tails can show the wrong one as the longer. The degrees of freedom are `different` - 1: where most
    values are equal, the standard error is as uncertain as the few others make it.

    The 30 and the half were chosen by simulation: with them, the intervals of eight or more lognormal worlds, and those
    of differences that are often 0 and have a long tail on both sides, contain the mean in 93 % of the samples.

    Args:
      mean, error, skewness: the mean, its standard error, and the skewness of the values.
      count, different: the number of values, and the number of different values (`_num_different`).
      known: whether the different values are enough for an interval; the ends are nan where they are not.
      confidence: in (0, 1).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        quantile = special.stdtrit(different - 1, 0.5 + confidence / 2)
        moved = (1 + 30 / different) * skewness * (2 * quantile**2 + 1) / (6 * np.sqrt(count))
        low = mean - error * (quantile + np.where(moved < 0, -moved, moved / 2))
        high = mean + error * (quantile + np.where(moved > 0, moved, -moved / 2))
    return Interval(mean, np.where(known, low, np.nan)[()], np.where(known, high, np.nan)[()])  # [()]: 0-d to scalar


@functools.lru_cache(maxsize=1024)
def median_ranks(count: int, confidence: float = 0.95) -> tuple[int, int] | None:
    """Positions in the sorted values, from 0, of the ends of an interval of the median; None if there are too few.

    The interval is exact for any distribution: its probability of containing the median is at least `confidence`, and
    larger if there are few values or equal ones. For 95 %, six values are needed.
    """
    rank = int(stats.binom.ppf((1 - confidence) / 2, count, 0.5))
    return (rank - 1, count - rank) if rank > 0 else None


def median_interval(x: Any, confidence: float = 0.95) -> Interval:
    """Median of `x` [M] over MDPs with the interval of `median_ranks`; entries that are not finite are left out."""
    x = np.asarray(x, np.float64)
    x = np.sort(x[np.isfinite(x)])
    ranks = median_ranks(x.size, confidence)
    low, high = x[list(ranks)] if ranks else (np.nan, np.nan)
    return Interval(float(np.median(x)) if x.size else np.nan, float(low), float(high))


def paired_difference(x: Any, y: Any) -> np.ndarray:
    """The difference x - y in every MDP: nan unless both are finite, and 0 for a tie.

    Values that differ by at most 1e-6, relative to their size if it is above 1, are a tie, because rounding can
    separate equal returns by that much.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(finite, x, np.nan), np.where(finite, y, np.nan)
    tie = np.abs(x - y) <= _TIE * np.maximum(1, np.maximum(np.abs(x), np.abs(y)))
    return np.where(tie, 0.0, x - y)


def improvement_interval(x: Any, y: Any, confidence: float = 0.95) -> Interval:
    """Probability that x is better than y in an MDP, where a tie counts half, with the interval of Clopper and Pearson.

    That interval is exact without ties. With ties the variance of the mean is smaller than for wins and losses alone,
    because a tie counts 1/2, which is nearer to the mean than 0 or 1. The interval is therefore that of an effective
    number of worlds, for which p (1 - p) / number is this variance (Korn and Graubard 1998). The variance is computed
    with two ties fewer than there are, so that the interval does not become too short because of a few ties.

    Args:
      x, y: [M], in the same MDPs; pairs that are not finite are left out.
      confidence: in (0, 1).

    Returns:
      An `Interval` of floats in [0, 1]; nan without a finite pair. It contains the probability in at least 95 % of the
      samples, whatever p and the number of ties are. For fewer than about 50 worlds, or for p near 0 or 1, it may do so
      in more than 97 %, because the number of wins is a whole number.
    """
    difference = paired_difference(x, y)
    difference = difference[np.isfinite(difference)]
    n = float(difference.size)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan)
    wins, ties = int((difference > 0).sum()), int((difference == 0).sum())
    p = (wins + ties / 2) / n
    if 0 < p < 1:
        n *= p * (1 - p) / (p * (1 - p) - max(ties - 2, 0) / n / 4)
    tail = (1 - confidence) / 2
    low = special.betaincinv(p * n, n - p * n + 1, tail) if p > 0 else 0.0
    high = special.betaincinv(p * n + 1, n - p * n, 1 - tail) if p < 1 else 1.0
    return Interval(p, float(low), float(high))


def extreme_share(x: Any, fraction: float = 0.05) -> tuple[int, float]:
    """The number of the most extreme MDPs, a `fraction` of all, rounded up, and their share of the sum of |x|.

    `x` [M] is one value per MDP, such as a paired difference; entries that are not finite are left out. The share is in
    [0, 1], and nan if the sum is 0.
    """
    x = np.asarray(x, np.float64)
    sizes = np.sort(np.abs(x[np.isfinite(x)]))[::-1]
    number, total = int(np.ceil(fraction * sizes.size)), sizes.sum()
    return number, float(sizes[:number].sum() / total) if total > 0 else np.nan
