"""Cuts a training into shards, which the workers of an executor train, and joins what they return.

A shard holds some cells on some MDPs. It is trained as the whole would be, so its students have the same bits; what is
exact about the MDPs is computed by the caller.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.executors import dispatch
from jaxdistill.executors.dispatch import Work
from jaxdistill.executors.sharding import Sharding
from jaxdistill.executors.worker import StoppedShard
from jaxdistill.mdp import MDP
from jaxdistill.mdp.precision import as_float64, float64
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods.options import number_fields
from jaxdistill.methods.schedules import is_schedule
from jaxdistill.runtime import streams
from jaxdistill.runtime.progress import Hook, Progress
from jaxdistill.scheduling import pool
from jaxdistill.scheduling.task import Task
from jaxdistill.training.config import RATES, Config, ResolvedCell
from jaxdistill.training.measuring import MeasureFunction, Requested
from jaxdistill.training.recorder import Recorder
from jaxdistill.training.run import FinalStudents, run_students, run_to_end, student_tasks
from jaxdistill.training.tasks import make_tasks


@dataclasses.dataclass(frozen=True)
class Shard:
    """The students of a shard.

    Attributes:
      cells: int [p], the indices of its cells.
      mdps: int [m], the positions of its MDPs.
    """

    cells: np.ndarray
    mdps: np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
    """What a worker gets of the tables of a training, beside the cells without teachers, which all shards share.

    Attributes:
      shard: the students.
      mdps: its m MDPs, of NumPy arrays.
      teachers: of each of its cells, of NumPy arrays.
      cost: [m], expected episode lengths.
      initial: float32 [p, m, O, num_params], or None for zeros.
      num_threads: as in `Sharding`.
    """

    shard: Shard
    mdps: MDP
    teachers: tuple[Teacher | None, ...]
    cost: np.ndarray
    initial: np.ndarray | None
    num_threads: int | None


def cut(num_cells: int, cost: np.ndarray, num_shards: int) -> list[Shard]:
    """Cuts cells x MDPs into at most `num_shards` shards with about equal work.

    The MDPs are cut first, and the cells only if there are fewer MDPs than shards, because all cells on some MDPs share
    the tables of these MDPs. The MDPs are dealt out by their cost.

    Args:
      num_cells: P.
      cost: [M], expected episode length in each MDP; what is not finite counts as the largest.
      num_shards: >= 1.
    """
    num_mdps = len(cost)
    parts_of_mdps = min(num_mdps, num_shards)
    parts_of_cells = max(1, min(num_cells, num_shards // parts_of_mdps))
    order = np.argsort(-np.where(np.isfinite(cost), cost, np.inf), kind="stable")
    # Dealt out there and back, so that no part gets the most expensive MDP of every round.
    rounds = [order[i : i + parts_of_mdps] for i in range(0, num_mdps, parts_of_mdps)]
    dealt = [mdps if i % 2 == 0 else mdps[::-1] for i, mdps in enumerate(rounds)]
    dealt = [np.pad(mdps, (0, parts_of_mdps - len(mdps)), constant_values=-1) for mdps in dealt]
    columns = np.stack(dealt)
    return [
        Shard(cells, np.sort(columns[columns[:, i] >= 0, i]))
        for cells in np.array_split(np.arange(num_cells), parts_of_cells)
        for i in range(parts_of_mdps)
    ]


def run_students_on(
    sharding: Sharding,
    key: jax.Array,
    recorder: Recorder,
    cost: np.ndarray,
    initial: np.ndarray | None,
    progress: Progress,
) -> dict[str, Any]:
    """Trains the students of a recorder on an executor, as `run.run_students` does it in this process.

    Returns what decided how the workers rounded, and raises what `dispatch.run` does.
    """
    measures = recorder.measures

    def identity() -> Iterator[bytes]:
        yield from _identity(student_tasks(key, recorder, cost, initial), cost)
        for measure in measures.functions:
            yield _lowered(measure.function, recorder.mdps, recorder.cells[0].teacher).encode()
        yield repr((measures.named, measures.names, recorder.logits is not None)).encode()

    shared = {
        "function": train_students,
        "config": recorder.config,
        "keep_tables": recorder.logits is not None,
        "measures": measures,
    }
    tables = _Tables(recorder.mdps, recorder.cells, cost, initial, sharding.num_threads)
    return _run(sharding, key, shared, tables, identity, recorder.insert, progress)


def run_to_end_on(
    sharding: Sharding | None, key: jax.Array, mdps: MDP, cells: Sequence[ResolvedCell], progress: Progress
) -> FinalStudents:
    """Trains students on an executor, if there is one, as `run.run_to_end` does it in this process."""
    if sharding is None:
        return run_to_end(key, mdps, cells, on_progress=progress)
    shape, records = (len(cells), mdps.num_mdps), dict[str, np.ndarray]()

    def keep(cell_indices: np.ndarray, positions: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            record = records.setdefault(name, np.zeros((*shape, *array.shape[2:]), array.dtype))
            record[np.ix_(cell_indices, positions)] = array

    cost = np.ones(mdps.num_mdps)

    def identity() -> Iterator[bytes]:
        yield from _identity(make_tasks(key, mdps, cells, cost, lambda *_: None), cost)

    tables = _Tables(mdps, cells, cost, None, sharding.num_threads)
    _run(sharding, key, {"function": train_to_end}, tables, identity, keep, progress)
    return FinalStudents(**records)


class _Tables:
    """The tables of a whole training, from which parts are taken; the arguments are those of `Part`.

    All tables are NumPy arrays: JAX would dispatch a program for every array of every part.
    """

    def __init__(
        self,
        mdps: MDP,
        cells: Sequence[ResolvedCell],
        cost: np.ndarray,
        initial: np.ndarray | None,
        num_threads: int | None,
    ):
        self.mdps, self.cells, self.cost = _in_numpy(mdps), cells, np.asarray(cost)
        self.initial, self.num_threads = initial, num_threads
        self._teachers = {id(cell.teacher): _in_numpy(cell.teacher) for cell in cells}

    def part(self, shard: Shard) -> Part:
        """The part of a shard."""

        def rows(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[shard.mdps], tree)

        ids = [id(self.cells[cell].teacher) for cell in shard.cells]
        teachers = {teacher_id: rows(self._teachers[teacher_id]) for teacher_id in set(ids)}  # cells may share one
        return Part(
            shard,
            rows(self.mdps),
            tuple(teachers[teacher_id] for teacher_id in ids),
            self.cost[shard.mdps],
            None if self.initial is None else self.initial[np.ix_(shard.cells, shard.mdps)],
            self.num_threads,
        )


def _run(
    sharding: Sharding,
    key: jax.Array,
    shared: Mapping[str, Any],
    tables: _Tables,
    identity: Callable[[], Iterable[bytes]],
    keep: Callable[[np.ndarray, np.ndarray, Mapping[str, np.ndarray]], None],
    progress: Progress,
) -> dict[str, Any]:
    """Runs a training on an executor; `keep` takes the cells, the MDPs and the arrays of every shard."""
    shards: list[Shard] = []

    def parts_of(num_shards: int) -> tuple[list[Callable[[], Part]], list[float]]:
        shards.extend(cut(len(tables.cells), tables.cost, num_shards))
        is_finite = np.isfinite(tables.cost)
        finite = np.where(is_finite, tables.cost, np.max(tables.cost, initial=1.0, where=is_finite))
        work = [len(shard.cells) * float(finite[shard.mdps].sum()) for shard in shards]
        return [functools.partial(tables.part, shard) for shard in shards], work

    def keep_shard(index: int, arrays: Mapping[str, np.ndarray]) -> None:
        keep(shards[index].cells, shards[index].mdps, arrays)

    cells = [dataclasses.replace(cell, teacher=None) for cell in tables.cells]
    work = Work(
        {**shared, "cells": cells, "num_mdps": tables.mdps.num_mdps, "words": streams.words(key)},
        parts_of,
        len(cells) * tables.mdps.num_mdps,
        identity,
        keep_shard,
    )
    return dispatch.run(sharding, work, progress)


def train_students(
    part: Part,
    report: Hook,
    words: Sequence[int],
    cells: Sequence[ResolvedCell],
    num_mdps: int,
    config: Config,
    keep_tables: bool,
    measures: Requested,
) -> dict[str, np.ndarray]:
    """Trains a shard of `run_students_on` in a worker; returns the arrays of its recorder.

    Raises `StoppedShard` with those of the students that had finished, after a KeyboardInterrupt.
    """
    key, mdps, cells = _unpacked(part, words, cells, num_mdps)
    config = _config_on_mdps(config, part.shard.mdps, num_mdps)
    recorder = Recorder(key, mdps, cells, config, keep_tables, measures)
    try:
        with pool.limited(part.num_threads):
            run_students(key, recorder, part.cost, part.initial, report)
    except KeyboardInterrupt:
        raise StoppedShard(recorder.arrays()) from None
    return recorder.arrays()


def train_to_end(
    part: Part, report: Hook, words: Sequence[int], cells: Sequence[ResolvedCell], num_mdps: int
) -> dict[str, np.ndarray]:
    """Trains a shard of `run_to_end_on` in a worker."""
    key, mdps, cells = _unpacked(part, words, cells, num_mdps)
    with pool.limited(part.num_threads):
        final = run_to_end(key, mdps, cells, part.initial, report)
    return {"params": final.params, "faults": final.faults}


def _unpacked(
    part: Part, words: Sequence[int], cells: Sequence[ResolvedCell], num_mdps: int
) -> tuple[jax.Array, MDP, list[ResolvedCell]]:
    """The key, the MDPs and the cells of a shard."""
    mdps = jax.tree.map(jnp.asarray, part.mdps)
    of_shard = [
        _on_mdps(cells[index], part.shard.mdps, num_mdps, teacher)
        for index, teacher in zip(part.shard.cells, part.teachers, strict=True)
    ]
    return streams.as_key(np.array(words, np.uint32)), mdps, of_shard


def _on_mdps(cell: ResolvedCell, positions: np.ndarray, num_mdps: int, teacher: Teacher | None) -> ResolvedCell:
    """A cell with its teachers on some of the MDPs only; numbers with one entry for each MDP are cut."""

    params = _cut_numbers(cell.method.params, positions, num_mdps)
    config = _config_on_mdps(cell.config, positions, num_mdps)
    method = dataclasses.replace(cell.method, params={**cell.method.params, **params}) if params else cell.method
    return dataclasses.replace(cell, method=method, teacher=teacher, config=config)


def _config_on_mdps(config: Config, positions: np.ndarray, num_mdps: int) -> Config:
    """A configuration whose numbers with one entry for each MDP are cut."""
    numbers = {name: getattr(config, name) for name in (*number_fields(), *RATES)}
    cut_numbers = _cut_numbers(numbers, positions, num_mdps)
    return dataclasses.replace(config, **cut_numbers) if cut_numbers else config  # type: ignore[arg-type]


def _cut_numbers(values: Mapping[str, Any], positions: np.ndarray, num_mdps: int) -> dict[str, np.ndarray]:
    """The numbers that have one entry for each MDP, on some of the MDPs only."""
    single = {name: value for name, value in values.items() if value is not None and not is_schedule(value)}
    return {name: np.asarray(x)[positions] for name, x in single.items() if np.shape(x) == (num_mdps,)}


def _identity(tasks: Sequence[Task], cost: np.ndarray) -> Iterator[bytes]:
    """What distinguishes a sharded training from others; the cost of the MDPs decides how it is cut."""
    yield b"shards" + np.asarray(cost).tobytes()
    yield from itertools.chain.from_iterable(task.identity() for task in tasks)


def _lowered(measure: MeasureFunction, mdps: MDP, teacher: Teacher | None) -> str:
    """The program of a measure as text, so that a changed measure is not taken for the one of an earlier run."""
    with float64():
        policies = jax.ShapeDtypeStruct((mdps.num_mdps, mdps.num_states, mdps.num_actions), jnp.float64)
        return jax.jit(lambda *world: measure(*as_float64(world))).lower(mdps, teacher, policies).as_text()


def _in_numpy(tree: Any) -> Any:
    """A pytree with NumPy arrays as its leaves, which can be sent without JAX's devices."""
    return jax.tree.map(np.asarray, tree)
