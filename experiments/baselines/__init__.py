"""The same students trained in three ways: by the engine, by a padded scan, and by a compiled scalar loop.

The first is the package. The other two are what `experiments.benchmark` holds it against: the usual design of
reinforcement learning in JAX, and the most that the processor itself can do. `Problem` is what each is given and
`Trained` what each returns, so that `tests/test_benchmark.py` can compare them.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdistill import MDP
from jaxdistill.training.config import ResolvedCell


@dataclasses.dataclass(frozen=True)
class Problem:
    """P cells on M worlds: P * M students, each to play `num_iterations` episodes.

    Attributes:
      mdps: M stacked worlds.
      cells: methods with their teachers [M, ...] and configurations; all numbers of a configuration are scalars.
      num_iterations: episodes, and so updates, of each student.
      initial: float32 [P, M, O, A + 1], the logits and the value that each student starts from; None: zeros.
      cost: [M], expected steps of an episode, by which the engine orders the students; None: all alike.
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
        """A fresh copy of what the students start from, float32 [P, M, O, A + 1]."""
        shape = (len(self.cells), self.mdps.num_mdps, self.mdps.num_observations, self.num_params)
        return np.zeros(shape, np.float32) if self.initial is None else np.array(self.initial, np.float32)


class Trained(NamedTuple):
    """What training leaves behind.

    Attributes:
      steps: environment steps of all episodes, none of them padding.
      seconds: of the training alone, compiled before.
      params: float32 [P, M, O, A + 1], final tables.
      returns: [P, M], undiscounted return of an episode, mean over all iterations.
      lengths: [P, M], steps of an episode, likewise.
      used: by estimator, the part of the lanes' ticks that moved a student; of the engine only.
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
