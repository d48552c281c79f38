"""Building the MDPs of grids: transitions, noise, and observations of the cells around the agent (App. A.1)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, NO_TIME_LIMIT
from jaxdistill.runtime import checks
from jaxdistill.worlds.grid import MOVES, OUTCOMES, Grid, GridConfig, cell_to_state, check_num_entries, with_overrides

_DTYPE_KINDS = {"wall": "iub", "reward": "iuf", "terminal": "iub", "start": "iu"}
"""The kinds of dtypes, in NumPy's letters, that each array of a grid may have."""


def grid_to_mdp(grid: Grid, config: GridConfig | None = None, **overrides: Any) -> MDP:
    """The MDP of a grid, or of a stack of grids, with the dynamics and the observation of `config` (App. A.1).

    The agent never acts in walls and terminal cells. There every outcome stays, without reward, and ends the episode,
    so that the values of these states are 0. Ids are 0, or 0 to M - 1.

    Args:
      grid: the cells, of any size.
      config: the dynamics and the observation; its sizes and cell probabilities are not used.
      **overrides: fields of `GridConfig` to change.

    Raises:
      ValueError: one line, for arrays that do not fit each other, or a start in a wall, in a terminal cell or outside.
    """
    config = with_overrides(config, overrides)
    grid = _checked(grid, config)
    lead, (num_rows, num_cols) = grid.wall.shape[:-2], grid.wall.shape[-2:]
    successor, reward, terminal = _transitions(grid)
    outcome_probs = action_outcomes(config.num_actions, config.noise).astype(np.float32)
    observation, num_observations = np.arange(num_rows * num_cols), num_rows * num_cols
    if config.observation == "window":
        observation, num_observations = window_observations(grid, config.window_radius)
    arrays = {
        "successor": successor,
        "reward": reward,
        "terminal": terminal,
        "outcome_probs": np.broadcast_to(outcome_probs, lead + outcome_probs.shape),
        "continue_prob": np.full(lead, 1 - config.termination_prob, np.float32),
        "start": cell_to_state(grid.start[..., :1], grid.start[..., 1:], num_cols),
        "start_probs": np.ones((*lead, 1), np.float32),
        "observation": np.broadcast_to(observation.astype(np.int32), (*lead, num_rows * num_cols)),
        "id": np.arange(math.prod(lead), dtype=np.int32).reshape(lead),
        "time_limit": np.full(lead, NO_TIME_LIMIT, np.int32),
        "grid": grid,
    }
    return MDP(**jax.tree.map(jnp.asarray, arrays), num_observations=num_observations)


def action_outcomes(num_actions: int, noise: float) -> np.ndarray:
    """Distribution over the five outcomes of each action, float64 [A, 5] (App. A.1).

    The first four actions move: in the intended direction with probability 1 - noise, and otherwise in a random one of
    the four directions, the intended one included. The further actions stay.
    """
    table = np.zeros((num_actions, len(OUTCOMES)))
    table[:4, :4] = (1 - noise) * np.eye(4) + noise / 4
    # Paper: silent on noise of the further actions. Here: none, because this reproduces the returns of Fig. 4.
    table[4:, 4] = 1
    return table


def window_observations(grid: Grid, radius: int) -> tuple[np.ndarray, int]:
    """Numbers the distinct windows of (2 * radius + 1)^2 cells of each world (App. A.1).

    Two cells look the same if both are walls, or if their rewards are equal and both or neither are terminal. Cells
    outside the grid look like walls. Windows are numbered in the order of the first state that has them. Walls and
    terminal cells, where the agent never acts, share one more number after the last.

    Returns:
      The number of each state's window, int32 [S] or [M, S], and O, the largest count of numbers in a world.
    """
    wall, terminal = np.asarray(grid.wall), np.asarray(grid.terminal)
    appearance = appearances(grid).reshape(-1, *wall.shape[-2:])
    active = ~(wall | terminal).reshape(len(appearance), -1)
    radius = min(radius, max(wall.shape[-2:]))  # A window of this radius covers the grid from every cell.
    width = 2 * radius + 1
    observation = np.empty(active.shape, np.int32)
    for m, cells in enumerate(appearance):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(cells, radius), (width, width))
        rows = windows.reshape(active.shape[1], -1)[active[m]]
        # np.unique is much faster on one item of raw bytes for each window than on rows of cells.
        rows = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
        _, first, index = np.unique(rows, return_index=True, return_inverse=True)
        observation[m] = len(first)
        observation[m, active[m]] = np.argsort(np.argsort(first))[index.ravel()]
    return observation.reshape(*wall.shape[:-2], -1), int(observation.max()) + 1


def appearances(grid: Grid) -> np.ndarray:
    """How each cell looks, numbers of the shape of the grid, as `window_observations` says; 0 is a wall."""
    reward = np.asarray(grid.reward)
    looks = np.unique(reward, return_inverse=True)[1].reshape(reward.shape) * 2 + np.asarray(grid.terminal) + 1
    looks = np.where(np.asarray(grid.wall), 0, looks)
    return looks.astype(np.min_scalar_type(looks.max()))


def _neighbours(num_rows: int, num_cols: int) -> np.ndarray:
    """The state that each outcome leads to in a grid without walls, int32 [S, 5]; a move off the grid stays."""
    row, col = np.divmod(np.arange(num_rows * num_cols, dtype=np.int32), num_cols)
    rows = np.stack([row + row_step for row_step, _ in MOVES], axis=1)
    cols = np.stack([col + col_step for _, col_step in MOVES], axis=1)
    inside = (rows >= 0) & (rows < num_rows) & (cols >= 0) & (cols < num_cols)
    same_state = cell_to_state(row, col, num_cols)[:, None]
    return np.where(inside, cell_to_state(rows, cols, num_cols), same_state).astype(np.int32)


def _transitions(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Successor, reward and terminal, each [..., S, 5].

    NumPy computes them, because JAX would compile another program for each size of the grid.
    """
    cells = (grid.wall, grid.reward, grid.terminal)
    wall, reward, terminal = (np.asarray(x).reshape(*x.shape[:-2], -1) for x in cells)
    neighbours = _neighbours(*grid.wall.shape[-2:])
    inactive = (wall | terminal)[..., None]  # The agent never acts in these states.
    stays = wall[..., neighbours] | inactive
    same_state = np.arange(wall.shape[-1], dtype=np.int32)[:, None]
    return (
        np.where(stays, same_state, neighbours),
        np.where(inactive, np.float32(0), np.where(stays, reward[..., None], reward[..., neighbours])),
        inactive | (~stays & terminal[..., neighbours]),
    )


def _checked(grid: Grid, config: GridConfig) -> Grid:
    """The grid as NumPy arrays of the right dtypes; raises ValueError if its arrays do not make a grid."""
    if not isinstance(grid, Grid):
        raise ValueError(f"grid must be a gridworld.Grid, got {checks.shown(grid)}; from_text makes worlds of maps")
    wall, reward, terminal, start = (_as_array(name, getattr(grid, name)) for name in _DTYPE_KINDS)
    if wall.ndim not in (2, 3) or 0 in wall.shape or not wall.shape == reward.shape == terminal.shape:
        shapes = f"{wall.shape}, {reward.shape} and {terminal.shape}"
        raise ValueError(f"wall, reward, terminal must be [H, W] or [M, H, W] and not empty, got {shapes}")
    if start.shape != (*wall.shape[:-2], 2):
        raise ValueError(f"start must be (row, col), shape {(*wall.shape[:-2], 2)}, got shape {start.shape}")
    check_num_entries(len(wall) if wall.ndim == 3 else 1, config, wall.shape[-2:])
    if not (np.abs(reward) <= np.finfo(np.float32).max).all():
        raise ValueError("the rewards of a grid must be finite, also in float32")
    row, col = np.moveaxis(start, -1, 0)
    outside = (row < 0) | (row >= wall.shape[-2]) | (col < 0) | (col >= wall.shape[-1])
    _check_starts(outside, start, f"outside the grid of {wall.shape[-2:]} cells")
    at_start = (*np.indices(row.shape), row, col)
    _check_starts(wall[at_start], start, "in a wall: put it on a free cell")
    _check_starts(terminal[at_start], start, "in a terminal cell: put it on a free cell")
    leaves: Any = (wall.astype(bool), reward.astype(np.float32), terminal.astype(bool), start.astype(np.int32))
    return Grid(*leaves)


def _as_array(name: str, value: Any) -> np.ndarray:
    """The array `name` of a grid; raises ValueError unless it has the right kind of dtype."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # The rows differ in length, or the value is a random key.
        array = np.asarray(None)
    if array.dtype.kind not in _DTYPE_KINDS[name]:
        raise ValueError(f"{name} of a grid must be an array of numbers or booleans, got {checks.shown(value)}")
    return array


def _check_starts(misplaced: np.ndarray, start: np.ndarray, place: str) -> None:
    """Raises ValueError naming the first start for which `misplaced` is true, with the place it is in."""
    if misplaced.any():
        row, col = start[misplaced.astype(bool)][0]
        raise ValueError(f"the start ({row}, {col}) is {place}")
