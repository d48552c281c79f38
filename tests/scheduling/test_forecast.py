"""The time left, by a clock that counts ticks: what is said against what comes."""

import sys

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import teachers
from jaxdistill.scheduling import chunks, group, pool
from jaxdistill.scheduling.forecast import IterationLengths, RemainingWork, TickCost, seconds_left
from jaxdistill.scheduling.task import Task


def test_work_is_shared_by_the_workers():
    """2 s of running students and 6 s of waiting ones of one task, and 4 s of a task whose cost is not known yet."""
    known, unknown = RemainingWork(1e-3, 2000.0, 6000.0), RemainingWork(np.nan, 0.0, 4000.0)
    assert seconds_left([known, unknown], 0.5, 2) == pytest.approx(6.0)


def test_one_student_that_needs_longer_than_all_others():
    assert seconds_left([RemainingWork(1e-3, 2000.0, 0.0)], 17.0, 2) == 17.0


def test_nothing_is_said_before_anything_is_known():
    assert np.isnan(seconds_left([RemainingWork(np.nan, 0.0, 10.0)], 0.0, 2))


def test_what_a_tick_costs_follows_the_last_rounds():
    cost = TickCost()
    assert np.isnan(cost.update(1.0, 0.0))
    for _ in range(200):
        seconds_per_tick = cost.update(2.0, 1000.0)
    assert seconds_per_tick == pytest.approx(2e-3, rel=1e-3)


def test_recent_episodes_count():
    lengths = IterationLengths(2, 1000)
    lengths.update(np.array([5000.0, 0.0]), np.array([100, 0]))
    lengths.update(np.array([5000.0 + 900 * 10, 0.0]), np.array([1000, 0]))
    np.testing.assert_allclose(lengths.per_iteration(), [10, 1], rtol=1e-6)
    lengths.reset(np.array([0, 1]))  # new students came
    lengths.update(np.array([3.0, 3.0]), np.array([1, 1]))
    np.testing.assert_allclose(lengths.per_iteration(), [3, 3])


class Clock:
    """Counts ticks in place of `time`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1e-4  # what the host does
        return self.now

    monotonic = perf_counter


def test_what_is_said_from_a_tenth_of_the_run_on(monkeypatch):
    """600 students of unlike worlds; one of them may need a hundred times the other's ticks."""
    clock, said = Clock(), []
    start = group.Group.start

    def counted(self, number):
        clock.now += number * 1e-4
        return start(self, number)

    monkeypatch.setattr(group.Group, "start", counted)
    monkeypatch.setattr(group, "time", clock)
    monkeypatch.setattr(chunks, "_CHUNK_SECONDS", 5e-3)
    one_worker = pool.workers()[:1]
    monkeypatch.setattr(pool, "workers", lambda: one_worker)
    monkeypatch.setattr("jaxdistill.runtime.progress._HOOK_SECONDS", 0.0)
    monkeypatch.setattr(pool, "_POLL_SECONDS", 1e-3)
    monkeypatch.setattr(pool, "_ESTIMATE_SECONDS", 0.0)
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 300, num_rows=8, num_cols=8)
    jaxdistill.train(
        jax.random.key(1), mdps, teachers.optimal(mdps), ["baseline", "on_policy_distill"], num_iterations=1000,
        num_checkpoints=2, on_chunk=lambda done, steps, left: said.append((clock.now, left)), progress=False,
    )  # fmt: skip
    end = said[-1][0]
    ratios = []
    for part in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        at, left = next((at, left) for at, left in said if at >= part * end)
        ratios.append(left / (end - at))
    assert min(ratios) > 0.8 and max(ratios) < 1.2, ratios


def test_a_sample_starts_and_then_the_most_expensive_students():
    task = make_task(cost=np.arange(1.0, 801.0))
    order = np.array(list(task.queue))
    assert sorted(order) == list(range(800)) and task.is_sample.sum() == 200
    assert (np.diff(order[~task.is_sample[order]]) < 0).all()
    assert task.is_sample[order[:200]].all()


def make_task(cost):
    """A task whose queue alone is looked at."""
    return Task(None, None, None, None, 10, cost, None)


def test_workers_that_empty_a_queue_while_another_looks(monkeypatch):
    """The estimate failed, and with it the training, where the queue was emptied between two of its lines."""
    monkeypatch.setattr(chunks, "_CHUNK_SECONDS", 1e-9)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        mdps = jaxdistill.sample_mdps(jax.random.key(0), 40, num_rows=4, num_cols=4, p_plus10=0.2)
        for seed in range(25):
            jaxdistill.train(jax.random.key(seed), mdps, methods="baseline", num_iterations=20, num_checkpoints=2)
    finally:
        sys.setswitchinterval(before)
