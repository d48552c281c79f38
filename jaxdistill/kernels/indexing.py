"""The primitives that read or replace entries of registers at places that are known only when the kernel runs.

C cannot index variables. So every place that may be meant is selected in turn, which suits short rows.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jaxdistill.kernels.primitives import combine, entry_of, selected
from jaxdistill.kernels.values import Entry, Registers
from jaxdistill.kernels.writer import Writer

_FILL = lax.GatherScatterMode.FILL_OR_DROP
_CLIP = lax.GatherScatterMode.CLIP


class _Start(NamedTuple):
    """Where a window starts along a dimension: at `number`, which is at most `last` if the window fits."""

    dimension: int
    number: Entry
    last: int


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Which entries of an array a gather reads, or a scatter replaces.

    Attributes:
      indices: the starts of the windows, in the last axis.
      sizes: of the array and of a window.
      places: the dimensions of the array along which a window extends.
      axes: those of the result (or of the updates) that go along it.
      batching: pairs of a dimension of the array and an axis of `indices` that go together.
      starting: the dimensions that the starts are about.
    """

    indices: Registers
    sizes: Sequence[tuple[int, int]]
    places: Sequence[int]
    axes: Sequence[int]
    batching: Sequence[tuple[int, int]]
    starting: Sequence[int]

    def at(self, index: tuple[int, ...]) -> tuple[list[int], list[_Start]]:
        """The place in a window that starts at 0 of an entry of the result, and where its window starts."""
        batch = tuple(i for axis, i in enumerate(index) if axis not in self.axes)
        place = [0] * len(self.sizes)
        for dimension, axis in zip(self.places, self.axes, strict=True):
            place[dimension] = index[axis]
        for dimension, axis in self.batching:
            place[dimension] = batch[axis]
        starts = []
        for k, dimension in enumerate(self.starting):
            size, window = self.sizes[dimension]
            starts.append(_Start(dimension, self.indices.entries.item((*batch, k)), size - window))
        return place, starts


def _windows_of_gather(params: Mapping[str, Any], shape: tuple[int, ...], indices: Registers) -> _Windows:
    numbers = params["dimension_numbers"]
    without = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    return _Windows(
        indices,
        list(zip(shape, params["slice_sizes"], strict=True)),
        [dimension for dimension in range(len(shape)) if dimension not in without],
        numbers.offset_dims,
        list(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)),
        numbers.start_index_map,
    )


def _windows_of_scatter(
    params: Mapping[str, Any], shape: tuple[int, ...], indices: Registers, updates: Registers
) -> _Windows:
    numbers = params["dimension_numbers"]
    without = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    places = [dimension for dimension in range(len(shape)) if dimension not in without]
    windows = dict(zip(places, (updates.shape[axis] for axis in numbers.update_window_dims), strict=True))
    return _Windows(
        indices,
        [(size, windows.get(dimension, 1)) for dimension, size in enumerate(shape)],
        places,
        numbers.update_window_dims,
        list(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)),
        numbers.scatter_dims_to_operand_dims,
    )


def _compare(writer: Writer, name: str, index: Entry, number: int, dtype: str) -> Entry:
    """The comparison `name` of an index of an integer dtype with a number."""
    return entry_of(writer, name, "bool", "u" if dtype == "uint32" else "i", (index, np.dtype(dtype).type(number)))


def _both(writer: Writer, x: Entry, y: Entry) -> Entry:
    return entry_of(writer, "and", "bool", "b", (x, y))


def _entry(writer: Writer, operand: Registers, place: Sequence[int], starts: Sequence[_Start], dtype: str) -> Entry:
    """The entry at `place` of the window that starts at `starts`, each moved to where the window fits."""
    if not starts:
        return operand.entries.item(tuple(place))
    (dimension, index, last), *others = starts

    def at(start: int) -> Entry:
        moved = [p + start * (d == dimension) for d, p in enumerate(place)]
        return _entry(writer, operand, moved, others, dtype)

    if not isinstance(index, str):
        return at(int(np.clip(int(index), 0, last)))
    result = at(0)
    for start in range(1, last + 1):
        is_reached = _compare(writer, "ge", index, start, dtype)
        result = selected(writer, operand.dtype, is_reached, at(start), result)
    return result


def _fits(writer: Writer, starts: Iterable[_Start], dtype: str) -> Entry:
    """Whether the window is inside of the array."""
    fits: Entry = np.bool_(True)
    for start in starts:
        for name, limit in (("ge", 0), ("le", start.last)):
            fits = _both(writer, fits, _compare(writer, name, start.number, limit, dtype))
    return fits


def _fill_value(params: Mapping[str, Any], dtype: str) -> Entry:
    """What a gather gives outside of the array."""
    value, default = params["fill_value"], {"float32": np.nan, "int32": -(2**31), "uint32": 2**32 - 1, "bool": True}
    return np.dtype(dtype).type(default[dtype] if value is None else value)


def gather(writer: Writer, params: Mapping[str, Any], shape: tuple[int, ...], operands: list[Registers]) -> Registers:
    """The primitive `gather` of an array in registers."""
    operand, indices = operands
    windows = _windows_of_gather(params, operand.shape, indices)
    entries = np.empty(shape, object)
    for index in np.ndindex(shape):
        place, starts = windows.at(index)
        entry = _entry(writer, operand, place, starts, indices.dtype)
        if params["mode"] == _FILL:
            fits = _fits(writer, starts, indices.dtype)
            entry = selected(writer, operand.dtype, fits, entry, _fill_value(params, operand.dtype))
        entries[index] = entry
    return Registers(entries, operand.dtype)


def dynamic_slice(
    writer: Writer, params: Mapping[str, Any], shape: tuple[int, ...], operands: list[Registers]
) -> Registers:
    """The primitive `dynamic_slice` of an array in registers."""
    operand, *indices = operands
    starts = [_Start(d, index.entries.item(), operand.shape[d] - shape[d]) for d, index in enumerate(indices)]
    entries = np.empty(shape, object)
    for place in np.ndindex(shape):
        entries[place] = _entry(writer, operand, place, starts, indices[0].dtype)
    return Registers(entries, operand.dtype)


def _new(old: Entry, new: Entry) -> Entry:
    return new


def _clamped(writer: Writer, start: _Start, dtype: str) -> _Start:
    """The start, moved to where the window fits."""
    number = np.dtype(dtype).type
    at_least_0 = combine(writer, "max", dtype)(start.number, number(0))
    return start._replace(number=combine(writer, "min", dtype)(at_least_0, number(start.last)))


def _replace(
    writer: Writer,
    target: Registers,
    place: Sequence[int],
    starts: Sequence[_Start],
    index_dtype: str,
    update: Entry,
    combined: Callable[[Entry, Entry], Entry],
) -> None:
    """Updates, in place, the entry at `place` of the window that starts at `starts`; nothing where it does not fit."""
    for offsets in itertools.product(*(range(start.last + 1) for start in starts)):
        moved = list(place)
        is_meant: Entry = np.bool_(True)
        for start, offset in zip(starts, offsets, strict=True):
            moved[start.dimension] += offset
            is_meant = _both(writer, is_meant, _compare(writer, "eq", start.number, offset, index_dtype))
        old = target.entries.item(tuple(moved))
        target.entries[tuple(moved)] = selected(writer, target.dtype, is_meant, combined(old, update), old)


def scatter(writer: Writer, operation: str, params: Mapping[str, Any], operands: list[Registers]) -> Registers:
    """The primitive `scatter`, which replaces entries, and those that combine them by `operation`."""
    operand, indices, updates = operands
    result = Registers(operand.entries.copy(), operand.dtype)
    windows = _windows_of_scatter(params, operand.shape, indices, updates)
    combined = combine(writer, operation, operand.dtype) if operation else _new
    for index in np.ndindex(updates.shape):
        place, starts = windows.at(index)
        if params["mode"] == _CLIP:
            starts = [_clamped(writer, start, indices.dtype) for start in starts]
        _replace(writer, result, place, starts, indices.dtype, updates.entries.item(index), combined)
    return result


def dynamic_update_slice(
    writer: Writer, params: Mapping[str, Any], shape: tuple[int, ...], operands: list[Registers]
) -> Registers:
    """The primitive `dynamic_update_slice` of an array in registers."""
    operand, update, *indices = operands
    result, dtype = Registers(operand.entries.copy(), operand.dtype), indices[0].dtype
    starts = [_Start(d, index.entries.item(), operand.shape[d] - update.shape[d]) for d, index in enumerate(indices)]
    starts = [_clamped(writer, start, dtype) for start in starts]
    for place in np.ndindex(update.shape):
        _replace(writer, result, place, starts, dtype, update.entries.item(place), _new)
    return result


INDEXING = {"gather": gather, "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice}
"""Functions of (writer, parameters, shape of the result, operands)."""

SCATTERING = {"scatter": "", "scatter-add": "add", "scatter-mul": "mul", "scatter-min": "min", "scatter-max": "max"}
"""The operation by which each scatter combines an entry and its update; nothing where the update takes its place."""
