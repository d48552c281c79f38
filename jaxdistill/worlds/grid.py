"""Grids: cells and their kinds, the numbering of cells as states, and the options of grid worlds.

Cells are (row, col) with (0, 0) in the upper left corner, and `cell_to_state` numbers them row by row. Walls keep a
state, so that tables have the shape of the grid, but the agent never enters them.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from jaxdistill.runtime import checks

OUTCOMES = ("left", "right", "up", "down", "stay")
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0))
"""The (row, col) step of each outcome."""

# The kinds of cells, numbered in the order of App. A.2, step 2. The last kind, the empty cell, has no probability of
# its own: it is what remains.
CELL_PROB_FIELDS = ("p_wall", "p_plus10", "p_plus5", "p_minus1", "p_minus5", "p_minus10")
KIND_REWARDS = np.array([0, 10, 5, -1, -5, -10, 0], np.float32)
KIND_IS_TERMINAL = np.array([0, 1, 1, 0, 1, 1, 0], bool)
WALL, PLUS10, EMPTY = 0, 1, 6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The cells of a grid world with H rows and W columns; in a stack, every array has a leading axis [M].

    Attributes:
      wall: bool [H, W].
      reward: float32 [H, W], collected on arrival in the cell.
      terminal: bool [H, W], whether arrival in the cell ends the episode.
      start: int32 [2], (row, col) of the start.
    """

    wall: jax.Array
    reward: jax.Array
    terminal: jax.Array
    start: jax.Array


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Sizes, probabilities and dynamics of grid worlds; the defaults are the paper's (App. A.1, A.2).

    Attributes:
      num_rows: H >= 1, cells.
      num_cols: W >= 1, cells.
      num_actions: >= 4: left, right, up, down, then actions that stay and are free of noise (Figs. 4, 10).
      p_wall: probability that a cell is a wall. The kinds are drawn one after another in the order of these fields,
        each only for the cells that have no kind yet.
      p_plus10: probability of a terminal cell with reward +10.
      p_plus5: probability of a terminal cell with reward +5.
      p_minus1: probability of a cell with reward -1, which is not terminal.
      p_minus5: probability of a terminal cell with reward -5.
      p_minus10: probability of a terminal cell with reward -10.
      noise: eta, probability that a move goes in a random one of the four directions, the intended one included.
      termination_prob: probability that a step ends the episode, whatever cell it leads to.
      observation: "full": the student observes the state. "window": the student observes the cells around the agent,
        and states with equal windows share a row of its tables.
      window_radius: k >= 0; the window is (2k+1) x (2k+1) cells.
      redraw: True: a world is drawn again until a +10 is within reach (App. A.2, step 3). False: its first draw is
        kept.
      max_redraws: the largest number of draws of one world, after which sampling fails.

    Raises:
      ValueError: one line, for a size below 1, a probability outside [0, 1], cell probabilities that sum to more than
        1, or an unknown observation.
    """

    num_rows: int = 20
    num_cols: int = 20
    num_actions: int = 4
    p_wall: float = 0.1
    p_plus10: float = 0.01
    p_plus5: float = 0.02
    p_minus1: float = 0.1
    p_minus5: float = 0.01
    p_minus10: float = 0.01
    noise: float = 0.1
    termination_prob: float = 0.01
    observation: str = "full"
    window_radius: int = 4
    redraw: bool = True
    max_redraws: int = 1000

    def __post_init__(self) -> None:
        minima = {"num_rows": 1, "num_cols": 1, "num_actions": 4, "window_radius": 0, "max_redraws": 1}
        for name, least in minima.items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        for name in (*CELL_PROB_FIELDS, "noise", "termination_prob"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.integer | np.floating) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {checks.shown(value)}")
        total = sum(self.cell_probs)
        if total > 1 + 1e-9:
            raise ValueError(f"the probabilities {', '.join(CELL_PROB_FIELDS)} must sum to at most 1, got {total:.6g}")
        if not isinstance(self.observation, str) or self.observation not in ("full", "window"):
            raise ValueError(f'observation must be "full" or "window", got {checks.shown(self.observation)}')
        if not isinstance(self.redraw, bool | np.bool_):
            raise ValueError(f"redraw must be True or False, got {checks.shown(self.redraw)}")
        check_num_entries(1, self, (self.num_rows, self.num_cols))

    @property
    def cell_probs(self) -> tuple[float, ...]:
        """The probabilities of the kinds of cells, in the order in which App. A.2 draws them."""
        return tuple(float(getattr(self, name)) for name in CELL_PROB_FIELDS)

    @property
    def start(self) -> tuple[int, int]:
        """(row, col) of the start of a sampled world, (ceil(H/2), ceil(W/2)) counted from 0 (App. A.1)."""
        # Paper: as above. Here: clipped to the grid, because in a single row or column that is outside.
        row, col = math.ceil(self.num_rows / 2), math.ceil(self.num_cols / 2)
        return min(row, self.num_rows - 1), min(col, self.num_cols - 1)


def cell_to_state(row: Any, col: Any, num_cols: int) -> Any:
    """The state of the cell (row, col): row * num_cols + col. Ints or arrays."""
    return row * num_cols + col


def state_to_cell(state: Any, num_cols: int) -> tuple[Any, Any]:
    """The cell (row, col) of a state; the inverse of `cell_to_state`."""
    return state // num_cols, state % num_cols


def with_overrides(config: GridConfig | None, overrides: dict[str, Any]) -> GridConfig:
    """`config`, or the default one, with some of its fields changed; raises ValueError for an unknown field."""
    if not isinstance(config, GridConfig | None):
        raise ValueError(f"config must be a GridConfig, got {checks.shown(config)}; give single fields by name")
    names = [field.name for field in dataclasses.fields(GridConfig)]
    for name in overrides:
        checks.known("option", name, names, "a grid world has")
    return dataclasses.replace(config or GridConfig(), **overrides)


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int; raises ValueError unless it is a whole number of at least `least`."""
    if not checks.is_whole(value, least):
        most = f" and at most {checks.MOST}" if checks.is_whole(value, least, value) else ""
        raise ValueError(f"{name} must be a whole number, at least {least}{most}, got {checks.shown(value)}")
    return int(value)


def check_num_entries(num_mdps: int, config: GridConfig, size: tuple[int, int]) -> None:
    """Raises ValueError if a table of `num_mdps` worlds of `size` has more entries than an int32 can number."""
    num_rows, num_cols = size
    num_entries = num_mdps * len(OUTCOMES) * max(int(num_rows) * int(num_cols), int(config.num_actions))
    if num_entries > checks.MOST:
        raise ValueError(
            f"{num_mdps} worlds of {num_rows} x {num_cols} cells and {config.num_actions} actions need tables of "
            f"{num_entries} entries, at most {checks.MOST} are possible: sample fewer or smaller worlds"
        )
