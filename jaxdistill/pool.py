"""Keeps the lanes busy: students wait in a queue, a lane that finishes one takes the next, a worker drives each device.

A worker is a host thread with a block of lanes. On CPU there is one per core, because XLA runs a tick of small kernels on
one core; on an accelerator one per device. Which lane, block or worker a student meets changes nothing in its numbers.
"""

import collections
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.engine import Lanes, Pending, Program, Replay, advance, begin_episode, settle
from jaxdistill.rules import Student
from jaxdistill.tables import Worlds

_EXTRACT_ENTRIES = 2**20  # table entries copied out per call
_CHUNK_SECONDS = 0.4  # how often the host looks
_PAUSED_CHUNK_SECONDS = 0.03  # ... where lanes wait at their checkpoints for it


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
      on_parameters: called with (student, pause index or -1 at the end, params [O, num_params], curves [C, 2], truncated);
        never by two workers at once.
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
        self.total_work = float(self.cost.sum()) * self.num_iterations


def lane_width(num_observations: int, row_width: int, platform: str) -> int:
    """Lanes of a block: as measured best on CPU, many on an accelerator, fewer where tables are large (256 MiB a block)."""
    widest = 256 if platform == "cpu" else 16384
    budget = 2**28 if platform == "cpu" else 2**33
    fits = budget // (4 * num_observations * row_width)
    return max(8, min(widest, 1 << max(int(fits).bit_length() - 1, 0)))


def workers() -> list[jax.Device]:
    """The device of each worker: every accelerator once, or the CPU once per core."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [devices[i % len(devices)] for i in range(cores)]


def run(tasks: Sequence[Task], on_progress: Callable[[float, int], None] | None = None) -> None:
    """Trains every student of every task. `on_progress(fraction, steps)` is called from this thread about twice a second.

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
        """Runs the tasks in order; a worker with nothing left of one goes on to the next."""
        with jax.default_device(device):
            for task in self.tasks:
                share = -(-len(task.cost) // self.num_workers)
                block = _Block(task, share)
                finished_work, finished_steps = self._work[index], self._steps[index]
                while not self.stop.is_set():
                    with self.lock:
                        block.refill()
                    if not block.busy():
                        break
                    block.advance()
                    with self.lock:
                        block.hand_out()
                    self._work[index] = finished_work + block.work_done
                    self._steps[index] = finished_steps + block.steps

    def work_done(self) -> float:
        return sum(self._work)

    def steps(self) -> int:
        return sum(self._steps)


class _Block:
    """A block of lanes of one program, and who is in them."""

    def __init__(self, task: Task, share: int):
        self.task, self.program = task, task.program
        width = self.program.num_lanes
        self.capacity = min(width, max(share, 1))
        self.occupant = np.full(width, -1)
        self.pause = np.zeros(width, int)  # index of the lane's next pause
        self.settled = np.zeros(width, np.int64)
        self.student = jax.tree.map(lambda x: np.zeros((width, *x.shape[1:]), x.dtype), task.students)
        self.lanes: Lanes | None = None
        self.num_ticks, self.steps, self.work_done, self._done_before = 256, 0, 0.0, 0.0

    def busy(self) -> bool:
        return bool((self.occupant >= 0).any())

    def refill(self) -> None:
        """Gives every free lane the next student of the queue."""
        free = np.flatnonzero(self.occupant < 0)
        free = free[: max(self.capacity - int((self.occupant >= 0).sum()), 0)]
        free = free[: len(self.task.queue)]
        if not len(free):
            return
        if self.lanes is None:
            self.lanes = _empty(self.program, self.task.worlds, self.student)
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
        self.lanes = _load(self.program, self.lanes, self.task.worlds, jnp.asarray(mask), student, initial)
        self._set_until()

    def compile(self) -> None:
        """Runs no tick, so that the first worker compiles, under the pool's lock, and the others find it done."""
        task = self.task
        assert self.lanes is not None
        none = np.int32(0)
        self.lanes = advance(self.program, self.lanes, task.worlds, task.teachers, np.int32(task.num_iterations), none)

    def _set_until(self) -> None:
        ends = np.array([*self.task.pauses, self.task.num_iterations], np.int32)
        until = np.where(self.occupant >= 0, ends[self.pause], 0).astype(np.int32)
        self.lanes = dataclasses.replace(self.lanes, until=jnp.asarray(until))

    def advance(self) -> None:
        """Runs a chunk of ticks and looks at where the lanes are."""
        assert self.lanes is not None
        if (self._iteration() - self.settled).max() + self.num_ticks > self.program.ring - 2:
            self._settle()
        started = time.perf_counter()
        task = self.task
        self.lanes = advance(
            self.program, self.lanes, task.worlds, task.teachers, np.int32(task.num_iterations), np.int32(self.num_ticks)
        )
        jax.block_until_ready(self.lanes.iteration)
        seconds = time.perf_counter() - started
        wanted = _PAUSED_CHUNK_SECONDS if task.pauses else _CHUNK_SECONDS
        faster = self.num_ticks * min(max(wanted / max(seconds, 1e-6), 0.5), 2.0)
        self.num_ticks = int(min(max(faster, 64), self.program.ring // 2))

    def _iteration(self) -> np.ndarray:
        assert self.lanes is not None
        return np.where(self.occupant >= 0, np.asarray(self.lanes.iteration), 0)

    def _settle(self) -> None:
        assert self.lanes is not None
        self.lanes = _settle(self.program, self.lanes)
        self.settled = self._iteration().astype(np.int64)

    def hand_out(self) -> None:
        """Hands out the parameters of lanes that reached a pause or the end, and frees the latter."""
        lanes, task = self.lanes, self.task
        assert lanes is not None
        iteration = self._iteration()
        idle = ~np.asarray(lanes.work.valid) if isinstance(lanes.work, Pending) else np.asarray(lanes.work.remaining) == 0
        idle &= ~np.asarray(lanes.waiting)
        ready = np.flatnonzero((self.occupant >= 0) & idle & (iteration >= np.asarray(lanes.until)))
        cost = task.cost[np.maximum(self.occupant, 0)]
        self.work_done = self._done_before + float((cost * iteration).sum())
        self.steps = int(self._steps_before + np.where(self.occupant >= 0, np.asarray(lanes.count), 0).sum())
        if not len(ready):
            return
        self._settle()
        # A fixed number of students per call, so that nothing recompiles.
        size = max(1, min(len(iteration), _EXTRACT_ENTRIES // (task.worlds.num_observations * self.program.rule.num_params)))
        for start in range(0, len(ready), size):
            chosen = ready[start : start + size]
            padded = np.zeros(size, np.int32)
            padded[: len(chosen)] = chosen
            out = jax.device_get(_extract(self.program, self.lanes, padded))
            for lane, params, curves, truncated, count in zip(chosen, *out, strict=False):
                last = self.pause[lane] == len(task.pauses)
                who = int(self.occupant[lane])
                task.on_parameters(who, -1 if last else int(self.pause[lane]), params, curves, int(truncated))
                self.pause[lane] += 1
                if last:
                    self.occupant[lane], self.pause[lane] = -1, 0
                    self._done_before += float(task.cost[who]) * task.num_iterations
                    self._steps_before += int(count)
        self._set_until()

    _steps_before = 0


def _empty(program: Program, worlds: Worlds, student: Student) -> Lanes:
    """Lanes with nobody in them."""
    width, rule = program.num_lanes, program.rule
    ints = functools.partial(jnp.zeros, width, jnp.int32)
    floats = functools.partial(jnp.zeros, width, jnp.float32)
    work: Any
    if program.monte_carlo:
        work = Replay(
            records=jnp.zeros((width * program.max_steps, 4), jnp.int32),
            remaining=ints(),
            next_return=floats(),
            next_reward=floats(),
            next_teacher_value=floats(),
        )
    else:
        work = Pending(
            valid=jnp.zeros(width, bool),
            row=jnp.zeros((width, rule.width), jnp.float32),
            teacher_row=jnp.zeros((width, worlds.num_actions + 1), jnp.float32),
            observation=ints(),
            action=ints(),
            reward=floats(),
            alive=floats(),
        )
    opt_state = None
    if program.optimizer is not None:
        one = {
            "logits": jnp.zeros((worlds.num_observations, rule.num_actions), jnp.float32),
            "values": jnp.zeros(worlds.num_observations, jnp.float32),
        }
        opt_state = jax.tree.map(
            lambda x: jnp.array(jnp.broadcast_to(x, (width, *jnp.shape(x)))), program.optimizer.init(one)
        )
    return Lanes(
        table=jnp.zeros((width * worlds.num_observations, rule.width), jnp.float32),
        scales=jnp.zeros((width * program.ring, 2), jnp.float32),
        curves=jnp.zeros((width * program.num_checkpoints, 2), jnp.float32),
        student=jax.tree.map(jnp.array, student),
        until=ints(),
        iteration=ints(),
        time=ints(),
        count=jnp.zeros(width, jnp.uint32),
        state=ints(),
        observation=ints(),
        control=jnp.zeros((width, 3), jnp.float32),
        scale=jnp.zeros((width, 2), jnp.float32),
        bin=ints(),
        bin_return=floats(),
        bin_length=floats(),
        episode_return=floats(),
        truncated=ints(),
        waiting=jnp.zeros(width, bool),
        work=work,
        opt_state=opt_state,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _load(program: Program, lanes: Lanes, worlds: Worlds, mask: jax.Array, student: Student, initial) -> Lanes:
    """Puts a student at iteration 0 into every masked lane; the others are untouched."""
    width, rule = program.num_lanes, program.rule

    def clear(x):
        if x.ndim == 0:
            return x
        wide = x.reshape(width, -1)
        return jnp.where(mask[:, None], jnp.zeros_like(wide), wide).reshape(x.shape)

    records = lanes.work.records if isinstance(lanes.work, Replay) else None
    kept = dataclasses.replace(lanes, student=student)
    cleared = jax.tree.map(clear, dataclasses.replace(lanes, student=None, opt_state=None))
    lanes = dataclasses.replace(cleared, student=student, opt_state=lanes.opt_state)
    if records is not None:
        lanes = dataclasses.replace(lanes, work=dataclasses.replace(lanes.work, records=records))
    table = lanes.table.reshape(width, worlds.num_observations, rule.width)
    if initial is not None:
        rest = rule.width - rule.num_params
        rows = jnp.pad(jnp.asarray(initial), ((0, 0), (0, 0), (0, rest)))
        table = jnp.where(mask[:, None, None], rows, table)
    if program.optimizer is not None:
        a = rule.num_actions
        fresh = jax.vmap(program.optimizer.init)({"logits": table[:, :, :a], "values": table[:, :, a]})
        pick = functools.partial(_where_lanes, mask)
        lanes = dataclasses.replace(lanes, opt_state=jax.tree.map(pick, fresh, kept.opt_state))
    state, observation, control = begin_episode(program, worlds, lanes)
    return dataclasses.replace(
        lanes,
        table=table.reshape(lanes.table.shape),
        state=jnp.where(mask, state, lanes.state),
        observation=jnp.where(mask, observation, lanes.observation),
        control=jnp.where(mask[:, None], control, lanes.control),
    )


def _where_lanes(mask, new, old):
    return jnp.where(mask.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _settle(program: Program, lanes: Lanes) -> Lanes:
    return settle(program, lanes)


@functools.partial(jax.jit, static_argnums=0)
def _extract(program: Program, lanes: Lanes, chosen: jax.Array):
    """Parameters [E, O, num_params], curves [E, C, 2], truncated [E] and steps [E] of the chosen lanes."""
    width, n = program.num_lanes, program.rule.num_params
    table = lanes.table.reshape(width, -1, program.rule.width)
    curves = lanes.curves.reshape(width, program.num_checkpoints, 2)
    return table[chosen, :, :n], curves[chosen], lanes.truncated[chosen], lanes.count[chosen]
