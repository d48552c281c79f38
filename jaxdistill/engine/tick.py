"""The inner loop: many lanes, one student in each, advanced together by one unit of each lane's own work per tick.

No lane waits for another's episode to end and no step is padding. `tick_td` reads as: finish the previous step, act,
arrive. `tick_mc` plays an episode forward, keeping a record, and then walks it backward to give each step its return.

Everything here works on [W, ...] arrays of lanes; what one lane does is written for one lane and vmapped. Reads of a
table come before its write in every tick, or XLA would copy the table. A barrier stands where several operations need
what one costs: XLA would else compute it anew for each.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.engine import threefry, xla
from jaxdistill.engine.lanes import (
    STEP_STREAM,
    Lanes,
    Pending,
    Program,
    Replay,
    all_credited,
    begin_episode,
    lane_index,
    scale_slot,
    seen_from,
)
from jaxdistill.engine.packing import Worlds, count_reached, read, write
from jaxdistill.engine.rules import Row
from jaxdistill.methods.numerics import all_finite, sample_index


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrival:
    """What happened after an action."""

    outcome: jax.Array
    state: jax.Array
    observation: jax.Array
    reward: jax.Array
    ended: jax.Array
    cut: jax.Array


def select(condition: jax.Array, new: Row, old: Row) -> Row:
    """Part by part, `new` where `condition` holds."""
    return jax.tree.map(functools.partial(jnp.where, condition), new, old)


def finite(row: Row) -> jax.Array:
    """Whether all entries of all parts of a row are finite, bool []."""
    return functools.reduce(jnp.logical_and, map(all_finite, row))


def tick_td(program: Program, worlds: Worlds, teachers: jax.Array, num_iterations, lanes: Lanes) -> Lanes:
    """Every lane takes one step and, knowing now where the step before led, credits that one."""
    rule, student, last = program.rule, lanes.student, lanes.work
    here = lane_index(program) * worlds.num_observations + lanes.observation
    scales = write(lanes.scales, scale_slot(program, lanes.iteration - 1), lanes.scale)
    row, teacher_row = lax.optimization_barrier(
        (read(lanes.table, here), read(teachers, student.teacher * worlds.num_states + lanes.state))
    )
    filed = lax.optimization_barrier(read(scales, scale_slot(program, rule.stamp(row).astype(jnp.int32))))

    def finish(student, last, row, teacher_row, filed, scale, iteration, same):
        fresh = lax.optimization_barrier(rule.refresh(row, filed, iteration))
        step = rule.step(
            student, last.row, last.teacher_row, teacher_row[worlds.num_actions] * last.alive, last.action, last.reward
        )
        next_row = select(same, last.row, fresh)
        target = rule.reward(student, step) + student.discount * rule.bootstrap(student, next_row, step, last.alive)
        credited = lax.optimization_barrier(rule.credit(student, last.row, step, target))
        row = select(same, rule.refresh(credited, scale, iteration), fresh)
        return select(last.valid, credited, fresh), row, finite(row)

    same = last.valid & (last.observation == lanes.observation)
    credited, row, is_finite = lax.optimization_barrier(
        jax.vmap(finish)(student, last, row, teacher_row, filed, lanes.scale, seen_from(program, lanes), same)
    )

    active, lanes = playing(lanes, is_finite)
    action, arrival = act(program, worlds, lanes, row, teacher_row)
    if rule.next_rewards:
        credited, row = jax.vmap(functools.partial(_credit_next, rule))(
            student, last, credited, row, teacher_row, action, same
        )
    credited_at = jnp.where(last.valid, here + last.observation - lanes.observation, here)
    lanes = dataclasses.replace(
        lanes,
        table=write(lanes.table, credited_at, credited),
        scales=scales,
        work=Pending(
            valid=active,
            row=row,
            teacher_row=teacher_row,
            observation=lanes.observation,
            action=action,
            reward=arrival.reward,
            alive=1 - arrival.ended.astype(jnp.float32),
        ),
    )
    lanes = arrive(lanes, active, arrival)
    return end_iteration(program, worlds, num_iterations, lanes, active & arrival.ended)


def _credit_next(rule, student, last, credited, row, teacher_row, action, same):
    """The part of rhat_t that the action at t + 1 decides, for one lane."""
    zero = jnp.zeros_like(last.reward)
    bonus = rule.next_reward(student, rule.step(student, row, teacher_row, zero, action, zero))
    bonus = jnp.where(last.valid, bonus * last.alive, 0)
    step = rule.step(student, last.row, last.teacher_row, zero, last.action, last.reward)
    credited = select(last.valid, rule.credit_more(student, credited, step, bonus), credited)
    return credited, select(same & (last.alive > 0), credited, row)


def tick_mc(program: Program, worlds: Worlds, teachers: jax.Array, num_iterations, lanes: Lanes) -> Lanes:
    """Every lane takes one step of its episode, or one step back through it when it has ended."""
    rule, student, replay = program.rule, lanes.student, lanes.work
    lane, a = lane_index(program), worlds.num_actions
    backward = replay.remaining > 0
    place = lane * program.max_steps + jnp.where(backward, replay.remaining - 1, lanes.time)
    record = lax.optimization_barrier(read(lanes.records, place))
    state = jnp.where(backward, record[:, 0], lanes.state)
    observation = jnp.where(backward, record[:, 1], lanes.observation)
    here = lane * worlds.num_observations + observation
    scales = write(lanes.scales, scale_slot(program, lanes.iteration - 1), lanes.scale)
    row, teacher_row = lax.optimization_barrier(
        (read(lanes.table, here), read(teachers, student.teacher * worlds.num_states + state))
    )
    filed = lax.optimization_barrier(read(scales, scale_slot(program, rule.stamp(row).astype(jnp.int32))))

    def refreshed(row, scale, iteration):
        row = rule.refresh(row, scale, iteration)
        return row, finite(row)

    row, is_finite = lax.optimization_barrier(jax.vmap(refreshed)(row, filed, seen_from(program, lanes)))
    active, lanes = playing(lanes, is_finite, ~backward)
    now = dataclasses.replace(lanes, state=state, observation=observation)
    action, arrival = act(program, worlds, now, row, teacher_row, (backward, record))
    taken = jnp.stack([state, observation, action, arrival.outcome], axis=-1)

    def credit(student, replay, row, teacher_row, action, reward):
        step = rule.step(student, row, teacher_row, replay.next_teacher_value, action, reward)
        target = rule.reward(student, step) + replay.next_reward + student.discount * replay.next_return
        return rule.credit(student, row, step, target), target, rule.next_reward(student, step)

    credited, target, next_reward = jax.vmap(credit)(student, replay, row, teacher_row, action, arrival.reward)
    row = select(backward[:, None], credited, row)
    ended = active & arrival.ended
    remaining = jnp.where(ended, lanes.time + 1, jnp.where(backward, replay.remaining - 1, 0))
    lanes = dataclasses.replace(
        lanes,
        table=write(lanes.table, here, row),
        scales=scales,
        records=write(lanes.records, place, taken),
        work=Replay(
            remaining=remaining,
            next_return=jnp.where(backward, target, 0),
            next_reward=jnp.where(backward, next_reward, 0),
            next_teacher_value=jnp.where(backward, teacher_row[:, a], 0),
        ),
    )
    lanes = arrive(lanes, active, arrival)
    return end_iteration(program, worlds, num_iterations, lanes, backward & (remaining == 0))


def playing(lanes: Lanes, finite: jax.Array, free: jax.Array | bool = True) -> tuple[jax.Array, Lanes]:
    """Which lanes act now; one whose row is not finite stops for good and notes the iteration."""
    active = (lanes.iteration < lanes.until) & ~lanes.waiting & (lanes.fault == 0) & free
    fault = jnp.where(active & ~finite, lanes.iteration + 1, lanes.fault)
    return active & finite, dataclasses.replace(lanes, fault=fault)


def act(program: Program, worlds: Worlds, lanes: Lanes, row, teacher_row, replayed=None) -> tuple[jax.Array, Arrival]:
    """Draws an action and its outcome in every lane; `replayed` (mask, record) overrides what was already drawn."""
    student = lanes.student

    draw = jax.vmap(threefry.threefry, in_axes=(0, 0, None))
    bits = lax.optimization_barrier(draw(student.key, lanes.count, STEP_STREAM))

    def choose(student, control, row, teacher_row, bits, more_bits):
        weights = program.rule.weights(row, teacher_row, student, control)
        return sample_index(weights, threefry.uniform(bits)), threefry.uniform(more_bits)

    action, u = jax.vmap(choose)(student, lanes.control, row, teacher_row, *bits)
    if replayed is not None:
        action = jnp.where(replayed[0], replayed[1][:, 2], action)
    action, u = lax.optimization_barrier((action, u))
    owner = student.mdp * worlds.num_states + lanes.state if worlds.outcomes_by_state else student.mdp
    distribution = read(worlds.outcomes, owner * worlds.num_actions + action)
    continue_prob = read(worlds.continue_prob, student.mdp)[:, 0]
    goes_on = u < continue_prob
    # Given that the episode goes on (or does not), the rest of u is uniform again and selects the outcome.
    u = jnp.where(goes_on, u / continue_prob, (u - continue_prob) / (1 - continue_prob))
    outcome = jax.vmap(count_reached)(distribution, u)
    if replayed is not None:
        outcome = jnp.where(replayed[0], replayed[1][:, 3], outcome)
    index = (student.mdp * worlds.num_states + lanes.state) * worlds.num_outcomes + outcome
    entry = lax.optimization_barrier(read(worlds.arrivals, index))
    over = (entry[:, 3] > 0) | ~goes_on
    cut = ~over & (lanes.time + 1 >= program.max_steps)
    arrival = Arrival(
        outcome=outcome,
        state=entry[:, 0],
        observation=entry[:, 1],
        reward=lax.bitcast_convert_type(entry[:, 2], jnp.float32),
        ended=over | cut,
        cut=cut,
    )
    return lax.optimization_barrier((action, arrival))


def arrive(lanes: Lanes, active: jax.Array, arrival: Arrival) -> Lanes:
    """Moves the active lanes to where they arrived."""
    step = active.astype(jnp.int32)
    return dataclasses.replace(
        lanes,
        state=jnp.where(active, arrival.state, lanes.state),
        observation=jnp.where(active, arrival.observation, lanes.observation),
        time=lanes.time + step,
        count=lanes.count + step.astype(jnp.uint32),
        episode_return=lanes.episode_return + jnp.where(active, arrival.reward, 0),
        truncated=lanes.truncated + (active & arrival.cut).astype(jnp.int32),
    )


def end_iteration(program: Program, worlds: Worlds, num_iterations, lanes: Lanes, done: jax.Array) -> Lanes:
    """Where `done`: files the iteration's scale and curves, and puts the lane at the start of its next episode."""
    student, k, done = lanes.student, lanes.iteration, lax.optimization_barrier(done)
    length = jnp.maximum(lanes.time, 1).astype(jnp.float32)
    scale = jnp.ones_like(length) / length if program.mean else jnp.ones_like(length)
    scale = jnp.stack([scale, scale], axis=-1)
    if program.optimizer is None:
        rates = [student.learning_rate, student.value_learning_rate]
        for i, schedule in enumerate((program.schedule, program.value_schedule)):
            if schedule is not None:
                rates[i] = rates[i] * jnp.asarray(schedule(k), jnp.float32)
        scale = scale * jnp.stack(rates, axis=-1)
    new_bin = done & (k * program.num_checkpoints >= (lanes.bin + 1) * num_iterations)
    current = lanes.bin + new_bin.astype(jnp.int32)
    bin_return = jnp.where(new_bin, 0, lanes.bin_return) + jnp.where(done, lanes.episode_return, 0)
    bin_length = jnp.where(new_bin, 0, lanes.bin_length) + jnp.where(done, length, 0)
    curve = jnp.stack([bin_return, bin_length], axis=-1)
    state, observation, control = begin_episode(program, worlds, lanes)
    return dataclasses.replace(
        lanes,
        curves=write(lanes.curves, lane_index(program) * program.num_checkpoints + current, curve),
        iteration=k + done.astype(jnp.int32),
        time=jnp.where(done, 0, lanes.time),
        state=jnp.where(done, state, lanes.state),
        observation=jnp.where(done, observation, lanes.observation),
        control=jnp.where(done[:, None], control, lanes.control),
        scale=jnp.where(done[:, None], scale, lanes.scale),
        bin=current,
        bin_return=bin_return,
        bin_length=bin_length,
        episode_return=jnp.where(done, 0, lanes.episode_return),
        waiting=lanes.waiting | done if program.optimizer is not None else lanes.waiting,
    )


def apply_optimizer(program: Program, lanes: Lanes) -> Lanes:
    """Applies the transformation in the lanes whose iteration is complete and lets them go on."""
    optimizer, rule = program.optimizer, program.rule
    assert optimizer is not None
    ready = lanes.waiting & all_credited(lanes)
    n, a = rule.num_params, rule.num_actions
    table = jax.tree.map(lambda part: part.reshape(program.num_lanes, -1, rule.width), lanes.table)

    def update(rows, scale, opt_state):
        now, direction = rows
        params = {"logits": now[:, :a], "values": now[:, a]}
        gradients = {"logits": -scale[0] * direction[:, :a], "values": -scale[1] * direction[:, a]}
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        fresh = jnp.concatenate([params["logits"], params["values"][:, None], now[:, n:]], axis=1)
        return (fresh, jnp.zeros_like(direction)), opt_state

    new_table, new_state = jax.vmap(update)(table, lanes.scale, lanes.opt_state)

    def keep(new, old):
        return jnp.where(ready.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    return dataclasses.replace(
        lanes,
        table=jax.tree.map(lambda *parts: keep(*parts).reshape(-1, rule.width), new_table, table),
        opt_state=jax.tree.map(keep, new_state, lanes.opt_state),
        waiting=lanes.waiting & ~ready,
    )


@xla.compiled(donate=1)
def advance(program: Program, lanes: Lanes, worlds: Worlds, teachers, num_iterations, until, num_ticks):
    """`num_ticks` ticks of every lane (rounded up to `sync_every` with an optimizer), none beyond iteration `until`.

    Returns:
      The lanes, and what the host asks of each, int32 [4, W]: `iteration`, `count` (the bits of an uint32), `fault`,
      whether all its finished episodes have been credited.
    """
    tick = tick_mc if program.monte_carlo else tick_td

    def one(_, lanes):
        return tick(program, worlds, teachers, num_iterations, lanes)

    def some(_, lanes):
        return apply_optimizer(program, lax.fori_loop(0, program.sync_every, one, lanes))

    lanes = dataclasses.replace(lanes, until=until)
    if program.optimizer is None:
        lanes = lax.fori_loop(0, num_ticks, one, lanes)
    else:
        lanes = lax.fori_loop(0, -(-num_ticks // program.sync_every), some, lanes)
    count = lax.bitcast_convert_type(lanes.count, jnp.int32)
    idle = all_credited(lanes) & ~lanes.waiting
    return lanes, jnp.stack([lanes.iteration, count, lanes.fault, idle.astype(jnp.int32)])
