"""A block of lanes of one program, and which student is in each lane."""

import time

import jax
import numpy as np

from jaxdistill.engine.lanes import Lanes, empty, extract, load, settle
from jaxdistill.engine.tick import advance
from jaxdistill.runtime.checkpoints import Output, StudentSnapshot
from jaxdistill.scheduling.chunks import ChunkSize
from jaxdistill.scheduling.forecast import IterationLengths, TickCost
from jaxdistill.scheduling.task import Task

_EXTRACT_ENTRIES = 2**20  # table entries copied out per call


class Block:
    """A block of lanes of one program, filled from the queue of one task by one worker.

    Attributes:
      occupant: int [W], index of the student in each lane; -1 where there is none.
      pause: int [W], index of each lane's next pause.
      settled: int [W], iteration at which the lane's directions were last applied to its whole table.
      iteration, count, fault, idle: [W], the status of the lanes after the last chunk.
      steps: environment steps of this block.
      work_done: sum over its students of cost x iterations.
      ticks_left: [busy lanes], ticks that the student in each has to go.
    """

    def __init__(self, task: Task, device: jax.Device, share: int):
        self.task, self.program, self.device = task, task.program, device
        self.ticks_per_step = task.program.estimator.ticks_per_step
        inputs = task.worlds, task.teachers, task.schedules, task.students
        self.worlds, self.teachers, self.schedules, self.students = jax.device_put(inputs, device)
        width = self.program.num_lanes
        self.capacity = min(width, max(share, 1))
        self.occupant = np.full(width, -1)
        self.pause = np.zeros(width, int)
        self.settled = np.zeros(width, np.int64)
        self.lanes: Lanes | None = None
        self._read_status(np.zeros((4, width), np.int32))
        self.chunk_size = ChunkSize()
        self.lengths, self._tick_cost = IterationLengths(width, task.num_iterations), TickCost()
        self.ticks_left, self._ticks_before, self._round_start = np.zeros(0), 0, np.nan
        self.steps, self.work_done = 0, 0.0
        self._steps_of_finished, self._work_of_finished = 0, 0.0

    def is_busy(self) -> bool:
        """Whether any lane has a student."""
        return bool((self.occupant >= 0).any())

    def is_draining(self) -> bool:
        """Whether the queue is empty and most lanes are free."""
        return not self.task.queue and 2 * int((self.occupant >= 0).sum()) < self.capacity

    def refill(self) -> None:
        """Starts a round: gives every free lane the next student of the queue."""
        self._round_start = time.perf_counter()
        free = np.flatnonzero(self.occupant < 0)
        free = free[: max(self.capacity - int((self.occupant >= 0).sum()), 0)]
        free = free[: len(self.task.queue)]
        if not len(free):
            return
        if self.lanes is None:
            self._make_lanes()
        entering = self.task.next_students(len(free))
        mask = np.zeros(len(self.occupant), bool)
        mask[free], self.occupant[free], self.pause[free], self.settled[free] = True, entering, 0, 0
        self.iteration[free], self.count[free] = 0, 0
        self.lengths.reset(free)
        initial = None
        if self.task.initial is not None:
            initial = np.zeros((len(mask), *self.task.initial.shape[1:]), np.float32)
            initial[free] = self.task.initial[entering]
        occupant = np.maximum(self.occupant, 0).astype(np.int32)
        self.lanes = load(self.program, self.lanes, self.worlds, mask, self.students, occupant, initial)
        snapshots = self.task.snapshots
        pairs = zip(free.tolist(), entering.tolist(), strict=True)
        self._resume([(lane, student_index) for lane, student_index in pairs if student_index in snapshots])

    def _make_lanes(self) -> None:
        """Makes empty lanes and compiles their program.

        The first worker compiles, under the pool's lock, and the others find the program compiled. The lanes are put on
        the device at once, because arrays without a device would make `advance` compile a second time.
        """
        students = self.task.blank_students(self.program.num_lanes)
        self.lanes = jax.device_put(empty(self.program, self.worlds, students), self.device)
        self._run_ticks(0)
        self._round_start = time.perf_counter()

    def _resume(self, pairs: list[tuple[int, int]]) -> None:
        """Puts students (lane, student index) where an earlier run had left them."""
        if not pairs:
            return
        leaves, structure = jax.tree.flatten(self.lanes)
        leaves = [np.array(leaf) for leaf in leaves]
        for lane, student_index in pairs:
            snapshot = self.task.snapshots.pop(student_index)
            self.pause[lane], self.settled[lane] = snapshot.pause, snapshot.settled
            for leaf, saved in zip(leaves, snapshot.leaves, strict=True):
                leaf.reshape(len(self.occupant), -1, *leaf.shape[1:])[lane] = saved
        self.lanes = jax.device_put(jax.tree.unflatten(structure, leaves), self.device)
        self._run_ticks(0)

    def snapshots(self) -> dict[int, StudentSnapshot]:
        """The students in the lanes, by index, as a later run can go on with them."""
        busy = np.flatnonzero(self.occupant >= 0)
        if self.lanes is None or not len(busy):
            return {}
        leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(self.lanes))]
        busy_leaves = [leaf.reshape(len(self.occupant), -1, *leaf.shape[1:])[busy] for leaf in leaves]
        return {
            int(self.occupant[lane]): StudentSnapshot(
                int(self.pause[lane]), int(self.settled[lane]), [leaf[i] for leaf in busy_leaves]
            )
            for i, lane in enumerate(busy)
        }

    def _run_ticks(self, number: int) -> None:
        """Runs `number` ticks and reads the status of the lanes."""
        assert self.lanes is not None
        inputs = self.worlds, self.teachers, self.schedules, np.int32(self.task.num_iterations)
        until = np.where(self.occupant >= 0, self._next_stops(), 0).astype(np.int32)
        self.lanes, status = advance(self.program, self.lanes, *inputs, until, np.int32(number))
        self._read_status(np.array(status))

    def _read_status(self, status: np.ndarray) -> None:
        """Takes over the status that `advance` returns, int32 [4, W]."""
        busy = self.occupant >= 0
        self.iteration, self.count = np.where(busy, status[0], 0), np.where(busy, status[1].view(np.uint32), 0)
        self.fault, self.idle = busy & (status[2] > 0), busy & (status[3] > 0)

    def _next_stops(self) -> np.ndarray:
        """The iteration at which every lane next needs the host, [W].

        A lane stops before it would overwrite scales that pending directions still need.
        """
        return np.minimum(self._next_pauses(), self.settled + self.program.ring - 2)

    def _ticks_to_stop(self) -> np.ndarray:
        """The ticks after which each busy lane is expected to have stopped, [busy lanes]."""
        busy = self.occupant >= 0
        iterations = np.maximum(self._next_stops() - self.iteration, 1)[busy]
        # The lengths of episodes vary by about as much as they are long, so that the sum of n of them varies by a part
        # 1 / sqrt(n). A lane that has not quite arrived when a chunk ends would need a further one.
        return self.lengths.per_iteration()[busy] * (iterations + np.sqrt(iterations))

    def _next_pauses(self) -> np.ndarray:
        """Iteration of every lane's next pause, or its last, [W]."""
        return np.array([*self.task.pauses, self.task.num_iterations])[self.pause]

    def advance(self) -> None:
        """Runs a chunk of ticks."""
        start = time.perf_counter()
        num_ticks = self.chunk_size.choose(self._ticks_to_stop())
        self._run_ticks(num_ticks)
        self.chunk_size.update(start, time.perf_counter(), num_ticks)
        if (self.iteration - self.settled).max() > self.program.ring // 2:
            self.lanes, self.settled = settle(self.program, self.lanes), self.iteration.astype(np.int64)

    def measure_round(self) -> None:
        """Ends a round: estimates how long the students in the lanes will take, and what a tick costs."""
        task, busy = self.task, self.occupant >= 0
        iterations_left = np.maximum(task.num_iterations - self.iteration, 0)
        self.ticks_left = (self.lengths.per_iteration() * iterations_left)[busy]
        task.ticks[self.occupant[busy]] = self.ticks_per_step * self.count[busy] + self.ticks_left
        seconds = time.perf_counter() - self._round_start
        new_ticks = self.ticks_per_step * self.steps - self._ticks_before
        self._ticks_before += new_ticks
        if task.queue:
            task.tick_cost = self._tick_cost.update(seconds, new_ticks)

    def hand_out(self) -> None:
        """Hands out the parameters of lanes at a pause, the end or a fault; frees those at the end or a fault."""
        task = self.task
        ready = np.flatnonzero(self.idle & ((self.iteration >= self._next_pauses()) | self.fault))
        cost = task.cost[np.maximum(self.occupant, 0)]
        self.work_done = self._work_of_finished + float((cost * self.iteration).sum())
        self.steps = int(self._steps_of_finished + self.count.sum())
        self.lengths.update(self.count * self.ticks_per_step, self.iteration)
        if not len(ready):
            return
        # A fixed number of lanes per call, so that nothing recompiles.
        entries = task.worlds.num_observations * self.program.rule.num_params
        size = max(1, min(len(self.occupant), _EXTRACT_ENTRIES // entries))
        for start in range(0, len(ready), size):
            lanes = ready[start : start + size]
            padded = np.zeros(size, np.int32)
            padded[: len(lanes)] = lanes
            arrays = jax.device_get(extract(self.program, self.lanes, padded))
            for lane, params, curves, *counts in zip(lanes, *arrays, strict=False):
                self._hand_out_lane(lane, Output(params, curves, *map(int, counts)))

    def _hand_out_lane(self, lane: int, output: Output) -> None:
        task, student_index = self.task, int(self.occupant[lane])
        is_last = output.fault > 0 or self.pause[lane] == len(task.pauses)
        pause = -1 if is_last else int(self.pause[lane])
        task.on_output(student_index, pause, output)
        if task.save_output is not None:
            task.save_output(student_index, pause, output)
        self.pause[lane] += 1
        if is_last:
            self.occupant[lane], self.pause[lane] = -1, 0
            task.num_finished += 1
            self._work_of_finished += float(task.cost[student_index]) * task.num_iterations
            self._steps_of_finished += output.count
            task.ticks[student_index] = self.ticks_per_step * output.count
