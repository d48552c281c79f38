"""Averages, their intervals and the speed of learning: by hand, against SciPy, and by their coverage."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill import statistics


def test_iqm_cuts_a_quarter_at_either_end():
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 7]) == 3.5
    assert statistics.iqm([-1000, 1, 2, 3, 4, 5, 6, 1e6]) == 3.5
    np.testing.assert_allclose(statistics.iqm([[0, 2, 4, 100], [1, 1, 3, 9]]), [3, 2])


def test_mean_interval_by_hand():
    # sd = 1, n = 3, t_{2, .975} = 4.302653: half width 4.302653 / sqrt(3)
    mean, low, high = statistics.mean_interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose([mean, low, high], [2, 2 - 2.484138, 2 + 2.484138], rtol=1e-6)


def test_mean_interval_leaves_out_values_that_are_not_finite():
    x = np.array([[1, np.nan, np.nan, np.inf], [2, 5, np.nan, 4], [3, np.nan, np.nan, 6]])
    interval = statistics.mean_interval(x, axis=0)
    np.testing.assert_array_equal(interval.estimate, [2, 5, np.nan, 5])
    np.testing.assert_array_equal(np.isnan(interval.low), [False, True, True, False])
    np.testing.assert_allclose(interval.low[3], statistics.mean_interval([4.0, 6.0]).low)
    np.testing.assert_allclose(statistics.mean_interval(x.T, axis=1).high, interval.high)


def test_mean_interval_covers_the_truth_even_for_few_mdps():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(5, 8000))
    _, low, high = statistics.mean_interval(x)
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.95, abs=0.01)  # 4 standard errors
    _, low, high = statistics.mean_interval(x, confidence=0.5)
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.5, abs=0.0225)


@pytest.mark.parametrize("statistic", [np.mean, statistics.iqm])
def test_bootstrap_interval_covers_the_truth_of_a_skewed_distribution(statistic):
    # Exponential: mean 1; IQM = 2 * integral of x e^-x between the quartiles log(4/3) and log 4.
    truth = 1.0 if statistic is np.mean else 2 * (0.75 * (1 + np.log(4 / 3)) - 0.25 * (1 + np.log(4)))
    samples = np.random.default_rng(2).exponential(size=(500, 40))
    intervals = [statistics.bootstrap_interval(x, statistic, num_resamples=1000) for x in samples]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.89 < covered < 0.975  # 4 standard errors around .933 and .938, measured once with 2500 samples
    assert all(i.low < i.estimate < i.high for i in intervals)


def test_bootstrap_and_normal_intervals_agree_on_normal_data():
    x = np.random.default_rng(8).normal(size=500)
    bootstrap, normal = statistics.bootstrap_interval(x), statistics.mean_interval(x)
    half = normal.high - normal.estimate
    np.testing.assert_allclose(bootstrap, normal, atol=0.1 * half)


def test_bootstrap_interval_is_reproducible_and_defined_for_degenerate_data():
    x = np.random.default_rng(3).normal(size=30)
    assert statistics.bootstrap_interval(x) == statistics.bootstrap_interval(x)
    assert statistics.bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2, 2)
    assert statistics.bootstrap_interval([2.0, np.nan])[0] == 2
    assert np.isnan(statistics.bootstrap_interval([2.0, np.nan])[1:]).all()
    assert np.isnan(statistics.bootstrap_interval([np.nan, np.inf])).all()
    # Leaving out one world never changes this IQM, so BCa does not exist; the percentile interval does.
    assert statistics.bootstrap_interval(np.r_[np.zeros(90), np.ones(10)], statistics.iqm) == (0, 0, 0)


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
