"""Learning curves: the mean over MDPs with a confidence band, and dotted lines for reference policies."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxdistill.plotting.figures import add_legend, in_style_of_axes, new_figure, root_figure, style_of
from jaxdistill.plotting.labels import title_of, typeset
from jaxdistill.plotting.styles import STYLES, method_style, palette_indices, visible_on
from jaxdistill.runtime import checks
from jaxdistill.statistics import LEAST_MDPS, mean_interval

REFERENCES = {  # label and colour of the dotted horizontal lines
    "teacher": ("Teacher", "black"),
    "uniform": ("Uniform policy", "#717581"),
    "optimal": ("Optimal policy", "#3f90da"),
}
QUANTITIES = {"returns": "Return per episode (undiscounted)", "lengths": "Episode length (steps)"}
_MEASURES = {"returns": "return", "lengths": "length"}
_LONGEST = 32  # characters of a line of the label of an axis


@in_style_of_axes
def plot_curves(
    ax: Axes,
    iterations: Any,
    returns: Any,
    method: str | None = None,
    label: str | None = None,
    index: int = 0,
    band: bool = True,
    **line_options: Any,
) -> Line2D:
    """Draws the mean over MDPs of the curves of one method, with a 95 % band (`statistics.mean_interval`).

    A text in the panel reports a missing band, if there are too few different values for one.

    Args:
      ax: where to draw.
      iterations: [C], episodes trained.
      returns: [M, C], or [C] for a single curve without a band. Values that are not finite are left out, and a text in
        the panel gives the number of students with such values.
      method: name that selects the style, see `STYLES`; by default that of no method.
      label: text of the legend, which may hold a formula between dollar signs; by default that of the style, or none
        without a method.
      index: position in the palette for a method that is not in `STYLES`, see `palette_indices`.
      band: whether to draw the band.
      **line_options: passed on to `Axes.plot`.

    Returns:
      The line.
    """
    iterations, returns = np.asarray(iterations), np.atleast_2d(np.asarray(returns))
    if returns.ndim != 2 or returns.shape[1:] != iterations.shape:
        raise ValueError(f"returns has shape {returns.shape}, expected (MDPs, {iterations.size})")
    line_style = method_style(method or "", index)
    if label is None:
        label = line_style.label if method is not None else ""
    mean, low, high = mean_interval(returns)
    # A few markers, at other iterations for each method, so that they do not cover each other.
    every = max(1, iterations.size // 6)
    offset = (list(STYLES).index(method) if method in STYLES else index) * every // len(STYLES) % every
    options: dict[str, Any] = dict(linestyle=line_style.linestyle, marker=line_style.marker)
    options |= dict(color=visible_on(ax, line_style.color), markevery=(offset, every), label=typeset(label))
    (line,) = ax.plot(iterations, mean, **(options | line_options))
    if returns.shape[0] > 1:
        _write_notes(ax, returns, no_band=band and not np.isfinite(low).any())
    if band and np.isfinite(low).any():
        ax.fill_between(iterations, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    return line


class _Notes(NamedTuple):
    """What the text in a panel reports about all its curves."""

    num_left_out: int = 0  # students with a value that is not finite
    num_students: int = 0
    no_band: bool = False  # whether a curve has no band because of too few MDPs


# The values are numbers only. The text object that reports them refers to its panel, so a value that held the text
# would keep its own key, and with it the figure, alive.
_NOTES: WeakKeyDictionary[Axes, _Notes] = WeakKeyDictionary()


def _write_notes(ax: Axes, returns: np.ndarray, no_band: bool) -> None:
    """Adds the curves `returns` [M, C] to the notes of the panel, and draws the notes, if there are any."""
    notes = _NOTES.get(ax, _Notes())
    num_left_out = notes.num_left_out + int((~np.isfinite(returns).all(axis=1)).sum())
    notes = _Notes(num_left_out, notes.num_students + len(returns), notes.no_band or no_band)
    lines = [f"no band: it needs {LEAST_MDPS} different values"] if notes.no_band else []
    if num_left_out:
        lines.append(f"{num_left_out} of {notes.num_students} students left out")
    if lines:
        place = dict(transform=ax.transAxes, ha="right", va="bottom", fontsize=7, zorder=6, gid="notes")
        earlier = [text for text in ax.texts if text.get_gid() == place["gid"]]
        text = earlier[0] if earlier else ax.text(0.99, 0.01, "", color=visible_on(ax, "black"), **place)
        text.set_text("\n".join(lines))
    _NOTES[ax] = notes


@in_style_of_axes
def reference_line(ax: Axes, value: float, kind: str, label: str | None = None, color: str | None = None) -> Line2D:
    """Draws a dotted horizontal line; its `kind` ("teacher", "uniform" or "optimal") gives label and colour."""
    _check_reference(kind)
    text, default = REFERENCES[kind]
    options = dict(color=color or visible_on(ax, default), linestyle=":", linewidth=1.4, zorder=1.5)
    return ax.axhline(value, label=typeset(label or text), **options)


def _check_reference(kind: str) -> None:
    """Raises a ValueError unless `kind` is one of `REFERENCES`."""
    checks.known("reference", kind, REFERENCES, "the references are")


@in_style_of_axes
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
    measure: str | None = None,
) -> Figure:
    """Draws the learning curves of a `results.Result`: means over MDPs with 95 % bands, and dotted references.

    The label of the y axis says whether the curves are exact, or sampled in the episodes of the training. If only some
    of them are exact, the legend says which ones.

    The figure does not depend on the user's matplotlib settings, and it is not registered with pyplot. For another
    look, or for a window, make the axes: `with plt.style.context("dark_background"): result.plot(plt.subplots()[1])`.

    Args:
      result: the result.
      ax: axes to draw in, with the user's settings and without a legend; a colour that would be invisible on their
        background is replaced. By default those of a new figure with a legend.
      labels: methods to draw, in this order; by default all.
      quantity: "returns" or "lengths", where no measure is given.
      references: any of "teacher", "uniform", "optimal"; drawn for returns only, and only where they are finite.
      band: whether to draw the bands.
      title: title of the panel, which may hold a formula between dollar signs.
      measure: what to draw, as in `Result.measure`, such as "forward_kl:teacher".

    Returns:
      The figure; save it with `save_figure`. ValueError for an unknown label, quantity, measure or reference.
    """
    checks.known("quantity", quantity, QUANTITIES, "the quantities are")
    values, curve = _drawn(result, quantity, measure)
    references = list(references)
    for kind in references:
        _check_reference(kind)
    rows = {name: result.method_index(name) for name in (result.labels if labels is None else labels)}
    figure = None
    if ax is None:
        figure, axes = new_figure(size=(5.2, 4.2))
        ax = axes[0, 0]
    indices = palette_indices(result.labels)
    kinds = {label: curve.kinds[p] for label, p in rows.items()}
    with style_of(root_figure(ax)):
        for label, p in rows.items():
            line = plot_curves(ax, result.iterations, values[p], label, index=indices[p], band=band)
            if len(set(kinds.values())) > 1:
                line.set_label(f"{line.get_label()} ({kinds[label]})")
        if curve.title == "return":
            _draw_references(ax, result, rows, indices, references)
        label_axes(ax, ylabel=False)
        ax.set_ylabel(_ylabel(curve, set(kinds.values())))
        if title:
            ax.set_title(typeset(title))
    if figure is not None:
        add_legend(figure)
    return root_figure(ax)


def _drawn(result: Any, quantity: str, measure: str | None) -> tuple[np.ndarray, Any]:
    """The values [P, M, C] to draw, and their description, a `results.measured.Description`."""
    if measure is None:
        return getattr(result, quantity), result.describe(_MEASURES[quantity])._replace(kinds=result.curve_kind)
    values = result.measure(measure)
    if np.isnan(values[..., :-1]).all() and values.shape[-1] > 1:
        raise ValueError(f"the measure {measure!r} is known of the final students alone, and has no curve to draw")
    return values, result.describe(measure)


def _ylabel(curve: Any, kinds: set[str]) -> str:
    """The label of the y axis: the measure, its unit, and whether all curves are exact or sampled."""
    kind = next(iter(kinds)) if len(kinds) == 1 else ""
    text = {"return": QUANTITIES["returns"], "episode length": QUANTITIES["lengths"]}.get(curve.title)
    if text is None:
        text = title_of(curve.title, curve.unit)
    if kind and text.endswith(")"):
        text = f"{text[:-1]}, {kind})"
    elif kind and curve.unit:
        text = f"{text} ({kind})"
    return typeset("\n".join(textwrap.wrap(text, _LONGEST)))


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
            reference_line(ax, mean, "teacher", f"Teacher of {line_style.label}", visible_on(ax, line_style.color))
