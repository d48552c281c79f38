"""Blocks of lanes that one worker advances together, a chunk of ticks per call."""

import contextlib
import time
from collections.abc import Sequence

import numpy as np

from jaxdistill.kernels import launch
from jaxdistill.runtime.checkpoints import Snapshots
from jaxdistill.scheduling.block import Block
from jaxdistill.scheduling.chunks import ChunkSize
from jaxdistill.scheduling.forecast import TickCost
from jaxdistill.scheduling.loops import ordinal_of
from jaxdistill.scheduling.task import Task


class Group:
    """One block whose ticks XLA's loop runs, or any number of blocks whose kernels run at the same time.

    Attributes:
      blocks: of one device.
      chunk_size: how many ticks the next chunk has.
    """

    def __init__(self, blocks: Sequence[Block]):
        self.blocks, self.chunk_size = list(blocks), ChunkSize()
        self._has_kernels = self.blocks[0].kernel is not None
        self._tick_cost, self._ticks_before, self._round_start = TickCost(), 0, np.nan
        self._num_ticks, self._running, self._chunk_start = 0, list[Block](), np.nan

    def is_busy(self) -> bool:
        """Whether any lane has a student."""
        return any(block.is_busy() for block in self.blocks)

    def is_draining(self) -> bool:
        """Whether all queues are empty and most lanes of every block are free."""
        return all(block.is_draining() for block in self.blocks)

    def run_round(self, lock: contextlib.AbstractContextManager[object]) -> None:
        """Refills the lanes, runs a chunk, and hands out what is ready; `lock` guards what workers share.

        Kernels run the next chunk already while the outputs of this one are handed out.
        """
        self._round_start = time.perf_counter()
        if not self._running:
            with lock:
                self.refill()
            if not self.is_busy():
                return
            self._begin_chunk()
        self._end_chunk()
        with lock:
            collected = [(block, block.collect()) for block in self.blocks]
            for block in self.blocks:
                block.measure()  # before students come of whom nothing is known yet
            if self._has_kernels:
                self.refill()
        if self._has_kernels and self.is_busy():
            self._begin_chunk()
        with lock:
            for block, outputs in collected:
                block.deliver(outputs)
            self._measure()

    def refill(self) -> None:
        """Gives free lanes the next students.

        The first worker to make lanes compiles their program, under the lock, and the others find it compiled.
        """
        changed = [block.refill() for block in self.blocks]
        if any(changed):
            self.run_ticks(0)
            self._round_start = time.perf_counter()

    def run_ticks(self, num_ticks: int) -> None:
        """Runs ticks, and reads the status of the lanes."""
        self.start(num_ticks)
        self.finish()

    def start(self, num_ticks: int) -> None:
        """Begins to run ticks."""
        self._running = [block for block in self.blocks if block.is_busy()]
        self._num_ticks = num_ticks
        for block in self._running:
            block.begin(num_ticks)
        if self._has_kernels and self._running:
            self._launch(self._running, num_ticks)

    def _launch(self, blocks: Sequence[Block], num_ticks: int) -> None:
        kernels = [block.kernel for block in blocks if block.kernel is not None]
        works = [block.work() for block in blocks]
        results = launch.advance(kernels, ordinal_of(blocks[0].device), works, num_ticks)
        for block, (lanes, status) in zip(blocks, results, strict=True):
            block.lanes, block.status = lanes, status

    def finish(self) -> None:
        """Waits for the ticks that run, and reads the status of the lanes."""
        for block in self._running:
            block.end(self._num_ticks)
        self._running = []

    def _begin_chunk(self) -> None:
        self._chunk_start = time.perf_counter()
        self.start(self.chunk_size.choose(np.concatenate([block.ticks_to_stop() for block in self.blocks])))

    def _end_chunk(self) -> None:
        """Waits for the chunk that runs, and notes what it took."""
        if not self._running:  # its end was waited for in order to save
            return
        is_late = self._has_kernels and all(block.is_ready() for block in self._running)
        self.finish()
        self.chunk_size.update(self._chunk_start, time.perf_counter(), self._num_ticks, is_late)
        for block in self.blocks:
            block.settle_old()

    def _measure(self) -> None:
        """Ends a round: measures what a tick of a student costs."""
        num_ticks = sum(block.ticks_per_step * block.steps for block in self.blocks)
        seconds, new_ticks = time.perf_counter() - self._round_start, num_ticks - self._ticks_before
        self._ticks_before = num_ticks
        if all(block.task.queue for block in self.blocks):
            cost = self._tick_cost.update(seconds, new_ticks)
            for block in self.blocks:
                block.task.tick_cost = cost

    def drop_finished(self) -> None:
        """Drops the blocks that have no student and whose queue is empty."""
        finished = [block for block in self.blocks if not block.is_busy() and not block.task.queue]
        self._ticks_before -= sum(block.ticks_per_step * block.steps for block in finished)
        self.blocks = [block for block in self.blocks if block not in finished]

    def snapshots(self) -> list[tuple[Task, Snapshots]]:
        """The students in the lanes of each task, as a later run can go on with them."""
        self.finish()
        busy = [block for block in self.blocks if block.is_busy()]
        if self._has_kernels and busy:
            self.run_ticks(0)
        for block in busy:
            block.settle()
        taken = [(block.task, block.snapshots()) for block in busy]
        return [(task, snapshots) for task, snapshots in taken if snapshots is not None]
