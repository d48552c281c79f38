"""Results of students with features: the file holds the features, and policies are sums of rows."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill import concatenate, exact, features, load, plotting, sample_mdps, teachers, train

WORLDS = sample_mdps(jax.random.key(0), 4, num_rows=3, num_cols=4)
MDPS = WORLDS.with_features(features.row_and_column(WORLDS))


@pytest.fixture(scope="module")
def result():
    teacher = teachers.optimal(MDPS)
    return train(jax.random.key(1), MDPS, teacher, ["n_distill", "baseline"], num_iterations=60, num_checkpoints=2)


def test_a_file_holds_the_features(result, tmp_path):
    saved = load(result.save(tmp_path / "run.npz"))
    np.testing.assert_array_equal(saved.features, MDPS.features)
    policies = saved.policy("baseline")
    np.testing.assert_allclose(policies, exact.policy_from_logits(MDPS, saved.logits[1]), rtol=1e-12)
    np.testing.assert_allclose(exact.episode_return(MDPS, policies), saved.final_returns[1], rtol=1e-9)
    np.testing.assert_array_equal(saved.select(mdps=[2]).policy("baseline", MDPS[2:3]), policies[2:3])
    assert np.isfinite(
        saved.with_measures("forward_kl:teacher", MDPS, teachers.optimal(MDPS)).final("forward_kl:teacher")
    ).all()


def test_results_are_joined_with_their_features(result):
    joined = concatenate([result.select(mdps=[0, 1]), result.select(mdps=[2, 3])])
    np.testing.assert_array_equal(joined.features, result.features)
    by_method = concatenate([result.select("n_distill"), result.select("baseline")], "method")
    np.testing.assert_array_equal(by_method.policy("baseline"), result.policy("baseline"))
    other = dataclasses.replace(result.select("baseline"), features=result.features[..., ::-1])
    with pytest.raises(ValueError, match="their features differ"):
        concatenate([result.select("n_distill"), other], "method")
    fewer = dataclasses.replace(result, features=result.features[..., :1], mdp_ids=result.mdp_ids + 4)
    with pytest.raises(ValueError, match="their numbers of states or of features differ"):
        concatenate([result, fewer])


def test_what_does_not_belong_to_a_result_is_refused(result):
    with pytest.raises(ValueError, match=r"features must be rows of the tables, in \[0, 7\), or -1"):
        dataclasses.replace(result, features=result.features + 1)
    with pytest.raises(ValueError, match="the worlds are not"):
        result.policy("baseline", WORLDS)
    with pytest.raises(ValueError, match="the worlds are not"):
        result.with_measures("entropy", MDPS.with_features(np.asarray(MDPS.features)[..., ::-1]))
    with pytest.raises(ValueError, match="no tables of students"):
        dataclasses.replace(result, logits=None, values=None).policy("baseline")
    plain = train(jax.random.key(1), WORLDS, None, "baseline", num_iterations=2)
    assert plain.features is None and plain.policy("baseline", WORLDS).shape == (4, 12, 4)
    with pytest.raises(ValueError, match="a result does not hold its MDPs, which say which row"):
        plain.policy("baseline")
    with pytest.raises(ValueError, match="feature_steps has no effect on baseline"):
        train(jax.random.key(1), WORLDS, None, "baseline", num_iterations=2, feature_steps="divided")


def test_teachers_of_worlds_with_features(result):
    """Tables are by state; learned teachers are linear in the features."""
    with pytest.raises(ValueError, match="by state"):
        teachers.from_logits(MDPS, result.logits[0])
    with pytest.raises(ValueError, match="sees='observation' needs one observation"):
        teachers.from_policy(MDPS, lambda row: 0, sees="observation")
    q = np.asarray(teachers.q_learning(jax.random.key(2), MDPS, num_iterations=40).scores).reshape(4, 3, 4, 4)
    np.testing.assert_allclose(q[:, 0, 0] - q[:, 1, 0], q[:, 0, 3] - q[:, 1, 3], atol=1e-5)
    assert np.abs(q[:, 0] - q[:, 1]).max() > 0.01


def test_pictures(result):
    figure = plotting.draw_weights(result.logits[0, 0], rows=[5, 2], title="Rows")
    mesh = figure.axes[0].collections[0]
    table = result.logits[0, 0][[5, 2]]
    np.testing.assert_allclose(mesh.get_array().reshape(2, 4), table - table.mean(-1, keepdims=True), atol=1e-6)
    assert mesh.norm.vmin == -mesh.norm.vmax
    figure = plotting.draw_feature(MDPS[0], result.logits[0, 0], 4)
    corners = {
        p.get_xy()
        for p in figure.axes[0].patches
        if p.get_facecolor()[:3] == pytest.approx((254 / 255, 227 / 255, 145 / 255))
    }
    assert corners == {(0.5, row - 0.5) for row in range(3)}  # row 4 of the table is the second column
    for wrong, message in [
        (lambda: plotting.draw_weights(result.logits[0]), "of one student"),
        (lambda: plotting.draw_weights(result.logits[0, 0], rows=[7]), r"rows must be whole numbers in \[0, 7\)"),
        (lambda: plotting.draw_weights(np.zeros((3000, 2))), "select some by rows"),
        (lambda: plotting.draw_feature(MDPS, result.logits[0, 0], 0), "logits must have shape"),
        (lambda: plotting.draw_feature(MDPS[0], result.logits[0, 0], 7), r"row must be a whole number in \[0, 7\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
