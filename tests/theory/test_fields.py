"""Jacobians, potentials and stated losses by independent means; the reports and the random worlds of `check_method`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, ZOO, check_method, expected_update
from jaxdistill.methods.combinators import length_normalised
from jaxdistill.theory import fields
from jaxdistill.theory.precision import float64, precise
from jaxdistill.theory.quality import quality
from jaxdistill.theory.stated_losses import LOSSES, TABLE_1
from jaxdistill.worlds import garnet
from tests import small


@pytest.fixture(scope="module")
def worlds():
    """Three worlds whose states share rows, their teachers, and one student of each."""
    mdps, teacher = fields.random_problems(jax.random.key(1), 3, num_states=4, num_observations=3)
    return mdps, teacher, np.random.default_rng(0).normal(size=(3, 3, 3))


def central_differences(fn, x, step=1e-5):
    columns = [(fn(x + e) - fn(x - e)).ravel() / (2 * step) for e in step * np.eye(x.size).reshape(-1, *x.shape)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", ["on_policy_distill", "n_distill"])
def test_asymmetry_by_central_differences(worlds, name):
    mdps, teachers, logits = worlds
    asymmetry = fields.asymmetry(mdps, teachers, name, logits)
    assert asymmetry.shape == (3,)
    mdp, teacher = precise(mdps[1], teachers[1])

    def field(x):
        with float64():
            return -np.asarray(expected_update(mdp, teacher, name, jnp.asarray(x), **TABLE_1).logits)

    matrix = central_differences(field, logits[1])
    expected = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
    assert asymmetry[1] == pytest.approx(expected, abs=1e-8)
    assert (expected > 1e-2) == (name == "on_policy_distill")


def test_a_potential_depends_on_the_path_unless_the_field_is_a_gradient(worlds):
    mdps, teacher, logits = worlds
    corner = np.roll(logits, 1, axis=0)

    def detour(name):
        straight = fields.potential(mdps, teacher, name, logits)
        by_corner = fields.potential(mdps, teacher, name, corner)
        return np.abs(by_corner + fields.potential(mdps, teacher, name, logits, corner) - straight)

    assert detour("n_distill").max() < 1e-12
    assert detour("on_policy_distill").min() > 1e-3


def test_stated_losses_by_linear_algebra_in_numpy(worlds):
    """`quality` computes the return and the KL of trajectories without `exact_update`."""
    mdps, teachers, logits = worlds
    mdp, teacher = precise(mdps[2], teachers[2])
    with float64():
        losses = {
            name: float(LOSSES[name](mdp, teacher, jnp.asarray(logits[2]))) for name in ("baseline", "kl_regularised")
        }
    expected = quality(mdp, teacher, logits[2])
    assert losses["baseline"] == pytest.approx(-expected.returns, abs=1e-12)
    assert losses["kl_regularised"] == pytest.approx(expected.trajectory_kl, abs=1e-12)


def test_jacobians_of_many_entries_are_computed_in_parts():
    x = jnp.linspace(0.0, 1.0, 70).reshape(7, 10)
    assert x.size > fields._COLUMNS
    matrix = fields.jacobian(lambda y: jnp.sin(y) * jnp.sum(y**2), x)
    expected = jax.jacobian(lambda y: jnp.ravel(jnp.sin(y) * jnp.sum(y**2)))(x).reshape(70, 70)
    np.testing.assert_allclose(matrix, expected, rtol=1e-5)


def test_a_report_in_words():
    """This objective of the zoo claims a loss in each visited state, and over whole episodes it has no loss."""
    dtype = jnp.zeros(()).dtype
    report = check_method(ZOO["k3_loss"], num_mdps=3)
    assert not report.whole.is_gradient and report.one_step.matches
    assert "k3_loss: not the gradient of anything (" in str(report)
    assert "visits held fixed: the gradient of KL(pi||pi_theta) (" in str(report)
    assert "3 MDPs of 5 states and 3 actions; Monte Carlo returns, sum over steps, discount 1; float64" in str(report)
    assert jnp.zeros(()).dtype == dtype  # The precision of the process does not change.


def test_a_gradient_of_another_loss_than_believed():
    report = check_method("n_distill", LOSSES["entropy_regularised"], num_mdps=3)
    assert report.whole.is_gradient and not report.whole.matches
    assert "a gradient" in str(report) and "but not of -E_pi_theta sum_t log pi(a_t)" in str(report)


def test_n_distill_is_not_a_gradient_under_other_options():
    """With the mean over steps, the factor 1/T depends on theta too. A loss weight does not weight -l(t+1)."""
    assert not check_method("n_distill", num_mdps=2, reduction="mean", num_nodes=8).whole.is_gradient
    assert check_method("n_distill", num_mdps=2, loss_weight=0.5).whole.is_gradient is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.1}, "Unknown option 'learning_rate'; the options are estimator"),
        ({"mdps": small.random_mdp(0)}, "mdps and their teacher together"),
        ({"num_mdps": 0}, "num_mdps must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        check_method("n_distill", **arguments)
    assert "\n" not in str(error.value)


def test_precise_worlds():
    """Rows sum to 1 up to rounding, the probabilities of equal starts are added, and other arrays do not change."""
    mdps, teacher = fields.random_problems(jax.random.key(2), 2)
    mdps = dataclasses.replace(mdps, start=jnp.array([[1, 3, 1], [0, 2, 4]]), start_probs=jnp.full((2, 3), 1 / 3))
    for i in (slice(None), 0):
        precise_mdps, precise_teacher = precise(mdps[i], teacher[i])
        for rows in (
            precise_mdps.outcome_probs, precise_mdps.start_probs, precise_teacher.probs, precise_teacher.others,
        ):  # fmt: skip
            assert rows.dtype == np.float64
            np.testing.assert_allclose(rows.sum(-1), 1, rtol=3e-16)
        np.testing.assert_array_equal(precise_mdps.successor, mdps[i].successor)
        first = precise_mdps.start_probs[0] if isinstance(i, slice) else precise_mdps.start_probs
        np.testing.assert_allclose(first, [0, 2 / 3, 0, 1 / 3, 0], rtol=1e-7)
        np.testing.assert_allclose(precise_teacher.probs, teacher.probs[i], rtol=1e-6)


def test_garnets():
    """Each action has distinct successors, world i depends only on (key, i), and every row of the tables is used."""
    sizes = {"num_states": 6, "num_actions": 4, "branching": 3, "num_observations": 4}
    mdps = garnet.garnet(jax.random.key(0), 20, **sizes)
    assert mdps.outcome_probs.shape == (20, 6, 4, 12)
    successor = np.asarray(mdps.successor).reshape(20, 6, 4, 3)
    assert (np.diff(np.sort(successor, axis=-1), axis=-1) > 0).all()
    weights = np.asarray(mdps.outcome_probs).reshape(20, 6, 4, 4, 3)
    np.testing.assert_allclose(np.einsum("msaab->msa", weights), 1, rtol=1e-6)
    assert all(set(row) == set(range(4)) for row in np.asarray(mdps.observation))
    assert not np.asarray(mdps.terminal)[:, 0].any() and np.asarray(mdps.terminal)[:, 1:].mean() == pytest.approx(
        0.1, abs=0.03
    )
    fewer = garnet.garnet(jax.random.key(0), 7, **sizes)
    np.testing.assert_array_equal(fewer.reward, mdps.reward[:7])
    assert (np.asarray(garnet.garnet(jax.random.key(1), 7, **sizes).reward) != np.asarray(fewer.reward)).all()
    sharp = garnet.random_policies(jax.random.key(0), mdps, 0.02)
    assert sharp.shape == (20, 6, 4) and np.median(sharp.max(-1)) > 0.99
    for change, message in [
        ({"num_states": 2}, "branching must be at most num_states = 2; got 3"),
        ({"num_observations": 7}, "num_observations must be in"),
        ({"termination_prob": 0.0}, "episodes may never end"),
        ({"terminal_prob": 1.5}, "terminal_prob must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            garnet.garnet(jax.random.key(0), 1, **(sizes | change))
    with pytest.raises(ValueError, match="concentration must be > 0"):
        garnet.random_policies(jax.random.key(0), mdps, 0.0)


def test_the_methods_of_the_paper_without_a_loss():
    assert set(METHODS) - set(LOSSES) == {
        "on_policy_distill", "on_policy_distill_r", "on_policy_distill_r_vcond", "td_v0", "td_vpi",
    }  # fmt: skip


def test_a_method_that_divides_by_the_length_descends_the_mean():
    """This holds under the teacher's control. The student's control also determines the length of an episode."""
    report = check_method(length_normalised(METHODS["teacher_distill"]), num_mdps=3)
    assert report.whole.matches and "E_pi mean_t l_t" in str(report) and "mean over steps" in str(report)
    assert not check_method(length_normalised(METHODS["n_distill"]), num_mdps=3).whole.is_gradient
