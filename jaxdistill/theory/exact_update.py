"""The exact expected update of a method on a small MDP, from the same `Method` that the engine samples.

The engine's update is a mean over the T steps of an episode, and 1/T does not factor over steps. It is an integral that
does: 1/T = int_0^1 z^(T-1) dz. For a fixed z the factor z^(T-1) splits into one z per transition, so the expectation is
linear algebra with z P in place of P; Gauss-Legendre nodes in z make the integral exact to rounding. The sum over steps
is the single node z = 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.mdp import MDP, Teacher
from jaxdistill.methods import Method, Step, UpdateOptions, make_step
from jaxdistill.methods.options import check_options, updated
from jaxdistill.runtime import checks
from jaxdistill.theory.elimination import resolve

_MAX_ENTRIES = 2**28  # held at once in the largest array: a gigabyte in float32
MAX_NODES = 1024  # of Gauss-Legendre, which are computed as eigenvalues


class Update(NamedTuple):
    """What one iteration adds to a student's tables, per unit of learning rate.

    Attributes:
      logits: [O, A], direction of ascent of the formula of Table 1 (minus the field that it writes).
      values: [O], direction of V_theta.
    """

    logits: jax.Array
    values: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactOptions(UpdateOptions):
    """`UpdateOptions`, and how exactly an expectation is computed.

    Attributes:
      num_nodes: Gauss-Legendre nodes for the mean over steps; 64 reach 1e-10 where an episode goes on with probability
        at most 0.99.
    """

    num_nodes: int = dataclasses.field(default=64, metadata={"static": True})


def keywords(options: ExactOptions) -> dict[str, Any]:
    """The options as keyword arguments of `expected_update`."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def exact_options(changes: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> ExactOptions:
    """`ExactOptions` from those of `base` with `changes`; ValueError for an unknown one or one out of its domain."""
    options: ExactOptions = updated(ExactOptions(), {**(base or {}), **changes})
    check_options(options)
    return dataclasses.replace(options, num_nodes=checks.whole("num_nodes", options.num_nodes, 1, MAX_NODES))


def expected_update(
    mdp: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: jax.Array,
    values: jax.Array | None = None,
    **options: Any,
) -> Update:
    """The expectation of one iteration's update over episodes of the control policy, exactly.

    Args:
      mdp: a single MDP with S states, A actions, K outcomes; every episode must end with probability 1.
      teacher: a single teacher, probs [S, A] and values [S].
      method: a name of `METHODS` or a `Method`.
      logits: [O, A]; the result is differentiable with respect to it, and in float64 where it is.
      values: [O], V_theta; zeros if None.
      **options: fields of `ExactOptions`: estimator ("td"), reduction ("mean"), discount (0.99), probability_floor
        (0.01), loss_weight (1), return_weight (1), num_nodes (64). What a method fixes, it keeps.

    Returns:
      An `Update`.

    Raises:
      ValueError: tables that do not fit, an unknown method or option, or an MDP too large for the dense computation.
    """
    problem = make_problem(mdp, teacher, method, logits, values, options)
    return _expected_update(problem.method, problem.options, mdp, teacher, problem.logits, problem.values)


@functools.partial(jax.jit, static_argnums=0)
def _expected_update(method: Method, options: ExactOptions, mdp: MDP, teacher: Teacher, logits, values) -> Update:
    problem = Problem(method, options, mdp, teacher, logits, values)
    branches = problem.branches()
    if options.reduction == "sum":
        nodes, node_weights = np.ones(1), np.ones(1)
    else:
        nodes, node_weights = np.polynomial.legendre.leggauss(options.num_nodes)
        nodes, node_weights = (nodes + 1) / 2, node_weights / 2
    at_node = functools.partial(_weighted_update, problem, branches)
    total = Update(jnp.zeros_like(logits), jnp.zeros_like(values))
    for weight, control in problem.components():
        parts = jax.vmap(at_node, in_axes=(None, 0))(control, jnp.asarray(nodes, logits.dtype))
        weights = weight * jnp.asarray(node_weights, logits.dtype)
        total = jax.tree.map(lambda t, p, w=weights: t + jnp.tensordot(w, p, 1), total, parts)
    return total


def make_problem(
    mdp: MDP, teacher: Teacher, method: str | Method, logits: Any, values: Any, options: Mapping[str, Any]
) -> "Problem":
    """The `Problem` of the arguments of `expected_update`; ValueError as there."""
    method = methods.get(method)
    resolved = exact_options(options).resolved(method)
    logits, values = _check_tables(mdp, teacher, logits, values)
    check_size(mdp, "the exact update", num_nodes=1 if resolved.reduction == "sum" else resolved.num_nodes)
    methods.check_functions(method, mdp.num_actions, teacher.num_others)
    resolved = jax.tree.map(lambda number: jnp.asarray(number, logits.dtype), resolved)
    return Problem(method, resolved, mdp, teacher, logits, values)


def _check_tables(mdp: MDP, teacher: Teacher, logits: Any, values: Any) -> tuple[jax.Array, jax.Array]:
    """The tables of a student as floats; ValueError unless they and the teacher fit a single MDP."""
    logits = _table("logits", logits)
    values = jnp.zeros(logits.shape[:1], logits.dtype) if values is None else _table("values", values)
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
    return logits, jnp.asarray(values, logits.dtype)


def _table(name: str, table: Any) -> jax.Array:
    """A table as floats, in its own precision; ValueError unless it is numeric and finite."""
    if not isinstance(table, jax.Array):
        checks.numbers(name, table)
        table = jnp.asarray(checks.reals(name, table))
    if not jnp.issubdtype(table.dtype, jnp.floating):
        table = jnp.asarray(checks.reals(name, table), float)
    if not isinstance(table, jax.core.Tracer) and not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return table


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


class Branches(NamedTuple):
    """Everything that can happen in one step: axes [S, A, K, E], E = (the episode goes on, it ends)."""

    probs: jax.Array  # given state and action
    reward: jax.Array
    loss_gradient: jax.Array  # [S, A, K, E, A]


class Chain(NamedTuple):
    """The chain of states under a control policy, every transition with a factor z."""

    taken: jax.Array  # [S, A, K, E], P(branch | s)
    onward: jax.Array  # [S, A, K], z P(branch | s) of branches that go on
    transition: jax.Array  # [S, S'], the sum of these by successor
    weight: jax.Array  # [S, A, K, E], E[1(branch) z^(steps still to come) | s]
    start: jax.Array  # [S], P(s_0 = s)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A method, its options and a student on one MDP, and what follows from them for every branch of a step.

    Attributes:
      method: the method.
      options: resolved options, their numbers arrays of the dtype of `logits`.
      mdp, teacher: single ones.
      logits, values: [O, A] and [O], the student.
    """

    method: Method
    options: ExactOptions
    mdp: MDP
    teacher: Teacher
    logits: jax.Array
    values: jax.Array

    @property
    def dtype(self) -> Any:
        return self.logits.dtype

    def step(self, state, action, outcome, goes_on) -> Step:
        """The `Step` of one branch."""
        mdp, teacher, dtype = self.mdp, self.teacher, self.dtype
        observation = mdp.observation[state]
        others = None if teacher.others is None else jnp.asarray(teacher.others, dtype)[:, state]
        return make_step(
            self.logits[observation],
            jnp.asarray(teacher.probs, dtype)[state],
            action=action,
            probability_floor=self.options.probability_floor,
            student_value=self.values[observation],
            teacher_value=jnp.asarray(teacher.values, dtype)[state],
            next_teacher_value=goes_on * jnp.asarray(teacher.values, dtype)[mdp.successor[state, outcome]],
            reward=jnp.asarray(mdp.reward, dtype)[state, outcome],
            discount=self.options.discount,
            params={name: jnp.asarray(value, dtype) for name, value in self.method.params.items()},
            other_probs=others,
        )

    def branches(self) -> Branches:
        """What happens in every branch of a step."""
        mdp, method, dtype = self.mdp, self.method, self.dtype
        shape = (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
        outcome_probs = jnp.broadcast_to(jnp.asarray(mdp.outcome_probs, dtype), shape)
        go = jnp.where(mdp.terminal, 0, jnp.asarray(mdp.continue_prob, dtype)).astype(dtype)[:, None, :]
        probs = outcome_probs[..., None] * jnp.stack([go, 1 - go], axis=-1)

        def over_branches(fn: Callable[[Step], jax.Array]) -> jax.Array:
            """fn(step) in every branch."""

            def at(state: Any, action: Any, outcome: Any, goes_on: Any) -> jax.Array:
                return fn(self.step(state, action, outcome, goes_on))

            at_all: Callable[..., jax.Array] = at
            for axis in (3, 2, 1, 0):
                at_all = jax.vmap(at_all, in_axes=[0 if i == axis else None for i in range(4)])
            return at_all(*(jnp.arange(n, dtype=jnp.int32) for n in shape), jnp.asarray([1, 0], dtype))

        def reward(step: Step) -> jax.Array:
            return jnp.asarray(method.reward(step) if method.reward else 0, dtype)

        def gradient(step: Step) -> jax.Array:
            return methods.loss_gradient(method.loss, step) if method.loss else jnp.zeros_like(step.student_logits)

        return Branches(probs, over_branches(reward), over_branches(gradient))

    def next_rewards(self) -> jax.Array:
        """The part of rhat_{t-1} that action a in state s_t decides, [S, A]."""
        fn = self.method.next_reward
        if fn is None:
            return jnp.zeros((self.mdp.num_states, self.mdp.num_actions), self.dtype)
        zero = jnp.zeros((), self.dtype)

        def at(state: jax.Array, action: jax.Array) -> jax.Array:
            # When the action is drawn, neither its reward nor the next state is known.
            step = dataclasses.replace(self.step(state, action, 0, 0.0), reward=zero, next_teacher_value=zero)
            return jnp.asarray(fn(step), self.dtype)

        states, actions = (jnp.arange(n, dtype=jnp.int32) for n in (self.mdp.num_states, self.mdp.num_actions))
        return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(states, actions)

    def bootstrap_values(self) -> jax.Array:
        """V of every state by which the method bootstraps, [S]."""
        if self.method.bootstrap == "student":
            return self.values[self.mdp.observation]
        if self.method.bootstrap == "teacher":
            return jnp.asarray(self.teacher.values, self.dtype)
        return jnp.zeros(self.mdp.num_states, self.dtype)

    def handed_back(self, branches: Branches) -> tuple[jax.Array, jax.Array | float]:
        """What a step hands back to the return of the step before it, X_t = constant + slope * X_{t+1}.

        X_t = next_reward_t + discount H_t, and Rhat_t = reward_t + X_{t+1}. H_t = continuation(Rhat_t, V_t) is linear,
        so it is determined by two evaluations. The constant is [S, A, K, E], by branch.
        """
        continuation = functools.partial(ESTIMATORS[self.options.estimator].continuation, self.options)
        values = jnp.broadcast_to(self.bootstrap_values()[:, None, None, None], branches.reward.shape)
        continued = continuation(branches.reward, values)
        slope = continuation(1.0, 0.0)
        is_zero = isinstance(slope, float) and slope == 0  # then no system has to be solved
        constant = self.next_rewards()[:, :, None, None] + self.options.discount * continued
        return constant, 0.0 if is_zero else self.options.discount * slope

    def components(self) -> list[tuple[float, jax.Array]]:
        """(weight, policy [S, A]) of each control policy that is drawn once per episode; one if drawn per step."""
        mdp, control = self.mdp, self.method.control
        policies = (
            jax.nn.softmax(self.logits)[mdp.observation],
            jnp.asarray(self.teacher.probs, self.dtype),
            jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions, self.dtype),
        )
        pairs = [(weight, policy) for weight, policy in zip(control.weights, policies, strict=True) if weight > 0]
        if control.per == "episode":
            return pairs
        return [(1.0, sum(weight * policy for weight, policy in pairs))]  # type: ignore[list-item]

    def scores(self) -> jax.Array:
        """grad log pi_theta(a|s), [S, A, A]."""
        probs = jax.nn.softmax(self.logits)[self.mdp.observation]
        return jnp.eye(self.mdp.num_actions, dtype=self.dtype) - probs[:, None]

    def chain(self, branches: Branches, control: jax.Array, z: jax.Array) -> Chain:
        """The chain of states under a control policy [S, A], every transition with a factor z."""
        mdp = self.mdp
        taken = control[:, :, None, None] * branches.probs
        onward = z * taken[..., 0]
        successor_hot = jax.nn.one_hot(mdp.successor, mdp.num_states, dtype=self.dtype)  # [S, K, S']
        transition = jnp.einsum("sak,skn->sn", onward, successor_hot)
        to_come = resolve(transition, jnp.sum(taken[..., 1], axis=(1, 2)))
        after = jnp.stack([z * to_come[mdp.successor], jnp.ones(mdp.successor.shape, self.dtype)], axis=-1)
        start = jnp.zeros(mdp.num_states, self.dtype).at[mdp.start].add(jnp.asarray(mdp.start_probs, self.dtype))
        return Chain(taken, onward, transition, taken * after[:, None], start)


def solve_backward(chain: Chain, slope: jax.Array | float, source: jax.Array) -> jax.Array:
    """x [S, ...] with x(s) = source(s) + slope E[z x(s') | s]: sums over the steps still to come, for each state."""
    if isinstance(slope, float) and slope == 0:
        return source
    return resolve(slope * chain.transition, source.reshape(len(source), -1)).reshape(source.shape)


def _weighted_update(problem: Problem, branches: Branches, control: jax.Array, z: jax.Array) -> Update:
    """E[z^(T-1) sum_t direction_t] for episodes of the control policy [S, A]."""
    mdp, method, options = problem.mdp, problem.method, problem.options
    chain = problem.chain(branches, control, z)
    constant, slope = problem.handed_back(branches)
    handed_back = solve_backward(chain, slope, jnp.einsum("sake,sake->s", chain.weight, constant))

    # E[z^(steps still to come) Rhat_t 1(branch) | s], by branch.
    target = (chain.weight * branches.reward).at[..., 0].add(chain.onward * handed_back[mdp.successor][:, None])
    visits = resolve(chain.transition.T, chain.start)  # sum_t z^t P(s_t = s)
    value = chain.weight * problem.values[mdp.observation][:, None, None, None]
    has_return = 1.0 if method.has_return else 0.0
    advantage = has_return * options.return_weight * (target - (value if method.baseline else 0))
    direction = jnp.einsum("s,sake,sab->sb", visits, advantage, problem.scores())
    descent = jnp.einsum("s,sake,sakeb->sb", visits, chain.weight, branches.loss_gradient)
    value_direction = has_return * jnp.einsum("s,sake->s", visits, target - value)
    return Update(
        jnp.zeros_like(problem.logits).at[mdp.observation].add(direction - options.loss_weight * descent),
        jnp.zeros_like(problem.values).at[mdp.observation].add(value_direction),
    )
