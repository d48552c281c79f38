"""Grid worlds of App. A.1, sampled as in App. A.2 by the thousand, or drawn by hand as text.

One coordinate rule: cells are (row, col) with (0, 0) in the upper left, and `cell_to_state` numbers them row
by row. Walls keep a state, so that tables have the shape of the grid, but nothing enters them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.runtime import checks

OUTCOMES = ("left", "right", "up", "down", "stay")
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0))  # (row, col) step of each outcome

# The kinds of a cell in the order of App. A.2, step 2, and the empty cell last.
_KINDS = ("p_wall", "p_plus10", "p_plus5", "p_minus1", "p_minus5", "p_minus10")
_REWARD = np.array([0, 10, 5, -1, -5, -10, 0], np.float32)
_TERMINAL = np.array([0, 1, 1, 0, 1, 1, 0], bool)
_WALL, _PLUS10, _EMPTY = 0, 1, 6

TEXT_CELLS: Mapping[str, tuple[float, bool]] = {
    "S": (0.0, False),
    ".": (0.0, False),
    "+": (10.0, True),
    "p": (5.0, True),
    "-": (-1.0, False),
    "n": (-5.0, True),
    "x": (-10.0, True),
}
"""(reward, terminal) of each character of `from_text`; `#` is a wall, `S` the start."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """What a grid world looks like; with a leading axis [M] in a stack. H rows, W columns.

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
      p_wall: probability that a cell is a wall; drawn first. Each later kind only if none before it.
      p_plus10: of a terminal cell with reward +10.
      p_plus5: of a terminal cell with reward +5.
      p_minus1: of a cell with reward -1.
      p_minus5: of a terminal cell with reward -5.
      p_minus10: of a terminal cell with reward -10.
      noise: eta, probability that a move goes in one of the four directions, the chosen one included.
      termination_prob: probability that a step ends the episode wherever it leads.
      observation: "full" (the state) or "window" (what is around the agent; states alike share a row).
      window_radius: k >= 0, the window is (2k+1) x (2k+1) cells.
      redraw: draw a world again until a +10 is within reach (App. A.2, step 3), or keep the first draw.
      max_redraws: draws of a world before giving up on a +10 within reach.

    Raises:
      ValueError: one line, for a size below 1, a probability outside [0, 1], cell probabilities that sum to
        more than
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
        smallest = {"num_rows": 1, "num_cols": 1, "num_actions": 4, "window_radius": 0, "max_redraws": 1}
        for name, least in smallest.items():
            object.__setattr__(self, name, _whole(name, getattr(self, name), least))
        for name in (*_KINDS, "noise", "termination_prob"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.integer | np.floating) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {checks.shown(value)}")
        total = sum(self.cell_probs)
        if total > 1 + 1e-9:
            raise ValueError(f"the probabilities {', '.join(_KINDS)} must sum to at most 1, got {total:.6g}")
        if not isinstance(self.observation, str) or self.observation not in ("full", "window"):
            raise ValueError(f'observation must be "full" or "window", got {checks.shown(self.observation)}')
        if not isinstance(self.redraw, bool | np.bool_):
            raise ValueError(f"redraw must be True or False, got {checks.shown(self.redraw)}")
        _check_size(1, self)

    @property
    def cell_probs(self) -> tuple[float, ...]:
        """The probabilities of App. A.2 in the order drawn."""
        return tuple(float(getattr(self, name)) for name in _KINDS)

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


def sample_mdps(key: jax.Array, num_mdps: int, config: GridConfig | None = None, **overrides: Any) -> MDP:
    """Samples `num_mdps` grid worlds by App. A.2, stacked; world i depends on nothing but (key, i).

    With observation="window" the tables of all worlds get the number of rows that the largest needs, so
    `num_observations` alone depends on the other worlds.

    Args:
      key: a `jax.random.key`.
      num_mdps: M >= 1.
      config: the defaults are the paper's.
      **overrides: fields of `GridConfig` to change, as in `sample_mdps(key, 10, num_rows=5)`.

    Raises:
      ValueError: one line, for a bad option, p_plus10 = 0 with redrawing, or worlds still without a +10
        within reach of the start after `max_redraws` draws.
    """
    config = _override(config, overrides)
    num_mdps = _whole("num_mdps", num_mdps, 1)
    _check_size(num_mdps, config)
    if not isinstance(key, jax.Array) or not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        raise ValueError(f"key must be one key such as jax.random.key(0), got {checks.shown(key)}")
    kinds = _sample_kinds(key, num_mdps, config)
    start: Any = np.tile(np.array(config.start), (num_mdps, 1))
    return grid_to_mdp(Grid(kinds == _WALL, _REWARD[kinds], _TERMINAL[kinds], start), config)


def from_text(
    text: str | Sequence[str],
    rewards: Mapping[str, tuple[float, bool]] | None = None,
    config: GridConfig | None = None,
    **overrides: Any,
) -> MDP:
    """Builds a single grid world from a drawn map, one line per row: `from_text(["#.+", "S-."])`.

    Args:
      text: the rows, as one string or a list. `#` wall, `.` empty, `S` start (exactly one), and terminal `+`
        +10, `p` +5, `n` -5, `x` -10, and `-` -1, which is not terminal.
      rewards: (reward, terminal) of further characters, or of these: `{"S": (-1.0, False)}` is a start with
        -1.
      config: the dynamics and the observation; its sizes and cell probabilities are not used.
      **overrides: fields of `GridConfig` to change.

    Raises:
      ValueError: one line, for an empty or ragged map, no or several starts, or an unknown character.
    """
    lines = text.strip().splitlines() if isinstance(text, str) else checks.listed(text)
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"text must be a string, or a list of one string for each row, got {checks.shown(text)}")
    rows = [line.strip() for line in lines]
    if not rows or not rows[0]:
        raise ValueError("the map is empty: give at least one row with at least one cell")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} of the map has {len(row)} cells, but row 0 has {len(rows[0])}")
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
    config = _override(config, {"num_rows": len(rows), "num_cols": len(rows[0]), **overrides})
    grid = Grid(
        wall=letters == "#",
        reward=np.vectorize(lambda c: cells[c][0], otypes=[np.float32])(letters),
        terminal=np.vectorize(lambda c: cells[c][1], otypes=[bool])(letters),
        start=starts[0],
    )
    return grid_to_mdp(grid, config)


def grid_to_mdp(grid: Grid, config: GridConfig | None = None, **overrides: Any) -> MDP:
    """The MDP of a grid, or of a stack of them, with the dynamics and the observation of `config` (App. A.1).

    Nobody acts in walls and terminal cells: there every outcome stays, without reward, and ends the episode,
    so that their values are 0. Ids are 0, or 0 to M - 1.

    Raises:
      ValueError: one line, for arrays that do not fit each other, or a start in a wall, in a terminal cell or
        outside.
    """
    config = _override(config, overrides)
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
        "grid": grid,
    }
    return MDP(**jax.tree.map(jnp.asarray, arrays), num_observations=num_observations)


def action_outcomes(num_actions: int, noise: float) -> np.ndarray:
    """Distribution over the five outcomes of each action, float64 [A, 5] (App. A.1).

    The first four move: as chosen with probability 1 - noise, else in one of the four directions, the chosen
    one included. The rest stay.
    """
    table = np.zeros((num_actions, len(OUTCOMES)))
    table[:4, :4] = (1 - noise) * np.eye(4) + noise / 4
    # Paper: silent on noise of the further actions. Here: none, because only so Fig. 4's returns come out.
    table[4:, 4] = 1
    return table


def window_observations(grid: Grid, radius: int) -> tuple[np.ndarray, int]:
    """Numbers the distinct (2 * radius + 1)^2 windows of each world (App. A.1).

    A cell looks like a wall, also off the grid, or like (reward, terminal). Windows are numbered in the order
    of their first state; the states that nobody acts in share one more number after the last.

    Returns:
      int32 [S] or [M, S], and the number O of rows that the world with the most of them needs.
    """
    wall, reward, terminal = (np.asarray(leaf) for leaf in (grid.wall, grid.reward, grid.terminal))
    looks = np.unique(reward, return_inverse=True)[1].reshape(reward.shape) * 2 + terminal + 1
    looks = np.where(wall, 0, looks)
    looks = looks.astype(np.min_scalar_type(looks.max())).reshape(-1, *wall.shape[-2:])
    acting = ~(wall | terminal).reshape(len(looks), -1)
    radius = min(radius, max(wall.shape[-2:]))  # a larger window sees no more
    width = 2 * radius + 1
    observation = np.empty(acting.shape, np.int32)
    for m, look in enumerate(looks):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(look, radius), (width, width))
        rows = windows.reshape(acting.shape[1], -1)[acting[m]]
        rows = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()  # one item per window
        _, first, index = np.unique(rows, return_index=True, return_inverse=True)
        observation[m] = len(first)
        observation[m, acting[m]] = np.argsort(np.argsort(first))[index.ravel()]
    return observation.reshape(*wall.shape[:-2], -1), int(observation.max()) + 1


def _override(config: GridConfig | None, overrides: dict[str, Any]) -> GridConfig:
    if not isinstance(config, GridConfig | None):
        raise ValueError(f"config must be a GridConfig, got {checks.shown(config)}; give single fields by name")
    names = [field.name for field in dataclasses.fields(GridConfig)]
    for name in overrides:
        if name not in names:
            raise ValueError(f"unknown option {name!r} of a grid world; known are {', '.join(names)}")
    return dataclasses.replace(config or GridConfig(), **overrides)


def _whole(name: str, value: Any, least: int) -> int:
    if not checks.is_whole(value, least):
        most = f" and at most {checks.MOST}" if checks.is_whole(value, least, value) else ""
        raise ValueError(f"{name} must be a whole number, at least {least}{most}, got {checks.shown(value)}")
    return int(value)


def _check_size(num_mdps: int, config: GridConfig, size: tuple[int, int] | None = None) -> None:
    """ValueError where a table of all worlds would have more entries than can be numbered."""
    num_rows, num_cols = size or (config.num_rows, config.num_cols)
    entries = num_mdps * len(OUTCOMES) * max(int(num_rows) * int(num_cols), int(config.num_actions))
    if entries > checks.MOST:
        raise ValueError(
            f"{num_mdps} worlds of {num_rows} x {num_cols} cells and {config.num_actions} actions need tables of "
            f"{entries} entries, at most {checks.MOST} are possible: sample fewer or smaller worlds"
        )


def _checked_rewards(rewards: Any) -> dict[str, tuple[float, bool]]:
    """The `rewards` of `from_text`; ValueError naming the character whose entry is not (reward, terminal)."""
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


def _sample_kinds(key: jax.Array, num_mdps: int, config: GridConfig) -> np.ndarray:
    """Kinds of the cells of the first accepted attempt at each world, int8 [M, H, W].

    The host hands out lanes of a fixed number, so that redrawing a few worlds costs neither a pass over all
    of them nor a new program: the fewer worlds are left, the more attempts at each are made at once.
    """
    if config.redraw and config.p_plus10 == 0:
        raise ValueError("p_plus10 is 0, so no world has a +10 to reach: raise it, or set redraw=False")
    size, start = (config.num_rows, config.num_cols), config.start
    thresholds = (1 - np.cumprod(1 - np.array(config.cell_probs))).astype(np.float32)
    lanes = int(np.clip(1 << (num_mdps - 1).bit_length(), 64, 4096))
    sampled = np.empty((num_mdps, *size), np.int8)
    left, tried = np.arange(num_mdps, dtype=np.int32), 0
    while len(left):
        depth = min(max(lanes // len(left), 1), config.max_redraws - tried)
        if depth == 0:
            raise ValueError(
                f"{len(left)} of {num_mdps} worlds have no +10 within reach after max_redraws="
                f"{config.max_redraws} draws: raise p_plus10 or max_redraws, or lower p_wall"
            )
        worlds = np.repeat(left, depth)
        attempts = np.tile(np.arange(tried, tried + depth, dtype=np.int32), len(left))
        chunks = []
        for i in range(0, len(worlds), lanes):
            padding = (0, max(0, i + lanes - len(worlds)))
            pair = (np.pad(array[i : i + lanes], padding) for array in (worlds, attempts))
            chunks.append(_attempt(key, *pair, thresholds, size, start))
        kinds, within_reach = (np.concatenate(parts)[: len(worlds)] for parts in zip(*chunks, strict=True))
        accepted = within_reach.reshape(len(left), depth) | (not config.redraw)
        found, first = accepted.any(axis=1), accepted.argmax(axis=1)
        sampled[left[found]] = kinds.reshape(len(left), depth, *size)[found, first[found]]
        left, tried = left[~found], tried + depth
    return sampled


@functools.partial(jax.jit, static_argnames=("size", "start"))
def _attempt(
    key: jax.Array,
    world: jax.Array,
    attempt: jax.Array,
    thresholds: jax.Array,
    size: tuple[int, int],
    start: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """One draw in each lane: attempt `attempt` [L] at world `world` [L] (App. A.2).

    `thresholds` [6] are the cumulative probabilities of the kinds, traced: other ones need no new program.

    Returns:
      The kinds of the cells, int8 [L, H, W], and whether a path leads from the start to a +10 without
      crossing another terminal cell, bool [L].
    """

    def draw(world: jax.Array, attempt: jax.Array) -> jax.Array:
        u = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, world), attempt), size, jnp.float32)
        kinds = jnp.sum(u[..., None] >= thresholds, axis=-1, dtype=jnp.int8)
        # Paper: any cell may be drawn as anything. Here: the start stays empty, as Fig. 4's returns demand.
        return kinds.at[start].set(_EMPTY)

    def beside(cells: jax.Array) -> jax.Array:
        padded = jnp.pad(cells, ((0, 0), (1, 1), (1, 1)))
        return padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]

    def grow(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached = state[0] | (beside(state[0]) & passable)
        return reached, jnp.any(reached != state[0])

    kinds = jax.vmap(draw)(world, attempt)
    passable = ~(jnp.asarray(_TERMINAL)[kinds] | (kinds == _WALL))
    seed = jnp.zeros(kinds.shape, jnp.bool_).at[:, start[0], start[1]].set(True)
    reached, _ = jax.lax.while_loop(lambda state: state[1], grow, (seed, jnp.bool_(True)))
    return kinds, jnp.any(beside(reached) & (kinds == _PLUS10), axis=(1, 2))


def _neighbours(num_rows: int, num_cols: int) -> np.ndarray:
    """The state that each outcome leads to in a grid without walls, int32 [S, 5]; off the grid it stays."""
    row, col = np.divmod(np.arange(num_rows * num_cols, dtype=np.int32), num_cols)
    rows, cols = (np.stack([x + step[axis] for step in MOVES], 1) for axis, x in enumerate((row, col)))
    inside = (rows >= 0) & (rows < num_rows) & (cols >= 0) & (cols < num_cols)
    stay = cell_to_state(row, col, num_cols)[:, None]
    return np.where(inside, cell_to_state(rows, cols, num_cols), stay).astype(np.int32)


def _transitions(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """successor, reward and terminal, each [..., S, 5], by numpy: one program less to compile for each size."""
    cells = (grid.wall, grid.reward, grid.terminal)
    wall, reward, terminal = (np.asarray(x).reshape(*x.shape[:-2], -1) for x in cells)
    neighbours = _neighbours(*grid.wall.shape[-2:])
    idle = (wall | terminal)[..., None]
    stays = wall[..., neighbours] | idle
    here = np.arange(wall.shape[-1], dtype=np.int32)[:, None]
    return (
        np.where(stays, here, neighbours),
        np.where(idle, np.float32(0), np.where(stays, reward[..., None], reward[..., neighbours])),
        idle | (~stays & terminal[..., neighbours]),
    )


def _checked(grid: Grid, config: GridConfig) -> Grid:
    """The grid as numpy arrays of the right dtypes, or a ValueError."""
    if not isinstance(grid, Grid):
        raise ValueError(f"grid must be a gridworld.Grid, got {checks.shown(grid)}; from_text makes worlds of maps")
    wall, reward, terminal, start = (_cells(name, getattr(grid, name)) for name in _CELL_KINDS)
    if wall.ndim not in (2, 3) or 0 in wall.shape or not wall.shape == reward.shape == terminal.shape:
        shapes = f"{wall.shape}, {reward.shape} and {terminal.shape}"
        raise ValueError(f"wall, reward, terminal must be [H, W] or [M, H, W] and not empty, got {shapes}")
    if start.shape != (*wall.shape[:-2], 2):
        raise ValueError(f"start must be (row, col), shape {(*wall.shape[:-2], 2)}, got shape {start.shape}")
    _check_size(len(wall) if wall.ndim == 3 else 1, config, wall.shape[-2:])
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


_CELL_KINDS = {"wall": "iub", "reward": "iuf", "terminal": "iub", "start": "iu"}  # NumPy's letters of the kinds


def _cells(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        array = np.asarray(None)
    if array.dtype.kind not in _CELL_KINDS[name]:
        raise ValueError(f"{name} of a grid must be an array of numbers or booleans, got {checks.shown(value)}")
    return array


def _check_starts(bad: np.ndarray, start: np.ndarray, place: str) -> None:
    if bad.any():
        row, col = start[bad.astype(bool)][0]
        raise ValueError(f"the start ({row}, {col}) is {place}")
