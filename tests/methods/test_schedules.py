"""Schedules as data: their values, their text, and what is refused, in one line each."""

import jax
import numpy as np
import optax
import pytest

import jaxdistill as jd
from jaxdistill import Control, Schedule
from jaxdistill.methods import episodes, schedules
from jaxdistill.methods.options import UpdateOptions, check_options

FALL = Schedule((10, 20), (1.0, 0.0))


def test_values_are_linear_between_the_given_ones_and_constant_beyond():
    assert [FALL.at(i) for i in (0, 10, 15, 20, 1000)] == [1, 1, 0.5, 0, 0]
    np.testing.assert_array_equal(FALL.at(np.array([[10, 12]])), [[1, 0.8]])
    assert Schedule(np.array([0, 5]), [1, 2]) == Schedule((0, 5), (1.0, 2.0))


@pytest.mark.parametrize(
    ("iterations", "values", "message"),
    [
        ((), (), "needs values at one iteration or more"),
        ((0, 1), (1,), "got 2 iterations and 1 values"),
        ((1, 0), (1, 2), "must increase"),
        ((0, 0), (1, 2), "must increase"),
        ((-1,), (1,), "whole number"),
        ((0.5,), (1,), "whole number"),
        ((0,), (np.nan,), "finite"),
        ((0,), ("x",), "real numbers"),
        ((0,), ([1, 2],), "finite numbers"),
    ],
)
def test_a_schedule_that_is_none(iterations, values, message):
    with pytest.raises(ValueError, match=message) as error:
        Schedule(iterations, values)
    assert "\n" not in str(error.value)


def test_the_text_of_a_number():
    assert schedules.parse("0.25") == 0.25
    assert schedules.parse("10:1,20:0") == FALL
    for text in ("x", "10:1,", "10:1,5:0", "a:1", "1:2:3", ""):
        with pytest.raises(ValueError, match="iteration:value pairs"):
            schedules.parse(text)


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_a_function_is_sampled_at_every_iteration(number):
    function = optax.cosine_decay_schedule(1.0, 500)
    sampled = schedules.sampled("x", function, number)
    iterations = np.arange(number)
    expected = np.asarray([function(i) for i in iterations])
    np.testing.assert_allclose(sampled.at(iterations), expected, rtol=1e-6, atol=1e-7)
    assert len(sampled.iterations) <= 503  # the constant stretch after iteration 500 needs its ends only


def test_a_function_over_more_iterations_than_are_sampled(monkeypatch):
    monkeypatch.setattr(schedules, "_MOST_SAMPLES", 11)
    sampled = schedules.sampled("x", lambda i: 2.0 * i, 1001)
    assert sampled.iterations == tuple(range(0, 1001, 100))
    assert sampled.at(150) == 300


@pytest.mark.parametrize("field", ["learning_rate", "discount", "loss_weight", "fixed_length"])
def test_a_configuration_names_the_iteration_at_which_a_number_is_wrong(field):
    changes = {"reduction": "fixed"} if field == "fixed_length" else {}
    for value in (Schedule((0, 7), (1, np.float32(-1e30))), lambda i: jax.numpy.where(i < 7, 1.0, -1e30)):
        if field == "loss_weight":
            assert jd.Config(num_iterations=10, **{field: value})
        else:
            with pytest.raises(ValueError, match=rf"^{field} must be .*; its schedule is -1e\+30 at iteration 7\.$"):
                jd.Config(num_iterations=10, **{field: value}, **changes)
    with pytest.raises(ValueError, match=rf"^{field} must be finite; its schedule is inf at iteration 3\.$"):
        jd.Config(num_iterations=10, **{field: lambda i: 1.0 / abs(i - 3.0)}, **changes)


def test_a_single_update_takes_no_schedule():
    with pytest.raises(ValueError, match="loss_weight must be one number here"):
        check_options(UpdateOptions(loss_weight=FALL))


def test_numbers_of_a_method():
    method = jd.ZOO["jsd"].with_params(beta=Schedule((0, 100), (0.1, 0.9)))
    assert method.name == "jsd:beta=schedule" and method.scheduled == ("beta",)
    assert method.at(50).params["beta"] == 0.5 and not method.at(50).scheduled
    with pytest.raises(ValueError, match=r"beta must be .*; its schedule is 2 at iteration 100"):
        jd.ZOO["jsd"].with_params(beta=Schedule((0, 100), (0.5, 2)))
    late = jd.ZOO["jsd"].with_params(beta=lambda i: 0.5 + i / 8)
    with pytest.raises(ValueError, match=r"beta must be .*; its schedule is 1 at iteration 4\."):
        late.with_sampled_functions(10)


def test_a_control_policy_that_changes():
    control = Control(student=Schedule((0, 100), (0, 1)), teacher=Schedule((0, 100), (1, 0)))
    assert control.at(25) == Control(student=0.25, teacher=0.75)
    assert control.is_scheduled and not control.is_student and control.knots == [0, 100]
    with pytest.raises(ValueError, match=r"sum to 1; got .* at iteration 100"):
        Control(student=Schedule((0, 100), (0, 1)), teacher=Schedule((0, 100), (1, 1)))


def test_a_teacher_that_acts_alone_at_some_iteration_must_end_its_episodes():
    """The optimal teacher of a world without ends is refused wherever it acts alone."""
    mdps = jd.garnet.garnet(jax.random.key(0), 1)
    control = Control(student=Schedule((0, 100), (1, 0)), teacher=Schedule((0, 100), (0, 1)))
    method = jd.Method("late", loss=jd.METHODS["n_distill"].loss, control=control)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "never_ending_state", lambda *args: calls.append(len(args)))
        episodes.check_episodes_end(method, mdps, jd.teachers.uniform(mdps))
    assert calls == [1, 2]


def test_the_exact_side_needs_one_iteration():
    mdp = jd.sample_mdps(jax.random.key(0), 1, num_rows=3, num_cols=3)[0]
    teacher = jd.teachers.uniform(jd.stack([mdp]))[0]
    method = jd.ZOO["jsd"].with_params(beta=Schedule((0, 100), (0.1, 0.9)))
    logits = np.zeros((mdp.num_observations, mdp.num_actions))
    with pytest.raises(ValueError, match=r"changes with the iteration \(beta\).*method\.at\(0\)"):
        jd.expected_update(mdp, teacher, method, logits)
    assert jd.expected_update(mdp, teacher, method.at(50), logits)
