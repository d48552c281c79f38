"""How long a block of lanes will still take: what its students took so far, and who still waits.

Time is counted in ticks: a lane needs as many as its student has steps to go, twice as many where episodes are walked
backward; `Task.cost` is how many an iteration was expected to take.
"""

import dataclasses

import numpy as np

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

    def per_iteration(self, expected: np.ndarray) -> np.ndarray:
        """Ticks of an iteration, [W]; `expected` where nothing is known yet."""
        return np.where(self.episodes > 0, self.ticks / np.maximum(self.episodes, 1e-9), expected)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a block has before it.

    Attributes:
      ticks_left: of its busy lanes, [B].
      waiting: expected ticks of the students that wait, this worker's share of them.
      capacity: lanes that may be busy.
    """

    ticks_left: np.ndarray
    waiting: float
    capacity: int

    def ticks(self) -> float:
        """While students wait all lanes are busy; then the longest of those who are left decides."""
        shared = (self.ticks_left.sum() + self.waiting) / self.capacity if self.waiting > 0 else 0.0
        return shared + float(np.max(self.ticks_left - shared, initial=0.0))
