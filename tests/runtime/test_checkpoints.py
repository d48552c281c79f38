"""Stopped training goes on, and ends with the same bits."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import teachers
from jaxdistill.runtime import checkpoints
from tests.lockstep import lockstep

UNIFORM_DISTILL = dataclasses.replace(
    jaxdistill.METHODS["teacher_distill"], name="uniform_distill", control=jaxdistill.UNIFORM
)
METHODS = ["on_policy_distill_r", "teacher_distill", UNIFORM_DISTILL, "n_distill"]  # two of them in equal programs


EVERY_ROUND = 1e-9  # seconds between saves: one is due after every round


class Stopped(Exception):
    """Stands for Ctrl-C in the middle of a training."""


@pytest.fixture(scope="module")
def problem():
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 20, num_rows=5, num_cols=5, p_plus10=0.1)
    return mdps, teachers.optimal(mdps)


@pytest.fixture(scope="module")
def whole(problem):
    return train(problem)


def train(problem, **options):
    options = dict(num_iterations=300, num_checkpoints=4, estimator="td") | options
    return jaxdistill.train(jax.random.key(1), *problem, METHODS, **options)


def stop_after(fraction):
    def hook(done, steps, seconds):
        if done > fraction:
            raise Stopped

    return hook


def assert_same(ours, theirs):
    for name in ("returns", "lengths", "final_returns", "logits", "values", "mdp_ids"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    assert ours.settings["steps"] == theirs.settings["steps"]


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_stopped_often_and_still_the_same_bits(problem, tmp_path, estimator, monkeypatch):
    """Stopped again and again, also before the first save, the carry of lanes and what was handed out are read back."""
    whole = train(problem, estimator=estimator)
    read = []
    take = checkpoints.Store._take_snapshots

    def counted(self, arrays):
        take(self, arrays)
        read.append(sum(len(part.students) for parts in self.snapshots.values() for part in parts))

    monkeypatch.setattr(checkpoints.Store, "_take_snapshots", counted)
    for fraction in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(Stopped), lockstep(), checkpoints.resumable(tmp_path / "run", seconds=EVERY_ROUND):
            train(problem, estimator=estimator, on_chunk=stop_after(fraction))
    with checkpoints.resumable(tmp_path / "run"):
        assert_same(train(problem, estimator=estimator), whole)
        assert_same(train(problem, estimator=estimator), whole)  # finished: read, not trained
    assert not (tmp_path / "run").exists()
    assert max(read) > 5


def newest(folder, kind):
    return sorted(folder.glob(f"*/{kind}-*.save"))[-1]


def stop(problem, folder, fraction=0.6):
    with pytest.raises(Stopped), lockstep(), checkpoints.resumable(folder, seconds=EVERY_ROUND):
        train(problem, on_chunk=stop_after(fraction))


@pytest.mark.parametrize("kind", ["lanes", "outputs"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_file_is_seen_and_costs_only_time(problem, whole, tmp_path, kind, damage):
    folder = tmp_path / "run"
    stop(problem, folder)
    path = newest(folder, kind)
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes({"flipped": data, "cut": data[: len(data) // 3], "empty": b""}[damage])
    expected = contextlib.nullcontext() if damage == "gone" else pytest.warns(UserWarning, match=f"{path} is damaged")
    with expected, checkpoints.resumable(folder):
        assert_same(train(problem), whole)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_a_save_holds_settled_rows_and_the_current_episode(problem, tmp_path, estimator):
    """Neither the ring of scales, 64 kB a student, nor records of 4097 steps; and of directions few rows."""
    with pytest.raises(Stopped), lockstep(), checkpoints.resumable(tmp_path, seconds=EVERY_ROUND):
        train(problem, on_chunk=stop_after(0.3), estimator=estimator)
    arrays = checkpoints.read_arrays(newest(tmp_path, "lanes"))
    num_students = sum(len(array) for name, array in arrays.items() if name.endswith(".students"))
    row_bytes = 4 * 8 * problem[0].num_observations
    assert num_students > 3 and sum(array.nbytes for array in arrays.values()) < num_students * (2 * row_bytes + 4096)
    shapes = [tuple(array) for name, array in arrays.items() if name.endswith(".shape")]
    assert any(shape[1:] == (problem[0].num_observations, 8) for shape in shapes)  # a table of directions
    np.testing.assert_array_equal(checkpoints._dense({"a": np.eye(3)}, "a"), np.eye(3))
    table = np.zeros((2, 30, 4))
    table[1, 7, 2], table[0, 3, 1] = 5, -0.0
    back = checkpoints._dense(checkpoints._sparse("a", table), "a")
    np.testing.assert_array_equal(back.view(np.uint8), table.view(np.uint8))


def test_other_inputs_do_not_go_on_from_it(problem, tmp_path):
    """Other numbers, other worlds, or another loss of the same name: each has a folder of its own."""
    folder = tmp_path / "run"
    stop(problem, folder)
    for options in (dict(learning_rate=0.05), dict(num_iterations=320)):
        with pytest.raises(Stopped), lockstep(), checkpoints.resumable(folder):
            train(problem, on_chunk=stop_after(0.0), **options)
    assert len(list(folder.glob("[!.]*"))) == 3
    with checkpoints.resumable(folder):
        assert_same(train(problem, learning_rate=0.05), train(problem, learning_rate=0.05))


@pytest.mark.parametrize("where", ["this thread", "a pool", "a pool made before"])
def test_every_thread_saves_and_goes_on(problem, whole, tmp_path, capsys, where):
    """A training is saved wherever in the block it runs, and it says from where it goes on."""
    with concurrent.futures.ThreadPoolExecutor(1) as early:
        early.submit(int).result()  # the thread is started before the block is entered
        for is_stopped in (True, False):
            stops = pytest.raises(Stopped) if is_stopped else contextlib.nullcontext()
            with stops, lockstep(), checkpoints.resumable(tmp_path / "run", seconds=EVERY_ROUND):
                hook = stop_after(0.6 if is_stopped else 2.0)
                with concurrent.futures.ThreadPoolExecutor(1) as late:
                    if where == "this thread":
                        result = train(problem, on_chunk=hook)
                    else:
                        pool = late if where == "a pool" else early
                        result = pool.submit(train, problem, on_chunk=hook).result()
    assert_same(result, whole)
    going_on = [line for line in capsys.readouterr().err.splitlines() if line.startswith("going on from")]
    assert len(going_on) == 1 and str(tmp_path / "run") in going_on[0]
    finished, total, begun = map(
        int, re.findall(r": (\d+) of (\d+) students are finished, and (\d+) are", going_on[0])[0]
    )
    assert total == 20 * len(METHODS) and 0 < finished < total and begun > 0


def test_threads_in_blocks_of_their_own_do_not_mix(tmp_path):
    """Each saves in its own folder; a thread that is in none is refused, since it is unknown which one it means."""
    entered, may_leave = threading.Barrier(3), threading.Event()

    def in_block(name):
        with checkpoints.resumable(tmp_path / name), checkpoints.resumable(tmp_path / f"inner {name}"):
            entered.wait(timeout=60)
            may_leave.wait(timeout=60)
            return checkpoints._active().folder

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        folders = [pool.submit(in_block, name) for name in "ab"]
        entered.wait(timeout=60)
        with pytest.raises(ValueError, match=r"other threads are inside `resumable` of .*inner a, .*inner b") as error:
            checkpoints.is_active()
        assert "\n" not in str(error.value)
        may_leave.set()
        assert [folder.result() for folder in folders] == [tmp_path / "inner a", tmp_path / "inner b"]
    assert not checkpoints.is_active() and not list(tmp_path.iterdir())


def test_a_full_disk_stops_nothing(problem, whole, tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with (
        pytest.warns(UserWarning, match="No space left on device"),
        lockstep(),
        checkpoints.resumable(tmp_path / "run", seconds=EVERY_ROUND),
    ):
        result = train(problem)
    assert_same(result, whole)


def test_what_was_killed_while_it_wrote_leaves_nothing(problem, tmp_path):
    folder = tmp_path / "run"
    stop(problem, folder)
    leftover = next(folder.glob("[!.]*")) / ".lanes-00000009.save.abc.tmp"
    leftover.write_bytes(b"half")
    stop(problem, folder, fraction=0.8)
    assert not leftover.exists()


def test_bad_arguments():
    with pytest.raises(ValueError, match="seconds must be > 0"), checkpoints.resumable("x", seconds=0):
        pass


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    """SIGKILL, SIGTERM and Ctrl-C at random moments (seed 0), until 50 were survived; then the same bits."""
    rng, survived, done = np.random.default_rng(0), 0, 0
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": "."}

    def start(result, num_iterations):
        command = [sys.executable, "tests/resumed_run.py", str(tmp_path / "run"), str(tmp_path / result)]
        return subprocess.Popen(
            [*command, str(num_iterations)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    for num_iterations in itertools.count(20_000):
        if survived >= 50:
            break
        while True:
            with start("stopped.npz", num_iterations) as process:
                process.stdout.readline()
                try:
                    process.wait(timeout=rng.uniform(0.2, 4.0))
                except subprocess.TimeoutExpired:
                    process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                    process.wait()
                    survived += 1
                    continue
            assert process.returncode == 0
            break
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with start("whole.npz", num_iterations) as process:
            assert process.wait() == 0
        assert_same(jaxdistill.load(tmp_path / "stopped.npz"), jaxdistill.load(tmp_path / "whole.npz"))
        done += 1
    print(f"{survived} kills survived in {done} trainings")
    assert survived >= 50 and done >= 1
