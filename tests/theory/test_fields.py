"""Jacobians, potentials and stated losses by independent means; how `check_method` answers; its random worlds."""

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
    """Three worlds whose states share rows, and a student of each."""
    mdps, teacher = fields.random_problems(jax.random.key(1), 3, num_states=4, num_observations=3)
    return mdps, teacher, np.random.default_rng(0).normal(size=(3, 3, 3))


def central_differences(fn, x, step=1e-5):
    columns = [(fn(x + e) - fn(x - e)).ravel() / (2 * step) for e in step * np.eye(x.size).reshape(-1, *x.shape)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", ["on_policy_distill", "n_distill"])
def test_asymmetry_by_central_differences(worlds, name):
    mdps, teacher, logits = worlds
    found = fields.asymmetry(mdps, teacher, name, logits)
    assert found.shape == (3,)
    mdp, mine = precise(mdps[1], teacher[1])

    def field(x):
        with float64():
            return -np.asarray(expected_update(mdp, mine, name, jnp.asarray(x), **TABLE_1).logits)

    matrix = central_differences(field, logits[1])
    by_hand = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
    assert found[1] == pytest.approx(by_hand, abs=1e-8)
    assert (by_hand > 1e-2) == (name == "on_policy_distill")


def test_a_potential_depends_on_the_way_unless_the_field_is_a_gradient(worlds):
    mdps, teacher, logits = worlds
    corner = np.roll(logits, 1, axis=0)

    def detour(name):
        straight = fields.potential(mdps, teacher, name, logits)
        by_corner = fields.potential(mdps, teacher, name, corner)
        return np.abs(by_corner + fields.potential(mdps, teacher, name, logits, corner) - straight)

    assert detour("n_distill").max() < 1e-12
    assert detour("on_policy_distill").min() > 1e-3


def test_stated_losses_by_linear_algebra_in_numpy(worlds):
    """`quality` computes the return and the KL of trajectories without `theory`."""
    mdps, teacher, logits = worlds
    mdp, mine = precise(mdps[2], teacher[2])
    with float64():
        value = {
            name: float(LOSSES[name](mdp, mine, jnp.asarray(logits[2]))) for name in ("baseline", "kl_regularised")
        }
    expected = quality(mdp, mine, logits[2])
    assert value["baseline"] == pytest.approx(-expected.returns, abs=1e-12)
    assert value["kl_regularised"] == pytest.approx(expected.trajectory_kl, abs=1e-12)


def test_jacobians_of_many_entries_are_computed_in_parts():
    x = jnp.linspace(0.0, 1.0, 70).reshape(7, 10)
    assert x.size > fields._COLUMNS
    found = fields.jacobian(lambda y: jnp.sin(y) * jnp.sum(y**2), x)
    expected = jax.jacobian(lambda y: jnp.ravel(jnp.sin(y) * jnp.sum(y**2)))(x).reshape(70, 70)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_answers_in_words():
    """What an objective of the zoo claims is a matter of single states: the whole is the gradient of nothing."""
    before = jnp.zeros(()).dtype
    claimed = check_method(ZOO["k3_loss"], num_mdps=3)
    assert not claimed.whole.is_gradient and claimed.one_step.matches
    assert "k3_loss: not the gradient of anything (" in str(claimed)
    assert "visits held fixed: the gradient of KL(pi||pi_theta) (" in str(claimed)
    assert "3 MDPs of 5 states and 3 actions; Monte Carlo returns, sum over steps, discount 1; float64" in str(claimed)
    assert jnp.zeros(()).dtype == before  # the process is left as it was


@pytest.mark.slow
def test_a_gradient_of_another_loss_than_believed():
    believed = check_method("n_distill", LOSSES["entropy_regularised"], num_mdps=3)
    assert believed.whole.is_gradient and not believed.whole.matches
    assert "a gradient" in str(believed) and "but not of E_pi_theta sum_t -log pi(a_t)" in str(believed)


@pytest.mark.slow
def test_training_s_own_settings_are_no_gradient():
    """Theorem 2 needs the sum over steps: with 1/T, T depends on theta as well. Weights belong to the stated loss."""
    assert not check_method("n_distill", num_mdps=2, reduction="mean", num_nodes=8).whole.is_gradient
    assert check_method("n_distill", num_mdps=2, loss_weight=0.5).whole.is_gradient is False  # -l(t+1) is not halved


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
    """Rows sum to 1 to rounding, equal starts are added up, other arrays are kept."""
    mdps, teacher = fields.random_problems(jax.random.key(2), 2)
    mdps = dataclasses.replace(mdps, start=jnp.array([[1, 3, 1], [0, 2, 4]]), start_probs=jnp.full((2, 3), 1 / 3))
    for i in (slice(None), 0):
        found, mine = precise(mdps[i], teacher[i])
        for rows in (found.outcome_probs, found.start_probs, mine.probs, mine.others):
            assert rows.dtype == np.float64
            np.testing.assert_allclose(rows.sum(-1), 1, rtol=3e-16)
        np.testing.assert_array_equal(found.successor, mdps[i].successor)
        first = found.start_probs[0] if isinstance(i, slice) else found.start_probs
        np.testing.assert_allclose(first, [0, 2 / 3, 0, 1 / 3, 0], rtol=1e-7)
        np.testing.assert_allclose(mine.probs, teacher.probs[i], rtol=1e-6)


def test_garnets():
    """Distinct successors for each action; world i depends on (key, i) alone; every row of an aliased table is used."""
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
    for bad, message in [
        ({"num_states": 2}, "branching must be at most num_states = 2; got 3"),
        ({"num_observations": 7}, "num_observations must be in"),
        ({"termination_prob": 0.0}, "episodes may never end"),
        ({"terminal_prob": 1.5}, "terminal_prob must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            garnet.garnet(jax.random.key(0), 1, **(sizes | bad))
    with pytest.raises(ValueError, match="concentration must be > 0"):
        garnet.random_policies(jax.random.key(0), mdps, 0.0)


def test_every_method_of_the_paper_has_a_loss_or_none_for_a_reason():
    assert set(METHODS) - set(LOSSES) == {
        "on_policy_distill", "on_policy_distill_r", "on_policy_distill_r_vcond", "td_v0", "td_vpi",
    }  # fmt: skip


@pytest.mark.slow
def test_a_method_that_divides_by_the_length_descends_the_mean():
    """Where theta does not decide the states; where it does, it decides the length too."""
    found = check_method(length_normalised(METHODS["teacher_distill"]), num_mdps=3)
    assert found.whole.matches and "E_pi mean_t l_t" in str(found) and "mean over steps" in str(found)
    assert not check_method(length_normalised(METHODS["n_distill"]), num_mdps=3).whole.is_gradient
