"""The exact moments of an update against every episode of a small world; what an assessment says; sampled updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, TEACHER, Control
from jaxdistill.theory import fields, variance
from jaxdistill.theory.moments import update_moments
from jaxdistill.training.sampling import sampled_updates
from tests.theory.test_exact_update import brief_world, every_trajectory, softmax, student

OPTIONS = {"discount": 0.7, "probability_floor": 0.01, "loss_weight": 0.6, "return_weight": 1.4}
MIXED = Control(student=0.5, teacher=0.3, uniform=0.2, per="episode")


def episode_updates(mdp, teacher, name, logits, values, estimator, states, actions, rewards):
    """The update of each episode by Table 1, [N, O, A], summed over its steps [T]; once more, without `theory`."""
    row = np.asarray(mdp.observation)[states]
    pi, p = np.asarray(teacher.probs, np.float64)[states], softmax(logits)[row]  # [N, T, A]
    cost = -(pi * np.log(p)).sum(-1)
    taken = [np.take_along_axis(x, actions[..., None], -1)[..., 0] for x in (np.log(np.maximum(pi, 0.01)), np.log(p))]
    ahead = lambda x: np.concatenate([x[:, 1:], np.zeros_like(x[:, :1])], axis=1)  # noqa: E731
    rhat, has_loss = {
        "n_distill": (ahead(-cost), 1),
        "on_policy_distill_r": (rewards, 1),
        "kl_regularised": (taken[0] - taken[1], 0),
    }[name]
    v = values[row]
    target, decay = np.array(rhat), {"mc": 1.0, "td": 0.0, "lambda": 0.6}[estimator]
    for t in reversed(range(states.shape[1] - 1)):
        target[:, t] += OPTIONS["discount"] * (decay * target[:, t + 1] + (1 - decay) * v[:, t + 1])
    score = np.eye(mdp.num_actions)[actions] - p
    direction = OPTIONS["return_weight"] * (target - v)[..., None] * score - has_loss * OPTIONS["loss_weight"] * (
        p - pi
    )
    return np.einsum("nta,nto->noa", direction, np.eye(mdp.num_observations)[row])


def enumerated(mdp, teacher, name, logits, values, estimator, reduction, controls):
    """Mean, variance [O, A] and mean length over every episode; `controls` are (weight, policy)."""
    first, second, length = 0.0, 0.0, 0.0
    for weight, q in controls:
        for states, actions, rewards, prob in every_trajectory(mdp, q):
            found = episode_updates(mdp, teacher, name, logits, values, estimator, states, actions, rewards)
            found = found / (states.shape[1] if reduction == "mean" else 1)
            first += weight * np.tensordot(prob, found, 1)
            second += weight * np.tensordot(prob, found**2, 1)
            length += weight * prob.sum() * states.shape[1]
    return first, second - first**2, length


@pytest.mark.parametrize(
    ("name", "estimator", "reduction", "aliased", "mixed"),
    [
        ("n_distill", "mc", "sum", True, False),
        pytest.param("n_distill", "td", "mean", False, True, marks=pytest.mark.slow),
        pytest.param("on_policy_distill_r", "td", "sum", True, False, marks=pytest.mark.slow),
        ("kl_regularised", "mc", "mean", True, True),
        ("n_distill", "lambda", "mean", True, False),
    ],
)
def test_moments_over_every_episode(name, estimator, reduction, aliased, mixed):
    """To 1e-6: what the cut at 8 steps leaves."""
    mdp, teacher = brief_world(aliased)
    logits, values = student(mdp, 3)
    policy = softmax(logits)[np.asarray(mdp.observation)]
    policies = [policy, np.asarray(teacher.probs, np.float64), np.full((3, 2), 0.5)]
    controls = list(zip(MIXED.weights, policies, strict=True)) if mixed else [(1.0, policy)]
    mean, var, length = enumerated(mdp, teacher, name, logits, values, estimator, reduction, controls)
    control = MIXED if mixed else None
    options = {"estimator": estimator, "reduction": reduction, **OPTIONS}
    options |= {"trace_decay": 0.6} if estimator == "lambda" else {}
    found = variance.assess(mdp, teacher, name, logits, values, control=control, **options)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, var, atol=1e-6)
    assert found.num_steps == pytest.approx(length, abs=1e-6)
    assert found.variance.max() > 0.01
    assert (found.bias > 0.01) == mixed  # of the student's own control the method's own target is the mean


def test_what_an_assessment_says():
    zeros, ones = np.zeros((2, 1, 2)), np.ones((2, 1, 2))
    found = variance.Assessment(3 * ones, 2 * ones, zeros, np.array([4.0, 4.0]))
    np.testing.assert_allclose(found.bias, np.sqrt(18))
    np.testing.assert_allclose(found.total_variance, 4)
    np.testing.assert_allclose(found.signal_to_noise, np.sqrt(18 / 4))
    np.testing.assert_allclose(found.error(8), np.sqrt(18 + 0.5))


@pytest.mark.slow
def test_teacher_control_has_another_cost_and_a_bias():
    mdps, teacher = fields.random_problems(jax.random.key(2), 2)
    logits = np.random.default_rng(0).normal(size=(2, 5, 3))
    found = variance.assess(mdps, teacher, "on_policy_distill", logits, control=TEACHER)
    named = variance.assess(mdps, teacher, "teacher_distill", logits, target="on_policy_distill")
    for x, y in zip(dataclasses.astuple(found), dataclasses.astuple(named), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    assert found.bias.min() > 1e-3


@pytest.mark.slow
def test_sampled_updates_are_named_and_reproducible():
    mdps, teacher = fields.random_problems(jax.random.key(2), 2, num_states=4)
    logits = np.zeros((2, 4, 3))
    arguments = (jax.random.key(0), mdps, teacher)
    found = sampled_updates(*arguments, ["td_v0", METHODS["baseline"]], logits, num_updates=5)
    assert list(found) == ["td_v0", "baseline"]
    assert found["baseline"].logits.shape == (2, 5, 4, 3) and found["baseline"].values.shape == (2, 5, 4)
    again = sampled_updates(*arguments, ["td_v0", "baseline"], logits, num_updates=5)
    np.testing.assert_array_equal(found["td_v0"].logits, again["td_v0"].logits)
    assert len(np.unique(found["baseline"].logits[0].reshape(5, -1), axis=0)) > 1
    with pytest.raises(ValueError, match="methods of different names; got baseline, baseline"):
        sampled_updates(*arguments, ["baseline", "baseline"], logits)


@pytest.mark.slow
def test_moments_in_float32_where_nothing_else_is_asked_for():
    mdp, teacher = brief_world(True)
    logits, _ = student(mdp, 3)
    found = update_moments(mdp, teacher, "on_policy_distill_r", jnp.float32(logits), reduction="sum")
    exact = variance.assess(
        mdp, teacher, "on_policy_distill_r", logits, estimator="td", discount=0.99, probability_floor=0.01
    )
    assert found.mean.dtype == jnp.float32
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-4, atol=1e-5)
