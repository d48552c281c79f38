"""The Monte Carlo return, the discounted sum of the sampled rewards to come."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.estimators.estimator import Estimator, Machine, StepRecord, select


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """What step t + 1 passes to step t while a lane walks an episode backward; every array has a leading axis [W].

    Attributes:
      remaining: int32, steps still to credit; 0 while the episode is played.
      continuation: H_{t+1}, see `estimator`.
      next_reward: the part of rhat_t that step t + 1 decided.
      next_teacher_value: V_pi(s_{t+1}).
    """

    remaining: jax.Array
    continuation: jax.Array
    next_reward: jax.Array
    next_teacher_value: jax.Array


@dataclasses.dataclass(frozen=True)
class MonteCarlo(Estimator):
    """Rhat_t = sum_{i >= t} discount^(i-t) rhat_i.

    A lane plays an episode forward and records it. Then it walks the record backward and credits each step. A subclass
    with another `continuation` is another estimator that walks backward.
    """

    name = "mc"
    title = "Monte Carlo"
    ticks_per_step = 2
    records_episode = True

    def continuation(self, options: Any, target: Any, value: Any) -> Any:
        return target

    def empty_work(self, num_lanes: int, rule: Any, num_scheduled: int) -> Replay:
        return Replay(
            remaining=jnp.zeros(num_lanes, jnp.int32),
            continuation=jnp.zeros(num_lanes, jnp.float32),
            next_reward=jnp.zeros(num_lanes, jnp.float32),
            next_teacher_value=jnp.zeros(num_lanes, jnp.float32),
        )

    def all_credited(self, work: Replay) -> jax.Array:
        return work.remaining == 0

    def tick(self, machine: Machine, lanes: Any) -> Any:
        """Every lane takes one step of its episode or, once that has ended, one step back through it."""
        state, replay, rule = lanes.state, lanes.state.work, machine.rule
        backward = replay.remaining > 0
        record_index = machine.record_index(jnp.where(backward, replay.remaining - 1, state.time))
        record = machine.read_record(lanes, record_index)
        mdp_state = jnp.where(backward, record.mdp_state, state.mdp_state)
        observation = jnp.where(backward, record.observation, state.observation)
        visit = machine.visit(lanes, mdp_state, observation)
        row, is_finite = machine.refresh(state, visit)
        active, cut, state = machine.start_acting(state, is_finite, ~backward)
        here = dataclasses.replace(state, mdp_state=mdp_state, observation=observation)
        action, arrival = machine.act(here, row, visit.teacher_row, (backward, record))
        credited, continuation, next_reward = jax.vmap(self._credit_by(rule))(
            state.student, replay, row, visit.teacher_row, action, arrival.reward, cut, machine.share(visit.features)
        )
        lanes = machine.write(lanes, visit, visit.row_index, select(backward, credited, row))
        step = StepRecord(mdp_state, observation, action, arrival.outcome)
        lanes = machine.write_record(lanes, record_index, step)
        remaining = jnp.where(backward, replay.remaining - 1, jnp.where(cut, state.time, 0))
        remaining = jnp.where(active & arrival.ended, state.time + 1, remaining)
        has_next = backward | cut  # The step that is credited next is followed by a step or by a cut.
        work = Replay(
            remaining=remaining,
            continuation=jnp.where(has_next, continuation, 0),
            next_reward=jnp.where(has_next, next_reward, 0),
            next_teacher_value=jnp.where(has_next, rule.teacher_value(visit.teacher_row), 0),
        )
        state = machine.arrive(dataclasses.replace(state, work=work), active, arrival)
        return machine.end_iteration(dataclasses.replace(lanes, state=state), backward & (remaining == 0))

    def _credit_by(self, rule: Any) -> Any:
        """A function that credits a step of a lane, walking backward; at a cut it gives the values to start from."""

        def credit(student, replay, row, teacher_row, action, reward, cut, share):
            step = rule.step(student, row, teacher_row, replay.next_teacher_value, action, reward)
            discounted = student.options.discount * replay.continuation
            target = rule.reward(student, step) + replay.next_reward + discounted
            value = rule.state_value(student, row, rule.teacher_value(teacher_row))
            # Nothing is sampled after a cut, so the value of the state takes the place of the return from there.
            continuation = jnp.where(cut, value, self.continuation(student.options, target, value))
            return rule.credit(student, row, step, target, share), continuation, rule.next_reward(student, step)

        return credit
