"""How often the intervals contain the truth, for worlds of many kinds and from 2 worlds to 1000.

The chance of a draw to print an interval without the truth must be at most 7 %. Where at least half of the draws print
an interval, those that do must cover the truth in 93 %. (Where fewer do, the draws that print one are those with
unusually many different values, and a coverage among them says little.) The wins of one method over another are not
drawn: their coverage is summed over all outcomes.

`python -m tests.statistics.test_coverage` prints the coverage of every case that `pytest -m slow` tests.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from jaxdistill import statistics

LEAST = 0.93
NUM_MDPS = (2, 3, 5, 7, 8, 10, 20, 50, 100, 300, 1000)
LOSSES = 0.3  # the share of the values below 0 of a lognormal on both sides


def both_sides(rng: np.random.Generator, size: tuple[int, ...], scale: float) -> np.ndarray:
    """Lognormal values, of which a share of `LOSSES` is multiplied by -`scale`."""
    return rng.lognormal(size=size) * np.where(rng.random(size) < LOSSES, -scale, 1)


class BothSides(NamedTuple):
    """The distribution of `both_sides`, with the two functions of a distribution of SciPy that are used here."""

    scale: float

    def cdf(self, x: float) -> float:
        assert x == 0
        return LOSSES

    def ppf(self, p: np.ndarray) -> np.ndarray:
        losses = -self.scale * stats.lognorm(1).ppf(1 - np.minimum(p / LOSSES, 1))
        return np.where(p < LOSSES, losses, stats.lognorm(1).ppf(np.maximum((p - LOSSES) / (1 - LOSSES), 0)))


BASE = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t with 3 degrees": lambda rng, size: rng.standard_t(3, size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
    "minus lognormal": lambda rng, size: -rng.lognormal(size=size),
    "uniform": lambda rng, size: rng.random(size),
    "lognormal on both sides": lambda rng, size: both_sides(rng, size, 1),
    "lognormal on both sides, losses twice as large": lambda rng, size: both_sides(rng, size, 2),
    "1": lambda rng, size: np.ones(size),
}
MEANS = {
    "normal": 0, "t with 3 degrees": 0, "exponential": 1, "lognormal": np.exp(0.5), "minus lognormal": -np.exp(0.5),
    "uniform": 0.5, "1": 1, "lognormal on both sides": 0.4 * np.exp(0.5),
    "lognormal on both sides, losses twice as large": 0.1 * np.exp(0.5),
}  # fmt: skip
# Each case is a kind of world, and the share of worlds in which it is drawn; the others are 0, which is a tie.
CASES = [(kind, 1.0) for kind in BASE if kind != "1"]
CASES += [(kind, share) for kind in BASE if kind not in ("uniform", "minus lognormal")
          for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8)]  # fmt: skip


def draw(kind: str, share: float, num_mdps: int, num_draws: int) -> np.ndarray:
    """Values [num_mdps, num_draws] of a case."""
    rng = np.random.default_rng([7, num_mdps, CASES.index((kind, share))])
    x = BASE[kind](rng, (num_mdps, num_draws))
    return x if share == 1 else np.where(rng.random(x.shape) < share, x, 0)


def quantile(kind: str, share: float, p: np.ndarray) -> np.ndarray:
    """Quantiles of a case in closed form."""
    law = {
        "normal": stats.norm, "t with 3 degrees": stats.t(3), "exponential": stats.expon, "lognormal": stats.lognorm(1),
        "uniform": stats.uniform, "lognormal on both sides": BothSides(1),
        "lognormal on both sides, losses twice as large": BothSides(2),
    }  # fmt: skip
    if kind == "minus lognormal":
        return -law["lognormal"].ppf(1 - p)
    if kind == "1":
        return np.where(p > 1 - share, 1.0, 0.0)
    below = share * law[kind].cdf(0)  # the share of the values below 0
    lower, upper = law[kind].ppf(np.minimum(p, below) / share), law[kind].ppf(np.maximum((p - 1 + share) / share, 0))
    return np.where(p < below, lower, np.where(p < below + 1 - share, 0, upper))


def true_iqm(kind: str, share: float) -> float:
    """Mean of the quantiles between 1/4 and 3/4, by the midpoint rule."""
    return float(quantile(kind, share, 0.25 + (np.arange(100_000) + 0.5) / 200_000).mean())


class Coverage(NamedTuple):
    """The share of the draws that print an interval, and the share of those in which it contains the truth."""

    printed: float
    covered: float

    def suffices(self, error: float = 0) -> bool:
        """Whether intervals cover well enough, up to an error of the measured share."""
        misses = self.printed * (1 - self.covered)
        return bool(misses <= 1 - LEAST + error and (self.printed < 0.5 or self.covered >= LEAST - error))


def coverage(intervals: statistics.Interval, low: float, high: float) -> Coverage:
    """The `Coverage` of intervals [num_draws] of a truth that is any number from `low` to `high`."""
    printed = np.isfinite(intervals.low)
    covered = (intervals.low <= high + 1e-12) & (intervals.high >= low - 1e-12)
    return Coverage(printed.mean(), covered[printed].mean() if printed.any() else 1.0)


def mean_coverage(kind: str, share: float, num_mdps: int, num_draws: int) -> Coverage:
    truth = share * MEANS[kind]
    return coverage(statistics.mean_interval(draw(kind, share, num_mdps, num_draws)), truth, truth)


def iqm_coverage(kind: str, share: float, num_mdps: int, num_draws: int) -> Coverage:
    return coverage(each(statistics.iqm_interval, draw(kind, share, num_mdps, num_draws)), *[true_iqm(kind, share)] * 2)


def median_coverage(kind: str, share: float, num_mdps: int, num_draws: int) -> Coverage:
    # Every number between the values at both sides of a half is a median.
    medians = [float(quantile(kind, share, np.array(0.5 + side))) for side in (-1e-9, 1e-9)]
    return coverage(each(statistics.median_interval, draw(kind, share, num_mdps, num_draws)), *medians)


def each(interval: Callable[[np.ndarray], statistics.Interval], x: np.ndarray) -> statistics.Interval:
    """The interval of every column of `x` [M, D], as an `Interval` of arrays [D]."""
    return statistics.Interval(*np.array([interval(column) for column in x.T]).T)


STATISTICS = {"mean": mean_coverage, "iqm": iqm_coverage, "median": median_coverage}


def outcomes(num_mdps: int) -> Iterator[tuple[int, int, int]]:
    """All numbers of wins, losses and ties in `num_mdps` worlds."""
    for wins in range(num_mdps + 1):
        for losses in range(num_mdps + 1 - wins):
            yield wins, losses, num_mdps - wins - losses


def ends_of_wins(counts: np.ndarray) -> np.ndarray:
    """Ends [2, K] of the intervals of P(better) for wins, losses and ties `counts` [K, 3]."""
    signs = (np.repeat([1, -1, 0], row) for row in counts)
    return np.array([statistics.improvement_interval(x, np.zeros(x.size))[1:] for x in signs]).T


def improvement_coverage(num_mdps: int, tie_shares: tuple[float, ...], ps: np.ndarray) -> list[tuple[Any, ...]]:
    """(share of ties, P(better), exact coverage) for every combination that exists."""
    counts = np.array(list(outcomes(num_mdps)))
    low, high = ends_of_wins(counts)
    rows = []
    for ties, p in itertools.product(tie_shares, ps):
        chances = np.array([p - ties / 2, 1 - p - ties / 2, ties])
        if chances.min() >= -1e-12:
            mass = stats.multinomial.pmf(counts, num_mdps, np.maximum(chances, 0) / np.maximum(chances, 0).sum())
            rows.append((ties, p, float(mass[(low <= p + 1e-12) & (p - 1e-12 <= high)].sum())))
    return rows


# --- the short twins of the slow tests ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_cover(name):
    """1000 draws: a standard error of 0.008 at a coverage of 93 %. Student's t covers 83 % of 8 lognormal worlds."""
    for num_mdps in (2, 8, 30):
        for kind, share in [("normal", 1.0), ("lognormal", 1.0), ("exponential", 0.35), ("1", 0.5),
                            ("lognormal on both sides, losses twice as large", 0.5)]:  # fmt: skip
            result = STATISTICS[name](kind, share, num_mdps, num_draws=1000)
            assert result.suffices(2 * 0.008), f"{name} of {num_mdps} {kind} in {share:.0%}: {result}"
            assert (result.printed > 0.99) == (num_mdps > 2) or share < 1


def test_the_interval_of_wins_covers():
    for num_mdps in (2, 5, 20):
        rows = improvement_coverage(num_mdps, (0, 0.5, 0.9), np.linspace(0.02, 0.5, 9))
        assert min(covered for *_, covered in rows) >= 0.95, f"{num_mdps} worlds: {min(rows, key=lambda row: row[2])}"


@pytest.mark.parametrize("num_mdps", range(1, 13))
def test_a_mean_of_few_worlds_has_no_interval(num_mdps):
    """Nor has one of many worlds of which few differ: equal values count as one."""
    x = np.random.default_rng(0).normal(size=num_mdps)
    for many in (x, np.r_[x, np.full(50, x[0] * (1 + 1e-8))]):
        interval = statistics.mean_interval(many)
        assert np.isnan(interval.low) == np.isnan(interval.high) == (num_mdps < statistics.LEAST_MDPS)
        assert interval.estimate == pytest.approx(many.mean())
    assert np.isnan(statistics.iqm_interval(x).low) == (num_mdps < statistics.LEAST_MDPS)
    assert np.isnan(statistics.median_interval(x).low) == (num_mdps < 6)


# --- the slow tests -------------------------------------------------------------------------------------------------


def full_table(name: str, num_mdps: int, num_draws: int) -> dict[tuple[str, float], Coverage]:
    return {case: STATISTICS[name](*case, num_mdps, num_draws) for case in CASES}


NUM_DRAWS = {"mean": 4000, "iqm": 4000, "median": 2000}  # standard errors of 0.004 and 0.006 at a coverage of 93 %


@pytest.mark.slow
@pytest.mark.parametrize("num_mdps", NUM_MDPS)
@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_cover_in_every_case(name, num_mdps):
    num_draws = NUM_DRAWS[name]
    for case, result in full_table(name, num_mdps, num_draws).items():
        assert result.suffices(), f"{name} of {num_mdps} worlds, {case}: {result}"
        if case[1] == 1:  # two of eight values are equal, up to rounding, in one draw of 10 000
            assert (result.printed > 0.99) == (num_mdps >= (6 if name == "median" else statistics.LEAST_MDPS))


@pytest.mark.slow
@pytest.mark.parametrize("num_mdps", (20, 50, 100, 300, 1000))
def test_a_few_worlds_far_away(num_mdps):
    """Normal worlds, of which some lie far away: covered if there are at least three of them on the average.

    With one or two on the average, one draw in seven or more holds none, and no interval could know of them.
    """
    for distance, expected in itertools.product((3, 10, 30), (3, 5, 10)):
        rng = np.random.default_rng([distance, expected, num_mdps])
        size = (num_mdps, 4000)
        x = rng.normal(size=size) + distance * (rng.random(size) < expected / num_mdps)
        truth = distance * expected / num_mdps
        result = coverage(statistics.mean_interval(x), truth, truth)
        assert result.suffices() and result.printed > 0.99, f"{expected} of {num_mdps} at {distance}: {result}"


@pytest.mark.slow
@pytest.mark.parametrize("num_mdps", (2, 3, 5, 8, 10, 20, 50, 100))
def test_the_interval_of_wins_covers_in_every_case(num_mdps):
    rows = improvement_coverage(num_mdps, (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97), np.linspace(0.005, 0.5, 100))
    assert min(covered for *_, covered in rows) >= 0.95, f"{min(rows, key=lambda row: row[2])}"


@pytest.mark.slow
@pytest.mark.parametrize("num_mdps", (300, 1000))
def test_the_interval_of_wins_covers_in_many_worlds(num_mdps):
    """10 000 draws, of which many are the same: a standard error of 0.002 at a coverage of 95 %."""
    rng = np.random.default_rng(num_mdps)
    for ties, p in itertools.product((0, 0.1, 0.5, 0.9), (0.003, 0.01, 0.05, 0.2, 0.35, 0.5)):
        if p < ties / 2:
            continue
        draws = rng.multinomial(num_mdps, [p - ties / 2, 1 - p - ties / 2, ties], size=10_000)
        kinds, times = np.unique(draws, axis=0, return_counts=True)
        low, high = ends_of_wins(kinds)
        covered = times[(low <= p) & (p <= high)].sum() / times.sum()
        assert covered >= 0.95 - 2 * 0.0022, f"{num_mdps} worlds, {ties:.0%} ties, P {p}: {covered:.3f}"


if __name__ == "__main__":
    for name, num_mdps in itertools.product(STATISTICS, NUM_MDPS):
        table = full_table(name, num_mdps, NUM_DRAWS[name])
        shown = [f"{kind} in {share:.0%}: {result.covered:.3f} of {result.printed:.0%}"
                 for (kind, share), result in table.items() if result.printed > 0]  # fmt: skip
        print(f"{name}, {num_mdps} worlds: {'; '.join(shown) or 'none printed'}", flush=True)
