"""The primitives that combine the entries of an array: sums, extremes, cumulative sums, products of matrices."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdistill.kernels.primitives import combine, entry_of, selected
from jaxdistill.kernels.rearranging import flat
from jaxdistill.kernels.values import Entry, Registers
from jaxdistill.kernels.writer import Writer

_REDUCE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "and": "and", "or": "or", "xor": "xor"}
_CUMULATIVE = {"cumsum": "add", "cumprod": "mul", "cummax": "max", "cummin": "min"}


def _folded(operation: Callable[[Entry, Entry], Entry], rows: np.ndarray) -> list[np.ndarray]:
    """The running results of an operation over the first axis."""
    results = [np.asarray(rows[0], object)]
    for row in (np.asarray(row, object) for row in rows[1:]):
        result = np.empty(row.shape, object)
        for index in np.ndindex(row.shape):
            result[index] = operation(results[-1].item(index), row.item(index))
        results.append(result)
    return results


def _reduce(writer: Writer, operation: str, params: Mapping[str, Any], operands: list[Registers]) -> Registers:
    (operand,) = operands
    rows = flat(operand.entries, params["axes"])
    result = _folded(combine(writer, operation, operand.dtype), rows)[-1]
    return Registers(result, operand.dtype)


def _cumulate(writer: Writer, operation: str, params: Mapping[str, Any], operands: list[Registers]) -> Registers:
    (operand,) = operands
    rows = np.moveaxis(operand.entries, params["axis"], 0)
    rows = rows[::-1] if params["reverse"] else rows
    results = np.stack(_folded(combine(writer, operation, operand.dtype), rows))
    results = results[::-1] if params["reverse"] else results
    return Registers(np.moveaxis(results, 0, params["axis"]), operand.dtype)


def _index_of_extreme(
    writer: Writer, operation: str, params: Mapping[str, Any], operands: list[Registers]
) -> Registers:
    """The index of the first largest (or smallest) entry; a NaN counts as such."""
    (operand,), (axis,) = operands, params["axes"]
    kind = "f" if operand.dtype == "float32" else "i"
    rows = [np.asarray(row, object) for row in np.moveaxis(operand.entries, axis, 0)]
    result = np.empty(rows[0].shape, object)
    for index in np.ndindex(result.shape):
        extreme, position = rows[0].item(index), np.dtype(params["index_dtype"]).type(0)
        for k in range(1, len(rows)):
            entry = rows[k].item(index)
            better = entry_of(writer, operation, "bool", kind, (entry, extreme))
            if kind == "f":
                entry_is_nan, extreme_is_number = (
                    entry_of(writer, comparison, "bool", "f", (x, x))
                    for comparison, x in (("ne", entry), ("eq", extreme))
                )
                first_nan = entry_of(writer, "and", "bool", "b", (entry_is_nan, extreme_is_number))
                better = entry_of(writer, "or", "bool", "b", (better, first_nan))
            extreme = selected(writer, operand.dtype, better, entry, extreme)
            position = selected(writer, "int32", better, np.int32(k), position)
        result[index] = position
    return Registers(result, "int32")


def _dot(writer: Writer, operation: str, params: Mapping[str, Any], operands: list[Registers]) -> Registers:
    (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]
    left, right = (operand.entries for operand in operands)
    dtype = operands[0].dtype
    add, multiply = combine(writer, "add", dtype), combine(writer, "mul", dtype)
    left_free = [axis for axis in range(left.ndim) if axis not in (*left_axes, *left_batch)]
    right_free = [axis for axis in range(right.ndim) if axis not in (*right_axes, *right_batch)]
    left = left.transpose(*left_batch, *left_free, *left_axes)
    right = right.transpose(*right_batch, *right_free, *right_axes)
    batch_shape, num_batch = left.shape[: len(left_batch)], len(left_batch)
    left_shape = left.shape[num_batch : num_batch + len(left_free)]
    right_shape = right.shape[num_batch : num_batch + len(right_free)]
    result = np.empty((*batch_shape, *left_shape, *right_shape), object)
    for index in np.ndindex(result.shape):
        batch, rest = index[:num_batch], index[num_batch:]
        vectors = left[batch + rest[: len(left_free)]], right[batch + rest[len(left_free) :]]
        pairs = zip(*(np.asarray(vector, object).ravel() for vector in vectors), strict=True)
        products = [multiply(x, y) for x, y in pairs]
        total = products[0]
        for product in products[1:]:
            total = add(total, product)
        result[index] = total
    return Registers(result, dtype)


Combining = Callable[[Writer, str, Mapping[str, Any], list[Registers]], Registers]

COMBINING: dict[str, tuple[Combining, str]] = {
    **{f"reduce_{name}": (_reduce, operation) for name, operation in _REDUCE.items()},
    **{name: (_cumulate, operation) for name, operation in _CUMULATIVE.items()},
    "argmax": (_index_of_extreme, "gt"),
    "argmin": (_index_of_extreme, "lt"),
    "dot_general": (_dot, ""),
}
"""A function of (writer, operation, parameters, operands), and the operation on entries that it repeats."""
