"""The argument `measure` of `train`: names, functions, lists and mappings."""

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill import Config, measures, teachers, train
from jaxdistill.mdp import exact
from jaxdistill.worlds.gridworld import sample_mdps
from tests import small

KEY = jax.random.key(0)
OPTIONS = dict(num_iterations=40, num_checkpoints=4, progress=False)
NAMES = ["forward_kl", "forward_kl:teacher:sum", "return", "length", "discounted_return", "reverse_kl:floor"]


def policies_of(mdps, logits):
    return exact.policy_from_table(mdps, np.asarray(jax.nn.softmax(logits)))


def by_function(mdps, teacher, policies):
    """The first three of `NAMES`, written with `exact`."""
    kl = (teacher.probs * (jax.numpy.log(teacher.probs) - jax.numpy.log(policies))).sum(-1)

    def total(policy):
        return exact.start_value(mdps, exact.expected_sum(mdps, policy, kl))

    length = exact.start_value(mdps, exact.expected_length(mdps, policies))
    return {
        "mean": total(policies) / length,
        "sum": total(teacher.probs),
        "value": exact.episode_return(mdps, policies),
    }


@pytest.fixture(scope="module")
def setting():
    mdps = sample_mdps(jax.random.key(3), 3, num_rows=5, num_cols=5)
    rng = np.random.default_rng(0)
    return mdps, teachers.from_table(mdps, rng.dirichlet(np.ones(4), (3, 25)))


@pytest.fixture(scope="module")
def result(setting):
    return train(
        KEY, *setting, ["on_policy_distill", "teacher_distill"], measure=[*NAMES, by_function], discount=0.9, **OPTIONS
    )


def test_names_and_functions_agree_at_every_checkpoint(result):
    assert result.measure_names[:2] == ("forward_kl:student", "forward_kl:teacher:sum")
    for name, function in zip(NAMES, ("mean", "sum", "value"), strict=False):
        np.testing.assert_allclose(result.measure(name), result.measure(function), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(result.measure("return")[1], result.returns[1])  # the curve is exact
    np.testing.assert_array_equal(result.measure("length")[1], result.lengths[1])
    np.testing.assert_array_equal(result.measure("return")[..., -1], result.final_returns)
    assert np.isfinite(result.measurements).all()


def test_the_last_checkpoint_is_the_final_student(setting, result):
    mdps, teacher = setting
    for p in range(2):
        policies = policies_of(mdps, result.logits[p])
        values = measures.evaluate(NAMES, mdps, policies, teacher, discount=0.9)
        for name, value in values.items():
            np.testing.assert_allclose(result.final(name)[p], value, rtol=1e-5, atol=1e-6)


def test_measuring_changes_no_student(setting, result):
    plain = train(KEY, *setting, ["on_policy_distill", "teacher_distill"], Config(discount=0.9), **OPTIONS)
    for name in ("logits", "values"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(result, name))
    np.testing.assert_array_equal(plain.returns[0], result.returns[0])  # sampled
    for name in ("returns", "lengths", "final_returns"):  # JAX 0.10 rounds exact numbers otherwise beside other ones
        np.testing.assert_allclose(getattr(plain, name), getattr(result, name), rtol=1e-12)


def test_many_checkpoints_are_those_of_few(setting):
    """With many students of a world their measures are computed by the planned elimination."""
    options = OPTIONS | {"num_checkpoints": 40}
    many = train(KEY, *setting, "teacher_distill", measure=NAMES, **options)
    few = train(KEY, *setting, "teacher_distill", measure=NAMES, **OPTIONS)
    np.testing.assert_array_equal(many.logits, few.logits)
    np.testing.assert_allclose(many.measurements[:, :, 9::10], few.measurements, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(many.returns[:, :, 9::10], few.returns, rtol=1e-8, atol=1e-10)


def test_names_of_the_users_own_and_numbers_of_the_configuration(setting):
    mapping = {
        "a": "reverse_kl:floor",
        "b": "discounted_return",
        "c": lambda mdps, teacher, policies: mdps.continue_prob,
    }
    options = OPTIONS | {"discount": 0.8, "probability_floor": 0.01}
    # Neither option has an effect on the method, but each has one on a measure.
    result = train(KEY, *setting, "teacher_distill", measure=mapping, **options)
    assert result.measure_names == ("a", "b", "c")
    assert result.settings["measures"] == {
        "a": "reverse_kl:student:floor=0.01",
        "b": "discounted_return:discount=0.8",
    }
    np.testing.assert_array_equal(result.measure("a"), result.measure("reverse_kl:floor=0.01"))
    assert result.describe("a").better == "lower" and result.describe("c").better == ""
    assert (result.measure("c") == setting[0].continue_prob[0]).all()


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("forwrd_kl", "did you mean 'forward_kl'"),
        (["return", "forward_kl:techer"], "did you mean 'teacher'"),
        (["forward_kl", "forward_kl:student"], "Two measures are called 'forward_kl:student'"),
        ({"a": 3}, "names of measures"),
        ({"": "return"}, "names of one line"),
        ({1: "return"}, "names of one line"),
        ([], "measure is empty"),
        ({"a": lambda m, t, p: {"x": m.continue_prob, "y": m.continue_prob}}, "must return one number"),
        (lambda m, t, p: {"x": p}, "measure must return"),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(setting, measure, message):
    with pytest.raises(ValueError, match=message) as error:
        train(KEY, *setting, "n_distill", measure=measure, **OPTIONS)
    assert "\n" not in str(error.value)


def test_a_measure_of_the_teacher_needs_one_and_others_do_not(setting):
    mdps, _ = setting
    with pytest.raises(ValueError, match="pass one"):
        train(KEY, mdps, None, "baseline", measure="forward_kl", **OPTIONS)
    result = train(KEY, mdps, None, "baseline", measure=["entropy", "return:uniform"], **OPTIONS)
    np.testing.assert_allclose(result.measure("return:uniform")[0, :, 0], result.uniform_returns, rtol=1e-12)
    assert (result.measure("entropy") > 0).all()


def my_kl(mdps, teachers, policies):
    return {"my_kl": policies[:, 0, 0]}


def test_a_function_says_which_values_are_better(monkeypatch):
    monkeypatch.setattr(my_kl, "better", "lower", raising=False)
    world = jd.stack([small.random_mdp(1)])
    options = dict(num_iterations=2, num_checkpoints=1, measure=my_kl)
    result = jd.train(jax.random.key(0), world, jd.teachers.uniform(world), ["n_distill"], **options)
    assert result.describe("my_kl").better == "lower"
    monkeypatch.setattr(my_kl, "better", "less", raising=False)
    with pytest.raises(ValueError, match=r"my_kl\.better must be 'higher' or 'lower'"):
        jd.train(jax.random.key(0), world, jd.teachers.uniform(world), ["n_distill"], **options)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"return": "forward_kl"}, "'return' is the name of another measure"),
        ({"length": "agreement"}, "'length' is the name of another measure"),
        ({"area": "agreement"}, "'area' is the name of another measure"),
        (lambda mdps, teachers, policies: {}, "at least one number"),
        (lambda mdps, teachers, policies: 1 / 0, "fails: ZeroDivisionError: division by zero"),
    ],
)
def test_names_of_other_measures_and_functions_that_fail_are_refused(measure, message):
    world = jd.stack([small.random_mdp(1)])
    with pytest.raises(ValueError, match=message):
        jd.train(jax.random.key(0), world, jd.teachers.uniform(world), ["n_distill"], num_iterations=2, measure=measure)
