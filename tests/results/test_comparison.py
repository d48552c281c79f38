"""Comparing methods and runs: paired, ties half, never reached is never averaged; tables and the picture."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats
from tests.test_results import LABELS, make

from jaxdistill import compare, statistics

# --- numbers --------------------------------------------------------------------------------------------------


def test_improvement_by_hand():
    x, y = [1, 2, 3, 4, np.nan, 5, 1e4 + 1e-3], [0, 2, 4, 3, 0, np.inf, 1e4]  # win, tie, loss, win, -, -, tie
    p, low, high = statistics.improvement_interval(x, y)
    assert p == (2 + 2 * 0.5) / 5
    assert statistics.improvement_interval(y, x)[0] == pytest.approx(1 - p)
    assert 0 < low < p < high < 1
    assert np.isnan(statistics.improvement_interval([np.nan], [1.0])).all()


@pytest.mark.parametrize("num_wins", [0, 3, 20])
def test_without_ties_the_interval_is_wilsons(num_wins):
    x = np.r_[np.ones(num_wins), -np.ones(20 - num_wins)]
    p, low, high = statistics.improvement_interval(x, np.zeros(20), confidence=0.9)
    expected = stats.binomtest(num_wins, 20).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose([p, low, high], [num_wins / 20, expected.low, expected.high], atol=1e-12)


def test_average_height_by_hand():
    """Bins of 1, 3 and 6 iterations."""
    curves = np.array([[10.0, 0.0, 0.0], [0.0, 10.0, 5.0], [1.0, np.nan, 1.0]])
    np.testing.assert_array_equal(statistics.average_height([1, 4, 10], curves), [1, 6, np.nan])


def test_reached_by_hand():
    curves = np.array([[0, 3, 1], [0, 0, 2], [9, 0, 0], [0, 0, 1], [np.nan, np.nan, 5.0]])
    reached = statistics.reached_interval([10, 20, 30], curves, 2.0)
    assert reached[:1] + reached[3:] == (30, 4, 5, 30)  # 20, 30, 10, never, 30
    assert np.isnan([reached.low, reached.high]).all()  # five worlds say too little about a median
    censored = statistics.reached_interval([10, 20, 30], curves, [2, 3, 3, 3, 3])  # 20, never, 10, never, 30
    assert censored.median == 30 and censored.num_reached == 3
    assert statistics.reached_interval([10, 20, 30], curves, 9.0)[0] == np.inf


def test_the_interval_of_a_median_is_that_of_order_statistics():
    """Nine worlds, one by one: between the second and the eighth, since P(Binomial(9, 1/2) < 2) = 10 / 512."""
    iterations = np.arange(10, 100, 10)
    reached = statistics.reached_interval(iterations, np.tri(9).T, 1.0)
    assert reached == (50, 20, 80, 9, 9, 90)


def test_the_interval_of_a_median_covers_it():
    rng, inside = np.random.default_rng(0), []
    for _ in range(1000):
        first = rng.integers(1, 1001, size=25)  # median 500.5, between two iterations
        curves = np.arange(1, 1001) >= first[:, None]
        reached = statistics.reached_interval(np.arange(1, 1001), curves, 1.0)
        inside.append(reached.low <= 501 and reached.high >= 500)
    exact = 1 - 2 * stats.binom.cdf(stats.binom.ppf(0.025, 25, 0.5) - 1, 25, 0.5)
    assert exact == pytest.approx(0.9567, abs=1e-3)
    assert np.mean(inside) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 1000))


# --- the table ------------------------------------------------------------------------------------------------


def test_compare_says_what_the_summary_says_and_more():
    result = make(num_mdps=12)
    found = compare(result, "n_distill", reach=0.0)
    summary = result.summary("final", baseline="n_distill")
    for row, short in zip(found.rows, summary.rows, strict=True):
        for field in dataclasses.fields(short):
            assert getattr(row, field.name) == getattr(short, field.name)
        p = LABELS.index(row.label)
        assert row.area.estimate == pytest.approx(result.returns[p].mean(), abs=1e-6)  # equal bins
        assert row.reached == statistics.reached_interval(result.iterations, result.returns[p], 0.0)
        if row.label != "n_distill":
            wins = (result.final_returns[p] > result.final_returns[1]).mean()
            assert row.improvement.estimate == pytest.approx(wins)
    assert found["n_distill"].improvement is None and found["n_distill"].difference is None
    assert compare(result).baseline == "baseline" and compare(result)["td_vpi"].reached is None
    at_first = compare(result, checkpoint=0)
    assert at_first["td_vpi"].mean.estimate == pytest.approx(result.returns[2, :, 0].mean(), abs=1e-6)


def test_never_reached_is_said_and_not_averaged():
    returns = np.tile(np.array([0.0, 1.0, 2.0], np.float32), (3, 10, 1))
    returns[1, :6] = 0  # six of ten never
    returns[2] = 0  # none ever
    found = compare(make(num_mdps=10, returns=returns), reach=1.5)
    header, *rows = found._cells(["reached"])
    assert header == ["method", "iterations to 1.5"]
    assert [cell for _, cell in rows] == [
        "30 [30, 30], 10 of 10", "> 30 [30, > 30], 4 of 10", "> 30 [> 30, > 30], 0 of 10",
    ]  # fmt: skip
    by_world = compare(make(num_mdps=10, returns=returns), reach=np.full(10, 0.5))
    assert by_world["baseline"].reached.median == 20 and "iterations to the level" in str(by_world)


def test_several_results_side_by_side():
    worlds = dict(uniform_returns=np.zeros(4), optimal_returns=np.ones(4))
    a, b = make(labels=("x", "y"), **worlds), make(labels=("z",), num_checkpoints=5, **worlds)
    found = compare([a, b], "z")
    assert [row.label for row in found.rows] == ["x", "y", "z"]
    assert found.quantity.startswith("exact return of the final students, 4 MDPs (uniform")
    assert found.notes == ("note: the numbers of iterations differ: 30 (y), 50 (z)",)
    assert found["x"].difference.estimate == pytest.approx((a.final_returns[0] - b.final_returns[0]).mean(), abs=1e-6)
    with pytest.raises(ValueError, match="different iterations in these results; use 'final'"):
        compare([a, b], checkpoint=-1)
    named = compare({"small": a, "large": a.select("x")})
    assert [row.label for row in named.rows] == ["small: x", "small: y", "large"]
    assert named["large"].improvement.estimate == 0.5  # with itself
    mixed = compare(make(curve_kind=("sampled", "exact", "sampled")))
    assert mixed.notes == ("note: the curves of n_distill are exact; the others are means of training episodes",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one"),
        ((3,), "compare takes a Result"),
        (([make(), None],), "compare takes a Result"),
        (([make(), make()],), "several results have a method 'baseline'"),
        (([make(), make(first_id=1)],), "result 1 has 4 MDPs with other ids than the 4 of the first"),
        (([make(), make(num_mdps=3)],), "result 1 has 3 MDPs"),
        (([make(labels=("x",)), make(labels=("y",), seed=2)],), "the ids are equal and the worlds are not"),
        ((make(), "sgd"), "no method 'sgd' to compare with; there are baseline, n_distill, td_vpi"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        compare(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reach", [np.nan, [1, 2, 3], "high"])
def test_a_level_is_a_return(reach):
    with pytest.raises(ValueError, match=r"reach must be|could not convert"):
        compare(make(), reach=reach)


def test_data_frame_has_every_number():
    pytest.importorskip("pandas")
    frame = compare(make(num_mdps=9), reach=99.0).to_dataframe().set_index("label")
    assert np.isinf(frame.loc["td_vpi", "reached"]) and frame.loc["td_vpi", "num_reached"] == 0
    assert np.isnan(frame.loc["baseline", "improvement"])
    for name in ("mean", "iqm", "difference", "improvement", "area"):
        assert frame.loc["td_vpi", f"{name}_low"] <= frame.loc["td_vpi", name] <= frame.loc["td_vpi", f"{name}_high"]


def test_markdown_and_latex():
    found = compare(make(num_mdps=9, labels=("a_b", "50 % & {c}")), reach=-0.25)
    lines = found.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert [lines[1], lines[3], lines[-2]] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 8 and line.endswith(r" \\") for line in [lines[2], *lines[4:-2]])
    assert lines[4].startswith(r"a\_b & $9$ & ") and lines[5].startswith(r"50 \% \& \{c\} & ")
    assert r"minus a\_b [95 \%]" in lines[2] and "P($>$ a\\_b)" in lines[2]
    outside = re.sub(r"\$[^$]*\$", "", "\n".join(lines[4:-2]).replace(" -- ", ""))
    assert not re.search(r"[<>+-]|\d\.\d", outside)  # numbers and signs are mathematics
    row = found.rows[1]
    assert f"${row.difference.estimate:+.3f}$ [${row.difference.low:+.3f}$, ${row.difference.high:+.3f}$]" in lines[5]
    short = found.to_markdown(["improvement", "mean"]).splitlines()
    assert short[0] == "| method | P(> a_b) [95 %] | mean [95 %] |" and len(short) == 4
    assert len(make().summary().to_latex(["mean"]).splitlines()) == 9
    with pytest.raises(ValueError, match=r"no column 'median' in this table; it has num_mdps, mean"):
        found.to_latex(["median"])


# --- the picture ----------------------------------------------------------------------------------------------


def test_picture_shows_the_intervals():
    found = compare(make(num_mdps=9, labels=("baseline", "n_distill", "my_own_method")))
    figure = found.plot()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "Mean return", "IQM of returns", "Return minus Baseline", "P(better than Baseline)",
    ]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Baseline", "N-distill", "my_own_method"]
    for ax, name in zip(figure.axes, ("mean", "iqm", "difference", "improvement"), strict=True):
        shown = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
        intervals = {p: getattr(row, name) for p, row in enumerate(found.rows) if getattr(row, name) is not None}
        assert shown == {p: interval.estimate for p, interval in intervals.items()}
        bars = sorted((bar.get_x(), bar.get_width()) for bar in ax.patches)
        expected = sorted((interval.low, interval.high - interval.low) for interval in intervals.values())
        np.testing.assert_allclose(bars, expected)
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first method on top


def test_picture_of_one_method_or_of_few_mdps_has_nothing_cut_off():
    for found in (compare(make(labels=("baseline",))), compare(make(num_mdps=1))):
        figure = found.plot()
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        for text in [*figure.axes[0].get_yticklabels(), *(ax.xaxis.label for ax in figure.axes)]:
            box = text.get_window_extent()
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text.get_text()
    assert len(compare(make(labels=("baseline",))).plot().axes) == 2
