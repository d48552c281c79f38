"""The theory laboratory: what updates are the gradient of, where they come to rest, and how noisy they are."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill import METHODS, Method
from jaxdistill.methods import losses
from jaxdistill.methods.zoo import ZOO
from jaxdistill.theory.fields import check_method, random_problems
from jaxdistill.theory.flows import fixed_point, flow
from jaxdistill.theory.variance import assess
from jaxdistill.training.sampling import sampled_updates

TABLE_1 = {  # is it a gradient field?
    "teacher_distill": True,
    "on_policy_distill": False,
    "entropy_regularised": True,
    "n_distill": True,
    "exp_entropy_regularised": True,
    "teacher_v_reward": True,
}


@pytest.mark.parametrize(("name", "gradient"), TABLE_1.items())
def test_table_1(name, gradient):
    """Asymmetry below 1e-8 for every yes, above 1e-3 for every no; the potential is the stated loss."""
    report = check_method(name)
    assert report.whole.is_gradient == report.whole.matches == gradient
    if gradient:
        assert report.whole.asymmetry.max() < 1e-8
        assert report.whole.potential_error.max() < 1e-9
    else:
        assert report.whole.asymmetry.min() > 1e-3
        assert report.one_step.matches  # where visits are held fixed, it is one
        assert "not the gradient of anything" in str(report)


def test_a_method_of_ones_own_is_found_out():
    """The reward -KL at the step itself is not the correction of Theorem 2, which is at the next step."""

    def kl(step):
        return losses.forward_kl(teacher_probs=step.teacher_probs, student_logits=step.student_logits)

    wrong = check_method(Method("mine", loss=kl, reward=lambda step: -kl(step)))
    right = check_method(Method("mine", loss=kl, next_reward=lambda step: -kl(step)))
    assert right.whole.matches
    assert not wrong.whole.matches
    nothing = Method("nothing", reward=lambda step: step.student_value * 0 + 1, discount=0.0)
    assert check_method(nothing).whole.is_zero


def test_the_flow_comes_to_rest_at_the_teacher():
    mdps, teacher = random_problems(jax.random.key(0), 4)
    found = fixed_point(mdps, teacher, "on_policy_distill")
    assert found.converged.all()
    assert found.stable.all()
    assert found.quality.distance.max() < 1e-6
    assert found.quality.trajectory_kl.max() < 1e-8
    path = flow(mdps[0], teacher[0], "on_policy_distill", np.zeros((mdps.num_observations, mdps.num_actions)))
    assert path.quality.trajectory_kl[-1] < path.quality.trajectory_kl[0]


@pytest.mark.parametrize("estimator", [pytest.param("mc", marks=pytest.mark.slow), "td"])
def test_exact_variance_against_samples(estimator):
    """Mean within 4 standard errors of 20 000 samples (key 1); variance within 4 of its own, from fourth moments."""
    mdps, teacher = random_problems(jax.random.key(3), 1)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, mdps.num_observations, mdps.num_actions))
    values = rng.normal(size=(1, mdps.num_observations))
    options = {"estimator": estimator, "reduction": "mean", "discount": 0.9}
    exact = assess(mdps, teacher, "on_policy_distill_r", logits, values, **options)
    updates = sampled_updates(
        jax.random.key(1), mdps, teacher, ["on_policy_distill_r"], logits, values, num_updates=20_000, **options
    )["on_policy_distill_r"].logits[0].astype(float)  # fmt: skip
    centred = updates - updates.mean(0)
    root = np.sqrt(len(updates))
    assert (np.abs(updates.mean(0) - exact.mean[0]) <= 4 * updates.std(0) / root + 1e-6).all()
    error = np.sqrt(np.maximum((centred**4).mean(0) - (centred**2).mean(0) ** 2, 0)) / root
    assert (np.abs((centred**2).mean(0) - exact.variance[0]) <= 4 * error + 1e-6).all()
    assert exact.bias[0] < 1e-12
    assert exact.error(100)[0] == pytest.approx(np.sqrt(exact.total_variance[0] / 100))


def test_k1_and_the_estimators_of_the_same_gradient_differ_in_variance_only():
    mdps, teacher = random_problems(jax.random.key(5), 3)
    logits = np.random.default_rng(1).normal(size=(3, mdps.num_observations, mdps.num_actions))
    exact_kl = dataclasses.replace(METHODS["on_policy_distill"], name="rkl", loss=ZOO["reverse_kl"].loss)
    found = {name: assess(mdps, teacher, ZOO[name], logits, target=exact_kl) for name in ("reverse_kl", "k1_reward")}
    assert max(a.bias.max() for a in found.values()) < 1e-10
    assert (found["k1_reward"].total_variance > found["reverse_kl"].total_variance).all()
