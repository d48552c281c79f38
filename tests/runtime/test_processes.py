"""One training on several devices, and by several processes: the same bits as on one."""

import itertools
import os
import socket
import subprocess
import sys

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
def test_one_that_dies_ends_the_other_and_both_go_on_later(alone, tmp_path, dying):
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


def test_shares_are_all_of_them_once(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    dealt = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        dealt.append((processes.share(list(range(7)), 0), processes.share(list(range(7, 9)), 7)))
    assert sorted(itertools.chain(*itertools.chain(*dealt))) == list(range(9))
    assert [len(first + second) for first, second in dealt] == [3, 3, 3]


@pytest.mark.parametrize("flags", [("localhost:1", 0, 0), ("localhost", 2, 0), ("", 2, 0), ("localhost:1", 2, 2)])
def test_flags_that_do_not_go_together(flags):
    with pytest.raises(ValueError, match="belong together"):
        processes.connect(*flags)


def test_one_process_needs_nobody():
    assert processes.count() == 1 and processes.is_writer() and processes.exchange(b"x") == [b"x"]
