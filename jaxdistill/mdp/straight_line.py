"""Expected visits of many policies of one world, by an elimination whose order is planned once for the world.

The system d = start + P^T d is sparse, and its pattern is that of the world: it does not depend on the policy. So the
elimination is planned on the host, as stages that change entries v of the system, its right side among them: a stage
divides some entries by its pivot, v[t] /= v[pivot], and then subtracts products, v[t] -= v[a] * v[b]. A compiled loop
follows the plan, on several policies at once. In a grid world with 400 states these are about 10,000 products, a tenth
of the work of an iterative method.

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
      steps: int [E, 2], for each possible step the entry of the system from which its probability is subtracted, and
        the entry of the table [S * K] of the probabilities of going on.
      divisions: int [D], t of each division.
      products: int [N, 3], t, a and b of each product.
      stages: int [L, 3], the pivot of each stage, and the numbers of divisions and of products at its end.
      right_side: int [S], the entry that holds the solution for each state; 0 for a state that no policy visits.
      initial: float64 [entries], the system of a policy that ends every episode after one step.
    """

    steps: np.ndarray
    divisions: np.ndarray
    products: np.ndarray
    stages: np.ndarray
    right_side: np.ndarray
    initial: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self)


def plan(mdp: MDP, is_reached: np.ndarray, most_products: int) -> Plan | None:
    """The plan for a single world, or None if it has more than `most_products` products.

    Args:
      mdp: one world.
      is_reached: bool [S], the states that some policy visits.
      most_products: the most products that pay.
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
    later = _filled(source, destination, size, most_products)
    if later is None:
        return None
    entry, num_entries = _numbered(later)
    if num_entries > _LARGEST:
        return None
    of_state = np.zeros(num_states, np.int64)
    of_state[is_reached] = rank
    right_side = np.where(is_reached, entry[of_state, size], 0)
    start = np.asarray(mdp.start_probs, np.float64)
    initial = np.zeros(num_entries)
    initial[[0, *np.diagonal(entry)]] = 1
    np.add.at(initial, right_side[np.asarray(mdp.start)], start / start.sum())
    return Plan(
        np.stack([entry[destination, source], origin], axis=1).astype(np.int32),
        *_stages(later, entry),
        right_side.astype(np.int32),
        initial,
    )


def _order(source: np.ndarray, destination: np.ndarray, size: int) -> np.ndarray:
    """The position of each state in the order of elimination, which is that of minimum degree, [size]."""
    steps = sparse.csc_array((np.full(len(source), 1 / (len(source) + 1)), (source, destination)), shape=(size, size))
    system = sparse.csc_array(sparse.eye_array(size) - (steps + steps.T) / 2)
    factors = linalg.splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.asarray(factors.perm_c, np.int64)


def _filled(source: np.ndarray, destination: np.ndarray, size: int, most_products: int) -> list[list[int]] | None:
    """The states after each state to which it is linked when it is eliminated; None if there are too many products."""
    linked: list[set[int]] = [set() for _ in range(size)]
    for i, j in zip(source.tolist(), destination.tolist(), strict=True):
        if i != j:
            linked[min(i, j)].add(max(i, j))
    num_products = 0
    for states in linked:
        num_products += len(states) * (len(states) + 2)
        if num_products > most_products:
            return None
        if states:
            first = min(states)  # It is linked to all others from now on.
            linked[first] |= states - {first}
    return [sorted(states) for states in linked]


def _numbered(later: list[list[int]]) -> tuple[np.ndarray, int]:
    """The entry of the system for each row and column, int [size, size + 1], and the number of all entries.

    The last column is the right side. It comes first in the system, then comes the diagonal, and then all others, those
    included that are 0 before the elimination.
    """
    size = len(later)
    entry = np.zeros((size, size + 1), np.int64)
    entry[:, size] = 1 + np.arange(size)
    entry[range(size), range(size)] = 1 + size + np.arange(size)
    row = np.repeat(np.arange(size), [len(states) for states in later])
    column = np.array([j for states in later for j in states], np.int64)
    entry[row, column] = 1 + 2 * size + 2 * np.arange(len(row))
    entry[column, row] = entry[row, column] + 1
    return entry, 1 + 2 * size + 2 * len(row)


def _stages(later: list[list[int]], entry: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The divisions, the products and the stages of a `Plan`.

    In the first stages each state is eliminated from all later equations. In the last ones the visits of each state are
    computed, the last state's first, and inserted into all earlier equations.
    """
    size = len(later)
    num_later = np.array([len(states) for states in later])
    row = np.repeat(np.arange(size), num_later)
    column = np.array([j for states in later for j in states], np.int64)
    by_column = np.argsort(-column, kind="stable")
    insertions = np.stack([entry[row, size], entry[row, column], entry[column, size]], axis=1)[by_column]
    divisions = np.concatenate([entry[column, row], entry[::-1, size]])
    products = np.concatenate([_eliminations(later, num_later, entry), insertions])
    num_earlier = np.bincount(column, minlength=size)[::-1]
    numbers_of_divisions = np.concatenate([num_later, np.ones(size, np.int64)])
    numbers_of_products = np.concatenate([num_later * (num_later + 1), num_earlier])
    pivots = np.concatenate([np.diagonal(entry), np.diagonal(entry)[::-1]])
    stages = np.stack([pivots, np.cumsum(numbers_of_divisions), np.cumsum(numbers_of_products)], axis=1)
    return divisions.astype(np.uint16), products.astype(np.uint16), stages.astype(np.int32)


def _eliminations(later: list[list[int]], num_later: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """The products that eliminate each state from all later equations, int [N, 3].

    The states with equally many later ones are treated together, because a plan is made for each world.
    """
    size = len(later)
    num_products = num_later * (num_later + 1)
    first = np.cumsum(num_products) - num_products
    products = np.empty((int(num_products.sum()), 3), np.int64)
    for number in np.unique(num_later[num_later > 0]):
        states = np.flatnonzero(num_later == number)
        rows = np.array([later[state] for state in states], np.int64)  # [G, number]
        columns = np.pad(rows, ((0, 0), (0, 1)), constant_values=size)[:, None]  # [G, 1, number + 1]
        rows, states = rows[:, :, None], states[:, None, None]
        parts = np.broadcast_arrays(entry[rows, columns], entry[rows, states], entry[states, columns])
        position = first[states[:, :, 0]] + np.arange(number * (number + 1))
        products[position] = np.stack(parts, axis=-1).reshape(len(states), -1, 3)
    return products


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
    divisions: np.ndarray  # uint16 [M, D]
    products: np.ndarray  # uint16 [M, N, 3]
    stages: np.ndarray  # int32 [M, L, 3]
    num_stages: np.ndarray  # int32 [M]
    right_side: np.ndarray  # int32 [M, S]
    initial: np.ndarray  # float64 [M, entries]


class Sizes(NamedTuple):
    """The numbers of steps, of divisions, of products, of stages and of entries of packed plans."""

    steps: int
    divisions: int
    products: int
    stages: int
    initial: int


EMPTY = Sizes(1, 1, 1, 1, 1)


def sizes(plans: Sequence[Plan]) -> Sizes:
    """Powers of two that are large enough for all plans."""
    largest = (max(len(getattr(plan, name)) for plan in plans) for name in Sizes._fields)
    return Sizes(*(1 << max(number - 1, 0).bit_length() for number in largest))


def packed(plans: Sequence[Plan], sizes: Sizes) -> Packed:
    """The plans in arrays of the given sizes."""

    def padded(name: str) -> np.ndarray:
        arrays = [getattr(plan, name) for plan in plans]
        table = np.zeros((len(plans), getattr(sizes, name), *arrays[0].shape[1:]), arrays[0].dtype)
        for row, array in zip(table, arrays, strict=True):
            row[: len(array)] = array
        return table

    num_steps, num_stages = (np.array([len(getattr(p, name)) for p in plans], np.int32) for name in ("steps", "stages"))
    return Packed(
        padded("steps"),
        num_steps,
        padded("divisions"),
        padded("products"),
        padded("stages"),
        num_stages,
        np.stack([p.right_side for p in plans]),
        padded("initial"),
    )


def visits(plans: Packed, mdps: MDP, flows: Flows) -> tuple[jax.Array, jax.Array]:
    """Expected visits of B policies in each of G worlds, [G, S, B], and a bound on the sum of their errors, [G, B].

    The bound is inf or nan where a state that is reached has no probability of ending the episode at once.

    Args:
      plans: of the worlds.
      mdps: the worlds, in float64.
      flows: the probabilities of the steps, with a leading axis [G].
    """
    # Only the loops run for one world at a time. What surrounds them is computed faster for all worlds together.
    right_sides = jax.lax.map(_eliminated, (plans, flows.onward))
    take = jax.vmap(lambda table, index: table[index])
    is_reached = (plans.right_side > 0)[:, :, None]
    solutions = jnp.where(is_reached, take(right_sides, plans.right_side), 0)
    starts = take(plans.initial, plans.right_side)
    difference = jnp.where(is_reached, starts[:, :, None], 0) - solutions
    residuals = jax.lax.map(_residual, (plans, mdps.successor, flows.onward, difference, solutions))
    longest = 1 / jnp.min(jnp.where(is_reached, flows.ending, 1), axis=1)
    residual = jnp.sum(jnp.abs(residuals), axis=1)
    return solutions, longest * (residual + RESIDUAL_ROUNDING * jnp.sum(solutions, axis=1))


def _eliminated(arguments: tuple[Packed, jax.Array]) -> jax.Array:
    """The first S + 1 entries of the system of one world after all stages, [S + 1, B]; the right side is among them."""
    plan, onward = arguments

    def subtract_step(i: jax.Array, system: jax.Array) -> jax.Array:
        target, origin = plan.steps[i, 0], plan.steps[i, 1]
        return _written(system, target, _row(system, target) - _row(onward, origin))

    def stage(i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        system, first_division, first_product = carry
        pivot, last_division, last_product = (plan.stages[i, column] for column in range(3))
        inverse = 1 / _row(system, pivot)

        def divide(j: jax.Array, system: jax.Array) -> jax.Array:
            target = plan.divisions[j].astype(jnp.int32)
            return _written(system, target, _row(system, target) * inverse)

        def subtract(j: jax.Array, system: jax.Array) -> jax.Array:
            t, a, b = (plan.products[j, column].astype(jnp.int32) for column in range(3))
            return _written(system, t, _row(system, t) - _row(system, a) * _row(system, b))

        system = lax.fori_loop(first_division, last_division, divide, system)
        return lax.fori_loop(first_product, last_product, subtract, system), last_division, last_product

    system = jnp.broadcast_to(plan.initial[:, None], (len(plan.initial), onward.shape[1]))
    system = lax.fori_loop(0, plan.num_steps, subtract_step, system)
    zero = jnp.zeros((), jnp.int32)
    return lax.fori_loop(0, plan.num_stages, stage, (system, zero, zero))[0][: len(plan.right_side) + 1]


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
