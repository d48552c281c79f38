"""Training in lockstep with the main thread, so that a test of what happens in mid-run never waits for the clock."""

import contextlib
import threading
import time
import types
from unittest import mock

from jaxdistill.runtime import progress
from jaxdistill.scheduling import chunks, pool


@contextlib.contextmanager
def lockstep(num_ticks=256):
    """Inside, training has one worker, which runs one round of `num_ticks` ticks each time the main thread sleeps.

    The main thread sleeps between two looks at the workers, and while it waits for a save. So progress hooks are called
    and saves are made after every round, however fast or busy the machine is.
    """
    turn, round_done, all_done = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    rounds = pool._Pool._rounds

    def rounds_in_turn(self, index, device):
        all_done.clear()
        iterator = rounds(self, index, device)
        try:
            while True:
                while not turn.acquire(timeout=0.05) and not self.stop.is_set():
                    pass
                try:
                    blocks = next(iterator)
                except StopIteration:
                    return
                yield blocks  # the caller publishes its snapshots before it asks for the next round
                round_done.release()
        finally:
            all_done.set()

    def sleep(seconds):
        turn.release()
        while not round_done.acquire(timeout=0.05) and not all_done.is_set():
            pass

    one_worker = pool.workers()[:1]
    with (
        mock.patch.object(pool._Pool, "_rounds", rounds_in_turn),
        mock.patch.object(pool, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)),
        mock.patch.object(pool, "workers", lambda: one_worker),
        mock.patch.object(chunks.ChunkSize, "choose", lambda self, ticks_to_stop: num_ticks),
        mock.patch.object(progress, "_HOOK_SECONDS", 0.0),
    ):
        yield
