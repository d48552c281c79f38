"""Notes on what makes a comparison unfair: many comparisons, steps of unequal size, and curves that still improve."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdistill.results import measured
from jaxdistill.results.result import Result
from jaxdistill.statistics import mean_interval

_UNEQUAL = 3  # the ratio of the sizes of two first updates from which a note names it
_FEWEST_POINTS = 4  # of a curve whose last points are compared
_NEGLIGIBLE_GAIN = 0.01  # of the range of the mean curve


def note_on_many_comparisons(number: int, baseline: str) -> list[str]:
    """A note that says for how many comparisons the intervals of a table are, if there are several."""
    if number < 2:
        return []
    return [
        f"note: {number} comparisons with {baseline}: on average, {0.05 * number:.2g} of their intervals exclude 0 by "
        "chance alone"
    ]


def notes_on_steps(lines: Iterable[tuple[str, Result, int]]) -> list[str]:
    """A note if the first updates of methods with equal learning rates differ by more than a factor.

    Args:
      lines: for each method of a comparison its label there, the result, and its row of the result.
    """
    norms: dict[Any, dict[str, float]] = {}  # by learning rate
    for label, result, row in lines:
        cell = result.settings.get("cells", {}).get(result.labels[row], {})
        rate, norm = cell.get("config", {}).get("learning_rate"), cell.get("update_norm")
        if isinstance(rate, int | float) and norm is not None and np.isfinite(norm) and norm > 0:
            norms.setdefault(rate, {})[label] = norm
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


def notes_on_unfinished_curves(lines: Sequence[tuple[str, Result, int]], measure: str | None = None) -> list[str]:
    """A note naming the methods whose mean still improves at the end of the training.

    The mean of the last tenth of a curve is compared with that of the tenth before, world by world.

    Args:
      lines: as for `notes_on_steps`.
      measure: as in `compare`; a measure of which neither higher nor lower values are better has no note.
    """
    improving = []
    for label, result, row in lines:
        curves, better = measured.curves(result, measure)[row], measured.describe(result, measure).better
        tenth = max(1, round(curves.shape[1] / 10))
        if curves.shape[1] < _FEWEST_POINTS or not better:
            continue
        with np.errstate(invalid="ignore"):  # a divergence may be infinite
            change = curves[:, -tenth:].mean(1) - curves[:, -2 * tenth : -tenth].mean(1)
        change = mean_interval(change)
        mean = mean_interval(curves).estimate
        is_better = change.low > 0 if better == "higher" else change.high < 0
        if is_better and abs(change.estimate) > _NEGLIGIBLE_GAIN * (np.nanmax(mean) - np.nanmin(mean)):
            improving.append(f"{label} ({change.estimate:+.3g})")
    if not improving:
        return []
    return [f"note: still improving at the end, by the change over the last tenth: {', '.join(improving)}"]
