"""Which executors are refused, into how many shards a training is cut, and how."""

import concurrent.futures
import multiprocessing

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.executors import Sharding, using
from jaxdistill.executors.ambient import resolved
from jaxdistill.training.shards import cut
from tests.executors.here import Here


def spawning(workers=2):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def forking():
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))


class Client:
    def get_executor(self):
        return None


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            forking,
            r'^executor forks its processes, .* ProcessPoolExecutor\(mp_context=multiprocessing.get_context\("spawn"',
        ),
        (lambda: concurrent.futures.ThreadPoolExecutor(1), "of other processes, because .* leave it out"),
        (Client, r"got a Client: pass the result of its get_executor\(\)"),
        (lambda: "processes:2", "with executors.using"),
        (lambda: 4, "must be a concurrent.futures.Executor, such as a ProcessPoolExecutor; got 4"),
    ],
)
def test_what_is_refused(make, line):
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 2, num_rows=3, num_cols=3)
    executor = make()
    for train in (
        lambda: jaxdistill.train(jax.random.key(0), mdps, None, "baseline", executor=executor),
        lambda: jaxdistill.teachers.q_learning(jax.random.key(0), mdps, executor=executor),
        lambda: jaxdistill.teachers.actor_critic(jax.random.key(0), mdps, executor=executor),
    ):
        with pytest.raises(ValueError, match=line) as error:
            train()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"num_shards": 0}, {"num_threads": 0.5}, {"num_workers": -1}, {"allow_mixed": 1}, {"num_shards": True}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sharding(Here(), **options)


@pytest.mark.parametrize(
    ("options", "num_students", "expected"),
    [
        ({}, 6400, 16),
        ({}, 640, 10),
        ({}, 3, 1),
        ({"num_shards": 100}, 6400, 100),
        ({"num_shards": 100}, 3, 3),
        ({"num_workers": 4}, 6400, 16),
        ({"num_workers": 4}, 2500, 8),
        ({"num_workers": 2}, 900, 2),
        ({"num_workers": 4}, 20, 4),  # no worker is left without a shard
        ({"num_workers": 1000}, 64_000, 1000),
    ],
)
def test_number_of_shards(options, num_students, expected):
    assert Sharding(Here(), **options).shards_of(num_students) == expected


def test_the_workers_of_a_pool_are_counted():
    with spawning(3) as pool:
        assert Sharding(pool).num_workers == 3


@pytest.mark.parametrize(
    ("num_cells", "num_mdps", "num_shards"), [(3, 7, 1), (3, 7, 4), (5, 1, 3), (5, 2, 8), (2, 3, 9)]
)
def test_every_student_is_in_one_shard_and_the_work_is_balanced(num_cells, num_mdps, num_shards):
    cost = np.random.default_rng(0).exponential(size=num_mdps)
    cost[-1] = np.inf if num_mdps > 3 else 1.0
    shards = cut(num_cells, cost, num_shards)
    students = [(c, m) for shard in shards for c in shard.cells.tolist() for m in shard.mdps.tolist()]
    assert sorted(students) == [(c, m) for c in range(num_cells) for m in range(num_mdps)]
    assert min(num_shards, num_mdps) <= len(shards) <= num_shards
    sizes = [len(shard.cells) * len(shard.mdps) for shard in shards]
    assert max(sizes) <= 2 * min(sizes) + num_cells


def test_expensive_worlds_are_spread():
    cost = np.arange(100.0)
    sums = [cost[shard.mdps].sum() for shard in cut(1, cost, 10)]
    assert max(sums) - min(sums) <= 10


def test_a_block_and_an_argument():
    first, second = Here(), Here()
    assert resolved(None) is None
    with using(first):
        assert resolved(None).executor is first and resolved(second).executor is second
        with using(None):
            assert resolved(None) is None
        assert resolved(None).executor is first
    assert resolved(None) is None


def test_a_text_starts_its_executor_at_the_first_training_and_ends_it(monkeypatch):
    started = []

    class Pool(Here):
        def __init__(self, *args, **kwargs):
            super().__init__()
            started.append(self)

        def shutdown(self, *, wait, cancel_futures):
            started.append("closed")

    monkeypatch.setattr("jaxdistill.executors.local.ProcessPoolExecutor", Pool)
    with using("processes:2,shards=5", allow_mixed=True):
        assert not started
        sharding = resolved(None)
        assert resolved(None) is sharding and len(started) == 1
        assert (sharding.num_shards, sharding.num_workers, sharding.allow_mixed) == (5, 2, True)
    assert started[1:] == ["closed"]
    with pytest.raises(ValueError, match="did you mean"), using("processs:2"):
        raise AssertionError("the block must not begin")
