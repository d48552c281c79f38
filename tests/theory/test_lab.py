"""The theory as a whole: which updates are gradients, where their flows end, and how noisy their samples are."""

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

TABLE_1 = {  # whether the update is a gradient
    "teacher_distill": True,
    "on_policy_distill": False,
    "entropy_regularised": True,
    "n_distill": True,
    "exp_entropy_regularised": True,
    "teacher_v_reward": True,
}


@pytest.mark.parametrize(("name", "is_gradient"), TABLE_1.items())
def test_table_1(name, is_gradient):
    """Gradients have an asymmetry below 1e-8 and the potential of the stated loss; all others have one above 1e-3."""
    report = check_method(name)
    assert report.whole.is_gradient == report.whole.matches == is_gradient
    if is_gradient:
        assert report.whole.asymmetry.max() < 1e-8
        assert report.whole.potential_error.max() < 1e-9
    else:
        assert report.whole.asymmetry.min() > 1e-3
        assert report.one_step.matches  # It is a gradient where visits are held fixed.
        assert "not the gradient of anything" in str(report)


def test_check_method_on_new_methods():
    """The correction of Theorem 2 is the reward -KL of the next step, and not that of the step itself."""

    def kl(step):
        return losses.forward_kl(teacher_probs=step.teacher_probs, student_logits=step.student_logits)

    wrong = check_method(Method("mine", loss=kl, reward=lambda step: -kl(step)))
    right = check_method(Method("mine", loss=kl, next_reward=lambda step: -kl(step)))
    assert right.whole.matches
    assert not wrong.whole.matches
    constant = Method("constant", reward=lambda step: step.student_value * 0 + 1, discount=0.0)
    assert check_method(constant).whole.is_zero


def test_the_flow_of_distillation_ends_at_the_teacher():
    mdps, teacher = random_problems(jax.random.key(0), 4)
    point = fixed_point(mdps, teacher, "on_policy_distill")
    assert point.converged.all()
    assert point.stable.all()
    assert point.quality.distance.max() < 1e-6
    assert point.quality.trajectory_kl.max() < 1e-8
    path = flow(mdps[0], teacher[0], "on_policy_distill", np.zeros((mdps.num_observations, mdps.num_actions)))
    assert path.quality.trajectory_kl[-1] < path.quality.trajectory_kl[0]


@pytest.mark.parametrize("estimator", ["mc", "td"])
def test_exact_variance_against_samples(estimator):
    """Mean and variance agree with those of 20 000 samples within 4 standard errors."""
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
    variance_error = np.sqrt(np.maximum((centred**4).mean(0) - (centred**2).mean(0) ** 2, 0)) / root
    assert (np.abs((centred**2).mean(0) - exact.variance[0]) <= 4 * variance_error + 1e-6).all()
    assert exact.bias[0] < 1e-12
    assert exact.error(100)[0] == pytest.approx(np.sqrt(exact.total_variance[0] / 100))


def test_k1_reward_and_reverse_kl_differ_only_in_variance():
    mdps, teacher = random_problems(jax.random.key(5), 3)
    logits = np.random.default_rng(1).normal(size=(3, mdps.num_observations, mdps.num_actions))
    exact_kl = dataclasses.replace(METHODS["on_policy_distill"], name="rkl", loss=ZOO["reverse_kl"].loss)
    sampled, summed = (
        assess(mdps, teacher, ZOO[name], logits, target=exact_kl) for name in ("k1_reward", "reverse_kl")
    )
    assert max(sampled.bias.max(), summed.bias.max()) < 1e-10
    assert (sampled.total_variance > summed.total_variance).all()
