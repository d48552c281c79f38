"""Combinators of terms and of step functions, by hand on a step with four actions."""

import jax
import numpy as np
import pytest

from jaxdistill.methods import loss_gradient
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    added,
    clamped,
    clipped,
    negated,
    rows,
    sampled,
    tempered,
    times_ratio,
    top_k,
    top_k_weights,
    total,
    weighted,
    whitened,
)
from jaxdistill.methods.zoo import ZOO
from tests.methods.four_actions import PI, P, example_step, kl

TOP_2 = [  # owner, renormalise, tail, KL(P || PI) by hand
    ("teacher", "none", False, 0.1 * np.log(0.1 / 0.5) + 0.2 * np.log(0.2 / 0.3)),
    ("student", "none", False, 0.3 * np.log(0.3 / 0.15) + 0.4 * np.log(0.4 / 0.05)),
    ("teacher", "both", False, kl(np.array([1, 2]) / 3, np.array([5, 3]) / 8)),
    ("student", "both", False, kl(np.array([3, 4]) / 7, np.array([3, 1]) / 4)),
    ("teacher", "teacher", False, 0.1 * np.log(0.1 / 0.625) + 0.2 * np.log(0.2 / 0.375)),
    ("teacher", "none", True, kl(np.array([0.1, 0.2, 0.7]), np.array([0.5, 0.3, 0.2]))),
]


@pytest.mark.parametrize(("owner", "renormalise", "tail", "expected"), TOP_2)
def test_top_k_by_hand(owner, renormalise, tail, expected):
    fn = total(top_k(fns.REVERSE_KL, owner, renormalise, tail))
    assert fn(example_step(k=2)) == pytest.approx(expected, rel=1e-5)
    assert fn(example_step(k=4)) == pytest.approx(kl(P, PI), rel=1e-5)
    for k in range(1, 5):
        assert np.isfinite(loss_gradient(fn, example_step(k=k))).all()


def test_whitened_by_hand():
    """Whitened terms have mean 0 and variance 1 under the student for every scale, and gradient 0."""
    ratio = np.log(P / PI)
    centred = ratio - np.sum(P * ratio)
    expected = centred / np.sqrt(np.sum(P * centred**2))
    for terms in (fns.K1, lambda rows, params: 100 * fns.K1(rows, params)):
        np.testing.assert_allclose(whitened(terms)(rows(example_step()), {"epsilon": 0}), expected, rtol=1e-4)
    np.testing.assert_array_equal(loss_gradient(total(whitened(fns.K1)), example_step(epsilon=0)), 0)
    equal_policies = rows(example_step())._replace(teacher_log_probs=rows(example_step()).student_log_probs)
    np.testing.assert_allclose(whitened(fns.K1)(equal_policies, {"epsilon": 1e-6}), 0, atol=1e-3)


def test_top_k_weights_by_hand():
    for weight, expected in (("student", [0, 0, 3, 4]), ("teacher", [0, 0, 3, 1]), ("one", [0, 0, 1, 1])):
        weights = top_k_weights("student", weight)(rows(example_step()), {"k": 2})
        np.testing.assert_allclose(weights, np.array(expected) / np.sum(expected), rtol=1e-5)
    np.testing.assert_allclose(top_k_weights("teacher", "one", False)(rows(example_step()), {"k": 2}), [1, 1, 0, 0])


def test_tempered_by_hand():
    """Temperature 1 changes nothing, others soften both policies; temperature^2 keeps the size of the gradient."""
    for terms in (fns.FORWARD_KL, fns.REVERSE_KL):
        expected = float(total(terms)(example_step()))
        assert total(tempered(terms))(example_step(temperature=1)) == pytest.approx(expected, rel=1e-5)
    softened = P**0.5 / np.sum(P**0.5), PI**0.5 / np.sum(PI**0.5)
    assert total(tempered(fns.REVERSE_KL))(example_step(temperature=2)) == pytest.approx(kl(*softened), rel=1e-5)
    squared = total(tempered(fns.FORWARD_KL, scaled=True))
    assert squared(example_step(temperature=2)) == pytest.approx(4 * kl(*softened[::-1]), rel=1e-5)
    sizes = [np.linalg.norm(loss_gradient(squared, example_step(temperature=t))) for t in (10, 100)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_clipped_clamped_and_times_ratio_by_hand():
    expected = np.minimum(P * np.log(P / PI), 0.05).sum()
    assert total(clipped(fns.REVERSE_KL))(example_step(clip=0.05)) == pytest.approx(expected, rel=1e-5)
    inside, outside = clamped(fns.k1, -3, 3), clamped(fns.k1, most=-2)
    for action in range(4):
        ratio = np.log(P / PI)[action]
        assert inside(example_step(action)) == pytest.approx(ratio, rel=1e-5) and outside(example_step(action)) == -2
        np.testing.assert_array_equal(loss_gradient(outside, example_step(action)), 0)
    assert times_ratio(fns.k1)(example_step(1)) == fns.k1(example_step(1))
    added_score = loss_gradient(times_ratio(fns.k1), example_step(1)) - loss_gradient(fns.k1, example_step(1))
    np.testing.assert_allclose(added_score, np.log(0.2 / 0.3) * (np.eye(4)[1] - P), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k(fns.REVERSE_KL, "both"), "owner 'student' or 'teacher'"),
        (lambda: top_k(fns.REVERSE_KL, "student", "student"), "renormalise 'none', 'teacher' or 'both'"),
        (lambda: top_k(fns.REVERSE_KL, "student", "both", tail=True), "the rows sum to 1 already"),
        (lambda: top_k_weights("student", "two"), "'two'"),
        (lambda: ZOO["exopd"].reward(example_step(scale=1.25, floor=0.01)), "teachers.with_others"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_composed_function_is_named_by_its_call():
    assert negated(fns.k1).__name__ == negated(fns.k1).__qualname__ == "negated(k1)"
    assert clamped(fns.k1, -3, most=2.0).__name__ == "clamped(k1, -3, most=2.0)"
    assert sampled(whitened(fns.K1)).__name__ == "sampled(whitened(plain(k1)))"
    assert weighted(jax.tree_util.Partial(fns.k1), "half").__name__ == "weighted(Partial, 'half')"
    assert fns.top_k_squares("student", "one").__name__ == "top_k_squares('student', 'one')"
    assert top_k.__name__ == "top_k" and top_k.__doc__


def test_a_composed_function_can_be_compiled():
    reward = jax.jit(added(negated(fns.k1), weighted(fns.reverse_kl, "half")))
    assert reward(example_step(1, half=0.5)) == pytest.approx(-np.log(0.2 / 0.3) + kl(P, PI) / 2, rel=1e-5)
