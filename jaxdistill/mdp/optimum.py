"""The best deterministic policy of an MDP, by value iteration and policy iteration in float64."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.mdp import chains
from jaxdistill.mdp.mdp import MDP
from jaxdistill.mdp.precision import in_float64
from jaxdistill.mdp.sums import chain_of, continuation, distributions
from jaxdistill.runtime.products import einsum

_SHORT_ITERATION = 64  # Sweeps of value iteration before the first policy iteration: enough for almost every MDP.
_LONG_ITERATION = 10_000  # Sweeps before the second one, which only MDPs with never-ending episodes need.
_MAX_POLICIES = 100
_ROUNDING = 1e-14  # Action values that differ by less than this part of the largest one are equal.


def action_values(mdp: MDP, values: jax.Array, discount: jax.Array | float, reward: jax.Array) -> jax.Array:
    """Q(s, a) = E[r + discount * V(s') * 1(the episode goes on) | s, a] for V = `values` [S]: [S, A]."""
    going_on = continuation(mdp, discount)
    # The end of an episode has no value, whatever the state to which the last step leads.
    returns = reward + jnp.where(going_on > 0, going_on * values[mdp.successor], 0)
    spec = "sk,ak->sa" if mdp.outcome_probs.ndim == 2 else "sk,sak->sa"
    return einsum(spec, returns, distributions(mdp.outcome_probs))


@in_float64
def best_actions(common_only: Any, arrays: tuple[MDP, Any, jax.Array]) -> jax.Array:
    """The action of a best policy in each state, int [S]; time limits are ignored.

    With `common_only`, all actions are -1 unless the chains of all policies that are tried are common ones
    (`chains.total`).

    The first policy is the greedy one of a short value iteration, which starts from 0. Policy iteration then improves
    it. Where the values are not finite and discount * continue_prob is 1, both are repeated with a long value
    iteration, whose last half shows which values grow for ever and which ones fall for ever.
    """
    mdp, discount, reward = arrays
    zeros = jnp.zeros(mdp.num_states)

    def backup(_: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.max(action_values(mdp, values, discount, reward), axis=-1)

    if common_only:
        values = jax.lax.fori_loop(0, _SHORT_ITERATION, backup, zeros)
        actions = jnp.argmax(action_values(mdp, values, discount, reward), axis=-1)
        return _common_policy_iteration(mdp, discount, reward, actions)

    def unsettled(carry: tuple) -> jax.Array:
        _, is_finite, num_sweeps = carry
        return (num_sweeps == 0) | (~is_finite & (num_sweeps < _LONG_ITERATION) & (discount * mdp.continue_prob >= 1))

    def iterate(carry: tuple) -> tuple:
        num_sweeps = jnp.where(carry[2] == 0, _SHORT_ITERATION, _LONG_ITERATION)
        earlier = jax.lax.fori_loop(0, num_sweeps // 2, backup, zeros)
        values = jax.lax.fori_loop(0, num_sweeps // 2, backup, earlier)
        actions = jnp.argmax(action_values(mdp, values, discount, reward), axis=-1)
        actions, is_finite = _policy_iteration(mdp, discount, reward, actions, values > earlier)
        return actions, is_finite, num_sweeps

    initial = (jnp.zeros(mdp.num_states, int), jnp.bool_(False), jnp.asarray(0))
    return jax.lax.while_loop(unsettled, iterate, initial)[0]


@in_float64
def values_within_limit(static: None, arrays: tuple[MDP, Any, jax.Array]) -> jax.Array:
    """The largest value of any policy in an MDP with a time limit, [S]; its actions may depend on the steps left.

    Value iteration makes one sweep for each step, or fewer if a sweep changes nothing.
    """
    del static
    mdp, discount, reward = arrays

    def unfinished(carry: tuple) -> jax.Array:
        _, has_changed, num_steps = carry
        return has_changed & (num_steps < mdp.time_limit)

    def sweep(carry: tuple) -> tuple:
        values, _, num_steps = carry
        new_values = jnp.max(action_values(mdp, values, discount, reward), axis=-1)
        return new_values, jnp.any(new_values != values), num_steps + 1

    initial = (jnp.zeros(mdp.num_states), jnp.bool_(True), jnp.int32(0))
    return jax.lax.while_loop(unfinished, sweep, initial)[0]


def _values_of(mdp: MDP, discount: Any, reward: jax.Array, actions: jax.Array, common_only: bool) -> jax.Array:
    """The values [S] of the policy that plays `actions`, int [S]."""
    probs = distributions(mdp.outcome_probs)
    weights = probs[actions] if probs.ndim == 2 else probs[jnp.arange(mdp.num_states), actions]
    source = jnp.sum(weights * reward, axis=-1)
    chain = chain_of(mdp, weights, discount)
    return chains.total(chain, source, transpose=False, may_be_cut=False, common_only=common_only)


def _common_policy_iteration(mdp: MDP, discount: Any, reward: jax.Array, actions: jax.Array) -> jax.Array:
    """Improves a policy, int [S], until no action is better; all actions are -1 if a chain was not a common one."""
    states = jnp.arange(mdp.num_states)

    def improve(carry: tuple) -> tuple:
        actions, values, _, count = carry
        is_first = count == 0  # `actions` have not been evaluated yet.
        rounding = _ROUNDING * jnp.max(jnp.abs(values))
        q = action_values(mdp, values, discount, reward)
        is_better = (jnp.max(q, axis=-1) > q[states, actions] + rounding) & ~is_first
        new_actions = jnp.where(is_better, jnp.argmax(q, axis=-1), actions)
        new_values = _values_of(mdp, discount, reward, new_actions, common_only=True)
        # Without the second condition, rounding would make the policy change for ever between equal actions.
        has_improved = is_first | (jnp.any(is_better) & jnp.any(new_values > values + rounding))
        is_kept = has_improved | jnp.any(jnp.isnan(new_values))
        kept = jnp.where(is_kept, new_actions, actions), jnp.where(is_kept, new_values, values)
        return *kept, has_improved, count + 1

    initial = (actions, jnp.zeros(mdp.num_states), jnp.bool_(True), jnp.int32(0))
    actions, values, _, _ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < _MAX_POLICIES), improve, initial)
    return jnp.where(jnp.all(jnp.isfinite(values)), actions, -1)


def _policy_iteration(
    mdp: MDP, discount: Any, reward: jax.Array, actions: jax.Array, grows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Improves a policy, int [S], until no action is better; also returns whether all of its values are finite.

    A value that is nan counts as plus infinity where `grows` holds, bool [S], and as minus infinity elsewhere.
    """
    states = jnp.arange(mdp.num_states)
    idle, idle_action = _idle_states(mdp, discount, reward)

    def leads_to(goal: jax.Array) -> jax.Array:
        return action_values(mdp, goal.astype(reward.dtype), discount, jnp.zeros_like(reward)) > 0

    def improve(carry: tuple) -> tuple:
        actions, values, _, count = carry
        is_first = count == 0  # `actions` have not been evaluated yet.
        finite = jnp.nan_to_num(values)
        scale = jnp.max(jnp.abs(finite))
        q = action_values(mdp, finite, discount, reward)
        q = jnp.where(leads_to(jnp.isnan(values)), jnp.where(leads_to(jnp.isnan(values) & grows), jnp.inf, -jnp.inf), q)
        old_q, best_q = q[states, actions], jnp.max(q, axis=-1)
        new_actions = jnp.where(best_q > old_q + _ROUNDING * scale, jnp.argmax(q, axis=-1), actions)
        # Staying for ever where nothing is collected has the value 0, which the values of a single step do not show.
        new_actions = jnp.where(idle & ~(best_q >= -_ROUNDING * scale), idle_action, new_actions)
        new_actions = jnp.where(is_first, actions, new_actions)
        new_values = _values_of(mdp, discount, reward, new_actions, common_only=False)
        is_first_finite = jnp.isfinite(new_values) & ~jnp.isfinite(values)
        is_first_infinite = jnp.isinf(best_q) & (best_q > old_q)
        # Without this, rounding would make the policy change for ever between equal actions.
        is_higher = is_first_finite | is_first_infinite | (new_values > values + _ROUNDING * scale)
        has_improved = is_first | (jnp.any(new_actions != actions) & jnp.any(is_higher))
        kept = jnp.where(has_improved, new_actions, actions)
        return kept, jnp.where(has_improved, new_values, values), has_improved, count + 1

    initial = (actions, jnp.zeros_like(reward[:, 0]), jnp.bool_(True), jnp.int32(0))
    actions, values, _, _ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < _MAX_POLICIES), improve, initial)
    return actions, jnp.all(jnp.isfinite(values))


def _idle_states(mdp: MDP, discount: Any, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states in which an episode can go on for ever without any reward, bool [S], and an action for it, int [S].

    There are no such states if discount * continue_prob < 1, because every episode ends then.
    """
    is_possible = mdp.outcome_probs > 0

    def staying(idle: jax.Array) -> jax.Array:
        """Whether all outcomes of an action lead to idle states without reward, bool [S, A]."""
        is_idle_outcome = (reward == 0) & ~mdp.terminal & idle[mdp.successor]
        return jnp.all(~is_possible | is_idle_outcome[:, None], axis=-1)

    def shrink(carry: tuple) -> tuple:
        smaller = carry[0] & jnp.any(staying(carry[0]), axis=-1)
        return smaller, jnp.any(smaller != carry[0])

    all_states = jnp.broadcast_to(discount * mdp.continue_prob >= 1, (mdp.num_states,))
    idle, _ = jax.lax.while_loop(lambda carry: carry[1], shrink, (all_states, jnp.any(all_states)))
    return idle, jnp.argmax(staying(idle), axis=-1)
