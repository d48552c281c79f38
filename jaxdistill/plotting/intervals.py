"""Figure of a comparison: estimates with their intervals, in a row for each method and a panel for each quantity."""

from typing import Any

import numpy as np

from jaxdistill.plotting.figures import new_figure, style
from jaxdistill.plotting.labels import title_of, typeset
from jaxdistill.plotting.styles import method_style, palette_indices

_ROW_INCHES = 0.26
_SHORT = 16  # characters up to which a name is written in the same line as the text before it


def plot_intervals(comparison: Any) -> Any:
    """Draws mean, IQM, paired difference and probability of improvement, with the 95 % intervals of the table.

    A title names the measure that is compared, unless it is the return.

    An estimate without an interval, because there are too few MDPs, is marked "n/a".

    Args:
      comparison: the result of `compare`. The methods are listed from top to bottom in its order; the baseline has
        no interval in the panels of difference and improvement.

    Returns:
      The matplotlib Figure; save it with `plotting.save_figure`.
    """
    rows, baseline = comparison.rows, method_style(comparison.baseline).label
    labels = [method_style(row.label).label for row in rows]
    panel_inches = 2.0
    if len(baseline) > _SHORT:
        baseline, panel_inches = f"\n{baseline}", 2.5
    panels: list[tuple[str, str, float | None]] = [("Mean return", "mean", None), ("IQM of returns", "iqm", None)]
    difference = f"Return minus {baseline}"
    if comparison.measure != "return":
        panels, difference = [("Mean", "mean", None), ("IQM", "iqm", None)], f"Minus {baseline}"
    if len(rows) > 1:
        wins = "better" if comparison.better else "larger"
        panels += [(difference, "difference", 0.0), (f"P({wins} than {baseline})", "improvement", 0.5)]
    row_inches = _ROW_INCHES * max(1, 0.75 * max(label.count("\n") + 1 for label in labels))
    size = (1.6 + panel_inches * len(panels), 0.75 + row_inches * len(rows))
    figure, axes = new_figure(1, len(panels), size=size)
    with style():
        for ax, (title, name, neutral) in zip(axes[0], panels, strict=True):
            _draw_panel(ax, rows, name, neutral)
            ax.set_xlabel(title)
        if comparison.measure != "return":
            figure.suptitle(typeset(title_of(comparison.measure, comparison.unit)), fontsize=9)
        first = axes[0, 0]
        first.set_yticks(range(len(rows)), labels)
        first.set_ylim(len(rows) - 0.4, -0.6)  # the first method on top
    return figure


def _draw_panel(ax: Any, rows: Any, name: str, neutral: float | None) -> None:
    """Draws the interval `name` of every row, and a dotted line at the value that means no difference."""
    ax.use_sticky_edges = False  # a bar is an interval, so it must not end at the edge of the panel
    indices = palette_indices([row.label for row in rows])
    for p, row in enumerate(rows):
        interval = getattr(row, name)
        if interval is None or not np.isfinite(interval.estimate):
            continue
        color, _, _, marker = method_style(row.label, indices[p])
        if np.isfinite(interval.low):
            ax.barh(p, interval.high - interval.low, left=interval.low, height=0.6, color=color, alpha=0.35, lw=0)
            ax.plot([interval.low, interval.high], [p, p], color=color, linewidth=1.2)
        else:
            ax.annotate("n/a", (interval.estimate, p), (6, 0), textcoords="offset points", va="center", fontsize=7)
        ax.plot([interval.estimate], [p], color=color, marker=marker, linestyle="")
    if neutral is not None:
        ax.axvline(neutral, color="0.3", linestyle=":", linewidth=1.2, zorder=1.5)
    if name == "improvement":
        ax.set_xlim(-0.03, 1.03)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
