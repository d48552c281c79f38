"""A block of lanes: all that its students carry, and how a student gets in, starts an episode, and gets out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdistill import random, xla
from jaxdistill.numerics import sample_index
from jaxdistill.rules import Rule, Student
from jaxdistill.tables import Worlds, count_reached, read, write

STEP_STREAM, START_STREAM = 0, 1  # purposes of random draws
Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program depends on, besides the sizes of the worlds; hashable.

    Attributes:
      rule: how rows become policies and steps become credit.
      monte_carlo: walk episodes backward (`tick_mc`) instead of crediting by TD(1).
      num_lanes: W, fixed, so that a student's numbers do not depend on how many run beside it.
      num_checkpoints: C bins of the learning curves.
      max_steps: an episode is cut after so many steps (and counted as truncated).
      mean: whether an episode's update is the mean over its steps; else the sum.
      ring: iterations whose scale is remembered; `settle` must run at least once in ring - 2 iterations.
      schedule, value_schedule: iteration -> factor of the learning rates, or None for constant rates.
      optimizer: gradient transformation over {"logits": [O, A], "values": [O]}, or None for plain SGD.
      episode_control: whether any control policy draws its component per episode.
      sync_every: ticks between applications of `optimizer`.
    """

    rule: Rule
    monte_carlo: bool
    num_lanes: int
    num_checkpoints: int
    max_steps: int = 4096
    mean: bool = True
    ring: int = 8192
    schedule: Schedule | None = None
    value_schedule: Schedule | None = None
    optimizer: optax.GradientTransformation | None = None
    episode_control: bool = False
    sync_every: int = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pending:
    """TD: the step taken last, which the next tick credits."""

    valid: jax.Array
    row: jax.Array
    teacher_row: jax.Array
    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    alive: jax.Array  # 1.0 where the episode went on


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """MC: the record of the episode and, walking backward, what step t + 1 hands to step t."""

    records: jax.Array  # int32 [W * max_steps, 4]: state, observation, action, outcome
    remaining: jax.Array  # steps still to credit; 0 while playing forward
    next_return: jax.Array
    next_reward: jax.Array
    next_teacher_value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """The whole carry; per lane unless said otherwise.

    Attributes:
      table: [W * O, R], the rows of the rule.
      scales: [W * ring, 2], by which an iteration's directions of logits and value are multiplied.
      curves: [W * C, 2], sums over the iterations of a bin of undiscounted return and of length.
      student: its constants.
      until: iteration at which the lane pauses.
      iteration, time: episodes finished; steps taken in this one.
      count: steps taken in all (position in the random stream).
      state, observation: where it is.
      control: [3], this episode's weights of student, teacher and uniform policy.
      scale: [2], of the iteration just finished.
      bin, bin_return, bin_length, episode_return: learning-curve accumulators.
      truncated: episodes cut at max_steps.
      fault: iteration, counted from 1, in which a row was met that is not finite; 0: none. Such a lane stops.
      waiting: whether it waits for `optimizer`.
      work: `Pending` (TD) or `Replay` (MC).
      opt_state: of `optimizer`, or None.
    """

    table: jax.Array
    scales: jax.Array
    curves: jax.Array
    student: Student
    until: jax.Array
    iteration: jax.Array
    time: jax.Array
    count: jax.Array
    state: jax.Array
    observation: jax.Array
    control: jax.Array
    scale: jax.Array
    bin: jax.Array
    bin_return: jax.Array
    bin_length: jax.Array
    episode_return: jax.Array
    truncated: jax.Array
    fault: jax.Array
    waiting: jax.Array
    work: Any
    opt_state: Any


def lane_index(program: Program) -> jax.Array:
    """0 .. W - 1, int32 [W]."""
    return jnp.arange(program.num_lanes, dtype=jnp.int32)


def scale_slot(program: Program, iteration: jax.Array) -> jax.Array:
    """Row of `Lanes.scales` that holds the scale of each lane's `iteration`."""
    return lane_index(program) * program.ring + (iteration & (program.ring - 1))


def seen_from(program: Program, lanes: Lanes) -> jax.Array:
    """The iteration as of which rows are refreshed: the finished one while its directions wait for the optimizer."""
    return lanes.iteration if program.optimizer is None else lanes.iteration - lanes.waiting.astype(jnp.int32)


def begin_episode(program: Program, worlds: Worlds, lanes: Lanes) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Start state, its observation and the episode's control weights, for every lane."""
    student = lanes.student
    choice = jnp.zeros_like(student.mdp)
    control = student.control
    if worlds.num_starts > 1 or program.episode_control:
        bits, more_bits = jax.vmap(random.threefry, in_axes=(0, 0, None))(student.key, lanes.count, START_STREAM)
        if worlds.num_starts > 1:
            choice = jax.vmap(count_reached)(read(worlds.start_cumulative, student.mdp), random.uniform(bits))
        if program.episode_control:
            drawn = jax.vmap(sample_index)(control, random.uniform(more_bits))
            once = jax.nn.one_hot(drawn, 3, dtype=jnp.float32)
            control = jnp.where(student.per_episode[:, None], once, control)
    start = read(worlds.starts, student.mdp * worlds.num_starts + choice)
    return start[:, 0], start[:, 1], control


def empty(program: Program, worlds: Worlds, student: Student) -> Lanes:
    """Lanes with nobody in them."""
    width, rule = program.num_lanes, program.rule
    ints = functools.partial(jnp.zeros, width, jnp.int32)
    floats = functools.partial(jnp.zeros, width, jnp.float32)
    work: Any
    if program.monte_carlo:
        work = Replay(
            records=jnp.zeros((width * program.max_steps, 4), jnp.int32),
            remaining=ints(),
            next_return=floats(),
            next_reward=floats(),
            next_teacher_value=floats(),
        )
    else:
        work = Pending(
            valid=jnp.zeros(width, bool),
            row=jnp.zeros((width, rule.width), jnp.float32),
            teacher_row=jnp.zeros((width, rule.teacher_width), jnp.float32),
            observation=ints(),
            action=ints(),
            reward=floats(),
            alive=floats(),
        )
    opt_state = None
    if program.optimizer is not None:
        one = {
            "logits": jnp.zeros((worlds.num_observations, rule.num_actions), jnp.float32),
            "values": jnp.zeros(worlds.num_observations, jnp.float32),
        }
        opt_state = jax.tree.map(
            lambda x: jnp.array(jnp.broadcast_to(x, (width, *jnp.shape(x)))), program.optimizer.init(one)
        )
    return Lanes(
        table=jnp.zeros((width * worlds.num_observations, rule.width), jnp.float32),
        scales=jnp.zeros((width * program.ring, 2), jnp.float32),
        curves=jnp.zeros((width * program.num_checkpoints, 2), jnp.float32),
        student=jax.tree.map(jnp.array, student),
        until=ints(),
        iteration=ints(),
        time=ints(),
        count=jnp.zeros(width, jnp.uint32),
        state=ints(),
        observation=ints(),
        control=jnp.zeros((width, 3), jnp.float32),
        scale=jnp.zeros((width, 2), jnp.float32),
        bin=ints(),
        bin_return=floats(),
        bin_length=floats(),
        episode_return=floats(),
        truncated=ints(),
        fault=ints(),
        waiting=jnp.zeros(width, bool),
        work=work,
        opt_state=opt_state,
    )


@xla.compiled(donate=1)
def load(program: Program, lanes: Lanes, worlds: Worlds, mask: jax.Array, student: Student, initial) -> Lanes:
    """Puts a student at iteration 0 into every masked lane; the others are untouched."""
    width, rule = program.num_lanes, program.rule

    def clear(x):
        if x.ndim == 0:
            return x
        wide = x.reshape(width, -1)
        return jnp.where(mask[:, None], jnp.zeros_like(wide), wide).reshape(x.shape)

    records = lanes.work.records if isinstance(lanes.work, Replay) else None
    kept = dataclasses.replace(lanes, student=student)
    cleared = jax.tree.map(clear, dataclasses.replace(lanes, student=student, opt_state=None))
    lanes = dataclasses.replace(cleared, student=student, opt_state=lanes.opt_state)
    if records is not None:
        lanes = dataclasses.replace(lanes, work=dataclasses.replace(lanes.work, records=records))
    table = lanes.table.reshape(width, worlds.num_observations, rule.width)
    if initial is not None:
        rest = rule.width - rule.num_params
        rows = jnp.pad(jnp.asarray(initial), ((0, 0), (0, 0), (0, rest)))
        table = jnp.where(mask[:, None, None], rows, table)
    if program.optimizer is not None:
        a = rule.num_actions
        fresh = jax.vmap(program.optimizer.init)({"logits": table[:, :, :a], "values": table[:, :, a]})
        pick = functools.partial(_where_lanes, mask)
        lanes = dataclasses.replace(lanes, opt_state=jax.tree.map(pick, fresh, kept.opt_state))
    state, observation, control = begin_episode(program, worlds, lanes)
    return dataclasses.replace(
        lanes,
        table=table.reshape(lanes.table.shape),
        state=jnp.where(mask, state, lanes.state),
        observation=jnp.where(mask, observation, lanes.observation),
        control=jnp.where(mask[:, None], control, lanes.control),
    )


def _where_lanes(mask, new, old):
    return jnp.where(mask.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


@xla.compiled()
def extract(program: Program, lanes: Lanes, chosen: jax.Array):
    """The fields of `checkpoints.Output`, each with a leading axis [E], of the chosen lanes."""
    width, n = program.num_lanes, program.rule.num_params
    table = lanes.table.reshape(width, -1, program.rule.width)
    curves = lanes.curves.reshape(width, program.num_checkpoints, 2)
    counts = lanes.truncated, lanes.count, lanes.fault
    return table[chosen, :, :n], curves[chosen], *(x[chosen] for x in counts)


@xla.compiled(donate=1)
def settle(program: Program, lanes: Lanes) -> Lanes:
    """Applies every pending direction of finished iterations to the parameters, in the whole table."""
    rule = program.rule
    table = lanes.table.reshape(program.num_lanes, -1, rule.width)
    scales = write(lanes.scales, scale_slot(program, lanes.iteration - 1), lanes.scale)
    scales = scales.reshape(program.num_lanes, program.ring, 2)

    def refresh_lane(rows, scales, iteration):
        filed = scales[rule.stamp(rows).astype(jnp.int32) & (program.ring - 1)]
        return jax.vmap(rule.refresh, in_axes=(0, 0, None))(rows, filed, iteration)

    table = jax.vmap(refresh_lane)(table, scales, seen_from(program, lanes))
    return dataclasses.replace(lanes, table=table.reshape(lanes.table.shape), scales=scales.reshape(lanes.scales.shape))
