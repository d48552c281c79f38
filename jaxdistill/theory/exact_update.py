"""The exact expected update of a method on a small MDP, from the same `Method` that the engine samples.

The engine's update is a mean over the T steps of an episode, and 1/T does not factor over steps. It is an integral that
does: 1/T = int_0^1 z^(T-1) dz. For a fixed z the factor z^(T-1) splits into one z per transition, so the expectation is
linear algebra with z P in place of P; Gauss-Legendre nodes in z make the integral exact to rounding. The sum over steps
is the single node z = 1.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method, Step, numerics
from jaxdistill.runtime import checks
from jaxdistill.theory.elimination import resolve

_MAX_ENTRIES = 2**28  # held at once in the largest array: a gigabyte in float32
MAX_NODES = 1024  # of Gauss-Legendre, found as eigenvalues


class Update(NamedTuple):
    """What one iteration adds to a student's tables, per unit of learning rate.

    Attributes:
      logits: [O, A], direction of ascent of the formula of Table 1 (minus the field that it writes).
      values: [O], direction of V_theta.
    """

    logits: jax.Array
    values: jax.Array


class _Branches(NamedTuple):
    """Everything that can happen in one step: axes [S, A, K, E], E = (the episode goes on, it ends)."""

    probs: jax.Array  # given state and action
    reward: jax.Array
    loss_gradient: jax.Array  # [S, A, K, E, A]
    bootstrap: jax.Array  # V(t + 1) of TD(1)


def expected_update(
    mdp: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: jax.Array,
    values: jax.Array | None = None,
    *,
    estimator: Literal["mc", "td"] = "td",
    reduction: Literal["mean", "sum"] = "mean",
    discount: float = 0.99,
    probability_floor: float = 0.01,
    loss_weight: float = 1.0,
    return_weight: float = 1.0,
    num_nodes: int = 64,
) -> Update:
    """The expectation of one iteration's update over episodes of the control policy, exactly.

    Args:
      mdp: a single MDP with S states, A actions, K outcomes; every episode must end with probability 1.
      teacher: a single teacher, probs [S, A] and values [S].
      method: a name of `METHODS` or a `Method`.
      logits: [O, A]; the result is differentiable with respect to it, and in float64 where it is.
      values: [O], V_theta; zeros if None.
      estimator: "mc" or "td"; a method that fixes its own keeps it.
      reduction: "mean" or "sum" over the steps of the episode; a method that fixes its own keeps it.
      discount: in [0, 1].
      probability_floor: least probability of the teacher inside a logarithm.
      loss_weight, return_weight: factors of l and of Rhat.
      num_nodes: Gauss-Legendre nodes for the mean; 64 reach 1e-10 where an episode goes on with probability <= 0.99.

    Returns:
      An `Update`.

    Raises:
      ValueError: tables that do not fit, an unknown method, or an MDP too large for the dense computation.
    """
    method = methods.get(method)
    logits = _table("logits", logits)
    values = jnp.zeros(logits.shape[:1], logits.dtype) if values is None else _table("values", values)
    values = jnp.asarray(values, logits.dtype)
    reduction = method.reduction or reduction
    num_nodes = checks.whole("num_nodes", num_nodes, 1, MAX_NODES)
    found = as_numbers(
        discount=discount if method.discount is None else method.discount, probability_floor=probability_floor,
        loss_weight=loss_weight, return_weight=return_weight,
    )  # fmt: skip
    _check(mdp, teacher, logits, values, reduction, estimator, num_nodes)
    methods.check_functions(method, mdp.num_actions, teacher.num_others)
    static = (method, method.estimator or estimator, reduction, num_nodes)
    return _expected_update(static, mdp, teacher, logits, values, tuple(found.values()))


@functools.partial(jax.jit, static_argnums=0)
def _expected_update(static, mdp: MDP, teacher: Teacher, logits, values, numbers) -> Update:
    method, estimator, reduction, num_nodes = static
    discount, floor, loss_weight, return_weight = (jnp.asarray(x, logits.dtype) for x in numbers)
    step_of = functools.partial(_step, mdp, teacher, logits, values, discount, floor, method)
    branches = _branches(mdp, method, step_of, values)
    if reduction == "sum":
        nodes, node_weights = np.ones(1), np.ones(1)
    else:
        nodes, node_weights = np.polynomial.legendre.leggauss(num_nodes)
        nodes, node_weights = (nodes + 1) / 2, node_weights / 2

    def at_node(control, z):
        return _weighted_update(
            mdp, method, step_of, branches, logits, values, control, z, monte_carlo=estimator == "mc",
            discount=discount, loss_weight=loss_weight, return_weight=return_weight,
        )  # fmt: skip

    total = Update(jnp.zeros_like(logits), jnp.zeros_like(values))
    for weight, control in _components(method, mdp, teacher, logits):
        parts = jax.vmap(at_node, in_axes=(None, 0))(control, jnp.asarray(nodes, logits.dtype))
        weights = weight * jnp.asarray(node_weights, logits.dtype)
        total = jax.tree.map(lambda t, p, w=weights: t + jnp.tensordot(w, p, 1), total, parts)
    return total


def as_numbers(**options: Any) -> dict[str, Any]:
    """These options of `expected_update` as floats, ValueError out of range; traced ones are let through."""
    found = {}
    for name, value in options.items():
        least, most = (0, 1) if name in ("discount", "probability_floor") else (-np.inf, np.inf)
        found[name] = value if isinstance(value, jax.core.Tracer) else checks.number(name, value, least, most)
    return found


def _table(name: str, table: Any) -> jax.Array:
    """A table as floats, in the precision that it has; ValueError for what is none."""
    if not isinstance(table, jax.Array):
        checks.numbers(name, table)
        table = jnp.asarray(checks.reals(name, table))
    if not jnp.issubdtype(table.dtype, jnp.floating):
        table = jnp.asarray(checks.reals(name, table), float)
    if not isinstance(table, jax.core.Tracer) and not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return table


def _check(mdp: MDP, teacher: Teacher, logits, values, reduction, estimator, num_nodes) -> None:
    for name, value, kind in (("mdp", mdp, MDP), ("teacher", teacher, Teacher)):
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be one {kind.__name__}, such as {name}s[0]; got {checks.shown(value)}.")
    s, a, o = mdp.num_states, mdp.num_actions, mdp.num_observations
    if mdp.is_stacked or jnp.ndim(teacher.values) != 1:
        raise ValueError("expected_update takes a single MDP and teacher; index the stacks, such as mdps[0].")
    if logits.shape != (o, a) or values.shape != (o,):
        raise ValueError(
            f"logits must be [O, A] = [{o}, {a}] and values [O] = [{o}]; got {logits.shape} and {values.shape}."
        )
    if jnp.shape(teacher.probs) != (s, a) or jnp.shape(teacher.values) != (s,):
        got = f"{jnp.shape(teacher.probs)} and {jnp.shape(teacher.values)}"
        raise ValueError(f"The teacher's probs must be [S, A] = [{s}, {a}] and its values [S]; got {got}.")
    checks.one_of("reduction", reduction, ("mean", "sum"))
    checks.one_of("estimator", estimator, ("mc", "td"))
    check_size(mdp, "the exact update", num_nodes=1 if reduction == "sum" else num_nodes)


def check_size(mdp: MDP, what: str, *, num_nodes: int = 1, copies: int = 1) -> None:
    """ValueError if `copies` computations of the update at once would not fit into memory; `what` names them."""
    s, a, k = mdp.num_states, mdp.num_actions, mdp.num_outcomes
    arrays = {"S*A*K*2*A": s * a * k * 2 * a, "S*S*max(K, nodes)": s * s * max(k, num_nodes)}
    name = max(arrays, key=lambda name: arrays[name])
    if copies * arrays[name] > _MAX_ENTRIES:
        times = f" times {copies}" if copies > 1 else ""
        raise ValueError(
            f"This MDP of {s} states, {a} actions and {k} outcomes is too large for {what}: {name} = {arrays[name]:,}"
            f"{times} exceeds {_MAX_ENTRIES:,} entries; use a smaller one, or train students on it instead."
        )


def _step(mdp, teacher, logits, values, discount, floor, method, state, action, outcome, goes_on) -> Step:
    """The `Step` of one branch."""
    row = logits[mdp.observation[state]]
    probs = jnp.asarray(teacher.probs, logits.dtype)[state]
    return Step(
        student_logits=row,
        frozen_logits=row,
        student_value=values[mdp.observation[state]],
        teacher_probs=probs,
        teacher_log_probs=numerics.log_floored(probs, floor),
        teacher_value=jnp.asarray(teacher.values, logits.dtype)[state],
        next_teacher_value=goes_on * jnp.asarray(teacher.values, logits.dtype)[mdp.successor[state, outcome]],
        action=action,
        reward=jnp.asarray(mdp.reward, logits.dtype)[state, outcome],
        discount=discount.astype(logits.dtype),
        params={name: jnp.asarray(value, logits.dtype) for name, value in method.params.items()},
        other_probs=jnp.zeros((0, mdp.num_actions), logits.dtype)
        if teacher.others is None
        else jnp.asarray(teacher.others, logits.dtype)[:, state],
    )


def _branches(mdp: MDP, method: Method, step_of, values) -> _Branches:
    dtype = values.dtype
    outcome_probs = jnp.broadcast_to(
        jnp.asarray(mdp.outcome_probs, dtype), (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
    )
    go = jnp.where(mdp.terminal, 0, jnp.asarray(mdp.continue_prob, dtype)).astype(dtype)[:, None, :]
    probs = outcome_probs[..., None] * jnp.stack([go, 1 - go], axis=-1)
    states, actions, outcomes = (
        jnp.arange(n, dtype=jnp.int32) for n in (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
    )

    def over_branches(fn):
        """fn(step, state, outcome, goes_on) on every branch."""

        def at(s, a, k, g):
            return fn(step_of(s, a, k, g), s, k, g)

        for axis in (3, 2, 1, 0):
            at = jax.vmap(at, in_axes=[0 if i == axis else None for i in range(4)])
        return at(states, actions, outcomes, jnp.asarray([1, 0], dtype))

    def reward(step, s, k, g):
        return jnp.asarray(method.reward(step) if method.reward else 0, dtype)

    def gradient(step, s, k, g):
        return methods.loss_gradient(method.loss, step) if method.loss else jnp.zeros_like(step.student_logits)

    def bootstrap(step, s, k, g):
        if method.bootstrap == "student":
            return g * values[mdp.observation[mdp.successor[s, k]]]
        return step.next_teacher_value if method.bootstrap == "teacher" else jnp.zeros_like(step.next_teacher_value)

    return _Branches(probs, over_branches(reward), over_branches(gradient), over_branches(bootstrap))


def _components(method: Method, mdp: MDP, teacher: Teacher, logits):
    """(weight, control policy [S, A]) of each component that is drawn once per episode; one when drawn per step."""
    policies = (
        jax.nn.softmax(logits)[mdp.observation],
        jnp.asarray(teacher.probs, logits.dtype),
        jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions, logits.dtype),
    )
    pairs = [(w, p) for w, p in zip(method.control.weights, policies, strict=True) if w > 0]
    if method.control.per == "episode":
        return pairs
    return [(1.0, sum(w * p for w, p in pairs))]


def _weighted_update(
    mdp, method, step_of, branches, logits, values, q, z, *, monte_carlo, discount, loss_weight, return_weight
) -> Update:
    """E[z^(T-1) sum_t direction_t] for episodes of the control policy q [S, A]."""
    num_states = mdp.num_states
    taken = q[:, :, None, None] * branches.probs  # P(branch | state)
    successor_hot = jax.nn.one_hot(mdp.successor, num_states, dtype=q.dtype)  # [S, K, S']
    transition = jnp.einsum("sak,skn->sn", taken[..., 0], successor_hot)

    # E[z^(steps still to come after this one)], by state before the step and by branch.
    weight_from = resolve(z * transition, jnp.sum(taken[..., 1], axis=(1, 2)))
    weight = jnp.stack([z * weight_from[mdp.successor], jnp.ones_like(mdp.reward, q.dtype)], axis=-1)[:, None]
    weight = jnp.broadcast_to(weight, taken.shape)

    reward = branches.reward * weight
    if method.next_reward is not None:
        # rhat_t's part from step t + 1: its expectation given that the episode goes on to s'.
        def chosen(s, a):
            zero = jnp.zeros((), q.dtype)
            step = dataclasses.replace(step_of(s, a, 0, 0.0), reward=zero, next_teacher_value=zero)
            return method.next_reward(step)

        states, actions = jnp.arange(num_states, dtype=jnp.int32), jnp.arange(mdp.num_actions, dtype=jnp.int32)
        seen = jax.vmap(jax.vmap(chosen, (None, 0)), (0, None))(states, actions)
        ahead = jnp.einsum("sake,sake,sa->s", taken, weight, seen)
        reward = reward.at[..., 0].add(z * ahead[mdp.successor][:, None])
    if monte_carlo:
        return_from = resolve(z * discount * transition, jnp.einsum("sake,sake->s", taken, reward))
        tail = discount * z * return_from[mdp.successor][:, None, :]
        target = reward.at[..., 0].add(jnp.broadcast_to(tail, taken.shape[:3]))
    else:
        target = reward + discount * branches.bootstrap * weight

    start = jnp.zeros(num_states, q.dtype).at[mdp.start].add(jnp.asarray(mdp.start_probs, q.dtype))
    visits = resolve(z * transition.T, start)  # sum_t z^t P(s_t = s)
    happens = visits[:, None, None, None] * taken
    value = values[mdp.observation][:, None, None, None]
    has_return = 1.0 if method.has_return else 0.0
    advantage = has_return * return_weight * (target - (value * weight if method.baseline else 0))
    score = jnp.eye(mdp.num_actions, dtype=q.dtype) - jax.nn.softmax(logits)[mdp.observation][:, None]  # [S, A, A]
    by_state = jnp.einsum("sake,sake,sab->sb", happens, advantage, score) - loss_weight * jnp.einsum(
        "sake,sake,sakeb->sb", happens, weight, branches.loss_gradient
    )
    value_by_state = has_return * jnp.einsum("sake,sake->s", happens, target - value * weight)
    return Update(
        jnp.zeros_like(logits).at[mdp.observation].add(by_state),
        jnp.zeros_like(values).at[mdp.observation].add(value_by_state),
    )
