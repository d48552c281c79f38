"""The students that one program trains, and the queue of those that have not begun."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxdistill.engine import xla
from jaxdistill.engine.lanes import Program, empty
from jaxdistill.engine.packing import Worlds
from jaxdistill.engine.rules import Student
from jaxdistill.engine.tick import advance
from jaxdistill.runtime.checkpoints import Handed, Outputs, Snapshots
from jaxdistill.runtime.surroundings import package_versions, surroundings
from jaxdistill.scheduling.loops import Loop, choose

_SAMPLE_SHARE = 4  # one student in this many belongs to the random sample that starts first
_FEWEST_COMPARABLE = 5  # measured students from which the pace of the queue is estimated


@dataclasses.dataclass(eq=False)  # two tasks may have equal programs, and arrays do not compare
class Task:
    """Students that one program trains.

    Attributes:
      program, worlds, teachers, schedules: as `tick.advance` takes them.
      students: `Student` of NumPy arrays with a leading axis [N].
      num_iterations: episodes of each student.
      cost: [N], expected ticks per episode; the most expensive students start first, and progress is weighted by it.
      on_outputs: called with (student indices [N], pause indices [N], each -1 at the end, `Outputs`) of some students;
        never by two workers at once.
      pauses: iterations before the last at which parameters are handed out, increasing.
      initial: float32 [N, O, num_params] parameters to start from, or None for zeros.
    """

    program: Program
    worlds: Worlds
    teachers: jax.Array
    students: Student
    num_iterations: int
    cost: np.ndarray
    on_outputs: Callable[[np.ndarray, np.ndarray, Outputs], None]
    pauses: Sequence[int] = ()
    initial: np.ndarray | None = None
    schedules: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.cost = np.asarray(self.cost, np.float64)
        # A random quarter of the students starts, because their timings predict the rest. The others follow, the most
        # expensive first, so that no long student is left for the end.
        self.is_sample = np.zeros(len(self.cost), bool)
        sample = np.random.default_rng(0).permutation(len(self.cost))[: len(self.cost) // _SAMPLE_SHARE]
        self.is_sample[sample] = True
        expensive_first = np.argsort(-self.cost, kind="stable")
        order = np.concatenate([sample, expensive_first[~self.is_sample[expensive_first]]])
        self.queue = collections.deque(order.tolist())
        self.num_students = len(order)
        self.queued_cost = float(self.cost.sum())  # expected ticks per iteration of the queue
        self.total_work = self.queued_cost * self.num_iterations
        self.ticks = np.full(len(self.cost), np.nan)  # of each student from first to last; estimated while it runs
        self.tick_cost = np.nan  # seconds of a worker, see `forecast.RemainingWork`
        self.num_finished = 0
        self.snapshots: dict[int, tuple[Snapshots, int]] = {}  # of students that an earlier run had begun: their places
        # Called as `on_outputs`, where saves are made.
        self.save_outputs: Callable[[np.ndarray, np.ndarray, Outputs], None] | None = None

    @functools.cached_property
    def loop(self) -> Loop:
        """The loop that runs the ticks; chosen at the first use, in the thread that trains."""
        inputs = self.worlds, self.teachers, self.schedules, self.students
        return choose(self.program, *inputs, self.num_iterations)

    def lane_bytes(self) -> int:
        """Bytes of a lane in the memory of a device."""
        program = self.loop.program.with_lanes(1)
        lane = jax.eval_shape(lambda: empty(program, self.worlds, self.blank_students(1)))
        return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(lane))

    def next_students(self, number: int) -> np.ndarray:
        """Takes so many students from the front of the queue; their indices."""
        indices = np.array([self.queue.popleft() for _ in range(number)], int)
        self.queued_cost -= float(self.cost[indices].sum())
        return indices

    def pace(self) -> float:
        """Measured ticks per expected tick, for students that cost at most as much as the next ones; NaN if unknown.

        If few such students were measured, all measured students count.
        """
        measured = np.isfinite(self.ticks)
        if self.queue:
            largest_cost = self.cost[list(itertools.islice(self.queue, 8))].max()
            comparable = measured & self.is_sample & (self.cost <= largest_cost)
            measured = comparable if comparable.sum() >= _FEWEST_COMPARABLE else measured
        expected = self.cost[measured].sum() * self.num_iterations
        return float(self.ticks[measured].sum() / expected) if expected else np.nan

    def identity(self) -> Iterator[bytes]:
        """Yields all that decides the numbers: the program with the user's functions, the inputs, and the surroundings.

        The program is that of the loop: the source of a kernel and its toolchain, or what XLA compiles. The versions of
        packages and the device are part of it, because they decide how numbers are rounded.
        """
        inputs = self.worlds, self.teachers, self.schedules
        yield (self._lowered() if self.loop.kernel is None else self.loop.kernel.identity).encode()
        yield repr((package_versions(), surroundings(), xla.loops_are_whole())).encode()
        yield repr((self.num_iterations, tuple(self.pauses))).encode()
        for leaf in jax.tree.leaves((*inputs, self.students, self.initial)):
            yield np.ascontiguousarray(leaf).tobytes()

    def _lowered(self) -> str:
        """The text of the program of XLA's loop."""
        program, num_iterations = self.program, np.int32(self.num_iterations)
        lanes = jax.eval_shape(lambda: empty(program, self.worlds, self.blank_students(program.num_lanes)))
        until = np.zeros(program.num_lanes, np.int32)
        inputs = self.worlds, self.teachers, self.schedules
        return advance.lower(program, lanes, *inputs, num_iterations, until, np.int32(0)).as_text()

    def blank_students(self, num_lanes: int) -> Student:
        """`Student` of zeros for every lane of a block."""
        return jax.tree.map(lambda x: np.zeros((num_lanes, *x.shape[1:]), x.dtype), self.students)

    def take_snapshots(self, students: Iterable[int]) -> list[Snapshots]:
        """Takes the snapshots of some students, together as they were saved; those without one are left out."""
        places: dict[int, list[int]] = {}
        parts: dict[int, Snapshots] = {}
        for student in students:
            if student in self.snapshots:
                part, place = self.snapshots.pop(student)
                parts[id(part)] = part
                places.setdefault(id(part), []).append(place)
        return [parts[key][np.array(of_part)] for key, of_part in places.items()]

    def restore(self, handed: Handed | None, snapshots: Sequence[Snapshots]) -> int:
        """Takes over what an earlier run left.

        Outputs are handed out again; finished students are not trained again, and the others go on from their snapshot.

        Args:
          handed: what students handed out, or None if none did.
          snapshots: of students that had begun.

        Returns:
          The environment steps that the finished students took.
        """
        num_steps, finished, known = 0, set[int](), set[tuple[int, int]]()
        if handed is not None:
            students, pauses, outputs = handed
            self.on_outputs(students, pauses, outputs)
            finished = set(students[pauses < 0].tolist())
            known = set(zip(students.tolist(), pauses.tolist(), strict=True))
            num_steps = int(outputs.count[pauses < 0].sum(dtype=np.int64))
        self.queue = collections.deque(index for index in self.queue if index not in finished)
        self.num_finished = len(finished)
        self.queued_cost = float(self.cost[list(self.queue)].sum())
        # A student whose outputs at earlier pauses are lost with a damaged file begins anew.
        self.snapshots = {
            index: (part, place)
            for part in snapshots
            for place, (index, pause) in enumerate(zip(part.students.tolist(), part.pauses.tolist(), strict=True))
            if index not in finished and all((index, earlier) in known for earlier in range(pause))
        }
        return num_steps
