"""What a thread runs: the engine's ticks of one lane, until its student is done."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill.engine.lanes import Lanes, LaneState, Program, empty, scale_index
from jaxdistill.engine.packing import Worlds, read, write
from jaxdistill.engine.rules import Student
from jaxdistill.engine.tick import Machine, status
from jaxdistill.estimators.estimator import Row
from jaxdistill.kernels.values import Untranslatable

MOST_FEATURE_ENTRIES = 32
"""The most entries of the rows of a state's features, F times the width of a row, in each part of the rows."""


def advance_lane(
    program: Program,
    lanes: Lanes,
    worlds: Worlds,
    teachers: jax.Array,
    schedules: jax.Array | None,
    num_iterations: jax.Array,
    until: jax.Array,
    num_ticks: jax.Array,
) -> tuple[Lanes, jax.Array]:
    """`engine.tick.advance` for a single lane, which leaves the loop when its student has nothing more to do.

    A lane that leaves, or that is to run no tick at all, applies all directions of finished iterations to its rows. So
    it is done by the code that does it when a row is visited, and rounded alike: numbers do not depend on when a lane
    stops. Otherwise a lane that has left differs from one that ticks on in nothing that is read later.
    """
    machine = Machine(program, worlds, teachers, schedules, num_iterations, until)

    def is_unfinished(carry: tuple[jax.Array, Lanes]) -> jax.Array:
        ticks, lanes = carry
        return (ticks < num_ticks) & ~is_done(program, lanes.state, until)[0]

    def tick(carry: tuple[jax.Array, Lanes]) -> tuple[jax.Array, Lanes]:
        ticks, lanes = carry
        return ticks + 1, program.estimator.tick(machine, lanes)

    ticks, lanes = lax.while_loop(is_unfinished, tick, (jnp.zeros((), jnp.int32), lanes))
    has_stopped = (ticks > 0) & is_done(program, lanes.state, until)[0]
    num_rows = jnp.where(has_stopped | (num_ticks == 0), worlds.num_observations, 0)
    return _settled(program, lanes, num_rows), status(program, lanes.state)


def _settled(program: Program, lanes: Lanes, num_rows: jax.Array) -> Lanes:
    """The lane with the directions of finished iterations applied to its first rows, as in `engine.lanes.settle`."""
    rule, state, scales = program.rule, lanes.state, lanes.tables.scales

    def settle_row(carry: tuple[jax.Array, Row]) -> tuple[jax.Array, Row]:
        index, rows = carry
        row = read(rows, index[None])
        stamp = rule.stamp(row).astype(jnp.int32)
        is_last = stamp == state.iteration - 1  # whose scale the next tick would file
        scale = jnp.where(is_last[:, None], state.scale, read(scales, scale_index(program, stamp)))
        row = jax.vmap(rule.refresh)(row, scale, state.iteration)
        return index + 1, write(rows, index[None], row)

    _, rows = lax.while_loop(
        lambda carry: carry[0] < num_rows, settle_row, (jnp.zeros((), jnp.int32), lanes.tables.rows)
    )
    return Lanes(dataclasses.replace(lanes.tables, rows=rows), state)


def is_done(program: Program, state: LaneState, until: jax.Array) -> jax.Array:
    """Whether a tick would change nothing that is read later, bool [W]."""
    stopped = (state.iteration >= until) | (state.fault > 0)
    return stopped & program.estimator.all_credited(state.work)


@dataclasses.dataclass(frozen=True)
class TracedLane:
    """The jaxpr of `advance_lane`, and what its arguments are.

    Attributes:
      jaxpr: closed; its results are the leaves of the lane and then the status, int32 [4, 1].
      lane: the abstract `Lanes` of one lane, whose leaves are the first arguments.
      shared: the abstract (worlds, teachers, schedules), whose leaves follow; then come num_iterations, until and
        num_ticks.
    """

    jaxpr: Any
    lane: Lanes
    shared: tuple[Worlds, Any, Any]


def trace(program: Program, worlds: Worlds, teachers: Any, schedules: Any, students: Student) -> TracedLane:
    """Traces one lane of a program.

    Args:
      program: for any number of lanes.
      worlds, teachers, schedules: as in `engine.tick.advance`; only shapes matter.
      students: `Student` with a leading axis; only shapes matter.

    Raises:
      Untranslatable: the program has an optimizer, or a state has too many features.
    """
    if program.optimizer is not None:
        raise Untranslatable("An optax optimizer works on whole tables, and only their rows can be translated.")
    features, width = program.features, program.rule.width
    if features is not None and features.number * width > MOST_FEATURE_ENTRIES:
        raise Untranslatable(
            f"{features.number} features of a state have rows of {width} entries; at most {MOST_FEATURE_ENTRIES} "
            f"entries in all become variables, which are {MOST_FEATURE_ENTRIES // width} features of such rows."
        )
    program = dataclasses.replace(program, num_lanes=1)
    student = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), students)
    lane = jax.eval_shape(lambda student: empty(program, worlds, student), student)
    shared = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (worlds, teachers, schedules))

    numbers = np.int32(0), np.zeros(1, np.int32), np.int32(0)
    jaxpr = jax.make_jaxpr(functools.partial(advance_lane, program))(lane, *shared, *numbers)
    return TracedLane(jaxpr, lane, shared)
