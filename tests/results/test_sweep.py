"""`Sweep` and `compare(tuned=...)` on results that are made by hand, so that each number is known."""

import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.results.sweep import Setting, as_sweep
from tests.results.random_results import make

RATES, BETAS = (0.1, 0.3, 1.0), (0.2, 0.8)
SETTINGS = [Setting(f"jsd {r} {b}", "jsd", {"learning_rate": r, "beta": b}) for r in RATES for b in BETAS]
SETTINGS += [Setting(f"n_distill {r}", "n_distill", {"learning_rate": r}) for r in RATES]
NUM_MDPS = 40


def result_of(labels, returns):
    """A result whose curves have one point, the exact return [P, M] of the final students."""
    options = dict(num_mdps=returns.shape[1], num_checkpoints=1, returns=returns[..., None], final_returns=returns)
    return make(labels=tuple(labels), **options)


def made(returns=None):
    """A sweep in which the mean of a setting is its position, unless `returns` [P, M] are given."""
    rng = np.random.default_rng(0)
    if returns is None:
        returns = np.arange(len(SETTINGS))[:, None] + rng.normal(size=(len(SETTINGS), NUM_MDPS)) * 0.1
    result = result_of([setting.label for setting in SETTINGS], returns)
    return as_sweep(result, {"learning_rate": RATES, "beta": BETAS}, SETTINGS)


def test_the_best_settings():
    best = made().best()
    assert best["jsd"].setting.parameters == {"learning_rate": 1.0, "beta": 0.8}
    assert best["n_distill"].setting.label == "n_distill 1.0" == best.labels[1]
    assert best["jsd"].at_edge == ("learning_rate",)  # `beta` has two values, both at an edge
    assert "learning_rate at the edge of the grid" in str(best) and best["jsd"].num_settings == 6
    with pytest.raises(KeyError, match="no method 'x'"):
        best["x"]


def test_a_setting_that_diverged_is_not_the_best():
    returns = np.arange(len(SETTINGS))[:, None] + np.zeros((len(SETTINGS), NUM_MDPS))
    returns[5, 3] = np.nan
    returns[6:, :] = np.nan
    best = made(returns).best()
    assert best["jsd"].setting.label == "jsd 1.0 0.2" and best["jsd"].num_diverged == 1
    assert "1 settings were left out" in str(best)
    assert best["n_distill"].num_diverged == 3  # all of them: the first one stands for the method


def test_tables():
    sweep = made()
    table = sweep.to_dataframe()
    assert list(table) == ["method", "learning_rate", "beta", "mdp", "iteration", "return", "length"]
    of_setting = table[(table.method == "jsd") & (table.learning_rate == 0.3) & (table.beta == 0.8)]
    np.testing.assert_array_equal(of_setting["return"], sweep.result.returns[3].reshape(-1))
    assert table[table.method == "n_distill"].beta.isna().all()


def test_named_axes():
    pytest.importorskip("xarray")
    sweep = made()
    dataset = sweep.to_xarray()
    assert dataset.final_returns.dims == ("method", "learning_rate", "beta", "mdp")
    picked = dataset.final_returns.sel({"method": "jsd", "learning_rate": 0.3, "beta": 0.8})
    np.testing.assert_array_equal(picked, sweep.result.final_returns[3])
    for beta in BETAS:  # n_distill has no beta: the same numbers for all
        picked = dataset.final_returns.sel({"method": "n_distill", "learning_rate": 0.1, "beta": beta})
        np.testing.assert_array_equal(picked, sweep.result.final_returns[6])


def test_files(tmp_path):
    sweep = made()
    loaded = jd.Sweep.load(sweep.save(tmp_path / "sweep.npz"))
    assert loaded.settings == sweep.settings and loaded.grid == sweep.grid
    result_of(["a"], np.zeros((1, 9))).save(tmp_path / "run.npz")
    with pytest.raises(ValueError, match="not that of a sweep"):
        jd.Sweep.load(tmp_path / "run.npz")
    with pytest.raises(ValueError, match="not that of a sweep"):
        jd.Sweep(sweep.result.select(labels=["jsd 0.1 0.2"]))


def test_figures():
    sweep = made()
    figure = sweep.lines("learning_rate")
    (ax,) = figure.axes
    of_jsd = next(line for line in ax.lines if line.get_label() == "jsd")
    np.testing.assert_allclose(of_jsd.get_ydata(), [1, 3, 5], atol=0.1)  # at the better of the two betas
    assert ax.get_xscale() == "log"
    heatmap = sweep.heatmap("learning_rate", "beta")
    panel = heatmap.axes[0]
    np.testing.assert_allclose(panel.images[0].get_array(), [[0, 2, 4], [1, 3, 5]], atol=0.1)
    (frame,) = panel.patches
    assert frame.get_xy() == (1.5, 0.5)
    for call in (lambda: sweep.lines("x"), lambda: sweep.heatmap("learning_rate", "x")):
        with pytest.raises(ValueError, match="Unknown parameter 'x'"):
            call()
    with pytest.raises(ValueError, match="two different parameters"):
        sweep.heatmap("beta", "beta")


def test_tuned_settings_are_judged_on_other_worlds():
    """All settings are equally good, so the best of six is lucky: on the worlds that chose it, not on the others.

    Over 300 sweeps, the mean of the tuned method is 0 within 4 standard errors; on the worlds that chose it, the mean
    of the best of 6 would be 1.27 / sqrt(20) = .28.
    """
    rng, means, means_when_choosing = np.random.default_rng(1), [], []
    for _ in range(300):
        sweep = made(rng.normal(size=(len(SETTINGS), NUM_MDPS)))
        table = jd.compare(sweep, "jsd", tuned="return")
        means.append(table.rows[0].mean.estimate)
        assert table.rows[0].num_mdps == NUM_MDPS // 2
        means_when_choosing.append(sweep.best()["jsd"].estimate.estimate)
    error = np.std(means, ddof=1) / np.sqrt(len(means))
    assert abs(np.mean(means)) < 4 * error < 0.1 < np.mean(means_when_choosing)


def test_tuned_comparisons_name_their_settings():
    table = jd.compare(made(), "n_distill", tuned="return")
    assert [row.label for row in table.rows] == ["jsd 1.0 0.8", "n_distill 1.0"] and table.baseline == "n_distill 1.0"
    assert "chosen by return on 20 worlds, and are judged on 20 others" in str(table)
    assert len(jd.compare(made()).rows) == len(SETTINGS)  # without `tuned`, all settings


def test_tuned_refusals():
    with pytest.raises(ValueError, match=r"tuned needs the result of jaxdistill\.sweep"):
        jd.compare(made().result, tuned="return")
    with pytest.raises(ValueError, match="Unknown method 'x'"):
        jd.compare(made(), "x", tuned="return")
    few = as_sweep(made().result.select(mdps=range(10)), {"learning_rate": RATES, "beta": BETAS}, SETTINGS)
    with pytest.raises(ValueError, match="tuned needs at least 16 worlds"):
        jd.compare(few, tuned="return")
