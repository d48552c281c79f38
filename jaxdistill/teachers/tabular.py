"""Where teachers come from: learned, optimal, adversarial, a user's tables or function; how to mix and to spoil them.

Learned teachers run on the engine that trains the students.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, exact, validate
from jaxdistill.mdp.teacher import Teacher, are_distributions, check_policy
from jaxdistill.runtime import checks


def from_table(
    mdps: MDP, probs: npt.ArrayLike, *, scores: npt.ArrayLike | None = None, discount: float = 0.99, name: str = "table"
) -> Teacher:
    """A teacher from a table of probabilities.

    Args:
      mdps: M stacked MDPs, or one.
      probs: [M, S, A] or [M, O, A] (or without M for one MDP, or for the same policy in all): rows sum to 1.
      scores: the same shape, ranks actions for `with_noise`; the probabilities if None.
      discount: of V_pi, which is computed exactly.
      name: for labels.

    Raises:
      ValueError: a table that does not fit the worlds, or whose rows are not distributions.
    """
    table = _by_state(validate(mdps), probs, "probs")
    if not are_distributions(table):
        raise ValueError("probs must be finite, >= 0 and sum to 1 over actions; normalise the table.")
    ranked = table if scores is None else _by_state(mdps, scores, "scores")
    if np.isnan(ranked).any():
        raise ValueError("scores must be numbers that actions can be ranked by; they hold NaN.")
    return _valued(mdps, table, ranked, discount, name)


def from_logits(mdps: MDP, logits: npt.ArrayLike, *, discount: float = 0.99, name: str = "logits") -> Teacher:
    """A teacher from a table of logits, [M, O, A] or [M, S, A]; softmax of each row."""
    logits = _by_state(validate(mdps), logits, "logits")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite; for a deterministic teacher give from_table its probabilities.")
    return _valued(mdps, jax.nn.softmax(jnp.asarray(logits, jnp.float32)), logits, discount, name)


def from_policy(
    mdps: MDP,
    policy: Callable[[int], npt.ArrayLike],
    *,
    sees: Literal["state", "observation"] = "state",
    discount: float = 0.99,
    name: str | None = None,
) -> Teacher:
    """A teacher from a function, such as a rule of thumb or a trained network.

    The function is called once for each number, on the host, and the answers become a table; stacked worlds share it.

    Args:
      mdps: M stacked MDPs, or one.
      policy: of the state's number (in a grid, `gridworld.state_to_cell` gives the cell), or with sees="observation" of
        the observation's; returns probabilities [A], or the number of the one action that it plays.
      sees: what the number is.
      discount: of V_pi, which is computed exactly.
      name: for labels; the function's name if None.

    Raises:
      ValueError: an answer that is neither a distribution nor an action, with the number that it was given.
    """
    validate(mdps)
    checks.one_of("sees", sees, ("state", "observation"))
    if not callable(policy):
        raise ValueError(f"policy must be a function of the state's number; got {checks.shown(policy)}.")
    num_rows = mdps.num_states if sees == "state" else mdps.num_observations
    table = np.stack([_answer(policy, sees, row, mdps.num_actions) for row in range(num_rows)])
    probs = table if sees == "state" else table[np.asarray(mdps.observation)]
    probs = np.broadcast_to(probs, (*mdps.id.shape, mdps.num_states, mdps.num_actions))
    return _valued(mdps, probs, probs, discount, str(getattr(policy, "__name__", "policy")) if name is None else name)


def mixture(
    mdps: MDP,
    members: Sequence[Teacher],
    weights: npt.ArrayLike | None = None,
    *,
    discount: float | None = None,
    name: str | None = None,
) -> Teacher:
    """One teacher from several: in each state their probabilities are averaged, as if one were drawn at every step.

    Args:
      mdps: the worlds that all of them teach in.
      members: N >= 1 teachers of these worlds. Their further policies (`with_others`) are left behind.
      weights: N numbers >= 0, not all 0, divided by their sum; equal if None.
      discount: of V_pi, which is the mixture's own, computed exactly; that of the first if None.
      name: for labels; made of the members' names if None.

    Raises:
      ValueError: no member, members of other worlds, or weights that do not fit.
    """
    validate(mdps)
    members = checks.listed(members)
    strange = [member for member in members if not isinstance(member, Teacher)]
    if strange:
        raise ValueError(f"members must be teachers, such as teachers.optimal(mdps); got {checks.shown(strange[0])}.")
    expected = (*mdps.id.shape, mdps.num_states, mdps.num_actions)
    shapes = {np.shape(member.probs) for member in members}
    if shapes != {expected}:
        found = ", ".join(str(list(shape)) for shape in sorted(shapes)) or "no member"
        raise ValueError(f"mixture needs teachers of these worlds, with probs {list(expected)}; got {found}.")
    if not all(are_distributions(checks.reals("probs of a member", member.probs)) for member in members):
        raise ValueError("The probs of every member must be finite, >= 0 and sum to 1 over actions; normalise them.")
    share = np.ones(len(members)) if weights is None else checks.numbers("weights", weights)
    if share.shape != (len(members),) or not np.isfinite(share).all() or (share < 0).any() or share.sum() == 0:
        raise ValueError(
            f"weights must be {len(members)} numbers >= 0 that are not all 0; got {checks.shown(weights)}."
        )
    share = share / share.sum()
    probs = np.tensordot(share, np.stack([np.asarray(member.probs, np.float64) for member in members]), 1)
    named = "+".join(f"{part:.3g} {member.name}" for part, member in zip(share, members, strict=True))
    return _valued(
        mdps, probs, probs, members[0].discount if discount is None else discount, named if name is None else name
    )


def optimal(mdps: MDP, *, discount: float = 0.99) -> Teacher:
    """The policy of the greatest discounted return; ties share the probability."""
    q = exact.optimal_action_values(validate(mdps), checks.number("discount", discount, 0, 1))
    return _valued(mdps, exact.greedy(q, exact.TIE), q, discount, "optimal")


def adversarial(mdps: MDP, *, discount: float = 0.99) -> Teacher:
    """The optimal policy of the negated reward (Figs. 6 and 9); its V_pi is of the true reward."""
    negated = dataclasses.replace(validate(mdps), reward=-mdps.reward)
    q = exact.optimal_action_values(negated, checks.number("discount", discount, 0, 1))
    return _valued(mdps, exact.greedy(q, exact.TIE), q, discount, "adversarial")


def uniform(mdps: MDP, *, discount: float = 0.99) -> Teacher:
    """The uniform policy."""
    shape = (*validate(mdps).successor.shape[:-1], mdps.num_actions)
    probs = jnp.full(shape, 1 / mdps.num_actions, jnp.float32)
    return _valued(mdps, probs, probs, discount, "uniform")


def with_noise(key: jax.Array, mdps: MDP, teacher: Teacher, noise: npt.ArrayLike) -> Teacher:
    """In each state, independently with probability `noise`, the teacher plays its worst action (Figs. 5 and 8).

    The states are nested: those of a smaller noise are among those of a larger one under the same key. V_pi is the
    noisy teacher's. Equally bad actions share the probability.

    Args:
      key: random key; world i's states depend on it and the world's id only.
      mdps, teacher: stacked.
      noise: rho in [0, 1], one for all worlds or one for each, [M].
    """
    key = checks.as_key(key)
    if validate(mdps).id.ndim != 1:
        raise ValueError("with_noise takes stacked MDPs; stack a single one with mdp.stack([mdp]).")
    check_policy(teacher, (*mdps.successor.shape[:-1], mdps.num_actions))
    scores = checks.reals("The teacher's scores", teacher.scores)
    if scores.shape != teacher.probs.shape or np.isnan(scores).any():
        raise ValueError("The teacher's scores must rank the actions: numbers, not NaN, of the shape of its probs.")
    rho = _per_world(mdps, noise, "Teacher noise", 1.0)
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (mdps.num_states,), jnp.float32))
    bad = draw(mdps.id) < rho[:, None]
    worst = exact.greedy(-teacher.scores)
    probs = jnp.where(bad[..., None], worst, teacher.probs)
    spoiled = _valued(mdps, probs, teacher.scores, teacher.discount, f"{teacher.name}+{rho.mean():.0%} noise")
    return dataclasses.replace(spoiled, others=teacher.others)


def with_others(teacher: Teacher, *others: Teacher) -> Teacher:
    """`teacher` with the policies of further teachers beside it, for methods that look at several (`Step.other_probs`).

    Raises:
      ValueError: no further teacher, or teachers of other worlds.
    """
    strange = [other for other in (teacher, *others) if not isinstance(other, Teacher)]
    if strange:
        raise ValueError(f"with_others takes teachers, such as teachers.optimal(mdps); got {checks.shown(strange[0])}.")
    shapes = {np.shape(other.probs) for other in (teacher, *others)}
    if not others or len(shapes) > 1:
        raise ValueError(f"with_others needs one or more teachers of the same worlds; got probs of {sorted(shapes)}.")
    return dataclasses.replace(teacher, others=jnp.stack([other.probs for other in others], axis=-3))


def from_q(
    mdps: MDP, q: npt.ArrayLike, *, temperature: npt.ArrayLike = 0.0, discount: float = 0.99, name: str = "q_learning"
) -> Teacher:
    """The teacher that a table of action values [M, O, A] makes at a temperature >= 0 (App. A.4)."""
    t = jnp.asarray(check_temperature(validate(mdps), temperature))[..., None, None]
    q = _by_state(mdps, q, "q")
    if not np.isfinite(q).all():
        raise ValueError("q must be finite; it holds NaN or infinity.")
    q = jnp.asarray(q, jnp.float32)
    sharpened = q / jnp.where(t > 0, t, 1)
    soft = (t > 0) & jnp.isfinite(sharpened).all(-1, keepdims=True)  # else as good as T = 0
    probs = jnp.where(soft, jax.nn.softmax(sharpened), exact.greedy(q, 0.0))
    return _valued(mdps, probs, q, discount, name)


def _answer(policy: Callable[[int], npt.ArrayLike], sees: str, row: int, num_actions: int) -> np.ndarray:
    """What the policy plays there, as probabilities [A]."""
    answer = policy(row)
    try:
        answer = np.asarray(answer)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        answer = np.asarray(None)
    if answer.shape == () and answer.dtype.kind in "iu" and 0 <= answer < num_actions:
        return np.eye(num_actions)[int(answer)]
    is_row = answer.shape == (num_actions,) and answer.dtype.kind in "fiub"
    if is_row and np.isfinite(answer).all() and (answer >= 0).all() and abs(answer.sum(dtype=np.float64) - 1) <= 1e-4:
        return answer.astype(np.float64)
    shown = " ".join(np.array2string(answer, precision=3, threshold=6).split())[:80]
    raise ValueError(
        f"policy must return {num_actions} probabilities that sum to 1, or an action in [0, {num_actions}); for {sees} "
        f"{row} it returned {shown}."
    )


def check_temperature(mdps: MDP, temperature: npt.ArrayLike) -> np.ndarray:
    """The temperature of each world, float32 [M]; ValueError unless it is >= 0, one number or one for each world."""
    return _per_world(mdps, temperature, "temperature", np.inf)


def _per_world(mdps: MDP, value: npt.ArrayLike, name: str, most: float) -> np.ndarray:
    """A number in [0, most] for each world, float32 [M] (or [] for a single MDP)."""
    array = checks.numbers(name, value).astype(np.float32)
    if array.shape not in ((), mdps.id.shape) or not ((array >= 0) & (array <= most)).all():
        wanted = "in [0, 1]" if most == 1 else ">= 0"
        raise ValueError(f"{name} must be {wanted}, one number or one for each world; got {checks.shown(value)}.")
    return np.broadcast_to(array, mdps.id.shape)


def _by_state(mdps: MDP, table: npt.ArrayLike, name: str) -> np.ndarray:
    """The table [.., S, A], whether it was given by state or by observation; ValueError if it fits neither."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        table = checks.reals(name, table).astype(np.float32, copy=False)
    lead, s, o, a = mdps.id.shape, mdps.num_states, mdps.num_observations, mdps.num_actions
    if table.shape[-1:] == (a,) and table.shape[:-2] in (lead, ()) and table.shape[-2:-1] in ((s,), (o,)):
        table = np.broadcast_to(table, (*lead, *table.shape[-2:]))
        if table.shape[-2] == o and (o != s or _observed(mdps)):
            return np.take_along_axis(table, np.asarray(mdps.observation)[..., None], axis=-2)
        return np.array(table)
    raise ValueError(
        f"{name} must have shape {[*lead, s, a]} (by state) or {[*lead, o, a]} (by observation); "
        f"got {list(table.shape)}."
    )


def _observed(mdps: MDP) -> bool:
    """Whether S = O but states are numbered otherwise than observations."""
    return bool((np.asarray(mdps.observation) != np.arange(mdps.num_states)).any())


def _valued(mdps: MDP, probs: npt.ArrayLike, scores: npt.ArrayLike, discount: float, name: str) -> Teacher:
    discount = checks.number("discount", discount, 0, 1)
    if not isinstance(name, str):
        raise ValueError(f"name must be a string, for labels; got {checks.shown(name)}.")
    probs, scores = jnp.asarray(probs, jnp.float32), jnp.asarray(scores, jnp.float32)
    values = exact.policy_values(mdps, probs, discount)
    return Teacher(probs=probs, values=values, scores=scores, name=name, discount=discount)
