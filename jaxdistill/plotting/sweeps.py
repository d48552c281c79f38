"""Figures of a sweep: a measure by one parameter, or by two, with the best settings marked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxdistill.plotting.figures import add_legend, new_figure, style
from jaxdistill.plotting.labels import typeset
from jaxdistill.plotting.styles import method_style, palette_indices
from jaxdistill.runtime import checks

_LOGARITHMIC = 8  # the ratio of the largest to the smallest value from which an axis is logarithmic
_MOST_NUMBERS = 100  # cells of a panel up to which each shows its number


def plot_lines(sweep: Any, x: str, measure: str = "return") -> Figure:
    """Draws the mean over worlds of a measure by one parameter, a line with a 95 % band for each method.

    At each value of `x`, the other parameters of a method are at their best for that value, on the same worlds. A
    larger marker shows the best setting of a method. A method without the parameter is a horizontal line without
    markers.

    Args:
      sweep: the result of `sweep`.
      x: a parameter of the grid.
      measure: as in `Sweep.values`.

    Returns:
      The figure; save it with `save_figure`. ValueError for a parameter or a measure that the sweep does not have.
    """
    _check_parameter(sweep, x)
    values, indices = sweep.grid[x], palette_indices(sweep.methods)
    places = _places(values)
    estimates = {m: [sweep.best_estimate(m, {x: value}, measure) for value in values] for m in sweep.methods}
    _finite(np.array([estimate[0] for of_method in estimates.values() for estimate in of_method]), measure)
    figure, axes = new_figure(size=(5.2, 4.2))
    ax = axes[0, 0]
    with style():
        for method, index in zip(sweep.methods, indices, strict=True):
            entry = method_style(method, index)
            parts = ("estimate", "low", "high")
            mean, low, high = (np.array([getattr(e, part) for e in estimates[method]]) for part in parts)
            options: dict[str, Any] = dict(color=entry.color, linestyle=entry.linestyle, label=typeset(entry.label))
            has_parameter = any(s.method == method and x in s.parameters for s in sweep.settings)
            ax.plot(places, mean, marker=entry.marker if has_parameter else "", **options)
            ax.fill_between(places, low, high, color=entry.color, alpha=0.18, linewidth=0)
            if has_parameter and np.isfinite(mean).any():
                place = int(np.nanargmax(sweep.sign(measure) * mean))
                ax.plot([places[place]], [mean[place]], marker=entry.marker, color=entry.color, markersize=9)
        _label_values(ax, values, places)
        ax.set_xlabel(x)
        ax.set_ylabel(_quantity(measure, sweep, {x}, True))
    add_legend(figure)
    return figure


def plot_heatmap(sweep: Any, x: str, y: str, measure: str = "return") -> Figure:
    """Draws the mean over worlds of a measure by two parameters, in a panel for each method that has both.

    In each cell, the other parameters of the method are at their best for that cell. The best cell has a frame.

    Args:
      sweep: the result of `sweep`.
      x, y: parameters of the grid, along the two axes.
      measure: as in `Sweep.values`.

    Returns:
      The figure; save it with `save_figure`. ValueError for a parameter or a measure that the sweep does not have.
    """
    for name in (x, y):
        _check_parameter(sweep, name)
    if x == y:
        raise ValueError(f"A heatmap needs two different parameters; got {x} twice.")
    methods = [m for m in sweep.methods if any(s.method == m and {x, y} <= set(s.parameters) for s in sweep.settings)]
    if not methods:
        raise ValueError(f"No method of this sweep has both {x} and {y}; use lines.")
    columns, rows = sweep.grid[x], sweep.grid[y]
    tables = {
        method: np.array([[sweep.best_estimate(method, {x: a, y: b}, measure).estimate for a in columns] for b in rows])
        for method in methods
    }
    finite = _finite(np.concatenate([table.ravel() for table in tables.values()]), measure)
    limits = (finite.min(), finite.max())
    size = (1.2 + max(2.4, 0.55 * len(columns)) * len(methods), 1.3 + max(1.6, 0.4 * len(rows)))
    figure, axes = new_figure(1, len(methods), size=size)
    with style():
        for ax, (method, index) in zip(axes[0], zip(methods, palette_indices(methods), strict=True), strict=True):
            image = _draw_table(ax, tables[method], limits, sweep, measure)
            ax.set_title(typeset(method_style(method, index).label))
            ax.set_xlabel(x)
            ax.set_xticks(range(len(columns)), [_text(value) for value in columns])
        axes[0, 0].set_ylabel(y)
        axes[0, 0].set_yticks(range(len(rows)), [_text(value) for value in rows])
        figure.colorbar(image, ax=axes[0].tolist(), label=_quantity(measure, sweep, {x, y}, False))
    return figure


def _draw_table(ax: Any, table: np.ndarray, limits: tuple[float, float], sweep: Any, measure: str) -> Any:
    """Draws a table of numbers [rows, columns] as colours, with a frame around the best one; returns the image."""
    better = sweep.sign(measure)  # Better values are lighter.
    colors = "viridis" if better > 0 else "viridis_r"
    image = ax.imshow(table, origin="lower", aspect="auto", cmap=colors, vmin=limits[0], vmax=limits[1])
    ax.grid(False)
    if table.size <= _MOST_NUMBERS:
        middle = (limits[0] + limits[1]) / 2
        for (row, column), number in np.ndenumerate(table):
            # The background of a number that is not finite is white.
            color = "white" if np.isfinite(number) and better * (number - middle) <= 0 else "black"
            text = f"{number:.3g}" if np.isfinite(number) else "-"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    if np.isfinite(table).any():
        row, column = np.unravel_index(np.nanargmax(better * table), table.shape)
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2))
    return image


def _finite(means: np.ndarray, measure: str) -> np.ndarray:
    """The finite numbers among `means`; ValueError if there are none, because there would be nothing to draw."""
    finite = means[np.isfinite(means)]
    if not finite.size:
        raise ValueError(f"No setting of this sweep has a finite {measure} in all worlds, so that there is no figure.")
    return finite


def _check_parameter(sweep: Any, name: str) -> None:
    """ValueError unless `name` is a parameter of the grid."""
    checks.known("parameter", name, list(sweep.grid), "the parameters of this sweep are")


def _places(values: Sequence[Any]) -> list[float]:
    """Where values are drawn on an axis: numbers at themselves, words and schedules side by side."""
    if any(isinstance(value, str) for value in values):
        return [float(i) for i in range(len(values))]
    return [float(value) for value in values]


def _label_values(ax: Any, values: Sequence[Any], places: Sequence[float]) -> None:
    """Makes the axis logarithmic where the values span a large range, and labels each of a few values."""
    is_named = any(isinstance(value, str) for value in values)
    if not is_named and _spans_magnitudes(places):
        ax.set_xscale("log")
    if is_named or len(values) <= 8:
        ax.set_xticks(places, [_text(value) for value in values])
        ax.minorticks_off()


def _spans_magnitudes(places: Sequence[float]) -> bool:
    """Whether values spread over a large range, with steps that are more even by their ratios than by their sizes."""
    if min(places) <= 0 or max(places) / min(places) < _LOGARITHMIC:
        return False
    steps = [np.diff(np.sort(values)) for values in (np.asarray(places), np.log(places))]
    by_size, by_ratio = (step.std() / step.mean() for step in steps)
    return bool(by_ratio <= by_size)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _quantity(measure: str, sweep: Any, drawn: set[str], drawn_lines: bool) -> str:
    """The label of a measure in words, which says that the parameters that are not drawn are at their best."""
    others = [name for name in sweep.grid if name not in drawn]
    best = f", best {', '.join(others)}" if others else ""
    return f"{sweep.title(measure)}\n(mean{', 95 % interval' if drawn_lines else ''}{best})"
