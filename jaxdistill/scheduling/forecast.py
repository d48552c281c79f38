"""How long a training will still take, from what its students took so far and from those still in the queue.

Time is counted in ticks. A lane needs as many ticks as its student has steps to go, times the estimator's ticks per
step; `Task.cost` is how many ticks an iteration was expected to take.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_MEMORY = 0.95  # weight of earlier rounds in the cost of a tick, when a new round has run
_WINDOW = 1 / 20  # the part of a training over which the length of a student's recent episodes is averaged


class IterationLengths:
    """Ticks of a recent iteration of the student in every lane."""

    def __init__(self, num_lanes: int, num_iterations: int):
        self.window = max(_WINDOW * num_iterations, 1.0)
        self.ticks = np.zeros(num_lanes)
        self.episodes = np.zeros(num_lanes)
        self.last = np.zeros((2, num_lanes))  # ticks and iterations at the last update

    def update(self, ticks: np.ndarray, iteration: np.ndarray) -> None:
        """Takes into account the ticks and iterations of every student up to now, [W] each."""
        new_ticks, new_episodes = ticks - self.last[0], iteration - self.last[1]
        keep = np.exp(-new_episodes / self.window)
        self.ticks, self.episodes = keep * self.ticks + new_ticks, keep * self.episodes + new_episodes
        self.last = np.stack([ticks, iteration]).astype(float)

    def reset(self, lanes: np.ndarray) -> None:
        """Forgets the students in these lanes."""
        self.ticks[lanes], self.episodes[lanes], self.last[:, lanes] = 0, 0, 0

    def per_iteration(self) -> np.ndarray:
        """Ticks of an iteration, [W]; 1 before the first measurement."""
        return np.where(self.episodes > 0, self.ticks / np.maximum(self.episodes, 1e-9), 1.0)


class TickCost:
    """Recent seconds of worker time per tick of a student, including the time of the host."""

    def __init__(self) -> None:
        self._sums = np.zeros(2)  # decayed sums: seconds, ticks

    def update(self, seconds: float, ticks: float) -> float:
        """Takes a round into account; returns the cost, NaN before the first tick."""
        self._sums = _MEMORY * self._sums + np.array([seconds, ticks])
        return self._sums[0] / self._sums[1] if self._sums[1] else np.nan


@dataclasses.dataclass(frozen=True)
class RemainingWork:
    """What a task still has to do.

    Attributes:
      tick_cost: seconds of a worker for a tick of a student while lanes are full; NaN if not known yet.
      running: ticks that the students in lanes have to go, together.
      queued: ticks that the students in the queue are expected to take.
    """

    tick_cost: float
    running: float
    queued: float


def seconds_left(remaining: Sequence[RemainingWork], longest: float, num_workers: int) -> float:
    """Seconds until all workers are done.

    Args:
      remaining: the remaining work of every task.
      longest: seconds that the longest student still takes; the result is at least this.
      num_workers: workers that share the work.

    Returns:
      The estimate; NaN if nothing was measured yet.
    """
    known_costs = [work.tick_cost for work in remaining if np.isfinite(work.tick_cost)]
    if not known_costs:
        return longest if longest > 0 else np.nan
    mean_cost = float(np.mean(known_costs))
    costs = [work.tick_cost if np.isfinite(work.tick_cost) else mean_cost for work in remaining]
    seconds = sum(cost * (work.running + work.queued) for cost, work in zip(costs, remaining, strict=True))
    return max(seconds / num_workers, longest)
