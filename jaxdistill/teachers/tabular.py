"""Teachers without training: from tables, functions or exact values, and from other teachers by mixtures and noise."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, exact, validate
from jaxdistill.mdp.teacher import Teacher, are_distributions, check_policy
from jaxdistill.runtime import checks, streams
from jaxdistill.teachers.ties import NOISES, TIES, check_ties, greedy, noise_policy


def from_table(
    mdps: MDP, probs: npt.ArrayLike, *, scores: npt.ArrayLike | None = None, discount: float = 0.99, name: str = "table"
) -> Teacher:
    """A teacher from a table of probabilities.

    Args:
      mdps: M stacked MDPs, or one.
      probs: [M, S, A] or [M, O, A], whose rows sum to 1; without M for one MDP, or for the same policy in all MDPs.
      scores: of the same shape, the ranking of the actions for `with_noise`; the probabilities if None.
      discount: the discount of V_pi, which is computed exactly.
      name: the teacher's name in labels.

    Raises:
      ValueError: a table that does not fit the worlds, or whose rows are not distributions.
    """
    table = _by_state(validate(mdps), probs, "probs")
    if not are_distributions(table):
        raise ValueError("probs must be finite, >= 0 and sum to 1 over actions; normalise the table.")
    ranking = table if scores is None else _by_state(mdps, scores, "scores")
    if np.isnan(ranking).any():
        raise ValueError("scores must be numbers by which actions can be ranked; they hold NaN.")
    return _with_values(mdps, table, ranking, discount, name)


def from_logits(
    mdps: MDP,
    logits: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    rest: int | None = None,
    discount: float = 0.99,
    name: str = "logits",
) -> Teacher:
    """A teacher from a table of logits, or from the ids and values of the k largest, as inference servers return them.

    Args:
      mdps: M stacked MDPs, or one.
      logits: [M, O, A] or [M, S, A], whose policy is the softmax of each row; without M for one MDP, or for the same
        policy in all MDPs. With `ids`, [..., k].
      ids: int [..., k], of the shape of `logits`, the action of each value. The other actions have no probability.
      rest: an action that is not among the ids, to which the probability of all other actions goes; the values must
        then be log-probabilities. None: the k probabilities are divided by their sum.
      discount: the discount of V_pi, which is computed exactly.
      name: the teacher's name in labels.

    Raises:
      ValueError: tables that do not fit the worlds, values that are not finite, ids that are no actions or repeat in a
        row, or log-probabilities that leave nothing for the rest.
    """
    if ids is None:
        if rest is not None:
            raise ValueError("rest has an effect together with ids only; remove it, or give the ids of the values.")
        logits = _by_state(validate(mdps), logits, "logits")
        if not np.isfinite(logits).all():
            raise ValueError("logits must be finite; for a deterministic teacher give from_table its probabilities.")
        return _with_values(mdps, jax.nn.softmax(jnp.asarray(logits, jnp.float32)), logits, discount, name)
    return from_table(mdps, _of_top_k(validate(mdps), logits, ids, rest), discount=discount, name=name)


def _of_top_k(mdps: MDP, values: npt.ArrayLike, ids: npt.ArrayLike, rest: int | None) -> np.ndarray:
    """Probabilities [..., A] from the values and the ids of some actions, [..., k]; arguments as for `from_logits`."""
    logs, actions = checks.numbers("logits", values), checks.reals("ids", ids)
    if logs.ndim < 2 or logs.shape != actions.shape or actions.dtype.kind not in "iu":
        raise ValueError(
            f"ids must be whole numbers of the shape of logits, rows of k; got {logs.shape} and {actions.shape}."
        )
    if not np.isfinite(logs).all():
        raise ValueError("logits must be finite; leave out actions that have no probability.")
    if ((actions < 0) | (actions >= mdps.num_actions)).any():
        raise ValueError(f"ids must be actions in [0, {mdps.num_actions}); got {actions.min()} to {actions.max()}.")
    in_order = np.sort(actions, axis=-1)
    if (in_order[..., 1:] == in_order[..., :-1]).any():
        raise ValueError("ids must not repeat an action in a row; add up the probabilities of equal ones first.")
    probs = np.zeros((*logs.shape[:-1], mdps.num_actions))
    if rest is None:
        weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
        np.put_along_axis(probs, actions, weights / weights.sum(axis=-1, keepdims=True), axis=-1)
        return probs
    action = checks.whole("rest", rest, 0, mdps.num_actions - 1)
    remaining = 1 - np.exp(logs).sum(axis=-1)
    if (actions == action).any() or (remaining < -1e-4).any():
        raise ValueError(
            f"rest needs log-probabilities of other actions whose probabilities sum to at most 1; action {action} is "
            f"among the ids, or a sum is {1 - remaining.min():.4g}."
        )
    np.put_along_axis(probs, actions, np.exp(logs), axis=-1)
    probs[..., action] = np.maximum(remaining, 0)
    return probs / probs.sum(axis=-1, keepdims=True)


def from_policy(
    mdps: MDP,
    policy: Callable[[int], npt.ArrayLike],
    *,
    sees: Literal["state", "observation"] = "state",
    discount: float = 0.99,
    name: str | None = None,
) -> Teacher:
    """A teacher from a function, such as a rule of thumb or a trained network.

    The function is called on the host, once for each state or observation, and its results become a table, which all
    MDPs of a stack share.

    Args:
      mdps: M stacked MDPs, or one.
      policy: a function of the index of a state (in a grid, `gridworld.state_to_cell` returns its cell), or of an
        observation with sees="observation". It returns probabilities [A], or the index of the action that it takes.
      sees: whether `policy` is a function of the state or of the observation.
      discount: the discount of V_pi, which is computed exactly.
      name: the teacher's name in labels; the name of the function if None.

    Raises:
      ValueError: a result that is neither a distribution nor an action. The message has the index for which it was
        returned.
    """
    validate(mdps)
    checks.one_of("sees", sees, ("state", "observation"))
    if not callable(policy):
        raise ValueError(f"policy must be a function of the state's number; got {checks.shown(policy)}.")
    if sees == "observation" and mdps.num_features > 1:
        raise ValueError("sees='observation' needs one observation for each state, and these states have features.")
    num_rows = mdps.num_states if sees == "state" else mdps.num_observations
    table = np.stack([_probs_of_policy(policy, sees, row, mdps.num_actions) for row in range(num_rows)])
    probs = table if sees == "state" else table[np.asarray(mdps.observation)]
    probs = np.broadcast_to(probs, (*mdps.id.shape, mdps.num_states, mdps.num_actions))
    name = str(getattr(policy, "__name__", "policy")) if name is None else name
    return _with_values(mdps, probs, probs, discount, name)


def mixture(
    mdps: MDP,
    members: Sequence[Teacher],
    weights: npt.ArrayLike | None = None,
    *,
    discount: float | None = None,
    name: str | None = None,
) -> Teacher:
    """One teacher from several, whose policy is the weighted average of their policies in each state.

    This is the policy that acts if one member is drawn at every step.

    Args:
      mdps: the worlds of all members.
      members: N >= 1 teachers of these worlds. Their further policies (`with_others`) are not kept.
      weights: N numbers >= 0, not all 0, which are divided by their sum; equal weights if None.
      discount: the discount of the mixture's V_pi, which is computed exactly; that of the first member if None.
      name: the teacher's name in labels; made of the names of the members if None.

    Raises:
      ValueError: no member, members of other worlds, or weights that do not fit.
    """
    members = checks.listed(members)
    _check_members(validate(mdps), members)
    fractions = np.ones(len(members)) if weights is None else checks.numbers("weights", weights)
    is_valid = fractions.shape == (len(members),) and np.isfinite(fractions).all() and (fractions >= 0).all()
    if not is_valid or fractions.sum() == 0:
        raise ValueError(
            f"weights must be {len(members)} numbers >= 0 that are not all 0; got {checks.shown(weights)}."
        )
    fractions = fractions / fractions.sum()
    probs = np.tensordot(fractions, np.stack([np.asarray(member.probs, np.float64) for member in members]), 1)
    if name is None:
        name = "+".join(f"{part:.3g} {member.name}" for part, member in zip(fractions, members, strict=True))
    return _with_values(mdps, probs, probs, members[0].discount if discount is None else discount, name)


def _check_members(mdps: MDP, members: list[Any]) -> None:
    """Raises ValueError unless the members of a mixture are teachers of these MDPs, at least one."""
    invalid = [member for member in members if not isinstance(member, Teacher)]
    if invalid:
        raise ValueError(f"members must be teachers, such as teachers.optimal(mdps); got {checks.shown(invalid[0])}.")
    expected = (*mdps.id.shape, mdps.num_states, mdps.num_actions)
    shapes = {np.shape(member.probs) for member in members}
    if shapes != {expected}:
        got = ", ".join(str(list(shape)) for shape in sorted(shapes)) or "no member"
        raise ValueError(f"mixture needs teachers of these worlds, with probs {list(expected)}; got {got}.")
    if not all(are_distributions(checks.reals("probs of a member", member.probs)) for member in members):
        raise ValueError("The probs of every member must be finite, >= 0 and sum to 1 over actions; normalise them.")


def optimal(mdps: MDP, *, discount: float = 0.99, ties: str = "share", key: jax.Array | None = None) -> Teacher:
    """The policy with the greatest discounted return.

    Args:
      mdps: M stacked MDPs, or one.
      discount: in [0, 1].
      ties: how actions of equal value become a policy: they "share" the probability, the "first" plays, or one that is
        drawn at "random" in each state.
      key: random key for ties="random".
    """
    key = check_ties(ties, key)
    q = exact.optimal_action_values(validate(mdps), checks.number("discount", discount, 0, 1))
    return _with_values(mdps, greedy(mdps, q, exact.TIE, ties, key), q, discount, "optimal")


def adversarial(
    mdps: MDP, *, discount: float = 0.99, ties: str = "share", key: jax.Array | None = None, value: str = "true"
) -> Teacher:
    """The optimal policy of the negated reward (Figs. 6 and 9).

    Args:
      mdps, discount, ties, key: as for `optimal`.
      value: whose value V_pi is. "true": that of the policy for the reward of the worlds. "own": that for the negated
        reward, which the policy maximises; the paper does not state which one its adversarial teacher has.
    """
    key = check_ties(ties, key)
    checks.one_of("value", value, ("true", "own"))
    negated = dataclasses.replace(validate(mdps), reward=-mdps.reward)
    q = exact.optimal_action_values(negated, checks.number("discount", discount, 0, 1))
    rewarded, name = (negated, "adversarial (own value)") if value == "own" else (mdps, "adversarial")
    return _with_values(rewarded, greedy(mdps, q, exact.TIE, ties, key), q, discount, name)


def uniform(mdps: MDP, *, discount: float = 0.99) -> Teacher:
    """The policy that takes every action with the same probability."""
    shape = (*validate(mdps).successor.shape[:-1], mdps.num_actions)
    probs = jnp.full(shape, 1 / mdps.num_actions, jnp.float32)
    return _with_values(mdps, probs, probs, discount, "uniform")


def with_noise(
    key: jax.Array,
    mdps: MDP,
    teacher: Teacher,
    noise: npt.ArrayLike,
    *,
    action: str = "worst",
    ties: str = "share",
) -> Teacher:
    """The teacher with another policy in some states, each drawn with probability `noise` (Figs. 5 and 8).

    The states are drawn independently of each other. Under the same key, the states of a smaller noise are among those
    of a larger one, with the same action. V_pi is the value of the noisy policy.

    Args:
      key: random key; the states of a world and their actions depend only on the key and the world's id.
      mdps, teacher: stacks of M.
      noise: rho in [0, 1], one for all worlds or one for each, [M].
      action: the actions that are played in these states, by the teacher's scores: the "worst", "any", or "not_best",
        all but the best. Where all are equally good, all of them qualify.
      ties: how several actions that qualify become a policy, as for `optimal`. With "share", a state in which all
        actions are equally good keeps its policy, if that shares them too. "random" draws from `key`.
    """
    checks.one_of("action", action, NOISES)
    checks.one_of("ties", ties, TIES)
    if (action, ties) == ("any", "first"):
        raise ValueError("action='any' with ties='first' would always play action 0; use ties='random' or 'share'.")
    key = streams.as_key(key)
    if validate(mdps).id.ndim != 1:
        raise ValueError("with_noise takes stacked MDPs; stack a single one with mdp.stack([mdp]).")
    check_policy(teacher, (*mdps.successor.shape[:-1], mdps.num_actions))
    scores = checks.reals("The teacher's scores", teacher.scores)
    if scores.shape != teacher.probs.shape or np.isnan(scores).any():
        raise ValueError("The teacher's scores must rank the actions: numbers, not NaN, of the shape of its probs.")
    rho = _per_world(mdps, noise, "Teacher noise", 1.0)
    draw = jax.vmap(lambda i: streams.uniform(streams.fold_in(key, i), (mdps.num_states,)))
    is_noisy = draw(mdps.id) < rho[:, None]
    probs = jnp.where(is_noisy[..., None], noise_policy(key, mdps, teacher.scores, action, ties), teacher.probs)
    noisy = _with_values(
        mdps, probs, teacher.scores, teacher.discount, f"{teacher.name}+{rho.mean():.0%} {_noise_text(action, ties)}"
    )
    return dataclasses.replace(noisy, others=teacher.others)


def _noise_text(action: str, ties: str) -> str:
    """The kind of a noise in labels."""
    kind = "" if action == "worst" else f"{action.replace('_', ' ')} "
    return f"{kind}noise{'' if ties == 'share' else f' ({ties})'}"


def with_others(teacher: Teacher, *others: Teacher) -> Teacher:
    """The teacher with the policies of further teachers, for methods that use several policies (`Step.other_probs`).

    Raises:
      ValueError: no further teacher, or teachers of other worlds.
    """
    invalid = [member for member in (teacher, *others) if not isinstance(member, Teacher)]
    if invalid:
        raise ValueError(f"with_others takes teachers, such as teachers.optimal(mdps); got {checks.shown(invalid[0])}.")
    shapes = {np.shape(member.probs) for member in (teacher, *others)}
    if not others or len(shapes) > 1:
        raise ValueError(f"with_others needs one or more teachers of the same worlds; got probs of {sorted(shapes)}.")
    return dataclasses.replace(teacher, others=jnp.stack([other.probs for other in others], axis=-3))


def from_q(
    mdps: MDP,
    q: npt.ArrayLike,
    *,
    temperature: npt.ArrayLike = 0.0,
    ties: str = "share",
    key: jax.Array | None = None,
    discount: float = 0.99,
    name: str = "q_learning",
) -> Teacher:
    """A teacher from a table of action values [M, O, A], with the policy softmax(q / temperature) (App. A.4).

    Args:
      mdps: M stacked MDPs, or one.
      q: [M, O, A] or [M, S, A]; without M for one MDP, or for the same table in all MDPs.
      temperature: >= 0, one for all worlds or one for each, [M].
      ties: how the maximisers of q become a policy at temperature 0: they "share" the probability (App. A.4), the
        "first" plays, or one that is drawn at "random" for each observation.
      key: random key for ties="random".
      discount: the discount of V_pi, which is computed exactly.
      name: the teacher's name in labels.
    """
    key = check_ties(ties, key)
    t = jnp.asarray(check_temperature(validate(mdps), temperature, ties))[..., None, None]
    q = _by_state(mdps, q, "q")
    if not np.isfinite(q).all():
        raise ValueError("q must be finite; it holds NaN or infinity.")
    q = jnp.asarray(q, jnp.float32)
    logits = q / jnp.where(t > 0, t, 1)
    is_soft = (t > 0) & jnp.isfinite(logits).all(-1, keepdims=True)  # A temperature so small that q / t overflows is 0.
    probs = jnp.where(is_soft, jax.nn.softmax(logits), greedy(mdps, q, 0.0, ties, key))
    return _with_values(mdps, probs, q, discount, name)


def _probs_of_policy(policy: Callable[[int], npt.ArrayLike], sees: str, row: int, num_actions: int) -> np.ndarray:
    """The probabilities [A] that the policy returns for a row; raises ValueError for any other result."""
    result = policy(row)
    try:
        result = np.asarray(result)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        result = np.asarray(None)
    if result.shape == () and result.dtype.kind in "iu" and 0 <= result < num_actions:
        return np.eye(num_actions)[int(result)]
    is_row = result.shape == (num_actions,) and result.dtype.kind in "fiub"
    if is_row and np.isfinite(result).all() and (result >= 0).all() and abs(result.sum(dtype=np.float64) - 1) <= 1e-4:
        return result.astype(np.float64)
    shown = " ".join(np.array2string(result, precision=3, threshold=6).split())[:80]
    raise ValueError(
        f"policy must return {num_actions} probabilities that sum to 1, or an action in [0, {num_actions}); for {sees} "
        f"{row} it returned {shown}."
    )


def check_temperature(mdps: MDP, temperature: npt.ArrayLike, ties: str) -> np.ndarray:
    """The temperature of each world, float32 [M].

    Raises ValueError unless it is >= 0, one number or one per world, and `ties` has an effect on some world.
    """
    array = _per_world(mdps, temperature, "temperature", np.inf)
    if ties != "share" and (array > 0).all():
        raise ValueError(f"ties={ties!r} has an effect at temperature 0 only; remove it, or the temperature.")
    return array


def _per_world(mdps: MDP, value: npt.ArrayLike, name: str, most: float) -> np.ndarray:
    """A number for each world, float32 [M], or [] for a single MDP; raises ValueError unless it is in [0, most]."""
    array = checks.numbers(name, value).astype(np.float32)
    if array.shape not in ((), mdps.id.shape) or not ((array >= 0) & (array <= most)).all():
        allowed = "in [0, 1]" if most == 1 else ">= 0"
        raise ValueError(f"{name} must be {allowed}, one number or one for each world; got {checks.shown(value)}.")
    return np.broadcast_to(array, mdps.id.shape)


def _by_state(mdps: MDP, table: npt.ArrayLike, name: str) -> np.ndarray:
    """The table by state, [..., S, A], of a table by state or by observation; raises ValueError if it is neither."""
    with np.errstate(over="ignore"):  # Numbers that float32 cannot hold become infinite.
        table = checks.reals(name, table).astype(np.float32, copy=False)
    lead, s, o, a = mdps.id.shape, mdps.num_states, mdps.num_observations, mdps.num_actions
    if mdps.num_features > 1:  # Tables of features are no tables of policies: these are by state.
        if table.shape in ((*lead, s, a), (s, a)):
            return np.array(np.broadcast_to(table, (*lead, s, a)))
        raise ValueError(
            f"{name} must have shape {[*lead, s, a]} (by state), because states have several features; got "
            f"{list(table.shape)}."
        )
    if table.shape[-1:] == (a,) and table.shape[:-2] in (lead, ()) and table.shape[-2:-1] in ((s,), (o,)):
        table = np.broadcast_to(table, (*lead, *table.shape[-2:]))
        if table.shape[-2] == o and (o != s or _are_renumbered(mdps)):
            return np.take_along_axis(table, np.asarray(mdps.observation)[..., None], axis=-2)
        return np.array(table)
    raise ValueError(
        f"{name} must have shape {[*lead, s, a]} (by state) or {[*lead, o, a]} (by observation); "
        f"got {list(table.shape)}."
    )


def _are_renumbered(mdps: MDP) -> bool:
    """Whether some state has another index than its observation, for MDPs with S = O."""
    return bool((np.asarray(mdps.observation) != np.arange(mdps.num_states)).any())


def _with_values(mdps: MDP, probs: npt.ArrayLike, scores: npt.ArrayLike, discount: float, name: str) -> Teacher:
    """The teacher of a policy, with its exact values; raises ValueError for an invalid discount or name."""
    discount = checks.number("discount", discount, 0, 1)
    if not isinstance(name, str):
        raise ValueError(f"name must be a string, for labels; got {checks.shown(name)}.")
    probs, scores = jnp.asarray(probs, jnp.float32), jnp.asarray(scores, jnp.float32)
    # Targets bootstrap from V_pi where an episode goes on or is cut, so V_pi is the value without the time limit.
    values = jnp.asarray(exact.policy_values(mdps.with_time_limit(None), probs, discount), jnp.float32)
    return Teacher(probs=probs, values=values, scores=scores, name=name, discount=discount)
