"""The exact moments of an update by the enumeration of all episodes, the numbers of an assessment, sampled updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, TEACHER, Control
from jaxdistill.theory import fields, variance
from jaxdistill.theory.moments import update_moments
from jaxdistill.training.sampling import sampled_updates
from tests.theory.enumeration import (
    DECAY,
    FEATURES,
    activity,
    all_trajectories,
    random_student,
    short_episodes,
    softmax,
)

OPTIONS = {"discount": 0.7, "probability_floor": 0.01, "loss_weight": 0.6, "return_weight": 1.4}
MIXED = Control(student=0.5, teacher=0.3, uniform=0.2, per="episode")


def episode_updates(mdp, teacher, name, logits, values, estimator, states, actions, rewards):
    """The sum over steps [T] of the update of each episode by Table 1, [N, O, A], without `jaxdistill.theory`."""
    is_used = activity(mdp)
    pi, p = np.asarray(teacher.probs, np.float64)[states], softmax(is_used @ logits)[states]  # [N, T, A]
    cost = -(pi * np.log(p)).sum(-1)
    log_probs = (np.log(np.maximum(pi, OPTIONS["probability_floor"])), np.log(p))
    taken_log_pi, taken_log_p = (np.take_along_axis(x, actions[..., None], -1)[..., 0] for x in log_probs)
    next_cost = np.concatenate([cost[:, 1:], np.zeros_like(cost[:, :1])], axis=1)
    rhat, has_loss = {
        "n_distill": (-next_cost, 1),
        "on_policy_distill_r": (rewards, 1),
        "kl_regularised": (taken_log_pi - taken_log_p, 0),
    }[name]
    v = (is_used @ values)[states]
    target, decay = np.array(rhat), DECAY[estimator]
    for t in reversed(range(states.shape[1] - 1)):
        target[:, t] += OPTIONS["discount"] * (decay * target[:, t + 1] + (1 - decay) * v[:, t + 1])
    score = np.eye(mdp.num_actions)[actions] - p
    ascent = OPTIONS["return_weight"] * (target - v)[..., None] * score
    descent = has_loss * OPTIONS["loss_weight"] * (p - pi)
    return np.einsum("nta,nto->noa", ascent - descent, is_used[states])


def enumerated_moments(mdp, teacher, name, logits, values, estimator, reduction, controls):
    """Mean and variance [O, A] of the update and the mean length over all episodes; `controls` are (weight, policy)."""
    first, second, length = 0.0, 0.0, 0.0
    for weight, q in controls:
        for states, actions, rewards, prob in all_trajectories(mdp, q):
            updates = episode_updates(mdp, teacher, name, logits, values, estimator, states, actions, rewards)
            updates = updates / (states.shape[1] if reduction == "mean" else 1)
            first += weight * np.tensordot(prob, updates, 1)
            second += weight * np.tensordot(prob, updates**2, 1)
            length += weight * prob.sum() * states.shape[1]
    return first, second - first**2, length


@pytest.mark.parametrize(
    ("name", "estimator", "reduction", "is_aliased", "is_mixed"),
    [
        ("n_distill", "mc", "sum", True, False),
        ("n_distill", "td", "mean", False, True),
        ("on_policy_distill_r", "td", "sum", True, False),
        ("kl_regularised", "mc", "mean", True, True),
        ("n_distill", "lambda", "mean", True, False),
        ("n_distill", "mc", "mean", 2, True),
        ("on_policy_distill_r", "td", "sum", 4, False),
        ("kl_regularised", "lambda", "mean", 4, False),
    ],
)
def test_moments_by_enumeration(name, estimator, reduction, is_aliased, is_mixed):
    """The tolerance is 1e-6, because the enumeration leaves out episodes of more than 8 steps.

    Where `is_aliased` is a number, states have so many features.
    """
    mdp, teacher = short_episodes(is_aliased is True)
    mdp = mdp if isinstance(is_aliased, bool) else mdp.with_features(FEATURES[is_aliased])
    logits, values = random_student(mdp, 3)
    policy = softmax(activity(mdp) @ logits)
    policies = [policy, np.asarray(teacher.probs, np.float64), np.full((3, 2), 0.5)]
    controls = list(zip(MIXED.weights, policies, strict=True)) if is_mixed else [(1.0, policy)]
    mean, var, length = enumerated_moments(mdp, teacher, name, logits, values, estimator, reduction, controls)
    control = MIXED if is_mixed else None
    options = {"estimator": estimator, "reduction": reduction, **OPTIONS}
    options |= {"trace_decay": DECAY["lambda"]} if estimator == "lambda" else {}
    assessment = variance.assess(mdp, teacher, name, logits, values, control=control, **options)
    np.testing.assert_allclose(assessment.mean, mean, atol=1e-6)
    np.testing.assert_allclose(assessment.variance, var, atol=1e-6)
    assert assessment.num_steps == pytest.approx(length, abs=1e-6)
    assert assessment.variance.max() > 0.01
    assert (assessment.bias > 0.01) == is_mixed  # Under the method's own control, the mean is the target.


def test_the_numbers_of_an_assessment():
    zeros, ones = np.zeros((2, 1, 2)), np.ones((2, 1, 2))
    assessment = variance.Assessment(3 * ones, 2 * ones, zeros, np.array([4.0, 4.0]))
    np.testing.assert_allclose(assessment.bias, np.sqrt(18))
    np.testing.assert_allclose(assessment.total_variance, 4)
    np.testing.assert_allclose(assessment.signal_to_noise, np.sqrt(18 / 4))
    np.testing.assert_allclose(assessment.error(8), np.sqrt(18 + 0.5))


def test_teacher_control_has_a_bias():
    """On-policy distillation under the teacher's control is teacher distillation, which has another expectation."""
    mdps, teacher = fields.random_problems(jax.random.key(2), 2)
    logits = np.random.default_rng(0).normal(size=(2, 5, 3))
    by_control = variance.assess(mdps, teacher, "on_policy_distill", logits, control=TEACHER)
    by_target = variance.assess(mdps, teacher, "teacher_distill", logits, target="on_policy_distill")
    for x, y in zip(dataclasses.astuple(by_control), dataclasses.astuple(by_target), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    assert by_control.bias.min() > 1e-3


def test_sampled_updates_are_named_and_reproducible():
    mdps, teacher = fields.random_problems(jax.random.key(2), 2, num_states=4)
    logits = np.zeros((2, 4, 3))
    arguments = (jax.random.key(0), mdps, teacher)
    updates = sampled_updates(*arguments, ["td_v0", METHODS["baseline"]], logits, num_updates=5)
    assert list(updates) == ["td_v0", "baseline"]
    assert updates["baseline"].logits.shape == (2, 5, 4, 3) and updates["baseline"].values.shape == (2, 5, 4)
    repeated = sampled_updates(*arguments, ["td_v0", "baseline"], logits, num_updates=5)
    np.testing.assert_array_equal(updates["td_v0"].logits, repeated["td_v0"].logits)
    assert len(np.unique(updates["baseline"].logits[0].reshape(5, -1), axis=0)) > 1
    with pytest.raises(ValueError, match="methods of different names; got baseline, baseline"):
        sampled_updates(*arguments, ["baseline", "baseline"], logits)


def test_moments_are_in_the_precision_of_the_logits():
    mdp, teacher = short_episodes(True)
    logits, _ = random_student(mdp, 3)
    moments_of = jax.jit(lambda x: update_moments(mdp, teacher, "on_policy_distill_r", x, reduction="sum"))
    moments = moments_of(jnp.float32(logits))
    assessment = variance.assess(
        mdp, teacher, "on_policy_distill_r", logits, estimator="td", discount=0.99, probability_floor=0.01
    )
    assert moments.mean.dtype == jnp.float32
    np.testing.assert_allclose(moments.variance, assessment.variance, rtol=1e-4, atol=1e-5)
