"""Pictures of grid worlds, with a policy as arrows and a table of values or visits as a heat map."""

from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import patches
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure

from jaxdistill.plotting.figures import StyledFigure, root_figure, style_of
from jaxdistill.plotting.labels import typeset

_MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # left, right, up, down as (column, row); rows count downwards
_START, _TERMINAL = "#2f6fde", "#7fd17f"
_CELL_INCHES = 0.26
# Only the light part of YlOrBr, so that black arrows and numbers are legible and no cell looks like a wall.
_HEAT = LinearSegmentedColormap.from_list("heat", matplotlib.colormaps["YlOrBr"](np.linspace(0, 0.62, 64)))


def draw_grid(
    mdp: Any,
    ax: Axes | None = None,
    policy: Any = None,
    values: Any = None,
    visits: Any = None,
    title: str | None = None,
) -> Figure:
    """Draws a grid world as in Fig. 7: walls black, start blue, terminals green, rewards as numbers.

    Args:
      mdp: one MDP (not a stack) with a `grid`.
      ax: axes to draw in, with the user's settings, but with white cells; by default those of a new figure in this
        package's style, in which the cells of any grid have the same size.
      policy: probabilities [S, A], drawn as arrows whose length is proportional to the probability of the move; the
        area of a dot is proportional to the probability of the actions that do nothing.
      values: [S], in units of return, drawn as a heat map; walls and terminals keep their colours.
      visits: [S], expected visits per episode (`exact.occupancy`) as a heat map on a square-root scale.
      title: title of the panel, which may hold a formula between dollar signs.

    Returns:
      The figure. ValueError for a stack, an MDP without a grid, tables that do not fit, or two heat maps.
    """
    grid = _checked_grid(mdp)
    if values is not None and visits is not None:
        raise ValueError("draw_grid draws one heat map: give values or visits, not both")
    heat_name, heat = ("values", values) if visits is None else ("visits", visits)
    heat = None if heat is None else _per_cell(heat_name, heat, grid.shape)
    arrows = None if policy is None else _per_cell("policy", policy, grid.shape, num_columns=mdp.num_actions)
    if ax is None:
        ax = _new_axes(grid.shape, with_heat=heat is not None)
    with style_of(root_figure(ax)):
        if heat is not None:
            _draw_heat(ax, heat_name, np.ma.array(heat, mask=grid.wall | grid.terminal))
        _draw_cells(ax, grid, filled_start=heat is None)
        _draw_rewards(ax, grid, in_corner=~grid.terminal & (arrows is not None))
        if arrows is not None:
            _draw_arrows(ax, arrows, ~(grid.wall | grid.terminal))
        if title:
            ax.set_title(typeset(title))
    return root_figure(ax)


def _new_axes(shape: tuple[int, ...], with_heat: bool) -> Axes:
    """Axes of a new figure for a grid of `shape`, with room for axis labels and, beside a heat map, its colour bar."""
    num_rows, num_cols = shape
    margins = (0.5, 0.6)
    if with_heat:
        margins = (0.5, 1.3) if _bar_is_below(shape) else (1.3, 0.6)
    size = (max(num_cols * _CELL_INCHES + margins[0], 1.6), max(num_rows * _CELL_INCHES + margins[1], 1.2))
    figure = StyledFigure(figsize=size)
    with style_of(figure):
        return figure.add_subplot()


def _bar_is_below(shape: tuple[int, ...]) -> bool:
    """True if the colour bar lies below the grid: beside a grid of few rows it would be too short to label."""
    return shape[0] < 6


class _Grid(NamedTuple):
    """The arrays of `mdp.grid` as NumPy arrays."""

    wall: np.ndarray  # bool [H, W]
    reward: np.ndarray  # [H, W]
    terminal: np.ndarray  # bool [H, W]
    start: tuple[int, int]  # row, column

    @property
    def shape(self) -> tuple[int, ...]:
        return self.wall.shape


def _checked_grid(mdp: Any) -> _Grid:
    """The grid of one MDP; ValueError for a stack or an MDP without a grid."""
    if getattr(mdp, "grid", None) is None:
        raise ValueError(
            "draw_grid needs an MDP made from a grid, but mdp.grid is None; worlds from tables have no picture, "
            "draw their curves with result.plot()"
        )
    wall, reward, terminal, start = (np.asarray(getattr(mdp.grid, name)) for name in _Grid._fields)
    if wall.ndim != 2:
        raise ValueError(f"draw_grid draws one MDP, got a stack of {wall.shape[:-2]}: use draw_grid(mdps[0])")
    return _Grid(wall.astype(bool), reward, terminal.astype(bool), (int(start[0]), int(start[1])))


def _per_cell(name: str, table: Any, shape: tuple[int, ...], num_columns: int | None = None) -> np.ndarray:
    """A table of all states, reshaped to [H, W] or [H, W, columns]; the state of a cell is row * num_cols + col."""
    table = np.asarray(table)
    columns = () if num_columns is None else (num_columns,)
    expected = (shape[0] * shape[1], *columns)
    if table.shape != expected:
        raise ValueError(f"{name} has shape {table.shape}, expected {expected}, one row per state")
    return table.reshape(*shape, *columns)


def _draw_heat(ax: Axes, name: str, heat: Any) -> None:
    """Draws the masked array `heat` [H, W] of "values" or "visits", with a colour bar."""
    norm = PowerNorm(0.5, vmin=0) if name == "visits" else Normalize()
    edges = [np.arange(n + 1) - 0.5 for n in heat.shape]
    mesh = ax.pcolormesh(edges[1], edges[0], heat, cmap=_HEAT, norm=norm, zorder=0)
    label = {"values": "Value (return)", "visits": "Expected visits per episode"}[name]
    location, pad = ("bottom", 0.08) if _bar_is_below(heat.shape) else ("right", 0.02)
    if location == "bottom" and root_figure(ax).get_layout_engine() is None:
        pad = 0.2  # without a layout engine, this is the only room for the ticks and the label
    bar = ax.figure.colorbar(mesh, ax=ax, label=label, fraction=0.05, location=location, pad=pad)
    bar.outline.set_linewidth(0.6)
    # The axes of the bar are made with the current settings, but `ax` may have been made with others.
    ink = ax.xaxis.label.get_color()
    bar.ax.tick_params(which="both", colors=ink)
    for axis in (bar.ax.xaxis, bar.ax.yaxis):
        axis.label.set_color(ink)


def _draw_cells(ax: Axes, grid: _Grid, filled_start: bool) -> None:
    """Draws the white background, walls, terminals, the start (an outline on a heat map) and the frame."""

    def cell(row: int, col: int, side: float = 1.0, **options: Any) -> None:
        ax.add_patch(patches.Rectangle((col - side / 2, row - side / 2), side, side, **options))

    ax.set_facecolor("white")  # also on dark axes: the colours of cells have a meaning, and walls are black
    for cells, color in ((grid.terminal, _TERMINAL), (grid.wall, "black")):
        for row, col in np.argwhere(cells):
            cell(row, col, facecolor=color, linewidth=0, zorder=1)
    if filled_start:
        cell(*grid.start, facecolor=_START, linewidth=0, zorder=1)
    else:
        cell(*grid.start, side=0.88, fill=False, edgecolor=_START, linewidth=2, zorder=3)
    _draw_frame(ax, *grid.shape)


def _draw_frame(ax: Axes, num_rows: int, num_cols: int) -> None:
    """Draws the lines between cells, and sets the limits, ticks and spines of the axes."""
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


def _draw_rewards(ax: Axes, grid: _Grid, in_corner: np.ndarray) -> None:
    """Writes the rewards into their cells; where `in_corner` [H, W] is True, small and beside the arrows."""
    cells = np.argwhere((grid.reward != 0) & ~grid.wall)
    texts = [f"{grid.reward[row, col]:.3g}".replace("-", "\N{MINUS SIGN}") for row, col in cells]
    longest = max(map(len, texts), default=1)
    # A character is about 0.65 of the font size wide. All numbers have the size at which the longest fits its cell.
    size = min(11.0, _cell_points(ax, grid.shape) * min(0.42, 0.85 / 0.65 / longest))
    for (row, col), text in zip(cells, texts, strict=True):
        if in_corner[row, col]:
            place = dict(ha="left", va="top", fontsize=0.58 * size)
            ax.text(col - 0.47, row - 0.45, text, color="black", zorder=5, **place)
        else:
            ax.text(col, row, text, color="black", ha="center", va="center", fontsize=size, zorder=5)


def _cell_points(ax: Axes, shape: tuple[int, ...]) -> float:
    """Side of a cell in points (1/72 inch) before the layout, which is accurate enough to choose a font size."""
    box = ax.get_window_extent()
    return 72 / root_figure(ax).dpi * min(box.width / shape[1], box.height / shape[0])


def _draw_arrows(ax: Axes, policy: np.ndarray, free: np.ndarray) -> None:
    """Draws the moves of `policy` [H, W, A] as arrows, and all other actions as a dot, where `free` [H, W] is True."""
    rows, cols = np.nonzero(free)
    scale = dict(angles="xy", scale_units="xy", scale=1, units="xy", width=0.06)
    head = dict(headwidth=4, headlength=4, headaxislength=3.6, minlength=0)
    for action, (dx, dy) in enumerate(_MOVES):
        length = policy[rows, cols, action] * 0.46
        visible = length > 0.03
        u, v = dx * length[visible], dy * length[visible]
        ax.quiver(cols[visible], rows[visible], u, v, color="black", zorder=4, **scale, **head)
    stay = policy[rows, cols, len(_MOVES) :].sum(axis=-1)
    for row, col, share in zip(rows, cols, stay, strict=True):
        if share > 0.04:
            dot = patches.Circle((int(col), int(row)), 0.3 * np.sqrt(share), facecolor="0.6", linewidth=0, zorder=3)
            ax.add_patch(dot)
