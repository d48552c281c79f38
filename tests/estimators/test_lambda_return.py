"""The lambda-return: Monte Carlo at lambda = 1, one step at lambda = 0, and a number that never recompiles."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, Cell, Config, expected_update, stack, teachers, train
from jaxdistill.engine import xla
from jaxdistill.engine.tick import advance
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods.options import UpdateOptions, check_options
from jaxdistill.scheduling import block
from jaxdistill.theory.precision import float64
from tests import small
from tests.reference import Settings, Teacher, World, train_student

NAMES = [name for name, method in METHODS.items() if method.estimator is None]
OPTIONS = {"num_iterations": 150, "num_checkpoints": 3, "learning_rate": 0.3, "discount": 0.9}


def stacked(mdp, number):
    """A stack of equal worlds with ids of their own."""
    return stack([dataclasses.replace(mdp, id=jnp.int32(i)) for i in range(number)])


@pytest.fixture(scope="module")
def problem():
    """Worlds in which states share rows, with a teacher that has zeros."""
    mdp = small.random_mdp(2, aliased=True, starts=2)
    mdps = stacked(mdp, 4)
    return mdps, teachers.from_table(mdps, small.random_teacher(mdp, 0, deterministic_rows=1).probs)


def test_at_1_students_are_those_of_monte_carlo_bit_for_bit(problem):
    monte_carlo = train(jax.random.key(0), *problem, NAMES, estimator="mc", **OPTIONS)
    trace = train(jax.random.key(0), *problem, NAMES, estimator="lambda", trace_decay=1.0, **OPTIONS)
    for name in ("returns", "lengths", "logits", "values", "final_returns"):
        np.testing.assert_array_equal(getattr(trace, name), getattr(monte_carlo, name), name)


@pytest.mark.parametrize(("trace_decay", "estimator"), [(0.0, "td"), (1.0, "mc")])
@pytest.mark.parametrize("name", ["n_distill", "teacher_v_reward"])
def test_the_ends_in_expectation(name, trace_decay, estimator):
    """At 0 the expected update is that of the one-step target, at 1 that of Monte Carlo, to rounding."""
    mdp = small.random_mdp(1, aliased=True)
    logits, values = small.random_student(mdp, 1)
    with float64():
        student = jnp.asarray(logits, float), jnp.asarray(values, float)
        teacher = small.random_teacher(mdp, 1)
        trace = expected_update(mdp, teacher, name, *student, estimator="lambda", trace_decay=trace_decay)
        end = expected_update(mdp, teacher, name, *student, estimator=estimator)
    chex.assert_trees_all_close(trace, end, atol=1e-12)


def test_a_number_for_each_world_needs_one_program(problem, monkeypatch):
    """Worlds with other lambdas are those of separate runs; the engine is traced once."""
    traced_once = xla.compiled(donate=1)(chex.assert_max_traces(advance.fn, n=1))
    monkeypatch.setattr(block, "advance", traced_once)
    decays = np.array([0.0, 0.3, 0.9, 1.0])
    run = dict(methods="baseline", estimator="lambda", **OPTIONS)
    together = train(jax.random.key(0), *problem, trace_decay=decays, **run)
    for i, decay in enumerate(decays):
        alone = train(jax.random.key(0), *problem, trace_decay=decay, **run)
        np.testing.assert_array_equal(alone.logits[:, i], together.logits[:, i])
    assert len(np.unique(together.logits[0].reshape(4, -1), axis=0)) == 4


def test_mean_of_many_students_is_that_of_the_reference():
    """20 episodes of a small world, 400 students: mean tables agree within 4 standard errors (seed 0)."""
    mdp = small.random_mdp(3)
    world, uniform = World.of(mdp), Teacher(probs=[[1 / 3] * 3] * 4, values=[0.0] * 4)
    settings = Settings(
        "baseline", "lambda", "mean", learning_rate=0.5, value_learning_rate=0.5, discount=0.9, trace_decay=0.5
    )
    runs = [train_student(world, uniform, settings, 20, np.random.default_rng(i)) for i in range(400)]
    reference = np.stack([np.concatenate([run.logits, run.values[:, None]], axis=1) for run in runs])
    mdps = stacked(mdp, 400)
    result = train(
        jax.random.key(0), mdps, methods="baseline", estimator="lambda", trace_decay=0.5, learning_rate=0.5,
        value_learning_rate=0.5, discount=0.9, num_iterations=20, num_checkpoints=1,
    )  # fmt: skip
    engine = np.concatenate([result.logits[0], result.values[0][..., None]], axis=-1)
    error = np.sqrt((reference.var(0, ddof=1) + engine.var(0, ddof=1)) / 400)
    assert (np.abs(engine.mean(0) - reference.mean(0)) <= 4 * error + 1e-6).all()
    assert error.max() < 0.05


@pytest.mark.parametrize("name", ESTIMATORS)
def test_continuations_are_linear(name):
    """The exact side evaluates a continuation at two points only, which is right for a linear one."""
    options = UpdateOptions(estimator=name)
    rng = np.random.default_rng(0)
    a, b, target, value = rng.normal(size=4)
    continuation = ESTIMATORS[name].continuation
    both = continuation(options, a * target + b, a * value + b)
    parts = a * continuation(options, target, value) + b * continuation(options, 1.0, 1.0)
    assert both == pytest.approx(parts)


def test_a_number_without_an_effect_is_refused(problem):
    with pytest.raises(ValueError, match="trace_decay has an effect with estimator 'lambda' only; got estimator 'td'"):
        train(jax.random.key(0), *problem, "baseline", trace_decay=0.5)
    with pytest.raises(ValueError, match="trace_decay has an effect"):
        expected_update(problem[0][0], problem[1][0], "baseline", np.zeros((2, 3)), trace_decay=0.5)
    for trace_decay in (-0.1, 1.1, np.nan, "1"):
        with pytest.raises(ValueError, match="trace_decay must"):
            check_options(UpdateOptions(estimator="lambda", trace_decay=trace_decay))


def test_a_method_that_fixes_its_estimator_trains_beside_the_others(problem):
    """td_v0 keeps its one-step target, and the number of the other estimator is not an error there."""
    options = {"estimator": "lambda", "trace_decay": 0.5, **OPTIONS}
    both = train(jax.random.key(0), *problem, {"a": "td_v0", "b": "baseline"}, **options)
    alone = train(jax.random.key(0), *problem, {"a": Cell("td_v0")}, Config(**OPTIONS))
    np.testing.assert_array_equal(both.logits[0], alone.logits[0])
    assert both.settings["cells"]["a"]["config"]["estimator"] == "td"
