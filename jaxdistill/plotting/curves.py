"""Learning curves: the mean over MDPs with a confidence band, and dotted lines for reference policies."""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxdistill.plotting.styles import (
    STYLES,
    add_legend,
    method_style,
    new_figure,
    palette_indices,
    root_figure,
    style,
)
from jaxdistill.runtime import checks
from jaxdistill.statistics import mean_interval

REFERENCES = {  # label and colour of the dotted horizontal lines
    "teacher": ("Teacher", "black"),
    "uniform": ("Uniform policy", "#717581"),
    "optimal": ("Optimal policy", "#3f90da"),
}
QUANTITIES = {"returns": "Return per episode (undiscounted)", "lengths": "Episode length (steps)"}


def plot_curves(
    ax: Axes,
    iterations: Any,
    returns: Any,
    method: str = "",
    label: str | None = None,
    index: int = 0,
    band: bool = True,
    **line_options: Any,
) -> Line2D:
    """Draws the mean over MDPs of the curves of one method, with a 95 % band (`statistics.mean_interval`).

    Args:
      ax: where to draw.
      iterations: [C], episodes trained.
      returns: [M, C], or [C] for a single curve without a band. Values that are not finite are left out, and a text in
        the panel gives the number of students with such values.
      method: name that selects the style, see `STYLES`.
      label: text of the legend; by default that of the style.
      index: position in the palette for a method that is not in `STYLES`, see `palette_indices`.
      band: whether to draw the band.
      **line_options: passed on to `Axes.plot`.

    Returns:
      The line.
    """
    iterations, returns = np.asarray(iterations), np.atleast_2d(np.asarray(returns))
    if returns.ndim != 2 or returns.shape[1:] != iterations.shape:
        raise ValueError(f"returns has shape {returns.shape}, expected (MDPs, {iterations.size})")
    line_style = method_style(method, index)
    mean, low, high = mean_interval(returns)
    # A few markers, at other iterations for each method, so that they do not cover each other.
    every = max(1, iterations.size // 6)
    offset = (list(STYLES).index(method) if method in STYLES else index) * every // len(STYLES) % every
    options: dict[str, Any] = dict(color=line_style.color, linestyle=line_style.linestyle, marker=line_style.marker)
    options |= dict(markevery=(offset, every), label=line_style.label if label is None else label)
    (line,) = ax.plot(iterations, mean, **(options | line_options))
    if returns.shape[0] > 1:
        _note_left_out(ax, returns)
    if band and np.isfinite(low).any():
        ax.fill_between(iterations, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    return line


# Per panel: the number of students left out, the number of all students, and the text object that reports them.
_LEFT_OUT: WeakKeyDictionary[Axes, tuple[int, int, Any]] = WeakKeyDictionary()


def _note_left_out(ax: Axes, returns: np.ndarray) -> None:
    """Writes into the panel how many of its students have values that are left out of the means, if any."""
    missing, total, text = _LEFT_OUT.get(ax, (0, 0, None))
    missing, total = missing + int((~np.isfinite(returns).all(axis=1)).sum()), total + len(returns)
    if missing:
        text = text or ax.text(0.99, 0.01, "", transform=ax.transAxes, ha="right", va="bottom", fontsize=7, zorder=6)
        text.set_text(f"{missing} of {total} students left out")
    _LEFT_OUT[ax] = missing, total, text


def reference_line(ax: Axes, value: float, kind: str, label: str | None = None, color: str | None = None) -> Line2D:
    """Draws a dotted horizontal line; its `kind` ("teacher", "uniform" or "optimal") gives label and colour."""
    _check_reference(kind)
    text, default = REFERENCES[kind]
    color = color or default
    return ax.axhline(value, color=color, linestyle=":", linewidth=1.4, label=label or text, zorder=1.5)


def _check_reference(kind: str) -> None:
    """Raises a ValueError unless `kind` is one of `REFERENCES`."""
    checks.known("reference", kind, REFERENCES, "the references are")


def label_axes(ax: Axes, xlabel: bool = True, ylabel: bool = True, quantity: str = "returns") -> None:
    """Labels the axes of learning curves; thousands of iterations are written as 10k."""
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 1000 else f"{x:g}"))
    if xlabel:
        ax.set_xlabel("Iterations (episodes)")
    if ylabel:
        ax.set_ylabel(QUANTITIES[quantity])


def plot_result(
    result: Any,
    ax: Axes | None = None,
    *,
    labels: Sequence[str] | None = None,
    quantity: str = "returns",
    references: Iterable[str] = ("teacher", "uniform"),
    band: bool = True,
    title: str | None = None,
) -> Figure:
    """Draws the learning curves of a `results.Result`: means over MDPs with 95 % bands, and dotted references.

    Args:
      result: the result.
      ax: axes to draw in, without a legend; by default those of a new figure with a legend.
      labels: methods to draw, in this order; by default all.
      quantity: "returns" or "lengths".
      references: any of "teacher", "uniform", "optimal"; drawn for returns only, and only where they are finite.
      band: whether to draw the bands.
      title: title of the panel.

    Returns:
      The figure; save it with `save_figure`. ValueError for an unknown label, quantity or reference.
    """
    checks.known("quantity", quantity, QUANTITIES, "the quantities are")
    references = list(references)
    for kind in references:
        _check_reference(kind)
    rows = {name: result.method_index(name) for name in (result.labels if labels is None else labels)}
    figure = None
    if ax is None:
        figure, axes = new_figure(size=(5.2, 4.2))
        ax = axes[0, 0]
    indices = palette_indices(result.labels)
    with style():
        for name, p in rows.items():
            plot_curves(ax, result.iterations, getattr(result, quantity)[p], name, index=indices[p], band=band)
        if quantity == "returns":
            _draw_references(ax, result, rows, indices, references)
        label_axes(ax, quantity=quantity)
        if title:
            ax.set_title(title)
    if figure is None:
        return root_figure(ax)
    add_legend(figure)
    return figure


def _draw_references(
    ax: Axes, result: Any, rows: dict[str, int], indices: Sequence[int], references: Iterable[str]
) -> None:
    """Draws the mean returns of the reference policies that are finite."""
    for kind in references:
        if kind == "teacher":
            _draw_teachers(ax, result, rows, indices)
        else:
            mean = mean_interval(getattr(result, f"{kind}_returns")).estimate
            if np.isfinite(mean):
                reference_line(ax, float(mean), kind)


def _draw_teachers(ax: Axes, result: Any, rows: dict[str, int], indices: Sequence[int]) -> None:
    """Draws the teachers' mean return, as a line in the colour of each method if the teachers' returns differ."""
    means = mean_interval(result.teacher_returns[list(rows.values())], axis=1).estimate
    levels = np.unique(np.round(means[np.isfinite(means)], 6))
    if levels.size == 1:
        reference_line(ax, levels[0], "teacher")
    for (name, p), mean in zip(rows.items(), means, strict=True):
        if levels.size > 1 and np.isfinite(mean):
            line_style = method_style(name, indices[p])
            reference_line(ax, mean, "teacher", f"Teacher of {line_style.label}", line_style.color)
