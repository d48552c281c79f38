"""`experiments.device_check`, in kernels on the processor; on a GPU it measures what nothing here can measure."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from experiments import common, device_check
from experiments.device import agreement, pages, promises
from jaxdistill.kernels import choice
from jaxdistill.kernels.native import NativeToolchain

ROOT = Path(__file__).resolve().parents[2]


def command(*flags):
    line = [sys.executable, "-m", "experiments.device_check", *flags]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = command(f"--out={tmp_path}/new")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "on an NVIDIA GPU, but this process has no GPU (cpu); --smoke runs it" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "expected"),
    [("--only=speed", "agreement"), ("--repeats=0", "at least 1"), ("--lanes=1", "at least 2"), ("--grids=x", "'x'"),
     ("--num_programs=-1", "at least 0")],
)  # fmt: skip
def test_bad_flags(flag, expected, tmp_path):
    argv = ["device_check", f"--out={tmp_path}", "--smoke", flag]
    with pytest.raises(ValueError, match=expected):
        device_check.work(common.parse(device_check.Settings, "device_check", device_check.SMOKE, argv))


def test_all_programs_have_a_name_of_their_own():
    cases = list(agreement.cases())
    agreement._check_names(cases)
    assert len(cases) > 60 and {case.estimator for case in cases} == {"td", "mc", "lambda"}


@pytest.mark.usefixtures("compiler")
def test_a_wrong_kernel_is_seen():
    """One tick too few in every lane."""
    case = next(agreement.cases())
    with choice.on_cpu(NativeToolchain()):
        problem = agreement.problem()
        right = agreement.compare(case, *problem, num_ticks=30)
        with mock.patch.object(agreement, "_by_kernel", lambda *args: by_kernel(*args[:2], 29)):
            wrong = agreement.compare(case, *problem, num_ticks=30)
    assert right["agrees"] and right["equal"] == 1 and not wrong["agrees"] and wrong["equal"] == 0
    lines = pages.failures({"agreement": {"right": right, "wrong": wrong}})
    assert len(lines) == 1 and "wrong: integers are equal in 0% of the lanes (at least 90%" in lines[0]


by_kernel = agreement._by_kernel


@pytest.mark.usefixtures("compiler")
def test_other_bits_are_seen():
    with choice.on_cpu(NativeToolchain()):
        result, longer = promises._train(2, 20), promises._train(2, 21)
    nearly = dataclasses.replace(result, logits=np.nextafter(result.logits, 9, dtype=np.float32))
    assert promises._is_same(result, result)
    assert not promises._is_same(result, longer) and not promises._is_same(result, nearly)
    assert pages.failures({"promises": {"same": {"3 lanes": True, "17 lanes": False}}}) == ["other bits: 17 lanes"]


@pytest.mark.usefixtures("compiler")
def test_smoke_measures_everything(tmp_path):
    done = command("--smoke", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "device_check.json").read_text())
    assert set(saved["measured"]) == set(device_check.PARTS)
    measured = saved["measured"]
    assert len(measured["agreement"]) == 2 and all(x["agrees"] for x in measured["agreement"].values())
    assert len(measured["promises"]["same"]) == 4 and all(measured["promises"]["same"].values())
    assert all(loop["loop"] == "kernel" for loop in measured["promises"]["loops"])
    assert measured["lanes"]["td"]["8"]["loop"] == "kernel" and measured["lanes"]["mc"]["8"]["best"] > 0
    figure = measured["figure"]
    assert sum(figure["seconds"].values()) == pytest.approx(figure["total"])
    assert min(figure["seconds"].values()) > 0 and figure["programs"] > 0 and figure["steps"] > 100
    table = (tmp_path / "device_check.md").read_text()
    assert table in done.stdout and "| the whole command, nothing compiled before, s |" in table
    assert np.isfinite([measured["mix"]["best"], figure["compiling"]]).all()
