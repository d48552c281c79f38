"""The comparison of methods and runs: its numbers, its tables and its figure."""

import dataclasses
import re

import numpy as np
import pytest

from jaxdistill import compare, statistics
from jaxdistill.results.summary import cell, is_unknown
from tests.results.random_results import LABELS, make

# --- the table ------------------------------------------------------------------------------------------------


def test_a_comparison_contains_the_numbers_of_the_summary():
    result = make(num_mdps=12)
    comparison = compare(result, "n_distill", reach=0.0)
    summary = result.summary("final", baseline="n_distill")
    for row, short in zip(comparison.rows, summary.rows, strict=True):
        for field in dataclasses.fields(short):
            assert getattr(row, field.name) == getattr(short, field.name)
        p = LABELS.index(row.label)
        assert row.area.estimate == pytest.approx(result.returns[p].mean(), abs=1e-6)  # equal bins
        assert row.reached == statistics.reached_interval(result.iterations, result.returns[p], 0.0)
        if row.label != "n_distill":
            wins = (result.final_returns[p] > result.final_returns[1]).mean()
            assert row.improvement.estimate == pytest.approx(wins)
    assert comparison["n_distill"].improvement is None and comparison["n_distill"].difference is None
    assert compare(result).baseline == "baseline" and compare(result)["td_vpi"].reached is None
    at_first = compare(result, checkpoint=0)
    assert at_first["td_vpi"].mean.estimate == pytest.approx(result.returns[2, :, 0].mean(), abs=1e-6)


def test_a_level_that_is_not_reached_is_reported_and_not_averaged():
    returns = np.tile(np.array([0.0, 1.0, 2.0], np.float32), (3, 10, 1))
    returns[1, :6] = 0  # six of ten MDPs never reach the level
    returns[2] = 0  # no MDP reaches it
    comparison = compare(make(num_mdps=10, returns=returns), reach=1.5)
    header, *rows = comparison._cells(["reached"])
    assert header == ["method", "iterations to 1.5"]
    assert [cell for _, cell in rows] == [
        "30 [30, 30], 10 of 10", "> 30 [30, > 30], 4 of 10", "> 30 [> 30, > 30], 0 of 10",
    ]  # fmt: skip
    by_world = compare(make(num_mdps=10, returns=returns), reach=np.full(10, 0.5))
    assert by_world["baseline"].reached.median == 20 and "iterations to the level" in str(by_world)


def test_several_results_side_by_side():
    worlds = dict(uniform_returns=np.zeros(4), optimal_returns=np.ones(4))
    a, b = make(labels=("x", "y"), **worlds), make(labels=("z",), num_checkpoints=5, **worlds)
    comparison = compare([a, b], "z")
    assert [row.label for row in comparison.rows] == ["x", "y", "z"]
    assert comparison.quantity.startswith("exact return of the final students, 4 MDPs (uniform")
    assert comparison.notes[2:] == ("note: the numbers of iterations differ: 30 (y), 50 (z)",)
    assert comparison["x"].difference.estimate == pytest.approx(
        (a.final_returns[0] - b.final_returns[0]).mean(), abs=1e-6
    )
    with pytest.raises(ValueError, match="different iterations in these results; use 'final'"):
        compare([a, b], checkpoint=-1)
    named = compare({"small": a, "large": a.select("x")})
    assert [row.label for row in named.rows] == ["small: x", "small: y", "large"]
    assert named["large"].improvement.estimate == 0.5  # with itself
    mixed = compare(make(num_mdps=9, curve_kind=("sampled", "exact", "sampled")))
    assert mixed.notes[1:] == ("note: the curves of n_distill are exact; the others are means of training episodes",)


@pytest.mark.parametrize("num_mdps", range(1, 13))
def test_what_few_worlds_cannot_tell_is_not_printed(num_mdps):
    """No interval of a mean below eight worlds, so no difference that excludes 0, and a note that says why."""
    for seed in range(20):
        result = make(num_mdps=num_mdps, seed=seed)
        # The difference is clear, as two worlds may show it by chance.
        result.final_returns[1] = result.final_returns[0] + 5 + 0.1 * result.final_returns[1]
        comparison = compare(result, reach=0.0)
        row, text = comparison["n_distill"], str(comparison)
        known = num_mdps >= statistics.LEAST_MDPS
        for interval in (row.mean, row.iqm, row.area, row.difference):
            assert np.isfinite(interval.estimate) and np.isfinite(interval.low) == known
            assert cell(interval, "+").endswith("[n/a]") == (not known)
        assert row.difference.low > 0 if known else f"{row.difference.estimate:+.3f} [n/a]" in text
        assert row.improvement.estimate == 1 and (row.improvement.low > 0.5) == (num_mdps >= 6)  # 0.025 > 0.5^6
        assert np.isnan(row.reached.low) == np.isnan(row.median.low) == (num_mdps < 6)
        assert ("[n/a]" in text) == (not known) == (statistics.NO_INTERVAL in text)
        assert ("a median, needs 6 MDPs" in text) == (num_mdps < 6)


def test_a_mean_and_wins_that_point_opposite_ways():
    """Thirty-nine worlds gain a little, one loses much."""
    gains = np.where(np.arange(40) == 7, -40, 0.1 + np.arange(40) / 1000)
    worlds = np.random.default_rng(0).normal(size=40)
    returns = np.stack([worlds, worlds + gains, worlds + 1 + np.arange(40) / 100])
    comparison = compare(make(num_mdps=40, final_returns=returns))
    row, record = comparison["n_distill"], comparison["n_distill"].record()
    assert row.difference.estimate < 0 and row.improvement.estimate == 39 / 40
    assert record["median"] == pytest.approx(np.median(gains)) and record["num_extreme"] == 2
    assert record["extreme_share"] == pytest.approx((40 + 0.139) / np.abs(gains).sum())
    assert record["median_low"] < record["median"] < record["median_high"]
    note, *_ = comparison.notes
    assert note == (
        f"note: n_distill: mean difference {row.difference.estimate:+.3f} but P(> baseline) 0.97: "
        f"the median difference is {row.median:+.3f}, and {row.extreme_share:.0%} of the sum of all absolute "
        "differences comes from the 5 % most extreme MDPs (number: 2)"
    )
    assert note in str(comparison) and comparison["baseline"].record()["num_extreme"] == 0
    assert np.isnan(comparison["baseline"].record()["median"])


def test_notes_on_what_makes_a_comparison_unfair():
    """The number of comparisons, first updates of unequal size at equal rates, and curves that still rise."""
    norms = dict(zip(LABELS, (1, 3.1, 2), strict=True))
    cells = {label: {"config": {"learning_rate": 0.1}, "update_norm": norm} for label, norm in norms.items()}
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(3, 20, 10)) * 0.01
    returns[1] += np.arange(10)
    worlds = dict(uniform_returns=np.zeros(20), optimal_returns=np.full(20, 9.0))
    options = dict(num_mdps=20, num_checkpoints=10, returns=returns, settings={"cells": cells}, **worlds)
    text = str(compare(make(**options)))
    assert "2 comparisons with baseline: on average, 0.1 of their intervals exclude 0 by chance alone" in text
    assert "first updates of n_distill are 3.1 times as large as those of baseline" in text
    assert "still improving at the end, by the change over the last tenth: n_distill (+1.01)" in text
    cells["n_distill"]["config"]["learning_rate"] = 0.05  # another rate: nothing is compared at equal rates
    returns[1] = returns[0]
    text = str(compare(make(**options)))
    assert "first updates" not in text and "still improving" not in text
    assert "comparisons with" not in str(compare(make(labels=LABELS[:2], num_mdps=20)))


@pytest.mark.parametrize("scale", [-5, -1, 0, 1, 5])
def test_a_note_for_every_contradiction(scale):
    """Whatever the differences are: a note if and only if mean and wins are on opposite sides; ties are on neither."""
    for seed in range(30):
        rng = np.random.default_rng([seed, scale + 5])
        returns = rng.choice([0, 1, 1, 2, 3], (3, 9)) + scale * (rng.random((3, 9)) < 0.1)
        comparison = compare(make(num_mdps=9, final_returns=returns.astype(np.float32)))
        for row, x in zip(comparison.rows[1:], returns[1:] - returns[0], strict=True):
            opposite = x.mean() * np.sign(x).mean() < 0
            noted = any(note.startswith(f"note: {row.label}: mean difference") for note in comparison.notes)
            assert noted == opposite == (row.contradiction("baseline") is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one"),
        ((3,), "compare takes a Result"),
        (([make(), None],), "compare takes a Result"),
        (([make(), make()],), "several results have a method 'baseline'"),
        (([make(), make(first_id=1)],), "result 1 has 4 MDPs with other ids than the 4 of the first"),
        (([make(), make(num_mdps=3)],), "result 1 has 3 MDPs"),
        (([make(labels=("x",)), make(labels=("y",), seed=2)],), "have the ids of the first result.s and are others"),
        ((make(), "sgd"), "no method 'sgd' to compare with; there are baseline, n_distill, td_vpi"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        compare(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reach", [np.nan, [1, 2, 3], "high"])
def test_a_level_that_is_no_return_is_refused(reach):
    with pytest.raises(ValueError, match=r"reach must be|could not convert"):
        compare(make(), reach=reach)


def test_the_data_frame_has_every_number():
    pytest.importorskip("pandas")
    frame = compare(make(num_mdps=9), reach=99.0).to_dataframe().set_index("label")
    assert np.isinf(frame.loc["td_vpi", "reached"]) and frame.loc["td_vpi", "num_reached"] == 0
    assert np.isnan(frame.loc["baseline", "improvement"])
    for name in ("mean", "iqm", "difference", "improvement", "median", "area"):
        assert frame.loc["td_vpi", f"{name}_low"] <= frame.loc["td_vpi", name] <= frame.loc["td_vpi", f"{name}_high"]


def test_markdown_and_latex():
    comparison = compare(make(num_mdps=9, labels=("a_b", "50 % & {c}")), reach=-0.25)
    lines = comparison.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert [lines[1], lines[3], lines[-2]] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 8 and line.endswith(r" \\") for line in [lines[2], *lines[4:-2]])
    assert lines[4].startswith(r"a\_b & $9$ & ") and lines[5].startswith(r"50 \% \& \{c\} & ")
    assert r"minus a\_b [95 \%]" in lines[2] and "P($>$ a\\_b)" in lines[2]
    outside = re.sub(r"\$[^$]*\$", "", "\n".join(lines[4:-2]).replace(" -- ", ""))
    assert not re.search(r"[<>+-]|\d\.\d", outside)  # numbers and signs are mathematics
    row = comparison.rows[1]
    assert f"${row.difference.estimate:+.3f}$ [${row.difference.low:+.3f}$, ${row.difference.high:+.3f}$]" in lines[5]
    short = comparison.to_markdown(["improvement", "mean"]).splitlines()
    assert short[0] == "| method | P(> a_b) [95 %] | mean [95 %] |" and len(short) == 4
    few = make().summary()  # of 4 worlds: the note says why there is no interval
    assert few.to_latex(["mean"]).splitlines()[9:] == [f"% {few.notes[0]}"]
    assert few.to_markdown(["mean"]).endswith(f" |\n\n{few.notes[0]}")
    with pytest.raises(ValueError, match=r"no column 'median' .did you mean 'mean'.. in this table; it has num_mdps"):
        comparison.to_latex(["median"])


# --- the figure -----------------------------------------------------------------------------------------------


def test_the_figure_shows_the_intervals():
    comparison = compare(make(num_mdps=9, labels=("baseline", "n_distill", "my_own_method")))
    figure = comparison.plot()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "Mean return", "IQM of returns", "Return minus Baseline", "P(better than Baseline)",
    ]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Baseline", "N-distill", "my_own_method"]
    for ax, name in zip(figure.axes, ("mean", "iqm", "difference", "improvement"), strict=True):
        shown = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
        intervals = {p: getattr(row, name) for p, row in enumerate(comparison.rows) if getattr(row, name) is not None}
        assert shown == {p: interval.estimate for p, interval in intervals.items()}
        bars = sorted((bar.get_x(), bar.get_width()) for bar in ax.patches)
        expected = sorted((interval.low, interval.high - interval.low) for interval in intervals.values())
        np.testing.assert_allclose(bars, expected)
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first method on top


def test_the_figure_shows_which_intervals_are_unknown():
    comparison = compare(make(num_mdps=5))
    for ax, name in zip(comparison.plot().axes, ("mean", "iqm", "difference", "improvement"), strict=True):
        assert [text.get_text() for text in ax.texts] == ["n/a"] * sum(
            is_unknown(getattr(row, name)) for row in comparison.rows
        )
        assert len(ax.patches) == (2 if name == "improvement" else 0)


def test_the_figure_of_one_method_or_one_mdp_has_nothing_cut_off():
    for comparison in (compare(make(labels=("baseline",))), compare(make(num_mdps=1))):
        figure = comparison.plot()
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        for text in [*figure.axes[0].get_yticklabels(), *(ax.xaxis.label for ax in figure.axes)]:
            box = text.get_window_extent()
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text.get_text()
    assert len(compare(make(labels=("baseline",))).plot().axes) == 2
