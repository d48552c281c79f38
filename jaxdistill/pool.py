"""Keeps the lanes busy: students wait in a queue, a lane that finishes one takes the next, a worker drives each device.

A worker is a host thread with a block of lanes. On CPU there is one per core, because XLA runs a tick of small kernels
on one core; on an accelerator one per device. A student's numbers do not depend on its lane, block or worker.
"""

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.engine import advance
from jaxdistill.lanes import Lanes, Pending, Program, empty, extract, load, select, settle
from jaxdistill.rules import Student
from jaxdistill.tables import Worlds

_FEWEST_TICKS = 16  # of a chunk
_EXTRACT_ENTRIES = 2**20  # table entries copied out per call
_NARROWEST, _SPARSE_CHUNKS, _MOST_ACTIONS = 16, 4, 8  # see `_Block.narrow`
_CHUNK_SECONDS = 0.4  # how often the host looks
_PAUSED_CHUNK_SECONDS = 0.03  # ... where lanes wait at their checkpoints for it
_MOST_IDLE = 0.25  # part of the students that may wait for the host at the end of a chunk before chunks get shorter


@dataclasses.dataclass
class Task:
    """Students that one program trains.

    Attributes:
      program, worlds, teachers: as `engine.advance` takes them.
      students: `Student` of NumPy arrays with a leading axis [N].
      num_iterations: episodes of each student.
      cost: [N], expected steps per episode; dear ones start first, and progress is weighted by it.
      pauses: iterations before the last at which parameters are handed out, increasing.
      initial: float32 [N, O, num_params] parameters to start from, or None for zeros.
      on_parameters: called with (student, pause index or -1 at the end, params [O, num_params], curves [C, 2],
        truncated); never by two workers at once.
    """

    program: Program
    worlds: Worlds
    teachers: jax.Array
    students: Student
    num_iterations: int
    cost: np.ndarray
    on_parameters: Callable[[int, int, np.ndarray, np.ndarray, int], None]
    pauses: Sequence[int] = ()
    initial: np.ndarray | None = None

    def __post_init__(self):
        self.queue = collections.deque(np.argsort(-self.cost, kind="stable").tolist())
        self.num_finished = 0
        self.total_work = float(self.cost.sum()) * self.num_iterations


def lane_width(num_observations: int, row_width: int, platform: str) -> int:
    """Lanes of a block: as measured best on CPU, many on an accelerator, fewer where rows or tables are large.

    A row of many actions fills the processor's vectors by itself; then wide blocks only make lanes idle.
    """
    on_cpu = platform == "cpu"
    widest = min(256, max(16, _power_of_2(8192 / row_width))) if on_cpu else 16384
    budget = 2**28 if on_cpu else 2**33
    return max(8, min(widest, _power_of_2(budget / (4 * num_observations * row_width))))


def _power_of_2(most: float) -> int:
    return 1 << max(int(most).bit_length() - 1, 0)


def workers() -> list[jax.Device]:
    """The device of each worker: every accelerator once, or the CPU once per core."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [devices[i % len(devices)] for i in range(cores)]


def run(tasks: Sequence[Task], on_progress: Callable[[float, int], None] | None = None) -> None:
    """Trains every student of every task, calling `on_progress(fraction, steps)` from this thread meanwhile.

    A KeyboardInterrupt stops the workers at their next look and is raised again; what was handed out stays handed out.
    """
    devices = workers()
    total = sum(task.total_work for task in tasks) or 1.0
    pool = _Pool(tasks, len(devices))
    with ThreadPoolExecutor(len(devices), thread_name_prefix="jaxdistill") as executor:
        futures = [executor.submit(pool.work, i, device) for i, device in enumerate(devices)]
        try:
            while not all(f.done() for f in futures):
                time.sleep(0.02)
                if any(f.done() and f.exception() for f in futures):
                    break
                if on_progress is not None:
                    on_progress(pool.work_done() / total, pool.steps())
        finally:
            pool.stop.set()
        for future in futures:
            future.result()
    unfinished = sum(len(task.cost) - task.num_finished for task in tasks)
    if unfinished:
        raise RuntimeError(f"{unfinished} students were not trained to the end; this is a fault of jaxdistill.")
    if on_progress is not None:
        on_progress(1.0, pool.steps())


class _Pool:
    """What the workers share."""

    def __init__(self, tasks: Sequence[Task], num_workers: int):
        self.tasks, self.num_workers = tasks, num_workers
        self.stop, self.lock = threading.Event(), threading.Lock()
        self._work = [0.0] * num_workers  # by worker: finished plus running, in units of cost x iterations
        self._steps = [0] * num_workers

    def work(self, index: int, device: jax.Device) -> None:
        """Runs the tasks in order. While the last students of one are running, the next one runs beside them."""
        waiting = collections.deque(self.tasks)
        blocks: list[_Block] = []
        retired_work, retired_steps = 0.0, 0
        with jax.default_device(device):
            while not self.stop.is_set():
                if waiting and all(block.draining() for block in blocks):
                    task = waiting.popleft()
                    blocks.append(_Block(task, device, share=-(-len(task.cost) // self.num_workers)))
                for block in blocks:
                    with self.lock:
                        block.refill()
                        block.narrow()
                    if block.busy():
                        block.advance()
                        with self.lock:
                            block.hand_out()
                self._work[index] = retired_work + sum(block.work_done for block in blocks)
                self._steps[index] = retired_steps + sum(block.steps for block in blocks)
                # A block whose students all finished in one chunk is free, but not done while others wait.
                blocks = [block for block in blocks if block.busy() or block.task.queue]
                retired_work = self._work[index] - sum(block.work_done for block in blocks)
                retired_steps = self._steps[index] - sum(block.steps for block in blocks)
                if not blocks and not waiting:
                    break

    def work_done(self) -> float:
        return sum(self._work)

    def steps(self) -> int:
        return sum(self._steps)


class _Block:
    """A block of lanes of one program, and who is in them."""

    def __init__(self, task: Task, device: jax.Device, share: int):
        self.task, self.program, self.device = task, task.program, device
        self.worlds, self.teachers = jax.device_put((task.worlds, task.teachers), device)
        width = self.program.num_lanes
        self.capacity = min(width, max(share, 1))
        self.occupant = np.full(width, -1)
        self.pause = np.zeros(width, int)  # index of the lane's next pause
        self.settled = np.zeros(width, np.int64)
        self.student = jax.tree.map(lambda x: np.zeros((width, *x.shape[1:]), x.dtype), task.students)
        self.lanes: Lanes | None = None
        self.num_ticks, self.sparse_chunks = 256, 0
        self.steps, self.work_done = 0, 0.0  # of this block: environment steps, and cost x iterations
        self._steps_before, self._work_before = 0, 0.0  # of students that have left

    def busy(self) -> bool:
        return bool((self.occupant >= 0).any())

    def draining(self) -> bool:
        """Whether nobody waits and most lanes are free."""
        return not self.task.queue and 2 * int((self.occupant >= 0).sum()) < self.capacity

    def refill(self) -> None:
        """Gives every free lane the next student of the queue."""
        free = np.flatnonzero(self.occupant < 0)
        free = free[: max(self.capacity - int((self.occupant >= 0).sum()), 0)]
        free = free[: len(self.task.queue)]
        if not len(free):
            return
        if self.lanes is None:
            # On the device from the start: arrays of no device would make `advance` compile once more.
            self.lanes = jax.device_put(empty(self.program, self.worlds, self.student), self.device)
            self.compile()
        who = np.array([self.task.queue.popleft() for _ in free])
        mask = np.zeros(len(self.occupant), bool)
        mask[free], self.occupant[free], self.pause[free], self.settled[free] = True, who, 0, 0

        def put(lane_values, all_values):
            lane_values[free] = all_values[who]
            return jnp.array(lane_values)

        student = jax.tree.map(put, self.student, self.task.students)
        initial = None
        if self.task.initial is not None:
            initial = np.zeros((len(mask), *self.task.initial.shape[1:]), np.float32)
            initial[free] = self.task.initial[who]
        self.lanes = load(self.program, self.lanes, self.worlds, jnp.asarray(mask), student, initial)
        self._set_until()

    def narrow(self) -> None:
        """Moves the last students into a block of a quarter of the width, once they have been few for a while.

        A tick on CPU costs its width, however few lanes are busy, and the worlds with the longest episodes run long
        after the others. Programs of 16 lanes and of multiples of 16 round alike where actions are few
        (`tests/test_engine.py`; with 40 actions they do not), so that no number changes.
        """
        width, busy = len(self.occupant) // 4, np.flatnonzero(self.occupant >= 0)
        sparse = not self.task.queue and 0 < len(busy) <= width and width >= _NARROWEST
        sparse &= self.program.rule.num_actions <= _MOST_ACTIONS
        self.sparse_chunks = self.sparse_chunks + 1 if sparse and self.device.platform == "cpu" else 0
        if self.sparse_chunks <= _SPARSE_CHUNKS or self.lanes is None:
            return
        chosen = np.concatenate([busy, np.flatnonzero(self.occupant < 0)])[:width]
        self.lanes = select(self.program, self.lanes, jnp.asarray(chosen))
        self.program = dataclasses.replace(self.program, num_lanes=width)
        self.occupant, self.pause, self.settled = self.occupant[chosen], self.pause[chosen], self.settled[chosen]
        self.student = jax.tree.map(lambda x: x[chosen], self.student)
        self.capacity, self.sparse_chunks = min(self.capacity, width), 0
        self.compile()

    def compile(self) -> None:
        """Runs no tick, so that the first worker compiles, under the pool's lock, and the others find it done."""
        self.lanes = self._ticks(0)

    def _ticks(self, number: int) -> Lanes:
        assert self.lanes is not None
        total = np.int32(self.task.num_iterations)
        return advance(self.program, self.lanes, self.worlds, self.teachers, total, np.int32(number))

    def _set_until(self) -> None:
        assert self.lanes is not None
        ends = np.array([*self.task.pauses, self.task.num_iterations], np.int32)
        until = np.where(self.occupant >= 0, ends[self.pause], 0).astype(np.int32)
        self.lanes = dataclasses.replace(self.lanes, until=jax.device_put(until, self.device))

    def advance(self) -> None:
        """Runs a chunk of ticks and looks at where the lanes are."""
        assert self.lanes is not None
        if (self._iteration() - self.settled).max() + self.num_ticks > self.program.ring - 2:
            self._settle()
        started = time.perf_counter()
        self.lanes = self._ticks(self.num_ticks)
        jax.block_until_ready(self.lanes.iteration)
        seconds = time.perf_counter() - started
        wanted = _PAUSED_CHUNK_SECONDS if self.task.pauses else _CHUNK_SECONDS
        factor = min(max(wanted / max(seconds, 1e-6), 0.5), 2.0)
        here = self.occupant >= 0
        if (np.asarray(self.lanes.iteration) >= np.asarray(self.lanes.until))[here].mean() > _MOST_IDLE:
            factor = 0.5
        self.num_ticks = int(min(max(self.num_ticks * factor, _FEWEST_TICKS), self.program.ring // 2))

    def _iteration(self) -> np.ndarray:
        assert self.lanes is not None
        return np.where(self.occupant >= 0, np.asarray(self.lanes.iteration), 0)

    def _settle(self) -> None:
        assert self.lanes is not None
        self.lanes = settle(self.program, self.lanes)
        self.settled = self._iteration().astype(np.int64)

    def hand_out(self) -> None:
        """Hands out the parameters of lanes that reached a pause or the end, and frees the latter."""
        lanes, task = self.lanes, self.task
        assert lanes is not None
        iteration = self._iteration()
        idle = (
            ~np.asarray(lanes.work.valid) if isinstance(lanes.work, Pending) else np.asarray(lanes.work.remaining) == 0
        )
        idle &= ~np.asarray(lanes.waiting)
        ready = np.flatnonzero((self.occupant >= 0) & idle & (iteration >= np.asarray(lanes.until)))
        cost = task.cost[np.maximum(self.occupant, 0)]
        self.work_done = self._work_before + float((cost * iteration).sum())
        self.steps = int(self._steps_before + np.where(self.occupant >= 0, np.asarray(lanes.count), 0).sum())
        if not len(ready):
            return
        self._settle()
        # A fixed number of students per call, so that nothing recompiles.
        size = max(
            1, min(len(iteration), _EXTRACT_ENTRIES // (task.worlds.num_observations * self.program.rule.num_params))
        )
        for start in range(0, len(ready), size):
            chosen = ready[start : start + size]
            padded = np.zeros(size, np.int32)
            padded[: len(chosen)] = chosen
            out = jax.device_get(extract(self.program, self.lanes, padded))
            for lane, params, curves, truncated, count in zip(chosen, *out, strict=False):
                last = self.pause[lane] == len(task.pauses)
                who = int(self.occupant[lane])
                task.on_parameters(who, -1 if last else int(self.pause[lane]), params, curves, int(truncated))
                self.pause[lane] += 1
                if last:
                    self.occupant[lane], self.pause[lane] = -1, 0
                    task.num_finished += 1
                    self._work_before += float(task.cost[who]) * task.num_iterations
                    self._steps_before += int(count)
        self._set_until()
