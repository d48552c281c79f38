"""Makers of features: which rows of a student's tables each state adds up, int arrays for `MDP.with_features`.

A student with features is linear in them, and generalises between states that share some: what it learns in one state
changes its policy in the others. Each maker numbers its features from 0 on, without gaps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP
from jaxdistill.runtime import checks
from jaxdistill.worlds.grid_mdp import appearances

_MOST_ENTRIES = 2**28


def row_and_column(mdps: MDP) -> np.ndarray:
    """One feature for the row of the agent's cell in a grid world, and one for its column.

    The logits of cell (r, c) are then a sum f(r) + g(c). No such student represents a policy that treats a cell
    otherwise than its row and its column together, so it cannot represent most teachers.

    Args:
      mdps: grid worlds: one, or a stack, whose grids have the same size.

    Returns:
      int32 [S, 2]: rows are numbered first, then columns.

    Raises:
      ValueError: worlds without grids.
    """
    num_rows, num_cols = _shape_of_grid(mdps)
    row, col = np.divmod(np.arange(num_rows * num_cols, dtype=np.int32), num_cols)
    return np.stack([row, num_rows + col], axis=-1)


def tiles(mdps: MDP, width: int, offsets: Sequence[Any] = ((0, 0),)) -> np.ndarray:
    """Tile coding of grid worlds: for each of several tilings, the square tile in which the agent's cell lies.

    Cells in the same tile of a tiling share a row. With several tilings that are moved against each other, near cells
    share more rows than distant ones (Sutton and Barto, 2018, section 9.5.4).

    Args:
      mdps: grid worlds, as for `row_and_column`.
      width: side of a tile in cells, at least 1.
      offsets: one for each tiling: by how many rows and columns it is moved up and to the left, from 0 to width - 1.

    Returns:
      int32 [S, F], F the number of tilings.

    Raises:
      ValueError: worlds without grids, or a width or offsets out of range.
    """
    num_rows, num_cols = _shape_of_grid(mdps)
    width = checks.whole("width", width, 1)
    moves = _integers("offsets", offsets)
    if moves.ndim != 2 or moves.shape[1] != 2 or len(moves) == 0 or (moves < 0).any() or (moves >= width).any():
        raise ValueError(
            f"offsets must be pairs (rows, columns) of whole numbers from 0 to width - 1 = {width - 1}, such as "
            f"[(0, 0), (1, 1)]; got {checks.shown(offsets)}"
        )
    row, col = np.divmod(np.arange(num_rows * num_cols), num_cols)
    tables, first = [], 0
    for row_move, col_move in moves:
        tile = (row + row_move) // width * num_cols + (col + col_move) // width
        numbers, index = np.unique(tile, return_inverse=True)
        tables.append(first + index.ravel())
        first += len(numbers)
    return np.stack(tables, axis=-1).astype(np.int32)


def window_cells(mdps: MDP, radius: int) -> np.ndarray:
    """One feature for how each cell around the agent looks, in a window of (2 * radius + 1)^2 cells.

    Cells look alike as in `gridworld.window_observations`: walls, and the outside, look the same, and other cells by
    their reward and by whether they are terminal. There, a whole window is an observation. Here its cells are features,
    so that windows that differ in one cell share all others. The policy is one for all worlds and places that look the
    same.

    Args:
      mdps: grid worlds: one, or a stack, whose looks are numbered together.
      radius: at least 0.

    Returns:
      int32 [S, F] or [M, S, F], F = (2 * radius + 1)^2. A feature is a position in the window together with a look.

    Raises:
      ValueError: worlds without grids, or a window that is too large.
    """
    num_rows, num_cols = _shape_of_grid(mdps)
    radius = checks.whole("radius", radius, 0)
    looks = appearances(mdps.grid).astype(np.int32)
    width = 2 * radius + 1
    if looks.size * width**2 > _MOST_ENTRIES:
        raise ValueError(f"windows of {width} x {width} cells for {looks.size} cells are too many; lower radius")
    cells = looks.reshape(-1, num_rows, num_cols)
    padded = np.pad(cells, [(0, 0), (radius, radius), (radius, radius)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width), axis=(1, 2))
    pairs = np.arange(width**2) * (looks.max() + 1) + windows.reshape(len(cells), num_rows * num_cols, -1)
    _, numbers = np.unique(pairs, return_inverse=True)
    features = numbers.reshape(pairs.shape).astype(np.int32)
    return features if mdps.is_stacked else features[0]


def ngram(contexts: npt.ArrayLike, max_order: int) -> np.ndarray:
    """Back-off features of texts: one for each suffix of the context of up to max_order - 1 symbols, the empty one too.

    The logits of the next symbol are then a sum over suffixes of the context, as in a log-linear n-gram model. The
    empty suffix is the same in all states: its row holds what is common to all contexts.

    Args:
      contexts: int [S, n], the last n symbols before each state, the last one at the end; -1 before the text begins.
      max_order: 1 to n + 1, the number of symbols of the longest n-gram, with the next symbol; it is also F.

    Returns:
      int32 [S, max_order].

    Raises:
      ValueError: contexts that are not int [S, n], or an order that they do not have.
    """
    table = _integers("contexts", contexts)
    if table.ndim != 2 or len(table) == 0 or (table < -1).any():
        raise ValueError(f"contexts must be symbols >= 0 [S, n], or -1 before the text; got {checks.shown(contexts)}")
    max_order = checks.whole("max_order", max_order, 1, table.shape[1] + 1)
    tables, first = [], 0
    for length in range(max_order):
        suffixes, index = np.unique(table[:, table.shape[1] - length :], axis=0, return_inverse=True)
        tables.append(first + index.ravel())
        first += len(suffixes)
    return np.stack(tables, axis=-1).astype(np.int32)


def _shape_of_grid(mdps: MDP) -> tuple[int, int]:
    """Rows and columns of grid worlds; raises ValueError for others."""
    if not isinstance(mdps, MDP) or mdps.grid is None:
        raise ValueError(
            "these features are those of grid worlds, such as sample_mdps(key, 100); this world has no grid"
        )
    num_rows, num_cols = mdps.grid.wall.shape[-2:]
    return num_rows, num_cols


def _integers(name: str, value: npt.ArrayLike) -> np.ndarray:
    """`value` as an array of integers; raises ValueError if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be an array of whole numbers; got {checks.shown(value)}")
    return array
