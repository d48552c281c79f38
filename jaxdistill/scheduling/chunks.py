"""How many ticks a block runs per call: few, so that finished lanes are refilled soon; many, so that the host rests."""

import math

import numpy as np

_FIRST, _FEWEST, _MOST = 256, 16, 2**24  # ticks of a chunk
_CHUNK_SECONDS = 0.4  # the longest chunk
_MEMORY = 0.9  # weight of what the host took before, when a new chunk has run


class ChunkSize:
    """The number of ticks of the next chunk, from what is known of the lanes and from what the host took.

    A lane whose student needs the host is idle until the end of the chunk, and all lanes are idle while the host works
    between two chunks. The host has to serve every lane that stops, so that what counts is how long lanes are idle for
    each lane that is served. Lanes that need the host equally often come to stop together.

    Attributes:
      tick_seconds: what a tick of the last chunk took; NaN before the first.
    """

    def __init__(self) -> None:
        self.tick_seconds = np.nan
        self._least, self._largest = _FEWEST, _FIRST
        self._host = np.zeros(2)  # decayed sums: seconds of the host, chunks
        self._last_end = np.nan

    def choose(self, ticks_to_stop: np.ndarray) -> int:
        """The number of ticks of the next chunk.

        Args:
          ticks_to_stop: [busy lanes], the ticks after which each lane is expected to need the host.
        """
        if np.isnan(self.tick_seconds):
            return self._largest
        seconds, chunks = self._host
        tick_seconds = max(self.tick_seconds, 1e-12)  # a clock may stand still
        num_ticks = best_size(ticks_to_stop, seconds / max(chunks, 1) / tick_seconds)
        # The estimates are rough in the beginning, so that no chunk has more than twice the ticks of any before.
        num_ticks = min(num_ticks, _CHUNK_SECONDS / tick_seconds, 2 * self._largest)
        num_ticks = math.ceil(min(max(num_ticks, self._least), _MOST))
        self._largest = max(self._largest, num_ticks)
        return num_ticks

    def update(self, start: float, end: float, num_ticks: int, is_late: bool = False) -> None:
        """Takes a chunk into account that ran from `start` to `end`.

        Args:
          start, end: seconds, of one clock.
          num_ticks: of the chunk.
          is_late: whether the chunk was over before `end`, because the host had other work meanwhile.
        """
        if not np.isnan(self._last_end):
            self._host = _MEMORY * self._host + np.array([start - self._last_end, 1.0])
        tick_seconds, self._last_end = (end - start) / num_ticks, end
        # Of a chunk whose end was not seen, only the most that a tick can have taken is known. Longer chunks keep a
        # device busy that waits for the host.
        self.tick_seconds = np.fmin(self.tick_seconds, tick_seconds) if is_late else tick_seconds
        self._least = min(2 * num_ticks, _MOST) if is_late else _FEWEST


def best_size(ticks_to_stop: np.ndarray, host_ticks: float) -> float:
    """The number of ticks of a chunk after which lanes were idle for the least time per lane that has stopped.

    After C ticks the lanes that have stopped were idle for sum(C - t), and all N lanes will be idle for H ticks. The
    best C is one of the t, because between two of them the sum grows and the number of lanes that have stopped does
    not.

    Args:
      ticks_to_stop: t, [N], N >= 1.
      host_ticks: H, the ticks that fit in the time which the host takes between two chunks.
    """
    ticks, num_stopped = np.sort(ticks_to_stop), np.arange(1, len(ticks_to_stop) + 1)
    idle = ticks * num_stopped - np.cumsum(ticks) + host_ticks * len(ticks)
    return float(ticks[np.argmin(idle / num_stopped)])
