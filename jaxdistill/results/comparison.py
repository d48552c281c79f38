"""`compare` compares methods, of one run or of several, on the same MDPs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdistill.results import measured
from jaxdistill.results.fairness import note_on_many_comparisons, notes_on_steps, notes_on_unfinished_curves
from jaxdistill.results.result import Result
from jaxdistill.results.summary import Column, Summary, SummaryRow, cell, named, summarise
from jaxdistill.results.sweep import AREA, Sweep
from jaxdistill.runtime import checks
from jaxdistill.statistics import (
    Interval,
    Reached,
    average_height,
    extreme_share,
    improvement_interval,
    mean_interval,
    median_interval,
    paired_difference,
    reached_interval,
)

_SYMBOLS = {1: ">", -1: "<"}


@dataclasses.dataclass(frozen=True)
class ComparisonRow(SummaryRow):
    """A method in a `Comparison`: the numbers of a `SummaryRow`, wins against the baseline, and speed of learning."""

    # Probability of a better value than the baseline's in the same MDP, of a larger one where neither direction is
    # better; None for the baseline itself.
    improvement: Interval | None
    median: Interval | None  # median of the paired differences; None for the baseline
    num_extreme: int  # the most extreme MDPs: the 5 % with the largest absolute differences; 0 for the baseline
    # Their share of the sum of all absolute differences, in [0, 1]; nan for the baseline, and if all differences are 0.
    extreme_share: float
    area: Interval  # mean over MDPs of the mean of the curve over training
    reached: Reached | None  # None if `compare` was called without a level

    def record(self) -> dict[str, Any]:
        """The row as named numbers; iterations are inf if fewer than half of the MDPs reached the level."""
        record = super().record() | named({"improvement": self.improvement, "median": self.median, "area": self.area})
        record |= {"num_extreme": self.num_extreme, "extreme_share": self.extreme_share}
        if self.reached is not None:
            median, low, high, num_reached, *_ = self.reached
            record |= {"reached": median, "reached_low": low, "reached_high": high, "num_reached": num_reached}
        return record

    def contradiction(self, baseline: str, sign: int = 1) -> str | None:
        """A note if the mean difference and the probability of improvement have opposite directions; otherwise None.

        `sign` is -1 where lower values are better.
        """
        if self.difference is None or self.improvement is None or self.median is None:
            return None
        if not sign * self.difference.estimate * (self.improvement.estimate - 0.5) < 0:  # also for nan
            return None
        return (
            f"note: {self.label}: mean difference {self.difference.estimate:+.3f} but P({_SYMBOLS[sign]} {baseline}) "
            f"{self.improvement.estimate:.2f}: the median difference is {self.median:+.3f}, and "
            f"{self.extreme_share:.0%} of the sum of all absolute differences comes from the 5 % most extreme MDPs "
            f"(number: {self.num_extreme})"
        )


@dataclasses.dataclass(frozen=True)
class Comparison(Summary):
    """A `Summary` with further columns and a figure. These are its columns, by the names that `to_latex` takes:

    num_mdps: MDPs with a finite value. A value is a return, or that of the measure that is compared.
    mean, iqm: over MDPs, with 95 % intervals (`mean_interval`, `iqm_interval` in `jaxdistill.statistics`).
    difference: mean over MDPs of (value - the baseline's in the same MDP), with its interval.
    improvement: probability of a better value than the baseline's in an MDP, ties half (`improvement_interval`). The
      head of the column says whether that is a larger one, P(> baseline), or a smaller one, P(< baseline).
    area: mean value over training (area under the learning curve / iterations), with its interval.
    reached: iteration by which half of the MDPs reached the level, with the exact interval of a median, and the number
      of MDPs that reached it; "> 2000" if the median lies beyond the 2000 iterations trained.
    teacher: mean return of the method's teacher.

    A note names every method whose mean difference and probability of improvement have opposite directions. It gives
    the median of the differences, and the share of the sum of their absolute values that comes from the 5 % of the MDPs
    with the largest ones. The rows and `to_dataframe` hold these numbers for all methods (median, num_extreme,
    extreme_share).

    Each interval is for a single number. They are not corrected for multiple comparisons: among many methods, some
    differ from the baseline by chance.
    """

    level: str = ""  # text of the level in the table; "" if there is none
    measure: str = "return"  # what is compared, in words
    unit: str = ""  # its unit; "" for the return
    better: str = "higher"  # which values are better, "higher" or "lower"; "" where neither is, or it is not known

    @property
    def sign(self) -> int:
        """-1 where lower values are better, otherwise 1."""
        return -1 if self.better == "lower" else 1

    def _columns(self) -> dict[str, Column]:
        columns = super()._columns()
        teacher = columns.pop("teacher", None)
        columns["improvement"] = (
            f"P({_SYMBOLS[self.sign]} {self.baseline}) [95 %]",
            lambda row: cell(row.improvement, digits=2),
        )
        columns["area"] = ("area [95 %]", lambda row: cell(row.area))
        if self.level:
            columns["reached"] = (f"iterations to {self.level}", lambda row: _reached_cell(row.reached))
        return columns | ({"teacher": teacher} if teacher else {})

    def plot(self) -> Any:
        """Estimates and intervals of mean, IQM, difference and improvement as a matplotlib Figure."""
        from jaxdistill.plotting import intervals

        return intervals.plot_intervals(self)


def _reached_cell(reached: Reached) -> str:
    """Text of a cell, such as "300 [200, > 2000], 12 of 20"."""

    def text(iteration: float) -> str:
        return f"> {reached.last}" if np.isinf(iteration) else f"{iteration:.0f}"

    ends = "[n/a]" if np.isnan(reached.low) else f"[{text(reached.low)}, {text(reached.high)}]"
    return f"{text(reached.median)} {ends}, {reached.num_reached} of {reached.num_mdps}"


class _Line(NamedTuple):
    """A method of one of the results, which becomes a row of the table."""

    label: str
    result: Result
    row: int


def compare(
    results: Result | Sequence[Result] | Mapping[str, Result] | Sweep,
    baseline: str | None = None,
    *,
    tuned: str | None = None,
    checkpoint: int | str = "final",
    reach: npt.ArrayLike | None = None,
    measure: str | None = None,
) -> Comparison:
    """Compares the methods of one result, or of several results on the same MDPs, MDP by MDP.

    Args:
      results: a `Result`; a list of them, whose methods then need different labels; or a mapping such as
        {"small step": a, "large step": b}. The names of a mapping are put before the labels of its results, and replace
        the label of a result that has one method only. A `Sweep` is compared setting by setting, or `tuned`.
      baseline: the label to compare with; by default the first. With `tuned`, the label of a method.
      tuned: for a `Sweep`, a measure such as "return": each method is compared at its best setting by this measure. The
        settings are chosen on one half of the worlds and judged on the other half (`Sweep.tuned`).
      checkpoint: the values to compare: "final" for the exact values of the final students, or a position on the
        checkpoint axis for those of the curves at that checkpoint.
      reach: a level, one for all MDPs or one for each, [M], such as 0.9 * result.teacher_returns[0]. The table then
        shows after how many iterations half of the MDPs had reached it, by the first point of each MDP's curve at or
        above the level, or at or below it for a measure of which lower values are better. With few long bins
        (num_checkpoints) a curve seldom reaches the level by chance.
      measure: what to compare, as in `Result.measure`, such as "forward_kl"; by default the measure of `tuned`, or else
        the undiscounted return.

    Returns:
      A `Comparison`: print it, `to_markdown()`, `to_latex()`, `to_dataframe()`, `plot()`, or index it by label.

    Raises:
      ValueError: no result, results of different MDPs, equal labels, or a baseline, a checkpoint or a measure that does
        not exist.
    """
    measure = tuned if measure is None and tuned != AREA else measure
    results, baseline, tuned_notes = _tuned(results, baseline, tuned)
    lines = _lines(results)
    labels = [line.label for line in lines]
    baseline = labels[0] if baseline is None else baseline
    if not isinstance(baseline, str) or baseline not in labels:
        given = checks.shown_among(baseline, labels)
        raise ValueError(f"no method {given} to compare with; there are {', '.join(labels)}")
    level, level_text = _level(reach, lines[0].result.num_mdps)
    values, quantity = _values(lines, measure, checkpoint)
    text, unit, better = _meaning(lines, measure)
    sign = -1 if better == "lower" else 1
    teachers = np.stack([measured.teacher_values(line.result, measure)[line.row] for line in lines])
    table = summarise(labels, values, teachers, baseline, quantity)
    baseline_values = values[labels.index(baseline)]
    rows = []
    for row, method_values, (_, result, p) in zip(table.rows, values, lines, strict=True):
        curves = measured.curves(result, measure)[p]
        area = mean_interval(average_height(result.iterations, curves))
        reached = None if level is None else reached_interval(result.iterations, sign * curves, sign * level)
        pairs = _pairs(row, method_values, baseline_values, sign)
        rows.append(ComparisonRow(**vars(row), **pairs, area=area, reached=reached))
    notes = table.notes + _notes(rows, baseline, sign) + _notes_on_runs(lines, measure)
    notes += (*([] if tuned else notes_on_steps(lines)), *notes_on_unfinished_curves(lines, measure), *tuned_notes)
    return Comparison(tuple(rows), baseline, quantity, notes, level_text, text, unit, better)


def _tuned(results: Any, baseline: str | None, tuned: str | None) -> tuple[Any, str | None, tuple[str, ...]]:
    """What is compared, the label of the baseline, and notes: of a sweep the best settings, or else what was given."""
    if not isinstance(results, Sweep):
        if tuned is not None:
            raise ValueError("tuned needs the result of jaxdistill.sweep, which has several settings of each method.")
        return results, baseline, ()
    if tuned is None:
        return results.result, baseline, ()
    result, best, note = results.tuned(tuned)
    if baseline is not None:
        checks.known("method", baseline, results.methods, "the methods of this sweep are")
        baseline = best[baseline].setting.label
    return result, baseline, (note, *best.notes)


def _meaning(lines: list[_Line], name: str | None) -> tuple[str, str, str]:
    """A measure in words, its unit, and which values are better; ValueError if the results disagree."""
    meanings = {measured.describe(result, name)[:3] for _, result, _ in lines}
    if len(meanings) > 1:
        texts = " and ".join(sorted(text for text, *_ in meanings))
        raise ValueError(f"The measure {name!r} is not the same in all results: it is {texts}.")
    text, unit, better = meanings.pop()
    return text, "" if text == "return" else unit, better


def _pairs(row: SummaryRow, values: np.ndarray, baseline_values: np.ndarray, sign: int) -> dict[str, Any]:
    """The fields of a `ComparisonRow` about values [M] against the baseline's in the same MDPs."""
    if row.difference is None:
        return {"improvement": None, "median": None, "num_extreme": 0, "extreme_share": np.nan}
    difference = paired_difference(values, baseline_values)
    number, share = extreme_share(difference)
    wins, median = improvement_interval(sign * values, sign * baseline_values), median_interval(difference)
    return {"improvement": wins, "median": median, "num_extreme": number, "extreme_share": share}


def _lines(results: Any) -> list[_Line]:
    """The methods of all results, with distinct labels."""
    pairs: list[tuple[str, Any]] = [("", results)]
    if isinstance(results, Mapping):
        pairs = list(results.items())
    elif isinstance(results, Sequence):
        pairs = [("", result) for result in results]
    if not pairs or not all(isinstance(result, Result) for _, result in pairs):
        raise ValueError("compare takes a Result, several, or a mapping from names to Results, and at least one.")
    _check_same_mdps([result for _, result in pairs])
    lines = []
    for name, result in pairs:
        for index, label in enumerate(result.labels):
            if name:
                label = name if len(result.labels) == 1 else f"{name}: {label}"
            lines.append(_Line(label, result, index))
    labels = [line.label for line in lines]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"several results have a method {label!r}; name them, {{'a': result, 'b': other}}.")
    return lines


def _check_same_mdps(results: list[Result]) -> None:
    """Raises a ValueError unless ids and reference returns of the MDPs agree in all results."""
    first = results[0]
    for position, other in enumerate(results[1:], 1):
        if not np.array_equal(first.mdp_ids, other.mdp_ids):
            raise ValueError(
                f"compare needs results on the same MDPs, but result {position} has {other.num_mdps} MDPs with other "
                f"ids than the {first.num_mdps} of the first; choose common ones with result.select(mdps=...)."
            )
        # Equal ids may still belong to different worlds, in which these policies have other returns.
        for name in ("uniform_returns", "optimal_returns"):
            if not np.allclose(getattr(first, name), getattr(other, name), rtol=1e-3, atol=1e-3, equal_nan=True):
                raise ValueError(
                    f"compare needs results on the same MDPs, but the MDPs of result {position} have the ids of the "
                    f"first result's and are others: their {name} differ."
                )


def _values(lines: list[_Line], name: str | None, checkpoint: int | str) -> tuple[np.ndarray, str]:
    """Values [P, M] of a measure of all lines at the checkpoint, and their description."""
    has_one_end = len({int(line.result.iterations[-1]) for line in lines}) == 1
    values_and_texts = [measured.values_at(line.result, name, checkpoint, has_one_end) for line in lines]
    if len({text for _, text in values_and_texts}) > 1 and not isinstance(checkpoint, str):
        raise ValueError(
            f"checkpoint {checks.shown(checkpoint)} is at different iterations in these results; use 'final'."
        )
    rows = [values[line.row] for (values, _), line in zip(values_and_texts, lines, strict=True)]
    return np.stack(rows), values_and_texts[0][1]


def _level(reach: Any, num_mdps: int) -> tuple[np.ndarray | None, str]:
    """The level `reach` as an array of shape [] or [M], and its text in the table."""
    if reach is None:
        return None, ""
    try:
        level = checks.numbers("reach", reach)
    except ValueError:
        level = np.asarray(np.nan)
    if level.shape not in ((), (num_mdps,)) or not np.isfinite(level).all():
        given = checks.shown(reach)
        raise ValueError(f"reach must be one finite return, or one for each of the {num_mdps} MDPs; got {given}.")
    return level, f"{level:g}" if level.ndim == 0 else "the level"


def _notes(rows: Sequence[ComparisonRow], baseline: str, sign: int) -> tuple[str, ...]:
    """Notes below the table on missing intervals, and on methods for which mean difference and wins contradict."""
    notes = [note for row in rows if (note := row.contradiction(baseline, sign)) is not None]
    notes += note_on_many_comparisons(len(rows) - 1, baseline)
    if any(row.reached is not None and np.isnan(row.reached.low) for row in rows):
        notes.insert(0, "note: [n/a]: the interval of the iterations to a level, a median, needs 6 MDPs")
    return tuple(notes)


def _notes_on_runs(lines: list[_Line], name: str | None) -> tuple[str, ...]:
    """Notes below the table on differences between the results that affect the comparison."""
    notes = []
    exact = [line.label for line in lines if measured.describe(line.result, name).kinds[line.row] == "exact"]
    if 0 < len(exact) < len(lines):
        notes.append(f"note: the curves of {', '.join(exact)} are exact; the others are means of training episodes")
    lengths = {int(line.result.iterations[-1]): line.label for line in lines}
    if len(lengths) > 1:
        trained = ", ".join(f"{number} ({label})" for number, label in lengths.items())
        notes.append(f"note: the numbers of iterations differ: {trained}")
    return tuple(notes)
