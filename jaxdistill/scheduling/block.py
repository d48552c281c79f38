"""A block of lanes of one program, and the task whose students are in them."""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxdistill.engine.lanes import Lanes, Program, empty, extract, load, settle
from jaxdistill.engine.packing import Worlds
from jaxdistill.engine.rules import Student
from jaxdistill.engine.tick import advance
from jaxdistill.runtime.checkpoints import OnItsWay, Output
from jaxdistill.scheduling.chunks import Pace
from jaxdistill.scheduling.forecast import Lengths, TickCost

_EXTRACT_ENTRIES = 2**20  # table entries copied out per call
_SAMPLED, _FEWEST_ALIKE = 4, 5  # see `Task.__post_init__`, `Task.pace`


@dataclasses.dataclass(eq=False)  # two tasks may have equal programs; arrays do not compare
class Task:
    """Students that one program trains.

    Attributes:
      program, worlds, teachers: as `engine.advance` takes them.
      students: `Student` of NumPy arrays with a leading axis [N].
      num_iterations: episodes of each student.
      cost: [N], expected ticks per episode; dear ones start first, and progress is weighted by it.
      pauses: iterations before the last at which parameters are handed out, increasing.
      initial: float32 [N, O, num_params] parameters to start from, or None for zeros.
      on_output: called with (student, pause index or -1 at the end, `Output`); never by two workers at once.
    """

    program: Program
    worlds: Worlds
    teachers: jax.Array
    students: Student
    num_iterations: int
    cost: np.ndarray
    on_output: Callable[[int, int, Output], None]
    pauses: Sequence[int] = ()
    initial: np.ndarray | None = None

    def __post_init__(self):
        self.cost = np.asarray(self.cost, np.float64)
        # First some of all, who show how long the others take; then dear ones before cheap ones.
        self.is_sample = np.zeros(len(self.cost), bool)
        sample = np.random.default_rng(0).permutation(len(self.cost))[: len(self.cost) // _SAMPLED]
        self.is_sample[sample] = True
        dear_first = np.argsort(-self.cost, kind="stable")
        order = np.concatenate([sample, dear_first[~self.is_sample[dear_first]]])
        self.take(order.tolist())
        self.ticks = np.full(len(self.cost), np.nan)  # of each student from first to last; expected, while it runs
        self.tick_cost = np.nan  # seconds of a worker, see `forecast.Outlook`
        self.num_finished = 0
        self.on_their_way: dict[int, OnItsWay] = {}  # students whom an earlier run had begun
        self.record: Callable[[int, int, Output], None] | None = None  # as on_output, of what is to be saved

    def take(self, students: Sequence[int]) -> None:
        """Makes these the students to train, in this order."""
        self.queue = collections.deque(students)
        self.num_students = len(students)
        self.waiting = float(self.cost[list(students)].sum())  # expected ticks per iteration of the queue
        self.total_work = self.waiting * self.num_iterations

    def pace(self) -> float:
        """Ticks that students take for one that was expected; of those like the ones who wait, if some are known."""
        known = np.isfinite(self.ticks)
        if self.queue:
            dearest = self.cost[list(itertools.islice(self.queue, 8))].max()
            alike = known & self.is_sample & (self.cost <= dearest)
            known = alike if alike.sum() >= _FEWEST_ALIKE else known
        expected = self.cost[known].sum() * self.num_iterations
        return float(self.ticks[known].sum() / expected) if expected else np.nan

    def identity(self) -> Iterator[bytes]:
        """All that decides the numbers: the compiled program, functions of the user's included, and its inputs."""
        program, total = self.program, np.int32(self.num_iterations)
        lanes = jax.eval_shape(lambda: empty(program, self.worlds, self.one_block(program.num_lanes)))
        until = np.zeros(program.num_lanes, np.int32)
        lowered = advance.lower(program, lanes, self.worlds, self.teachers, total, until, np.int32(0))
        yield lowered.as_text().encode()
        yield repr((self.num_iterations, tuple(self.pauses))).encode()
        for leaf in jax.tree.leaves((self.worlds, self.teachers, self.students, self.initial)):
            yield np.ascontiguousarray(leaf).tobytes()

    def one_block(self, num_lanes: int) -> Student:
        """`Student` of zeros for every lane of a block."""
        return jax.tree.map(lambda x: np.zeros((num_lanes, *x.shape[1:]), x.dtype), self.students)

    def forget(self, outputs: Mapping[tuple[int, int], Output], on_their_way: Mapping[int, OnItsWay]) -> int:
        """Hands out what an earlier run had finished; it is not trained again. The steps that it took."""
        steps, done = 0, set()
        for (who, pause), output in outputs.items():
            self.on_output(who, pause, output)
            if pause < 0:
                done.add(who)
                steps += output.count
        self.queue = collections.deque(who for who in self.queue if who not in done)
        self.num_finished = len(done)
        self.waiting = float(self.cost[list(self.queue)].sum())
        # One whose earlier pauses are lost with a damaged file begins anew.
        known = {who: all((who, p) in outputs for p in range(one.pause)) for who, one in on_their_way.items()}
        self.on_their_way = {who: one for who, one in on_their_way.items() if known[who] and who not in done}
        return steps


class Block:
    """A block of lanes of one program, and who is in them."""

    def __init__(self, task: Task, device: jax.Device, share: int):
        self.task, self.program, self.device = task, task.program, device
        self.ticks_per_step = 2 if task.program.monte_carlo else 1  # forward and, for Monte Carlo, backward
        self.worlds, self.teachers, self.students = jax.device_put((task.worlds, task.teachers, task.students), device)
        width = self.program.num_lanes
        self.capacity = min(width, max(share, 1))
        self.occupant = np.full(width, -1)
        self.pause = np.zeros(width, int)  # index of the lane's next pause
        self.settled = np.zeros(width, np.int64)
        self.lanes: Lanes | None = None
        self._see(np.zeros((4, width), np.int32))
        self.pace = Pace()
        self.lengths, self._tick_cost = Lengths(width, task.num_iterations), TickCost()
        self.left, self._ticks_before, self._round_began = np.zeros(0), 0, np.nan
        self.steps, self.work_done = 0, 0.0  # of this block: environment steps, and cost x iterations
        self._steps_before, self._work_before = 0, 0.0  # of students that have left

    def busy(self) -> bool:
        return bool((self.occupant >= 0).any())

    def draining(self) -> bool:
        """Whether nobody waits and most lanes are free."""
        return not self.task.queue and 2 * int((self.occupant >= 0).sum()) < self.capacity

    def refill(self) -> None:
        """Gives every free lane the next student of the queue; a round begins."""
        self._round_began = time.perf_counter()
        free = np.flatnonzero(self.occupant < 0)
        free = free[: max(self.capacity - int((self.occupant >= 0).sum()), 0)]
        free = free[: len(self.task.queue)]
        if not len(free):
            return
        if self.lanes is None:
            # On the device from the start: arrays of no device would make `advance` compile once more.
            student = self.task.one_block(self.program.num_lanes)
            self.lanes = jax.device_put(empty(self.program, self.worlds, student), self.device)
            self._ticks(0)  # so that the first worker compiles, under the pool's lock, and the others find it done
            self._round_began = time.perf_counter()
        who = np.array([self.task.queue.popleft() for _ in free])
        mask = np.zeros(len(self.occupant), bool)
        mask[free], self.occupant[free], self.pause[free], self.settled[free] = True, who, 0, 0
        self.iteration[free], self.count[free] = 0, 0
        self.lengths.forget(free)
        self.task.waiting -= float(self.task.cost[who].sum())
        initial = None
        if self.task.initial is not None:
            initial = np.zeros((len(mask), *self.task.initial.shape[1:]), np.float32)
            initial[free] = self.task.initial[who]
        occupant = np.maximum(self.occupant, 0).astype(np.int32)
        self.lanes = load(self.program, self.lanes, self.worlds, mask, self.students, occupant, initial)
        begun = self.task.on_their_way
        self._go_on([(lane, w) for lane, w in zip(free.tolist(), who.tolist(), strict=True) if w in begun])

    def _go_on(self, begun: list[tuple[int, int]]) -> None:
        """Puts students (lane, who) where an earlier run had left them."""
        if not begun:
            return
        leaves, structure = jax.tree.flatten(self.lanes)
        leaves = [np.array(leaf) for leaf in leaves]
        for lane, who in begun:
            one = self.task.on_their_way.pop(who)
            self.pause[lane], self.settled[lane] = one.pause, one.settled
            for leaf, saved in zip(leaves, one.leaves, strict=True):
                leaf.reshape(len(self.occupant), -1, *leaf.shape[1:])[lane] = saved
        self.lanes = jax.device_put(jax.tree.unflatten(structure, leaves), self.device)
        self._ticks(0)

    def on_their_way(self) -> dict[int, OnItsWay]:
        """The students in the lanes, as a later run can go on with them."""
        busy = np.flatnonzero(self.occupant >= 0)
        if self.lanes is None or not len(busy):
            return {}
        leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(self.lanes))]
        by_lane = [leaf.reshape(len(self.occupant), -1, *leaf.shape[1:])[busy] for leaf in leaves]
        return {
            int(self.occupant[lane]): OnItsWay(int(self.pause[lane]), int(self.settled[lane]), [x[i] for x in by_lane])
            for i, lane in enumerate(busy)
        }

    def _ticks(self, number: int) -> None:
        """Runs so many ticks and takes note of where the lanes are."""
        assert self.lanes is not None
        # A lane stops before it would write over scales that rows still wait for.
        until = np.minimum(self._ends(), self.settled + self.program.ring - 2)
        self._until = np.where(self.occupant >= 0, until, 0).astype(np.int32)
        total = np.int32(self.task.num_iterations)
        self.lanes, seen = advance(
            self.program, self.lanes, self.worlds, self.teachers, total, self._until, np.int32(number)
        )
        self._see(np.array(seen))

    def _see(self, seen: np.ndarray) -> None:
        here = self.occupant >= 0
        self.iteration, self.count = np.where(here, seen[0], 0), np.where(here, seen[1].view(np.uint32), 0)
        self.fault, self.idle = here & (seen[2] > 0), here & (seen[3] > 0)

    def _ends(self) -> np.ndarray:
        """Iteration of every lane's next pause, or its last."""
        return np.array([*self.task.pauses, self.task.num_iterations])[self.pause]

    def advance(self) -> None:
        """Runs a chunk of ticks."""
        started = time.perf_counter()
        self._ticks(self.pace.num_ticks)
        here = self.occupant >= 0
        stopped = int((self.iteration >= self._until)[here].sum())
        self.pace.look(started, time.perf_counter(), int(here.sum()), stopped)
        if (self.iteration - self.settled).max() > self.program.ring // 2:
            self.lanes, self.settled = settle(self.program, self.lanes), self.iteration.astype(np.int64)

    def look(self) -> None:
        """Takes note, at the end of a round, of how long the students in the lanes will take, and what a tick costs."""
        task, here = self.task, self.occupant >= 0
        self.left = (self.lengths.per_iteration() * np.maximum(task.num_iterations - self.iteration, 0))[here]
        task.ticks[self.occupant[here]] = self.ticks_per_step * self.count[here] + self.left
        seconds, gained = time.perf_counter() - self._round_began, self.ticks_per_step * self.steps - self._ticks_before
        self._ticks_before += gained
        if task.queue:
            task.tick_cost = self._tick_cost.look(seconds, gained)

    def hand_out(self) -> None:
        """Hands out the parameters of lanes that reached a pause, the end or a fault, and frees the latter two."""
        task = self.task
        ready = np.flatnonzero(self.idle & ((self.iteration >= self._ends()) | self.fault))
        cost = task.cost[np.maximum(self.occupant, 0)]
        self.work_done = self._work_before + float((cost * self.iteration).sum())
        self.steps = int(self._steps_before + self.count.sum())
        self.lengths.look(self.count * self.ticks_per_step, self.iteration)
        if not len(ready):
            return
        # A fixed number of students per call, so that nothing recompiles.
        entries = task.worlds.num_observations * self.program.rule.num_params
        size = max(1, min(len(self.occupant), _EXTRACT_ENTRIES // entries))
        for start in range(0, len(ready), size):
            chosen = ready[start : start + size]
            padded = np.zeros(size, np.int32)
            padded[: len(chosen)] = chosen
            out = jax.device_get(extract(self.program, self.lanes, padded))
            for lane, params, curves, *counts in zip(chosen, *out, strict=False):
                output = Output(params, curves, *map(int, counts))
                last = output.fault > 0 or self.pause[lane] == len(task.pauses)
                who = int(self.occupant[lane])
                pause = -1 if last else int(self.pause[lane])
                task.on_output(who, pause, output)
                if task.record is not None:
                    task.record(who, pause, output)
                self.pause[lane] += 1
                if last:
                    self.occupant[lane], self.pause[lane] = -1, 0
                    task.num_finished += 1
                    self._work_before += float(task.cost[who]) * task.num_iterations
                    self._steps_before += output.count
                    task.ticks[who] = self.ticks_per_step * output.count
