"""Sums over the episodes of a policy in an MDP, computed in float64 also inside a trace, and differentiable."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.mdp import chains
from jaxdistill.mdp.chains import Chain
from jaxdistill.mdp.mdp import MDP, NO_TIME_LIMIT
from jaxdistill.mdp.precision import in_float64
from jaxdistill.runtime.products import einsum
from jaxdistill.runtime.surroundings import default_promotion

SUM_TOLERANCE = 1e-4  # The sum of a row of probabilities may differ from 1 by this much.


_COMMON_ONLY = contextvars.ContextVar("common_only", default=False)


@contextlib.contextmanager
def common_only(flag: bool) -> Iterator[None]:
    """Whether sums and optimal policies traced in the block are nan for all but common chains (`chains.total`)."""
    token = _COMMON_ONLY.set(flag)
    try:
        yield
    finally:
        _COMMON_ONLY.reset(token)


def is_common_only() -> bool:
    """Whether the innermost block of `common_only` says so."""
    return _COMMON_ONLY.get()


class Problem(NamedTuple):
    """A sum over the episodes of a policy in one MDP.

    Attributes:
      mdp: the MDP. Its time limit may be None, if it is known to have none.
      policy: [S, A].
      discount: [].
      source: what is summed: a reward [S, K] of each outcome, or a number [S] of each visited state. With None, the
        sums are those of the expected visits from the start, backward in time.
    """

    mdp: MDP
    policy: jax.Array
    discount: jax.Array | float
    source: jax.Array | None


def distributions(table: jax.Array) -> jax.Array:
    """Rows that sum to 1 up to rounding, divided by their sums; nan in all other rows.

    The division removes the rounding of float32 probabilities. The divisor is not differentiated, so a derivative with
    respect to a probability treats it as an independent variable.
    """
    total = jax.lax.stop_gradient(jnp.sum(table, axis=-1, keepdims=True))
    return table / jnp.where(jnp.abs(total - 1) <= SUM_TOLERANCE, total, jnp.nan)


def outcome_weights(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Probability [S, K] of each outcome under `policy` [S, A]."""
    spec = "sa,ak->sk" if mdp.outcome_probs.ndim == 2 else "sa,sak->sk"
    probs = distributions(policy), distributions(mdp.outcome_probs)
    return einsum(spec, *probs)


def continuation(mdp: MDP, discount: jax.Array | float) -> jax.Array:
    """Weight of the successor's value, [S, K]: discount * continue_prob, 0 where arrival ends the episode."""
    return jnp.where(mdp.terminal, 0, discount * jnp.minimum(mdp.continue_prob, 1))


def start_distribution(mdp: MDP) -> jax.Array:
    """The distribution of the first state, [S]."""
    probs = distributions(mdp.start_probs)
    return jnp.zeros(mdp.num_states, probs.dtype).at[mdp.start].add(probs)


def chain_of(mdp: MDP, weights: jax.Array, discount: jax.Array | float) -> Chain:
    """The chain of an MDP for outcome probabilities `weights` [S, K]."""
    going_on = continuation(mdp, discount)
    limit = jnp.int32(NO_TIME_LIMIT) if mdp.time_limit is None else mdp.time_limit
    return Chain(mdp.successor, weights * going_on, jnp.sum(weights * (1 - going_on), axis=-1), limit)


@jax.custom_jvp
def total(problem: Problem) -> jax.Array:
    """The sum of a problem from every state, or the visits of every state, [S]; nan where it has no finite value.

    Derivatives are those of a world without time limit, and nan with one.
    """
    return _total(is_common_only(), problem)


@in_float64
def _total(common_only: Any, problem: Problem) -> jax.Array:
    chain, source = _chain_and_source(problem)
    return chains.total(chain, source, problem.source is None, problem.mdp.time_limit is not None, common_only)


@in_float64
def _total_of(transpose: Any, arrays: tuple[Problem, jax.Array]) -> jax.Array:
    """The sum of a problem with another source [S] and without a time limit."""
    chain, _ = _chain_and_source(arrays[0])
    return chains.total(chain, arrays[1], transpose, may_be_cut=False)


def _chain_and_source(problem: Problem) -> tuple[Chain, jax.Array]:
    mdp, policy, discount, source = problem
    weights = outcome_weights(mdp, policy)
    if source is None:
        source = start_distribution(mdp)
    elif source.ndim == 2:
        source = jnp.sum(weights * source, axis=-1)
    return chain_of(mdp, weights, discount), source


@total.defjvp
@default_promotion()  # a derivative is taken after the function that was called has returned
def _total_jvp(primals: tuple[Problem], tangents: tuple[Problem]) -> tuple[jax.Array, jax.Array]:
    """The derivative dv of v = source + P v is the solution of dv = (d source + dP v) + P dv."""
    problem, is_backward = primals[0], primals[0].source is None
    step = chains.before_step if is_backward else chains.after_step
    sums = total(problem)

    def one_step(problem: Problem) -> jax.Array:
        chain, source = _chain_and_source(problem)
        return source + step(chain, sums)

    _, change = jax.jvp(one_step, primals, tangents)
    chain, _ = _chain_and_source(problem)
    slope = jax.lax.custom_linear_solve(
        lambda v: v - step(chain, v),
        change,
        solve=lambda _, b: _total_of(is_backward, (problem, b)),
        transpose_solve=lambda _, b: _total_of(not is_backward, (problem, b)),
    )
    if problem.mdp.time_limit is not None:
        slope = slope * jnp.where(problem.mdp.time_limit < NO_TIME_LIMIT, jnp.nan, 1)
    return sums, slope
