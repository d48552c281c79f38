"""Averages, their intervals and the speed of learning, by hand and against SciPy; `test_coverage` has the coverage."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill import statistics


def test_iqm_cuts_a_quarter_at_either_end():
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 7]) == 3.5
    assert statistics.iqm([-1000, 1, 2, 3, 4, 5, 6, 1e6]) == 3.5
    np.testing.assert_allclose(statistics.iqm([[0, 2, 4, 100], [1, 1, 3, 9]]), [3, 2])


def test_mean_interval_by_hand():
    """Without skewness it is Student's: sd = sqrt(6), n = 8, t_{7, .975} = 2.364624."""
    mean, low, high = statistics.mean_interval(np.arange(8.0))
    half = 2.364624 * np.sqrt(6 / 8)
    np.testing.assert_allclose([mean, low, high], [3.5, 3.5 - half, 3.5 + half], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_are_moved_for_skewed_values(seed):
    """By the formula of the docstring, with the mean, error and skewness of SciPy; mirrored values, mirrored ends."""
    x = np.r_[np.random.default_rng(seed).exponential(size=10 + seed), np.zeros(2 * seed)]
    num_different = 10 + seed + (seed > 0)
    n, t = x.size, stats.t.ppf(0.975, num_different - 1)
    skewness = stats.skew(x, bias=False)
    moved = (1 + 30 / num_different) * skewness * (2 * t**2 + 1) / (6 * np.sqrt(n))
    assert moved > 0
    ends = x.mean() + np.array([-t - moved / 2, t + moved]) * stats.sem(x)
    np.testing.assert_allclose(statistics.mean_interval(x), [x.mean(), *ends])
    mean, low, high = statistics.mean_interval(-x)
    np.testing.assert_allclose([-mean, -high, -low], statistics.mean_interval(x))


def test_mean_interval_leaves_out_values_that_are_not_finite():
    x = np.random.default_rng(5).normal(size=(12, 5))
    x[1:, 0], x[:, 1], x[3:7, 2], x[4:, 3] = np.nan, np.nan, [np.inf, np.nan, -np.inf, np.nan], np.nan
    interval = statistics.mean_interval(x, axis=0)
    np.testing.assert_array_equal(np.isnan(interval.estimate), [False, True, False, False, False])
    np.testing.assert_array_equal(np.isnan(interval.low), [True, True, False, True, False])
    for column in (2, 4):
        kept = x[np.isfinite(x[:, column]), column]
        np.testing.assert_allclose([part[column] for part in interval], statistics.mean_interval(kept))
    np.testing.assert_allclose(statistics.mean_interval(x.T, axis=1).high, interval.high)
    assert statistics.mean_interval(np.ones((3, 0))).low.shape == (0,)


def test_intervals_of_another_confidence():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(20, 4000))
    _, low, high = statistics.mean_interval(x, confidence=0.5)
    assert 0.5 - 0.032 < np.mean((low <= 3) & (high >= 3)) < 0.57  # 4 standard errors below; skewness widens it
    widths = [np.diff(statistics.mean_interval(x[:, 0], confidence=c)[1:])[0] for c in (0.5, 0.9, 0.99)]
    assert widths == sorted(widths)


def test_iqm_interval_by_hand():
    """The formula of Tukey and McLaughlin with SciPy's winsorised values; symmetric, so that no end is moved."""
    x = np.r_[-100.0, -3, -2, -1, 1, 2, 3, 100, 0, 0.5, -0.5, 7, -7]  # 13, of which 3 are cut at either end
    winsorised = np.asarray(stats.mstats.winsorize(x, (0.25, 0.25)))
    half = stats.t.ppf(0.975, 6) * np.sqrt(((winsorised - winsorised.mean()) ** 2).sum() / (7 * 6))
    estimate, low, high = statistics.iqm_interval(np.r_[x, np.nan])
    np.testing.assert_allclose([estimate, low, high], [0, -half, half], atol=1e-12)
    assert estimate == pytest.approx(statistics.iqm(x))
    assert np.isnan(statistics.iqm_interval([np.nan])).all()


def test_intervals_of_equal_values_are_unknown():
    """A hundred equal worlds do not tell how the next one differs, up to the rounding of float32."""
    for x in (np.full(100, 2.0), 2 + np.random.default_rng(0).uniform(-5e-7, 5e-7, 100)):
        for interval in (statistics.mean_interval(x), statistics.iqm_interval(x)):
            assert interval.estimate == pytest.approx(2) and np.isnan(interval[1:]).all()
    few = np.r_[np.zeros(93), np.arange(1.0, 8)]
    assert np.isfinite(statistics.mean_interval(few).low) and np.isnan(statistics.mean_interval(few[1:-1]).low)


def test_median_and_extremes_by_hand():
    x = [3.0, -1, np.nan, 4, 1, -5, 9, np.inf, 2, -6, 5]  # nine: P(Binomial(9, 1/2) < 2) = 10 / 512 < 0.025
    assert statistics.median_interval(x) == (2, -5, 5)
    assert np.isnan(statistics.median_interval([])).all()
    assert statistics.extreme_share(x) == (1, 9 / 36)
    assert statistics.extreme_share(x, 0.3) == (3, (9 + 6 + 5) / 36)
    assert np.isnan(statistics.extreme_share(np.zeros(4))[1])


def test_an_interval_as_text():
    interval = statistics.Interval(0.5, -1.25, 2.0)
    assert f"{interval:+.2f}" == "+0.50 [-1.25, +2.00]" and f"{interval:.1g}" == "0.5 [-1, 2]"
    assert f"{statistics.mean_interval([1.0, 2.0]):.1f}" == "1.5 [n/a]"


def test_improvement_by_hand():
    x, y = [1, 2, 3, 4, np.nan, 5, 1e4 + 1e-3], [0, 2, 4, 3, 0, np.inf, 1e4]  # win, tie, loss, win, -, -, tie
    p, low, high = statistics.improvement_interval(x, y)
    assert p == (2 + 2 * 0.5) / 5
    assert statistics.improvement_interval(y, x)[0] == pytest.approx(1 - p)
    assert 0 < low < p < high < 1
    assert np.isnan(statistics.improvement_interval([np.nan], [1.0])).all()


@pytest.mark.parametrize("num_wins", [0, 3, 20])
def test_without_ties_the_interval_is_that_of_clopper_and_pearson(num_wins):
    x = np.r_[np.ones(num_wins), -np.ones(20 - num_wins)]
    p, low, high = statistics.improvement_interval(x, np.zeros(20), confidence=0.9)
    expected = stats.binomtest(num_wins, 20).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose([p, low, high], [num_wins / 20, expected.low, expected.high], atol=1e-12)


@pytest.mark.parametrize("num_mdps", [1, 2, 5, 12])
def test_the_interval_of_wins_for_every_outcome(num_mdps):
    """Ends in order, mirrored for the other method, 0 or 1 where all worlds say so, and narrower for more ties."""
    for wins in range(num_mdps + 1):
        widths = []
        for losses in range(num_mdps + 1 - wins):
            x = np.r_[np.ones(wins), -np.ones(losses), np.zeros(num_mdps - wins - losses)]
            p, low, high = statistics.improvement_interval(x, np.zeros(num_mdps))
            assert 0 <= low < p or p == low == 0
            assert p < high <= 1 or p == high == 1
            mirrored = statistics.improvement_interval(-x, np.zeros(num_mdps))
            np.testing.assert_allclose([1 - p, 1 - high, 1 - low], mirrored, atol=1e-12)
            widths += [high - low] if wins == losses else []
        assert len(widths) < 2 or widths == sorted(widths)
    even = [statistics.improvement_interval(np.r_[np.ones(w), -np.ones(w), np.zeros(100 - 2 * w)], np.zeros(100))
            for w in range(51)]  # fmt: skip
    widths = [high - low for _, low, high in even]
    assert widths == sorted(widths)


def test_average_height_by_hand():
    """Bins of 1, 3 and 6 iterations."""
    curves = np.array([[10.0, 0.0, 0.0], [0.0, 10.0, 5.0], [1.0, np.nan, 1.0]])
    np.testing.assert_array_equal(statistics.average_height([1, 4, 10], curves), [1, 6, np.nan])


def test_reached_by_hand():
    curves = np.array([[0, 3, 1], [0, 0, 2], [9, 0, 0], [0, 0, 1], [np.nan, np.nan, 5.0]])
    reached = statistics.reached_interval([10, 20, 30], curves, 2.0)
    assert reached[:1] + reached[3:] == (30, 4, 5, 30)  # 20, 30, 10, never, 30
    assert np.isnan([reached.low, reached.high]).all()  # five worlds are too few for an interval of a median
    censored = statistics.reached_interval([10, 20, 30], curves, [2, 3, 3, 3, 3])  # 20, never, 10, never, 30
    assert censored.median == 30 and censored.num_reached == 3
    assert statistics.reached_interval([10, 20, 30], curves, 9.0)[0] == np.inf


def test_the_interval_of_a_median_is_that_of_order_statistics():
    """Nine worlds reach the level in turn: from the second to the eighth, as P(Binomial(9, 1/2) < 2) = 10 / 512."""
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
