"""Figures: learning curves and pictures of grid worlds. Only this module of the package imports matplotlib.

One look for all figures: a method has the same colour, line style and marker wherever it appears. Colours are
those of the petroff10 palette (made for colour-blind readers) and black; line styles and markers tell the
methods apart in grey. Dotted lines are reserved for references (teacher, uniform policy, optimal policy).
"""

import io
import itertools
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib
import matplotlib.style
import numpy as np
from cycler import cycler
from matplotlib import patches
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxdistill.runtime.files import write_atomically
from jaxdistill.statistics import mean_interval

PALETTE: tuple[str, ...] = tuple(matplotlib.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"])
_DASHED, _DASH_DOT = (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5))


class MethodStyle(NamedTuple):
    """How a method is drawn: colour, matplotlib line style, text of the legend, marker."""

    color: str
    linestyle: Any
    label: str
    marker: str


STYLES: dict[str, MethodStyle] = {
    "baseline": MethodStyle("black", "-", "Baseline", "o"),
    "teacher_distill": MethodStyle("#94a4a2", _DASH_DOT, "Teacher distill", "*"),
    "on_policy_distill": MethodStyle("#3f90da", "-", "On-policy distill", "s"),
    "on_policy_distill_r": MethodStyle("#832db6", _DASHED, "On-policy distill + R", "D"),
    "on_policy_distill_r_vcond": MethodStyle("#ffa90e", _DASH_DOT, "On-policy distill + R + V cond", "P"),
    "entropy_regularised": MethodStyle("#bd1f01", "-", "Entropy regularised", "^"),
    "n_distill": MethodStyle("#92dadd", "-", "N-distill", "h"),
    "exp_entropy_regularised": MethodStyle("#e76300", _DASHED, "Exp. entropy regularised", "p"),
    "exp_entropy_without_returns": MethodStyle("#ffa90e", "-", "Exp. entropy reg., no returns", "d"),
    "kl_regularised": MethodStyle("#b9ac70", _DASHED, "KL regularised", "v"),
    "teacher_v_reward": MethodStyle("#a96b59", "-", "Teacher V reward", "X"),
    "td_v0": MethodStyle("#94a4a2", "-", r"TD + $V_0$", "<"),
    "td_vpi": MethodStyle("#717581", _DASHED, r"TD + $V_\pi$", ">"),
}
REFERENCES = {  # dotted horizontal lines: label, colour
    "teacher": ("Teacher", "black"),
    "uniform": ("Uniform policy", "#717581"),
    "optimal": ("Optimal policy", "#3f90da"),
}
QUANTITIES = {"returns": "Return per episode (undiscounted)", "lengths": "Episode length (steps)"}

_RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.5,
    "lines.markeredgewidth": 0,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text: searchable, and accepted by publishers
    "savefig.dpi": 200,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def style() -> AbstractContextManager[None]:
    """Context manager that gives figures made inside it the look of this package; changes nothing outside."""
    return matplotlib.rc_context(_RC)


def method_style(label: str, index: int = 0) -> MethodStyle:
    """Style of a method by name; a user's own method gets the one of `index` in the palette."""
    if label in STYLES:
        return STYLES[label]
    lines, markers = ("-", _DASHED, _DASH_DOT), [known.marker for known in STYLES.values()]
    return MethodStyle(PALETTE[index % len(PALETTE)], lines[index % 3], label, markers[index % len(markers)])


def palette_indices(labels: Sequence[str]) -> list[int]:
    """`index` for each of the methods of a picture: own ones take colours that the known ones among them leave free."""
    known = {STYLES[label].color for label in labels if label in STYLES}
    free = [i for i, color in enumerate(PALETTE) if color not in known] or list(range(len(PALETTE)))
    own = itertools.count()
    indices = []
    for label in labels:
        lap, place = (0, 0) if label in STYLES else divmod(next(own), len(free))
        indices.append(lap * len(PALETTE) + free[place])
    return indices


def new_figure(
    num_rows: int = 1, num_cols: int = 1, size: tuple[float, float] | None = None, share_y: Any = "row"
) -> tuple[Figure, Any]:
    """Figure and axes [num_rows, num_cols] in this package's style.

    Args:
      num_rows: rows of panels.
      num_cols: columns of panels.
      size: width and height in inches; by default 3.2 x 2.3 per panel, and room for a legend.
      share_y: panels with the same y axis: those of a "row", of a "col", all (True) or none (False).
    """
    width, height = size or (max(3.2 * num_cols, 4.6), 2.3 * num_rows + 1.0)
    with style():
        figure, axes = plt.subplots(num_rows, num_cols, sharey=share_y, figsize=(width, height), squeeze=False)
    _detach_from_notebook(figure)
    return figure, axes


def _detach_from_notebook(figure: Figure) -> None:
    # A notebook shows every open pyplot figure, and then the returned one once more.
    if "inline" in matplotlib.get_backend():
        plt.close(figure)


def _root(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    return figure


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
      returns: [M, C], or [C] for a single curve without a band; values that are not finite are left out, and the
        panel says of how many students.
      method: name that decides the style, see `STYLES`.
      label: text of the legend; by default that of the style.
      index: for a method without a style of its own: which of the palette to use, see `palette_indices`.
      band: whether to draw the band.
      **line_options: passed on to `Axes.plot`.

    Returns:
      The line.
    """
    iterations, returns = np.asarray(iterations), np.atleast_2d(np.asarray(returns))
    if returns.ndim != 2 or returns.shape[1:] != iterations.shape:
        raise ValueError(f"returns has shape {returns.shape}, expected (MDPs, {iterations.size})")
    look = method_style(method, index)
    mean, low, high = mean_interval(returns)
    # Markers at few, staggered places: enough to follow a curve in grey, and not on top of each other.
    every = max(1, iterations.size // 6)
    offset = (list(STYLES).index(method) if method in STYLES else index) * every // len(STYLES) % every
    options = dict(color=look.color, linestyle=look.linestyle, marker=look.marker, markevery=(offset, every))
    options["label"] = look.label if label is None else label
    (line,) = ax.plot(iterations, mean, **(options | line_options))
    if returns.shape[0] > 1:
        _note_left_out(ax, returns)
    if band and np.isfinite(low).any():
        ax.fill_between(iterations, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    return line


_LEFT_OUT: WeakKeyDictionary[Axes, tuple[int, int, Any]] = WeakKeyDictionary()  # students left out, drawn; the text


def _note_left_out(ax: Axes, returns: np.ndarray) -> None:
    """Says in the panel how many of all students in it are not in its means, if any."""
    missing, total, text = _LEFT_OUT.get(ax, (0, 0, None))
    missing, total = missing + int((~np.isfinite(returns).all(axis=1)).sum()), total + len(returns)
    if missing:
        text = text or ax.text(0.99, 0.01, "", transform=ax.transAxes, ha="right", va="bottom", fontsize=7, zorder=6)
        text.set_text(f"{missing} of {total} students left out")
    _LEFT_OUT[ax] = missing, total, text


def reference_line(ax: Axes, value: float, kind: str, label: str | None = None, color: str | None = None) -> Line2D:
    """Dotted horizontal line; its `kind` ("teacher", "uniform" or "optimal") gives label and colour."""
    if kind not in REFERENCES:
        raise ValueError(f"unknown reference {kind!r}; the references are {', '.join(REFERENCES)}")
    text, default = REFERENCES[kind]
    color = color or default
    return ax.axhline(value, color=color, linestyle=":", linewidth=1.4, label=label or text, zorder=1.5)


def label_axes(ax: Axes, xlabel: bool = True, ylabel: bool = True, quantity: str = "returns") -> None:
    """Names the axes of learning curves; iterations are written as 10k."""
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 1000 else f"{x:g}"))
    if xlabel:
        ax.set_xlabel("Iterations (episodes)")
    if ylabel:
        ax.set_ylabel(QUANTITIES[quantity])


def add_legend(figure: Figure, num_cols: int | None = None) -> None:
    """One legend below all panels with every label that occurs in them, once, in order of appearance."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if entries:
        with style():
            columns = num_cols or max(1, min(len(entries), int(figure.get_figwidth() / 2.0)))
            figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


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
    """Learning curves of a `results.Result`: mean over MDPs with 95 % bands, references dotted.

    Args:
      result: the result.
      ax: axes to draw in, without a legend of the figure; by default a new figure with one.
      labels: methods to draw, in this order; by default all.
      quantity: "returns" or "lengths".
      references: any of "teacher", "uniform", "optimal"; drawn for returns, and where they are known.
      band: whether to draw the bands.
      title: title of the panel.

    Returns:
      The figure; save it with `save_figure`. ValueError for an unknown label, quantity or reference.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"unknown quantity {quantity!r}; the quantities are {', '.join(QUANTITIES)}")
    references = list(references)
    unknown = [kind for kind in references if kind not in REFERENCES]
    if unknown:
        raise ValueError(f"unknown reference {unknown[0]!r}; the references are {', '.join(REFERENCES)}")
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
        return _root(ax)
    add_legend(figure)
    return figure


def _draw_references(
    ax: Axes, result: Any, rows: dict[str, int], indices: Sequence[int], references: Iterable[str]
) -> None:
    for kind in references:
        if kind == "teacher":
            means = mean_interval(result.teacher_returns[list(rows.values())], axis=1).estimate
            levels = np.unique(np.round(means[np.isfinite(means)], 6))
            if levels.size == 1:
                reference_line(ax, levels[0], kind)
            for (name, p), mean in zip(rows.items(), means, strict=True):
                if levels.size > 1 and np.isfinite(mean):  # several teachers: each in the colour of its method
                    look = method_style(name, indices[p])
                    reference_line(ax, mean, kind, f"Teacher of {look.label}", look.color)
        else:
            mean = mean_interval(getattr(result, f"{kind}_returns")).estimate
            if np.isfinite(mean):
                reference_line(ax, float(mean), kind)


def save_figure(figure: Figure, path_stem: str | os.PathLike[str]) -> list[Path]:
    """Writes `path_stem`.png (200 dpi) and `path_stem`.pdf; the same figure gives the same bytes.

    Returns:
      The two paths. OSError if one cannot be written; then the old file, if any, is still there.
    """
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()  # drawn completely before a file is touched
        with style():
            figure.savefig(buffer, format=suffix[1:], metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        paths.append(Path(f"{os.fspath(path_stem)}{suffix}"))
        write_atomically(paths[-1], lambda file, buffer=buffer: file.write(buffer.getvalue()))  # type: ignore[misc]
    return paths


_MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # L, R, U, D as (column, row): rows count downwards
_START, _TERMINAL = "#2f6fde", "#7fd17f"
_CELL_INCHES = 0.26
# The light part of YlOrBr: black arrows and numbers stay legible, and no cell is mistaken for a wall.
_HEAT = LinearSegmentedColormap.from_list("heat", matplotlib.colormaps["YlOrBr"](np.linspace(0, 0.62, 64)))


def draw_grid(
    mdp: Any,
    ax: Axes | None = None,
    policy: Any = None,
    values: Any = None,
    visits: Any = None,
    title: str | None = None,
) -> Figure:
    """Picture of a grid world as in Fig. 7: walls black, start blue, terminals green, rewards as numbers.

    Args:
      mdp: one MDP (not a stack) with a `grid`.
      ax: where to draw; by default a new figure with cells of equal size for any grid.
      policy: probabilities [S, A], drawn as arrows as long as the move is likely; the area of a dot is the
        probability of the actions that do nothing.
      values: [S], drawn as a heat map, in units of return; walls and terminals keep their colours.
      visits: [S], expected visits per episode (`exact.occupancy`) as a heat map on a square-root scale.
      title: title of the panel.

    Returns:
      The figure. ValueError for a stack, an MDP without a grid, tables that do not fit, or two heat maps.
    """
    grid = _checked_grid(mdp)
    if values is not None and visits is not None:
        raise ValueError("draw_grid draws one heat map: give values or visits, not both")
    heat_name, heat = ("values", values) if visits is None else ("visits", visits)
    heat = None if heat is None else _per_cell(heat_name, heat, grid.shape)
    arrows = None if policy is None else _per_cell("policy", policy, grid.shape, num_columns=mdp.num_actions)
    num_rows, num_cols = grid.shape
    if ax is None:
        room = (0.5, 0.6) if heat is None else (0.5, 1.3) if num_rows < 6 else (1.3, 0.6)
        size = (max(num_cols * _CELL_INCHES + room[0], 1.6), max(num_rows * _CELL_INCHES + room[1], 1.2))
        with style():
            figure = plt.figure(figsize=size)
            ax = figure.add_subplot()
        _detach_from_notebook(figure)
    with style():
        if heat is not None:
            _draw_heat(ax, heat_name, np.ma.array(heat, mask=grid.wall | grid.terminal))
        _draw_cells(ax, grid, filled_start=heat is None)
        _draw_rewards(ax, grid, in_corner=~grid.terminal & (arrows is not None))
        if arrows is not None:
            _draw_arrows(ax, arrows, ~(grid.wall | grid.terminal))
        if title:
            ax.set_title(title)
    return _root(ax)


class _Picture(NamedTuple):
    wall: np.ndarray  # bool [H, W]
    reward: np.ndarray  # [H, W]
    terminal: np.ndarray  # bool [H, W]
    start: tuple[int, int]  # row, column

    @property
    def shape(self) -> tuple[int, ...]:
        return self.wall.shape


def _checked_grid(mdp: Any) -> _Picture:
    if getattr(mdp, "grid", None) is None:
        raise ValueError(
            "draw_grid needs an MDP made from a grid, but mdp.grid is None; worlds from tables have no picture, "
            "draw their curves with result.plot()"
        )
    wall, reward, terminal, start = (np.asarray(getattr(mdp.grid, name)) for name in _Picture._fields)
    if wall.ndim != 2:
        raise ValueError(f"draw_grid draws one MDP, got a stack of {wall.shape[:-2]}: use draw_grid(mdps[0])")
    return _Picture(wall.astype(bool), reward, terminal.astype(bool), (int(start[0]), int(start[1])))


def _per_cell(name: str, table: Any, shape: tuple[int, ...], num_columns: int | None = None) -> np.ndarray:
    """A per-state table as [H, W] or [H, W, columns]; state = row * num_cols + col."""
    table = np.asarray(table)
    columns = () if num_columns is None else (num_columns,)
    expected = (shape[0] * shape[1], *columns)
    if table.shape != expected:
        raise ValueError(f"{name} has shape {table.shape}, expected {expected}, one row per state")
    return table.reshape(*shape, *columns)


def _draw_heat(ax: Axes, name: str, heat: Any) -> None:
    norm = PowerNorm(0.5, vmin=0) if name == "visits" else Normalize()
    edges = [np.arange(n + 1) - 0.5 for n in heat.shape]
    mesh = ax.pcolormesh(edges[1], edges[0], heat, cmap=_HEAT, norm=norm, zorder=0)
    label = {"values": "Value (return)", "visits": "Expected visits per episode"}[name]
    side: dict[str, Any] = (
        {"location": "bottom", "pad": 0.08} if heat.shape[0] < 6 else {"location": "right", "pad": 0.02}
    )
    bar = ax.figure.colorbar(mesh, ax=ax, label=label, fraction=0.05, **side)
    bar.outline.set_linewidth(0.6)


def _draw_cells(ax: Axes, grid: _Picture, filled_start: bool) -> None:
    num_rows, num_cols = grid.shape

    def cell(row: int, col: int, side: float = 1.0, **options: Any) -> None:
        ax.add_patch(patches.Rectangle((col - side / 2, row - side / 2), side, side, **options))

    for cells, color in ((grid.terminal, _TERMINAL), (grid.wall, "black")):
        for row, col in np.argwhere(cells):
            cell(row, col, facecolor=color, linewidth=0, zorder=1)
    if filled_start:
        cell(*grid.start, facecolor=_START, linewidth=0, zorder=1)
    else:
        cell(*grid.start, side=0.88, fill=False, edgecolor=_START, linewidth=2, zorder=3)
    lines: dict[str, Any] = {"color": "0.75", "linewidth": 0.4, "zorder": 2}
    ax.vlines(np.arange(1, num_cols) - 0.5, -0.5, num_rows - 0.5, **lines)
    ax.hlines(np.arange(1, num_rows) - 0.5, -0.5, num_cols - 0.5, **lines)
    ax.set(xlim=(-0.5, num_cols - 0.5), ylim=(num_rows - 0.5, -0.5), aspect="equal")
    ax.set(xlabel="Column", ylabel="Row")
    ax.grid(False)
    ax.set_xticks(range(0, num_cols, -(-num_cols // 5)))
    ax.set_yticks(range(0, num_rows, -(-num_rows // 5)))
    ax.tick_params(length=2, pad=2)
    for spine in ax.spines.values():
        spine.set(visible=True, color="black", linewidth=1.2, zorder=4)


def _draw_rewards(ax: Axes, grid: _Picture, in_corner: np.ndarray) -> None:
    cells = np.argwhere((grid.reward != 0) & ~grid.wall)
    texts = [f"{grid.reward[row, col]:.3g}".replace("-", "\N{MINUS SIGN}") for row, col in cells]
    longest = max(map(len, texts), default=1)
    # A character is some 0.65 of the font size wide; the longest number decides, so that all look alike.
    size = min(11.0, _cell_points(ax, grid.shape) * min(0.42, 0.85 / 0.65 / longest))
    for (row, col), text in zip(cells, texts, strict=True):
        if in_corner[row, col]:  # beside the arrows
            ax.text(col - 0.47, row - 0.45, text, ha="left", va="top", fontsize=0.58 * size, zorder=5)
        else:
            ax.text(col, row, text, ha="center", va="center", fontsize=size, zorder=5)


def _cell_points(ax: Axes, shape: tuple[int, ...]) -> float:
    """Side of a cell in points (1/72 inch), before layout: close enough to choose a font size."""
    box = ax.get_window_extent()
    return 72 / _root(ax).dpi * min(box.width / shape[1], box.height / shape[0])


def _draw_arrows(ax: Axes, policy: np.ndarray, free: np.ndarray) -> None:
    rows, cols = np.nonzero(free)
    in_cells = dict(angles="xy", scale_units="xy", scale=1, units="xy", width=0.06)
    head = dict(headwidth=4, headlength=4, headaxislength=3.6, minlength=0)
    for action, (dx, dy) in enumerate(_MOVES):
        length = policy[rows, cols, action] * 0.46
        seen = length > 0.03
        u, v = dx * length[seen], dy * length[seen]
        ax.quiver(cols[seen], rows[seen], u, v, zorder=4, **in_cells, **head)
    stay = policy[rows, cols, len(_MOVES) :].sum(axis=-1)
    for row, col, share in zip(rows, cols, stay, strict=True):
        if share > 0.04:
            dot = patches.Circle((int(col), int(row)), 0.3 * np.sqrt(share), facecolor="0.6", linewidth=0, zorder=3)
            ax.add_patch(dot)
