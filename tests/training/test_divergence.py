"""A student that meets NaN or infinity stops alone, is named and averaged nowhere; extreme numbers are finite."""

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
        UserWarning, match=r"diverged, were stopped and are NaN.* in MDP 1 at iteration \d+.*learning rate"
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


def test_a_loss_that_becomes_nan_is_that_methods_matter():
    """Another function of the same program: its zeros are not touched by the NaN beside them."""

    def broken(step):
        loss = losses.cross_entropy(student_logits=step.student_logits, teacher_probs=step.teacher_probs)
        return jax.numpy.where(step.reward > 0, jax.numpy.nan, 1.0) * loss

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
        jax.random.key(1), WORLDS, TEACHER, "on_policy_distill", **OPTIONS | {"probability_floor": 0}
    )
    assert np.isfinite(result.logits).all()
