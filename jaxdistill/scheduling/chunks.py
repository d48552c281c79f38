"""How many ticks a block runs per call: few, so that finished lanes are refilled soon; many, so that the host rests."""

import numpy as np

_FIRST, _FEWEST, _MOST = 256, 16, 2**24  # ticks of a chunk
_CHUNK_SECONDS = 0.4  # the longest chunk
_MEMORY = 0.9  # weight of what was measured before, when a new chunk has run


class ChunkSize:
    """The number of ticks of the next chunk, from what the last chunks took.

    A lane whose student is done is idle until the end of the chunk, and all lanes are idle while the host works between
    two chunks. If a lane needs the host every T ticks and the host takes as long as H ticks, a chunk of C ticks makes
    lanes idle for C / 2T and H / C of the time. The sum is least where both are equal.

    Attributes:
      num_ticks: ticks of the next chunk.
      tick_seconds: what a tick of the last chunk took; NaN before the first.
    """

    def __init__(self) -> None:
        self.num_ticks, self.tick_seconds = _FIRST, np.nan
        # Decayed sums: ticks of busy lanes, lanes that stopped, seconds of the host, chunks.
        self._sums = np.zeros(4)
        self._last_end = np.nan

    def update(self, start: float, end: float, num_busy: int, num_stopped: int, is_late: bool = False) -> None:
        """Takes a chunk into account that ran from `start` to `end`.

        Args:
          start, end: seconds, of one clock.
          num_busy: lanes with a student.
          num_stopped: lanes among them that need the host after the chunk.
          is_late: whether the chunk was over before `end`, because the host had other work meanwhile.
        """
        host_seconds = 0.0 if np.isnan(self._last_end) else start - self._last_end
        self._sums = _MEMORY * self._sums + np.array([num_busy * self.num_ticks, num_stopped, host_seconds, 1.0])
        tick_seconds, self._last_end = (end - start) / self.num_ticks, end
        # Of a chunk whose end nobody saw, only the most that a tick can have taken is known.
        self.tick_seconds = np.fmin(self.tick_seconds, tick_seconds) if is_late else tick_seconds
        ticks, stops, seconds, chunks = self._sums
        tick_seconds = max(self.tick_seconds, 1e-12)  # a clock may stand still
        num_ticks = min(_CHUNK_SECONDS / tick_seconds, 2 * self.num_ticks)
        if stops and not is_late:  # Where the device waits for the host, longer chunks keep it busy.
            num_ticks = min(num_ticks, np.sqrt(2 * ticks / stops * seconds / chunks / tick_seconds))
        self.num_ticks = int(min(max(num_ticks, _FEWEST), _MOST))
