"""Keeps the lanes busy: students wait in a queue, and a lane whose student finishes takes the next.

A worker is a host thread that drives one device with blocks of lanes. On CPU there is one worker per core, because XLA
runs a tick on one core; on an accelerator there is one per device. A student's numbers do not depend on its lane, its
block or its worker.
"""

import collections
import contextlib
import contextvars
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
from jaxdistill.runtime import checkpoints
from jaxdistill.runtime.checkpoints import Snapshots, Store
from jaxdistill.runtime.progress import say, waiting
from jaxdistill.scheduling import loops
from jaxdistill.scheduling.block import Block
from jaxdistill.scheduling.forecast import RemainingWork, seconds_left
from jaxdistill.scheduling.group import Group
from jaxdistill.scheduling.task import Task

_POLL_SECONDS = 0.02  # between two checks of the main thread
_ESTIMATE_SECONDS = 0.2  # between two estimates of the time left
# Lanes on CPU: exactly one vector register, so that XLA compiles no separate code for the last lanes, which would round
# differently.
_VECTOR = 8
_MOST_THREADS: contextvars.ContextVar[int | None] = contextvars.ContextVar("_MOST_THREADS", default=None)
_WIDEST, _TABLE_BYTES = 16384, 2**33  # elsewhere: lanes, and bytes of their tables


def lane_width(num_observations: int, row_width: int) -> int:
    """Lanes of a block, fewer where tables are large. Nothing else may choose it, because it affects rounding."""
    if workers()[0].platform == "cpu":
        return _VECTOR
    num_fitting = _TABLE_BYTES // (4 * num_observations * row_width)
    return max(_VECTOR, min(_WIDEST, 1 << max(num_fitting.bit_length() - 1, 0)))


def workers() -> list[jax.Device]:
    """The device of each worker: every device of this process once, or a CPU that is one device once per core.

    Inside `limited`, such a CPU is used by at most that many workers.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu" or len(devices) > 1:
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return devices * min(cores, _MOST_THREADS.get() or cores)


@contextlib.contextmanager
def limited(num_threads: int | None) -> Iterator[None]:
    """Inside, a training of this thread uses at most so many threads of a CPU; None: one for each core."""
    token = _MOST_THREADS.set(num_threads)
    try:
        yield
    finally:
        _MOST_THREADS.reset(token)


def run(tasks: Sequence[Task], on_progress: Callable[[float, int, float], None] | None = None) -> None:
    """Trains every student of every task.

    A KeyboardInterrupt stops the workers after their current chunk and is raised again; what was handed out stays
    handed out. Inside `checkpoints.resumable` everything is saved from time to time, and when training is stopped.

    Args:
      tasks: what to train.
      on_progress: called with (fraction done, environment steps, seconds left) from the main thread.
    """
    devices = workers()
    for task in tasks:
        _ = task.loop  # It is chosen in this thread, which may be inside `kernels.choice.on_cpu`.
    total_work = sum(task.total_work for task in tasks) or 1.0
    store, steps_before, work_before = _open_store(tasks)
    pool = _Pool(tasks, len(devices), is_saving=store is not None)

    def report() -> None:
        if on_progress is not None:
            fraction = min((work_before + pool.work_done()) / total_work, 1.0)
            on_progress(fraction, steps_before + pool.steps(), pool.seconds_left())

    with ThreadPoolExecutor(len(devices), thread_name_prefix="jaxdistill") as executor:
        futures = [executor.submit(pool.work, i, device) for i, device in enumerate(devices)]
        try:
            while not all(future.done() for future in futures):
                time.sleep(_POLL_SECONDS)
                if any(future.done() and future.exception() for future in futures):
                    break
                report()
                if store is not None and store.is_due():
                    pool.save(store)
        finally:
            pool.stop.set()
            with waiting("every worker to end its current round"):
                wait(futures)
            if store is not None:
                pool.save(store, futures)
        for future in futures:
            future.result()
    num_unfinished = sum(task.num_students - task.num_finished for task in tasks)
    if num_unfinished:
        raise RuntimeError(f"{num_unfinished} students were not trained to the end; this is a fault of jaxdistill.")
    if on_progress is not None:
        on_progress(1.0, steps_before + pool.steps(), 0.0)


def _open_store(tasks: Sequence[Task]) -> tuple[Store | None, int, float]:
    """The store of this training, if it is saved, and the steps and the work that an earlier run had done."""
    if not checkpoints.is_active():
        return None, 0, 0.0
    platform = f"jax {jax.__version__} {jax.devices()[0].device_kind} {xla.loops_are_whole()}".encode()
    store = checkpoints.open_store(itertools.chain([platform], *(task.identity() for task in tasks)))
    num_steps, work = 0, 0.0
    for task_index, task in enumerate(tasks):
        handed = store.outputs.get(task_index)
        num_steps += task.restore(handed, store.snapshots.get(task_index, []))
        if handed is not None:
            work += float(task.cost[handed[0][handed[1] < 0]].sum()) * task.num_iterations
        task.save_outputs = functools.partial(store.add_outputs, task_index)
    num_finished, num_begun = sum(task.num_finished for task in tasks), sum(len(task.snapshots) for task in tasks)
    if num_finished or num_begun:
        say(
            f"going on from {store.folder}: {num_finished} of {sum(task.num_students for task in tasks)} students are "
            f"finished, and {num_begun} are in progress"
        )
    store.outputs, store.snapshots = {}, {}
    return store, num_steps, work


class _Pool:
    """What the workers share."""

    def __init__(self, tasks: Sequence[Task], num_workers: int, is_saving: bool):
        self.tasks, self.num_workers, self.is_saving = tasks, num_workers, is_saving
        self.stop, self.lock = threading.Event(), threading.Lock()
        self._work = [0.0] * num_workers  # by worker: finished plus running, in units of cost x iterations
        self._steps = [0] * num_workers
        self._groups: list[list[Group]] = [[] for _ in range(num_workers)]  # those that are busy
        self._seconds_left, self._estimated_at = math.nan, -math.inf
        self._saves_requested = 0
        self._saves_served = [0.0] * num_workers  # by worker: the last save for which it published its snapshots
        self._snapshots: list[list[tuple[int, Snapshots]]] = [[] for _ in range(num_workers)]  # (task, snapshots)

    def save(self, store: Store, workers: Sequence[Future] = ()) -> None:
        """Saves all students, after the current round of every worker or, given `workers`, after their end."""
        self._saves_requested += 1
        wait(workers)
        while not workers and min(self._saves_served) < self._saves_requested:
            time.sleep(0.01)
        store.save([snapshots for part in self._snapshots for snapshots in part])

    def _publish_snapshots(self, index: int, groups: Sequence[Group], save: float) -> None:
        """Publishes a worker's snapshots once for every save up to number `save`."""
        if self._saves_served[index] < save:
            self._snapshots[index] = [
                (self.tasks.index(task), snapshots) for group in groups for task, snapshots in group.snapshots()
            ]
            self._saves_served[index] = save

    def work(self, index: int, device: jax.Device) -> None:
        """Runs the tasks to the end, or until training stops; publishes snapshots for every save."""
        groups: Sequence[Group] = ()
        try:
            for groups in self._rounds(index, device):
                self._publish_snapshots(index, groups, self._saves_requested)
            if self.is_saving:
                self._publish_snapshots(index, groups, math.inf)
        finally:
            self._saves_served[index] = math.inf  # no save must wait for this worker any more
            for group in groups:
                group.finish()  # no chunk runs on when training has stopped

    def _rounds(self, index: int, device: jax.Device) -> Iterator[Sequence[Group]]:
        """Runs the tasks in turn, a chunk of ticks per round; yields the groups of blocks after each round.

        While the last students of a task are running, the next task runs beside them. Workers begin with different
        tasks, so that the cost of every task is measured early. Tasks with kernels run all at once.
        """
        waiting = collections.deque(self.tasks)
        waiting.rotate(-index)
        groups: list[Group] = []
        retired_work, retired_steps = 0.0, 0
        with jax.default_device(device):
            while not self.stop.is_set():
                if waiting and all(group.is_draining() for group in groups):
                    groups.append(self._next_group(waiting, device))
                for group in groups:
                    group.run_round(self.lock)
                blocks = [block for group in groups for block in group.blocks]
                self._work[index] = retired_work + sum(block.work_done for block in blocks)
                self._steps[index] = retired_steps + sum(block.steps for block in blocks)
                with self.lock:
                    self._groups[index] = [group for group in groups if group.is_busy()]
                # A block whose students all finished in one chunk has free lanes, but goes on while others are queued.
                for group in groups:
                    group.drop_finished()
                groups = [group for group in groups if group.blocks]
                blocks = [block for group in groups for block in group.blocks]
                retired_work = self._work[index] - sum(block.work_done for block in blocks)
                retired_steps = self._steps[index] - sum(block.steps for block in blocks)
                yield groups
                if not groups and not waiting:
                    break

    def _next_group(self, waiting: collections.deque[Task], device: jax.Device) -> Group:
        """Takes the next task from the front; if it has a kernel, all tasks with kernels."""
        tasks = [waiting.popleft()]
        shares = [-(-tasks[0].num_students // self.num_workers)]
        if tasks[0].loop.kernel is None:
            return Group([Block(tasks[0], device, shares[0])])
        tasks += [task for task in waiting if task.loop.kernel is not None]
        for task in tasks[1:]:
            waiting.remove(task)
        kernels = [task.loop.kernel for task in tasks if task.loop.kernel is not None]
        shares = [-(-task.num_students // self.num_workers) for task in tasks]
        work, sizes = [task.total_work for task in tasks], [task.lane_bytes() for task in tasks]
        widths = loops.lanes_of(kernels, device, work, shares, sizes)
        return Group([Block(task, device, width, width) for task, width in zip(tasks, widths, strict=True)])

    def work_done(self) -> float:
        """Finished plus running work of all workers, in units of cost x iterations."""
        return sum(self._work)

    def steps(self) -> int:
        """Environment steps of all workers."""
        return sum(self._steps)

    def seconds_left(self) -> float:
        """An estimate of the time left; NaN before the first."""
        now = time.monotonic()
        # The queues must not change during the estimate. A worker that compiles holds the lock for long; then the last
        # estimate stands.
        if now - self._estimated_at >= _ESTIMATE_SECONDS and self.lock.acquire(blocking=False):
            try:
                self._seconds_left, self._estimated_at = self._estimate(), now
            finally:
                self.lock.release()
        return self._seconds_left

    def _estimate(self) -> float:
        """Seconds until all workers are done, from measurements of each task, or of the others for a new task."""
        groups = [group for part in self._groups for group in part]
        blocks = [block for group in groups for block in group.blocks]
        paces = [task.pace() for task in self.tasks]
        known_paces = [pace for pace in paces if math.isfinite(pace)]
        mean_pace = sum(known_paces) / max(len(known_paces), 1)
        remaining = []
        for task, pace in zip(self.tasks, paces, strict=True):
            running = sum(float(block.ticks_left.sum()) for block in blocks if block.task is task)
            pace = pace if math.isfinite(pace) else mean_pace
            remaining.append(RemainingWork(task.tick_cost, running, pace * task.queued_cost * task.num_iterations))
        longest = [
            float(block.ticks_left.max()) * group.chunk_size.tick_seconds
            for group in groups
            for block in group.blocks
            if len(block.ticks_left)
        ]
        return seconds_left(remaining, max(longest, default=0.0), self.num_workers)
