"""A block of lanes of one program, and which student is in each lane."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill.engine.lanes import Lanes, empty, extract, load, put_back, resting, settle
from jaxdistill.engine.tick import advance
from jaxdistill.kernels import launch
from jaxdistill.runtime.checkpoints import Outputs, Snapshots
from jaxdistill.scheduling.forecast import IterationLengths
from jaxdistill.scheduling.task import Task

_EXTRACT_ENTRIES, _KERNEL_ENTRIES = 2**20, 2**25  # table entries copied out per call, of XLA's lanes and of kernels'
_FEW_LANES = 64  # blocks of so many lanes are small
# On a GPU a program for each array would take long to compile.
_empty_in_one_program = jax.jit(empty, static_argnums=0)


class Block:
    """A block of lanes of one program, filled from the queue of one task by one worker.

    Args:
      task: whose students it trains.
      device: on which its lanes are.
      share: the most students that are in its lanes at once.
      width: the number of its lanes; None: that of the task's program, or of a kernel at most `share`.

    Attributes:
      occupant: int [W], index of the student in each lane; -1 where there is none.
      pause: int [W], index of each lane's next pause.
      settled: int [W], iteration at which the lane's directions were last applied to its whole table.
      until: int32 [W], iteration at which each lane stops in the last chunk.
      status: int32 [4, W], what the last chunk returns, while it may still run.
      iteration, count, fault, idle: [W], the status of the lanes after the last chunk.
      steps: environment steps of this block.
      work_done: sum over its students of cost x iterations.
      ticks_left: [busy lanes], ticks that the student in each has to go.
    """

    def __init__(self, task: Task, device: jax.Device, share: int, width: int | None = None):
        self.task, self.device = task, device
        self.kernel = task.loop.kernel
        if width is None:
            width = task.program.num_lanes if self.kernel is None else min(task.program.num_lanes, max(share, 1))
        self.program = task.loop.program.with_lanes(width)
        self.ticks_per_step = task.program.estimator.ticks_per_step
        inputs = task.worlds, task.teachers, task.schedules, task.students
        self.worlds, self.teachers, self.schedules, self.students = jax.device_put(inputs, device)
        self.tables = None if self.kernel is None else jax.device_put(self.kernel.tables(*inputs[:3]), device)
        self.capacity = min(width, max(share, 1))
        self.occupant = np.full(width, -1)
        self.pause = np.zeros(width, int)
        self.settled = np.zeros(width, np.int64)
        self.lanes: Lanes | None = None
        self.until = np.zeros(width, np.int32)
        self.status: Any = np.zeros((4, width), np.int32)
        self._take_status(np.zeros((4, width), np.int32))
        self.lengths = IterationLengths(width, task.num_iterations)
        self.ticks_left = np.zeros(0)
        self.steps, self.work_done = 0, 0.0
        self._steps_of_finished, self._work_of_finished = 0, 0.0

    def is_busy(self) -> bool:
        """Whether any lane has a student."""
        return bool((self.occupant >= 0).any())

    def is_draining(self) -> bool:
        """Whether the queue is empty and most lanes are free."""
        return not self.task.queue and 2 * int((self.occupant >= 0).sum()) < self.capacity

    def refill(self) -> bool:
        """Gives every free lane the next student of the queue; whether the status of the lanes must be read anew."""
        free = np.flatnonzero(self.occupant < 0)
        free = free[: max(self.capacity - int((self.occupant >= 0).sum()), 0)]
        free = free[: len(self.task.queue)]
        if not len(free):
            return False
        is_new = self.lanes is None
        if self.lanes is None:
            # The lanes are put on the device at once, because arrays without a device would make `advance` compile a
            # second time.
            students = self.task.blank_students(self.program.num_lanes)
            make = empty if self.kernel is None else _empty_in_one_program
            self.lanes = jax.device_put(make(self.program, self.worlds, students), self.device)
        entering = self.task.next_students(len(free))
        # Neighbours with equal costs finish together: the threads of a warp wait for the slowest of them.
        entering = entering[np.argsort(-self.task.cost[entering], kind="stable")]
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
        return self._resume(free, entering) or is_new

    def _resume(self, lanes: np.ndarray, students: np.ndarray) -> bool:
        """Puts the students that an earlier run had begun where it had left them; whether there are any."""
        known, width = self.task.snapshots, len(self.occupant)
        if not known:
            return False
        pairs = zip(lanes.tolist(), students.tolist(), strict=True)
        lane_of = {student: lane for lane, student in pairs if student in known}
        for part in self.task.take_snapshots(lane_of):
            number = len(part.students)
            # As many as there are lanes, so that nothing recompiles.
            places = np.full(width, width, np.int32)
            places[:number] = [lane_of[student] for student in part.students.tolist()]
            self.pause[places[:number]], self.settled[places[:number]] = part.pauses, part.iterations
            padded = [np.resize(leaf, (width, *leaf.shape[1:])) for leaf in part.leaves]
            assert self.lanes is not None
            rest = jax.tree.unflatten(jax.tree.structure(self.lanes.without_scales()), padded)
            self.lanes = put_back(self.program, self.lanes, places, rest)
        return bool(lane_of)

    def snapshots(self) -> Snapshots | None:
        """The students in the lanes, as a later run can go on with them; None if there are none.

        Rows must be settled: `settle` does it, and a kernel that is to run no tick.
        """
        busy = np.flatnonzero(self.occupant >= 0)
        if self.lanes is None or not len(busy):
            return None
        time = int(np.asarray(self.lanes.state.time)[busy].max())
        num_records = min(1 << time.bit_length(), self.program.num_records)  # few different numbers: each compiles
        padded = np.resize(busy.astype(np.int32), len(self.occupant))  # so that nothing recompiles
        rest = jax.device_get(resting(self.program, self.lanes, padded, num_records))
        leaves = [leaf[: len(busy)] for leaf in jax.tree.leaves(rest)]
        return Snapshots(self.occupant[busy], self.pause[busy], self.settled[busy], leaves)

    def settle(self) -> None:
        """Settles the rows of XLA's lanes."""
        if self.kernel is None:
            self.lanes, self.settled = settle(self.program, self.lanes), self.iteration.astype(np.int64)

    def begin(self, num_ticks: int) -> None:
        """Says where each lane stops in the ticks that follow, and lets XLA's loop run them; kernels run in `Group`."""
        self.until = np.where(self.occupant >= 0, self._next_stops(), 0).astype(np.int32)
        if self.kernel is None:
            inputs = self.worlds, self.teachers, self.schedules, np.int32(self.task.num_iterations)
            self.lanes, self.status = advance(self.program, self.lanes, *inputs, self.until, np.int32(num_ticks))

    def work(self) -> launch.Work:
        """What the kernel is to do in the ticks that `begin` has announced."""
        assert self.lanes is not None and self.tables is not None
        return launch.Work(self.lanes, self.tables, np.full(1, self.task.num_iterations, np.int32), self.until)

    def end(self, num_ticks: int) -> None:
        """Waits for the ticks that `begin` has announced, and takes over the status of the lanes."""
        self._take_status(np.array(self.status))
        if self.kernel is not None:  # Lanes that stop have settled their rows, and all have if there was no tick.
            has_stopped = self.idle & ((self.iteration >= self.until) | self.fault)
            self.settled = np.where(has_stopped | (num_ticks == 0), self.iteration, self.settled).astype(np.int64)

    def _take_status(self, status: np.ndarray) -> None:
        """Takes over a status as `advance` returns it, int32 [4, W]."""
        busy = self.occupant >= 0
        self.iteration, self.count = np.where(busy, status[0], 0), np.where(busy, status[1].view(np.uint32), 0)
        self.fault, self.idle = busy & (status[2] > 0), busy & (status[3] > 0)

    def _next_stops(self) -> np.ndarray:
        """The iteration at which every lane next needs the host, [W].

        A lane stops before it would overwrite scales that pending directions still need.
        """
        return np.minimum(self._next_pauses(), self.settled + self.program.ring - 2)

    def ticks_to_stop(self) -> np.ndarray:
        """The ticks after which each busy lane is expected to have stopped, [busy lanes]."""
        busy = self.occupant >= 0
        iterations = np.maximum(self._next_stops() - self.iteration, 1)[busy]
        # The lengths of episodes vary by about as much as they are long, so that the sum of n of them varies by a part
        # 1 / sqrt(n). A lane that has not quite arrived when a chunk ends would need a further one.
        return self.lengths.per_iteration()[busy] * (iterations + np.sqrt(iterations))

    def _next_pauses(self) -> np.ndarray:
        """Iteration of every lane's next pause, or its last, [W]."""
        return np.array([*self.task.pauses, self.task.num_iterations])[self.pause]

    def settle_old(self) -> None:
        """Settles the rows of XLA's lanes if some lane has to soon; kernels do so themselves."""
        if (self.iteration - self.settled).max() > self.program.ring // 2:
            self.settle()

    def measure(self) -> None:
        """Estimates how long the students in the lanes will take."""
        task, busy = self.task, self.occupant >= 0
        iterations_left = np.maximum(task.num_iterations - self.iteration, 0)
        self.ticks_left = (self.lengths.per_iteration() * iterations_left)[busy]
        task.ticks[self.occupant[busy]] = self.ticks_per_step * self.count[busy] + self.ticks_left

    def is_ready(self) -> bool:
        """Whether the ticks that `begin` has announced are over."""
        return isinstance(self.status, np.ndarray) or self.status.is_ready()

    def collect(self) -> list["Collected"]:
        """Takes the parameters of lanes at a pause, the end or a fault; frees those at the end or a fault.

        What is returned is still computed by the device, in few pieces, and is handed out by `deliver`.
        """
        task = self.task
        ready = np.flatnonzero(self.idle & ((self.iteration >= self._next_pauses()) | self.fault))
        cost = task.cost[np.maximum(self.occupant, 0)]
        self.work_done = self._work_of_finished + float((cost * self.iteration).sum())
        self.steps = int(self._steps_of_finished + self.count.sum())
        self.lengths.update(self.count * self.ticks_per_step, self.iteration)
        size = self._extracted_at_once(len(ready))
        pieces = [ready[start : start + size] for start in range(0, len(ready), size)]
        # A fixed number of lanes per call, so that nothing recompiles.
        arrays = [extract(self.program, self.lanes, np.resize(lanes.astype(np.int32), size)) for lanes in pieces]
        return [Collected(*self._free(lanes), x) for lanes, x in zip(pieces, arrays, strict=True)]

    def _extracted_at_once(self, number: int) -> int:
        """How many lanes a call extracts of so many: all that may be, or an eighth of them if they suffice."""
        width, entries = len(self.occupant), self.task.worlds.num_observations * self.program.rule.num_params
        most = _EXTRACT_ENTRIES if self.kernel is None else _KERNEL_ENTRIES
        size = max(1, min(width, most // entries))
        return size // 8 if size > _FEW_LANES and number <= size // 8 else size

    def _free(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends the pause of some lanes, and frees those at the end or a fault; the students, and their pauses or -1."""
        task, students = self.task, self.occupant[lanes]
        is_last = self.fault[lanes] | (self.pause[lanes] == len(task.pauses))
        pauses = np.where(is_last, -1, self.pause[lanes])
        self.pause[lanes] += 1
        finished, count = students[is_last], self.count[lanes][is_last].astype(np.int64)
        self.occupant[lanes[is_last]], self.pause[lanes[is_last]] = -1, 0
        task.num_finished += len(finished)
        self._work_of_finished += float(task.cost[finished].sum()) * task.num_iterations
        self._steps_of_finished += int(count.sum())
        task.ticks[finished] = self.ticks_per_step * count
        return students, pauses

    def deliver(self, collected: list["Collected"]) -> None:
        """Hands out what was collected."""
        for students, pauses, arrays in collected:
            # A copy, so that what is kept of a few lanes does not hold on to the memory of all.
            outputs = Outputs(*(array[: len(students)].copy() for array in jax.device_get(arrays)))
            self.task.on_outputs(students, pauses, outputs)
            if self.task.save_outputs is not None:
                self.task.save_outputs(students, pauses, outputs)


class Collected(NamedTuple):
    """What students hand out, as long as the device computes it.

    Attributes:
      students: int [N], their indices.
      pauses: int [N], indices of their pauses, or -1 at the end.
      arrays: the fields of `Outputs`, with at least N entries.
    """

    students: np.ndarray
    pauses: np.ndarray
    arrays: Any
