"""What the lanes of a block carry, and how a student enters a lane, starts an episode, and leaves."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdistill.engine import threefry, xla
from jaxdistill.engine.packing import Worlds, count_reached, read
from jaxdistill.engine.rules import Rule, Student, SumRule
from jaxdistill.engine.schedules import num_columns
from jaxdistill.estimators.estimator import Estimator, Row, StepRecord
from jaxdistill.methods.numerics import sample_index
from jaxdistill.runtime.surroundings import default_promotion

STEP_STREAM, START_STREAM, CUT_STREAM = 0, 1, 2  # purposes of random draws


@dataclasses.dataclass(frozen=True)
class Features:
    """How a state uses several rows of its student's table; hashable.

    Attributes:
      number: F, the rows that each step reads and writes.
      is_divided: whether each of a state's rows gets the step's direction divided by their number.
    """

    number: int
    is_divided: bool = False

    @property
    def num_spare(self) -> int:
        """Rows after those of the table that take the places without a feature. They stay 0."""
        return self.number - 1


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program depends on, besides the sizes of the worlds; hashable.

    Attributes:
      rule: how rows become policies and steps become credit.
      estimator: how returns are estimated, and so what a tick does.
      num_lanes: W, fixed, so that a student's numbers do not depend on how many students run beside it.
      num_checkpoints: C bins of the learning curves.
      max_steps: the largest time limit of any student's episodes, in steps.
      bootstraps_at_cut: whether the last target of an episode that is cut bootstraps; if not, a cut counts as an end.
      reduction: how the updates of an episode's steps become one, a name of `methods.method.REDUCTIONS`.
      ring: a power of two, iterations whose scale is remembered; `settle` must run once in ring - 2 iterations.
      scheduled: names of the numbers that change with the iteration, see `schedules`.
      optimizer: gradient transformation over {"logits": [O, A], "values": [O]}, or None for plain SGD.
      episode_control: whether any control policy draws its component per episode.
      sync_every: ticks between applications of `optimizer`.
      features: where the logits of a state are sums of several rows; None where each state uses one row.
    """

    rule: Rule
    estimator: Estimator
    num_lanes: int
    num_checkpoints: int
    max_steps: int = 4096
    bootstraps_at_cut: bool = True
    reduction: str = "mean"
    ring: int = 8192
    scheduled: tuple[str, ...] = ()
    optimizer: optax.GradientTransformation | None = None
    episode_control: bool = False
    sync_every: int = 32
    features: Features | None = None

    @property
    def state_rule(self) -> Rule:
        """What the rows of a state mean: `rule`, or its sums where a state uses several rows."""
        rule, features = self.rule, self.features
        return rule if features is None else SumRule(rule.num_actions, rule.next_rewards, rule, features.number)

    @property
    def num_spare(self) -> int:
        """Rows of a lane's table that are no row of its student."""
        return 0 if self.features is None else self.features.num_spare

    def with_lanes(self, num_lanes: int) -> "Program":
        """The program with another number of lanes."""
        return dataclasses.replace(self, num_lanes=num_lanes)

    @property
    def num_records(self) -> int:
        """The number of `StepRecord`s that a lane has room for: one for each step of an episode, and one for a cut."""
        return self.max_steps + 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LaneTables:
    """The tables of all lanes, stored lane after lane.

    Attributes:
      rows: [W * O, width] for each part of the rule's rows; with features, F - 1 spare rows follow those of each lane.
      scales: [W * ring, 2], by which an iteration's directions of logits and value are multiplied; None in `resting`.
      curves: [W * C, 2], sums over the iterations of a bin of undiscounted return and of length.
      records: int32 [W * num_records, 4], the `StepRecord`s of the episode; None if the estimator needs none.
    """

    rows: Row
    scales: Any
    curves: jax.Array
    records: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LaneState:
    """What a lane carries besides its tables; every array has a leading axis [W].

    Attributes:
      student: its constants.
      iteration: number of finished episodes.
      time: steps taken in the current episode.
      count: uint32, steps taken in all (the position in the random stream).
      mdp_state, observation: where the agent is.
      control: [3], this episode's weights of student, teacher and uniform policy.
      scale: [2], of the iteration that was finished last.
      bin, bin_return, bin_length, episode_return: accumulators of the learning curve.
      truncated: episodes that were cut by their time limit.
      fault: iteration, counted from 1, in which a row was not finite; 0: none. Such a lane stops.
      awaits_optimizer: whether its iteration is complete and `optimizer` must be applied before the next.
      work: the estimator's work state.
      opt_state: of `optimizer`, or None.
    """

    student: Student
    iteration: jax.Array
    time: jax.Array
    count: jax.Array
    mdp_state: jax.Array
    observation: jax.Array
    control: jax.Array
    scale: jax.Array
    bin: jax.Array
    bin_return: jax.Array
    bin_length: jax.Array
    episode_return: jax.Array
    truncated: jax.Array
    fault: jax.Array
    awaits_optimizer: jax.Array
    work: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """Everything that the lanes of a block carry from one tick to the next."""

    tables: LaneTables
    state: LaneState

    def without_scales(self) -> "Lanes":
        """The lanes without the ring of scales."""
        return Lanes(dataclasses.replace(self.tables, scales=None), self.state)


def lane_index(program: Program) -> jax.Array:
    """0 .. W - 1, int32 [W]."""
    return jnp.arange(program.num_lanes, dtype=jnp.int32)


def rows_of_lane(program: Program, worlds: Worlds) -> int:
    """Rows of a lane's table."""
    return worlds.num_observations + program.num_spare


def scale_index(program: Program, iteration: jax.Array) -> jax.Array:
    """The rows of `LaneTables.scales` that hold the scales of each lane's `iteration` [W] or [W, F]."""
    lane = lane_index(program) if iteration.ndim == 1 else lane_index(program)[:, None]
    return lane * program.ring + (iteration & (program.ring - 1))


def refresh_iteration(program: Program, state: LaneState) -> jax.Array:
    """The iteration to which rows are brought up to date: the finished one while it awaits the optimizer."""
    return state.iteration if program.optimizer is None else state.iteration - state.awaits_optimizer.astype(jnp.int32)


def begin_episode(program: Program, worlds: Worlds, state: LaneState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Start state, its observation and the episode's control weights, for every lane."""
    student = state.student
    start_index = jnp.zeros_like(student.mdp)
    control = student.control
    if worlds.num_starts > 1 or program.episode_control:
        bits, more_bits = jax.vmap(threefry.random_bits, in_axes=(0, 0, None))(student.key, state.count, START_STREAM)
        if worlds.num_starts > 1:
            start_index = jax.vmap(count_reached)(read(worlds.start_cumulative, student.mdp), threefry.uniform(bits))
        if program.episode_control:
            component = jax.vmap(sample_index)(control, threefry.uniform(more_bits))
            component_hot = jax.nn.one_hot(component, 3, dtype=jnp.float32)
            control = jnp.where(student.per_episode[:, None], component_hot, control)
    start = read(worlds.starts, student.mdp * worlds.num_starts + start_index)
    return start[:, 0], start[:, 1], control


def empty(program: Program, worlds: Worlds, student: Student) -> Lanes:
    """Lanes without students; `student` gives the shapes of a student's constants, [W, ...]."""
    width, rule = program.num_lanes, program.rule
    ints = functools.partial(jnp.zeros, width, jnp.int32)
    floats = functools.partial(jnp.zeros, width, jnp.float32)

    def rows(number: int) -> Row:
        return tuple(jnp.zeros((number, rule.width), jnp.float32) for _ in range(rule.num_parts))

    records = (
        jnp.zeros((width * program.num_records, len(StepRecord._fields)), jnp.int32)
        if program.estimator.records_episode
        else None
    )
    tables = LaneTables(
        rows=rows(width * rows_of_lane(program, worlds)),
        scales=jnp.zeros((width * program.ring, 2), jnp.float32),
        curves=jnp.zeros((width * program.num_checkpoints, 2), jnp.float32),
        records=records,
    )
    state = LaneState(
        student=jax.tree.map(jnp.array, student),
        iteration=ints(),
        time=ints(),
        count=jnp.zeros(width, jnp.uint32),
        mdp_state=ints(),
        observation=ints(),
        control=jnp.zeros((width, 3), jnp.float32),
        scale=jnp.zeros((width, 2), jnp.float32),
        bin=ints(),
        bin_return=floats(),
        bin_length=floats(),
        episode_return=floats(),
        truncated=ints(),
        fault=ints(),
        awaits_optimizer=jnp.zeros(width, bool),
        work=program.estimator.empty_work(width, program.state_rule, num_columns(program.scheduled)),
        opt_state=_initial_opt_state(program, tables.rows),
    )
    return Lanes(tables, state)


def as_params(program: Program, rows: Row) -> dict[str, jax.Array]:
    """The parameters in a lane's tables of rows [..., rows, width], as `optimizer` takes them; spare rows are none."""
    a, params = program.rule.num_actions, student_rows(program, rows[0])
    return {"logits": params[..., :a], "values": params[..., a]}


def student_rows(program: Program, table: jax.Array) -> jax.Array:
    """The rows of a student, without the spare ones, of a table [..., rows, width] of a lane."""
    return table[..., : table.shape[-2] - program.num_spare, :] if program.num_spare else table


def _initial_opt_state(program: Program, rows: Row) -> Any:
    """The state of the optimizer at the parameters in `rows`, for every lane; None without an optimizer."""
    if program.optimizer is None:
        return None
    with default_promotion():
        return jax.vmap(program.optimizer.init)(as_params(program, by_lane(program, rows)))


def by_lane(program: Program, tables: Any) -> Any:
    """Tables [W * n, width] as [W, n, width], for each of a tree."""
    return jax.tree.map(lambda table: table.reshape(program.num_lanes, -1, table.shape[-1]), tables)


@xla.compiled(donate=1)
def load(program: Program, lanes: Lanes, worlds: Worlds, mask, students: Student, student_index, initial) -> Lanes:
    """Puts students at iteration 0 into the masked lanes; the other lanes stay as they are.

    Args:
      program, lanes, worlds: as in `tick.advance`.
      mask: bool [W].
      students: `Student` with a leading axis [N].
      student_index: int32 [W], which of them enters each masked lane.
      initial: float32 [W, O, num_params], the parameters to start from, or None for zeros.
    """
    width, rule, tables = program.num_lanes, program.rule, lanes.tables

    def put(table: jax.Array, rows: jax.Array | float = 0.0) -> jax.Array:
        rows = jnp.broadcast_to(jnp.asarray(rows, table.dtype), (width, table.shape[0] // width, table.shape[1]))
        return lax.platform_dependent(table, rows, mask, cpu=put_in_turn, default=put_at_once)

    params, *other_parts = tables.rows
    padding = ((0, 0), (0, program.num_spare), (0, rule.width - rule.num_params))
    initial_rows = 0.0 if initial is None else jnp.pad(initial, padding)
    # Scales and records are written before they are read, so those of an earlier student need not be cleared.
    tables = dataclasses.replace(
        tables, rows=(put(params, initial_rows), *map(put, other_parts)), curves=put(tables.curves)
    )
    fresh = dataclasses.replace(
        jax.tree.map(jnp.zeros_like, lanes.state),
        student=jax.tree.map(lambda leaf: leaf[student_index], students),
        opt_state=_initial_opt_state(program, tables.rows),
    )
    mdp_state, observation, control = begin_episode(program, worlds, fresh)
    fresh = dataclasses.replace(fresh, mdp_state=mdp_state, observation=observation, control=control)
    return Lanes(tables, jax.tree.map(functools.partial(where_lane, mask), fresh, lanes.state))


def put_in_turn(table: jax.Array, rows: jax.Array, mask: jax.Array) -> jax.Array:
    """Writes rows [W, n, R] to the masked lanes of a table [W * n, R], one lane after another, and to no other lane."""
    width, lane_rows, _ = rows.shape
    (masked,) = jnp.nonzero(mask, size=width)

    def put_lane(i: jax.Array, table: jax.Array) -> jax.Array:
        start = masked[i] * lane_rows
        return lax.dynamic_update_slice(table, rows[masked[i]], (start, jnp.zeros_like(start)))

    return lax.fori_loop(0, jnp.sum(mask), put_lane, table)


def put_at_once(table: jax.Array, rows: jax.Array, mask: jax.Array) -> jax.Array:
    """`put_in_turn` in one operation, which suits an accelerator."""
    (masked,) = jnp.nonzero(mask, size=len(mask), fill_value=len(mask))
    lanes = table.reshape(rows.shape)
    return lanes.at[masked].set(rows[masked], mode="drop", unique_indices=False).reshape(table.shape)


def where_lane(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` [W, ...] in the masked lanes, `old` in the others."""
    return jnp.where(mask.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)


def _settled(program: Program, lanes: Lanes, lane: jax.Array) -> Row:
    """The rows of the lanes `lane` [E], each part [E, O, width], with all directions of finished iterations applied."""
    rule, state, iteration = program.rule, lanes.state, refresh_iteration(program, lanes.state)
    rows = jax.tree.map(lambda part: part[lane], by_lane(program, lanes.tables.rows))
    scales = by_lane(program, lanes.tables.scales)

    def settle_lane(rows: Row, lane: jax.Array) -> Row:
        stamp = rule.stamp(rows).astype(jnp.int32)
        # The next tick writes the scale of the iteration that was finished last; until then the state holds it.
        is_last = stamp == state.iteration[lane] - 1
        scale = jnp.where(is_last[:, None], state.scale[lane], scales[lane, stamp & (program.ring - 1)])
        return jax.vmap(rule.refresh, in_axes=(0, 0, None))(rows, scale, iteration[lane])

    return jax.vmap(settle_lane)(rows, lane)


@xla.compiled()
def extract(program: Program, lanes: Lanes, lane: jax.Array):
    """The fields of `checkpoints.Outputs` of the lanes `lane` [E], each with a leading axis [E]."""
    params = student_rows(program, _settled(program, lanes, lane)[0])[:, :, : program.rule.num_params]
    curves = by_lane(program, lanes.tables.curves)
    counts = lanes.state.truncated, lanes.state.count, lanes.state.fault
    return params, curves[lane], *(count[lane] for count in counts)


@xla.compiled(donate=1)
def settle(program: Program, lanes: Lanes) -> Lanes:
    """Applies every pending direction of finished iterations to the parameters, in all tables."""
    rows = _settled(program, lanes, lane_index(program))
    rows = jax.tree.map(lambda part: part.reshape(-1, program.rule.width), rows)
    return dataclasses.replace(lanes, tables=dataclasses.replace(lanes.tables, rows=rows))


@functools.partial(jax.jit, static_argnums=(0, 3))
def resting(program: Program, lanes: Lanes, lane: jax.Array, num_records: int) -> Lanes:
    """The students of the lanes `lane` [E], whose rows are settled, with all that they need to go on elsewhere.

    The scales are left out, because a student whose rows are settled needs none of finished iterations.

    Args:
      program, lanes: as in `tick.advance`.
      lane: int32 [E].
      num_records: the records that are kept, of the first steps of the episode; at least those that are written.

    Returns:
      Every array has a leading axis [E].
    """
    taken = jax.tree.map(lambda table: table[lane], by_lane(program, lanes.without_scales().tables))
    if taken.records is not None:
        taken = dataclasses.replace(taken, records=taken.records[:, :num_records])
    return Lanes(taken, jax.tree.map(lambda leaf: leaf[lane], lanes.state))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def put_back(program: Program, lanes: Lanes, lane: jax.Array, rest: Lanes) -> Lanes:
    """Puts students that were taken by `resting` into the lanes `lane` [E]; a number of no lane leaves one out."""

    def put(leaf: jax.Array, saved: jax.Array) -> jax.Array:
        return leaf.at[lane].set(saved, mode="drop")

    def put_table(table: jax.Array, saved: jax.Array) -> jax.Array:
        of_lanes = by_lane(program, table)
        return of_lanes.at[lane, : saved.shape[1]].set(saved, mode="drop").reshape(table.shape)

    tables = jax.tree.map(put_table, lanes.without_scales().tables, rest.tables)
    tables = dataclasses.replace(tables, scales=lanes.tables.scales)
    return Lanes(tables, jax.tree.map(put, lanes.state, rest.state))
