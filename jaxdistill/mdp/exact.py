"""Exact values, visits and episode lengths of policies, and optimal values, without sampling.

A policy and an MDP make a Markov chain over S states with K weighted successors each. So everything here is a linear
system (I - P) v = b. It is solved on the successor table, at a cost of S * K per sweep and never with an S x S matrix.
Fixed-point sweeps v <- b + P v decide when a solution is good enough. A Krylov method runs before them, because it
needs tens of sweeps where they need hundreds. Solutions of the linear systems can be differentiated.

Every function takes a single MDP, or a stack of them: then each array argument has a leading axis [M] or is shared by
all MDPs, and the result has one. Floating dtypes follow the inputs. All functions may be used inside `vmap` and `jit`.

States in which the agent never acts (walls, terminals) have the value that their rows of the tables imply; in grid
worlds it is 0.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from jaxdistill.mdp.endings import never_ending_state as never_ending_state
from jaxdistill.mdp.mdp import MDP

Scalar = jax.Array | float
P = ParamSpec("P")

TIE = 1e-4
"""Action values that differ by at most this much are treated as equal: computed values are rounded."""

_MAX_SWEEPS = 10_000
_UNROLL = 16  # Up to this many outcomes, one gather for each outcome fuses better than one gather for all.
_BLOCK_ELEMENTS = 2**26  # The largest table [block, S, max(A, K)] held at once on an accelerator.


def _over_stack(**axes: str) -> Callable[[Callable[P, jax.Array]], Callable[P, jax.Array]]:
    """Makes a function of one MDP check the shapes of its arrays, compile, and map over a stack of MDPs.

    Args:
      **axes: the axes of each array argument, as letters: S states, A actions, K outcomes, O observations. All other
        arguments are scalars.
    """

    def decorate(fn: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
        signature = inspect.signature(fn)

        @functools.wraps(fn)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
            scalars = signature.bind(*args, **kwargs).arguments
            mdp = scalars.pop("mdp")
            arrays = {name: scalars.pop(name) for name in axes if scalars.get(name) is not None}
            stacked, shared = _checked_arrays(mdp, arrays, axes)
            return _map_over_stack(fn, mdp, stacked, shared, scalars)

        return wrapper

    return decorate


def _checked_arrays(
    mdp: MDP, arrays: dict[str, Any], axes: dict[str, str]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The arrays with a leading axis [M], and those that all MDPs share; raises ValueError for a wrong shape."""
    sizes = {"S": mdp.num_states, "A": mdp.num_actions, "K": mdp.num_outcomes, "O": mdp.num_observations}
    stacked: dict[str, jax.Array] = {}
    shared: dict[str, jax.Array] = {}
    for name, value in arrays.items():
        shape = tuple(sizes[letter] for letter in axes[name])
        allowed = [shape, (mdp.num_mdps, *shape)] if mdp.is_stacked else [shape]
        if jnp.shape(value) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise ValueError(f"{name} must have shape {expected} for {mdp}, got {jnp.shape(value)}")
        group = shared if jnp.ndim(value) == len(shape) else stacked
        group[name] = jnp.asarray(value)
    return stacked, shared


@functools.partial(jax.jit, static_argnames="fn")
def _map_over_stack(fn: Callable[..., jax.Array], mdp: MDP, stacked: dict, shared: dict, scalars: dict) -> jax.Array:
    """Calls `fn` once for a single MDP, and once for each MDP of a stack with its entries of the `stacked` arrays."""
    if not mdp.is_stacked:
        return fn(mdp, **shared, **scalars)

    def call(mdp_and_arrays: tuple[MDP, dict]) -> jax.Array:
        single_mdp, arrays = mdp_and_arrays
        return fn(single_mdp, **arrays, **shared, **scalars)

    # A block sweeps until its slowest MDP is done. So one MDP at a time is fastest on CPU, where launching is cheap.
    block = _BLOCK_ELEMENTS // (mdp.num_states * max(mdp.num_actions, mdp.num_outcomes))
    block = 0 if jax.default_backend() == "cpu" else max(1, min(block, mdp.num_mdps))
    return jax.lax.map(call, (mdp, stacked), batch_size=block or None)


def uniform_policy(mdp: MDP) -> jax.Array:
    """The policy [S, A] that takes every action with probability 1 / A; shared by all MDPs of a stack."""
    return jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions, mdp.outcome_probs.dtype)


@_over_stack(table="OA")
def policy_from_table(mdp: MDP, table: jax.Array) -> jax.Array:
    """The policy [S, A] of a table [O, A] with one row per observation: aliased states share a row."""
    return table[mdp.observation]


@_over_stack(policy="SA")
def outcome_weights(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Probability [S, K] of each outcome under `policy` [S, A]."""
    spec = "sa,ak->sk" if mdp.outcome_probs.ndim == 2 else "sa,sak->sk"
    return jnp.einsum(spec, policy, mdp.outcome_probs, precision=jax.lax.Precision.HIGHEST)


@_over_stack(policy="SA", reward="SK")
def policy_values(
    mdp: MDP,
    policy: jax.Array,
    discount: Scalar = 1.0,
    reward: jax.Array | None = None,
    *,
    tolerance: Scalar | None = None,
    max_sweeps: int = _MAX_SWEEPS,
) -> jax.Array:
    """V(s) = E[sum_t discount^t r_t | s_0 = s] under `policy`, [S], units of return.

    Args:
      mdp: the MDP, or a stack.
      policy: [S, A] action probabilities.
      discount: in [0, 1]. The probability of ending (`continue_prob`, terminals) comes on top of it.
      reward: [S, K], takes the place of the environment's reward of each outcome.
      tolerance: largest residual max_s |(b + P v - v)(s)|, relative to max_s |v(s)|; by default four times the machine
        epsilon of the dtype, about what rounding allows. The error is at most the residual times the largest mean
        length of an episode.
      max_sweeps: largest number of sweeps; only MDPs whose episodes may (almost) never end need that many.

    Returns:
      Values [S]; nan in states from which the sum diverges or has not converged after `max_sweeps`, for example if
      `discount * continue_prob` is 1 and the policy may loop for ever through rewards.
    """
    weights = outcome_weights(mdp, policy)
    b = jnp.sum(weights * (mdp.reward if reward is None else reward), axis=-1)
    return _solve(mdp, weights, b, discount, tolerance, max_sweeps)


@_over_stack(policy="SA", per_state="S")
def expected_sum(
    mdp: MDP,
    policy: jax.Array,
    per_state: jax.Array,
    discount: Scalar = 1.0,
    *,
    tolerance: Scalar | None = None,
    max_sweeps: int = _MAX_SWEEPS,
) -> jax.Array:
    """E[sum_t discount^t f(s_t) | s_0 = s] over the states s_t in which the agent acts, s_0 included: [S], units of f.

    `per_state` is f, [S]: for example KL(pi(s)||pi_theta(s)) for the expected KL along trajectories (Fig. 3). The other
    arguments, and the meaning of nan, are as in `policy_values`.
    """
    return _solve(mdp, outcome_weights(mdp, policy), per_state, discount, tolerance, max_sweeps)


@_over_stack(policy="SA")
def expected_length(mdp: MDP, policy: jax.Array, *, max_sweeps: int = _MAX_SWEEPS) -> jax.Array:
    """Mean number of steps of an episode from every state, [S], >= 1; inf where it may never end."""
    ones = jnp.ones(mdp.num_states, policy.dtype)
    return _diverged_to_inf(expected_sum(mdp, policy, ones, max_sweeps=max_sweeps), policy)


@_over_stack(policy="SA")
def occupancy(mdp: MDP, policy: jax.Array, discount: Scalar = 1.0, *, max_sweeps: int = _MAX_SWEEPS) -> jax.Array:
    """Expected visits of an episode, d(s) = E[sum_t discount^t 1(s_t = s)], [S], >= 0.

    A visit is a step in which the agent acts: the start counts, and the arrival in a terminal state does not. So at
    discount 1 the sum of d is the expected length, and sum_s d(s) f(s) is the `expected_sum` of f from the start. The
    result is inf in states whose expected number of visits is infinite.
    """
    weights = outcome_weights(mdp, policy)
    b = jnp.zeros(mdp.num_states, weights.dtype).at[mdp.start].add(mdp.start_probs.astype(weights.dtype))
    visits = _solve(mdp, weights, b, discount, None, max_sweeps, transpose=True)
    return _diverged_to_inf(jnp.where(visits < 0, 0, visits), policy)  # Rounding may leave -1e-9.


@_over_stack(values="S")
def start_value(mdp: MDP, values: jax.Array) -> jax.Array:
    """Mean of `values` [S] over the start states, []."""
    return jnp.sum(jnp.where(mdp.start_probs > 0, mdp.start_probs * values[mdp.start], 0))


@_over_stack(values="S", reward="SK")
def action_values(mdp: MDP, values: jax.Array, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """Q(s, a) = E[r + discount * V(s') * 1(the episode goes on) | s, a] for V = `values` [S]: [S, A]."""
    reward = mdp.reward if reward is None else reward
    returns = reward + _discounts(mdp, discount, values.dtype) * values[mdp.successor]
    spec = "sk,ak->sa" if mdp.outcome_probs.ndim == 2 else "sk,sak->sa"
    return jnp.einsum(spec, returns, mdp.outcome_probs, precision=jax.lax.Precision.HIGHEST)


@_over_stack(reward="SK")
def optimal_values(
    mdp: MDP,
    discount: Scalar = 1.0,
    reward: jax.Array | None = None,
    *,
    tolerance: Scalar | None = None,
    max_sweeps: int = _MAX_SWEEPS,
) -> jax.Array:
    """V*(s), the largest V(s) of any policy, [S], by value iteration from V = 0.

    Arguments are as in `policy_values`. Values are nan in states from which an infinite return is possible, and where
    they have not converged after `max_sweeps`.
    `reward=-mdp.reward` gives the values that the adversarial teacher (Fig. 6) maximises.
    """

    def backup(values: jax.Array) -> jax.Array:
        return jnp.max(action_values(mdp, values, discount, reward), axis=-1)

    rewards = mdp.reward if reward is None else reward
    zeros = jnp.zeros(mdp.num_states, jnp.result_type(rewards, mdp.outcome_probs, mdp.continue_prob))
    values = _sweep(backup, zeros, tolerance, max_sweeps)
    best_action = jnp.argmax(action_values(mdp, values, discount, reward), axis=-1)
    best_policy = jax.nn.one_hot(best_action, mdp.num_actions, dtype=values.dtype)
    chain = _chain(mdp, outcome_weights(mdp, best_policy), discount)
    return _nan_unless_converged(values, backup(values) - values, chain, tolerance)


@_over_stack(reward="SK")
def optimal_action_values(mdp: MDP, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """Q*(s, a), the return of action a followed by an optimal policy, [S, A]; arguments as in `optimal_values`."""
    return action_values(mdp, optimal_values(mdp, discount, reward), discount, reward)


def greedy(q: jax.Array, tie_tolerance: Scalar = 0.0) -> jax.Array:
    """Probabilities [..., A], shared equally by the actions within `tie_tolerance` of the largest q [..., A].

    At 0 only exact ties are shared, as for a Q-learning teacher (App. A.4). Computed values tie only up to rounding:
    use `TIE` for those. `greedy(-q)` is the worst action.
    """
    best = (q >= q.max(axis=-1, keepdims=True) - jnp.asarray(tie_tolerance, q.dtype)).astype(q.dtype)
    return best / best.sum(axis=-1, keepdims=True)


def _discounts(mdp: MDP, discount: Scalar, dtype: Any) -> jax.Array:
    """Weight of the successor's value, [S, K]: discount * continue_prob, 0 where arrival ends the episode."""
    return jnp.where(mdp.terminal, 0, jnp.asarray(discount, dtype) * mdp.continue_prob.astype(dtype))


def _diverged_to_inf(sums: jax.Array, policy: jax.Array) -> jax.Array:
    """Replaces nan by inf in sums of terms >= 0, which can only diverge upwards; a policy with nan keeps its nan."""
    return jnp.where(jnp.isnan(sums) & jnp.isfinite(policy).all(), jnp.inf, sums)


def _chain(mdp: MDP, weights: jax.Array, discount: Scalar) -> Callable[[jax.Array], jax.Array]:
    """The map v -> P v, [S] to [S], for outcome probabilities `weights` [S, K]."""
    transition_weights = weights * _discounts(mdp, discount, weights.dtype)

    def chain(v: jax.Array) -> jax.Array:
        if mdp.num_outcomes > _UNROLL:
            return jnp.sum(transition_weights * v[mdp.successor], axis=-1)
        total = jnp.zeros_like(v)
        for k in range(mdp.num_outcomes):
            total += transition_weights[:, k] * v[mdp.successor[:, k]]
        return total

    return chain


def _solve(
    mdp: MDP,
    weights: jax.Array,
    b: jax.Array,
    discount: Scalar,
    tolerance: Scalar | None,
    max_sweeps: int,
    transpose: bool = False,
) -> jax.Array:
    """Solves v = b + P v, or its transpose, for the chain P with outcome probabilities `weights` [S, K]."""
    weights = weights.astype(jnp.result_type(b, weights))
    b = b.astype(weights.dtype)
    # If an episode may never end, I - P can be singular, and a Krylov method may converge to any of the solutions.
    # Sweeps from 0 converge to the solution that is the sum over time. They need several times as many sweeps as an
    # episode has steps.
    is_discounted = jnp.asarray(discount, b.dtype) * mdp.continue_prob < 1
    fixed_weights = jax.lax.stop_gradient(weights)
    is_unique = jax.lax.cond(is_discounted, lambda: jnp.bool_(True), lambda: _surely_ends(mdp, fixed_weights))

    def solver(matvec: Callable, b: jax.Array) -> jax.Array:
        proposal = jnp.where(is_unique, _krylov(matvec, b, tolerance), 0)
        return _sweep(lambda v: v + (b - matvec(v)), proposal, tolerance, max_sweeps)

    def chain_or_transpose(weights: jax.Array) -> Callable[[jax.Array], jax.Array]:
        chain = _chain(mdp, weights, discount)
        transposed = jax.linear_transpose(chain, b)
        return (lambda v: transposed(v)[0]) if transpose else chain

    chain = chain_or_transpose(weights)
    values = jax.lax.custom_linear_solve(lambda v: v - chain(v), b, solver, transpose_solve=solver)
    fixed_values, fixed_chain = jax.lax.stop_gradient(values), chain_or_transpose(fixed_weights)
    change = jax.lax.stop_gradient(b) + fixed_chain(fixed_values) - fixed_values
    return _nan_unless_converged(values, change, fixed_chain, tolerance)


def _surely_ends(mdp: MDP, weights: jax.Array) -> jax.Array:
    """Whether an end of the episode can be reached from every state, so that every episode ends, bool []."""
    possible = weights > 0

    def grow(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached = jnp.any(possible & (mdp.terminal | state[0][mdp.successor]), axis=-1)
        return reached, jnp.any(reached != state[0])

    no_state = jnp.zeros(mdp.num_states, jnp.bool_)
    return jnp.all(jax.lax.while_loop(lambda state: state[1], grow, (no_state, jnp.bool_(True)))[0])


def _krylov(matvec: Callable, b: jax.Array, tolerance: Scalar | None) -> jax.Array:
    """Proposes a solution of matvec(v) = b by stabilised bi-conjugate gradients with iterative refinement.

    Each round reduces the residual about a thousandfold, as far as float32 allows. The rounds end when the residual is
    within the tolerance, or after a round that does not halve it.
    """

    def unfinished(carry: tuple) -> jax.Array:
        v, residual, has_improved = carry
        return has_improved & (jnp.max(jnp.abs(residual)) > _allowed(v, tolerance))

    def refine(carry: tuple) -> tuple:
        v, residual, _ = carry
        step, _ = jax.scipy.sparse.linalg.bicgstab(matvec, residual, tol=1e-3, maxiter=100)
        new_residual = b - matvec(v + step)
        has_improved = jnp.max(jnp.abs(new_residual)) < 0.5 * jnp.max(jnp.abs(residual))  # False for nan.
        new_v = jnp.where(has_improved, v + step, v)
        return new_v, jnp.where(has_improved, new_residual, residual), has_improved

    return jax.lax.while_loop(unfinished, refine, (jnp.zeros_like(b), b, jnp.bool_(True)))[0]


def _sweep(backup: Callable, values: jax.Array, tolerance: Scalar | None, max_sweeps: int) -> jax.Array:
    """Sets values to backup(values) until the largest change is within the tolerance, or max_sweeps times."""

    def unfinished(carry: tuple) -> jax.Array:
        values, change, sweeps = carry
        return (change > _allowed(values, tolerance)) & (sweeps < max_sweeps)

    def sweep(carry: tuple) -> tuple:
        values, _, sweeps = carry
        new_values = backup(values)
        return new_values, jnp.max(jnp.abs(new_values - values)), sweeps + 1

    initial = (values, jnp.array(jnp.inf, values.dtype), jnp.int32(0))
    return jax.lax.while_loop(unfinished, sweep, initial)[0]


def _allowed(values: jax.Array, tolerance: Scalar | None) -> jax.Array:
    """The largest change of `values` that `tolerance` allows, []."""
    relative = 4 * jnp.finfo(values.dtype).eps if tolerance is None else tolerance
    return jnp.asarray(relative, values.dtype) * jnp.max(jnp.abs(values))


def _nan_unless_converged(values: jax.Array, change: jax.Array, chain: Callable, tolerance: Scalar | None) -> jax.Array:
    """Sets values to nan in states that another sweep would still change, and in all states that depend on those."""

    def spread(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        changing = state[0] | (chain(state[0].astype(values.dtype)) > 0)
        return changing, jnp.any(changing != state[0])

    # In a loop of several states, a single sweep may leave some of the diverging values unchanged. The spreading marks
    # them too.
    changing = jnp.abs(change) > 16 * _allowed(jax.lax.stop_gradient(values), tolerance)
    changing, _ = jax.lax.while_loop(lambda state: state[1], spread, (changing, jnp.any(changing)))
    return jnp.where(changing, jnp.nan, values)
