"""The engine on a `Problem`: `jaxdistill.train` without the exact evaluation of the students that follows training."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from experiments.baselines import Problem, Trained
from jaxdistill.estimators import ESTIMATORS, Estimator
from jaxdistill.runtime import streams
from jaxdistill.runtime.checkpoints import Outputs
from jaxdistill.scheduling import group, pool
from jaxdistill.training import tasks


def train(problem: Problem) -> Trained:
    """Trains every student. The time is that of the pool, from the packed worlds to the last student's table."""
    params = np.empty_like(problem.tables())
    sums = np.empty((*params.shape[:2], 2))
    cost = np.ones(problem.mdps.num_mdps) if problem.cost is None else problem.cost
    num_iterations, steps = problem.num_iterations, 0

    def keep(cell: np.ndarray, mdp: np.ndarray, pauses: np.ndarray, outputs: Outputs) -> None:
        params[cell, mdp], sums[cell, mdp] = outputs.params, outputs.curves.sum(1)

    def count(fraction: float, steps_so_far: int, *_: float) -> None:
        nonlocal steps
        steps = steps_so_far

    configs = [dataclasses.replace(cell.config, num_iterations=num_iterations) for cell in problem.cells]
    cells = [dataclasses.replace(cell, config=config) for cell, config in zip(problem.cells, configs, strict=True)]
    key = streams.from_seed(problem.seed)
    all_tasks = tasks.make_tasks(key, problem.mdps, cells, cost, keep, initial=problem.initial)
    with _counted_ticks() as chunks:
        started = time.perf_counter()
        pool.run(all_tasks, count)
        seconds = time.perf_counter() - started
    returns, lengths = np.moveaxis(sums / num_iterations, -1, 0)
    return Trained(steps, seconds, params, returns, lengths, _used(problem, sums[..., 1], chunks))


def _used(problem: Problem, steps: np.ndarray, chunks: list[tuple[Estimator, int]]) -> dict[str, float]:
    """By estimator, the share of the lanes' ticks that advanced a student."""
    shares = {}
    for estimator in ESTIMATORS.values():
        cells = [i for i, cell in enumerate(problem.cells) if cell.config.estimator == estimator.name]
        num_ticks = sum(number for chunk_estimator, number in chunks if chunk_estimator == estimator)
        if cells and num_ticks:
            shares[estimator.name] = float(steps[cells].sum() * estimator.ticks_per_step / num_ticks)
    return shares


@contextlib.contextmanager
def _counted_ticks() -> Iterator[list[tuple[Estimator, int]]]:
    """A list of (estimator, lanes * ticks) of every chunk that runs inside the context."""
    chunks: list[tuple[Estimator, int]] = []
    start = group.Group.start

    def counting(self: Any, number: int) -> Any:
        chunks.extend((block.program.estimator, len(block.occupant) * number) for block in self.blocks)
        return start(self, number)

    with mock.patch.object(group.Group, "start", counting):
        yield chunks
