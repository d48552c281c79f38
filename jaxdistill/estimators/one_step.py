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

        return PendingStep(
            valid=zeros(dtype=bool),
            row=tuple(zeros(rule.width) for _ in range(rule.num_parts)),
            teacher_row=zeros(rule.teacher_width),
            observation=zeros(dtype=jnp.int32),
            action=zeros(dtype=jnp.int32),
            reward=zeros(),
            goes_on=zeros(),
            numbers=zeros(num_scheduled) if num_scheduled else None,
        )

    def all_credited(self, work: PendingStep) -> jax.Array:
        return ~work.valid

    def tick(self, machine: Machine, lanes: Any) -> Any:
        """Every lane takes a step. It also credits its previous step, whose next state is now known."""
        state, pending = lanes.state, lanes.state.work
        visit = machine.visit(lanes, state.mdp_state, state.observation)
        is_same_row = pending.valid & (pending.observation == state.observation)
        credited, row, is_finite = self._credit(machine, state, visit, is_same_row)
        active, cut, state = machine.start_acting(state, is_finite)
        action, arrival = machine.act(state, row, visit.teacher_row)
        if machine.rule.next_rewards:
            credited, row = self._credit_next_reward(machine, state, visit, credited, row, action, is_same_row)
        previous_row = visit.row_index + pending.observation - state.observation
        lanes = machine.write(lanes, visit, jnp.where(pending.valid, previous_row, visit.row_index), credited)
        work = PendingStep(
            valid=active,
            row=row,
            teacher_row=visit.teacher_row,
            observation=state.observation,
            action=action,
            reward=arrival.reward,
            goes_on=1 - arrival.ended.astype(jnp.float32),
            numbers=machine.scheduled_numbers(state.student),
        )
        state = machine.arrive(dataclasses.replace(state, work=work), active, arrival)
        return machine.end_iteration(dataclasses.replace(lanes, state=state), (active & arrival.ended) | cut)

    def _credit(self, machine: Machine, state: Any, visit: Any, is_same_row: jax.Array) -> Any:
        """The credited row of the previous step, the up-to-date row of this step, and whether the latter is finite.

        If both steps have the same observation (`is_same_row`), they share one row.
        """
        rule, student = machine.rule, machine.with_numbers(state.student, state.work.numbers)

        def credit(student, pending, row, teacher_row, pending_scale, scale, iteration, is_same_row):
            refreshed = lax.optimization_barrier(rule.refresh(row, pending_scale, iteration))
            next_teacher_value = rule.teacher_value(teacher_row) * pending.goes_on
            step = rule.step(
                student, pending.row, pending.teacher_row, next_teacher_value, pending.action, pending.reward
            )
            next_row = select(is_same_row, pending.row, refreshed)
            value = rule.state_value(student, next_row, next_teacher_value) * pending.goes_on
            target = rule.reward(student, step) + student.options.discount * value
            credited = lax.optimization_barrier(rule.credit(student, pending.row, step, target))
            row = select(is_same_row, rule.refresh(credited, scale, iteration), refreshed)
            return select(pending.valid, credited, refreshed), row, rule.is_finite(row)

        iteration = machine.refresh_iteration(state)
        return lax.optimization_barrier(
            jax.vmap(credit)(
                student, state.work, visit.row, visit.teacher_row, visit.pending_scale, state.scale, iteration,
                is_same_row,
            )
        )  # fmt: skip

    def _credit_next_reward(
        self, machine: Machine, state: Any, visit: Any, credited: Row, row: Row, action: jax.Array, is_same_row: Any
    ) -> tuple[Row, Row]:
        """Adds the part of rhat_t that the action of step t + 1 decides, once that action is known."""
        rule, student = machine.rule, machine.with_numbers(state.student, state.work.numbers)

        def credit(student, pending, credited, row, teacher_row, action, is_same_row):
            zero = jnp.zeros_like(pending.reward)
            bonus = rule.next_reward(student, rule.step(student, row, teacher_row, zero, action, zero))
            bonus = jnp.where(pending.valid, bonus * pending.goes_on, 0)
            step = rule.step(student, pending.row, pending.teacher_row, zero, pending.action, pending.reward)
            credited = select(pending.valid, rule.credit_more(student, credited, step, bonus), credited)
            return credited, select(is_same_row & (pending.goes_on > 0), credited, row)

        return jax.vmap(credit)(student, state.work, credited, row, visit.teacher_row, action, is_same_row)
