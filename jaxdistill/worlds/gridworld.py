"""Grid worlds of App. A.1: sampled as in App. A.2, built from a grid, or drawn as text.

Cells are (row, col) with (0, 0) in the upper left corner, and `cell_to_state` numbers them row by row. Walls keep a
state, so that tables have the shape of the grid, but the agent never enters them. This module has the maps drawn as
text, and gives the public names of `grid`, `grid_mdp` and `grid_sampling` too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.runtime import checks
from jaxdistill.worlds.grid import (
    MOVES,
    OUTCOMES,
    Grid,
    GridConfig,
    cell_to_state,
    state_to_cell,
    with_overrides,
)
from jaxdistill.worlds.grid_mdp import action_outcomes, grid_to_mdp, window_observations
from jaxdistill.worlds.grid_sampling import sample_mdps

__all__ = [
    "MOVES",
    "OUTCOMES",
    "TEXT_CELLS",
    "Grid",
    "GridConfig",
    "action_outcomes",
    "cell_to_state",
    "from_text",
    "grid_to_mdp",
    "sample_mdps",
    "state_to_cell",
    "window_observations",
]

TEXT_CELLS: Mapping[str, tuple[float, bool]] = {
    "S": (0.0, False),
    ".": (0.0, False),
    "+": (10.0, True),
    "p": (5.0, True),
    "-": (-1.0, False),
    "n": (-5.0, True),
    "x": (-10.0, True),
}
"""(reward, terminal) of each character of `from_text`; `S` is the start. `#`, which is not listed, is a wall."""


def from_text(
    text: str | Sequence[str],
    rewards: Mapping[str, tuple[float, bool]] | None = None,
    config: GridConfig | None = None,
    **overrides: Any,
) -> MDP:
    """Builds a single grid world from a drawn map, one line per row: `from_text(["#.+", "S-."])`.

    Args:
      text: the rows, as one string or a list. `#` is a wall, `.` empty, `S` the start (exactly one). `+` is +10, `p`
        +5, `n` -5 and `x` -10, all terminal; `-` is -1 and not terminal.
      rewards: (reward, terminal) of further characters, or of these: `{"S": (-1.0, False)}` gives the start a reward
        of -1.
      config: the dynamics and the observation; its sizes and cell probabilities are not used.
      **overrides: fields of `GridConfig` to change.

    Raises:
      ValueError: one line, for an empty or ragged map, no or several starts, or an unknown character.
    """
    rows = _rows(text)
    for name in ("num_rows", "num_cols"):
        if name in overrides:
            raise ValueError(f"{name} cannot be set here: the size comes from the map")
    cells = {**TEXT_CELLS, **_checked_rewards(rewards), "#": (0.0, False)}
    unknown = sorted(set("".join(rows)) - set(cells))
    if unknown:
        raise ValueError(f"the map has {unknown[0]!r}, which means nothing; known are {' '.join(sorted(cells))}")
    letters = np.array([list(row) for row in rows])
    starts = np.argwhere(letters == "S")
    if len(starts) != 1:
        raise ValueError(f"the map must have exactly one start S, on a cell that is not a wall, got {len(starts)}")
    config = with_overrides(config, {"num_rows": len(rows), "num_cols": len(rows[0]), **overrides})
    leaves: dict[str, Any] = {
        "wall": letters == "#",
        "reward": np.vectorize(lambda letter: cells[letter][0], otypes=[np.float32])(letters),
        "terminal": np.vectorize(lambda letter: cells[letter][1], otypes=[bool])(letters),
        "start": starts[0],
    }
    return grid_to_mdp(Grid(**leaves), config)


def _rows(text: Any) -> list[str]:
    """The rows of a map; raises ValueError unless they make a rectangle of at least one cell."""
    lines = text.strip().splitlines() if isinstance(text, str) else checks.listed(text)
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"text must be a string, or a list of one string for each row, got {checks.shown(text)}")
    rows = [line.strip() for line in lines]
    if not rows or not rows[0]:
        raise ValueError("the map is empty: give at least one row with at least one cell")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} of the map has {len(row)} cells, but row 0 has {len(rows[0])}")
    return rows


def _checked_rewards(rewards: Any) -> dict[str, tuple[float, bool]]:
    """The `rewards` of `from_text`; raises ValueError naming the character whose entry is not (reward, terminal)."""
    if rewards is None:
        return {}
    if not isinstance(rewards, Mapping):
        raise ValueError(f"rewards must map characters to (reward, terminal), got {checks.shown(rewards)}")
    for letter, cell in rewards.items():
        if not isinstance(letter, str) or len(letter) != 1 or not letter.isprintable():
            raise ValueError(f"rewards must map single characters, got {checks.shown(letter)}")
        pair = checks.numbers(f"rewards[{letter!r}]", cell)
        if pair.shape != (2,) or pair[1] not in (0, 1):
            raise ValueError(
                f"rewards[{letter!r}] must be (reward, terminal), such as (1.0, True), got {checks.shown(cell)}"
            )
    return dict(rewards)
