"""How the time of a tick divides into parts: the engine's tick is timed with one part after the other taken out.

The parts are taken out in a fixed order, and a part stays out when the next is taken out, so that the differences add
up to the whole tick. What replaces a part costs next to nothing, keeps every index in range, and still reads the
results of the parts that are taken out later, because XLA removes whatever no result depends on. A hash replaces the
random bits, the first rows of a table replace the rows at given indices, and an unchanged row replaces an updated one.

XLA fuses several parts into one kernel. So the share of a part is the time that is saved without it, and another order
would give other shares. The lanes are those of a real block in the middle of training.
"""

import collections
import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines import Problem
from experiments.baselines.problems import Mix
from jaxdistill import METHODS
from jaxdistill.engine import lanes as lane_functions
from jaxdistill.engine import threefry, tick, xla
from jaxdistill.engine.lanes import Lanes, Program
from jaxdistill.engine.rules import StudentRule
from jaxdistill.estimators import Estimator
from jaxdistill.runtime import streams
from jaxdistill.scheduling import pool
from jaxdistill.scheduling.block import Block
from jaxdistill.scheduling.group import Group
from jaxdistill.training import tasks

PARTS = {  # in the order in which they are taken out
    "random": "Random bits",
    "credit": "Loss and credit",
    "refresh": "Update of the row",
    "policy": "Policy, action",
    "write": "Write of the row",
    "rows": "Read of both rows",
    "scales": "Ring of step sizes",
    "record": "Record of the episode",
    "world": "World",
    "rest": "Lanes, loop",
}


def parts_of(estimator: Estimator) -> list[str]:
    """The parts of a tick of this estimator; only some estimators record the episode."""
    return [part for part in PARTS if part != "record" or estimator.records_episode]


# --- Taking parts out -----------------------------------------------------------------------------------------------


class _NoCredit(StudentRule):
    """Steps leave the row as it is."""

    def reward(self, student: Any, step: Any) -> Any:
        return step.reward

    def next_reward(self, student: Any, step: Any) -> Any:
        return jnp.zeros_like(step.reward)

    def state_value(self, student: Any, row: Any, teacher_value: Any) -> Any:
        return teacher_value

    def credit(self, student: Any, row: Any, step: Any, target: Any, share: Any = None) -> Any:
        return jax.tree.map(lambda part: part + 0 * target, row)


class _NoRefresh(_NoCredit):
    """Directions are never applied; the row still depends on the scale, so that the scale is read."""

    def refresh(self, row: Any, scale: Any, iteration: Any) -> Any:
        return jax.tree.map(lambda part: part + 0 * scale[0], row)


class _NoPolicy(_NoRefresh):
    """Actions are uniform; their weights still depend on the row, so that the row is read."""

    def weights(self, row: Any, teacher_row: Any, student: Any, control: Any) -> Any:
        return 1 + 0 * row[0][: self.num_actions]


_RULES = {"policy": _NoPolicy, "refresh": _NoRefresh, "credit": _NoCredit}  # the last part taken out comes first


def _simplified(program: Program, parts: Sequence[str]) -> Program:
    """The program with the rule that leaves `parts` out."""
    rule_type = next((rule_type for part, rule_type in _RULES.items() if part in parts), None)
    if rule_type is None:
        return program
    rule = program.rule
    fields = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    # Without next rewards the one-step estimator has no second credit.
    return dataclasses.replace(program, rule=rule_type(**fields | {"next_rewards": ()}))


def _hash(key: Any, counter: Any, stream: Any = 0) -> Any:
    """Two words that depend on the arguments of `threefry.random_bits` and are good enough to keep lanes moving."""
    bits = (counter + key[0]) * np.uint32(2654435761)
    return bits, bits * np.uint32(40503)


def _first_rows(table: Any, index: Any) -> Any:
    """As many rows as `index` has entries: the first ones."""
    num = index.shape[0]
    return table[:num] if table.shape[0] >= num else jnp.broadcast_to(table[:1], (num, table.shape[1]))


def _signature(table: Any) -> tuple[Any, ...]:
    return table.shape, table.dtype


def _part_by_table(block: Block) -> dict[tuple[Any, ...], str]:
    """The part that reads each table, by the table's shape and type."""
    assert block.lanes is not None
    tables, worlds = block.lanes.tables, block.worlds
    world_tables = (worlds.outcomes, worlds.continue_prob, worlds.arrivals, worlds.starts, worlds.start_cumulative)
    tables_by_part: dict[str, tuple[Any, ...]] = {
        "world": world_tables,
        "record": () if tables.records is None else (tables.records,),
        "scales": (tables.scales,),
        "rows": (tables.rows[0], block.teachers),
    }
    return {_signature(table): part for part, group in tables_by_part.items() for table in group}


@contextlib.contextmanager
def without(block: Block, parts: Sequence[str]) -> Iterator[None]:
    """Replaces `parts` of the engine, for programs that are traced inside the context."""
    part_by_table = _part_by_table(block)
    read, write = tick.read, tick.write

    def partly_read(tables: Any, index: Any) -> Any:
        if part_by_table.get(_signature(jax.tree.leaves(tables)[0])) in parts:
            return jax.tree.map(lambda table: _first_rows(table, index), tables)
        return read(tables, index)

    def partly_write(tables: Any, index: Any, rows: Any) -> Any:
        part = "write" if isinstance(tables, tuple) else part_by_table.get(_signature(tables))
        return tables if part in parts else write(tables, index, rows)

    bits = _hash if "random" in parts else threefry.random_bits
    with (
        mock.patch.multiple(tick, read=partly_read, write=partly_write),
        mock.patch.object(lane_functions, "read", partly_read),  # starts of episodes
        mock.patch.object(threefry, "random_bits", bits),
    ):
        yield


# --- Programs and their time ----------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """A compiled loop of ticks.

    Attributes:
      run: (lanes, number of ticks) -> lanes.
      text: the compiled program.
    """

    run: Callable[[Any, int], Any]
    text: str


def _arguments(block: Block) -> tuple[Any, ...]:
    """The arguments of `tick.advance` between the lanes and the number of ticks."""
    return block.worlds, block.teachers, block.schedules, np.int32(block.task.num_iterations), block.until


def lowered(block: Block, parts: Sequence[str] = ()) -> Any:
    """`tick.advance` of the block's program without `parts`, traced and lowered."""
    with without(block, parts):
        # A function of its own, because JAX would reuse what it has traced of `tick.advance`.
        advance = xla.compiled(donate=1)(lambda *args: tick.advance.fn(*args))
        return advance.lower(_simplified(block.program, parts), block.lanes, *_arguments(block), np.int32(0))


def variants(block: Block, parts: Sequence[str]) -> dict[str, Variant]:
    """Compiles, for each of `parts`, the tick without the parts that come before it in `PARTS`."""
    order, arguments = list(PARTS), _arguments(block)

    def variant(part: str) -> Variant:
        program = lowered(block, order[: order.index(part)]).compile()
        return Variant(lambda lanes, number: program(lanes, *arguments, np.int32(number))[0], str(program.as_text()))

    return {part: variant(part) for part in parts}


def measure(lanes: Lanes, programs: dict[str, Variant], num_ticks: int, repeats: int) -> dict[str, np.ndarray]:
    """Seconds per tick of each program, [repeats]; the programs run in turns, each on its own copy of the lanes."""
    copies = {name: jax.tree.map(jnp.array, lanes) for name in programs}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            copies[name] = jax.block_until_ready(program.run(copies[name], num_ticks))
            if repeat:  # the first run is not counted
                seconds[name].append((time.perf_counter() - started) / num_ticks)
    return {name: np.array(repeated) for name, repeated in seconds.items()}


def shares(seconds: dict[str, np.ndarray]) -> dict[str, float]:
    """Seconds per tick of each part: the time with the part less the time without it; of the last part, its time.

    The shortest of the repeats counts, because other processes lengthen the others by more than small parts take.
    """
    shortest = [float(np.min(repeated)) for repeated in seconds.values()] + [0.0]
    return {name: shortest[i] - shortest[i + 1] for i, name in enumerate(seconds)}


# --- Blocks to measure ----------------------------------------------------------------------------------------------


def usual_width(rows: int) -> int:
    """Lanes of a block of students on grids of rows x rows."""
    return pool.lane_width(rows**2, 2 * 8)


def filling(mix: Mix, num_lanes: int) -> Mix:
    """The mix with so many worlds that students of either estimator fill a block of `num_lanes` lanes."""
    # Only cells of one program share a block. Counted are those of the largest program of each column.
    cells = collections.Counter((column, tasks.methods_in_program(METHODS[name])) for name, column in mix.pairs)
    largest: dict[str, int] = {}
    for (column, _), number in cells.items():
        largest[column] = max(number, largest.get(column, 0))
    return mix._replace(num_students=mix.num_cells * -(-num_lanes // min(largest.values())))


def full_block(problem: Problem, estimator: str, num_lanes: int, num_ticks: int = 2000) -> Block:
    """A block of `num_lanes` lanes after `num_ticks` ticks, all of them busy and far from the end of training."""
    key = streams.from_seed(problem.seed)
    cost = np.ones(problem.mdps.num_mdps) if problem.cost is None else problem.cost
    cells = [dataclasses.replace(c, config=dataclasses.replace(c.config, num_iterations=2**20)) for c in problem.cells]
    all_tasks = tasks.make_tasks(key, problem.mdps, cells, cost, lambda *_: None, initial=problem.initial)
    task = max((t for t in all_tasks if t.program.estimator.name == estimator), key=lambda task: len(task.cost))
    task.program = dataclasses.replace(task.program, num_lanes=num_lanes)
    device = pool.workers()[0]
    with jax.default_device(device):  # as in the pool, so that both use the same compiled programs
        block = Block(task, device, share=len(task.cost))
        group = Group([block])
        group.refill()
        if not (block.occupant >= 0).all():
            raise ValueError(f"{len(task.cost)} students do not fill {num_lanes} lanes; use more.")
        group.run_ticks(num_ticks)
    return block


# --- Text of compiled programs --------------------------------------------------------------------------------------


def table_copies(text: str, sizes: Sequence[int]) -> list[str]:
    """The copies, in loops of a compiled program, of arrays with as many entries as one of `sizes`; a line each."""
    copies = []
    for header, lines in _computations(text):
        for line in lines:
            shape = re.search(r"= \w+\[([\d,]*)\]\S* copy(?:-start)?\(", line)
            is_in_loop = not header.startswith("ENTRY")
            if is_in_loop and shape and int(np.prod([int(n) for n in shape[1].split(",") if n])) in sizes:
                copies.append(line.strip())
    return copies


def kernels(text: str) -> int:
    """Operations of the body of the largest loop, which on CPU are started one after the other."""
    bodies = set(re.findall(r" while\(.*body=%?([\w.\-]+)", text))
    free = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast")
    counts = [0]
    for header, lines in _computations(text):
        if header.split()[0].lstrip("%") in bodies:
            operations = [match[1] for line in lines if (match := re.search(r"= .*? ([\w\-]+)\(", line))]
            counts.append(sum(operation not in free for operation in operations))
    return max(counts)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """The computations of a compiled program: the header of each, and its lines."""
    header = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            header, lines = line, []
        elif line.startswith("}") and header:
            yield header, lines
            header = ""
        else:
            lines.append(line)
