"""Sums over the episodes of a Markov chain on S states with K weighted successors each; accurate to 1e-9, or else nan.

A sum over time is the solution of a linear system, v = source + P v, or with P^T for expected visits. Almost all of
these systems are solved by a Krylov method on the successor table, at a cost of S * K per iteration. Its solution is
accepted if its residual, times a bound on the mean length of the episodes, is small enough. Otherwise the states are
eliminated one by one, which is accurate for episodes of any length and costs S^3. The sum of a state is nan if it
diverges or has no limit, and all sums are nan if the terms of the system cancel so far that float64 is not enough.

All functions of this module must be called with 64 bits on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.mdp.elimination import eliminate
from jaxdistill.mdp.mdp import NO_TIME_LIMIT
from jaxdistill.runtime.products import matmul

ACCURACY = 1e-9
"""The largest error of a solution, relative to its largest entry; where it would be larger, the solution is nan."""

LARGEST_DENSE = 2048
"""The most states for which an [S, S] table is made, which is needed for long episodes and those that never end."""

RESIDUAL_ROUNDING = 5e-16
"""Rounding error of a residual, relative to the solution."""

_UNROLL = 16  # Up to this many outcomes, one gather for each outcome fuses better than one gather for all.
_LONG = 1e5  # Steps; where episodes may be longer on average, their length is computed to bound the error.
_ROUNDING = 1e-13  # Relative error of eliminated sums whose terms have the same sign.


class Chain(NamedTuple):
    """A Markov chain in float64; each row of `onward`, with the entry of `ending`, sums to 1.

    Attributes:
      successor: int [S, K].
      onward: [S, K], the probability of each step after which the episode goes on; the discount is a part of it.
      ending: [S], the probability that a step is the last one, which is computed without a subtraction of sums.
      time_limit: int [], the largest number of steps.
    """

    successor: jax.Array
    onward: jax.Array
    ending: jax.Array
    time_limit: jax.Array


def after_step(chain: Chain, v: jax.Array) -> jax.Array:
    """P v, the mean of v [S] after one step from each state, [S]."""
    if chain.successor.shape[1] > _UNROLL:
        return jnp.sum(chain.onward * v[chain.successor], axis=-1)
    total = jnp.zeros_like(v)
    for k in range(chain.successor.shape[1]):
        total += chain.onward[:, k] * v[chain.successor[:, k]]
    return total


def before_step(chain: Chain, visits: jax.Array) -> jax.Array:
    """P^T visits, the expected visits one step later, [S]."""
    return jnp.zeros_like(visits).at[chain.successor].add(chain.onward * visits[:, None])


def total(chain: Chain, source: jax.Array, transpose: bool, may_be_cut: bool, common_only: bool = False) -> jax.Array:
    """sum_t P^t source over the steps of an episode, or sum_t (P^T)^t source, [S].

    Args:
      chain, source: the chain and the source [S].
      transpose: whether P^T takes the place of P.
      may_be_cut: False where it is known that the chain has no time limit.
      common_only: whether all sums are nan unless every step can be the last one and the Krylov method is accurate.
        Almost every chain is so, and the program for the others takes three times as long to compile.
    """
    endless_total = _common_total if common_only else _endless_total
    if not may_be_cut:
        return endless_total(chain, source, transpose)
    is_cut = chain.time_limit < NO_TIME_LIMIT
    return jax.lax.cond(
        is_cut, lambda: _cut_total(chain, source, transpose), lambda: endless_total(chain, source, transpose)
    )


def _common_total(chain: Chain, source: jax.Array, transpose: bool) -> jax.Array:
    """The total over all steps if every step can be the last one and the Krylov method is accurate; else nan."""
    longest = 1 / jnp.min(chain.ending)
    v, is_accurate = _by_krylov(chain, source, transpose, longest)
    return jnp.where(is_accurate & (longest <= _LONG), v, jnp.nan)


def _cut_total(chain: Chain, source: jax.Array, transpose: bool) -> jax.Array:
    """The total over at most `time_limit` steps, by that many sweeps, or fewer where the rest adds nothing."""
    is_invalid = _is_invalid(chain, source)
    chain, source = _with_ends(chain, source, is_invalid, transpose)
    step, size = (before_step, jnp.sum) if transpose else (after_step, jnp.max)

    def unfinished(carry: tuple) -> jax.Array:
        sums, term, num_steps = carry
        # A later term is not larger than this one, because the rows of P sum to at most 1.
        rest = (chain.time_limit - num_steps) * size(jnp.abs(term))
        return (num_steps < chain.time_limit) & (rest > _ROUNDING * jnp.max(jnp.abs(sums)))

    def sweep(carry: tuple) -> tuple:
        sums, term, num_steps = carry
        return sums + term, step(chain, term), num_steps + 1

    sums = jax.lax.while_loop(unfinished, sweep, (jnp.zeros_like(source), source, jnp.int32(0)))[0]
    is_nan = jnp.any(is_invalid) if transpose else _can_reach(chain, is_invalid)
    return jnp.where(is_nan, jnp.nan, sums)


def _endless_total(chain: Chain, source: jax.Array, transpose: bool) -> jax.Array:
    """The total over all steps, by a linear system from which states without a finite total have been removed."""
    is_invalid = _is_invalid(chain, source)
    is_regular = ~jnp.any(is_invalid) & (jnp.all(chain.ending > 0) | jnp.all(_can_reach(chain, chain.ending > 0)))
    no_state = jnp.zeros_like(is_invalid)
    removed, is_nan = only_if(
        ~is_regular, lambda _: _irregular_states(chain, source, is_invalid, transpose), (no_state, no_state)
    )
    regular_chain, regular_source = _with_ends(chain, source, removed, transpose)
    return jnp.where(is_nan, jnp.nan, _solve(regular_chain, regular_source, transpose))


def _is_invalid(chain: Chain, source: jax.Array) -> jax.Array:
    """Whether a state has numbers that are not finite, because no policy or no source is defined there, bool [S]."""
    return ~jnp.isfinite(jnp.sum(chain.onward, axis=-1) + chain.ending + source)


def _with_ends(chain: Chain, source: jax.Array, ends: jax.Array, transpose: bool) -> tuple[Chain, jax.Array]:
    """The chain in which every step from a state of `ends` is the last one, and the source without their entries.

    With `transpose`, the source holds the visits at the start, which stay.
    """
    onward, ending = jnp.where(ends[:, None], 0, chain.onward), jnp.where(ends, 1, chain.ending)
    is_kept = jnp.isfinite(source) if transpose else ~ends
    return chain._replace(onward=onward, ending=ending), jnp.where(is_kept, source, 0)


def _irregular_states(
    chain: Chain, source: jax.Array, is_invalid: jax.Array, transpose: bool
) -> tuple[jax.Array, jax.Array]:
    """Two sets of states, bool [S]: those to be removed from the linear system, and those whose total is nan.

    Removed are the recurrent states, which the chain visits for ever, and the invalid ones. A recurrent state without
    any source in its loop has the total 0.
    """
    num_states = len(source)
    if num_states > LARGEST_DENSE:
        return jnp.ones(num_states, bool), jnp.ones(num_states, bool)
    reach = _reachable(chain)
    can_end = jnp.any(reach & ((chain.ending > 0) | is_invalid)[None], axis=1)
    is_recurrent = ~can_end & ~jnp.any(reach & ~reach.T, axis=1)
    if transpose:
        is_nan = (is_recurrent & jnp.any(reach & (source != 0)[:, None], axis=0)) | jnp.any(is_invalid)
    else:
        diverges = is_invalid | (is_recurrent & jnp.any(reach & (source != 0)[None], axis=1))
        is_nan = jnp.any(reach & diverges[None], axis=1)
    return is_recurrent | is_invalid, is_nan


def _reachable(chain: Chain) -> jax.Array:
    """Whether any number of steps, 0 included, can lead from a state to another, bool [S, S]."""
    num_states = len(chain.ending)
    reach = jnp.eye(num_states, dtype=jnp.float32)
    reach = reach.at[jnp.arange(num_states)[:, None], chain.successor].max((chain.onward > 0).astype(jnp.float32))
    num_squarings = num_states.bit_length()  # Each one doubles the number of steps.
    return jax.lax.fori_loop(0, num_squarings, lambda _, reach: jnp.minimum(matmul(reach, reach), 1), reach) > 0


def _can_reach(chain: Chain, goal: jax.Array) -> jax.Array:
    """Whether any number of steps, 0 included, can lead from a state to one of `goal`, bool [S]."""

    def grow(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reaches = carry[0] | jnp.any((chain.onward > 0) & carry[0][chain.successor], axis=-1)
        return reaches, jnp.any(reaches != carry[0])

    return jax.lax.while_loop(lambda carry: carry[1], grow, (goal, jnp.any(goal)))[0]


def _solve(chain: Chain, source: jax.Array, transpose: bool) -> jax.Array:
    """The solution of v = source + P v, or with P^T, for a chain that ends from every state; nan if inaccurate."""
    v, is_accurate = _by_krylov(chain, source, transpose, _longest_episode(chain))
    if len(source) <= LARGEST_DENSE:
        v, is_accurate = only_if(~is_accurate, lambda _: _by_elimination(chain, source, transpose), (v, is_accurate))
    return jnp.where(is_accurate, v, jnp.nan)


def _by_krylov(chain: Chain, source: jax.Array, transpose: bool, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A solution by stabilised bi-conjugate gradients with iterative refinement, and whether it is accurate.

    One round is usually enough. The rounds end when the residual is rounding, or after a round that does not halve it.
    `longest` is a bound on the mean length of an episode from any state.
    """
    step, size = (before_step, jnp.sum) if transpose else (after_step, jnp.max)

    def matvec(v: jax.Array) -> jax.Array:
        return v - step(chain, v)

    def unfinished(carry: tuple) -> jax.Array:
        v, residual, has_improved = carry
        return has_improved & (size(jnp.abs(residual)) > 1e-14 * size(jnp.abs(v)))

    def refine(carry: tuple) -> tuple:
        v, residual, _ = carry
        new_v = v + jax.scipy.sparse.linalg.bicgstab(matvec, residual, tol=1e-14, maxiter=300)[0]
        new_residual = source - matvec(new_v)
        has_improved = size(jnp.abs(new_residual)) < 0.5 * size(jnp.abs(residual))  # False for nan.
        return jnp.where(has_improved, new_v, v), jnp.where(has_improved, new_residual, residual), has_improved

    v, residual, _ = jax.lax.while_loop(unfinished, refine, (jnp.zeros_like(source), source, jnp.isfinite(longest)))
    # The norm of (I - P)^-1 is the mean length of the longest episode. The residual itself is rounded.
    error = longest * (size(jnp.abs(residual)) + RESIDUAL_ROUNDING * size(jnp.abs(v)))
    return v, jnp.all(source == 0) | (error <= ACCURACY * jnp.max(jnp.abs(v)))


def _longest_episode(chain: Chain) -> jax.Array:
    """A bound on the mean length of an episode from any state, []; inf where none is known."""
    bound = 1 / jnp.min(chain.ending)

    def by_solution(_: jax.Array) -> jax.Array:
        ones = jnp.ones_like(chain.ending)
        length, _ = jax.scipy.sparse.linalg.bicgstab(lambda v: v - after_step(chain, v), ones, tol=0.01, maxiter=200)
        # The mean length L is the solution of (I - P) L = 1. So x >= 0 with (I - P) x >= 1/2 is at least L / 2.
        step = length - after_step(chain, length) - RESIDUAL_ROUNDING * jnp.max(length)
        is_bound = (jnp.min(length) >= 0) & (jnp.min(step) >= 0.5)
        return jnp.where(is_bound, 2 * jnp.max(length), jnp.inf)

    return only_if(bound > _LONG, by_solution, bound)


def _by_elimination(chain: Chain, source: jax.Array, transpose: bool) -> tuple[jax.Array, jax.Array]:
    """The solution by elimination of the states, and whether it is accurate."""
    num_states = len(source)
    matrix = jnp.zeros((num_states, num_states)).at[jnp.arange(num_states)[:, None], chain.successor].add(chain.onward)
    signs = jnp.stack([jnp.maximum(source, 0), jnp.maximum(-source, 0)], axis=1)
    positive, negative = eliminate(matrix, chain.ending, signs, transpose).T
    v = positive - negative
    return v, _ROUNDING * jnp.max(positive + negative) <= ACCURACY * jnp.max(jnp.abs(v))


def only_if(condition: jax.Array, fn: Callable[[Any], Any], value: Any) -> Any:
    """fn(value) where `condition` holds, and `value` elsewhere.

    It is a loop of at most one pass, because `vmap` makes `lax.cond` compute both branches.
    """
    once = jax.lax.while_loop(
        lambda carry: carry[0], lambda carry: (jnp.bool_(False), fn(carry[1])), (condition, value)
    )
    return once[1]
