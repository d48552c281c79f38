"""A student that meets NaN or infinity stops alone, is named and averaged nowhere; extreme numbers are finite."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import jaxdistill
from jaxdistill import plotting, teachers
from jaxdistill.methods import losses

WORLDS = jaxdistill.sample_mdps(jax.random.key(0), 3, num_rows=4, num_cols=4, p_plus10=0.2)
TEACHER = teachers.optimal(WORLDS)
RATES = [0.1, 1e38, 0.1]  # the second student overflows
OPTIONS = dict(num_iterations=60, num_checkpoints=3, loss_weight=1e5)


def run(methods="on_policy_distill_r", **options):
    return jaxdistill.train(jax.random.key(1), WORLDS, TEACHER, methods, **OPTIONS | options)


def diverging(methods="on_policy_distill_r", **options):
    with pytest.warns(
        UserWarning, match=r"diverged, were stopped and are NaN.* in MDP 1 at iteration \d+.*learning_rate up to 1e\+38"
    ):
        return run(methods, learning_rate=RATES, **options)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_it_is_named_and_the_others_are_what_they_would_be(estimator):
    result, sane = diverging(estimator=estimator), run(estimator=estimator, learning_rate=0.1)
    (fault,) = result.faults
    assert (fault["method"], fault["mdp"]) == ("on_policy_distill_r", 1) and 1 < fault["iteration"] < 20
    for name in ("returns", "lengths", "final_returns", "logits", "values"):
        array = getattr(result, name)
        assert np.isnan(array[0, 1]).all(), name
        np.testing.assert_array_equal(array[0, ::2], getattr(sane, name)[0, ::2], name)


def test_it_stops_at_once():
    """It takes no step after the iteration that is named: the others' steps, and its own up to there."""
    result, sane = diverging(), run(learning_rate=0.1)
    alone = [run(learning_rate=0.1, num_iterations=60).settings["steps"]]
    assert result.settings["steps"] < sane.settings["steps"] == alone[0]


def test_the_iteration_does_not_depend_on_company_or_chunks(monkeypatch):
    expected = diverging().faults
    together = diverging(["on_policy_distill_r", "baseline", "teacher_distill"]).faults
    assert expected == [fault for fault in together if fault["method"] == "on_policy_distill_r"]
    monkeypatch.setattr("jaxdistill.scheduling.chunks._CHUNK_SECONDS", 1e-4)
    assert diverging().faults == expected


def test_with_an_optimizer_and_with_a_measure():
    huge = optax.sgd(lambda count: 1e38)

    def measure(mdps, teacher, policies):
        return {"largest": policies.max(axis=(-1, -2))}

    with pytest.warns(UserWarning, match="3 students diverged"):
        result = run(optimizer=huge, measure=measure)
    assert len(result.faults) == 3 and np.isnan(result.measure("largest")).all()


def losses_of_step(step):
    return losses.cross_entropy(student_logits=step.student_logits, teacher_probs=step.teacher_probs)


def test_a_loss_that_becomes_nan_is_that_methods_matter():
    """Another function of the same program: its zeros are not touched by the NaN beside them."""

    def broken(step):
        return jax.numpy.where(step.reward > 0, jax.numpy.nan, 1.0) * losses_of_step(step)

    mine = jaxdistill.Method("mine", loss=broken)
    with pytest.warns(UserWarning, match="mine in MDP"):
        result = run([mine, "baseline"], learning_rate=0.1)
    assert {fault["method"] for fault in result.faults} == {"mine"}
    assert np.isfinite(result.returns[1]).all()


def test_left_out_of_every_average_and_said():
    result = diverging()
    assert "1 of 3 MDPs are not finite and are left out" in str(result.summary())
    figure = result.plot()
    (text,) = figure.axes[0].texts
    assert text.get_text().splitlines()[-1] == "1 of 3 students left out"
    (text,) = plotting.plot_result(run(learning_rate=0.1)).axes[0].texts
    assert text.get_text().startswith("no band") and "left out" not in text.get_text()


def test_teachers_that_diverge_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Actor-critic diverged in 3 of 3 MDPs \(first: MDP 0 at iteration \d+\)"):
        teachers.actor_critic(jax.random.key(0), WORLDS, num_iterations=60, learning_rate=1e38, return_weight=1e38)


# --- The likely cause is what was seen -----------------------------------------------------------------------


def log_of_zero(step):
    """A loss that forgets the floor: the teacher is deterministic."""
    return -jax.numpy.sum(jax.nn.softmax(step.student_logits) * jax.numpy.log(step.teacher_probs))


def late_root(step):
    """A reward that is NaN once the student is nearly certain."""
    return jax.numpy.sqrt(0.5 - jax.numpy.max(jax.nn.softmax(step.frozen_logits)))


LARGE_REWARDS = dataclasses.replace(WORLDS, reward=np.full_like(WORLDS.reward, 3e38))
CAUSES = {
    "schedule": (
        dict(learning_rate=jaxdistill.Schedule((0, 5), (0.1, 3e38))),
        "the updates are too large because of learning_rate up to 1.2e+38; lower it",
    ),
    "function at once": (
        dict(methods=jaxdistill.Method("log of zero", loss=log_of_zero)),
        "a function of the method log of zero is NaN or infinite for an untrained student; look for log 0 and 0/0",
    ),
    "function later": (
        dict(methods=jaxdistill.Method("late root", loss=losses_of_step, reward=late_root)),
        "a function of the method late root became NaN or infinite while the parameters were small",
    ),
    "function with an optimizer": (
        dict(methods=jaxdistill.Method("log of zero", loss=log_of_zero), optimizer=optax.adam(0.01)),
        "a function of the method log of zero is NaN or infinite for an untrained student",
    ),
    "optimizer": (dict(optimizer=optax.sgd(1e38)), "the optimizer takes too large steps; lower its rate"),
    "learning_rate": (dict(learning_rate=1e38), "the updates are too large because of learning_rate up to 1e+38"),
    "value_learning_rate": (dict(value_learning_rate=1e12), "because of value_learning_rate up to 1e+12"),
    "loss_weight": (dict(loss_weight=3e38, learning_rate=1.0), "because of loss_weight up to 3e+38"),
    "return_weight": (dict(return_weight=3e38), "because of return_weight up to 3e+38"),
    "rewards": (dict(mdps=LARGE_REWARDS), "because of rewards up to 3e+38; scale them down"),
    "sum": (
        dict(reduction="sum", value_learning_rate=1.0, num_iterations=300),
        "an update is the sum over the steps of an episode; lower the learning rate or take reduction='mean'",
    ),
    "rate": (dict(value_learning_rate=20.0, num_iterations=300), "Likely cause: lower the learning rate."),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_likely_cause_is_named(name):
    options, cause = CAUSES[name]
    arguments = dict(mdps=WORLDS, methods="on_policy_distill_r", num_iterations=60, num_checkpoints=3) | options
    with pytest.warns(UserWarning, match="diverged") as warned:
        result = jaxdistill.train(jax.random.key(1), arguments.pop("mdps"), TEACHER, **arguments)
    text = str(warned[0].message)
    assert "Likely cause: " in text and cause in text and "\n" not in text and result.faults


def test_the_causes_of_several_methods_are_told_apart():
    cells = {
        "a": jaxdistill.Cell("on_policy_distill_r", changes={"learning_rate": 1e38}),
        "b": jaxdistill.Method("log of zero", loss=log_of_zero),
    }
    with pytest.warns(UserWarning, match=r"Likely causes: a: .*learning_rate.* b: a function of the method log"):
        run(cells)


def test_the_cause_of_a_teacher_that_diverges():
    with pytest.raises(ValueError, match=r"Q-learning diverged.*Likely cause: .* because of rewards"):
        teachers.q_learning(jax.random.key(0), LARGE_REWARDS, num_iterations=60, learning_rate=1.0, discount=1.0)


EXTREMES = {
    "logits of 1e4": dict(initial_logits=1e4 * np.eye(4, dtype=np.float32)[0]),
    "logits of -1e4": dict(initial_logits=-1e4 * np.eye(4, dtype=np.float32)[0]),
    "learning rate 1e3": dict(learning_rate=1e3, value_learning_rate=1.0),
    "discount 0": dict(discount=0.0),
    "discount 1": dict(discount=1.0),
    "floor 1e-30": dict(probability_floor=1e-30),
}


@pytest.mark.parametrize("estimator", ["td", "mc"])
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extremes_are_finite(extreme, estimator):
    methods = [m for m in jaxdistill.METHODS.values() if m.estimator in (None, estimator)]
    options = dict(num_iterations=60, num_checkpoints=3, estimator=estimator) | EXTREMES[extreme]
    result = jaxdistill.train(jax.random.key(1), WORLDS, TEACHER, methods, **options)
    for name in ("returns", "final_returns", "logits", "values"):
        assert np.isfinite(getattr(result, name)).all(), name


def test_floor_zero_is_refused_where_its_logarithm_is_taken_and_finite_elsewhere():
    with pytest.raises(ValueError, match="logarithm of a teacher probability that is 0; set probability_floor > 0"):
        run("entropy_regularised", probability_floor=0.0)
    result = jaxdistill.train(
        jax.random.key(1), WORLDS, TEACHER, "on_policy_distill", jaxdistill.Config(probability_floor=0), **OPTIONS
    )
    assert np.isfinite(result.logits).all()
