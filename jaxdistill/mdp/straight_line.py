"""Expected visits of many policies of one world, by an elimination whose order is planned once for the world.

The system d = start + P^T d is sparse, and its pattern is that of the world: it does not depend on the policy. So the
elimination is planned on the host, as a list of updates v[t] -= v[a] * v[b] / v[c] of the entries of the system, its
right side among them. A compiled loop follows the list, on several policies at once. In a grid world with 400 states
these are about 10,000 updates, a tenth of the work of an iterative method.

The matrix I - P^T needs no pivots, because no entry of P is negative and its rows sum to at most 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse
from scipy.sparse import linalg

from jaxdistill.mdp.chains import RESIDUAL_ROUNDING
from jaxdistill.mdp.mdp import MDP

_LARGEST = 2**16  # entries of a system, whose numbers are kept in 16 bits


class Plan(NamedTuple):
    """The elimination of one world; entry 0 is not part of the system, and takes what belongs nowhere.

    Attributes:
      origin: int [E], the entry of the table [S * K] of the probabilities of going on, for each possible step.
      target: int [E], the entry of the system from which that probability is subtracted.
      updates: int [N, 4], t, a, b and c of each update.
      right_side, diagonal: int [S], the entries that hold the solution and its divisor for each state; 0 for a state
        that no policy visits.
      initial: float64 [entries], the system of a policy that ends every episode after one step.
    """

    origin: np.ndarray
    target: np.ndarray
    updates: np.ndarray
    right_side: np.ndarray
    diagonal: np.ndarray
    initial: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self)


def plan(mdp: MDP, is_reached: np.ndarray, most_updates: int) -> Plan | None:
    """The plan for a single world, or None if it has more than `most_updates` updates.

    Args:
      mdp: one world.
      is_reached: bool [S], the states that some policy visits.
      most_updates: the most updates that pay.
    """
    num_states = mdp.num_states
    number = np.cumsum(is_reached) - 1
    size = int(is_reached.sum())
    successor = np.asarray(mdp.successor)
    is_step = is_reached[:, None] & ~np.asarray(mdp.terminal) & is_reached[successor]
    origin = np.flatnonzero(is_step)
    source, destination = number[origin // successor.shape[1]], number[successor.ravel()[origin]]
    rank = _order(source, destination, size)
    source, destination = rank[source], rank[destination]
    later = _filled(source, destination, size, most_updates)
    if later is None:
        return None
    entry, num_entries = _numbered(later)
    if num_entries > _LARGEST:
        return None
    of_state = np.zeros(num_states, np.int64)
    of_state[is_reached] = rank
    diagonal, right_side = (np.where(is_reached, first + of_state, 0) for first in (1, 1 + size))
    start = np.asarray(mdp.start_probs, np.float64)
    initial = np.zeros(num_entries)
    initial[: size + 1] = 1
    np.add.at(initial, right_side[np.asarray(mdp.start)], start / start.sum())
    return Plan(
        origin.astype(np.int32),
        entry[destination, source].astype(np.int32),
        _updates(later, entry).astype(np.uint16),
        right_side.astype(np.int32),
        diagonal.astype(np.int32),
        initial,
    )


def _order(source: np.ndarray, destination: np.ndarray, size: int) -> np.ndarray:
    """The position of each state in the order of elimination, which is that of minimum degree, [size]."""
    steps = sparse.csc_array((np.full(len(source), 1 / (len(source) + 1)), (source, destination)), shape=(size, size))
    system = sparse.csc_array(sparse.eye_array(size) - (steps + steps.T) / 2)
    factors = linalg.splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.asarray(factors.perm_c, np.int64)


def _filled(source: np.ndarray, destination: np.ndarray, size: int, most_updates: int) -> list[list[int]] | None:
    """The states after each state to which it is linked when it is eliminated; None if there are too many updates."""
    linked: list[set[int]] = [set() for _ in range(size)]
    for i, j in zip(source.tolist(), destination.tolist(), strict=True):
        if i != j:
            linked[min(i, j)].add(max(i, j))
    num_updates = 0
    for states in linked:
        num_updates += len(states) * (len(states) + 2)
        if num_updates > most_updates:
            return None
        if states:
            first = min(states)  # It is linked to all others from now on.
            linked[first] |= states - {first}
    return [sorted(states) for states in linked]


def _numbered(later: list[list[int]]) -> tuple[np.ndarray, int]:
    """The entry of the system for each row and column, int [size, size], and the number of all entries.

    First comes the diagonal, then the right side, and then all others, those included that are 0 before the
    elimination.
    """
    size = len(later)
    entry = np.zeros((size, size), np.int64)
    entry[range(size), range(size)] = np.arange(1, size + 1)
    row = np.repeat(np.arange(size), [len(states) for states in later])
    column = np.array([j for states in later for j in states], np.int64)
    entry[row, column] = 1 + 2 * size + 2 * np.arange(len(row))
    entry[column, row] = entry[row, column] + 1
    return entry, 1 + 2 * size + 2 * len(row)


def _updates(later: list[list[int]], entry: np.ndarray) -> np.ndarray:
    """The updates, int [N, 4]: each state is eliminated from all later equations, and then from all earlier ones."""
    size = len(later)
    updates = []
    for k, states in enumerate(later):
        rows = np.array(states, np.int64)
        columns = np.append(rows, size)  # the right side is one more column
        targets = np.concatenate([entry[rows[:, None], rows], 1 + size + rows[:, None]], axis=1)
        pivot_row = np.append(entry[k, rows], 1 + size + k)
        shape = (len(rows), len(columns))
        parts = (targets, entry[rows, k][:, None], pivot_row[None], entry[k, k])
        updates.append(np.stack([np.broadcast_to(part, shape) for part in parts], axis=-1).reshape(-1, 4))
    earlier = np.repeat(np.arange(size), [len(states) for states in later])[::-1]
    column = np.array([j for states in later for j in states], np.int64)[::-1]
    parts = (1 + size + earlier, entry[earlier, column], 1 + size + column, entry[column, column])
    return np.concatenate([*updates, np.stack(parts, axis=1)])


class Flows(NamedTuple):
    """The steps of B policies in one world, in float64.

    Attributes:
      onward: [S * K, B], the probability of each step after which the episode goes on; the discount is a part of it.
      ending: [S, B], the probability that a step is the last one.
    """

    onward: jax.Array
    ending: jax.Array


class Packed(NamedTuple):
    """Plans of several worlds, padded to equal sizes; arrays [M, ...], as in `Plan`."""

    steps: np.ndarray  # int32 [M, E, 2]: target and origin
    num_steps: np.ndarray  # int32 [M]
    updates: np.ndarray  # uint16 [M, N, 4]
    num_updates: np.ndarray  # int32 [M]
    right_side: np.ndarray  # int32 [M, S]
    diagonal: np.ndarray  # int32 [M, S]
    initial: np.ndarray  # float64 [M, entries]


class Sizes(NamedTuple):
    """The numbers of steps, of updates and of entries of packed plans."""

    steps: int
    updates: int
    entries: int


def sizes(plans: Sequence[Plan]) -> Sizes:
    """Powers of two that are large enough for all plans."""
    largest = zip(*((len(p.origin), len(p.updates), len(p.initial)) for p in plans), strict=True)
    return Sizes(*(1 << max(int(max(numbers)) - 1, 0).bit_length() for numbers in largest))


def packed(plans: Sequence[Plan], sizes: Sizes) -> Packed:
    """The plans in arrays of the given sizes."""
    steps = np.zeros((len(plans), sizes.steps, 2), np.int32)
    updates = np.zeros((len(plans), sizes.updates, 4), np.uint16)
    initial = np.zeros((len(plans), sizes.entries))
    for i, item in enumerate(plans):
        initial[i, : len(item.initial)] = item.initial
        steps[i, : len(item.origin)] = np.stack([item.target, item.origin], axis=1)
        updates[i, : len(item.updates)] = item.updates
    counts = [np.array([len(getattr(p, name)) for p in plans], np.int32) for name in ("origin", "updates")]
    right_side, diagonal = (np.stack([getattr(p, name) for p in plans]) for name in ("right_side", "diagonal"))
    return Packed(steps, counts[0], updates, counts[1], right_side, diagonal, initial)


def visits(plans: Packed, mdps: MDP, flows: Flows) -> tuple[jax.Array, jax.Array]:
    """Expected visits of B policies in each of G worlds, [G, S, B], and a bound on the sum of their errors, [G, B].

    The bound is inf or nan where a state that is reached has no probability of ending the episode at once.

    Args:
      plans: of the worlds.
      mdps: the worlds, in float64.
      flows: the probabilities of the steps, with a leading axis [G].
    """
    # Only the loops run for one world at a time. What surrounds them is computed faster for all worlds together.
    systems = jax.lax.map(_eliminated, (plans, flows.onward))
    take = jax.vmap(lambda table, index: table[index])
    is_reached = (plans.diagonal > 0)[:, :, None]
    solutions = jnp.where(is_reached, take(systems, plans.right_side) / take(systems, plans.diagonal), 0)
    starts = take(plans.initial, plans.right_side)
    difference = jnp.where(is_reached, starts[:, :, None], 0) - solutions
    residuals = jax.lax.map(_residual, (plans, mdps.successor, flows.onward, difference, solutions))
    longest = 1 / jnp.min(jnp.where(is_reached, flows.ending, 1), axis=1)
    residual = jnp.sum(jnp.abs(residuals), axis=1)
    return solutions, longest * (residual + RESIDUAL_ROUNDING * jnp.sum(solutions, axis=1))


def _eliminated(arguments: tuple[Packed, jax.Array]) -> jax.Array:
    """The system of one world after all updates, [entries, B], for probabilities of going on [S * K, B]."""
    plan, onward = arguments

    def subtract_step(i: jax.Array, system: jax.Array) -> jax.Array:
        target, origin = plan.steps[i, 0], plan.steps[i, 1]
        return _written(system, target, _row(system, target) - _row(onward, origin))

    def update(i: jax.Array, system: jax.Array) -> jax.Array:
        t, a, b, c = (plan.updates[i, column].astype(jnp.int32) for column in range(4))
        return _written(system, t, _row(system, t) - _row(system, a) * _row(system, b) / _row(system, c))

    system = jnp.broadcast_to(plan.initial[:, None], (len(plan.initial), onward.shape[1]))
    system = lax.fori_loop(0, plan.num_steps, subtract_step, system)
    return lax.fori_loop(0, plan.num_updates, update, system)


def _residual(arguments: tuple[Packed, jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
    """start + P^T d - d, [S, B], from start - d and d."""
    plan, successor, onward, difference, visits = arguments
    num_outcomes, targets = successor.shape[1], successor.ravel()

    def add_step(i: jax.Array, residual: jax.Array) -> jax.Array:
        origin = plan.steps[i, 1]
        target = targets[origin]
        flow = _row(onward, origin) * _row(visits, origin // num_outcomes)
        return _written(residual, target, _row(residual, target) + flow)

    return lax.fori_loop(0, plan.num_steps, add_step, difference)


def _row(table: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_slice_in_dim(table, index, 1)


def _written(table: jax.Array, index: jax.Array, row: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(table, row, index, 0)
