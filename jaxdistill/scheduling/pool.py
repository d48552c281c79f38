"""Keeps the lanes busy: students wait in a queue, a lane that finishes one takes the next, a worker drives each device.

A worker is a host thread with a block of lanes. On CPU there is one per core, because XLA runs a tick of small kernels
on one core; on an accelerator one per device. A student's numbers do not depend on its lane, block or worker.
"""

import collections
import functools
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax

from jaxdistill.engine import xla
from jaxdistill.runtime import checkpoints, processes
from jaxdistill.runtime.checkpoints import OnItsWay, Store
from jaxdistill.scheduling.block import Block, Task
from jaxdistill.scheduling.forecast import Outlook, seconds_left

_LOOK_SECONDS = 0.02  # between two looks of the main thread
_ESTIMATE_SECONDS = 0.2  # between two estimates of the time left
_VECTOR = 8  # lanes on CPU: one vector of its registers, so that no loop over lanes can treat the last ones unlike
_WIDEST, _TABLE_BYTES = 16384, 2**33  # elsewhere: lanes, and bytes of their tables


def lane_width(num_observations: int, row_width: int) -> int:
    """Lanes of a block; fewer where tables are large. It depends on nothing else: the width decides how XLA rounds."""
    if workers()[0].platform == "cpu":
        return _VECTOR
    fitting = _TABLE_BYTES // (4 * num_observations * row_width)
    return max(_VECTOR, min(_WIDEST, 1 << max(fitting.bit_length() - 1, 0)))


def workers() -> list[jax.Device]:
    """The device of each worker: every device of this process once, or a CPU that is one device once per core."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu" or len(devices) > 1:
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return devices * cores


def run(tasks: Sequence[Task], on_progress: Callable[[float, int, float], None] | None = None) -> None:
    """Trains every student of every task, calling `on_progress(fraction, steps, seconds left)` meanwhile.

    Where there are several processes, each trains and hands out its share; `processes.combined` joins what they found.

    A KeyboardInterrupt stops the workers at their next look and is raised again; what was handed out stays handed out.
    Inside `checkpoints.resumable` everything is saved from time to time, and when it is stopped.
    """
    devices, first = workers(), 0
    for task in tasks:
        task.take(processes.share(list(task.queue), first))
        first += len(task.cost)
    total = sum(task.total_work for task in tasks) or 1.0
    store, steps, before = _open_store(tasks)
    pool = _Pool(tasks, len(devices), saving=store is not None)
    with ThreadPoolExecutor(len(devices), thread_name_prefix="jaxdistill") as executor:
        futures = [executor.submit(pool.work, i, device) for i, device in enumerate(devices)]
        try:
            while not all(f.done() for f in futures):
                time.sleep(_LOOK_SECONDS)
                processes.check()
                if any(f.done() and f.exception() for f in futures):
                    break
                if on_progress is not None:
                    fraction = min((before + pool.work_done()) / total, 1.0)
                    on_progress(fraction, steps + pool.steps(), pool.seconds_left())
                if store is not None and store.due():
                    pool.save(store)
        finally:
            pool.stop.set()
            if store is not None:
                pool.save(store, futures)
        for future in futures:
            future.result()
    unfinished = sum(task.num_students - task.num_finished for task in tasks)
    if unfinished:
        raise RuntimeError(f"{unfinished} students were not trained to the end; this is a fault of jaxdistill.")
    if on_progress is not None:
        on_progress(1.0, steps + pool.steps(), 0.0)


def _open_store(tasks: Sequence[Task]) -> tuple[Store | None, int, float]:
    """Where this training is saved, if it is, and the steps and the work (of students, all in all) done before."""
    if not checkpoints.active():
        return None, 0, 0.0
    platform = f"jax {jax.__version__} {jax.devices()[0].device_kind} {xla.loops_are_whole()}".encode()
    store = checkpoints.open_store(itertools.chain([platform], *(task.identity() for task in tasks)))
    steps, work = 0, 0.0
    for number, task in enumerate(tasks):
        outputs = {(who, pause): output for (t, who, pause), output in store.outputs.items() if t == number}
        steps += task.forget(outputs, {who: one for (t, who), one in store.on_their_way.items() if t == number})
        work += sum(float(task.cost[who]) for who, pause in outputs if pause < 0) * task.num_iterations
        task.record = functools.partial(lambda t, who, pause, output: store.add((t, who, pause), output), number)
    store.outputs, store.on_their_way = {}, {}
    return store, steps, work


class _Pool:
    """What the workers share."""

    def __init__(self, tasks: Sequence[Task], num_workers: int, saving: bool):
        self.tasks, self.num_workers, self.saving = tasks, num_workers, saving
        self.stop, self.lock = threading.Event(), threading.Lock()
        self._work = [0.0] * num_workers  # by worker: finished plus running, in units of cost x iterations
        self._steps = [0] * num_workers
        self._blocks: list[list[Block]] = [[] for _ in range(num_workers)]
        self._left, self._estimated = math.nan, -math.inf  # seconds; when
        self._wanted = 0  # saves that were asked for,
        self._given = [0.0] * num_workers  # and that each worker has given its students for
        self._on_their_way: list[dict[checkpoints.Who, OnItsWay]] = [{} for _ in range(num_workers)]

    def save(self, store: Store, workers: Sequence[Future] = ()) -> None:
        """Writes the students of every worker as of its next look or, where `workers` are given, as of its end."""
        self._wanted += 1
        wait(workers)
        while not workers and min(self._given) < self._wanted:
            time.sleep(0.01)
        store.save({who: one for mine in self._on_their_way for who, one in mine.items()})

    def _give(self, index: int, blocks: Sequence[Block], until: float) -> None:
        """Gives a worker's students for saves up to `until`, unless it has done so."""
        if self._given[index] < until:
            mine = {(self.tasks.index(b.task), who): one for b in blocks for who, one in b.on_their_way().items()}
            self._on_their_way[index], self._given[index] = mine, until

    def work(self, index: int, device: jax.Device) -> None:
        """Runs the tasks to the end, or until it is to stop; gives its students for every save that is asked for."""
        blocks: Sequence[Block] = ()
        try:
            for blocks in self._rounds(index, device):
                self._give(index, blocks, self._wanted)
            if self.saving:
                self._give(index, blocks, math.inf)
        finally:
            self._given[index] = math.inf  # nobody need wait for this worker

    def _rounds(self, index: int, device: jax.Device) -> Iterator[Sequence[Block]]:
        """Runs the tasks in turn, a chunk of ticks a round; yields the blocks after each.

        While the last students of a task are running, the next one runs beside them. Workers begin with different
        tasks, so that it is known early what those that come later take.
        """
        waiting = collections.deque(self.tasks)
        waiting.rotate(-index)
        blocks: list[Block] = []
        retired_work, retired_steps = 0.0, 0
        with jax.default_device(device):
            while not self.stop.is_set():
                if waiting and all(block.draining() for block in blocks):
                    task = waiting.popleft()
                    blocks.append(Block(task, device, share=-(-task.num_students // self.num_workers)))
                for block in blocks:
                    with self.lock:
                        block.refill()
                    if block.busy():
                        block.advance()
                        with self.lock:
                            block.hand_out()
                            block.look()
                self._work[index] = retired_work + sum(block.work_done for block in blocks)
                self._steps[index] = retired_steps + sum(block.steps for block in blocks)
                with self.lock:
                    self._blocks[index] = [block for block in blocks if block.busy()]
                # A block whose students all finished in one chunk is free, but not done while others wait.
                blocks = [block for block in blocks if block.busy() or block.task.queue]
                retired_work = self._work[index] - sum(block.work_done for block in blocks)
                retired_steps = self._steps[index] - sum(block.steps for block in blocks)
                yield blocks
                if not blocks and not waiting:
                    break

    def work_done(self) -> float:
        return sum(self._work)

    def steps(self) -> int:
        return sum(self._steps)

    def seconds_left(self) -> float:
        """An estimate; NaN before the first."""
        now = time.monotonic()
        # The queues must not change meanwhile; while a worker compiles it holds the lock, and the last estimate stands.
        if now - self._estimated >= _ESTIMATE_SECONDS and self.lock.acquire(blocking=False):
            try:
                self._left, self._estimated = self._estimate(), now
            finally:
                self.lock.release()
        return self._left

    def _estimate(self) -> float:
        """How long all workers will take, by what is known of every task; of one not begun, as of the others."""
        blocks = [block for mine in self._blocks for block in mine]
        paces = [task.pace() for task in self.tasks]
        known = [pace for pace in paces if math.isfinite(pace)]
        outlooks = []
        for task, pace in zip(self.tasks, paces, strict=True):
            running = sum(float(block.left.sum()) for block in blocks if block.task is task)
            pace = pace if math.isfinite(pace) else sum(known) / max(len(known), 1)
            outlooks.append(Outlook(task.tick_cost, running, pace * task.waiting * task.num_iterations))
        longest = [float(block.left.max()) * block.pace.tick_seconds for block in blocks if len(block.left)]
        return seconds_left(outlooks, max(longest, default=0.0), self.num_workers)
