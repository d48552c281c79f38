"""The kernel, compiled as C, agrees with XLA's engine: leaf by leaf, one tick at a time from XLA's own lanes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import METHODS, Control, Schedule
from jaxdistill.engine.lanes import extract
from jaxdistill.engine.rules import q_learning_rule
from jaxdistill.engine.tick import advance
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods import Method
from jaxdistill.methods.zoo import ZOO
from tests.kernels.agreement import (
    UNITS,
    WORLDS,
    by_lane,
    check_agreement,
    check_tick,
    kernel_of,
    lanes_of,
    lanes_with_other_integers,
    task_of,
    until_of,
    worlds_of,
)
from tests.training.test_unbiased import MIXTURES, groups

PAPER = [METHODS[name] for name in ("baseline", "on_policy_distill", "on_policy_distill_r")]
NEXT = [METHODS[name] for name in ("n_distill", "exp_entropy_regularised")]  # rewards that the next action decides
BATTERY = METHODS | MIXTURES


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_worlds(kind, estimator):
    mdps, teachers = worlds_of(kind)
    _, status, _ = check_agreement(task_of(PAPER if estimator == "td" else NEXT, mdps, teachers, estimator=estimator))
    assert status[1].min() > 10  # every lane took steps


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("names", "estimator"), groups(), ids=lambda x: x if isinstance(x, str) else x[0])
def test_methods_of_the_paper_and_mixed_controls(names, estimator):
    mdps, teachers = worlds_of("aliased")
    check_agreement(task_of([BATTERY[name] for name in names], mdps, teachers, estimator=estimator))


def zoo():
    """(name, estimator); the lambda-return runs the code of Monte Carlo, and the other tests have it."""
    return [(name, e) for name, method in ZOO.items() for e in ("td", "mc") if method.estimator in (None, e)]


# Their functions compute with larger numbers than a lane holds: the exponential of a log ratio, or a reward that is
# divided by its small standard deviation.
AMPLIFIED = {"k3_return": 16, "k3_reward": 16, "k3_loss": 16, "k1_reward_whitened": 16}


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("name", "estimator"), zoo())
def test_zoo(name, estimator):
    mdps, teachers = worlds_of("by_state", num_others=2)
    check_agreement(task_of([ZOO[name]], mdps, teachers, estimator=estimator), units=AMPLIFIED.get(name, UNITS))


OPTIONS = {
    "truncation": {"truncation": "end"},
    "sum": {"reduction": "sum", "learning_rate": 0.05, "value_learning_rate": 0.05},
    "fixed": {"reduction": "fixed", "fixed_length": 5.0},
    "once-every": {"loss_visits": "once"},
    "every-once": {"return_visits": "once"},
    "once-once": {"loss_visits": "once", "return_visits": "once"},
    "schedules": {
        "learning_rate": optax.warmup_cosine_decay_schedule(0.1, 0.5, 5, 50),
        "value_learning_rate": optax.piecewise_constant_schedule(0.3, {3: 0.5, 6: 0.1}),
        "loss_weight": Schedule((0, 10), (1.0, 0.2)),
        "discount": Schedule((0, 20), (0.5, 0.9)),
    },
    "weights": {"loss_weight": 0.7, "return_weight": 1.3, "probability_floor": 0.01},
}


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("options", OPTIONS)
def test_options(options, estimator):
    more = {"trace_decay": 0.6} if estimator == "lambda" else {}
    mdps, teachers = worlds_of("limited")
    lanes, *_ = check_agreement(task_of(NEXT, mdps, teachers, estimator=estimator, **OPTIONS[options], **more))
    assert np.asarray(lanes.state.truncated).sum() > 100


def log_loss(step):
    """Reads the entry of the action by its number, so that its gradient is a scatter; and loops over the actions."""
    scale = jax.lax.fori_loop(0, 3, lambda a, total: total + step.teacher_probs[a] * a, jnp.float32(0.5))
    probs = jnp.exp(step.student_log_probs)
    return -step.student_log_probs[step.action] * scale + probs @ probs


def odd_reward(step):
    """A reward with a branch, a power and a matrix."""
    table = jnp.outer(step.student_logits, step.teacher_probs)
    bonus = jax.lax.cond(step.reward > 0, lambda x: x**3, lambda x: jnp.tanh(x) - 1, step.reward)
    return (
        bonus + step.params["weight"] * table[step.action, 1] + jnp.argmax(step.teacher_probs).astype(jnp.float32) * 0.1
    )


USER_METHOD = Method(
    "user", loss=log_loss, reward=odd_reward, next_reward=lambda step: jnp.cumsum(step.student_logits)[step.action],
    params={"weight": 0.8}, control=Control(student=0.6, teacher=0.2, uniform=0.2, per="episode"), bootstrap="teacher",
)  # fmt: skip


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("estimator", ["td", "lambda"])
def test_functions_of_a_user(estimator):
    mdps, teachers = worlds_of("by_state")
    check_agreement(task_of([USER_METHOD], mdps, teachers, estimator=estimator))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("params", [{"epsilon": 0.2}, {"temperature": 0.5}], ids=lambda x: next(iter(x)))
def test_q_learning(params):
    mdps, teachers = worlds_of("grid")
    method = Method("q", params=params, estimator="td", baseline=False, needs_teacher=False)
    check_agreement(task_of([method], mdps, teachers, q_learning_rule, num_checkpoints=1))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_a_student_that_is_not_finite_stops_in_the_same_tick(estimator):
    """One entry of the third row is NaN in every lane; most come to it, at different times."""
    mdps, teachers = worlds_of("limited")
    task = task_of(PAPER, mdps, teachers, estimator=estimator)
    lanes = lanes_of(task)
    broken = lanes.tables.rows[0].at[2 :: task.worlds.num_observations, 1].set(jnp.nan)
    tables = dataclasses.replace(lanes.tables, rows=(broken, *lanes.tables.rows[1:]))
    _, status, _ = check_agreement(task, dataclasses.replace(lanes, tables=tables))
    assert len(set(status[2])) > 3


@pytest.fixture(scope="module", params=["td", "mc"])
def small_task(compiler, request):
    mdps, teachers = worlds_of("limited")
    return task_of(NEXT, mdps, teachers, estimator=request.param)


def run(kernel, task, lanes, until, *chunks):
    for num_ticks in chunks:
        lanes, status = kernel(lanes, task.worlds, task.teachers, task.schedules, task.num_iterations, until, num_ticks)
    return lanes, status


def assert_same(ours, theirs, width):
    for (name, x), (_, y) in zip(by_lane(ours, width), by_lane(theirs, width), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def test_chunks_and_company_change_nothing(small_task):
    task, kernel = small_task, kernel_of(small_task)
    lanes, width = jax.device_get(lanes_of(task)), task.program.num_lanes
    together, _ = run(kernel, task, lanes, until_of(task), 100)
    assert_same(run(kernel, task, lanes, until_of(task), 1, 60, 39)[0], together, width)

    def only(tree, lane):
        return jax.tree.map(lambda x: x.reshape(width, -1, *x.shape[1:])[lane], tree)

    for lane in (0, width - 1):
        alone, _ = run(kernel, task, only(lanes, lane), until_of(task)[:1], 100)
        assert_same(alone, only(together, lane), 1)


def test_a_lane_that_is_done_leaves_the_loop(small_task):
    """It stays as it is, its table is that of a lane that ticks on, and it goes on where it was."""
    task, kernel, program = small_task, kernel_of(small_task), small_task.program
    lanes, width = jax.device_get(lanes_of(task)), program.num_lanes
    until = np.resize(np.array([3, 5, 0], np.int32), width)
    paused, status = run(kernel, task, lanes, until, 300)
    np.testing.assert_array_equal(status[0], until)
    assert status[3].all()
    assert_same(run(kernel, task, paused, until, 50)[0], paused, width)
    every_lane = np.arange(width, dtype=np.int32)
    tables = jax.device_get(extract(program, paused, every_lane))
    copies = jax.tree.map(jnp.array, paused)
    ticked, _ = advance(
        program, copies, task.worlds, task.teachers, task.schedules, np.int32(1000), until, np.int32(50)
    )
    assert_same(extract(program, ticked, every_lane), tables, width)
    later = np.full(width, 9, np.int32)
    at_once, _ = run(kernel, task, lanes, later, 600)
    in_two, _ = run(kernel, task, paused, later, 600)
    assert_same(extract(program, in_two, every_lane), extract(program, at_once, every_lane), width)


def test_the_comparison_can_fail(small_task):
    """A draw that is moved by 0.05 and an error of 8 units are refused; a draw that is moved by 1e-7 is not."""
    task, lanes = small_task, jax.device_get(lanes_of(small_task))
    ours, _ = run(kernel_of(task), task, lanes, until_of(task), 20)
    after, _ = run(kernel_of(task, 1e-7), task, lanes, until_of(task), 20)
    assert check_tick(task, lanes, after, ours, num_ticks=20) == 0
    moved, _ = run(kernel_of(task, 0.05), task, lanes, until_of(task), 20)
    assert lanes_with_other_integers(moved, ours, task.program.num_lanes).any()
    with pytest.raises(AssertionError, match="integers differ"):
        check_tick(task, lanes, ours, moved, num_ticks=20)
    rows = ours.tables.rows[0].copy()
    rows[:, 0] *= 1 + 2.0**-12
    off = dataclasses.replace(ours, tables=dataclasses.replace(ours.tables, rows=(rows, *ours.tables.rows[1:])))
    with pytest.raises(AssertionError, match="units in the last place"):
        check_tick(task, lanes, off, ours, num_ticks=20)
