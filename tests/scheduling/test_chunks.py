"""The number of ticks of a chunk, against trying every number and against a simulation of lanes."""

import numpy as np
import pytest

from jaxdistill.scheduling.chunks import ChunkSize, best_size


def test_no_other_number_of_ticks_costs_less_for_a_lane_that_is_served():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ticks, host_ticks = rng.exponential(rng.choice([3, 100]), rng.integers(1, 9)), rng.choice([0.1, 10, 1000])
        best = best_size(ticks, host_ticks)
        sizes = np.append(np.linspace(0.01, ticks.max() * 1.5, 4000), best)
        idle = np.maximum(sizes - ticks[:, None], 0).sum(0) + host_ticks * len(ticks)
        with np.errstate(divide="ignore"):
            costs = idle / (ticks[:, None] <= sizes).sum(0)
        assert costs[-1] == pytest.approx(costs.min(), rel=1e-9)


def busy_share(periods, host_ticks, choose, num_chunks=2000):
    """The share of the lanes' time that is spent in ticks of students, if lane i needs the host every periods[i] ticks.

    The lanes begin at random phases (seed 0). `choose` gives the size of a chunk from the ticks to the next stops.
    """
    left = periods * np.random.default_rng(0).random(len(periods))
    clock, work, first = 0.0, 0.0, 0.0
    for i in range(num_chunks):
        if i == num_chunks // 4:  # what comes before is the beginning
            work, first = 0.0, clock
        num_ticks = choose(left, clock)
        clock += num_ticks + host_ticks
        work += np.minimum(left, num_ticks).sum()
        left = np.where(left <= num_ticks, periods, left - num_ticks)
    return work / (clock - first) / len(periods)


@pytest.mark.parametrize("host_ticks", [100, 2000])
@pytest.mark.parametrize("spread", [1, 1.2, 3, 10])
def test_lanes_are_at_least_as_busy_as_with_chunks_of_the_best_constant_size(spread, host_ticks):
    """For lanes whose periods differ by a factor of `spread`."""
    periods, size, seconds = np.geomspace(3000, 3000 * spread, 8), ChunkSize(), 5e-7

    def choose(left, clock):
        num_ticks = size.choose(left)
        size.update(clock * seconds, (clock + num_ticks) * seconds, num_ticks)
        return num_ticks

    constant = max(busy_share(periods, host_ticks, lambda *_, n=n: n) for n in np.geomspace(100, 40000, 25))
    share = busy_share(periods, host_ticks, choose)
    assert share > constant


def test_the_longest_chunk_lasts_as_long_as_a_person_waits():
    """0.4 seconds, so that a run can be stopped, and its progress is shown."""
    size, left = ChunkSize(), np.full(8, 1e12)
    for _ in range(30):
        size.update(0.0, 5e-7 * (num_ticks := size.choose(left)), num_ticks)
    assert num_ticks == pytest.approx(0.4 / 5e-7, abs=1)


def test_no_chunk_has_more_than_twice_the_ticks_of_any_before():
    size, left = ChunkSize(), np.full(8, 1e12)
    sizes = []
    for _ in range(3):
        sizes.append(size.choose(left))
        size.update(0.0, 1e-6 * sizes[-1], sizes[-1])
    assert sizes[1] == 2 * sizes[0] and sizes[2] == 2 * sizes[1]


def test_a_host_that_is_late_makes_chunks_longer():
    """It learns nothing of a tick but that it takes at most so long, and lanes that stop soon do not shorten chunks."""
    size, left = ChunkSize(), np.full(8, 20.0)
    first = size.choose(left)
    size.update(0.0, 1e-6 * first, first)
    assert size.choose(left) == 20
    size.update(1e-3, 0.1, 20, is_late=True)
    assert size.tick_seconds == pytest.approx(1e-6) and size.choose(left) == 40
    unseen = ChunkSize()
    unseen.update(0.0, 0.1, 1000, is_late=True)
    assert unseen.tick_seconds == pytest.approx(1e-4)
