"""The same students trained in other ways: other numbers of lanes, other chunks, and after a stop; their bits."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

import jaxdistill
from jaxdistill import Cell, Result, teachers
from jaxdistill.kernels import choice
from jaxdistill.runtime import checkpoints, progress, streams
from jaxdistill.scheduling import chunks

_ARRAYS = ("returns", "lengths", "final_returns", "logits", "values")
_CELLS = {  # two programs of each estimator, and a student that pauses for its exact curve
    "td": Cell("on_policy_distill_r", changes={"estimator": "td"}),
    "mc": Cell("on_policy_distill_r", changes={"estimator": "mc"}),
    "next": Cell("n_distill", changes={"estimator": "mc"}),
    "taught": Cell("teacher_distill", changes={"estimator": "td"}),
}


class _Stop(Exception):
    """Stands for Ctrl-C in the middle of a training."""


def _train(num_mdps: int, num_iterations: int, **options: Any) -> Result:
    mdps = jaxdistill.sample_mdps(streams.from_seed(0), num_mdps, num_rows=8, num_cols=8)
    options = {"num_iterations": num_iterations, "num_checkpoints": 4, "progress": False} | options
    return jaxdistill.train(streams.from_seed(1), mdps, teachers.optimal(mdps), _CELLS, **options)


def _is_same(ours: Result, theirs: Result) -> bool:
    """Whether two results have the same bits."""
    same = [np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True) for name in _ARRAYS]
    return all(same) and ours.settings["steps"] == theirs.settings["steps"]


@contextlib.contextmanager
def _with_lanes(number: int) -> Iterator[None]:
    """Inside, trainings use so many lanes."""
    toolchain = type(choice.toolchain_of(jax.local_devices()[0]))
    with mock.patch.object(toolchain, "num_lanes", lambda self, ordinal: number):
        yield


def measured(num_mdps: int, num_iterations: int, lanes: list[int], folder: Path) -> dict[str, Any]:
    """Trains students once as usual and then in other ways.

    Args:
      num_mdps, num_iterations: the size of the training.
      lanes: other numbers of lanes.
      folder: for saves.

    Returns:
      loops: the loops that trained.
      students, seconds: of the usual training.
      same: whether the bits were the same, by what was different.
    """
    started = time.perf_counter()
    usual = _train(num_mdps, num_iterations)
    seconds = time.perf_counter() - started
    same = {}
    for number in lanes:
        with _with_lanes(number):
            same[f"{number} lanes"] = _is_same(_train(num_mdps, num_iterations), usual)
    with mock.patch.multiple(chunks, _MOST=1000, _FIRST=1000):
        same["chunks of at most 1000 ticks"] = _is_same(_train(num_mdps, num_iterations), usual)
    same["stopped and resumed"] = _resumed(num_mdps, num_iterations, usual, folder)
    return {"loops": usual.settings["loops"], "students": usual.returns[..., 0].size, "seconds": seconds, "same": same}


def _resumed(num_mdps: int, num_iterations: int, usual: Result, folder: Path) -> bool:
    """Whether a training that is stopped and goes on has the bits of the usual one, and was stopped in the middle."""
    fractions: list[float] = []

    def stop(fraction: float, *_: float) -> None:
        if fraction > 0.3:
            fractions.append(fraction)
            raise _Stop

    chunks_are_short = mock.patch.multiple(chunks, _CHUNK_SECONDS=0.02)
    hook_is_called_often = mock.patch.object(progress, "_HOOK_SECONDS", 0.0)
    with hook_is_called_often, chunks_are_short, contextlib.suppress(_Stop), checkpoints.resumable(folder):
        _train(num_mdps, num_iterations, on_chunk=stop)
    if not fractions or fractions[0] == 1.0:
        return False
    with checkpoints.resumable(folder):
        return _is_same(_train(num_mdps, num_iterations), usual)
