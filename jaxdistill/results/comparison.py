"""`compare` compares methods, of one run or of several, on the same MDPs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdistill.results.result import Result
from jaxdistill.results.summary import Column, Summary, SummaryRow, cell, named, summarise
from jaxdistill.results.sweep import Sweep
from jaxdistill.runtime import checks
from jaxdistill.statistics import (
    LEAST_MDPS,
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

_UNEQUAL = 3  # the ratio of the sizes of two first updates from which a note names it
_FEWEST_POINTS = 4  # of a curve whose last points are compared
_NEGLIGIBLE_GAIN = 0.01  # of the difference between the optimal and the uniform policy


@dataclasses.dataclass(frozen=True)
class ComparisonRow(SummaryRow):
    """A method in a `Comparison`: the numbers of a `SummaryRow`, wins against the baseline, and speed of learning."""

    # Probability of a better return than the baseline's in the same MDP; None for the baseline itself.
    improvement: Interval | None
    median: Interval | None  # median of the paired differences; None for the baseline
    num_extreme: int  # the most extreme MDPs: the 5 % with the largest absolute differences; 0 for the baseline
    # Their share of the sum of all absolute differences, in [0, 1]; nan for the baseline, and if all differences are 0.
    extreme_share: float
    area: Interval  # mean over MDPs of the mean return over training
    reached: Reached | None  # None if `compare` was called without a level

    def record(self) -> dict[str, Any]:
        """The row as named numbers; iterations are inf if fewer than half of the MDPs reached the level."""
        record = super().record() | named({"improvement": self.improvement, "median": self.median, "area": self.area})
        record |= {"num_extreme": self.num_extreme, "extreme_share": self.extreme_share}
        if self.reached is not None:
            median, low, high, num_reached, *_ = self.reached
            record |= {"reached": median, "reached_low": low, "reached_high": high, "num_reached": num_reached}
        return record

    def contradiction(self, baseline: str) -> str | None:
        """A note if the mean difference and the probability of improvement have opposite directions; otherwise None."""
        if self.difference is None or self.improvement is None or self.median is None:
            return None
        if not self.difference.estimate * (self.improvement.estimate - 0.5) < 0:  # also for nan
            return None
        return (
            f"note: {self.label}: mean difference {self.difference.estimate:+.3f} but P(> {baseline}) "
            f"{self.improvement.estimate:.2f}: the median difference is {self.median:+.3f}, and "
            f"{self.extreme_share:.0%} of the sum of all absolute differences comes from the 5 % most extreme MDPs "
            f"(number: {self.num_extreme})"
        )


@dataclasses.dataclass(frozen=True)
class Comparison(Summary):
    """A `Summary` with further columns and a figure. These are its columns, by the names that `to_latex` takes:

    num_mdps: MDPs with a finite return.
    mean, iqm: over MDPs, with 95 % intervals (`mean_interval`, `iqm_interval` in `jaxdistill.statistics`).
    difference: mean over MDPs of (return - the baseline's in the same MDP), with its interval.
    improvement: probability of a better return than the baseline's in an MDP, ties half (`improvement_interval`).
    area: mean return over training (area under the learning curve / iterations), with its interval.
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

    def _columns(self) -> dict[str, Column]:
        columns = super()._columns()
        teacher = columns.pop("teacher", None)
        columns["improvement"] = (f"P(> {self.baseline}) [95 %]", lambda row: cell(row.improvement, digits=2))
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
) -> Comparison:
    """Compares the methods of one result, or of several results on the same MDPs, MDP by MDP.

    Args:
      results: a `Result`; a list of them, whose methods then need different labels; or a mapping such as
        {"small step": a, "large step": b}. The names of a mapping are put before the labels of its results, and replace
        the label of a result that has one method only. A `Sweep` is compared setting by setting, or `tuned`.
      baseline: the label to compare with; by default the first. With `tuned`, the label of a method.
      tuned: for a `Sweep`, a measure as in `Sweep.values`, such as "return": each method is compared at its best
        setting by this measure. The settings are chosen on one half of the worlds and judged on the other half,
        because the best of many settings looks better than it is on the worlds on which it was chosen. The halves are
        drawn at random, the same for the same ids of worlds.
      checkpoint: the returns to compare: "final" for the exact returns of the final students, or a position on the
        checkpoint axis for the returns of the curves at that checkpoint.
      reach: a level of return, one for all MDPs or one for each, [M], such as 0.9 * result.teacher_returns[0]. The
        table then shows after how many iterations half of the MDPs had reached it, by the first point of each MDP's
        curve at or above the level. With few long bins (num_checkpoints) a curve seldom reaches the level by chance.

    Returns:
      A `Comparison`: print it, `to_markdown()`, `to_latex()`, `to_dataframe()`, `plot()`, or index it by label.

    Raises:
      ValueError: no result, results of different MDPs, equal labels, or a baseline or checkpoint that does not exist.
    """
    results, baseline, tuned_notes = _tuned(results, baseline, tuned)
    lines = _lines(results)
    labels = [line.label for line in lines]
    baseline = labels[0] if baseline is None else baseline
    if not isinstance(baseline, str) or baseline not in labels:
        given = checks.shown_among(baseline, labels)
        raise ValueError(f"no method {given} to compare with; there are {', '.join(labels)}")
    level, level_text = _level(reach, lines[0].result.num_mdps)
    returns, quantity = _returns(lines, checkpoint)
    teachers = np.stack([line.result.teacher_returns[line.row] for line in lines])
    table = summarise(labels, returns, teachers, baseline, quantity)
    baseline_returns = returns[labels.index(baseline)]
    rows = []
    for row, method_returns, (_, result, p) in zip(table.rows, returns, lines, strict=True):
        area = mean_interval(average_height(result.iterations, result.returns[p]))
        reached = None if level is None else reached_interval(result.iterations, result.returns[p], level)
        pairs = _pairs(row, method_returns, baseline_returns)
        rows.append(ComparisonRow(**vars(row), **pairs, area=area, reached=reached))
    notes = table.notes + _notes(rows, baseline) + _notes_on_runs(lines, bool(tuned_notes)) + tuned_notes
    return Comparison(tuple(rows), baseline, quantity, notes, level_text)


def _tuned(results: Any, baseline: str | None, tuned: str | None) -> tuple[Any, str | None, tuple[str, ...]]:
    """What `compare` compares: the best settings of a sweep on half of its worlds, or the results as they are.

    Returns:
      The results, the label of the baseline, and a note on how the settings were chosen.
    """
    if not isinstance(results, Sweep):
        if tuned is not None:
            raise ValueError("tuned needs the result of jaxdistill.sweep, which has several settings of each method.")
        return results, baseline, ()
    if tuned is None:
        return results.result, baseline, ()
    result, num_mdps = results.result, results.result.num_mdps
    if num_mdps < 2 * LEAST_MDPS:
        raise ValueError(
            f"tuned needs at least {2 * LEAST_MDPS} worlds, half of them to choose the settings and half to judge "
            f"them; this sweep has {num_mdps}."
        )
    # The draw depends on the ids and not on their order.
    ids = np.random.default_rng(0).permutation(np.sort(result.mdp_ids))
    choosing, judging = ids[: num_mdps // 2], ids[num_mdps // 2 :]
    best = results.best(tuned, mdps=choosing)
    selected = result.select(best.labels, mdps=[i for i in result.mdp_ids if i in judging])
    if baseline is not None:
        checks.known("method", baseline, results.methods, "the methods of this sweep are")
        baseline = best[baseline].setting.label
    note = (
        f"note: the settings were chosen by {tuned} on {len(choosing)} worlds, and are judged on {len(judging)} others"
    )
    return selected, baseline, (note, *best.notes)


def _pairs(row: SummaryRow, returns: np.ndarray, baseline_returns: np.ndarray) -> dict[str, Any]:
    """The fields of a `ComparisonRow` about returns [M] against the baseline's in the same MDPs."""
    if row.difference is None:
        return {"improvement": None, "median": None, "num_extreme": 0, "extreme_share": np.nan}
    difference = paired_difference(returns, baseline_returns)
    number, share = extreme_share(difference)
    wins, median = improvement_interval(returns, baseline_returns), median_interval(difference)
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
                    f"compare needs results on the same MDPs, but the {name} of result {position} are not those of the "
                    "first: the ids are equal and the worlds are not."
                )


def _returns(lines: list[_Line], checkpoint: int | str) -> tuple[np.ndarray, str]:
    """Returns [P, M] of all lines at the checkpoint, and their description."""
    returns_and_texts = [line.result.returns_at(checkpoint) for line in lines]
    texts = list(dict.fromkeys(text for _, text in returns_and_texts))
    if len(texts) > 1 and not isinstance(checkpoint, str):
        raise ValueError(
            f"checkpoint {checks.shown(checkpoint)} is at different iterations in these results; use 'final'."
        )
    quantity = texts[0]
    if len(texts) > 1:  # the texts differ in the last iteration only
        quantity = "exact return of the final students, " + texts[0].split(", ", 1)[1]
    rows = [returns[line.row] for (returns, _), line in zip(returns_and_texts, lines, strict=True)]
    return np.stack(rows), quantity


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


def _notes(rows: Sequence[ComparisonRow], baseline: str) -> tuple[str, ...]:
    """Notes below the table on missing intervals, and on methods for which mean difference and wins contradict."""
    notes = [note for row in rows if (note := row.contradiction(baseline)) is not None]
    if len(rows) > 2:
        number = len(rows) - 1
        notes.append(
            f"note: {number} comparisons with {baseline}: if none of the methods differed from it, the intervals of "
            f"{0.05 * number:.2g} of them would exclude 0 on average, by chance"
        )
    if any(row.reached is not None and np.isnan(row.reached.low) for row in rows):
        notes.insert(0, "note: [n/a]: the interval of the iterations to a level, a median, needs 6 MDPs")
    return tuple(notes)


def _notes_on_steps(lines: list[_Line]) -> list[str]:
    """A note if the first updates of methods with equal learning rates differ by more than a factor."""
    norms: dict[Any, dict[str, float]] = {}  # by learning rate
    for line in lines:
        cell = line.result.settings.get("cells", {}).get(line.result.labels[line.row], {})
        rate, norm = cell.get("config", {}).get("learning_rate"), cell.get("update_norm")
        if isinstance(rate, int | float) and norm is not None and np.isfinite(norm) and norm > 0:
            norms.setdefault(rate, {})[line.label] = norm
    notes = []
    for rate, of_label in norms.items():
        least, most = (extreme(of_label, key=lambda label: of_label[label]) for extreme in (min, max))
        if of_label[most] > _UNEQUAL * of_label[least]:
            notes.append(
                f"note: at the learning rate {rate:g}, the first updates of {most} are "
                f"{of_label[most] / of_label[least]:.3g} times as large as those of {least}; compare them with "
                "equal_steps=True, or each at its best rate (jaxdistill.sweep)"
            )
    return notes


def _notes_on_rising_curves(lines: list[_Line]) -> list[str]:
    """A note naming the methods whose mean return still rises at the end of the training."""
    rising = []
    for line in lines:
        result = line.result
        tenth = max(1, round(len(result.iterations) / 10))
        if len(result.iterations) < _FEWEST_POINTS:
            continue
        curves = result.returns[line.row]
        last, before = curves[:, -tenth:].mean(1), curves[:, -2 * tenth : -tenth].mean(1)
        gain = mean_interval(last - before)
        span = mean_interval(result.optimal_returns - result.uniform_returns).estimate
        if gain.low > 0 and gain.estimate > _NEGLIGIBLE_GAIN * abs(span):
            rising.append(f"{line.label} ({gain:+.3f})")
    if not rising:
        return []
    return [f"note: still rising, by the mean gain in return over the last tenth of the training: {', '.join(rising)}"]


def _notes_on_runs(lines: list[_Line], is_tuned: bool) -> tuple[str, ...]:
    """Notes below the table on differences between the results that affect the comparison."""
    notes = []
    exact = [line.label for line in lines if line.result.curve_kind[line.row] == "exact"]
    if 0 < len(exact) < len(lines):
        notes.append(f"note: the curves of {', '.join(exact)} are exact; the others are means of training episodes")
    notes += ([] if is_tuned else _notes_on_steps(lines)) + _notes_on_rising_curves(lines)
    lengths = {int(line.result.iterations[-1]): line.label for line in lines}
    if len(lengths) > 1:
        trained = ", ".join(f"{number} ({label})" for number, label in lengths.items())
        notes.append(f"note: the numbers of iterations differ: {trained}")
    return tuple(notes)
