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

    def select(self, chosen: np.ndarray) -> None:
        """Keeps the chosen lanes."""
        self.ticks, self.episodes, self.seen = self.ticks[chosen], self.episodes[chosen], self.seen[:, chosen]

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
      width: lanes of the block.
      narrowest: a block becomes narrower down to this.
    """

    ticks_left: np.ndarray
    waiting: float
    capacity: int
    width: int
    narrowest: int

    def ticks(self) -> float:
        """In ticks of the block as it is now: first all lanes are busy, then it narrows as they fall free."""
        left, total = np.sort(self.ticks_left), 0.0
        if self.waiting > 0:
            total = (left.sum() + self.waiting) / self.capacity
            left = np.maximum(left - total, 0)
        done, width = 0.0, self.width
        while len(left := left[left > done]):
            narrower = width // 4
            if narrower >= self.narrowest and len(left) <= narrower:
                width = narrower
                continue
            end = left[-1 - narrower] if narrower >= self.narrowest else left[-1]
            total += (end - done) * relative_cost(width, self.width)
            done = end
        return total


def relative_cost(width: int, of: int) -> float:
    """Time of a tick of a block of `width` lanes, that of a block of `of` lanes being 1; as measured on CPU."""
    return (width + 48) / (of + 48)
