"""How many ticks a block runs before the host looks: as few as keep its lanes busy, as many as keep the host idle."""

import numpy as np

_FIRST, _FEWEST, _MOST = 256, 16, 2**24  # ticks of a chunk
_CHUNK_SECONDS = 0.4  # the longest chunk
_MEMORY = 0.9  # of a chunk, in what is known about host and lanes, when the next one has run


class Pace:
    """How many ticks the next chunk has, by what the last ones took.

    Lanes whose students are done wait for the end of the chunk, and all lanes wait for the host between two chunks. If
    a lane needs the host every T ticks and the host takes as long as H ticks, a chunk of C makes lanes idle for C / 2T
    and H / C of the time; the sum is least where both are equal.

    Attributes:
      num_ticks: of the next chunk.
      tick_seconds: what a tick of the last one took; NaN before the first.
    """

    def __init__(self) -> None:
        self.num_ticks, self.tick_seconds = _FIRST, np.nan
        self._seen = np.zeros(4)  # decayed sums: ticks of busy lanes, lanes that stopped, seconds of the host, chunks
        self._ended = np.nan

    def look(self, started: float, ended: float, busy: int, stopped: int) -> None:
        """Takes note of a chunk that ran from `started` to `ended`, at whose end `stopped` of `busy` lanes waited."""
        host = 0.0 if np.isnan(self._ended) else started - self._ended
        self._seen = _MEMORY * self._seen + np.array([busy * self.num_ticks, stopped, host, 1.0])
        self.tick_seconds, self._ended = (ended - started) / self.num_ticks, ended
        ticks, stops, seconds, chunks = self._seen
        tick_seconds = max(self.tick_seconds, 1e-12)  # a clock may stand still
        wanted = min(_CHUNK_SECONDS / tick_seconds, 2 * self.num_ticks)
        if stops:
            wanted = min(wanted, np.sqrt(2 * ticks / stops * seconds / chunks / tick_seconds))
        self.num_ticks = int(min(max(wanted, _FEWEST), _MOST))
