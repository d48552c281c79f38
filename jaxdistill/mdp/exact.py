"""Exact values, visits and episode lengths of policies, and optimal values, without sampling.

A policy and an MDP make a Markov chain, and its sums over time are linear systems (`sums`, `chains`). They are solved
in float64, whatever JAX_ENABLE_X64 says, with an error of at most 1e-9 of the largest entry. An entry is nan where the
sum has no finite value or cannot be computed to that accuracy. A warning then says where and why.

The probabilities of the arrays are divided by the sum of their row, because float32 rows sum to 1 only within 1e-7. A
`continue_prob` of 0.99 is the float32 number nearest to it, which is also used when students are sampled.

Every function takes a single MDP, or a stack of them: then each array argument has a leading axis [M] or is shared by
all MDPs, and the result has one. Results are NumPy arrays in float64. All functions may also be used inside `jit`,
`vmap` and `grad`. There the results are JAX arrays, which are rounded to float32 where 64 bits are off, and nothing is
printed. The one step of `action_values`, `start_value` and `outcome_weights` is then computed in float32.

Episodes of a world with a time limit have at most that many steps, from whatever state they start. `policy_values`,
`expected_sum`, `expected_length` and `occupancy` honour the limit, and their derivatives are nan then. Optimal values
are those of the best policy without the limit.

States in which the agent never acts (walls, terminals) have the value that their rows of the tables imply; in grid
worlds it is 0.
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import optimum, sums
from jaxdistill.mdp.endings import never_ending_state as never_ending_state
from jaxdistill.mdp.features import log_policy, sum_of_rows
from jaxdistill.mdp.mdp import MDP, NO_TIME_LIMIT
from jaxdistill.mdp.precision import as_float64, float64, placed
from jaxdistill.runtime import checks
from jaxdistill.runtime.surroundings import default_promotion

Scalar = jax.Array | float
P = ParamSpec("P")

TIE = 1e-4
"""Action values that differ by at most this much are treated as equal: teachers are made of float32 values."""

_BLOCK_ELEMENTS = 2**26  # The largest table [block, S, max(A, K, S)] held at once on an accelerator.


def _over_stack(**axes: str) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Makes a function of one MDP check its arguments, compute in float64, and map over a stack of MDPs.

    Args:
      **axes: the axes of each array argument, as letters: S states, A actions, K outcomes, O observations. All other
        arguments are scalars.
    """

    def decorate(fn: Callable[P, Any]) -> Callable[P, Any]:
        signature = inspect.signature(fn)

        @functools.wraps(fn)
        @default_promotion()
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            scalars = signature.bind(*args, **kwargs).arguments
            mdp = _without_unused_parts(scalars.pop("mdp"))
            arrays = {name: scalars.pop(name) for name in axes if scalars.get(name) is not None}
            stacked, shared = _checked_arrays(mdp, arrays, axes)
            if checks.is_traced((mdp, arrays, scalars)):
                return _map_over_stack(fn, sums.is_common_only(), mdp, stacked, shared, scalars)
            if "discount" in scalars:
                scalars["discount"] = checks.number("discount", scalars["discount"], 0, 1)
            with float64():
                inputs = (*placed((mdp, stacked, shared)), scalars)
                result = jax.device_get(_map_over_stack(fn, True, *inputs))
                if not np.isfinite(result).all():  # some world is not a common one
                    result = jax.device_get(_map_over_stack(fn, False, *inputs))
            if np.isnan(result).any():
                _warn_of_nan(fn.__name__, np.asarray(result), mdp, arrays, scalars)
            return result

        return wrapper

    return decorate


def _without_unused_parts(mdp: MDP) -> MDP:
    """The MDP without its grid, and with None as its time limit if it is known to have none."""
    limit = mdp.time_limit
    is_unlimited = limit is None or not (checks.is_traced(limit) or mdp.has_time_limit)
    changes: dict[str, Any] = {"grid": None} | ({"time_limit": None} if is_unlimited else {})
    return dataclasses.replace(mdp, **changes)


def _checked_arrays(mdp: MDP, arrays: dict[str, Any], axes: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays with a leading axis [M], and those that all MDPs share; raises ValueError for a wrong shape."""
    sizes = {"S": mdp.num_states, "A": mdp.num_actions, "K": mdp.num_outcomes, "O": mdp.num_observations}
    stacked: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for name, value in arrays.items():
        shape = tuple(sizes[letter] for letter in axes[name])
        allowed = [shape, (mdp.num_mdps, *shape)] if mdp.is_stacked else [shape]
        if jnp.shape(value) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise ValueError(f"{name} must have shape {expected} for {mdp}, got {jnp.shape(value)}")
        group = shared if jnp.ndim(value) == len(shape) else stacked
        group[name] = value if isinstance(value, jax.Array) else np.asarray(value)
    return stacked, shared


@functools.partial(jax.jit, static_argnums=(0, 1))
def _map_over_stack(
    fn: Callable[..., Any], common_only: bool, mdp: MDP, stacked: dict, shared: dict, scalars: dict
) -> jax.Array:
    """Calls `fn` once for a single MDP, and once for each MDP of a stack with its entries of the `stacked` arrays.

    With `common_only`, a result may be nan because the world is not a common one (`chains.total`).
    """
    mdp, stacked, shared, scalars = as_float64((mdp, stacked, shared, scalars))

    def call(mdp_and_arrays: tuple[MDP, dict]) -> jax.Array:
        single_mdp, arrays = mdp_and_arrays
        with sums.common_only(common_only):
            return fn(single_mdp, **arrays, **shared, **scalars)

    if not mdp.is_stacked:
        return call((mdp, {}))

    # A block works until its slowest MDP is done. So one MDP at a time is fastest on CPU, where launching is cheap.
    block = _BLOCK_ELEMENTS // (mdp.num_states * max(mdp.num_actions, mdp.num_outcomes, mdp.num_states))
    block = 0 if jax.default_backend() == "cpu" else max(1, min(block, mdp.num_mdps))
    return jax.lax.map(call, (mdp, stacked), batch_size=block or None)


def _warn_of_nan(name: str, result: np.ndarray, mdp: MDP, arrays: dict[str, Any], scalars: dict[str, Any]) -> None:
    """Warns of the first nan of a result, in one line with its world, its state and its reason."""
    if any(np.isnan(array).any() for array in arrays.values()):
        return  # The nan came from the caller's own arrays.
    index = tuple(int(i) for i in np.argwhere(np.isnan(result))[0])
    world, index = (index[0], index[1:]) if mdp.is_stacked else (0, index)
    starts = np.asarray(mdp.start)[world if mdp.is_stacked else ...]
    state = index[0] if index else int(starts[0])  # A number of a whole world belongs to its start.
    count = int(np.isnan(result).sum()) - 1
    warnings.warn(
        f"exact.{name} is nan for state {state} of world {world}{f' and {count} other entries' if count else ''}: "
        f"{_reason(mdp, world, state, arrays.get('policy'), scalars.get('discount', 1.0))}.",
        stacklevel=3,
    )


def _reason(mdp: MDP, world: int, state: int, policy: Any, discount: float) -> str:
    """Why a sum over the episodes from a state is nan."""
    single: MDP = jax.tree.map(lambda x: np.asarray(x)[world], mdp) if mdp.is_stacked else jax.device_get(mdp)
    limit = NO_TIME_LIMIT if single.time_limit is None else single.time_limit
    changes: dict[str, Any] = {"start": np.array([state]), "start_probs": np.ones(1), "time_limit": limit}
    single = dataclasses.replace(single, **changes)
    table = None if policy is None else np.asarray(policy)[world if np.ndim(policy) == 3 else ...]
    if table is not None:
        is_row = np.abs(table.sum(-1, dtype=np.float64) - 1) <= sums.SUM_TOLERANCE
        if not is_row.all():
            row = int(np.argmin(is_row))
            return f"the policy of state {row} holds no probabilities that sum to 1"
    if discount >= 1 and never_ending_state(single, table):
        reason = "an episode may never end from there, and its rewards have no finite sum"
        return f"{reason}; use a discount below 1, or a time limit"
    if table is None and discount >= 1 and single.continue_prob >= 1:
        return "an infinite return may be possible from there; use a discount below 1, or a time limit"
    return "its terms cancel so far, or its episodes are so long, that float64 cannot give nine digits of it"


def uniform_policy(mdp: MDP) -> Any:
    """The policy [S, A] that takes every action with probability 1 / A, in float64; all MDPs of a stack share it."""
    return np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)


@_over_stack(table="OA")
def policy_from_table(mdp: MDP, table: jax.Array) -> jax.Array:
    """The policy [S, A] of a table [O, A] with one row per observation: aliased states share a row.

    Probabilities are not sums over features, so an MDP with several features in a state is refused with a ValueError;
    `policy_from_logits` takes its logits.
    """
    if mdp.num_features > 1:
        raise ValueError(
            f"policy_from_table needs one row for each state, but {mdp}; use exact.policy_from_logits with logits"
        )
    return sum_of_rows(table, mdp.features)


@_over_stack(logits="OA")
def policy_from_logits(mdp: MDP, logits: jax.Array) -> jax.Array:
    """The policy [S, A] of a student with the table `logits` [O, A]: softmax of the sum of the rows of each state."""
    return jnp.exp(log_policy(logits, mdp.features))


@_over_stack(policy="SA")
def outcome_weights(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Probability [S, K] of each outcome under `policy` [S, A]."""
    return sums.outcome_weights(mdp, policy)


@_over_stack(policy="SA", reward="SK")
def policy_values(mdp: MDP, policy: jax.Array, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """V(s) = E[sum_t discount^t r_t | s_0 = s] under `policy`, [S], units of return.

    Args:
      mdp: the MDP, or a stack.
      policy: [S, A] action probabilities.
      discount: in [0, 1]. The probability of ending (`continue_prob`, terminals) comes on top of it.
      reward: [S, K], takes the place of the environment's reward of each outcome.

    Returns:
      Values [S]; nan in states from which the sum has no finite value, for example if `discount * continue_prob` is 1
      and the policy may loop for ever through rewards. A loop without rewards has the value 0.
    """
    return sums.total(sums.Problem(mdp, policy, discount, mdp.reward if reward is None else reward))


@_over_stack(policy="SA", per_state="S")
def expected_sum(mdp: MDP, policy: jax.Array, per_state: jax.Array, discount: Scalar = 1.0) -> jax.Array:
    """E[sum_t discount^t f(s_t) | s_0 = s] over the states s_t in which the agent acts, s_0 included: [S], units of f.

    `per_state` is f, [S]: for example KL(pi(s)||pi_theta(s)) for the expected KL along trajectories (Fig. 3). The other
    arguments, and the meaning of nan, are as in `policy_values`.
    """
    return sums.total(sums.Problem(mdp, policy, discount, per_state))


@_over_stack(policy="SA")
def expected_length(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Mean number of steps of an episode from every state, [S], >= 1; inf where it may never end."""
    ones = jnp.ones(mdp.num_states, policy.dtype)
    return _diverged_to_inf(sums.total(sums.Problem(mdp, policy, 1.0, ones)), policy)


@_over_stack(policy="SA")
def occupancy(mdp: MDP, policy: jax.Array, discount: Scalar = 1.0) -> jax.Array:
    """Expected visits of an episode, d(s) = E[sum_t discount^t 1(s_t = s)], [S], >= 0.

    A visit is a step in which the agent acts: the start counts, and the arrival in a terminal state does not. So at
    discount 1 the sum of d is the expected length, and sum_s d(s) f(s) is the `expected_sum` of f from the start. The
    result is inf in states whose expected number of visits is infinite.
    """
    visits = sums.total(sums.Problem(mdp, policy, discount, None))
    return _diverged_to_inf(jnp.where(visits < 0, 0, visits), policy)  # Rounding may leave -1e-16.


@_over_stack(values="S")
def start_value(mdp: MDP, values: jax.Array) -> jax.Array:
    """Mean of `values` [S] over the start states, []."""
    return jnp.sum(jnp.where(mdp.start_probs > 0, sums.distributions(mdp.start_probs) * values[mdp.start], 0))


@_over_stack(policy="SA")
def episode_return(mdp: MDP, policy: jax.Array, discount: Scalar = 1.0) -> jax.Array:
    """The expected sum of discounted rewards of an episode from the start, []; arguments as in `policy_values`."""
    return start_value(mdp, policy_values(mdp, policy, discount))


@_over_stack(values="S", reward="SK")
def action_values(mdp: MDP, values: jax.Array, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """Q(s, a) = E[r + discount * V(s') * 1(the episode goes on) | s, a] for V = `values` [S]: [S, A]."""
    return optimum.action_values(mdp, values, discount, mdp.reward if reward is None else reward)


@_over_stack(reward="SK")
def optimal_policy(mdp: MDP, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """A deterministic policy [S, A] with the `optimal_values`, in an MDP without time limit; arguments as there."""
    reward = mdp.reward if reward is None else reward
    no_limit: dict[str, Any] = {"time_limit": None}
    unlimited = dataclasses.replace(mdp, **no_limit)
    actions = optimum.best_actions(sums.is_common_only(), (unlimited, discount, reward))
    has_action = actions >= 0  # all are -1 if the world is not a common one
    return jnp.where(has_action[:, None], jax.nn.one_hot(actions, mdp.num_actions, dtype=reward.dtype), jnp.nan)


@_over_stack(reward="SK")
def optimal_values(mdp: MDP, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """V*(s), the largest V(s) of any policy in an MDP without time limit, [S].

    Arguments are as in `policy_values`. Values are nan in states from which an infinite return is possible, and in
    states from which no policy has a finite return. `reward=-mdp.reward` gives the values that the adversarial teacher
    (Fig. 6) maximises. A time limit of the MDP is ignored: with it, the best action would depend on the number of steps
    left.
    """
    reward = mdp.reward if reward is None else reward
    no_limit: dict[str, Any] = {"time_limit": None}
    unlimited = dataclasses.replace(mdp, **no_limit)
    return sums.total(sums.Problem(unlimited, optimal_policy(unlimited, discount, reward), discount, reward))


@_over_stack(reward="SK")
def optimal_return(mdp: MDP, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """The largest expected sum of discounted rewards of an episode from the start, within the time limit, [].

    With a limit, the action of the best policy may depend on the number of steps left, so that no stationary policy
    need have this return. Arguments, and the meaning of nan, are as in `policy_values`.
    """
    if mdp.time_limit is None:
        return start_value(mdp, optimal_values(mdp, discount, reward))
    rewards = mdp.reward if reward is None else reward
    values = jax.lax.cond(
        mdp.time_limit < NO_TIME_LIMIT,
        lambda: optimum.values_within_limit(None, (mdp, discount, rewards)),
        lambda: optimal_values(mdp, discount, reward),
    )
    return start_value(mdp, values)


@_over_stack(reward="SK")
def optimal_action_values(mdp: MDP, discount: Scalar = 1.0, reward: jax.Array | None = None) -> jax.Array:
    """Q*(s, a), the return of action a followed by an optimal policy, [S, A]; arguments as in `optimal_values`."""
    return action_values(mdp, optimal_values(mdp, discount, reward), discount, reward)


def greedy(q: Any, tie_tolerance: Scalar = 0.0) -> Any:
    """Probabilities [..., A], shared equally by the actions within `tie_tolerance` of the largest q [..., A].

    At 0 only exact ties are shared, as for a Q-learning teacher (App. A.4). Computed values tie only up to rounding:
    use `TIE` for those. `greedy(-q)` is the worst action. The result is of the kind and the dtype of q.
    """
    best = (q >= q.max(axis=-1, keepdims=True) - q.dtype.type(tie_tolerance)).astype(q.dtype)
    return best / best.sum(axis=-1, keepdims=True)


def _diverged_to_inf(totals: jax.Array, policy: jax.Array) -> jax.Array:
    """Replaces nan by inf in sums of terms >= 0, which can only diverge upwards; an invalid policy keeps its nan."""
    return jnp.where(jnp.isnan(totals) & jnp.isfinite(sums.distributions(policy)).all(), jnp.inf, totals)
