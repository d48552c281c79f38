"""topk, estimators and proximal: rows at rest with closed forms, the files, and wrong settings."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, estimators, proximal, rows, topk
from jaxdistill import MDP, Teacher, expected_update
from jaxdistill.theory.precision import float64
from jaxdistill.theory.stated_losses import TABLE_1
from tests.plotting import ambient

TEACHER, UNIFORM, START = topk.EXAMPLE.teacher, (0.25,) * 4, topk.EXAMPLE.start
RNG = np.random.default_rng(3)
PROBS, LOGITS = RNG.dirichlet(np.ones(4), 20), RNG.normal(size=(20, 4))


@functools.cache
def at_rest(name, owner):
    """Rows at rest from the uniform student, from the example's start and from 20 random rows, for k = 1, 2, 4."""
    method = topk.method_of(topk.VARIANTS[name], owner)
    probs = np.vstack([[TEACHER, TEACHER], PROBS])
    starts = np.vstack([np.log([UNIFORM, START]), LOGITS])
    end, speed = rows.rest(method, [1, 2, 4], probs, starts, 5000)
    return probs, np.exp(starts) / np.exp(starts).sum(-1, keepdims=True), end, speed


IMPLEMENTED = [("implemented", "student"), ("implemented_teacher", "teacher"), ("implemented_one", "student")]


@pytest.mark.parametrize(("name", "owner"), IMPLEMENTED)
def test_as_implemented_rests_where_the_policies_agree_on_the_k_actions(name, owner):
    """For any weights, so the mass outside is right too, even for k = 1; with all actions it is the teacher."""
    probs, _, end, speed = at_rest(name, owner)
    assert speed.max() <= rows.TOLERANCE
    for i, k in enumerate((1, 2, 4)):
        scores = end[i] if owner == "student" else probs
        inside = np.argsort(np.argsort(-scores, axis=-1), axis=-1) < k
        np.testing.assert_allclose(end[i][inside], probs[inside], atol=1e-6)


@pytest.mark.slow
def test_no_row_of_the_experiment_rests_at_a_saddle():
    arrays = topk.run(topk.Settings(ks=["2"]), "implemented_teacher", "student")
    assert arrays["speed"].max() <= rows.TOLERANCE
    np.testing.assert_allclose(arrays["mass"], arrays["teacher_mass"], atol=1e-6)


def test_as_written_leaves_the_mass_of_the_k_actions_alone():
    """Ratios within S become the teacher's, the mass of S does not; k = 1 does nothing at all."""
    probs, starts, end, speed = at_rest("written", "student")
    assert speed.max() <= rows.TOLERANCE
    np.testing.assert_allclose(end[0], starts, atol=1e-12)
    top = np.argsort(-end[1], axis=-1)[:, :2]
    ratio = [np.divide(*np.take_along_axis(x, top, -1).T) for x in (end[1], probs)]
    np.testing.assert_allclose(*ratio, rtol=1e-6)
    np.testing.assert_allclose(end[1, 1], (0.836, 0.020, 0.061, 0.084), atol=6e-4)
    excess = np.take_along_axis(end[1] - probs, top, -1).sum(-1)
    assert np.abs(excess).max() > 0.2
    np.testing.assert_allclose(end[2], probs, atol=1e-6)


BY_HAND = {  # from the uniform student, the teacher's S, k = 2
    "dropped": [0.5 / np.e, 0.3 / np.e, 0.5 - 0.4 / np.e, 0.5 - 0.4 / np.e],
    "forward_dropped": [0.625, 0.375, 0, 0],
    "forward_clamped": [0.506, 0.294, 0.1, 0.1],
    "forward_tail": [0.5, 0.3, 0.1, 0.1],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_places_of_rest_by_hand(name):
    """Rows at rest in closed form.

    With the other actions dropped, KL(pi_theta||pi) leaves S 1/e of the teacher's mass and KL(pi||pi_theta) moves all
    mass to S, or less of it when clamped at 0.
    """
    _, _, end, _ = at_rest(name, "teacher")
    np.testing.assert_allclose(end[1, 0], BY_HAND[name], atol=6e-4)


@pytest.mark.parametrize("name", ["implemented", "scalar"])
def test_a_row_is_a_world_of_one_state(name):
    method = dataclasses.replace(topk.method_of(topk.VARIANTS[name], "student"), params={"k": 2.0})
    world = MDP.from_arrays([[0]], [[0.0]], [[True]], np.ones((4, 1)))
    with float64():
        row = jnp.asarray(PROBS[0])
        teacher = Teacher(row[None], jnp.zeros(1), row[None])
        whole = expected_update(world, teacher, method, jnp.asarray(LOGITS[:1]), **TABLE_1).logits[0]
        ours = rows.update(method, 2.0, row, jnp.asarray(LOGITS[0]))
    np.testing.assert_allclose(ours, whole, atol=1e-12)
    assert (np.abs(whole).max() > 0.01) == (name != "scalar")


def test_what_the_command_writes(tmp_path, capsys, monkeypatch):
    settings = topk.Settings(
        out=str(tmp_path), variants=["scalar"], ks=["1", "3"], num_rows=5, num_actions=6, num_steps=10
    )
    topk.work(settings)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {
        "scalar-student.npz", "settings.json", "topk.md", "topk.pdf", "topk.png",
    }  # fmt: skip
    assert "| student | scalar | 1 |" in (tmp_path / "topk.md").read_text()
    capsys.readouterr()
    ambient.assert_drawn_again(tmp_path / "topk.png", lambda: topk.work(settings), monkeypatch)
    assert "1 parts, 1 of them" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "name", "line"),
    [
        (estimators, "estimators", "k1_reward | in each state visited: KL(pi_theta\\|\\|pi) | 0 (at most"),
        (proximal, "proximal", "largest relative difference 1e-15"),
    ],
)
def test_smoke(experiment, name, line, tmp_path, monkeypatch):
    settings = common.parse(experiment.Settings, name, experiment.SMOKE, [name, "--smoke"])
    settings = dataclasses.replace(settings, out=str(tmp_path))
    experiment.work(settings)
    ambient.assert_drawn_again(tmp_path / f"{name}.png", lambda: experiment.work(settings), monkeypatch)
    assert line in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("experiment", "flag", "message"),
    [
        (topk, {"variants": ["top_p"]}, "written, implemented"),
        (topk, {"ks": ["0"]}, "--ks must be whole numbers from 1"),
        (topk, {"ks": ["11"]}, "--num_actions; got '11'"),
        (topk, {"ks": ["two"]}, "got 'two'"),
        (topk, {"num_rows": 1}, "--num_rows must be at least 2"),
        (topk, {"concentration": 0.0}, "--concentration must be positive"),
        (topk, {"start_spread": -1.0}, "--start_spread"),
        (estimators, {"estimators": ["k4_loss"]}, "k1_loss"),
        (proximal, {"alphas": ["1"]}, "between 0 and 1; got '1'"),
        (proximal, {"alphas": ["half"]}, "got 'half'"),
        (proximal, {"num_mdps": 1}, "--num_mdps must be at least 2"),
        (estimators, {"concentration": -1.0}, "--concentration must be positive"),
    ],
)
def test_bad_settings(experiment, flag, message):
    with pytest.raises(ValueError) as error:
        experiment.check(experiment.Settings(**flag))
    assert message in str(error.value) and "\n" not in str(error.value)
