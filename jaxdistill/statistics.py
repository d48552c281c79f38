"""Averages over MDPs with their uncertainty: intervals, paired differences and the table that shows them.

MDPs are the independent samples (the paper averages over 1000 sampled worlds), so every interval here is over
the MDP axis, and methods are compared on the *same* worlds: the difference is taken world by world before it
is averaged, which removes the spread between easy and hard worlds. Everything is computed in float64.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
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


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One method: mean and IQM over MDPs, mean paired difference to the baseline (None for the baseline)."""

    label: str
    num_mdps: int  # MDPs with a finite return
    mean: Interval
    iqm: Interval
    difference: Interval | None
    teacher: float  # mean return of this method's teacher, nan without one


@dataclasses.dataclass(frozen=True)
class Summary:
    """Returns per method with bootstrap 95 % intervals over MDPs; prints as a table.

    `rows` keeps the order of the methods, `summary[label]` is one row. The difference of a method is the mean
    over MDPs of (its return - the baseline's return in the same MDP).
    """

    rows: tuple[SummaryRow, ...]
    baseline: str
    quantity: str  # what was summarised, in words
    notes: tuple[str, ...] = ()

    def __getitem__(self, label: str) -> SummaryRow:
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(f"no method {label!r} in this summary; it has {', '.join(r.label for r in self.rows)}")

    def _cells(self) -> list[list[str]]:
        has_teacher = any(np.isfinite(row.teacher) for row in self.rows)
        header = ["method", "MDPs", "mean [95 %]", "IQM [95 %]", f"minus {self.baseline} [95 %]"]
        lines = [header + ["teacher"] * has_teacher]
        for row in self.rows:
            intervals = [_cell(row.mean), _cell(row.iqm), _cell(row.difference, "+")]
            teacher = [f"{row.teacher:.3f}" if np.isfinite(row.teacher) else "-"] * has_teacher
            lines.append([row.label, str(row.num_mdps), *intervals, *teacher])
        return lines

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        table = []
        for label, *cells in lines:
            table.append("  ".join([label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
        return "\n".join([self.quantity, table[0], "-" * len(table[0]), *table[1:], *self.notes])

    __repr__ = __str__

    def to_markdown(self) -> str:
        """The table in Markdown, without a trailing newline."""
        header, *lines = self._cells()
        rule = [":--"] + ["--:"] * (len(header) - 1)
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in [header, rule, *lines]]
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)

    def to_dataframe(self) -> Any:
        """One row per method as a pandas DataFrame: every estimate with its `_low` and `_high` column."""
        nothing = Interval(np.nan, np.nan, np.nan)
        records = []
        for row in self.rows:
            record: dict[str, Any] = {"label": row.label, "num_mdps": row.num_mdps}
            intervals = {"mean": row.mean, "iqm": row.iqm, "difference": row.difference or nothing}
            for name, (estimate, low, high) in intervals.items():
                record |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
            records.append(record | {"teacher": row.teacher})
        return import_pandas().DataFrame.from_records(records)


def _cell(interval: Interval | None, sign: str = "-") -> str:
    if interval is None or not np.isfinite(interval.estimate):
        return "-"
    ends = f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]" if np.isfinite(interval.low) else "[n/a]"
    return f"{interval.estimate:{sign}.3f} {ends}"


def summarise(
    labels: Sequence[str], returns: np.ndarray, teacher_returns: np.ndarray, baseline: str, quantity: str
) -> Summary:
    """Builds the `Summary` of `returns` [P, M]; MDPs that are not finite are left out and counted."""
    reference = np.asarray(returns[list(labels).index(baseline)], np.float64)
    rows, notes = [], []
    for p, label in enumerate(labels):
        x = np.asarray(returns[p], np.float64)
        num_finite = int(np.isfinite(x).sum())
        if num_finite < x.size:
            missing = f"{x.size - num_finite} of {x.size} MDPs are not finite and are left out"
            notes.append(f"note: {label}: {missing}")
        mean, middle = bootstrap_interval(x), bootstrap_interval(x, iqm)
        with np.errstate(invalid="ignore"):  # inf - inf: left out as well
            difference = None if label == baseline else bootstrap_interval(x - reference)
        teacher = float(mean_interval(teacher_returns[p]).estimate)
        rows.append(SummaryRow(label, num_finite, mean, middle, difference, teacher))
    return Summary(tuple(rows), baseline, quantity, tuple(notes))


def import_pandas() -> Any:
    """pandas, which only the data frames need, or one line saying how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe() needs pandas: pip install pandas; to_csv() does without") from error
    return pandas
