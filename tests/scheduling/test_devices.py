"""One training on several devices gives the same bits as on one device."""

import os
import subprocess
import sys

import numpy as np

import jaxdistill


def trained(path, devices=0):
    """The result of a training in a process with so many devices, and what the process printed."""
    environment = os.environ | {"PYTHONPATH": "."}
    if devices:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "tests/devices_run.py", str(path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return jaxdistill.load(path), done.stdout.split()


def test_four_devices(tmp_path):
    """21 students on 4 devices: not the same number on each."""
    ours, printed = trained(tmp_path / "four.npz", devices=4)
    assert printed == ["4", "4"]
    alone, _ = trained(tmp_path / "one.npz")
    for name in ("returns", "lengths", "final_returns", "logits", "values", "measurements", "teacher_returns"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(alone, name), name)
