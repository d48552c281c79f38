"""The calibration: its readings, its choice of worlds, its predictions, and the command at a tiny scale."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import jaxdistill
from experiments import calibration, common, fig3, fig8
from experiments.common.presets import preset_flags
from experiments.readings import curves, factors, predictions, scores, surrogate, worlds
from jaxdistill.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


def test_paper_points_are_at_distance_0_in_their_own_order():
    targets = curves.targets()
    assert scores.distances(targets) == 0
    assert scores.orderings(targets) == (75, 75)
    assert scores.orderings(-targets)[0] == 0
    assert set(scores.by_group(targets + 0.5).values()) == {0.5}


def test_difference_of_distances_is_that_of_the_means():
    """To first order: exactly, where no mean changes its side of a point."""
    values = curves.targets() + RNG.normal(0.4, 0.1, (50, len(curves.targets())))
    other = curves.targets() + RNG.normal(-0.7, 0.1, values.shape)
    exact = scores.distances(values.mean(axis=0)) - scores.distances(other.mean(axis=0))
    interval = scores.difference(values, other)
    np.testing.assert_allclose(interval.estimate, exact, atol=1e-12)
    assert interval.low < exact < interval.high


def test_design_has_every_level_equally_often():
    levels = factors.design(24, 3)
    for f, factor in enumerate(factors.FACTORS.values()):
        counts = np.bincount(levels[:, f], minlength=len(factor.levels))
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(factors.as_levels(factors.from_levels(levels)), levels)


def test_every_reading_is_listed_once():
    levels = factors.all_levels()
    assert len(np.unique(levels, axis=0)) == len(levels) == np.prod([len(f.levels) for f in factors.FACTORS.values()])
    literal = levels[factors.is_literal(levels)]
    assert len(literal) == np.prod([len(f.literal) for f in factors.FACTORS.values()])


def test_every_level_is_a_setting_of_fig8():
    fields = {field.name for field in dataclasses.fields(fig8.Settings)}
    for reading in factors.from_levels(factors.design(12, 0)):
        given = factors.flags(reading)
        assert given.pop("expected_returns") in (True, False)  # of Fig. 4 alone
        assert given.keys() <= fields
        ratio = given["value_learning_rate"] / given["learning_rate"]
        assert ratio == pytest.approx(float(reading["value_rate"]))
        fig8.check(fig8.Settings(**given))


@pytest.fixture(scope="module")
def problem():
    return curves.teach("0.1", 3, 30, 0)


def test_levels_that_are_not_relevant_do_not_change_the_cell(problem):
    """A curve is trained once for all readings that agree in its relevant levels."""
    base = factors.from_levels(np.zeros((1, len(factors.FACTORS)), int))[0]
    for curve, (name, factor) in itertools.product(curves.curves(), factors.FACTORS.items()):
        if name in curves.relevant(curve, base) or name == "transitions":
            continue
        first = curves.cell(curve, base, problem, 0)
        for level in factor.levels:
            other = curves.cell(curve, base | {name: level}, problem, 0)
            assert other.method == first.method
            # A V_theta that nothing reads may be fitted at any rate, and no return may have any estimator.
            unread = {"value_rate": "value_learning_rate", "first_column": "estimator"}.get(name)
            assert other.changes.keys() == first.changes.keys()
            assert all(other.changes[k] == v for k, v in first.changes.items() if k != unread)
            if first.teacher is not None:
                np.testing.assert_array_equal(first.teacher.probs, other.teacher.probs)


def test_numbers_that_are_not_relevant_do_not_change_the_returns(problem):
    """The rate of a V_theta that nothing reads, and the estimator where there is no return, by training both ways."""
    base = factors.from_levels(np.zeros((1, len(factors.FACTORS)), int))[0]
    for name, level in (("value_rate", "0.1"), ("first_column", "td")):
        unread = [c for c in curves.curves() if c.figure == "fig5" and name not in curves.relevant(c, base)]
        assert unread
        results = [
            jaxdistill.train(
                common.keys(0).students, problem.mdps, num_iterations=40, num_checkpoints=2,
                methods={curve.name: curves.cell(curve, reading, problem, 0) for curve in unread},
            )
            for reading in (base, base | {name: level})
        ]  # fmt: skip
        np.testing.assert_array_equal(results[0].returns, results[1].returns)


def test_relevant_levels_change_the_cell(problem):
    base = factors.from_levels(np.zeros((1, len(factors.FACTORS)), int))[0]
    for curve in curves.curves():
        first = curves.cell(curve, base, problem, 0)
        for name in curves.relevant(curve, base).keys() - {"transitions", "ties"}:  # 3 worlds may have no ties
            changed = [curves.cell(curve, base | {name: level}, problem, 0) for level in factors.FACTORS[name].levels]
            different = [
                cell.changes != first.changes
                or cell.method != first.method
                or (cell.teacher is not None and not np.array_equal(cell.teacher.probs, first.teacher.probs))
                for cell in changed
            ]
            assert any(different), (curve.name, name)


def test_points_are_interpolated_between_the_centres_of_bins():
    iterations = np.arange(100, 40_001, 100)
    line = iterations - 50.0  # the mean of a straight line over each bin
    values = curves.at_points(iterations, np.broadcast_to(line, (2, len(curves.curves()), len(line))))
    expected = [k for curve in curves.curves() for k in curve.points]
    np.testing.assert_allclose(values, [expected, expected])


def test_representative_worlds_cannot_be_improved_by_one_exchange():
    features = RNG.normal(size=(12, 3)) * [1.0, 10.0, 0.1] + 5

    def gap(chosen):
        scaled = (features - features.mean(axis=0)) / features.std(axis=0)
        return np.sum(scaled[list(chosen)].mean(axis=0) ** 2)

    chosen = worlds.representative(features, 4)
    assert len(set(chosen)) == 4
    others = set(range(12)) - set(chosen)
    exchanges = [gap((set(chosen) - {i}) | {j}) for i in chosen for j in others]
    assert gap(chosen) <= min(exchanges) + 1e-12
    gaps = [gap(c) for c in itertools.combinations(range(12), 4)]
    assert gap(chosen) < np.quantile(gaps, 0.1)
    np.testing.assert_array_equal(worlds.representative(features, 12), np.arange(12))


def test_surrogate_predicts_readings_that_were_not_trained():
    """The curve's values are a sum of effects of its factors and of one interaction."""
    curve = next(c for c in curves.curves() if c.name == "fig5/td_noise15/on_policy_distill_r")
    point = sum(len(c.points) for c in curves.curves()[: curves.curves().index(curve)])
    levels = factors.all_levels()
    levels = levels[RNG.permutation(len(levels))[:400]]
    names = list(factors.FACTORS)
    columns = [names.index(name) for name in curves.relevant(curve, factors.from_levels(levels[:1])[0])]
    effects = RNG.normal(size=(len(names), 5))
    values = sum(effects[f, levels[:, f]] for f in columns)
    values = values + levels[:, names.index("loss_visits")] * levels[:, names.index("transitions")]
    trained, many_worlds = np.arange(200), np.full(200, 1e9)
    tables = np.repeat(values[trained, None], len(curves.targets()), axis=1)
    predicted = surrogate.predict(levels[trained], tables, many_worlds, levels)[:, point]
    np.testing.assert_allclose(predicted[trained], values[trained], atol=0.05)
    error = np.sqrt(np.mean((predicted[200:] - values[200:]) ** 2))
    assert error < 0.5 * values.std()


def test_surrogate_leaves_out_readings_with_diverged_students():
    levels = factors.design(6, 0)
    values = RNG.normal(size=(6, len(curves.targets())))
    with_fault = values.copy()
    with_fault[2, 5] = np.nan
    kept = [0, 1, 3, 4, 5]
    both = [
        surrogate.predict(levels[rows], x[rows], np.ones(len(rows)), levels)
        for x, rows in ((with_fault, list(range(6))), (values, kept))
    ]
    np.testing.assert_array_equal(*both)


def test_smoke_run_writes_the_page_and_is_not_repeated(tmp_path, capsys):
    settings = calibration.Settings(**calibration.SMOKE, smoke=True, out=str(tmp_path))
    calibration.work(settings)
    page = (tmp_path / "calibration.md").read_text()
    for title in ("choices", "Distances", "tell apart", "no reading explains", "Predictions", "The points"):
        assert title in page
    assert page.count("\n| fig5/") > len(curves.targets()) * 0.6
    assert json.loads((tmp_path / "readings.json").read_text()).keys() == set(calibration.KINDS)
    assert (tmp_path / "calibration.png").stat().st_size > 20_000
    capsys.readouterr()
    calibration.work(settings)
    printed = capsys.readouterr().out
    assert printed.count("1 parts, 1 of them") == 2  # the rounds
    assert "3 parts, 3 of them" in printed  # the two best readings, and their predictions for one figure
    rows = [line for line in page.splitlines() if line.startswith("| fig6/")]
    assert len(rows) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readings": ["4", "x"]}, "--readings takes whole numbers"),
        ({"readings": ["4"]}, "need as many numbers"),
        ({"readings": ["4", "1"]}, "at least 2 in each round"),
        ({"num_mdps": 1}, "--num_mdps must be at least 2"),
        ({"predict": ["fig5"]}, "fig5"),
        ({"final_worlds": 0}, "--final_worlds must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        calibration.check(calibration.Settings(**(calibration.SMOKE | change)))


def test_predictions_take_the_flags_of_the_reading():
    reading = factors.from_levels(factors.all_levels()[-1:])[0]
    settings = predictions.settings_of(fig3, calibration.Settings(seed=7), reading, num_mdps=5)
    assert (settings.num_mdps, settings.seed, settings.noise) == (5, 7, factors.flags(reading)["noise"])
    assert settings.learning_rate == factors.flags(reading)["learning_rate"]


def test_the_page_of_the_documentation_is_that_of_these_points_and_choices():
    """It is written by a run of the command at its default scale, and must be written again when they change."""
    page = (ROOT / "docs" / "calibration.md").read_text()
    for curve in curves.curves():
        for iteration, target in curve.points.items():
            assert f"| {curve.name} | {iteration:,} | {target:.2f} |" in page
    for factor in factors.FACTORS.values():
        assert f"| {factor.question} | " in page
        assert all(f" | {level} | " in page for level in factor.levels)
    sizes = calibration.check(calibration.Settings())
    assert ", ".join(f"{readings} readings on {num_worlds} worlds" for readings, num_worlds in sizes) in " ".join(
        page.split()
    )


def test_presets_are_the_readings_that_the_page_marks():
    """Of the choices that the points separate by 0.05 or more, each preset has the marked level."""
    page = (ROOT / "docs" / "calibration.md").read_text()
    marked = {preset.name: {} for preset in PRESETS.values()}
    costs, question = {}, ""
    for line in page.split("## Distances")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 6 or cells[0] in ("choice", "---"):
            continue
        question = cells[0] or question
        name = next((n for n, f in factors.FACTORS.items() if f.question == question), None)
        if name is None:
            continue
        for column, preset in ((2, "as_published"), (3, "as_written")):
            if cells[column] == "x":
                marked[preset][name] = cells[1]
        costs[name, cells[1]] = float(cells[4])
    for preset in PRESETS.values():
        assert marked[preset.name].keys() == factors.FACTORS.keys()
        flags = preset_flags(preset)
        for name, level in marked[preset.name].items():
            given = factors.flags({name: level})
            given.pop("expected_returns", None), given.pop("value_rate", None)
            differs = {flag for flag, value in given.items() if flags[flag] != value}
            others = [costs[name, other] for other in factors.FACTORS[name].levels if other != level]
            assert not differs or min(others) < 0.05, (preset.name, differs)
