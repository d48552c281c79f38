"""The compiled C beside XLA's engine, one tick at a time from the same lanes."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import from_text
from jaxdistill.engine import threefry
from jaxdistill.engine.lanes import empty, load, settle
from jaxdistill.engine.tick import advance
from jaxdistill.kernels.lane import is_done, trace
from jaxdistill.kernels.native import NativeKernel
from jaxdistill.kernels.translation import translate
from jaxdistill.teachers.tabular import with_others
from jaxdistill.training.config import config_of, resolve_cell
from jaxdistill.training.tasks import make_tasks
from jaxdistill.worlds.corridor import chain
from jaxdistill.worlds.garnet import garnet
from tests import small

UNITS = 4  # in the last place of the largest number that a lane computes with
DRAW = 1e-6  # integers may differ where a uniform draw is so near to a threshold
RATES = {"learning_rate": 0.4, "value_learning_rate": 0.2, "discount": 0.9, "num_iterations": 1000}
WORLDS = {
    "grid": lambda k: from_text(["S.-..", ".#.x.", "..n.-", "-...+"], termination_prob=0.1),
    "corridor": lambda k: chain(5),
    "garnet": lambda k: garnet(jax.random.key(k), 1, num_states=6, num_actions=4)[0],
    "aliased": lambda k: small.random_mdp(k, num_states=6, aliased=True, starts=3),
    "by_state": lambda k: small.random_mdp(k, num_states=5, by_state=True, num_outcomes=5),
    "limited": lambda k: small.random_mdp(k, num_states=6).with_time_limit(1 + k % 4),
    "2 features": lambda k: small.random_mdp(k, num_states=4).with_features([[0, 1], [1, 2], [2, -1], [0, 3]]),
    "4 features": lambda k: (
        small.random_mdp(k, num_states=4)
        .with_time_limit(3 + k % 4)
        .with_features([[0, 1, 2, 3], [1, 4, -1, -1], [0, 4, 5, 2], [3, 2, 1, 5]])
    ),
    "wide": lambda k: small.random_mdp(k, num_states=4, num_actions=9, num_outcomes=2),
}


def stacked(items):
    return jax.tree.map(lambda *x: jnp.stack(x), *items)


def worlds_of(kind, number=8, num_others=0):
    """Worlds of a kind, and a teacher with so many further policies for each."""
    worlds = [WORLDS[kind](k) for k in range(number)]
    teachers = [small.random_teacher(world, k, deterministic_rows=1) for k, world in enumerate(worlds)]
    if num_others:
        others = [[small.random_teacher(w, k + 50 * n) for n in range(1, num_others + 1)] for k, w in enumerate(worlds)]
        teachers = [with_others(teacher, *more) for teacher, more in zip(teachers, others, strict=True)]
    mdps = stacked(worlds)
    return dataclasses.replace(mdps, id=jnp.arange(number, dtype=jnp.int32)), stacked(teachers)


def task_of(methods, mdps, teachers, make_rule=None, **changes):
    """The one task of the students of `methods` on every world, all of whose students are in lanes at once."""
    config = config_of(None, RATES | changes)
    more = () if make_rule is None else (make_rule,)
    cells = [resolve_cell(m.name, m, teachers, config, *more) for m in methods]
    (task,) = make_tasks(jax.random.key(1), mdps, cells, np.ones(mdps.num_mdps), lambda *_: None)
    return dataclasses.replace(task, program=dataclasses.replace(task.program, num_lanes=len(task.cost)))


def lanes_of(task):
    """Every student in its lane, with tables that are not zero."""
    program, worlds, width = task.program, task.worlds, task.program.num_lanes
    shape = (width, worlds.num_observations, program.rule.num_params)
    initial = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    lanes = empty(program, worlds, task.blank_students(width))
    return load(program, lanes, worlds, np.ones(width, bool), task.students, np.arange(width, dtype=np.int32), initial)


def kernel_of(task, shift=0.0):
    """The kernel of a task, with every uniform draw moved by `shift`."""
    uniform = threefry.uniform
    moved = mock.patch.object(threefry, "uniform", lambda bits: jnp.clip(uniform(bits) + shift, 0, 1 - 2.0**-23))
    with moved if shift else mock.MagicMock():
        return NativeKernel(translate(trace(task.program, task.worlds, task.teachers, task.schedules, task.students)))


def by_lane(tree, width):
    """[(name, array [W, n])] of the leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return [(jax.tree_util.keystr(path), np.asarray(leaf).reshape(width, -1)) for path, leaf in leaves]


def lanes_with_other_integers(ours, theirs, width):
    """bool [W]: lanes in which an integer or a truth value differs."""
    other = np.zeros(width, bool)
    for (_, x), (_, y) in zip(by_lane(ours, width), by_lane(theirs, width), strict=True):
        if x.dtype != np.float32:
            other |= (x != y).any(axis=1)
    return other


def largest_numbers(task, before, after):
    """[W]: the largest number in the rows that a tick changed, in the estimator's work, and in the options."""
    rule, width = task.program.rule, task.program.num_lanes
    largest = np.zeros(width)
    pairs = zip(by_lane(before, width), by_lane(after, width), strict=True)
    for (name, old), (_, new) in pairs:
        if new.dtype != np.float32 or not any(part in name for part in ("tables.rows", "state.work", "options")):
            continue
        size = np.maximum(np.abs(old), np.abs(new))
        if "tables.rows" in name:
            rows = (width, -1, rule.width)
            changed = (old != new).reshape(rows).any(-1)[..., None]
            is_number = np.arange(rule.width) != rule.num_params  # the entry after the parameters counts iterations
            size = np.where(changed & is_number, size.reshape(rows), 0).reshape(width, -1)
        largest = np.fmax(largest, np.where(np.isfinite(size), size, 0).max(axis=1))
    return largest


def check_tick(task, before, ours, theirs, num_ticks=1, units=UNITS):
    """Raises AssertionError unless the two lanes after a tick agree; returns the largest error, in units.

    A lane that was done before stays as it is in C, and XLA brings its row up to date. In C a lane that stops settles
    its rows.
    """
    width = task.program.num_lanes
    done = np.asarray(is_done(task.program, before.state, until_of(task)))
    theirs = with_settled(task, theirs, np.asarray(is_done(task.program, theirs.state, until_of(task))))
    for (name, x), (_, y) in zip(by_lane(ours, width), by_lane(before, width), strict=True):
        np.testing.assert_array_equal(x[done], y[done], err_msg=name)
    other = lanes_with_other_integers(ours, theirs, width) & ~done
    for shift in (DRAW, -DRAW) if other.any() else ():
        moved, _ = kernel_of(task, shift)(
            before, task.worlds, task.teachers, task.schedules, 1000, until_of(task), num_ticks
        )
        other &= lanes_with_other_integers(moved, theirs, width)
    assert not other.any(), f"integers differ in the lanes {np.flatnonzero(other)}, and no draw is near a threshold"
    compared = ~lanes_with_other_integers(ours, theirs, width) & ~done
    unit = np.spacing(largest_numbers(task, before, theirs).astype(np.float32)).astype(float)[:, None]
    most = 0.0
    for (name, x), (_, y) in zip(by_lane(ours, width), by_lane(theirs, width), strict=True):
        if x.dtype == np.float32:
            x, y = x[compared], y[compared]
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            with np.errstate(invalid="ignore"):
                error = np.where(same, 0, np.abs(x.astype(float) - y) / unit[compared])
            assert (error <= units).all(), f"{name} differs by {error.max()} units in the last place"
            most = max(most, error.max())
    return most


def with_settled(task, lanes, mask):
    """The lanes with the rows of those in the mask settled, by XLA."""
    if not mask.any():
        return lanes
    settled, width = settle(task.program, jax.tree.map(jnp.array, lanes)), task.program.num_lanes

    def chosen(new, old):
        table = np.asarray(old).reshape(width, -1).copy()
        table[mask] = np.asarray(new).reshape(width, -1)[mask]
        return table.reshape(old.shape)

    return jax.tree.map(chosen, settled, lanes)


def until_of(task):
    return np.full(task.program.num_lanes, task.num_iterations - 1, np.int32)


def check_agreement(task, lanes=None, num_ticks=60, units=UNITS):
    """Ticks of C and of XLA from XLA's own lanes agree; returns XLA's lanes, their status and the largest error."""
    kernel, lanes, most = kernel_of(task), lanes or lanes_of(task), 0.0
    numbers = np.int32(task.num_iterations), until_of(task), np.int32(1)
    for _ in range(num_ticks):
        before = jax.device_get(lanes)
        ours, our_status = kernel(before, task.worlds, task.teachers, task.schedules, *numbers)
        lanes, status = advance(task.program, lanes, task.worlds, task.teachers, task.schedules, *numbers)
        most = max(most, check_tick(task, before, ours, lanes, units=units))
        assert (our_status == status).all(axis=0).mean() > 0.9
    return lanes, np.asarray(status), most
