"""The exact expected update of a method on a small MDP, from the same `Method` that the engine samples.

By default an update is the mean over the T steps of an episode, and its weight 1/T does not factor over the steps. The
integral 1/T = int_0^1 z^(T-1) dz helps: for a fixed z, the weight z^(T-1) is a product of one factor z for each
transition. So the expectation for a fixed z is linear algebra, with z P in place of the transition matrix P.
Gauss-Legendre nodes in z make the integral exact up to rounding. The sum over steps is the single node z = 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.mdp import MDP, NO_TIME_LIMIT, Teacher
from jaxdistill.mdp.features import add_to_rows, shares, sum_of_rows
from jaxdistill.mdp.precision import float64
from jaxdistill.methods import Method, Step, UpdateOptions, make_step
from jaxdistill.methods.options import check_options, updated
from jaxdistill.runtime import checks
from jaxdistill.runtime.products import einsum, tensordot
from jaxdistill.theory.chains import Chain, chain_of
from jaxdistill.theory.precision import precise
from jaxdistill.theory.time_limits import UnrolledMDP, unrolled

_MAX_ENTRIES = 2**28  # Entries of the largest array that may be held at once: a gigabyte in float32.
MAX_NODES = 1024  # The Gauss-Legendre nodes are computed as the eigenvalues of a matrix of this size.


class Update(NamedTuple):
    """What one iteration adds to a student's tables, per unit of learning rate.

    Attributes:
      logits: [O, A], the direction of ascent in the formula of Table 1, which is minus the vector field stated there.
      values: [O], the direction of V_theta.
    """

    logits: jax.Array
    values: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactOptions(UpdateOptions):
    """`UpdateOptions`, and the accuracy of an exact expectation.

    Attributes:
      num_nodes: number of Gauss-Legendre nodes for the mean over steps; 64 of them reach an error of 1e-10 where an
        episode continues with probability at most 0.99.
    """

    num_nodes: int = dataclasses.field(default=64, metadata={"static": True})

    def nodes_needed(self, method: Method) -> int:
        """The number of nodes for a method: one unless its reduction is the mean, which is an integral."""
        return self.num_nodes if self.resolved(method).reduction == "mean" else 1


def exact_options(changes: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> ExactOptions:
    """`ExactOptions` with the values of `base` and `changes`, and defaults for all others; `changes` come first.

    Raises ValueError for an unknown option, and for a value outside its domain.
    """
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
    """The exact expectation of one iteration's update over episodes of the control policy.

    An action whose probability underflows to 0 in the precision of `logits` counts as never played.

    Args:
      mdp: a single MDP with S states, A actions, K outcomes; every episode must end or be cut. If a time limit cuts
        episodes, the option `truncation` says what follows the last step. If `mdp` itself is traced, its limit is not
        known, and the update is NaN if it has a limit.
      teacher: a single teacher, probs [S, A] and values [S].
      method: a name of `METHODS` or `ZOO`, or a `Method`.
      logits: [O, A]; the result is differentiable with respect to it.
      values: [O], V_theta; zeros if None.
      **options: fields of `ExactOptions`: estimator ("td"), reduction ("mean"), truncation ("bootstrap"), discount
        (0.99), probability_floor (1e-6), loss_weight (1), return_weight (1), trace_decay (0.95), fixed_length
        (60), num_nodes (64).
        Several methods can be compared with the same options: if the method fixes an option, the method's value is
        used, and an option that the method does not use has no effect.

    Returns:
      An `Update` of NumPy arrays, computed in float64. Inside `jit`, `grad` or `vmap` it has JAX arrays of the dtype of
      `logits`: in float32, entries are off by about 1e-7 times the mean length of the episodes.

    Raises:
      ValueError: tables that do not fit, an unknown method or option, or an MDP too large for the dense computation.
    """
    if checks.is_traced((mdp, teacher, logits, values, options)):
        return solve_update(make_problem(mdp, teacher, method, logits, values, options))
    _check_tables(mdp, teacher, logits, values)
    tables = [x if x is None else np.asarray(x, np.float64) for x in (logits, values)]
    world, world_teacher = precise(mdp, teacher)
    with float64():
        update = solve_update(make_problem(world, world_teacher, method, tables[0], tables[1], options))
        return jax.device_get(update)


def solve_update(problem: "Problem") -> Update:
    """The expected update of a problem whose parts have been checked."""
    return _expected_update(
        problem.method, problem.options, problem.mdp, problem.teacher, problem.logits, problem.values
    )


@functools.partial(jax.jit, static_argnums=0)
def _expected_update(
    method: Method, options: ExactOptions, mdp: MDP, teacher: Teacher, logits: jax.Array, values: jax.Array
) -> Update:
    chex.assert_shape(
        [logits, teacher.probs], [(mdp.num_observations, mdp.num_actions), (mdp.num_states, mdp.num_actions)]
    )
    chex.assert_shape([values, teacher.values], [(mdp.num_observations,), (mdp.num_states,)])
    problem = Problem(method, options, mdp, teacher, logits, values)
    branches = problem.branches()
    nodes, node_weights = np.ones(1), np.ones(1)
    if options.reduction == "mean":
        nodes, node_weights = np.polynomial.legendre.leggauss(options.num_nodes)
        nodes, node_weights = (nodes + 1) / 2, node_weights / 2
    update_at_node = functools.partial(_weighted_update, problem, branches)
    total = Update(jnp.zeros_like(logits), jnp.zeros_like(values))
    for weight, control in problem.components():
        updates = jax.vmap(update_at_node, in_axes=(None, 0))(control, jnp.asarray(nodes, logits.dtype))
        weights = weight * jnp.asarray(node_weights, logits.dtype)
        total = jax.tree.map(lambda sums, terms, w=weights: sums + tensordot(w, terms, 1), total, updates)
    divisor = options.fixed_length if options.reduction == "fixed" else 1
    return jax.tree.map(lambda x: x / divisor, total)


def make_problem(
    mdp: MDP, teacher: Teacher, method: str | Method, logits: Any, values: Any, options: Mapping[str, Any]
) -> "Problem":
    """The `Problem` of the arguments of `expected_update`, which are checked; raises ValueError as described there."""
    method = methods.get(method)
    exact = exact_options(options)
    logits, values = _check_tables(mdp, teacher, logits, values)
    if checks.is_traced(mdp.time_limit):
        logits = jnp.where(mdp.time_limit == NO_TIME_LIMIT, logits, jnp.nan)
    else:
        methods.check_episodes_end(method, mdp, teacher)
        mdp, teacher = unrolled(mdp, teacher, exact.truncation)
    check_problem(method, exact, mdp, teacher)
    return Problem.resolved(method, exact, mdp, teacher, logits, values)


def check_problem(method: Method, options: ExactOptions, mdps: MDP, teacher: Teacher) -> None:
    """Raises ValueError unless the functions of a method return numbers and its update on one world fits into memory.

    All worlds of a stack have the same sizes, and they are computed one after another.
    """
    check_size(mdps, "the exact update", num_nodes=options.nodes_needed(method))
    check_method_functions(method, options, mdps, teacher)


def check_method_functions(method: Method, options: ExactOptions, mdps: MDP, teacher: Teacher) -> None:
    """Raises ValueError unless the functions of a method return numbers that are finite at the teacher's zeros.

    A method with schedules is refused, because an exact update is that of one iteration.
    """
    if method.scheduled:
        raise ValueError(
            f"{method.name} changes with the iteration ({', '.join(method.scheduled)}), and an exact update is that of "
            "one iteration; give the method at an iteration, such as method.at(0)."
        )
    methods.check_functions(method, mdps.num_actions, teacher.num_others)
    methods.check_zeros(method, teacher.probs, teacher.others, options.probability_floor)


def _check_tables(mdp: MDP, teacher: Teacher, logits: Any, values: Any) -> tuple[jax.Array, jax.Array]:
    """The tables of a student as floats; raises ValueError unless they and the teacher fit a single MDP."""
    logits = _table("logits", logits)
    values = jnp.zeros(logits.shape[:1], logits.dtype) if values is None else _table("values", values)
    for name, value, expected_type in (("mdp", mdp, MDP), ("teacher", teacher, Teacher)):
        if not isinstance(value, expected_type):
            raise ValueError(
                f"{name} must be one {expected_type.__name__}, such as {name}s[0]; got {checks.shown(value)}."
            )
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
    """A table as floats, in its own precision; raises ValueError unless it is numeric and finite."""
    if not isinstance(table, jax.Array):
        checks.numbers(name, table)
        table = jnp.asarray(checks.reals(name, table))
    if not jnp.issubdtype(table.dtype, jnp.floating):
        table = jnp.asarray(checks.reals(name, table), float)
    if not checks.is_traced(table) and not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return table


def check_size(mdp: MDP, computation: str, *, num_nodes: int = 1, copies: int = 1) -> None:
    """Raises ValueError if a computation on one MDP would not fit into memory.

    Args:
      mdp: the MDP, or a stack of MDPs of this size.
      computation: its name, for the message.
      num_nodes: number of Gauss-Legendre nodes.
      copies: how many updates are computed at the same time.
    """
    s, a, k = mdp.num_states, mdp.num_actions, mdp.num_outcomes
    block = mdp.block_size if isinstance(mdp, UnrolledMDP) else s
    arrays = {"S*A*K*2*A": s * a * k * 2 * a, "S*S*max(K, nodes)": block * block * max(k, num_nodes)}
    name = max(arrays, key=lambda name: arrays[name])
    if copies * arrays[name] > _MAX_ENTRIES:
        times = f" times {copies}" if copies > 1 else ""
        raise ValueError(
            f"This MDP of {s} states, {a} actions and {k} outcomes is too large for {computation}: "
            f"{name} = {arrays[name]:,}{times} exceeds {_MAX_ENTRIES:,} entries; use a smaller one, or train students "
            "on it instead."
        )


class Branches(NamedTuple):
    """All branches of a step, with axes [S, A, K, E]: its outcome K, and E = (the episode goes on, it ends).

    Attributes:
      probs: the probability of a branch, given state and action.
      reward: the method's reward.
      loss_gradient: the gradient of the method's loss with respect to the state's logits, [S, A, K, E, A].
    """

    probs: jax.Array
    reward: jax.Array
    loss_gradient: jax.Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """A method, its options and a student on one MDP, and the quantities that follow for every branch of a step.

    Attributes:
      method: the method.
      options: resolved options, whose numbers are arrays of the dtype of `logits`.
      mdp, teacher: single ones.
      logits, values: [O, A] and [O], the student.
    """

    method: Method
    options: ExactOptions
    mdp: MDP
    teacher: Teacher
    logits: jax.Array
    values: jax.Array

    @classmethod
    def resolved(
        cls,
        method: Method,
        options: ExactOptions,
        mdp: MDP,
        teacher: Teacher,
        logits: jax.Array,
        values: jax.Array | None = None,
    ) -> Self:
        """A problem from options that the method may override; nothing is checked, and `values` are zeros if None."""
        options = jax.tree.map(lambda number: jnp.asarray(number, logits.dtype), options.resolved(method))
        values = jnp.zeros(logits.shape[:1], logits.dtype) if values is None else values
        return cls(method, options, mdp, teacher, logits, values)

    @property
    def dtype(self) -> Any:
        """The dtype of the whole computation."""
        return self.logits.dtype

    @property
    def state_logits(self) -> jax.Array:
        """The student's logits in every state, [S, A]."""
        return sum_of_rows(self.logits, self.mdp.features)

    @property
    def state_values(self) -> jax.Array:
        """V_theta of every state, [S]."""
        return sum_of_rows(self.values, self.mdp.features)

    @property
    def shares(self) -> jax.Array:
        """The share of a state's direction that each of its rows gets, [S, F]; 0 for padding."""
        return shares(self.mdp.features, self.options.feature_steps == "divided").astype(self.dtype)

    def step(self, state: Any, action: Any, outcome: Any, goes_on: Any) -> Step:
        """The `Step` of one branch; `goes_on` is 1 if the episode goes on after it, else 0."""
        mdp, teacher, dtype = self.mdp, self.teacher, self.dtype
        others = None if teacher.others is None else jnp.asarray(teacher.others, dtype)[:, state]
        return make_step(
            self.state_logits[state],
            jnp.asarray(teacher.probs, dtype)[state],
            action=action,
            probability_floor=self.options.probability_floor,
            student_value=self.state_values[state],
            teacher_value=jnp.asarray(teacher.values, dtype)[state],
            next_teacher_value=goes_on * jnp.asarray(teacher.values, dtype)[mdp.successor[state, outcome]],
            reward=jnp.asarray(mdp.reward, dtype)[state, outcome],
            discount=self.options.discount,
            params={name: jnp.asarray(value, dtype) for name, value in self.method.params.items()},
            other_probs=others,
        )

    def branches(self) -> Branches:
        """The probability, reward and loss gradient of every branch of a step."""
        mdp, method, dtype = self.mdp, self.method, self.dtype
        shape = (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
        outcome_probs = jnp.broadcast_to(jnp.asarray(mdp.outcome_probs, dtype), shape)
        continue_prob = jnp.where(mdp.terminal, 0, jnp.asarray(mdp.continue_prob, dtype)).astype(dtype)[:, None, :]
        probs = outcome_probs[..., None] * jnp.stack([continue_prob, 1 - continue_prob], axis=-1)

        def over_branches(fn: Callable[[Step], jax.Array]) -> jax.Array:
            """fn(step) in every branch."""

            def at_branch(state: Any, action: Any, outcome: Any, goes_on: Any) -> jax.Array:
                return fn(self.step(state, action, outcome, goes_on))

            mapped: Callable[..., jax.Array] = at_branch
            for axis in (3, 2, 1, 0):
                mapped = jax.vmap(mapped, in_axes=[0 if i == axis else None for i in range(4)])
            return mapped(*(jnp.arange(n, dtype=jnp.int32) for n in shape), jnp.asarray([1, 0], dtype))

        def reward(step: Step) -> jax.Array:
            return jnp.asarray(method.reward(step) if method.reward else 0, dtype)

        def gradient(step: Step) -> jax.Array:
            return methods.loss_gradient(method.loss, step) if method.loss else jnp.zeros_like(step.student_logits)

        return Branches(probs, over_branches(reward), over_branches(gradient))

    def next_rewards(self) -> jax.Array:
        """The part of rhat_{t-1} that depends on the action a in the next state s = s_t, [S, A]."""
        fn = self.method.next_reward
        if fn is None:
            return jnp.zeros((self.mdp.num_states, self.mdp.num_actions), self.dtype)
        zero = jnp.zeros((), self.dtype)

        def at_action(state: jax.Array, action: jax.Array) -> jax.Array:
            # This reward is computed when the action is drawn. The step's own reward and next state come later.
            step = dataclasses.replace(self.step(state, action, 0, 0.0), reward=zero, next_teacher_value=zero)
            return jnp.asarray(fn(step), self.dtype)

        states, actions = (jnp.arange(n, dtype=jnp.int32) for n in (self.mdp.num_states, self.mdp.num_actions))
        return jax.vmap(jax.vmap(at_action, (None, 0)), (0, None))(states, actions)

    def bootstrap_values(self) -> jax.Array:
        """The value of every state by which the method bootstraps, [S]."""
        if self.method.bootstrap == "student":
            return self.state_values
        if self.method.bootstrap == "teacher":
            return jnp.asarray(self.teacher.values, self.dtype)
        return jnp.zeros(self.mdp.num_states, self.dtype)

    def previous_return(self, branches: Branches) -> tuple[jax.Array, jax.Array | float]:
        """The coefficients of X_t = constant + slope * X_{t+1}, the part of Rhat_{t-1} that comes from step t on.

        X_t = next_reward_t + discount * H_t, and Rhat_t = reward_t + X_{t+1}. H_t = continuation(Rhat_t, V_t) is
        linear, so two evaluations determine it. The constant depends on the branch, [S, A, K, E].
        """
        continuation = functools.partial(ESTIMATORS[self.options.estimator].continuation, self.options)
        values = jnp.broadcast_to(self.bootstrap_values()[:, None, None, None], branches.reward.shape)
        constant = self.next_rewards()[:, :, None, None] + self.options.discount * continuation(branches.reward, values)
        slope = continuation(1.0, 0.0)
        is_zero = isinstance(slope, float) and slope == 0  # Then `sum_ahead` has no linear system to solve.
        return constant, 0.0 if is_zero else self.options.discount * slope

    def components(self) -> list[tuple[float, jax.Array]]:
        """(weight, policy [S, A]) of each control policy that is drawn once per episode; one if drawn per step."""
        mdp, control = self.mdp, self.method.control
        policies = (
            jax.nn.softmax(self.state_logits),
            jnp.asarray(self.teacher.probs, self.dtype),
            jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions, self.dtype),
        )
        pairs = [(weight, policy) for weight, policy in zip(control.weights, policies, strict=True) if weight > 0]
        if control.per == "episode":
            return pairs
        return [(1.0, sum(weight * policy for weight, policy in pairs))]  # type: ignore[list-item]

    def scores(self) -> jax.Array:
        """grad log pi_theta(a|s) with respect to the logits of s, [S, A, A]."""
        probs = jax.nn.softmax(self.state_logits)
        return jnp.eye(self.mdp.num_actions, dtype=self.dtype)[None] - probs[:, None]

    def chain(
        self, branches: Branches, control: jax.Array, z: jax.Array, avoided_row: jax.Array | None = None
    ) -> Chain:
        """The chain of states under a control policy [S, A], with a factor z for each step that follows another."""
        return chain_of(self.mdp, branches.probs, control, z, avoided_row)

    def returns_at_cut(self) -> jax.Array:
        """X_t where the episode is cut before step t, for the action drawn there, [S, A]; 0 in all other states.

        The value of the state takes the place of H_t, because nothing is sampled after the cut.
        """
        if not isinstance(self.mdp, UnrolledMDP):
            return jnp.zeros((self.mdp.num_states, self.mdp.num_actions), self.dtype)
        returns = self.next_rewards() + self.options.discount * self.bootstrap_values()[:, None]
        return jnp.where(self.mdp.is_cut[:, None], returns, 0)


def _weighted_update(problem: Problem, branches: Branches, control: jax.Array, z: jax.Array) -> Update:
    """E[z^(T-1) sum_t direction_t] for episodes of the control policy [S, A]."""
    chain = problem.chain(branches, control, z)
    visits = chain.transitions.visits(chain.start)  # sum_t z^t P(s_t = s)
    every = _Part(problem, branches, control, visits, chain)
    words = problem.options.loss_visits, problem.options.return_visits
    if "once" not in words:
        return _difference(every.of_return(), every.of_loss())

    def once(row: jax.Array) -> tuple[Update, Update]:
        """The parts of the last visit of a row in an episode."""
        is_row = (problem.mdp.features == row).any(axis=1)
        last = _Part(problem, branches, control, visits * is_row, problem.chain(branches, control, z, row), row)
        return last.of_loss(), last.of_return()

    rows = jnp.arange(problem.logits.shape[0], dtype=jnp.int32)
    loss_once, return_once = jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.lax.map(once, rows))
    loss = loss_once if words[0] == "once" else every.of_loss()
    return _difference(return_once if words[1] == "once" else every.of_return(), loss)


def _difference(first: Update, second: Update) -> Update:
    return jax.tree.map(jnp.subtract, first, second)


class _Part(NamedTuple):
    """A part of the expected update.

    Attributes:
      problem, branches, control: as for `_weighted_update`.
      visits: [S], the expected visits that count.
      chain: the chain by which what follows a visit is weighted.
      row: int [], the row of the student's tables that alone gets the update; None: all rows of each state.
    """

    problem: Problem
    branches: Branches
    control: jax.Array
    visits: jax.Array
    chain: Chain
    row: jax.Array | None = None

    def of_return(self) -> Update:
        """E[z^(T-1) sum_t (advantage_t grad log pi_theta(a_t), target_t - V_theta(t))]."""
        problem, branches, chain = self.problem, self.branches, self.chain
        mdp, method, options = problem.mdp, problem.method, problem.options
        constant, slope = problem.previous_return(branches)
        at_cut = jnp.sum(self.control * problem.returns_at_cut(), axis=1)
        later_return = chain.transitions.sum_ahead(einsum("sake,sake->s", chain.weight, constant) + at_cut, slope)
        # E[z^(number of later steps) Rhat_t 1(action and branch) | s].
        target = (chain.weight * branches.reward).at[..., 0].add(chain.onward * later_return[mdp.successor][:, None])
        value = chain.weight * problem.state_values[:, None, None, None]
        has_return = 1.0 if method.has_return else 0.0
        advantage = has_return * options.return_weight * (target - (value if method.baseline else 0))
        direction = einsum("s,sake,sab->sb", self.visits, advantage, problem.scores())
        return self._by_row(direction, has_return * einsum("s,sake->s", self.visits, target - value))

    def of_loss(self) -> Update:
        """E[z^(T-1) sum_t grad l_t], with the weight of the loss; that of V_theta is 0."""
        descent = einsum("s,sake,sakeb->sb", self.visits, self.chain.weight, self.branches.loss_gradient)
        return self._by_row(self.problem.options.loss_weight * descent, jnp.zeros_like(self.visits))

    def _by_row(self, logits: jax.Array, values: jax.Array) -> Update:
        """Directions by state, [S, A] and [S], added by row of the student."""
        features, parts = self.problem.mdp.features, self.problem.shares
        if self.row is not None:
            parts = jnp.where(features == self.row, parts, 0)
        num_rows = len(self.problem.logits)
        return Update(
            add_to_rows(parts[..., None] * logits[:, None], features, num_rows),
            add_to_rows(parts * values[:, None], features, num_rows),
        )
