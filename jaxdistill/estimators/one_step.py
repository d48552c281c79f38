"""The one-step target, rhat_t + discount V(t+1): the paper's "TD(1)" (App. A.3).

Elsewhere TD(1) means Monte Carlo, the lambda-return at lambda = 1. Here it is one step of temporal difference.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.estimators.estimator import Estimator, Machine, Row, select


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingStep:
    """The step taken last, which the next tick credits; every array has a leading axis [W].

    Attributes:
      valid: bool, whether there is such a step.
      row, teacher_row: of the state in which it was taken.
      observation, action: int32.
      reward: float32, r_t.
      goes_on: float32, 1 where the episode went on after it and 0 where it ended.
      features: int32 [F], the rows of the student's table that its state uses; None where each state uses one.
      numbers: [columns], the student's numbers in its iteration; None if none changes with the iteration. The step is
        credited in the next tick, when the next iteration may have begun.
    """

    valid: jax.Array
    row: Row
    teacher_row: jax.Array
    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    goes_on: jax.Array
    features: jax.Array | None
    numbers: jax.Array | None


@dataclasses.dataclass(frozen=True)
class OneStep(Estimator):
    """Rhat_t = rhat_t + discount V(t+1), credited one tick after the step, when V(t+1) can be read."""

    name = "td"
    title = "TD(1)"
    ticks_per_step = 1
    records_episode = False

    def continuation(self, options: Any, target: Any, value: Any) -> Any:
        return value

    def empty_work(self, num_lanes: int, rule: Any, num_scheduled: int) -> PendingStep:
        def zeros(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
            return jnp.zeros((num_lanes, *shape), dtype)

        number = (rule.num_features,) if rule.num_features else ()
        return PendingStep(
            valid=zeros(dtype=bool),
            row=tuple(zeros(*number, rule.width) for _ in range(rule.num_parts)),
            teacher_row=zeros(rule.teacher_width),
            observation=zeros(dtype=jnp.int32),
            action=zeros(dtype=jnp.int32),
            reward=zeros(),
            goes_on=zeros(),
            features=zeros(*number, dtype=jnp.int32) if number else None,
            numbers=zeros(num_scheduled) if num_scheduled else None,
        )

    def all_credited(self, work: PendingStep) -> jax.Array:
        return ~work.valid

    def tick(self, machine: Machine, lanes: Any) -> Any:
        """Every lane takes a step. It also credits its previous step, whose next state is now known."""
        state, pending = lanes.state, lanes.state.work
        visit = machine.visit(lanes, state.mdp_state, state.observation)
        is_same_row = self._same_rows(pending, state, visit)
        credited, row, is_finite = self._credit(machine, state, visit, is_same_row)
        active, cut, state = machine.start_acting(state, is_finite)
        action, arrival = machine.act(state, row, visit.teacher_row)
        if machine.rule.next_rewards:
            credited, row = self._credit_next_reward(machine, state, visit, credited, row, action, is_same_row)
        place, previous_place = state.observation, pending.observation
        if visit.features is not None:
            place, previous_place = visit.features, pending.features
        previous_row = visit.row_index + previous_place - place
        (row_index,) = select(pending.valid, (previous_row,), (visit.row_index,))
        lanes = machine.write(lanes, visit, row_index, credited)
        work = PendingStep(
            valid=active,
            row=row,
            teacher_row=visit.teacher_row,
            observation=state.observation,
            action=action,
            reward=arrival.reward,
            goes_on=1 - arrival.ended.astype(jnp.float32),
            features=visit.features,
            numbers=machine.scheduled_numbers(state.student),
        )
        state = machine.arrive(dataclasses.replace(state, work=work), active, arrival)
        return machine.end_iteration(dataclasses.replace(lanes, state=state), (active & arrival.ended) | cut)

    def _same_rows(self, pending: PendingStep, state: Any, visit: Any) -> jax.Array:
        """Whether the previous step and this one use the same row of the table, bool [W].

        With features it is [W, F, F]: at [w, f, g], whether row f of this step is row g of the previous one.
        """
        if pending.features is None:
            return pending.valid & (pending.observation == state.observation)
        pairs = visit.features[:, :, None] == pending.features[:, None, :]
        return pending.valid[:, None, None] & pairs

    def _credit(self, machine: Machine, state: Any, visit: Any, is_same_row: jax.Array) -> Any:
        """The credited row of the previous step, the up-to-date row of this step, and whether the latter is finite.

        Rows that both steps use (`is_same_row`) are stale in the table: the previous step has them, and hands them on.
        """
        rule, student = machine.rule, machine.with_numbers(state.student, state.work.numbers)

        def credit(student, pending, row, teacher_row, pending_scale, scale, iteration, is_same_row, share):
            refreshed = lax.optimization_barrier(rule.refresh(row, pending_scale, iteration))
            next_teacher_value = rule.teacher_value(teacher_row) * pending.goes_on
            step = rule.step(
                student, pending.row, pending.teacher_row, next_teacher_value, pending.action, pending.reward
            )
            next_row = rule.taken_over(is_same_row, pending.row, refreshed)
            value = rule.state_value(student, next_row, next_teacher_value) * pending.goes_on
            target = rule.reward(student, step) + student.options.discount * value
            credited = lax.optimization_barrier(rule.credit(student, pending.row, step, target, share))
            row = rule.taken_over(is_same_row, rule.refresh(credited, scale, iteration), refreshed)
            return select(pending.valid, credited, refreshed), row, rule.is_finite(row)

        iteration = machine.refresh_iteration(state)
        return lax.optimization_barrier(
            jax.vmap(credit)(
                student, state.work, visit.row, visit.teacher_row, visit.pending_scale, state.scale, iteration,
                is_same_row, machine.share(state.work.features),
            )
        )  # fmt: skip

    def _credit_next_reward(
        self, machine: Machine, state: Any, visit: Any, credited: Row, row: Row, action: jax.Array, is_same_row: Any
    ) -> tuple[Row, Row]:
        """Adds the part of rhat_t that the action of step t + 1 decides, once that action is known."""
        rule, student = machine.rule, machine.with_numbers(state.student, state.work.numbers)

        def credit(student, pending, credited, row, teacher_row, action, is_same_row, share):
            zero = jnp.zeros_like(pending.reward)
            bonus = rule.next_reward(student, rule.step(student, row, teacher_row, zero, action, zero))
            bonus = jnp.where(pending.valid, bonus * pending.goes_on, 0)
            step = rule.step(student, pending.row, pending.teacher_row, zero, pending.action, pending.reward)
            credited = select(pending.valid, rule.credit_more(student, credited, step, bonus, share), credited)
            return credited, rule.taken_over(is_same_row & (pending.goes_on > 0), credited, row)

        share = machine.share(state.work.features)
        return jax.vmap(credit)(student, state.work, credited, row, visit.teacher_row, action, is_same_row, share)
