"""Real workers give the same bits: a pool of processes, Dask with a worker that is killed, and jobs of submitit."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import jaxdistill
from jaxdistill.executors import ExecutorFailed, Sharding, SubmititExecutor, using
from tests.executors.problem import train


@pytest.fixture(scope="module")
def whole():
    return train()


def spawning(workers):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def assert_same(ours, theirs):
    for name in jaxdistill.Result.axes:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    assert {**ours.settings, "seconds": 0} == {**theirs.settings, "seconds": 0}


def test_a_pool_of_processes(whole):
    with spawning(2) as pool:
        assert_same(train(Sharding(pool, 4)), whole)


def test_a_killed_process_costs_what_was_running(whole, tmp_path):
    """The pool is broken, which is one line; the next run goes on from what was finished and saved."""
    broken = pytest.raises(ExecutorFailed, match=r"shards were lost: a process of the pool ended")
    with spawning(1) as pool, broken, jaxdistill.resumable(tmp_path / "run", seconds=1e-9):
        train(Sharding(pool, 4), flag=tmp_path / "killed")
    assert (tmp_path / "killed").exists()
    with using("processes:1,shards=4"), jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(flag=tmp_path / "killed"), whole)
    assert not (tmp_path / "run").exists()


ORPHAN = """
import os, signal
from jaxdistill.executors import using
from jaxdistill.executors.ambient import resolved

if __name__ == "__main__":
    with using("processes:1"):
        print(resolved(None).executor.submit(os.getpid).result(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_when_their_caller_is_killed(tmp_path):
    """They hold its stdout, which is at its end when all of them have ended."""
    (tmp_path / "orphan.py").write_text(ORPHAN)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "orphan.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL and done.stdout.strip().isdecimal(), done.stderr


def test_dask_runs_the_shards_of_a_killed_worker_again(whole, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra dask")
    with using("dask-local:2,shards=4"), jaxdistill.resumable(tmp_path / "run", seconds=1e-9):
        result = train(flag=tmp_path / "killed")
    assert (tmp_path / "killed").exists()
    assert_same(result, whole)


def test_an_address_without_a_scheduler_is_one_line(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra dask")
    monkeypatch.setattr("jaxdistill.executors.local._CONNECT_SECONDS", 0.01)
    with using("dask:tcp://127.0.0.1:9"), pytest.raises(ConnectionError, match="no scheduler of Dask answers") as error:
        train()
    assert "\n" not in str(error.value)


@pytest.fixture
def jobs(tmp_path):
    submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
    with SubmititExecutor(submitit.LocalExecutor(tmp_path / "jobs"), num_jobs=2) as executor:
        yield executor


def test_jobs_of_submitit(whole, jobs):
    assert_same(train(Sharding(jobs, 2)), whole)


def test_a_job_that_dies_is_named_and_the_others_are_finished(whole, jobs, tmp_path):
    failed = pytest.raises(ExecutorFailed, match=r"^1 of 2 shards were lost: RuntimeError: job \d+ failed, see")
    with failed as error, jaxdistill.resumable(tmp_path / "run"):
        train(Sharding(jobs, 2), flag=tmp_path / "killed")
    kept = np.isfinite(error.value.result.final_returns)
    assert kept.sum() == 0.5 * kept.size
    np.testing.assert_array_equal(error.value.result.logits[kept], whole.logits[kept])
    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(Sharding(jobs, 2), flag=tmp_path / "killed"), whole)


def test_a_job_that_is_cancelled_or_shut_down(jobs):
    futures = [jobs.submit(os.getpid) for _ in range(3)]
    assert futures[2].cancel()  # not yet submitted, because two others are running
    assert {future.result(timeout=120) for future in futures[:2]}.isdisjoint({os.getpid()})
    jobs.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        jobs.submit(os.getpid)
    with pytest.raises(ValueError, match="must be one of submitit"):
        SubmititExecutor(None)
