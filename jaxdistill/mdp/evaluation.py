"""Measures of many students at once, exact, in float64.

All measures of a student along the same trajectories come from the expected visits of one policy, so that one linear
system per student is enough, and none for those along the teacher's or the uniform policy's trajectories, whose visits
are those of a world. Where the students of a world are many, its systems are solved by a planned elimination
(`straight_line`). Results that this method does not give to nine digits, worlds with a time limit, and devices other
than a CPU, for which the many short steps of the elimination are too small, use `exact` instead.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import exact, straight_line, sums
from jaxdistill.mdp.chains import ACCURACY
from jaxdistill.mdp.endings import reached_states
from jaxdistill.mdp.features import log_policy, sum_of_rows
from jaxdistill.mdp.mdp import MDP, NO_TIME_LIMIT
from jaxdistill.mdp.named_measures import CONFIGURED, Measure, per_state
from jaxdistill.mdp.precision import as_float64, float64, placed
from jaxdistill.mdp.teacher import Teacher

_GROUP, _GROUPS = 8, 8  # students of one world in a vector, and vectors in one call
_PRODUCTS_PER_OUTCOME = 50  # The iterative method costs about as much as this many products for each outcome.
_LARGEST_TABLE = 2**16  # entries of the policy of a student; 64 of them are held at once, several times
_PLAN_BYTES = 2**29  # of the plans that are kept; the oldest is planned again where it is needed
_TINY = 1e-300  # Visits of a state that is reached are at least this many, so that infinite terms count there.


class _Inputs(NamedTuple):
    """What the measures of a batch of students depend on, besides their worlds; every array has a leading axis [B].

    Attributes:
      log_probs: [B, S, A], the students' log-probabilities.
      is_reached: bool [B, S], the states that a student visits.
      teacher_probs: [B, S, A], or None.
      visits: [B, S] by the name of another policy, its expected visits.
      floor, discount: [B], those of the configuration.
    """

    log_probs: jax.Array
    is_reached: Any
    teacher_probs: Any
    visits: dict[str, Any]
    floor: jax.Array
    discount: jax.Array


class _Numbers(NamedTuple):
    """The numbers of a configuration, as in `_Inputs`."""

    floor: jax.Array
    discount: jax.Array


class Evaluator:
    """Computes the measures of students in the worlds of a stack.

    Args:
      mdps: M stacked MDPs.
      teachers: the stacked teacher of each cell; None where a cell has none.
      measures: what to compute.
      discount, floor: those of the configuration, one number or one for each MDP.
      planned: for each cell, whether so many of its students of each world will be evaluated that a plan pays; by
        default none. The rounding of a student's numbers depends on it, so it must not depend on other cells.
    """

    def __init__(
        self,
        mdps: MDP,
        teachers: Sequence[Teacher | None],
        measures: Sequence[Measure],
        discount: Any = 0.99,
        floor: Any = 0.0,
        planned: Sequence[bool] = (),
    ):
        self.mdps, self.teachers, self.measures = mdps, list(teachers), tuple(measures)
        self.numbers = {
            "discount": np.broadcast_to(np.asarray(discount, np.float64), mdps.num_mdps),
            "floor": np.broadcast_to(np.asarray(floor, np.float64), mdps.num_mdps),
        }
        is_small = mdps.num_states * max(mdps.num_actions, mdps.num_outcomes) <= _LARGEST_TABLE
        may_plan = jax.default_backend() == "cpu" and is_small
        self.planned = np.array(planned or [False] * len(self.teachers)) & may_plan
        self._plans: dict[int, straight_line.Plan | None] = {}
        self._plan_bytes = 0
        self._reached_states: dict[int, np.ndarray] = {}
        self._sizes = straight_line.EMPTY
        self._constants: dict[tuple[int, Measure], np.ndarray] = {}
        self._visits: dict[tuple[int, str], np.ndarray] = {}

    def __call__(self, cells: np.ndarray, worlds: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """The measures of students, float64 [N, Q].

        Args:
          cells: int [N], the cell of each student, which has its teacher.
          worlds: int [N], the position of its MDP in the stack.
          logits: [N, O, A].
        """
        values = np.full((len(worlds), len(self.measures)), np.nan)
        remaining = np.arange(len(worlds))
        if self._of_students:
            remaining = self._in_groups(self.planned[cells], cells, worlds, logits, values)
        together = _together()
        for first in range(0, len(remaining), together):
            batch = remaining[first : first + together]
            padded = np.resize(batch, together)  # a fixed size, so that nothing recompiles
            index, features = worlds[padded], np.asarray(self._worlds.features)[worlds[padded]]
            tables = logits[padded].astype(np.float64)
            log_probs = np.stack([log_policy(*pair) for pair in zip(tables, features, strict=True)])
            results = self.of_policies(cells[padded], index, log_probs, self._reached(index))
            values[batch] = results[: len(batch)]
        self._add_constants(cells, worlds, values)
        return values

    @functools.cached_property
    def _of_students(self) -> tuple[Measure, ...]:
        """The measures that depend on the student; those of other policies are the same for all students of a world."""
        return tuple(measure for measure in self.measures if measure.is_of_student)

    @functools.cached_property
    def _columns(self) -> list[int]:
        """The positions of `_of_students` among all measures."""
        return [self.measures.index(measure) for measure in self._of_students]

    @functools.cached_property
    def _worlds(self) -> MDP:
        """The worlds as NumPy arrays, without their pictures."""
        return dataclasses.replace(jax.device_get(dataclasses.replace(self.mdps, grid=None)), grid=None)

    @functools.cached_property
    def _other_policies(self) -> tuple[str, ...]:
        """The policies, besides the student, along whose trajectories a measure of students is taken."""
        return tuple(dict.fromkeys(m.trajectories for m in self._of_students if m.trajectories != "student"))

    def _reached(self, worlds: np.ndarray) -> np.ndarray:
        """Whether a student, none of whose actions is impossible, visits a state, bool [N, S].

        It matters for infinite terms alone; all are True where no measure has any.
        """
        if not any(m.kind.endswith("reverse_kl") and m.floor is None for m in self._of_students):
            return np.ones((len(worlds), self.mdps.num_states), bool)
        return np.stack([self._reached_in(int(world)) for world in worlds])

    def _reached_in(self, world: int) -> np.ndarray:
        """The states of a world that a student visits, bool [S]."""
        if world not in self._reached_states:
            self._reached_states[world] = reached_states(jax.tree.map(lambda leaf: leaf[world], self._worlds))
        return self._reached_states[world]

    def _probs(self, cell: int, policy: str) -> Any:
        """The teacher of a cell, [M, S, A], or the uniform policy, [S, A]."""
        if policy == "uniform":
            return exact.uniform_policy(self.mdps)
        teacher = self.teachers[cell]
        if teacher is None:
            raise ValueError("A measure that compares students with their teacher needs a teacher.")
        return np.asarray(teacher.probs)

    def _key(self, cell: int, policy: str) -> int:
        """What distinguishes the policies of cells."""
        return 0 if policy == "uniform" else id(self.teachers[cell])

    def _visits_of(self, cell: int, policy: str) -> np.ndarray:
        """The expected visits of the teacher of a cell or of the uniform policy, [M, S]."""
        key = self._key(cell, policy), policy
        if key not in self._visits:
            probs = self._probs(cell, policy)
            visits = exact.occupancy(self.mdps, probs)
            self._visits[key] = np.where(reached_states(self.mdps, probs), np.maximum(visits, _TINY), 0)
        return self._visits[key]

    def _constant(self, cells: np.ndarray, worlds: np.ndarray, measure: Measure) -> np.ndarray:
        """A measure that does not depend on the student, [N]."""
        values = np.empty(len(worlds))
        for cell in np.unique(cells):
            key = self._key(cell, measure.trajectories), measure
            if key not in self._constants:
                probs = self._probs(cell, measure.trajectories)
                self._constants[key] = self._of_policy(measure, probs)
            values[cells == cell] = self._constants[key][worlds[cells == cell]]
        return values

    def _of_policy(self, measure: Measure, probs: Any) -> np.ndarray:
        """The return, the discounted return or the length of a policy, [M]."""
        if measure.kind == "length":
            return exact.start_value(self.mdps, exact.expected_length(self.mdps, probs))
        discounts = np.ones(self.mdps.num_mdps) if measure.discount is None else self._discounts(measure)
        values = np.empty(self.mdps.num_mdps)
        for discount in np.unique(discounts):
            worlds = np.flatnonzero(discounts == discount)
            table = probs if np.ndim(probs) == 2 else probs[worlds]
            values[worlds] = exact.episode_return(self.mdps[worlds], table, float(discount))
        return values

    def _discounts(self, measure: Measure) -> np.ndarray:
        """The discount of `discounted_return`, [M]."""
        fixed = measure.discount != CONFIGURED
        return np.full(self.mdps.num_mdps, measure.discount) if fixed else self.numbers["discount"]

    def _teacher_tables(self, cells: np.ndarray, worlds: np.ndarray) -> np.ndarray | None:
        """The teachers' policies [B, S, A], where a measure needs them."""
        if not any(measure.definition.needs_teacher for measure in self._of_students):
            return None
        pairs = zip(cells.tolist(), worlds.tolist(), strict=True)
        probs = np.stack([self._probs(cell, "teacher")[world] for cell, world in pairs]).astype(np.float64)
        return probs / probs.sum(axis=-1, keepdims=True)  # float32 rows sum to 1 only within 1e-7

    def _other_visits(self, cells: np.ndarray, worlds: np.ndarray) -> dict[str, np.ndarray]:
        """The visits [B, S] of the other policies."""
        pairs = list(zip(cells.tolist(), worlds.tolist(), strict=True))
        return {
            policy: np.stack([self._visits_of(cell, policy)[world] for cell, world in pairs])
            for policy in self._other_policies
        }

    def of_policies(self, cells: np.ndarray, worlds: np.ndarray, log_probs: Any, reached: Any) -> np.ndarray:
        """The measures of policies by the general method, float64 [B, Q]; nothing is padded.

        Args:
          cells, worlds: as in a call.
          log_probs: [B, S, A].
          reached: bool [B, S], the states that each policy visits.
        """
        values = np.empty((len(worlds), len(self.measures)))
        self._add_constants(cells, worlds, values)
        if not self._of_students:
            return values
        with float64():
            inputs = _Inputs(
                jnp.asarray(log_probs, jnp.float64),
                reached,
                self._teacher_tables(cells, worlds),
                self._other_visits(cells, worlds),
                *(self.numbers[name][worlds] for name in ("floor", "discount")),
            )
            mdps = jax.tree.map(lambda leaf: leaf[worlds], self._worlds)
            of_students, is_common = _general(self._of_students, True, *placed((mdps, inputs)))
            if not np.asarray(is_common).all():  # Almost every world is a common one, whose program compiles faster.
                of_students, _ = _general(self._of_students, False, *placed((mdps, inputs)))
        values[:, self._columns] = of_students
        return values

    def _add_constants(self, cells: np.ndarray, worlds: np.ndarray, values: np.ndarray) -> None:
        """Writes the measures that do not depend on the students into `values` [N, Q]."""
        for q, measure in enumerate(self.measures):
            if not measure.is_of_student:
                values[:, q] = self._constant(cells, worlds, measure)

    def _in_groups(
        self, planned: np.ndarray, cells: np.ndarray, worlds: np.ndarray, logits: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Writes the measures of `planned` students whose world has a plan; returns the positions of all others."""
        groups: list[tuple[np.ndarray, straight_line.Plan]] = []
        remaining = [np.flatnonzero(~planned)]
        for world in np.unique(worlds[planned]):
            students, plan = np.flatnonzero(planned & (worlds == world)), self._plan(int(world))
            if plan is None:
                remaining.append(students)
            else:
                groups += [(students[first : first + _GROUP], plan) for first in range(0, len(students), _GROUP)]
        for first in range(0, len(groups), _GROUPS):
            part = groups[first : first + _GROUPS]
            remaining += self._evaluate_groups(part, cells, worlds, logits, values)
        return np.sort(np.concatenate(remaining))

    def _evaluate_groups(
        self,
        groups: list[tuple[np.ndarray, straight_line.Plan]],
        cells: np.ndarray,
        worlds: np.ndarray,
        logits: np.ndarray,
        values: np.ndarray,
    ) -> list[np.ndarray]:
        """Writes the measures of groups of students into `values`; the students without an accurate result."""
        all_groups = groups + groups[:1] * (_GROUPS - len(groups))  # a fixed size, so that nothing recompiles
        padded = np.stack([np.resize(students, _GROUP) for students, _ in all_groups])
        group_worlds, flat = worlds[padded[:, 0]], padded.ravel()
        # The sizes never fall and are powers of two, so that few programs are compiled.
        plans = [plan for _, plan in all_groups]
        self._sizes = straight_line.Sizes(*map(max, self._sizes, straight_line.sizes(plans)))

        def by_group(table: Any) -> Any:
            return None if table is None else table.reshape(*padded.shape, *table.shape[1:])

        with float64():
            mdps = jax.tree.map(lambda leaf: leaf[group_worlds], self._worlds)
            arrays = (
                mdps,
                straight_line.packed(plans, self._sizes),
                by_group(logits[flat]),
                by_group(self._teacher_tables(cells[flat], worlds[flat])),
                {name: by_group(table) for name, table in self._other_visits(cells[flat], worlds[flat]).items()},
                *(self.numbers[name][group_worlds] for name in ("floor", "discount")),
            )
            of_students, is_accurate = jax.device_get(_by_plans(self._of_students, *arrays))
        failed = []
        for (students, _), results, accurate in zip(groups, of_students, is_accurate, strict=False):
            values[np.ix_(students, np.asarray(self._columns))] = results[: len(students)]
            failed.append(students[~accurate[: len(students)]])
        return failed

    def _plan(self, world: int) -> straight_line.Plan | None:
        """The plan of a world; None where elimination does not pay."""
        if world not in self._plans:
            mdp = jax.tree.map(lambda leaf: leaf[world], self._worlds)
            most = _PRODUCTS_PER_OUTCOME * mdp.num_states * mdp.num_outcomes
            is_cut = mdp.time_limit < NO_TIME_LIMIT
            plan = self._plans[world] = None if is_cut else straight_line.plan(mdp, self._reached_in(world), most)
            self._plan_bytes += plan.num_bytes if plan else 0
            while len(self._plans) > 1 and self._plan_bytes > _PLAN_BYTES:
                oldest = self._plans.pop(next(iter(self._plans)))
                self._plan_bytes -= oldest.num_bytes if oldest else 0
        return self._plans[world]


def _together() -> int:
    """Students in one call of the general method, which computes one after another on a CPU."""
    return 8 if jax.default_backend() == "cpu" else 64


@functools.partial(jax.jit, static_argnums=(0, 1))
def _general(
    measures: tuple[Measure, ...], common_only: bool, mdps: MDP, inputs: _Inputs
) -> tuple[jax.Array, jax.Array]:
    """The measures [B, Q] by `exact`, and whether every sum of a student has been computed, bool [B].

    With `common_only`, it has not where the chain is not a common one (`chains.total`).
    """
    mdps, inputs = as_float64((mdps, inputs))

    def of_student(mdp_and_inputs: tuple[MDP, _Inputs]) -> tuple[jax.Array, jax.Array]:
        mdp, single = mdp_and_inputs
        policy = jnp.exp(single.log_probs)
        own_sums = _own_sums(measures, mdp, policy, single)
        with sums.common_only(common_only):
            totals = jax.lax.map(
                lambda problem: exact.start_value(mdp, sums.total(sums.Problem(mdp, policy, problem[1], problem[0]))),
                (jnp.stack([problem[0] for problem in own_sums]), jnp.stack([problem[1] for problem in own_sums])),
            )
        length = jnp.where(jnp.isnan(totals[0]), jnp.inf, totals[0])
        remaining, values = iter(zip(own_sums[1:], totals[1:], strict=True)), []
        for measure in measures:
            if measure.kind == "length":
                values.append(length)
            elif measure.trajectories != "student":
                values.append(_total(measure, single.visits, single.log_probs, single.teacher_probs, single.floor))
            else:
                (_, _, diverges), total = next(remaining)
                total = jnp.where(diverges | (jnp.isnan(total) & (not _is_return(measure))), jnp.inf, total)
                values.append(total if _is_return(measure) else _as_measured(measure, total, length))
        return jnp.stack(values), jnp.isfinite(totals).all()

    batch_size = None if jax.default_backend() == "cpu" else _together()  # as in `exact`
    return jax.lax.map(of_student, (mdps, inputs), batch_size=batch_size)


def _own_sums(
    measures: tuple[Measure, ...], mdp: MDP, policy: jax.Array, inputs: _Inputs
) -> list[tuple[jax.Array, jax.Array, Any]]:
    """The sums over a student's own episodes: what is added in each state [S], the discount, and whether it is inf.

    The first one is the length, and the others belong to the measures along the student's trajectories in their order.
    All are of one form, so that one program computes them.
    """
    undiscounted = jnp.ones((), policy.dtype)
    rewards = jnp.sum(sums.outcome_weights(mdp, policy) * mdp.reward, axis=-1)
    problems: list[tuple[jax.Array, jax.Array, Any]] = [(jnp.ones_like(rewards), undiscounted, False)]
    for measure in measures:
        if _is_return(measure):
            problems.append((rewards, undiscounted * _discount(measure, inputs), False))
        elif measure.kind != "length" and measure.trajectories == "student":
            terms = _terms(measure, inputs.log_probs, inputs.teacher_probs, inputs.floor)
            terms = jnp.where(inputs.is_reached, terms, 0)
            is_infinite = jnp.isinf(terms).any()
            problems.append((jnp.where(is_infinite, 0, terms), undiscounted, is_infinite))
    return problems


@functools.partial(jax.jit, static_argnums=0)
def _by_plans(
    measures: tuple[Measure, ...], mdps: MDP, plans: straight_line.Packed, logits: jax.Array, teacher_probs: Any,
    visits: dict[str, jax.Array], floor: jax.Array, discount: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The measures [G, N, Q] of G groups of N students of one world each, and whether they are accurate, bool [G, N].

    Args:
      measures: static.
      mdps, plans: [G, ...], the world of each group and its plan.
      logits: [G, N, O, A].
      teacher_probs: [G, N, S, A], or None.
      visits: [G, N, S] by the name of a policy.
      floor, discount: [G].
    """
    mdps, logits, teacher_probs, visits = as_float64((mdps, logits, teacher_probs, visits))
    by_state = jax.vmap(lambda tables, features: sum_of_rows(tables, features, -2))(logits, mdps.features)
    log_probs = jax.nn.log_softmax(by_state)  # not computed where no measure uses it
    weights = jax.vmap(_outcome_weights)(mdps, jax.nn.softmax(by_state))
    rewards = jnp.sum(weights * mdps.reward[:, None], axis=-1)
    discounts: dict[Any, Any] = {1.0: 1.0} | {
        m.discount: discount if m.discount == CONFIGURED else m.discount for m in measures if m.discount is not None
    }
    flows = [_flows(mdps, weights, jnp.broadcast_to(value, floor.shape)) for value in discounts.values()]
    together = straight_line.Flows(*(jnp.concatenate(parts, axis=-1) for parts in zip(*flows, strict=True)))
    solutions, errors = straight_line.visits(plans, mdps, together)
    visits_of = dict(zip(discounts, jnp.split(solutions.swapaxes(1, 2), len(flows), axis=1), strict=True))
    errors_of = dict(zip(discounts, jnp.split(errors, len(flows), axis=1), strict=True))
    is_reached = (plans.right_side > 0)[:, None]
    tables = visits | {"student": jnp.where(is_reached, jnp.maximum(visits_of[1.0], _TINY), 0)}
    is_accurate = errors_of[1.0] <= ACCURACY * jnp.max(visits_of[1.0], axis=-1)
    values = []
    for m in measures:
        if not _is_return(m):
            values.append(_total(m, tables, log_probs, teacher_probs, floor[:, None, None, None]))
            continue
        solution = 1.0 if m.discount is None else m.discount
        values.append(jnp.sum(visits_of[solution] * rewards, axis=-1))
        largest = jnp.max(jnp.where(is_reached, jnp.abs(rewards), 0), axis=-1)
        is_accurate &= errors_of[solution] * largest <= ACCURACY * jnp.abs(values[-1])
    return jnp.stack(values, axis=-1), is_accurate


def _outcome_weights(mdp: MDP, policies: jax.Array) -> jax.Array:
    """The outcome probabilities [N, S, K] of N policies [N, S, A] in one world."""
    return jax.vmap(lambda policy: sums.outcome_weights(mdp, policy))(policies)


def _flows(mdps: MDP, weights: jax.Array, discounts: jax.Array) -> straight_line.Flows:
    """The steps of N policies in each of G worlds, with outcome probabilities [G, N, S, K]."""
    going_on = jax.vmap(sums.continuation)(mdps, discounts)[:, None]
    onward = (weights * going_on).reshape(*weights.shape[:2], -1).swapaxes(1, 2)
    return straight_line.Flows(onward, jnp.sum(weights * (1 - going_on), axis=-1).swapaxes(1, 2))


def _is_return(measure: Measure) -> bool:
    """Whether it is a return, which `exact` computes from values."""
    return measure.kind in ("return", "discounted_return")


def _discount(measure: Measure, numbers: Any) -> Any:
    """The discount of a return: 1, its own, or that of the configuration."""
    if measure.discount is None:
        return 1.0
    return numbers.discount if measure.discount == CONFIGURED else measure.discount


def _terms(measure: Measure, log_probs: jax.Array, teacher_probs: Any, floor: Any) -> jax.Array:
    """The measure's f(s), [..., S]; `floor` is that of the configuration."""
    return per_state(measure, log_probs, teacher_probs, floor if measure.floor == CONFIGURED else measure.floor)


def _total(
    measure: Measure, visits: dict[str, jax.Array], log_probs: jax.Array, teacher_probs: Any, floor: Any
) -> jax.Array:
    """A measure from the visits [..., S] of the policy that acts, [...]."""
    terms, visits_of = _terms(measure, log_probs, teacher_probs, floor), visits[measure.trajectories]
    adds_nothing = (visits_of == 0) | (terms == 0)
    total = jnp.sum(jnp.where(adds_nothing, 0, visits_of * terms), axis=-1)
    return _as_measured(measure, total, jnp.sum(visits_of, axis=-1))


def _as_measured(measure: Measure, total: jax.Array, length: jax.Array) -> jax.Array:
    """The sum over an episode, or the mean over its steps, which is nan where episodes never end."""
    return total if measure.is_sum else jnp.where(jnp.isinf(length), jnp.nan, total / length)
