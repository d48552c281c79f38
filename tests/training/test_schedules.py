"""Numbers that change with the iteration: the engine holds them against constants and against the exact side."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill import Control, Method, Schedule
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.training import tasks
from tests import small
from tests.training.test_unbiased import WIDE

KEY = jax.random.key(0)
NUM_STUDENTS = 8000
JUMP = {"loss_weight": (5.0, 0.7), "return_weight": (-3.0, 1.3), "discount": (0.1, 0.9), "trace_decay": (0.0, 0.6)}


def weighted_loss(step):
    return step.params["weight"] * -jnp.sum(step.teacher_probs * step.student_log_probs)


def weighted_reward(step):
    return step.params["weight"] * step.teacher_log_prob


def methods_with_schedules():
    """A method whose every number jumps between iterations 0 and 1, played step by step and episode by episode."""
    jump = Schedule((0, 1), (9.0, 0.8))
    weights = {"student": Schedule((0, 1), (0.0, 0.5)), "teacher": Schedule((0, 1), (1.0, 0.3))}
    weights["uniform"] = Schedule((0, 1), (0.0, 0.2))
    make = {per: Control(**weights, per=per) for per in ("step", "episode")}
    return [
        Method(f"own/{per}", loss=weighted_loss, next_reward=weighted_reward, control=q, params={"weight": jump})
        for per, q in make.items()
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mean_of_sampled_updates_is_the_exact_update_of_the_second_iteration(estimator):
    """The rates are 0 in iteration 0, so that all students begin iteration 1 with the same tables.

    A number of iteration 0 that is used in iteration 1, or the other way round, shows: they differ by far. The entries
    agree within 4 standard errors, at a fixed seed.
    """
    mdp = small.random_mdp(2, aliased=True)
    teacher = small.random_teacher(mdp, 0)
    logits, values = small.random_student(mdp, 0)
    numbers = {name: pair for name, pair in JUMP.items() if name != "trace_decay" or estimator == "lambda"}
    changes = {name: Schedule((0, 1), pair) for name, pair in numbers.items()}
    rates = dict.fromkeys(("learning_rate", "value_learning_rate"), Schedule((0, 1), (0, 1)))
    copies, copied_teachers = jax.tree.map(lambda x: jnp.repeat(x[None], NUM_STUDENTS, axis=0), (mdp, teacher))
    copies = dataclasses.replace(copies, id=jnp.arange(NUM_STUDENTS, dtype=jnp.int32))
    methods = methods_with_schedules()
    with mock.patch.object(tasks, "lane_width", lambda *_: WIDE):
        result = jd.train(
            KEY, copies, copied_teachers, methods, num_iterations=2, num_checkpoints=1, estimator=estimator,
            initial_logits=logits, initial_values=values, **changes, **rates,
        )  # fmt: skip
    for p, method in enumerate(methods):
        update = np.concatenate([result.logits[p] - logits, (result.values[p] - values)[..., None]], -1)
        update = update.astype(np.float64)
        options = {name: pair[1] for name, pair in numbers.items()}
        exact = jd.expected_update(mdp, teacher, method.at(1), logits, values, estimator=estimator, **options)
        exact = np.concatenate([exact.logits, np.asarray(exact.values)[:, None]], axis=1)
        standard_error = update.std(0, ddof=1) / np.sqrt(NUM_STUDENTS)
        assert (np.abs(update.mean(0) - exact) <= 4 * standard_error + 2e-6).all(), method.name
        assert standard_error.max() < 0.25 * np.abs(exact).max(), "it could not fail"


WORLDS = jd.sample_mdps(KEY, 3, num_rows=4, num_cols=4)
TEACHER = jd.teachers.optimal(WORLDS)


def tables(methods, **changes):
    result = jd.train(KEY, WORLDS, TEACHER, methods, num_iterations=60, num_checkpoints=2, **changes)
    return np.concatenate([result.logits, result.values[..., None]], axis=-1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_schedules_give_the_bits_of_the_numbers(estimator):
    methods = ["baseline", "n_distill", "teacher_distill"]
    numbers = {"discount": 0.9, "loss_weight": 0.7, "learning_rate": 0.3}
    constant = {name: Schedule((3,), (number,)) for name, number in numbers.items()}
    np.testing.assert_array_equal(
        tables(methods, estimator=estimator, **numbers), tables(methods, estimator=estimator, **constant)
    )


def test_schedules_share_one_program_and_keep_apart():
    """Each student's numbers are those of its training alone, and one task trains all."""
    made = [Schedule((0, 30), (x, 1.0)) for x in (0.1, 0.5, 2.0, 1.0)]
    cells = {str(i): jd.Cell("n_distill", changes={"loss_weight": x}) for i, x in enumerate(made)}
    with mock.patch.object(tasks, "_make_task", wraps=tasks._make_task) as make:
        together = tables(cells)
    assert make.call_count == 2  # one task for the sizes of the first updates, and one that trains
    for i, (label, cell) in enumerate(cells.items()):
        np.testing.assert_array_equal(together[i], tables({label: cell})[0])
    assert not np.array_equal(together[0], together[1])


def test_results_hold_schedules_as_data(tmp_path):
    method = jd.ZOO["jsd"].with_params(beta=lambda i: 0.2 + i / 400)
    result = jd.train(KEY, WORLDS, TEACHER, method, num_iterations=60, learning_rate=Schedule((0, 50), (0.2, 0)))
    saved = jd.load(result.save(tmp_path / "run.npz"))
    (cell,) = saved.settings["cells"].values()
    assert cell["config"]["learning_rate"] == {"iterations": [0, 50], "values": [0.2, 0.0]}
    assert len(cell["params"]["beta"]["values"]) == 60
