"""One training on several devices or in several processes gives the same bits as on one device in one process."""

import io
import itertools
import os
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.runtime import processes

TABLES = ("returns", "lengths", "final_returns", "logits", "values", "measurements", "teacher_returns")


def start(result, place=(), die_at=2.0, devices=0):
    environment = os.environ | {"PYTHONPATH": "."}
    if devices:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "tests/shared_run.py", str(result), str(die_at), *map(str, place)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, code=0, timeout=240):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, err[-3000:]
    return out, err


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def pair(result, **options):
    place = [f"localhost:{free_port()}", 2]
    return [start(result, [*place, i], **options) for i in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "run"
    finish(start(path))
    return jaxdistill.load(f"{path}.0.npz")


def assert_same(ours, theirs):
    for name in TABLES:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)


def test_four_devices(alone, tmp_path):
    """21 students on 4 devices: not the same number on each."""
    out, _ = finish(start(tmp_path / "run", devices=4))
    assert out.split()[:2] == ["4", "4"]
    assert_same(jaxdistill.load(tmp_path / "run.0.npz"), alone)


def test_two_processes(alone, tmp_path):
    """Each trains 10 or 11 of the 21 students, and both hold the result of all."""
    for process in pair(tmp_path / "run"):
        finish(process)
    for rank in range(2):
        result = jaxdistill.load(f"{tmp_path}/run.{rank}.npz")
        assert_same(result, alone)
        assert result.settings["steps"] == alone.settings["steps"]
    assert not (tmp_path / "run.unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_ends_the_other_and_both_resume(alone, tmp_path, dying):
    place = [f"localhost:{free_port()}", 2]
    both = [start(tmp_path / "run", [*place, i], die_at=0.3 if i == dying else 2.0) for i in range(2)]
    finish(both[dying], code=-9)
    other = both[1 - dying]
    _, err = other.communicate(timeout=120)
    assert other.returncode != 0
    assert "process" in err and ("sign of life" in err or "cannot be reached" in err or "died" in err), err[-2000:]
    for process in pair(tmp_path / "run"):
        finish(process)
    assert_same(jaxdistill.load(tmp_path / "run.0.npz"), alone)


def test_every_student_is_in_exactly_one_share(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append((processes.share(list(range(7)), 0), processes.share(list(range(7, 9)), 7)))
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(9))
    assert [len(first + second) for first, second in shares] == [3, 3, 3]


@pytest.mark.parametrize("flags", [("localhost:1", 0, 0), ("localhost", 2, 0), ("", 2, 0), ("localhost:1", 2, 2)])
def test_flags_that_contradict_each_other(flags):
    with pytest.raises(ValueError, match="belong together"):
        processes.connect(*flags)


LAUNCHERS = {
    "JAX": {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
    "SLURM": {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "host", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    },
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
}  # fmt: skip


@pytest.fixture
def initialized(monkeypatch):
    """The calls of JAX's function that waits for the other processes, which does nothing here; no launcher is set."""
    for variables in LAUNCHERS.values():
        for name in variables:
            monkeypatch.delenv(name, raising=False)
    calls = []

    def initialize(*place, **options):
        calls.append(place)
        if place == (None, None, None) and not processes._launcher():
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


SUBSETS = [
    (name, present)
    for name, variables in LAUNCHERS.items()
    for number in range(len(variables) + 1)
    for present in itertools.combinations(variables, number)
]


@pytest.mark.parametrize(("name", "present"), SUBSETS)
def test_what_a_launcher_has_set_in_part_is_refused_at_once(name, present, initialized, monkeypatch):
    """All variables: the processes meet. None, or a single task of SLURM: alone. Else one line with all names."""
    for variable in present:
        monkeypatch.setenv(variable, LAUNCHERS[name][variable])
    missing = [variable for variable in LAUNCHERS[name] if variable not in present]
    is_alone = name == "SLURM" and "SLURM_NTASKS" not in present
    if missing and present and not is_alone:
        with pytest.raises(ValueError, match=f"^{name} has set ") as error:
            processes.connect()
        assert not initialized and "\n" not in str(error.value)
        set_part, _, missing_part = str(error.value).partition(" but not ")
        assert all(f"{variable}={LAUNCHERS[name][variable]}" in set_part for variable in present)
        assert all(variable in missing_part for variable in missing)
    else:
        processes.connect()
        assert initialized == [("host:1", 2, 1) if name == "JAX" and not missing else (None, None, None)]


def test_a_complete_launcher_inside_another_counts(initialized, monkeypatch):
    """mpirun inside a job of SLURM."""
    for variable, value in (LAUNCHERS["Open MPI"] | {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}).items():
        monkeypatch.setenv(variable, value)
    assert processes._launcher() == "Open MPI"


class Said(io.StringIO):
    """A stream that tells when a line was written."""

    def __init__(self):
        super().__init__()
        self.line = threading.Event()

    def flush(self):
        self.line.set()


def test_a_wait_says_for_what_and_ends_in_time(initialized, monkeypatch):
    """The other process never comes: a line says so, and the end is an error of one line, not of JAX."""
    monkeypatch.setattr(sys, "stderr", said := Said())
    monkeypatch.setattr(processes, "_FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr(processes, "_CONNECT_SECONDS", 0)
    monkeypatch.setattr(processes, "_is_connecting", False)
    never = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: never.wait(60))
    with pytest.raises(ConnectionError, match=r"did not meet \(process 1 of 2 at host:1\) in 0 s; start all") as error:
        processes.connect("host:1", 2, 1)
    never.set()
    assert "\n" not in str(error.value)
    with processes.waiting("a message"):
        assert said.line.wait(60)
    assert "waiting for a message: 0 s\n" in said.getvalue()


def test_a_single_process_exchanges_with_itself():
    assert processes.count() == 1 and processes.is_writer() and processes.exchange(b"x") == [b"x"]


def test_each_entry_comes_from_the_process_that_computed_it(monkeypatch):
    """Two processes that take turns: what the first one sends is what the second one receives from it."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    sent = []
    monkeypatch.setattr(processes, "exchange", lambda data: sent.append(data) or list(sent))
    first, second = np.array([[1, 2], [0, 0], [5, 6]]), np.array([[0, 0], [3, 4], [0, 0]])
    processes.combined(np.array([True, False, True]), {"table": first})
    merged = processes.combined(np.array([False, True, False]), {"table": second})
    np.testing.assert_array_equal(merged["table"], [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(second[0], 0)  # the argument is not changed
