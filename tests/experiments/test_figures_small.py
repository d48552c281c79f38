"""Figs. 2, 6, 7 and 9 at a tiny scale: their files, their claims, the second call, and wrong flags."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from experiments import common, fig2, fig6, fig7, fig9
from experiments.oscillation import log_odds
from jaxdistill.mdp import exact
from tests.plotting import ambient

# Sizes large enough for the claims of Figs. 2 and 6. Figs. 6 and 9 have the same length, so that they share compiled
# programs, whose compilation takes most of the time here.
LENGTH = 3
TINY = {"num_students": 16, "num_iterations": 1000, "num_checkpoints": 20}
SIZES = {
    "fig2": {"num_students": 130, "num_iterations": 3000, "num_checkpoints": 4},
    # With the presets' constant normaliser, students of the reward need many more episodes in short corridors.
    "fig6": TINY | {"length": LENGTH, "reduction": "mean"},
    "fig9": TINY | {"lengths": [str(LENGTH)], "methods": ["baseline", "on_policy_distill"], "reduction": "mean"},
    "fig7": {"num_rows": 8, "num_cols": 9, "p_plus10": 0.05},
}
FIGURES = {"fig2": fig2, "fig6": fig6, "fig9": fig9, "fig7": fig7}
PARTS = {
    "fig2": ("expected", "field", "sampled"),
    "fig6": ("optimal", "adversarial"),
    "fig9": ("optimal_3", "adversarial_3"),
    "fig7": ("world",),
}


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory):
    """A function that runs a figure, once, and returns its settings."""
    made = {}

    def run(name):
        if name not in made:
            figure = FIGURES[name]
            made[name] = figure.Settings(out=str(tmp_path_factory.mktemp(name)), **SIZES[name])
            figure.work(made[name])
        return made[name]

    return run


@pytest.fixture(scope="module")
def parts_of(settings_of):
    """A function that returns the saved parts of a figure."""

    def read(name):
        outdir = common.prepare_outdir(settings_of(name))
        return common.run_parts(settings_of(name), outdir, dict.fromkeys(PARTS[name]))  # all parts are read

    return read


@pytest.mark.parametrize("name", list(FIGURES))
def test_everything_is_written_and_finite(name, settings_of, parts_of):
    outdir = common.prepare_outdir(settings_of(name))
    for stem in (name, "fig7_world") if name == "fig7" else (name,):
        for suffix in ("png", "pdf"):
            assert (outdir / f"{stem}.{suffix}").stat().st_size > 10_000
    for part in parts_of(name).values():
        if isinstance(part, jaxdistill.Result):
            part = {"returns": part.returns, "final": part.final_returns, "teacher": part.optimal_returns}
        for array in part.values():
            assert np.isfinite(array).all()


@pytest.mark.parametrize("name", list(FIGURES))
def test_second_call_draws_without_running(name, settings_of, monkeypatch, capsys):
    settings = settings_of(name)
    outdir = common.prepare_outdir(settings)
    before = {path.name: path.stat().st_mtime_ns for path in outdir.glob("*.npz")}
    monkeypatch.setattr(jaxdistill, "train", None)
    ambient.assert_drawn_again(outdir / f"{name}.png", lambda: FIGURES[name].work(settings), monkeypatch)
    assert {path.name: path.stat().st_mtime_ns for path in outdir.glob("*.npz")} == before
    assert f"{len(before)} parts, {len(before)} of them from" in capsys.readouterr().out


def test_fig2_cycles_and_converges(parts_of):
    """Exact dynamics: closed orbits for on-policy distillation + R, P(R|s0) > 0.99 for N-distill + R."""
    settings = fig2.Settings()  # the 9000 steps of the figure
    flow = fig2.flow_of(settings, "on_policy_distill_r")
    path = np.asarray(log_odds(fig2.integrate(flow, jnp.asarray(fig2.start(settings)), settings)), np.float64)
    assert len(path) == 9001
    assert fig2.drift(path) < 1e-4
    probs = fig2.probabilities(path)[:, 0]
    crossings = np.flatnonzero(np.diff(np.sign(probs[1:] - 0.5)))
    assert len(crossings) >= 8
    # All turns are equally long and equally wide, so there is no convergence.
    assert np.ptp(np.diff(crossings)) <= 2
    assert probs[6000:].max() == pytest.approx(probs[:3000].max(), abs=1e-4)
    paths = parts_of("fig2")["expected"]
    np.testing.assert_allclose(paths["on_policy_distill_r"], path[:3001], atol=1e-5)
    assert fig2.probabilities(paths["n_distill_r"])[-1, 0] > 0.99
    assert fig2.drift(paths["n_distill_r"]) > 1


def test_fig2_sampled_students(parts_of):
    """Students of N-distill + R end near P(R|s0) = 1; those of on-policy distillation + R cycle."""
    data = parts_of("fig2")["sampled"]
    ends = {name: fig2.probabilities(data[name][:, -1, 0]) for name in fig2.TITLES}
    assert ends["n_distill_r"].min() > 0.98
    assert ends["on_policy_distill_r"].min() < 0.3
    assert ends["on_policy_distill_r"].max() > 0.7
    integral = fig2.first_integral(data["on_policy_distill_r"])
    np.testing.assert_allclose(integral[:, 0], 2 + 2 * np.cosh(2), rtol=1e-6)
    # The integral is convex, so noise raises its mean, here by more than 4 standard errors.
    gain = integral[:, -1] - integral[:, 0]
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))


def test_fig2_segments_use_different_random_numbers():
    """At a tiny learning rate the policy hardly moves, so equal random numbers would give equal changes."""
    tiny = {"num_students": SIZES["fig2"]["num_students"], "learning_rate": 1e-4}
    data = fig2.sampled(fig2.Settings(num_iterations=30, num_checkpoints=3, **tiny))
    np.testing.assert_array_equal(data["iterations"], [0, 10, 20, 30])
    for name in fig2.TITLES:
        np.testing.assert_array_equal(data[name][:, 0], [[0, 2]] * tiny["num_students"])
        changes = np.diff(data[name], axis=1)
        assert np.abs(changes).max() < 0.05
        assert np.corrcoef(changes[:, 1, 1], changes[:, 2, 1])[0, 1] < 0.35  # 4 standard errors of 130 students


def test_fig6_claims(parts_of):
    """Students that learn from the reward exceed an adversarial teacher; on-policy distillation copies it."""
    results = parts_of("fig6")
    optimum = results["optimal"].optimal_returns[0]
    assert optimum == pytest.approx(0.977, abs=0.001)  # solved independently in the tests of the corridor
    final = {}
    for teacher, value in (("optimal", optimum), ("adversarial", -optimum)):
        result = results[teacher]
        np.testing.assert_allclose(result.teacher_returns[1:], value, atol=1e-5)  # the baseline has no teacher
        np.testing.assert_allclose(result.uniform_returns, 0, atol=1e-5)
        assert len(np.unique(result.returns[0], axis=0)) == TINY["num_students"]  # independent students
        final[teacher] = dict(zip(result.labels, result.final_returns.mean(1), strict=True))
    for name in ("baseline", "teacher_v_reward"):
        assert final["adversarial"][name] > optimum - 0.1
    assert final["adversarial"]["on_policy_distill"] < -optimum + 0.1
    assert final["optimal"]["on_policy_distill"] > optimum - 0.1


def test_fig9_contains_fig6(parts_of):
    """A corridor of Fig. 6 has the same students in Fig. 9; each length is a column."""
    nine = parts_of("fig9")
    six = parts_of("fig6")["adversarial"].select(SIZES["fig9"]["methods"])
    np.testing.assert_array_equal(nine["adversarial_3"].returns, six.returns)
    settings = fig9.Settings(lengths=["3", "4"], methods=SIZES["fig9"]["methods"])
    figure = fig9.plot(settings, nine | {"optimal_4": nine["optimal_3"], "adversarial_4": six})
    assert [ax.get_title() for ax in figure.axes] == ["3 moves to either end", "4 moves to either end", "", ""]
    # Two methods, the teacher, the uniform policy, and the optimal policy unless it is the teacher.
    assert [len(ax.get_lines()) for ax in figure.axes] == [4, 4, 5, 5]


def test_fig7_numbers(settings_of, parts_of):
    """Visits sum to the mean length of an episode, and the return is that of the policy on the world drawn."""
    data = parts_of("fig7")["world"]
    mdp = fig7.world_of(settings_of("fig7"), data)
    length = exact.start_value(mdp, exact.expected_length(mdp, data["policy"]))
    assert data["visits"].sum() == pytest.approx(float(length), rel=1e-4)
    assert data["visits"][int(mdp.start[0])] >= 1
    assert data["return"] == pytest.approx(float(exact.start_value(mdp, exact.policy_values(mdp, data["policy"]))))
    worlds = jaxdistill.sample_mdps(common.keys(0).worlds, 3, settings_of("fig7").grid_config())
    np.testing.assert_array_equal(mdp.successor, worlds[0].successor)  # the first of any number of worlds
    other = dataclasses.replace(settings_of("fig7"), num_mdps=3, world=2, policy="uniform")
    np.testing.assert_array_equal(fig7.compute(other)["reward"], worlds.grid.reward[2])


@pytest.mark.parametrize(
    ("name", "flag", "expected"),
    [
        ("fig2", "--num_students=0", "num_students"),
        ("fig2", "--start_x=nan", "start_x"),
        ("fig2", "--reduction=median", "mean"),
        ("fig6", "--teachers=q_learning", "adversarial"),
        ("fig6", "--methods=clone", "on_policy_distill"),
        ("fig6", "--num_students=0", "num_students"),
        ("fig6", "--length=0", "length"),
        ("fig6", "--noise=2", "noise"),
        ("fig6", "--estimator=bootstrap", "estimator"),
        ("fig9", "--lengths=2,x", "lengths"),
        ("fig9", "--lengths=2,2", "distinct"),
        ("fig9", "--lengths=5,0", "length"),
        ("fig9", "--lengths=", "at least one"),
        ("fig7", "--world=1", "num_mdps"),
        ("fig7", "--num_mdps=0", "num_mdps"),
        ("fig7", "--policy=best", "optimal"),
        ("fig7", "--discount=1.5", "discount"),
        ("fig7", "--p_wall=2", "p_wall"),
    ],
)
def test_bad_flags(name, flag, expected, capsys, tmp_path):
    """Exit code 2, one line, and nothing written."""
    figure = FIGURES[name]
    with pytest.raises(SystemExit) as stopped:
        settings = common.parse(figure.Settings, name, figure.SMOKE, [name, f"--out={tmp_path}/new", "--smoke", flag])
        try:
            figure.work(settings)
        except ValueError as error:
            common.fail(str(error))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("new/*"))


def test_fig6_with_fewer_methods_and_teachers(parts_of):
    settings = fig6.Settings(methods=["baseline", "on_policy_distill"], teachers=["adversarial"])
    figure = fig6.plot(settings, {"adversarial": parts_of("fig6")["adversarial"]})
    assert [len(ax.get_lines()) for ax in figure.axes] == [5]
