"""The inner loop: many lanes, one student in each, advanced together by one unit of each lane's own work per tick.

No lane waits for the end of another's episode, and no step is padding. What a tick does is the estimator's `tick`; a
`Machine` gives it the parts that all estimators share.

Everything here works on arrays of lanes, [W, ...]. What one lane does is written for one lane and vmapped. A tick reads
the rows, the records and the curves before it writes them, because XLA would otherwise copy these tables. The ring of
scales is first written and then read, in a row that was written in an earlier tick or just now. A barrier stops XLA
from recomputing an expensive value for each of its consumers.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.engine import threefry, xla
from jaxdistill.engine.lanes import (
    CUT_STREAM,
    STEP_STREAM,
    Lanes,
    LaneState,
    Program,
    as_params,
    begin_episode,
    by_lane,
    lane_index,
    refresh_iteration,
    rows_of_lane,
    scale_index,
    student_rows,
    where_lane,
)
from jaxdistill.engine.packing import Worlds, count_reached, read, transition, write
from jaxdistill.engine.rules import Rule, Student
from jaxdistill.engine.schedules import scheduled_numbers, with_numbers
from jaxdistill.estimators.estimator import Row, StepRecord, Visit
from jaxdistill.methods.numerics import sample_index
from jaxdistill.runtime.surroundings import default_promotion


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrival:
    """What happened after an action.

    Attributes:
      outcome: int32 [W], the outcome drawn.
      mdp_state, observation: int32 [W], where the agent is now.
      reward: float32 [W], r_t.
      ended: bool [W], whether the episode ended.
      cut: bool [W], whether it ended only because it reached its time limit.
    """

    outcome: jax.Array
    mdp_state: jax.Array
    observation: jax.Array
    reward: jax.Array
    ended: jax.Array
    cut: jax.Array


@dataclasses.dataclass(frozen=True)
class Machine:
    """The parts of a tick that all estimators share (`estimators.estimator.Machine`), and what a call holds fixed.

    Attributes:
      program: what the compiled program depends on.
      worlds: packed worlds.
      teachers: [T * S, teacher_width], packed teachers.
      schedules: the table of `schedules.pack`, or None.
      num_iterations: int32 [], episodes of each student.
      until: int32 [W], iteration at which each lane pauses.
    """

    program: Program
    worlds: Worlds
    teachers: jax.Array
    schedules: jax.Array | None
    num_iterations: jax.Array
    until: jax.Array

    @property
    def rule(self) -> Rule:
        return self.program.state_rule

    def record_index(self, time: jax.Array) -> jax.Array:
        return lane_index(self.program) * self.program.num_records + time

    def read_record(self, lanes: Lanes, index: jax.Array) -> StepRecord:
        record = lax.optimization_barrier(read(lanes.tables.records, index))
        return StepRecord(*(record[:, i] for i in range(record.shape[1])))

    def write_record(self, lanes: Lanes, index: jax.Array, record: StepRecord) -> Lanes:
        records = write(lanes.tables.records, index, jnp.stack(record, axis=-1))
        return dataclasses.replace(lanes, tables=dataclasses.replace(lanes.tables, records=records))

    def visit(self, lanes: Lanes, mdp_state: jax.Array, observation: jax.Array) -> Visit:
        """Reads the student's row and the teacher's. Writes the last iteration's scale, and reads the row's scale."""
        program, worlds, state = self.program, self.worlds, lanes.state
        features = self._features(state, mdp_state)
        row_index = lane_index(program) * rows_of_lane(program, worlds)
        row_index = row_index + observation if features is None else row_index[:, None] + features
        scales = write(lanes.tables.scales, scale_index(program, state.iteration - 1), state.scale)
        row, teacher_row = lax.optimization_barrier(
            (
                read(lanes.tables.rows, row_index),
                read(self.teachers, state.student.teacher * worlds.num_states + mdp_state),
            )
        )
        stamp = program.rule.stamp(row).astype(jnp.int32)
        pending_scale = lax.optimization_barrier(read(scales, scale_index(program, stamp)))
        return Visit(row_index, row, teacher_row, pending_scale, scales, features)

    def _features(self, state: LaneState, mdp_state: jax.Array) -> jax.Array | None:
        """The rows [W, F] of each lane's table that the state uses; None where that is its observation."""
        if self.program.features is None:
            return None
        index = state.student.mdp * self.worlds.num_states + mdp_state
        return lax.optimization_barrier(read(self.worlds.features, index))

    def share(self, features: jax.Array | None) -> jax.Array | None:
        if features is None:
            return None
        assert self.program.features is not None
        is_row = (features < self.worlds.num_observations).astype(jnp.float32)
        return is_row / jnp.sum(is_row, axis=1, keepdims=True) if self.program.features.is_divided else is_row

    def refresh_iteration(self, state: LaneState) -> jax.Array:
        return refresh_iteration(self.program, state)

    def refresh(self, state: LaneState, visit: Visit) -> tuple[Row, jax.Array]:
        def refresh_row(row: Row, scale: jax.Array, iteration: jax.Array) -> tuple[Row, jax.Array]:
            row = self.rule.refresh(row, scale, iteration)
            return row, self.rule.is_finite(row)

        rows = jax.vmap(refresh_row)(visit.row, visit.pending_scale, self.refresh_iteration(state))
        return lax.optimization_barrier(rows)

    def write(self, lanes: Lanes, visit: Visit, row_index: jax.Array, row: Row) -> Lanes:
        rows = write(lanes.tables.rows, row_index, row)
        return dataclasses.replace(lanes, tables=dataclasses.replace(lanes.tables, rows=rows, scales=visit.scales))

    def start_acting(
        self, state: LaneState, is_finite: jax.Array, may_act: jax.Array | bool = True
    ) -> tuple[jax.Array, jax.Array, LaneState]:
        """Which lanes act now, and in which the episode is cut, because its time limit is reached.

        A lane whose row is not finite stops for good and notes the iteration.
        """
        ready = (state.iteration < self.until) & ~state.awaits_optimizer & (state.fault == 0) & may_act
        fault = jnp.where(ready & ~is_finite, state.iteration + 1, state.fault)
        state = dataclasses.replace(state, fault=fault)
        ready &= is_finite
        if not self.program.bootstraps_at_cut:
            return ready, jnp.zeros_like(ready), state
        cut = ready & self._is_at_limit(state)
        return ready & ~cut, cut, dataclasses.replace(state, truncated=state.truncated + cut.astype(jnp.int32))

    def _is_at_limit(self, state: LaneState) -> jax.Array:
        """Whether the episode of each lane has as many steps as its time limit allows, bool [W]."""
        return state.time >= state.student.time_limit

    def act(
        self, state: LaneState, row: Row, teacher_row: jax.Array, replay: tuple[jax.Array, StepRecord] | None = None
    ) -> tuple[jax.Array, Arrival]:
        """Draws an action and its outcome in every lane.

        `replay` is a mask [W] and the record whose action and outcome take the place of the drawn ones there.
        """
        worlds, student = self.worlds, state.student
        draw = jax.vmap(threefry.random_bits)
        bits = lax.optimization_barrier(draw(student.key, state.count, self._action_streams(state)))

        def sample(student, control, row, teacher_row, bits, more_bits):
            weights = self.rule.weights(row, teacher_row, student, control)
            return sample_index(weights, threefry.uniform(bits)), threefry.uniform(more_bits)

        action, u = jax.vmap(sample)(student, state.control, row, teacher_row, *bits)
        if replay is not None:
            action = jnp.where(replay[0], replay[1].action, action)
        action, u = lax.optimization_barrier((action, u))
        owner = student.mdp * worlds.num_states + state.mdp_state if worlds.outcomes_by_state else student.mdp
        distribution = read(worlds.outcomes, owner * worlds.num_actions + action)
        continue_prob = read(worlds.continue_prob, student.mdp)[:, 0]
        goes_on = u < continue_prob
        # Given that the episode goes on (or does not), the rest of u is uniform again and selects the outcome.
        u = jnp.where(goes_on, u / continue_prob, (u - continue_prob) / (1 - continue_prob))
        outcome = jax.vmap(count_reached)(distribution, u)
        if replay is not None:
            outcome = jnp.where(replay[0], replay[1].outcome, outcome)
        index = (student.mdp * worlds.num_states + state.mdp_state) * worlds.num_outcomes + outcome
        step = transition(lax.optimization_barrier(read(worlds.arrivals, index)))
        ends = step.is_terminal | ~goes_on
        cut = jnp.zeros_like(ends)
        if not self.program.bootstraps_at_cut:
            cut = ~ends & (state.time + 1 >= student.time_limit)
        arrival = Arrival(outcome, step.mdp_state, step.observation, step.reward, ends | cut, cut)
        return lax.optimization_barrier((action, arrival))

    def _action_streams(self, state: LaneState) -> jax.Array:
        """The random stream from which each lane draws its action, uint32 [W].

        Where an episode is cut, an action is drawn that is not played, because a part of the previous step's reward may
        depend on it. The next step is at the same position of the stream, and must not repeat that draw.
        """
        streams = jnp.full_like(state.count, STEP_STREAM)
        if self.program.bootstraps_at_cut and self.rule.next_rewards:
            streams = jnp.where(self._is_at_limit(state), jnp.uint32(CUT_STREAM), streams)
        return streams

    def arrive(self, state: LaneState, active: jax.Array, arrival: Arrival) -> LaneState:
        step = active.astype(jnp.int32)
        return dataclasses.replace(
            state,
            mdp_state=jnp.where(active, arrival.mdp_state, state.mdp_state),
            observation=jnp.where(active, arrival.observation, state.observation),
            time=state.time + step,
            count=state.count + step.astype(jnp.uint32),
            episode_return=state.episode_return + jnp.where(active, arrival.reward, 0),
            truncated=state.truncated + (active & arrival.cut).astype(jnp.int32),
        )

    def end_iteration(self, lanes: Lanes, ended: jax.Array) -> Lanes:
        """Where `ended`: notes the iteration's scale and curves, and puts the lane at the start of its next episode."""
        program, state, ended = self.program, lanes.state, lax.optimization_barrier(ended)
        length = jnp.maximum(state.time, 1).astype(jnp.float32)
        scale = self._scale(state, length)
        next_bin = ended & (state.iteration * program.num_checkpoints >= (state.bin + 1) * self.num_iterations)
        current_bin = state.bin + next_bin.astype(jnp.int32)
        bin_return = jnp.where(next_bin, 0, state.bin_return) + jnp.where(ended, state.episode_return, 0)
        bin_length = jnp.where(next_bin, 0, state.bin_length) + jnp.where(ended, length, 0)
        curve = jnp.stack([bin_return, bin_length], axis=-1)
        curves = write(lanes.tables.curves, lane_index(program) * program.num_checkpoints + current_bin, curve)
        state = dataclasses.replace(state, student=self._next_student(state, ended))
        mdp_state, observation, control = begin_episode(program, self.worlds, state)
        has_optimizer = program.optimizer is not None
        state = dataclasses.replace(
            state,
            iteration=state.iteration + ended.astype(jnp.int32),
            time=jnp.where(ended, 0, state.time),
            mdp_state=jnp.where(ended, mdp_state, state.mdp_state),
            observation=jnp.where(ended, observation, state.observation),
            control=jnp.where(ended[:, None], control, state.control),
            scale=jnp.where(ended[:, None], scale, state.scale),
            bin=current_bin,
            bin_return=bin_return,
            bin_length=bin_length,
            episode_return=jnp.where(ended, 0, state.episode_return),
            awaits_optimizer=state.awaits_optimizer | ended if has_optimizer else state.awaits_optimizer,
        )
        return Lanes(dataclasses.replace(lanes.tables, curves=curves), state)

    def scheduled_numbers(self, student: Student) -> jax.Array | None:
        return scheduled_numbers(student, self.program.scheduled) if self.program.scheduled else None

    def with_numbers(self, student: Student, numbers: jax.Array | None) -> Student:
        return student if numbers is None else with_numbers(student, self.program.scheduled, numbers)

    def _next_student(self, state: LaneState, ended: jax.Array) -> Student:
        """The constants of each lane's student; where the iteration `ended`, with the numbers of the next one."""
        if self.schedules is None:
            return state.student
        iteration = jnp.minimum(state.iteration + ended.astype(jnp.int32), self.num_iterations - 1)
        return self.with_numbers(state.student, read(self.schedules, state.student.schedule + iteration))

    def _scale(self, state: LaneState, length: jax.Array) -> jax.Array:
        """The factors of this iteration's directions, for logits and value, [W, 2]."""
        program, student = self.program, state.student
        divisors = {"mean": length, "sum": jnp.ones_like(length), "fixed": student.options.fixed_length}
        scale = jnp.ones_like(length) / divisors[program.reduction]
        scale = jnp.stack([scale, scale], axis=-1)
        if program.optimizer is not None:
            return scale
        return scale * jnp.stack([student.learning_rate, student.value_learning_rate], axis=-1)


def apply_optimizer(program: Program, lanes: Lanes) -> Lanes:
    """Applies the optimizer in the lanes whose iteration is complete, so that their next one begins."""
    optimizer, rule, state = program.optimizer, program.rule, lanes.state
    assert optimizer is not None
    ready = state.awaits_optimizer & program.estimator.all_credited(state.work)
    n, a = rule.num_params, rule.num_actions

    def update(rows: Row, scale: jax.Array, opt_state: Any) -> tuple[Row, Any]:
        stored, *parts = rows
        direction = functools.reduce(jnp.add, parts)
        direction = student_rows(program, direction)
        params = as_params(program, rows)
        gradients = {"logits": -scale[0] * direction[:, :a], "values": -scale[1] * direction[:, a]}
        with default_promotion():
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
        changed = [params["logits"], params["values"][:, None]]
        if program.num_spare:
            changed = [jnp.pad(x, ((0, program.num_spare), (0, 0))) for x in changed]
        stored = jnp.concatenate([*changed, stored[:, n:]], axis=1)
        return (stored, *map(jnp.zeros_like, parts)), opt_state

    rows = by_lane(program, lanes.tables.rows)
    new_rows, new_opt_state = jax.vmap(update)(rows, state.scale, state.opt_state)
    rows = jax.tree.map(lambda new, old: where_lane(ready, new, old).reshape(-1, rule.width), new_rows, rows)
    opt_state = jax.tree.map(functools.partial(where_lane, ready), new_opt_state, state.opt_state)
    state = dataclasses.replace(state, opt_state=opt_state, awaits_optimizer=state.awaits_optimizer & ~ready)
    return Lanes(dataclasses.replace(lanes.tables, rows=rows), state)


@xla.compiled(donate=1)
def advance(program: Program, lanes: Lanes, worlds: Worlds, teachers, schedules, num_iterations, until, num_ticks):
    """`num_ticks` ticks of every lane (rounded up to `sync_every` with an optimizer), none beyond iteration `until`.

    Returns:
      The lanes, and their status for the host, int32 [4, W]: `iteration`, `count` (the bits of a uint32), `fault`,
      whether all finished episodes have been credited.
    """
    chex.assert_shape(lanes.tables.rows, (program.num_lanes * rows_of_lane(program, worlds), program.rule.width))
    chex.assert_shape([teachers], (None, program.rule.teacher_width))
    chex.assert_shape([until, lanes.state.iteration], (program.num_lanes,))
    machine = Machine(program, worlds, teachers, schedules, num_iterations, until)

    def tick(_, lanes: Lanes) -> Lanes:
        return program.estimator.tick(machine, lanes)

    def ticks_and_optimizer(_, lanes: Lanes) -> Lanes:
        return apply_optimizer(program, lax.fori_loop(0, program.sync_every, tick, lanes))

    if program.optimizer is None:
        lanes = lax.fori_loop(0, num_ticks, tick, lanes)
    else:
        lanes = lax.fori_loop(0, -(-num_ticks // program.sync_every), ticks_and_optimizer, lanes)
    return lanes, status(program, lanes.state)


def status(program: Program, state: LaneState) -> jax.Array:
    """What the host must know of every lane, as `advance` returns it, int32 [4, W]."""
    count = lax.bitcast_convert_type(state.count, jnp.int32)
    is_idle = program.estimator.all_credited(state.work) & ~state.awaits_optimizer
    return jnp.stack([state.iteration, count, state.fault, is_idle.astype(jnp.int32)])
