"""Sampling of grid worlds by the procedure of App. A.2, thousands at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.runtime import checks
from jaxdistill.worlds.grid import (
    EMPTY,
    KIND_IS_TERMINAL,
    KIND_REWARDS,
    PLUS10,
    WALL,
    Grid,
    GridConfig,
    check_num_entries,
    whole_number,
    with_overrides,
)
from jaxdistill.worlds.grid_mdp import grid_to_mdp

_SMALLEST_BATCH, _LARGEST_BATCH = 64, 4096


def sample_mdps(key: jax.Array, num_mdps: int, config: GridConfig | None = None, **overrides: Any) -> MDP:
    """Samples a stack of `num_mdps` grid worlds by App. A.2; world i depends on (key, i) alone.

    One exception: with observation="window", the tables of all worlds have as many rows as the world with the most
    windows needs, so `num_observations` depends on all worlds.

    Args:
      key: a `jax.random.key`.
      num_mdps: M >= 1.
      config: the defaults are the paper's.
      **overrides: fields of `GridConfig` to change, as in `sample_mdps(key, 10, num_rows=5)`.

    Raises:
      ValueError: one line, for a bad option, p_plus10 = 0 with redrawing, or worlds that have no +10 within reach of
        the start in `max_redraws` draws.
    """
    config = with_overrides(config, overrides)
    num_mdps = whole_number("num_mdps", num_mdps, 1)
    check_num_entries(num_mdps, config, (config.num_rows, config.num_cols))
    kinds = _sample_kinds(checks.as_key(key), num_mdps, config)
    start: Any = np.tile(np.array(config.start), (num_mdps, 1))
    return grid_to_mdp(Grid(kinds == WALL, KIND_REWARDS[kinds], KIND_IS_TERMINAL[kinds], start), config)


def _sample_kinds(key: jax.Array, num_mdps: int, config: GridConfig) -> np.ndarray:
    """The kinds of the cells in the first accepted attempt at each world, int8 [M, H, W].

    Each round draws a full batch: the fewer worlds are pending, the more attempts are made at each of them. A few
    worlds that are often rejected therefore need few rounds, and all rounds run the same compiled program.
    """
    if config.redraw and config.p_plus10 == 0:
        raise ValueError("p_plus10 is 0, so no world has a +10 to reach: raise it, or set redraw=False")
    batch_size = int(np.clip(1 << (num_mdps - 1).bit_length(), _SMALLEST_BATCH, _LARGEST_BATCH))
    kinds = np.empty((num_mdps, config.num_rows, config.num_cols), np.int8)
    pending, num_tried = np.arange(num_mdps, dtype=np.int32), 0
    while len(pending):
        num_attempts = min(max(batch_size // len(pending), 1), config.max_redraws - num_tried)
        if num_attempts == 0:
            raise ValueError(
                f"{len(pending)} of {num_mdps} worlds have no +10 within reach after max_redraws="
                f"{config.max_redraws} draws: raise p_plus10 or max_redraws, or lower p_wall"
            )
        attempts = np.arange(num_tried, num_tried + num_attempts, dtype=np.int32)
        pairs = (np.repeat(pending, num_attempts), np.tile(attempts, len(pending)))
        drawn, within_reach = _draw_in_batches(key, *pairs, batch_size, config)
        drawn = drawn.reshape(len(pending), num_attempts, *drawn.shape[1:])
        accepted = within_reach.reshape(len(pending), num_attempts) | (not config.redraw)
        is_done, first = accepted.any(axis=1), accepted.argmax(axis=1)
        kinds[pending[is_done]] = drawn[is_done, first[is_done]]
        pending, num_tried = pending[~is_done], num_tried + num_attempts
    return kinds


def _draw_in_batches(
    key: jax.Array, worlds: np.ndarray, attempts: np.ndarray, batch_size: int, config: GridConfig
) -> tuple[np.ndarray, np.ndarray]:
    """`_draw` for any number N of worlds and attempts [N], padded with zeros to full batches."""
    thresholds = (1 - np.cumprod(1 - np.array(config.cell_probs))).astype(np.float32)
    batches = []
    for begin in range(0, len(worlds), batch_size):
        padding = (0, max(0, begin + batch_size - len(worlds)))
        pair = (np.pad(array[begin : begin + batch_size], padding) for array in (worlds, attempts))
        batches.append(_draw(key, *pair, thresholds, (config.num_rows, config.num_cols), config.start))
    kinds, within_reach = (np.concatenate(parts)[: len(worlds)] for parts in zip(*batches, strict=True))
    return kinds, within_reach


@functools.partial(jax.jit, static_argnames=("size", "start"))
def _draw(
    key: jax.Array,
    worlds: jax.Array,
    attempts: jax.Array,
    thresholds: jax.Array,
    size: tuple[int, int],
    start: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Draws a batch of B grids: attempt `attempts[b]` at world `worlds[b]` (App. A.2).

    `thresholds` [6] are the cumulative probabilities of the kinds. They are traced, so that other probabilities do not
    need another compiled program.

    Returns:
      The kinds of the cells, int8 [B, H, W], and whether a path leads from the start to a +10 without crossing
      another terminal cell, bool [B].
    """

    def draw_grid(world: jax.Array, attempt: jax.Array) -> jax.Array:
        u = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, world), attempt), size, jnp.float32)
        kinds = jnp.sum(u[..., None] >= thresholds, axis=-1, dtype=jnp.int8)
        # Paper: any cell may be drawn as anything. Here: the start stays empty, because Fig. 4's returns demand it.
        return kinds.at[start].set(EMPTY)

    kinds = jax.vmap(draw_grid)(worlds, attempts)
    return kinds, _plus10_within_reach(kinds, start)


def _plus10_within_reach(kinds: jax.Array, start: tuple[int, int]) -> jax.Array:
    """Whether a path through passable cells leads from the start to a cell beside a +10, bool [B]."""

    def beside(cells: jax.Array) -> jax.Array:
        padded = jnp.pad(cells, ((0, 0), (1, 1), (1, 1)))
        return padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]

    def grow(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached = state[0] | (beside(state[0]) & passable)
        return reached, jnp.any(reached != state[0])

    passable = ~(jnp.asarray(KIND_IS_TERMINAL)[kinds] | (kinds == WALL))
    only_start = jnp.zeros(kinds.shape, jnp.bool_).at[:, start[0], start[1]].set(True)
    reached, _ = jax.lax.while_loop(lambda state: state[1], grow, (only_start, jnp.bool_(True)))
    return jnp.any(beside(reached) & (kinds == PLUS10), axis=(1, 2))
