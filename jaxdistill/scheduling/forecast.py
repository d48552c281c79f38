"""How long a training will still take: what its students took so far, and who still waits.

Time is counted in ticks: a lane needs as many as its student has steps to go, twice as many where episodes are walked
backward; `Task.cost` is how many an iteration was expected to take.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_MEMORY = 0.95  # of a round, in what a tick costs, when the next one has run
_WINDOW = 1 / 20  # of a training: over so much of its recent past the length of a student's episodes is taken


class Lengths:
    """Ticks of a recent iteration of the student in every lane."""

    def __init__(self, num_lanes: int, num_iterations: int):
        self.window = max(_WINDOW * num_iterations, 1.0)
        self.ticks = np.zeros(num_lanes)
        self.episodes = np.zeros(num_lanes)
        self.seen = np.zeros((2, num_lanes))  # ticks and iterations at the last look

    def look(self, ticks: np.ndarray, iteration: np.ndarray) -> None:
        """Takes note of the ticks and iterations of every student up to now."""
        new_ticks, new_episodes = ticks - self.seen[0], iteration - self.seen[1]
        keep = np.exp(-new_episodes / self.window)
        self.ticks, self.episodes = keep * self.ticks + new_ticks, keep * self.episodes + new_episodes
        self.seen = np.stack([ticks, iteration]).astype(float)

    def forget(self, lanes: np.ndarray) -> None:
        """Begins anew in these lanes."""
        self.ticks[lanes], self.episodes[lanes], self.seen[:, lanes] = 0, 0, 0

    def per_iteration(self) -> np.ndarray:
        """Ticks of an iteration, [W]; 1 where nothing is known yet."""
        return np.where(self.episodes > 0, self.ticks / np.maximum(self.episodes, 1e-9), 1.0)


class TickCost:
    """Seconds of a worker that a tick of a student costs, the host included, of late."""

    def __init__(self) -> None:
        self._seen = np.zeros(2)  # decayed sums: seconds, ticks

    def look(self, seconds: float, ticks: float) -> float:
        """Takes note of a round; the cost by now, NaN where no tick was seen."""
        self._seen = _MEMORY * self._seen + np.array([seconds, ticks])
        return self._seen[0] / self._seen[1] if self._seen[1] else np.nan


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a task has before it.

    Attributes:
      tick_cost: seconds of a worker that a tick of a student costs while lanes are full; NaN if not known yet.
      running: ticks that the students in lanes have to go, together.
      waiting: ticks that those who wait are expected to take.
    """

    tick_cost: float
    running: float
    waiting: float


def seconds_left(outlooks: Sequence[Outlook], longest: float, num_workers: int) -> float:
    """All there is to do, shared by the workers; at least what the `longest` student takes; NaN if nothing is known."""
    known = [outlook.tick_cost for outlook in outlooks if np.isfinite(outlook.tick_cost)]
    if not known:
        return longest if longest > 0 else np.nan
    usual = float(np.mean(known))
    costs = [outlook.tick_cost if np.isfinite(outlook.tick_cost) else usual for outlook in outlooks]
    work = sum(cost * (one.running + one.waiting) for cost, one in zip(costs, outlooks, strict=True))
    return max(work / num_workers, longest)
