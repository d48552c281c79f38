"""Pictures of what a student with features has learned: the weights of its rows, and the cells that use a row."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxdistill.plotting.figures import StyledFigure, root_figure, style_of
from jaxdistill.plotting.grids import draw_grid
from jaxdistill.plotting.labels import typeset

_WEIGHTS = matplotlib.colormaps["RdBu_r"]
_MOST_ROWS = 2000
_USED = "#fee391"  # a light yellow, on which arrows and numbers are legible


def draw_weights(logits: Any, rows: Any = None, ax: Axes | None = None, title: str | None = None) -> Figure:
    """Draws the weights of a student's rows: a line for each row of its table, and a column for each action.

    A softmax does not change if a constant is added to all actions of a row. So each row is drawn without its mean, and
    white is a weight that favours no action.

    Args:
      logits: [O, A], the table of one student, such as `result.logits[0, 0]`.
      rows: which rows to draw, and in which order; None: all.
      ax: axes to draw in, with the user's settings; by default those of a new figure in this package's style.
      title: title of the panel.

    Returns:
      The figure. ValueError for a table that is not [O, A] or not finite, or rows that it does not have.
    """
    table = np.asarray(logits)
    if table.ndim != 2 or table.dtype.kind not in "fiu" or not np.isfinite(table).all():
        raise ValueError(f"logits must be finite numbers [O, A] of one student; got shape {table.shape}")
    shown = np.arange(len(table)) if rows is None else np.atleast_1d(np.asarray(rows))
    if shown.dtype.kind not in "iu" or shown.ndim != 1 or ((shown < 0) | (shown >= len(table))).any():
        raise ValueError(f"rows must be whole numbers in [0, {len(table)}), the rows of the table")
    if not 0 < len(shown) <= _MOST_ROWS:
        raise ValueError(f"draw_weights draws 1 to {_MOST_ROWS} rows, got {len(shown)}; select some by rows")
    weights = (table - table.mean(-1, keepdims=True))[shown]
    if ax is None:
        figure = StyledFigure(figsize=(1.9 + 0.3 * table.shape[1], max(1.4, min(0.9 + 0.16 * len(shown), 12.0))))
        with style_of(figure):
            ax = figure.add_subplot()
    with style_of(root_figure(ax)):
        _draw_table(ax, weights, shown)
        if title:
            ax.set_title(typeset(title))
    return root_figure(ax)


def _draw_table(ax: Axes, weights: np.ndarray, rows: np.ndarray) -> None:
    """Draws weights [R, A] of the rows `rows` [R] with a colour bar, white at 0."""
    largest = max(float(np.abs(weights).max()), 1e-12)
    edges = [np.arange(n + 1) - 0.5 for n in weights.shape]
    mesh = ax.pcolormesh(edges[1], edges[0], weights, cmap=_WEIGHTS, norm=Normalize(-largest, largest))
    ax.set(xlabel="Action", ylabel="Row", xlim=edges[1][[0, -1]], ylim=edges[0][[-1, 0]])
    ax.grid(False)
    ax.set_xticks(range(0, weights.shape[1], -(-weights.shape[1] // 10)))
    ticks = np.arange(0, len(rows), -(-len(rows) // 25))
    ax.set_yticks(ticks, [str(row) for row in rows[ticks]])
    ax.figure.colorbar(mesh, ax=ax, label="Weight less the row's mean (logit)")


def draw_feature(mdp: Any, logits: Any, row: int, ax: Axes | None = None, title: str | None = None) -> Figure:
    """Draws one row of a student on its grid world: the cells that use it, and the policy that it would have alone.

    Cells that use the row are shaded, and have arrows as in `draw_grid`: softmax of the weights of this row. The policy
    of a cell itself is the softmax of the sum of its rows; `Result.policy` gives it for `draw_grid`.

    Args:
      mdp: one MDP with a `grid`.
      logits: [O, A], the table of one student in it.
      row: which row of the table.
      ax, title: as for `draw_grid`.

    Returns:
      The figure. ValueError for a stack, an MDP without a grid, or a table or a row that does not fit.
    """
    table, features = np.asarray(logits), np.asarray(mdp.features)
    if table.shape != (mdp.num_observations, mdp.num_actions) or features.ndim != 2:
        raise ValueError(
            f"logits must have shape {(mdp.num_observations, mdp.num_actions)} for one {mdp}; got {table.shape}"
        )
    if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < len(table):
        raise ValueError(f"row must be a whole number in [0, {len(table)}); got {row!r}")
    is_used = (features == row).any(-1)
    weights = np.exp(table[row] - table[row].max())
    policy = np.where(is_used[:, None], weights / weights.sum(), 0)
    figure = draw_grid(mdp, ax, policy, title=title or f"Row {row}")
    ax = figure.axes[0] if ax is None else ax
    for cell in np.flatnonzero(is_used):
        place = divmod(int(cell), mdp.grid.wall.shape[1])[::-1]
        corner = place[0] - 0.5, place[1] - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=_USED, linewidth=0, zorder=0.5))
    return figure
