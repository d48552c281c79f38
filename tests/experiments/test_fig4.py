"""Figures 4 and 10: many actions that do nothing."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from experiments import common, fig4, fig10
from jaxdistill.mdp import exact
from tests.plotting import ambient

TINY = {
    "num_actions": ["4", "40"], "num_mdps": ["3"], "num_iterations": ["30"], "num_checkpoints": 3, "num_rows": 5,
    "num_cols": 6, "p_plus10": 0.1, "teacher_iterations": 200,
}  # fmt: skip


def settings_of(module, **changes):
    """Resolved and checked settings of a tiny run, with changes."""
    settings = fig4.resolve(module.Settings(**(TINY | changes)))
    fig4.check(settings)
    return settings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Settings of a tiny run, its folder, its parts."""
    outdir = tmp_path_factory.mktemp("fig4")
    settings = settings_of(fig4, out=str(outdir))
    fig4.work(fig4.Settings(**TINY, out=str(outdir)))
    return settings, outdir, fig4.run(settings, outdir)


def test_what_is_written(tiny):
    settings, outdir, parts = tiny
    assert json.loads((outdir / "settings.json").read_text())["settings"]["num_iterations"] == [30, 30]
    assert (outdir / "fig4.png").stat().st_size > 20_000
    for name, panel in fig4.panels(settings).items():
        assert parts[name].labels == tuple(fig4.METHODS)
        assert parts[name].returns.shape == (5, 3, 3)
        assert np.isfinite(parts[name].returns).all()
        assert parts[name].settings["config"]["num_iterations"] == panel.num_iterations
    lines = fig4.table(settings, parts)
    assert sum("| 30 |" in line for line in lines) == 10


def test_all_panels_have_the_same_worlds(tiny):
    """So they have the same teacher, and differences are paired; more worlds do not change the first ones."""
    settings, _, parts = tiny
    four, forty = (fig4.worlds(panel) for panel in fig4.panels(settings).values())
    more = fig4.worlds(dataclasses.replace(settings, num_actions=4000, num_mdps=5))
    for other in (forty, more):
        np.testing.assert_array_equal(four.reward, other.reward[:3])
        np.testing.assert_array_equal(four.successor, other.successor[:3])
    np.testing.assert_allclose(parts["actions4"].teacher_returns, parts["actions40"].teacher_returns, atol=1e-4)
    assert not np.allclose(parts["actions4"].uniform_returns, parts["actions40"].uniform_returns)
    np.testing.assert_allclose(parts["moves"]["uniform_returns"], parts["actions4"].uniform_returns, atol=1e-4)


def test_the_teacher_never_plays_an_idle_action(tiny):
    settings, _, parts = tiny
    mdps = fig4.worlds(fig4.panels(settings)["actions40"])
    teacher = fig4.with_idle_actions(mdps, parts["moves"]["probs"], 0.99)
    assert np.asarray(teacher.probs)[..., 4:].max() == 0
    four = fig4.worlds(fig4.panels(settings)["actions4"])
    values = exact.policy_values(four, jnp.asarray(parts["moves"]["probs"]), 0.99)
    np.testing.assert_allclose(teacher.values, values, atol=1e-4)


def test_little_memory_changes_no_number(tiny, monkeypatch):
    """One world at a time gives the numbers of all worlds at once."""
    settings, _, parts = tiny
    monkeypatch.setattr(fig4, "worlds_at_once", lambda panel: 1)
    panel = fig4.panels(settings)["actions40"]
    alone = fig4.run_panel(panel, parts["moves"]["probs"])
    for name in ("returns", "lengths", "final_returns", "uniform_returns", "teacher_returns", "mdp_ids"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(parts["actions40"], name), name)


def test_memory_decides_how_many_worlds_are_trained_at_once():
    panel = fig4.panels(settings_of(fig4, num_actions=["4000"], num_rows=20, num_cols=20, memory_gib=30.0))[
        "actions4000"
    ]
    worlds = dataclasses.replace(panel, num_mdps=1000)
    assert 100 < fig4.worlds_at_once(worlds) < 1000
    assert fig4.worlds_at_once(panel) == 3
    less = fig4.worlds_at_once(dataclasses.replace(worlds, memory_gib=8.0))
    assert 1 < less < 200
    with pytest.raises(ValueError, match=r"memory_gib=\d"):
        fig4.worlds_at_once(dataclasses.replace(worlds, memory_gib=1.0))


def test_uniform_policy_against_the_paper():
    """Exact returns on 300 worlds against those of Fig. 4, within 3 standard errors and 0.15 of reading error."""
    mean, error = {}, {}
    for num_actions in (4, 40, 400, 4000):
        mdps = fig4.worlds(fig4.Settings(num_actions=num_actions, num_mdps=300))
        returns = np.asarray(exact.start_value(mdps, exact.policy_values(mdps, exact.uniform_policy(mdps))))
        mean[num_actions], error[num_actions] = returns.mean(), returns.std(ddof=1) / np.sqrt(len(returns))
    for num_actions, paper in {4: -2.4, 40: -6.5, 400: -4.2, 4000: -1.0}.items():
        assert abs(mean[num_actions] - paper) < 3 * error[num_actions] + 0.15, (mean, error)


def test_the_estimated_time_uses_the_length_of_uniform_episodes(tiny):
    settings, _, _ = tiny
    panel = fig4.panels(settings)["actions40"]
    mdps = fig4.worlds(panel)
    length = exact.start_value(mdps, exact.expected_length(mdps, exact.uniform_policy(mdps))).mean()
    assert 30 < length < 100
    per_step = fig4.seconds(panel, mdps) / (3 * 5 * 30 * float(length))
    assert 1e-8 < per_step < 1e-5
    assert fig4.seconds(dataclasses.replace(panel, estimator="mc"), mdps) == pytest.approx(
        2 * fig4.seconds(panel, mdps)
    )


def test_fig10_reads_the_methods_of_fig4(tiny, tmp_path, capsys):
    """Methods of fig4 are read from its folder, bit for bit; the others are trained on the same worlds."""
    _, folder, parts = tiny
    methods = ["on_policy_distill", "n_distill", "baseline"]
    fig10.work(fig10.Settings(**TINY, out=str(tmp_path), shared=str(folder), methods=methods))
    assert f"actions40: from {folder}" in capsys.readouterr().out
    for name in ("actions4", "actions40"):
        result = jaxdistill.load(tmp_path / f"{name}.npz")
        assert result.labels == tuple(methods)
        for method in ("on_policy_distill", "baseline"):
            ours, theirs = (r.returns[r.method_index(method)] for r in (result, parts[name]))
            np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(result.returns).all()


def test_fig10_does_not_read_results_of_other_settings(tiny, tmp_path):
    _, folder, _ = tiny
    settings = settings_of(fig10, shared=str(folder), out=str(tmp_path), seed=1)
    assert fig10.from_fig4(settings, "moves") is None
    settings = settings_of(fig10, shared=str(folder), out=str(tmp_path))
    assert fig10.from_fig4(settings, "moves") is not None
    # With more worlds than fig4 had, neither its panels nor its teachers can be used.
    settings = settings_of(fig10, shared=str(folder), num_mdps=["4"])
    assert len(fig10.moves(settings)["uniform_returns"]) == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_actions": ["3"]}, "at least 4"),
        ({"num_actions": ["4", "4"]}, "different"),
        ({"num_actions": ["many"]}, "whole numbers"),
        ({"num_mdps": ["1", "2", "3"]}, "each of 2 panels"),
        ({"num_mdps": ["0"]}, "at least 1"),
        ({"num_iterations": ["5", "ten"]}, "num_iterations"),
        ({"methods": ["clone"]}, "on_policy_distill"),
        ({"methods": ["td_v0"], "estimator": "mc"}, "estimator=td"),
        ({"teacher": "parent"}, "moves"),
        ({"estimator": "td5"}, "td"),
        ({"teacher_iterations": 0}, "teacher_iterations"),
        ({"memory_gib": 0.1}, "memory_gib"),
        ({"noise": 2.0}, "noise"),
    ],
)
def test_bad_settings(changes, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        settings_of(fig4, **changes)
    assert "\n" not in str(caught.value)


def test_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fig4"])
    settings = common.parse(fig4.Settings, "fig4", fig4.SMOKE, ["fig4", "--num_actions=40,4000", "--num_iterations=7"])
    resolved = fig4.resolve(settings)
    assert resolved.num_actions == [40, 4000]
    assert resolved.num_mdps == [fig4.SIZES[40][0], fig4.SIZES[4000][0]]
    assert resolved.num_iterations == [7, 7]


def test_the_figure_has_its_lines(tiny, monkeypatch):
    settings, _, parts = tiny
    figure = fig4.plot(settings, parts)
    assert [len(ax.get_lines()) for ax in figure.axes] == [5 + 2, 5 + 3]  # with 4 actions, one uniform policy
    ambient.assert_same_pictures(lambda: fig4.plot(settings, parts), ["all"], monkeypatch)


def test_a_teacher_that_meets_all_actions(tiny):
    """It has probabilities for all actions, and it is the teacher that the students have."""
    settings, _, _ = tiny
    panel = dataclasses.replace(fig4.panels(settings)["actions40"], teacher="all")
    mdps = fig4.worlds(panel)
    teacher = fig4.learn(panel, mdps)
    assert teacher.probs.shape == (3, 30, 40)
    result = fig4.run_panel(dataclasses.replace(panel, methods=["on_policy_distill"]), np.zeros((0, 30, 4)))
    learned = exact.start_value(mdps, exact.policy_values(mdps, teacher.probs))
    np.testing.assert_allclose(result.teacher_returns[0], learned, atol=1e-4)
