"""The translation of a traced lane: the arguments of its kernel, and the body of the function of one lane."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill.kernels.lane import TracedLane
from jaxdistill.kernels.memory import padded_width
from jaxdistill.kernels.values import C_TYPES, Memory, Registers, Table, Untranslatable, Value, dtype_name
from jaxdistill.kernels.walk import walk
from jaxdistill.kernels.writer import Writer, literal

MAX_UNROLLED = 32
"""The most entries of a row that becomes variables, such as a row of a student's table."""

INPUTS = ("num_iterations", "until", "num_ticks")
"""The arrays of int32 that a kernel takes after the lanes and the shared tables: [1], [W] and [1]."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An array that the kernel takes.

    Attributes:
      name: in the C text.
      dtype: the name of its dtype.
      lane_size: entries of one lane; 0 for an array that all lanes share.
      num_columns: entries of a row, where it is a table of rows; else 0.
      stride: entries from row to row as the kernel reads it; a shared table may be padded.
    """

    name: str
    dtype: str
    lane_size: int = 0
    num_columns: int = 0
    stride: int = 0

    @property
    def declaration(self) -> str:
        """The parameter in a list of C parameters."""
        return f"{'' if self.lane_size else 'const '}{C_TYPES[self.dtype]}* RESTRICT {self.name}"


@dataclasses.dataclass(frozen=True)
class Translation:
    """A lane in C.

    Attributes:
      lane_parameters: the leaves of `Lanes`, which the kernel updates in place.
      shared_parameters: the leaves of worlds, teachers and schedules.
      body: the statements of the function of one lane, whose number is `lane`. It also takes `INPUTS`, `status` (int32
        [4, W], which it writes) and `num_lanes`.
    """

    lane_parameters: tuple[Parameter, ...]
    shared_parameters: tuple[Parameter, ...]
    body: str


def translate(traced: TracedLane) -> Translation:
    """Writes a traced lane in C; raises `Untranslatable` where that is not possible."""
    writer = Writer()
    lane_parameters, lane = _lane_arguments(writer, traced)
    shared_parameters, shared = _shared_arguments(traced)
    num_iterations, num_ticks = (_scalar(writer, f"{name}[0]") for name in ("num_iterations", "num_ticks"))
    until = Registers(np.array([writer.load("int32", "until[lane]")], object), "int32")
    closed = traced.jaxpr
    results = walk(writer, closed.jaxpr, closed.consts, [*lane, *shared, num_iterations, until, num_ticks])
    *new_lane, status = results
    for parameter, old, new in zip(lane_parameters, lane, new_lane, strict=True):
        _store(writer, parameter, old, new)
    assert isinstance(status, Registers)
    for k, entry in enumerate(status.entries[:, 0]):
        writer.statement(f"status[(size_t){k} * num_lanes + lane] = {literal(entry)};")
    return Translation(lane_parameters, shared_parameters, "\n".join(writer.lines))


def padded(translation: Translation, tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The leaves of worlds, teachers and schedules, with rows as far apart as the kernel reads them."""
    pairs = zip(translation.shared_parameters, tables, strict=True)
    return [np.pad(x, ((0, 0), (0, p.stride - p.num_columns))) if p.stride > p.num_columns else x for p, x in pairs]


def _scalar(writer: Writer, expression: str) -> Registers:
    return Registers(np.array(writer.load("int32", expression), object), "int32")


def _named_leaves(tree: Any, prefix: str) -> list[tuple[str, Any]]:
    """The leaves of a tree with a name in C for each, of its place in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [prefix + re.sub(r"[^0-9A-Za-z]+", "_", jax.tree_util.keystr(path)).rstrip("_") for path, _ in leaves]
    names = [name if paths.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(paths)]
    return list(zip(names, (leaf for _, leaf in leaves), strict=True))


def _check_row(name: str, num_entries: int) -> None:
    if num_entries > MAX_UNROLLED:
        raise Untranslatable(f"A row of {name} has {num_entries} entries; at most {MAX_UNROLLED} become variables.")


def _lane_arguments(writer: Writer, traced: TracedLane) -> tuple[tuple[Parameter, ...], list[Value]]:
    """The leaves of `Lanes`: tables stay in memory, and the state becomes variables."""
    parameters: list[Parameter] = []
    values: list[Value] = []
    for name, leaf in _named_leaves(traced.lane.tables, "tables"):
        num_rows, num_columns = leaf.shape
        parameter = Parameter(name, dtype_name(leaf.dtype), num_rows * num_columns, num_columns, num_columns)
        _check_row(name, num_columns)
        pointer = f"lane_{name}"
        writer.statement(
            f"{C_TYPES[parameter.dtype]}* RESTRICT {pointer} = {name} + (size_t)lane * {parameter.lane_size};"
        )
        values.append(Table(Memory(pointer, parameter.dtype, num_columns, num_columns, is_writable=True), 0))
        parameters.append(parameter)
    for name, leaf in _named_leaves(traced.lane.state, "state"):
        _check_row(name, math.prod(leaf.shape))
        parameter = Parameter(name, dtype_name(leaf.dtype), math.prod(leaf.shape))
        entries = np.empty(leaf.shape, object)
        for k, index in enumerate(np.ndindex(leaf.shape)):
            entries[index] = writer.load(parameter.dtype, _place(parameter, k))
        values.append(Registers(entries, parameter.dtype))
        parameters.append(parameter)
    return tuple(parameters), values


def _place(parameter: Parameter, k: int) -> str:
    """Entry k of this lane."""
    return f"{parameter.name}[(size_t)lane * {parameter.lane_size} + {k}]"


def _shared_arguments(traced: TracedLane) -> tuple[tuple[Parameter, ...], list[Value]]:
    """The leaves of worlds, teachers and schedules, tables that nothing writes."""
    parameters: list[Parameter] = []
    values: list[Value] = []
    prefixes = ("worlds", "teachers", "schedules")
    named = [_named_leaves(tree, prefix) for tree, prefix in zip(traced.shared, prefixes, strict=True)]
    for name, leaf in itertools.chain.from_iterable(named):
        (_, num_columns), dtype = leaf.shape, dtype_name(leaf.dtype)
        _check_row(name, num_columns)
        stride = padded_width(num_columns)
        parameters.append(Parameter(name, dtype, 0, num_columns, stride))
        values.append(Table(Memory(name, dtype, num_columns, stride, is_writable=False), 0))
    return tuple(parameters), values


def _store(writer: Writer, parameter: Parameter, old: Value, new: Value) -> None:
    """Writes what has changed of a leaf of the lane."""
    if isinstance(old, Table):
        if not isinstance(new, Table) or new.memory is not old.memory:
            raise Untranslatable(f"The table {parameter.name} does not stay in its place.")
        new.check_current()
        return
    assert isinstance(new, Registers)
    for k, (before, after) in enumerate(zip(old.entries.flat, new.entries.flat, strict=True)):
        if before != after:
            writer.statement(f"{_place(parameter, k)} = {literal(after)};")
