"""`Sweep` and `compare(tuned=...)` on results that are made by hand, so that each number is known."""

import dataclasses

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
    sweep = made(returns)
    fault = {"method": SETTINGS[5].label, "mdp": int(sweep.result.mdp_ids[3]), "iteration": 2}
    best = jd.Sweep(dataclasses.replace(sweep.result, faults=[fault])).best()
    assert best["jsd"].setting.label == "jsd 1.0 0.2"
    assert best["jsd"].left_out == {"because a student diverged": 1}
    assert "1 setting was left out, because a student diverged" in str(best)


def test_settings_with_unfinished_students_are_left_out_and_none_is_the_best_of_none():
    returns = np.arange(len(SETTINGS))[:, None] + np.zeros((len(SETTINGS), NUM_MDPS))
    returns[5, 3] = np.nan
    assert "students have not all finished" in str(made(returns).best())
    returns[6:, 0] = np.nan
    sweep = made(returns)
    with pytest.raises(ValueError, match="No setting of n_distill can be the best by return, because its students"):
        sweep.best()
    assert np.isnan(sweep.best_estimate("n_distill", {"learning_rate": 0.1}).estimate)
    with pytest.raises(ValueError, match="mdps is empty"):
        sweep.best(mdps=[])


def test_a_measure_that_is_infinite_has_no_best_setting_and_no_figure():
    """A deterministic teacher never takes some actions, so the reverse divergence of every student is infinite."""
    sweep = made()
    name, values = "reverse_kl:student", np.full((*sweep.result.returns.shape, 1), np.inf)
    settings = sweep.result.settings | {"measures": {name: name}}
    sweep = jd.Sweep(dataclasses.replace(sweep.result, measurements=values, measure_names=(name,), settings=settings))
    with pytest.raises(ValueError, match=r"reverse_kl is not finite.*reverse_kl:floor=0.001"):
        sweep.best("reverse_kl")
    for draw in (sweep.lines, lambda x, measure: sweep.heatmap(x, "learning_rate", measure)):
        with pytest.raises(ValueError, match="No setting of this sweep has a finite reverse_kl"):
            draw("beta", "reverse_kl")


def test_a_number_of_the_user_needs_a_direction():
    sweep = made()
    values = np.arange(len(SETTINGS))[:, None, None, None] + np.zeros((*sweep.result.returns.shape, 1))
    changes = dict(measurements=values, measure_names=("my_kl",))
    unknown = jd.Sweep(dataclasses.replace(sweep.result, **changes))
    with pytest.raises(ValueError, match=r'my_measure.better = "lower"'):
        unknown.best("my_kl")
    settings = sweep.result.settings | {"better": {"my_kl": "lower"}}
    known = jd.Sweep(dataclasses.replace(sweep.result, **changes, settings=settings))
    assert known.best("my_kl")["jsd"].setting == SETTINGS[0]


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
    lines = sweep.lines("beta").axes[0].lines
    (of_other,) = (line for line in lines if line.get_label() != "jsd" and not line.get_label().startswith("_"))
    assert sweep.lines("beta").axes[0].get_xscale() == "linear"
    assert of_other.get_marker() in ("", "None")  # it has no beta, so that nothing was measured at its values
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
