"""How many ticks a chunk has."""

import pytest

from jaxdistill.scheduling import chunks


def size_after(*chunks_of, first=1000):
    """The size and the seconds of a tick after chunks of (start, end, busy lanes, stopped lanes, is late)."""
    chunk_size = chunks.ChunkSize()
    chunk_size.num_ticks = first
    for chunk in chunks_of:
        chunk_size.update(*chunk)
    return chunk_size.num_ticks, chunk_size.tick_seconds


def test_a_chunk_at_most_doubles():
    assert size_after((0.0, 1e-3, 10, 0, False)) == (2000, 1e-6)


def test_a_chunk_is_not_longer_than_its_limit():
    num_ticks, _ = size_after((0.0, chunks._CHUNK_SECONDS, 10, 0, False), first=10**6)
    assert num_ticks == 10**6
    num_ticks, _ = size_after((0.0, 4 * chunks._CHUNK_SECONDS, 10, 0, False), first=10**6)
    assert num_ticks == 10**6 // 4


def test_lanes_and_host_wait_alike():
    """Of 10 lanes two stop in 1000 ticks, so a lane needs the host every 5000; the host takes as long as 500."""
    first, second = (0.0, 1e-3, 10, 2, False), (1.5e-3, 2.5e-3, 10, 2, False)
    chunk_size = chunks.ChunkSize()
    for chunk in (first, second):
        chunk_size.num_ticks = 1000
        chunk_size.update(*chunk)
    mean_host = 0.5e-3 / 1.9 / 1e-6  # the first chunk, which counts 0.9, had none before it
    assert chunk_size.num_ticks == pytest.approx((2 * 5000 * mean_host) ** 0.5, rel=0.01)


def test_a_host_that_is_late_makes_chunks_longer():
    """It learns nothing of a tick but that it takes at most so long, and many lanes that stop do not shorten chunks."""
    late = (2e-3, 0.1, 10, 10, True)
    assert size_after((0.0, 1e-3, 10, 10, False), late)[1] == 1e-6
    num_ticks, tick_seconds = size_after(late)
    assert (num_ticks, tick_seconds) == (2000, pytest.approx(0.098e-3))
