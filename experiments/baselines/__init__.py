"""Two baselines of the engine, which train the same students: a padded scan, and a compiled scalar loop.

`experiments.benchmark` compares the engine with them. The padded scan is the usual design of reinforcement learning in
JAX, the scalar loop the most that the processor allows. `Problem` is what each of the three trains and `Trained` what
each returns, so that `tests/experiments/test_benchmark.py` can compare the results.

`engine`, `padded_scan` and `scalar_loop` (with `scalar_kernel`) train a problem. `problems` makes the problems. `ticks`
measures the parts of a tick, and `sharding` what training in shards costs. `clock` measures time and memory, `groups`
is the list of measurements, and `pages` makes the table and the figure.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdistill import MDP
from jaxdistill.estimators import MonteCarlo, OneStep
from jaxdistill.training.config import ResolvedCell

BASELINE_ESTIMATORS = (OneStep.name, MonteCarlo.name)


@dataclasses.dataclass(frozen=True)
class Problem:
    """P cells on M worlds: P * M students, each to play `num_iterations` episodes.

    Attributes:
      mdps: M stacked worlds.
      cells: methods with their teachers [M, ...] and configurations; all numbers of a configuration are scalars.
      num_iterations: episodes, and so updates, of each student.
      initial: float32 [P, M, O, A + 1], the logits and the value that each student starts from; None: zeros.
      cost: [M], expected steps of an episode, by which students are ordered; None: the same for all.
      seed: of the students' random numbers.
    """

    mdps: MDP
    cells: tuple[ResolvedCell, ...]
    num_iterations: int
    initial: np.ndarray | None = None
    cost: np.ndarray | None = None
    seed: int = 0

    @property
    def num_students(self) -> int:
        """P * M."""
        return len(self.cells) * self.mdps.num_mdps

    @property
    def num_params(self) -> int:
        """A + 1: the logits of an observation, and its value."""
        return self.mdps.num_actions + 1

    def tables(self) -> np.ndarray:
        """A new copy of the tables that the students start from, float32 [P, M, O, A + 1]."""
        shape = (len(self.cells), self.mdps.num_mdps, self.mdps.num_observations, self.num_params)
        return np.zeros(shape, np.float32) if self.initial is None else np.array(self.initial, np.float32)


class Trained(NamedTuple):
    """The result of training a `Problem`.

    Attributes:
      steps: environment steps of all episodes, padding not counted.
      seconds: time of the training alone, without compilation.
      params: float32 [P, M, O, A + 1], final tables.
      returns: [P, M], undiscounted return of an episode, mean over all iterations.
      lengths: [P, M], steps of an episode, mean over all iterations.
      used: by estimator, the share of the lanes' ticks that advanced a student; of the engine only.
    """

    steps: int
    seconds: float
    params: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    used: Mapping[str, float] = types.MappingProxyType({})

    @property
    def rate(self) -> float:
        """Useful environment steps per second."""
        return self.steps / self.seconds


def check_estimator(baseline: str, estimator: str) -> None:
    """ValueError unless the baselines implement the estimator."""
    if estimator not in BASELINE_ESTIMATORS:
        raise ValueError(
            f"The {baseline} has the estimators {' and '.join(BASELINE_ESTIMATORS)} only; got {estimator!r}."
        )
