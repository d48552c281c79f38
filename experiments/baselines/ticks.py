"""Where a tick's time goes: the engine's own tick, and the same with one part after the other taken out.

The parts are taken out in a fixed order, and each keeps what was taken out before it, so that the differences add up to
the whole tick. What is left in place of a part costs next to nothing and keeps every index in range: a hash for the
random bits, the first rows of a table in place of those asked for, the row itself in place of the row with its credit.
XLA fuses parts of a tick into common kernels, so that a part's share is what is saved without it, and another order
would give other shares. The lanes are those of a real block in the middle of training.
"""

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
from jaxdistill.engine import tick, xla
from jaxdistill.engine.lanes import Lanes, Program
from jaxdistill.engine.rules import StudentRule
from jaxdistill.scheduling import pool
from jaxdistill.scheduling.block import Block
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


class _NoCredit(StudentRule):
    """Steps leave the row as it is."""

    def reward(self, student: Any, step: Any) -> Any:
        return step.reward

    def next_reward(self, student: Any, step: Any) -> Any:
        return jnp.zeros_like(step.reward)

    def state_value(self, student: Any, row: Any, teacher_value: Any) -> Any:
        return teacher_value

    def credit(self, student: Any, row: Any, step: Any, target: Any) -> Any:
        return jax.tree.map(lambda part: part + 0 * target, row)


class _NoRefresh(_NoCredit):
    def refresh(self, row: Any, scale: Any, iteration: Any) -> Any:
        return row


class _NoPolicy(_NoRefresh):
    """Uniform actions."""

    def weights(self, row: Any, teacher_row: Any, student: Any, control: Any) -> Any:
        return jnp.ones(self.num_actions) + 0 * row[0][0]


def _hash(key: Any, counter: Any, stream: Any = 0) -> Any:
    bits = (counter + key[0]) * np.uint32(2654435761)
    return bits, bits * np.uint32(40503)


def _first_rows(table: Any, index: Any) -> Any:
    """As many rows as asked for, but the first ones."""
    num = index.shape[0]
    return table[:num] if table.shape[0] >= num else jnp.broadcast_to(table[:1], (num, table.shape[1]))


@contextlib.contextmanager
def without(parts: Sequence[str], lanes: Lanes, worlds: Any, teachers: jax.Array) -> Iterator[None]:
    """The engine with `parts` replaced while it is traced."""
    sizes = {
        lanes.tables.rows[0].shape: "rows",
        teachers.shape: "rows",
        lanes.tables.scales.shape: "scales",
        **({lanes.tables.records.shape: "record"} if lanes.tables.records is not None else {}),
        **{table.shape: "world" for table in (worlds.outcomes, worlds.continue_prob, worlds.arrivals, worlds.starts)},
    }
    read, write = tick.read, tick.write

    def partly_read(tables: Any, index: Any) -> Any:
        kept = sizes.get(jax.tree.leaves(tables)[0].shape) not in parts
        return read(tables, index) if kept else jax.tree.map(lambda table: _first_rows(table, index), tables)

    def partly_write(tables: Any, index: Any, rows: Any) -> Any:
        left_out = "write" if isinstance(tables, tuple) else sizes.get(tables.shape)
        return tables if left_out in parts else write(tables, index, rows)

    bits = _hash if "random" in parts else tick.threefry.random_bits
    with (
        mock.patch.multiple(tick, read=partly_read, write=partly_write),
        mock.patch.object(tick.threefry, "random_bits", bits),
    ):
        yield


def _simplified(program: Program, parts: Sequence[str]) -> Program:
    """The program with the rule that leaves `parts` out."""
    rule = program.rule
    kinds = {"policy": _NoPolicy, "refresh": _NoRefresh, "credit": _NoCredit}
    found = [kind for part, kind in kinds.items() if part in parts]
    if found:
        rule = found[0](**{field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)})
    return dataclasses.replace(program, rule=rule)


class Variant(NamedTuple):
    """A compiled tick, and what it runs on."""

    run: Callable[[Any, int], Any]
    text: str


def variant(block: Block, parts: Sequence[str]) -> Variant:
    """`engine.advance` of the block's program without `parts`."""
    program, lanes = _simplified(block.program, parts), block.lanes
    assert lanes is not None
    arguments = (block.worlds, block.teachers, np.int32(block.task.num_iterations), block._until)
    with without(parts, lanes, block.worlds, block.teachers):
        advance = xla.compiled(donate=1)(lambda *args: tick.advance.fn(*args))  # a function of its own
        done = advance.lower(program, lanes, *arguments, np.int32(0)).compile()
    return Variant(lambda lanes, number: done(lanes, *arguments, np.int32(number))[0], str(done.as_text()))


def usual_width(rows: int) -> int:
    """Lanes of a block of students of rows x rows."""
    return pool.lane_width(rows**2, 2 * 8)


def filling(mix: Mix, num_lanes: int) -> Mix:
    """The mix with as many worlds as fill a block of so many lanes with the students of either estimator."""
    fewest = min(mix._replace(columns=(column,)).num_cells for column in mix.columns)
    return mix._replace(num_students=mix.num_cells * -(-num_lanes // fewest))


def full_block(problem: Problem, estimator: str, num_lanes: int, num_ticks: int = 2000) -> Block:
    """A block of so many lanes in the middle of training, all of them busy and far from the end."""
    key = jax.random.key(problem.seed)
    cost = np.ones(problem.mdps.num_mdps) if problem.cost is None else problem.cost
    cells = [dataclasses.replace(c, config=dataclasses.replace(c.config, num_iterations=2**20)) for c in problem.cells]
    made = tasks.make_tasks(key, problem.mdps, cells, cost, lambda *_: None, initial=problem.initial)
    task = next(task for task in made if task.program.estimator.name == estimator)
    task.program = dataclasses.replace(task.program, num_lanes=num_lanes)
    block = Block(task, pool.workers()[0], share=len(task.cost))
    block.refill()
    if not (block.occupant >= 0).all():
        raise ValueError(f"{len(task.cost)} students do not fill {num_lanes} lanes; use more.")
    block._run_ticks(num_ticks)
    return block


def measure(block: Block, num_ticks: int, parts: Sequence[str], repeats: int) -> dict[str, np.ndarray]:
    """Seconds per tick [repeats] by part: of the tick without any part that comes before it; repeats in turns.

    `parts`: some of `PARTS`, in their order; the first gives the whole tick.
    """
    order = list(PARTS)
    variants = {name: variant(block, order[: order.index(name)]) for name in parts}
    lanes = {name: jax.tree.map(jnp.array, block.lanes) for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):  # the first is not counted
        for name, one in variants.items():
            started = time.perf_counter()
            lanes[name] = jax.block_until_ready(one.run(lanes[name], num_ticks))
            if repeat:
                seconds[name].append((time.perf_counter() - started) / num_ticks)
    return {name: np.array(found) for name, found in seconds.items()}


def shares(seconds: dict[str, np.ndarray]) -> dict[str, float]:
    """Seconds per tick of each part: with it less without it; of the last, what is left.

    Of the repeats the shortest counts: small differences drown in what other programs take from the others.
    """
    least = [float(np.min(one)) for one in seconds.values()] + [0.0]
    return {name: least[i] - least[i + 1] for i, name in enumerate(seconds)}


def table_copies(text: str, sizes: Sequence[int]) -> list[str]:
    """The copies, in loops of a compiled program, of arrays as large as one of `sizes` (entries); one line each."""
    found, inside = [], False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = not line.startswith("ENTRY")
        shape = re.search(r"= \w+\[([\d,]*)\]\S* copy(?:-start)?\(", line)
        if inside and shape and int(np.prod([int(n) for n in shape[1].split(",") if n])) in sizes:
            found.append(line.strip())
    return found


def kernels(text: str) -> int:
    """Operations of the body of the largest loop, which on CPU are started one after the other."""
    bodies = set(re.findall(r" while\(.*body=%?([\w.\-]+)", text))
    counts, name = dict.fromkeys(bodies, 0), ""
    free = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast")
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.split(" (")[0].split()[0].lstrip("%")
        elif name in counts and (operation := re.search(r"= .*? ([\w\-]+)\(", line)):
            counts[name] += operation[1] not in free
    return max(counts.values(), default=0)
