"""The flag --executor: what it starts, and what is refused in one line before anything starts."""

import importlib.util
import shutil
import sys

import pytest

from experiments import common, fig8
from experiments.common import entry
from jaxdistill.cli import main
from jaxdistill.executors import local, slurm
from jaxdistill.executors.ambient import resolved
from jaxdistill.executors.spelling import parse

WRONG = {
    "": "--executor must be processes:4",
    "processes": "the number of processes must be a whole number in [1, 1024]; got ''",
    "process:4": "did you mean 'processes'?",
    "threads:4": "--executor must be processes:4, dask-local:4, dask:tcp://host:8786 or slurm:",
    "4": "got '4'",
    "processes:0": "in [1, 1024]; got '0'",
    "processes:2000": "in [1, 1024]; got '2000'",
    "processes:-1": "got '-1'",
    "processes:four": "got 'four'",
    "processes:²": "got '²'",
    "processes:1e3": "got '1e3'",
    "processes:4,shards=0": "shards must be a whole number in [1, 1000000]; got '0'",
    "processes:4,shards": "key=value, each once, such as shards=32; got 'shards'",
    "processes:4,shards=": "got 'shards='",
    "processes:4,shards=2,shards=3": "got 'shards=3'",
    "processes:4,gpus=1": "the only option of processes is shards=N",
    "dask-local:x": "the number of dask-local must be",
    "dask:": "needs the address of a scheduler, dask:tcp://host:8786; got 'dask:'",
    "dask:host": "needs the address of a scheduler",
    "dask:host:8786": "needs the address of a scheduler",
    "slurm:gpu=1": "Unknown option of --executor=slurm 'gpu' (did you mean 'gpus'?)",
    "slurm:gpus=two": "gpus must be a whole number",
    "slurm:jobs=0": "jobs must be a whole number",
    "slurm:time=60": "time must be hours:minutes, such as 4:00; got '60'",
    "slurm:time=0:00": "time must be hours:minutes",
    "slurm:gpus": "key=value",
    "slurm:gpus=1,gpus=2": "each once",
}


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name)


@pytest.mark.parametrize("text", WRONG)
def test_wrong_texts(text, everything_installed):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "package"), [("dask-local:2", "dask"), ("dask:tcp://a:1", "dask"), ("slurm:", "slurm")]
)
def test_a_missing_package_is_named_with_its_extra(text, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"pip install 'jaxdistill\[{package}\]'"):
        parse(text)


def test_slurm_needs_its_commands(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs the command sbatch"):
        parse("slurm:partition=gpu")


def test_what_is_started(everything_installed, monkeypatch):
    calls = []
    for module, name in [(local, "processes"), (local, "dask_cluster"), (local, "dask_client"), (slurm, "jobs")]:
        monkeypatch.setattr(module, name, lambda *arguments, name=name: calls.append((name, *arguments)))
    for text in ("processes:4", "dask-local:2,shards=8", "dask:tcp://host:8786"):
        parse(text)()
    parse("slurm:partition=gpu,gpus=1,jobs=16,time=1:30,shards=64", allow_mixed=True)()
    assert calls == [
        ("processes", 4, None, False),
        ("dask_cluster", 2, 8, False),
        ("dask_client", "tcp://host:8786", None, False),
        ("jobs", slurm.Jobs(jobs=16, partition="gpu", gpus=1, time=90), 64, True),
    ]


def test_both_command_lines_refuse_a_wrong_executor_before_any_work(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(entry, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(sys, "argv", ["fig8", "--executor=processes:x"])
    for call in (
        lambda: main.main(["compare", "--executor=processes:x"]),
        lambda: common.main(fig8.Settings, "fig8", {}, lambda settings: pytest.fail("it worked")),
    ):
        with pytest.raises(SystemExit) as stopped:
            call()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("error: the number of processes must be a whole number in [1, 1024]")
    assert not list(tmp_path.iterdir())


def test_an_experiment_runs_on_its_executor(monkeypatch):
    monkeypatch.setattr(entry, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(sys, "argv", ["fig8", "--executor=processes:3,shards=7", "--allow_mixed"])
    shardings = []
    common.main(fig8.Settings, "fig8", {}, lambda settings: shardings.append(resolved(None)))
    (sharding,) = shardings
    assert (sharding.num_workers, sharding.num_shards, sharding.allow_mixed) == (3, 7, True)


def test_the_parameters_of_a_job():
    job = slurm.Jobs(partition="gpu", gpus=1, memory=16, time=90)
    assert job.parameters() == {
        "timeout_min": 90, "cpus_per_task": 4, "name": "jaxdistill", "slurm_partition": "gpu", "gpus_per_node": 1,
        "mem_gb": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "workers", "environment", "gpus", "expected"),
    [
        (0, 2, {}, 0, {}),
        (1, 2, {}, 2, {"CUDA_VISIBLE_DEVICES": "1"}),
        (1, 2, {"CUDA_VISIBLE_DEVICES": "5,7"}, 8, {"CUDA_VISIBLE_DEVICES": "7"}),
        (1, 2, {"CUDA_VISIBLE_DEVICES": ""}, 8, {}),
        (2, 4, {}, 2, {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.375"}),
        (2, 4, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1"}, 2,
         {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1"}),
    ],
)  # fmt: skip
def test_each_process_has_a_gpu(number, workers, environment, gpus, expected):
    assert local.gpu_variables(number, workers, environment, gpus) == expected
