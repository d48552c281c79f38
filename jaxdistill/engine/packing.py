"""Flat tables of rows, and the packing of worlds and teachers into such tables.

A table has one row for each world, teacher or student, and position in it. Numbers that are read together are in one
row, so that a step reads few cache lines.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from jaxdistill.mdp import MDP

_READ = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
_WRITE = lax.ScatterDimensionNumbers(
    update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)


def read(tables: Any, index: jax.Array) -> Any:
    """Reads rows `index` [W], which must be in range, of a table [N, R] or of each table of a tree; [W, R].

    With `index` [W, F], it reads F rows for each of the W, [W, F, R].
    """
    if index.ndim == 2:
        rows = read(tables, index.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(*index.shape, x.shape[-1]), rows)
    return jax.tree.map(
        lambda table: lax.gather(table, index[:, None], _READ, (1, table.shape[1]), mode="promise_in_bounds"), tables
    )


def write(tables: Any, index: jax.Array, rows: Any) -> Any:
    """Replaces rows `index` [W] of a table [N, R], or of each table of a tree, by `rows` [W, R].

    With `index` [W, F] and `rows` [W, F, R], it replaces F rows for each of the W. The indices must be increasing and
    distinct. On CPU the rows are written in a loop, because XLA compiles a loop into one function without calls inside
    only if it contains no scatter.
    """
    if index.ndim == 2:
        index, rows = index.reshape(-1), jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), rows)
    return lax.platform_dependent(tables, index, rows, cpu=_write_in_turn, default=_scatter)


def _write_in_turn(tables: Any, index: jax.Array, rows: Any) -> Any:
    """Writes one row after another."""

    def write_row(i: jax.Array, tables: Any) -> Any:
        position = lax.dynamic_index_in_dim(index, i, keepdims=False)
        start = (position, jnp.zeros_like(position))

        def update(table: jax.Array, rows: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice(table, lax.dynamic_index_in_dim(rows, i), start)

        return jax.tree.map(update, tables, rows)

    return lax.fori_loop(0, index.shape[0], write_row, tables)


def _scatter(tables: Any, index: jax.Array, rows: Any) -> Any:
    """Writes all rows at once, which is fastest on an accelerator."""

    def update(table: jax.Array, rows: jax.Array) -> jax.Array:
        return lax.scatter(
            table,
            index[:, None],
            rows,
            _WRITE,
            indices_are_sorted=True,
            unique_indices=True,
            mode="promise_in_bounds",
        )

    return jax.tree.map(update, tables, rows)


class Transition(NamedTuple):
    """The columns of rows of `Worlds.arrivals`, each [W].

    Attributes:
      mdp_state: int32, the successor state.
      observation: int32, its observation.
      reward: float32.
      is_terminal: bool, whether the arrival ends the episode.
    """

    mdp_state: jax.Array
    observation: jax.Array
    reward: jax.Array
    is_terminal: jax.Array


def transition(entry: jax.Array) -> Transition:
    """The `Transition` of rows [W, 4] of `Worlds.arrivals`."""
    reward = lax.bitcast_convert_type(entry[:, 2], jnp.float32)
    return Transition(entry[:, 0], entry[:, 1], reward, entry[:, 3] > 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Worlds:
    """Stacked MDPs in the tables that the engine reads.

    Attributes:
      arrivals: int32 [M * S * K, 4]: successor, its observation, reward (float32 bits), terminal.
      outcomes: float32 [M * (S or 1) * A, K], cumulative outcome probabilities (`cumulative`).
      continue_prob: float32 [M, 1].
      starts: int32 [M * B, 2]: start state, its observation.
      features: int32 [M * S, F], the rows that a state adds up, increasing; None where each state has one row, its
        observation. In place of padding, it has the numbers O, O + 1, ..., of spare rows that stay 0.
      start_cumulative: float32 [M, B], cumulative start probabilities.
      num_states, num_actions, num_outcomes, num_starts, num_observations: S, A, K, B and O.
      outcomes_by_state: whether outcome probabilities depend on the state.
    """

    arrivals: jax.Array
    outcomes: jax.Array
    continue_prob: jax.Array
    starts: jax.Array
    features: jax.Array | None
    start_cumulative: jax.Array
    num_states: int = dataclasses.field(metadata={"static": True})
    num_actions: int = dataclasses.field(metadata={"static": True})
    num_outcomes: int = dataclasses.field(metadata={"static": True})
    num_starts: int = dataclasses.field(metadata={"static": True})
    num_observations: int = dataclasses.field(metadata={"static": True})
    outcomes_by_state: bool = dataclasses.field(metadata={"static": True})


def pack_worlds(mdps: MDP) -> Worlds:
    """Packs a stack of MDPs with NumPy on the host; the tables are device arrays."""
    successor, features = np.asarray(mdps.successor), np.asarray(mdps.features)
    num_mdps = len(successor)
    has_features = mdps.num_features > 1
    # With features, a step looks its rows up by its state, so that outcomes need no lists of them.
    observation = np.tile(np.arange(mdps.num_states), (num_mdps, 1)) if has_features else features[..., 0]
    world = np.arange(num_mdps).reshape(-1, 1, 1)
    arrivals = np.stack(
        [
            successor,
            observation[world, successor],
            np.asarray(mdps.reward, np.float32).view(np.int32),
            np.asarray(mdps.terminal, np.int32),
        ],
        axis=-1,
    )
    start = np.asarray(mdps.start)
    starts = np.stack([start, np.take_along_axis(observation, start, axis=1)], axis=-1)
    probs = np.asarray(mdps.outcome_probs)
    return Worlds(
        arrivals=jnp.asarray(arrivals.reshape(-1, 4), jnp.int32),
        outcomes=jnp.asarray(cumulative(probs).reshape(-1, probs.shape[-1])),
        continue_prob=jnp.asarray(mdps.continue_prob, jnp.float32)[:, None],
        starts=jnp.asarray(starts.reshape(-1, 2), jnp.int32),
        features=jnp.asarray(_without_padding(features, mdps.num_observations)) if has_features else None,
        start_cumulative=jnp.asarray(cumulative(np.asarray(mdps.start_probs))),
        num_states=mdps.num_states,
        num_actions=mdps.num_actions,
        num_outcomes=mdps.num_outcomes,
        num_starts=start.shape[1],
        num_observations=mdps.num_observations,
        outcomes_by_state=probs.ndim == 4,
    )


def _without_padding(features: np.ndarray, num_observations: int) -> np.ndarray:
    """`Worlds.features` of the features [M, S, F] of MDPs.

    Each place without a feature has a spare row of its own, because the rows that a step writes must be distinct.
    """
    num_features = features.shape[-1]
    ordered = np.sort(np.where(features < 0, num_observations, features), axis=-1).astype(np.int32)
    num_active = (features >= 0).sum(-1, keepdims=True)
    spare = num_observations + np.arange(num_features, dtype=np.int32) - num_active
    return np.where(ordered == num_observations, spare, ordered).reshape(-1, num_features).astype(np.int32)


def cumulative(probs: np.ndarray) -> np.ndarray:
    """Cumulative sums of probabilities over the last axis, float32, set to 2 from the last positive entry on.

    So the number of entries that a u in [0, 1] reaches is never the index of an entry of probability 0, however u was
    rounded.
    """
    probs = np.asarray(probs, np.float64)
    sums = np.cumsum(probs, axis=-1) / np.sum(probs, axis=-1, keepdims=True)
    mass_from = np.cumsum(probs[..., ::-1], axis=-1)[..., ::-1]
    mass_after = np.concatenate([mass_from[..., 1:], np.zeros_like(mass_from[..., :1])], axis=-1)
    return np.where(mass_after > 0, sums, 2.0).astype(np.float32)


def count_reached(row: jax.Array, u: jax.Array) -> jax.Array:
    """The index that a uniform u [] selects from a row [K] of `cumulative`; int32 []."""
    if row.shape[0] > 16:
        return jnp.sum(u >= row, dtype=jnp.int32)
    index = jnp.zeros((), jnp.int32)
    for k in range(row.shape[0] - 1):
        index += (u >= row[k]).astype(jnp.int32)
    return index


def pack_teacher(probs: npt.ArrayLike, values: npt.ArrayLike, others: npt.ArrayLike | None = None) -> jax.Array:
    """Packs T teachers into rows [T * S, (1 + N) A + 1]: the policy in a state, its value, the N further policies."""
    parts = [np.asarray(probs, np.float32), np.asarray(values, np.float32)[..., None]]
    if others is not None:  # [..., N, S, A]
        parts += list(np.moveaxis(np.asarray(others, np.float32), -3, 0))
    rows = np.concatenate(parts, axis=-1)
    return jnp.asarray(rows.reshape(-1, rows.shape[-1]))
