"""A block of lanes: all that its students carry, and how a student gets in, starts an episode, and gets out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.engine import threefry, xla
from jaxdistill.engine.packing import Worlds, count_reached, read
from jaxdistill.engine.rules import Row, Rule, Student
from jaxdistill.methods.numerics import sample_index

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
    row: Row
    teacher_row: jax.Array
    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    alive: jax.Array  # 1.0 where the episode went on


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """MC: walking the episode backward, what step t + 1 hands to step t."""

    remaining: jax.Array  # steps still to credit; 0 while playing forward
    next_return: jax.Array
    next_reward: jax.Array
    next_teacher_value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """The whole carry; per lane unless said otherwise.

    Attributes:
      table: [W * O, width] for each part of the rule's rows.
      scales: [W * ring, 2], by which an iteration's directions of logits and value are multiplied.
      curves: [W * C, 2], sums over the iterations of a bin of undiscounted return and of length.
      records: int32 [W * max_steps, 4], state, observation, action, outcome of every step of the episode; None for TD.
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

    table: Row
    scales: jax.Array
    curves: jax.Array
    records: jax.Array | None
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


def all_credited(lanes: Lanes) -> jax.Array:
    """Whether no step that was taken waits for its credit, in lanes that are at the start of an episode."""
    return ~lanes.work.valid if isinstance(lanes.work, Pending) else lanes.work.remaining == 0


def begin_episode(program: Program, worlds: Worlds, lanes: Lanes) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Start state, its observation and the episode's control weights, for every lane."""
    student = lanes.student
    choice = jnp.zeros_like(student.mdp)
    control = student.control
    if worlds.num_starts > 1 or program.episode_control:
        bits, more_bits = jax.vmap(threefry.threefry, in_axes=(0, 0, None))(student.key, lanes.count, START_STREAM)
        if worlds.num_starts > 1:
            choice = jax.vmap(count_reached)(read(worlds.start_cumulative, student.mdp), threefry.uniform(bits))
        if program.episode_control:
            drawn = jax.vmap(sample_index)(control, threefry.uniform(more_bits))
            once = jax.nn.one_hot(drawn, 3, dtype=jnp.float32)
            control = jnp.where(student.per_episode[:, None], once, control)
    start = read(worlds.starts, student.mdp * worlds.num_starts + choice)
    return start[:, 0], start[:, 1], control


def empty(program: Program, worlds: Worlds, student: Student) -> Lanes:
    """Lanes with nobody in them."""
    width, rule = program.num_lanes, program.rule
    ints = functools.partial(jnp.zeros, width, jnp.int32)
    floats = functools.partial(jnp.zeros, width, jnp.float32)

    def parts(number: int) -> Row:
        return tuple(jnp.zeros((number, rule.width), jnp.float32) for _ in range(rule.num_parts))

    work: Any
    if program.monte_carlo:
        work = Replay(
            remaining=ints(),
            next_return=floats(),
            next_reward=floats(),
            next_teacher_value=floats(),
        )
    else:
        work = Pending(
            valid=jnp.zeros(width, bool),
            row=parts(width),
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
        table=parts(width * worlds.num_observations),
        scales=jnp.zeros((width * program.ring, 2), jnp.float32),
        curves=jnp.zeros((width * program.num_checkpoints, 2), jnp.float32),
        records=jnp.zeros((width * program.max_steps, 4), jnp.int32) if program.monte_carlo else None,
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
def load(program: Program, lanes: Lanes, worlds: Worlds, mask: jax.Array, students: Student, who, initial) -> Lanes:
    """Puts student `who` [W] of `students` ([N, ...]) at iteration 0 into every masked lane; others are untouched.

    `initial`: float32 [W, O, num_params], or None for zeros.
    """
    width, rule = program.num_lanes, program.rule

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

    (masked,) = jnp.nonzero(mask, size=width)

    def put(table: jax.Array, rows: jax.Array | float = 0.0) -> jax.Array:
        """In the masked lanes alone: tables may be large."""
        lane_rows = table.shape[0] // width
        rows = jnp.broadcast_to(jnp.asarray(rows, table.dtype), (width, lane_rows, table.shape[1]))

        def put_one(i: jax.Array, table: jax.Array) -> jax.Array:
            at = masked[i] * lane_rows
            return lax.dynamic_update_slice(table, rows[masked[i]], (at, jnp.zeros_like(at)))

        return lax.fori_loop(0, jnp.sum(mask), put_one, table)

    params, *others = lanes.table
    rows = 0.0 if initial is None else jnp.pad(initial, ((0, 0), (0, 0), (0, rule.width - rule.num_params)))
    kept: dict[str, Any] = dict(
        table=(put(params, rows), *map(put, others)),
        curves=put(lanes.curves),
        scales=lanes.scales,  # what an iteration has not written it does not read
        records=lanes.records,
        student=jax.tree.map(lambda x, old: pick(x[who], old), students, lanes.student),
        opt_state=lanes.opt_state,
    )
    left_out: dict[str, Any] = dict.fromkeys(kept)
    rest = jax.tree.map(lambda x: pick(jnp.zeros_like(x), x), dataclasses.replace(lanes, **left_out))
    lanes = dataclasses.replace(rest, **kept)
    if program.optimizer is not None:
        rows, a = lanes.table[0].reshape(width, -1, rule.width), rule.num_actions
        fresh = jax.vmap(program.optimizer.init)({"logits": rows[:, :, :a], "values": rows[:, :, a]})
        lanes = dataclasses.replace(lanes, opt_state=jax.tree.map(pick, fresh, lanes.opt_state))
    state, observation, control = begin_episode(program, worlds, lanes)
    return dataclasses.replace(
        lanes,
        state=pick(state, lanes.state),
        observation=pick(observation, lanes.observation),
        control=pick(control, lanes.control),
    )


def _settled(program: Program, lanes: Lanes, chosen: jax.Array) -> Row:
    """The rows of lanes `chosen` [E], each part [E, O, width], with every direction of finished iterations applied."""
    rule, iteration = program.rule, seen_from(program, lanes)
    rows = jax.tree.map(lambda part: part.reshape(program.num_lanes, -1, rule.width)[chosen], lanes.table)
    scales = lanes.scales.reshape(program.num_lanes, program.ring, 2)

    def settle_lane(rows: Row, lane: jax.Array) -> Row:
        stamp = rule.stamp(rows).astype(jnp.int32)
        # The scale of the last iteration is filed by the next tick.
        is_last = stamp == lanes.iteration[lane] - 1
        scale = jnp.where(is_last[:, None], lanes.scale[lane], scales[lane, stamp & (program.ring - 1)])
        return jax.vmap(rule.refresh, in_axes=(0, 0, None))(rows, scale, iteration[lane])

    return jax.vmap(settle_lane)(rows, chosen)


@xla.compiled()
def extract(program: Program, lanes: Lanes, chosen: jax.Array):
    """The fields of `checkpoints.Output`, each with a leading axis [E], of the chosen lanes."""
    params = _settled(program, lanes, chosen)[0][:, :, : program.rule.num_params]
    curves = lanes.curves.reshape(program.num_lanes, program.num_checkpoints, 2)
    counts = lanes.truncated, lanes.count, lanes.fault
    return params, curves[chosen], *(x[chosen] for x in counts)


@xla.compiled(donate=1)
def settle(program: Program, lanes: Lanes) -> Lanes:
    """Applies every pending direction of finished iterations to the parameters, in the whole table."""
    rows = _settled(program, lanes, lane_index(program))
    table = jax.tree.map(lambda part: part.reshape(-1, program.rule.width), rows)
    return dataclasses.replace(lanes, table=table)
