"""Rows of tables in memory: `gather` becomes loads and `scatter` stores, of up to four entries at once."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jax import lax

from jaxdistill.kernels.values import C_TYPES, Entry, Memory, Registers, Table, Untranslatable
from jaxdistill.kernels.writer import Writer, literal

_IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS
_SECTOR = 8  # entries of 4 bytes in the 32 bytes that a GPU reads at once
_WIDEST = 4  # entries of the widest load


def padded_width(num_columns: int) -> int:
    """Entries from row to row of a shared table, so that rows do not straddle sectors and wide loads are possible."""
    if num_columns > _WIDEST:
        return -(-num_columns // _SECTOR) * _SECTOR
    return 1 << (num_columns - 1).bit_length()


def _pieces(memory: Memory) -> Iterator[tuple[int, int]]:
    """(first column, number of columns) of the loads or stores of a row; what is left of a row may be shorter."""
    widest = _WIDEST if memory.dtype != "bool" else 1
    while memory.stride % widest:
        widest //= 2
    for first in range(0, memory.num_columns, widest):
        yield first, min(widest, memory.num_columns - first)


def _vector_type(memory: Memory, number: int) -> str:
    return C_TYPES[memory.dtype].replace("unsigned", "uint") + str(number)


def _row_pointer(writer: Writer, memory: Memory, index: Entry, qualifier: str) -> str:
    name = writer.fresh("p")
    writer.statement(
        f"{qualifier}{C_TYPES[memory.dtype]}* {name} = {memory.name} + (size_t)({literal(index)}) * {memory.stride};"
    )
    return name


def _check_whole_rows(params: Mapping[str, Any], user: str, table: Table, fits: bool) -> None:
    if not fits or params["mode"] != _IN_BOUNDS:
        raise Untranslatable(
            f"A {user} of the table {table.memory.name} does not take whole rows at indices that are promised to be in "
            "bounds, as `engine.packing` does."
        )


def read_rows(writer: Writer, params: Mapping[str, Any], table: Table, indices: Registers) -> Registers:
    """The primitive `gather` of rows of a table: one, or those of the features of a state."""
    memory, numbers = table.memory, params["dimension_numbers"]
    is_row = (
        (numbers.offset_dims, numbers.collapsed_slice_dims, numbers.start_index_map) == ((1,), (0,), (0,))
        and tuple(params["slice_sizes"]) == (1, memory.num_columns)
        and indices.shape[1:] == (1,)
    )
    _check_whole_rows(params, "gather", table, is_row)
    table.check_current()
    rows = [_read_row(writer, memory, index) for index in indices.entries[:, 0]]
    return Registers(np.stack(rows), memory.dtype)


def _read_row(writer: Writer, memory: Memory, index: Entry) -> np.ndarray:
    """The entries of a row."""
    pointer = _row_pointer(writer, memory, index, "const ")
    entries = np.empty(memory.num_columns, object)
    for first, number in _pieces(memory):
        if number == 1:
            entries[first] = writer.load(memory.dtype, f"{pointer}[{first}]")
            continue
        size = 4 if number == 3 else number  # a row of the table has room for a fourth entry
        vector, name = _vector_type(memory, size), writer.fresh("q")
        writer.statement(f"const {vector} {name} = *(const {vector}*)({pointer} + {first});")
        for k in range(number):
            entries[first + k] = f"{name}.{'xyzw'[k]}"
    return entries


def write_rows(writer: Writer, params: Mapping[str, Any], table: Table, indices: Registers, rows: Registers) -> Table:
    """The primitive `scatter` that replaces rows of a table, which are distinct."""
    memory, numbers = table.memory, params["dimension_numbers"]
    is_row = (
        (numbers.update_window_dims, numbers.inserted_window_dims) == ((1,), (0,))
        and numbers.scatter_dims_to_operand_dims == (0,)
        and rows.shape == (len(indices.entries), memory.num_columns)
        and indices.shape[1:] == (1,)
    )
    _check_whole_rows(params, "scatter", table, is_row)
    if not memory.is_writable:
        raise Untranslatable(f"The table {memory.name} is shared by all lanes, but a lane would write to it.")
    table.check_current()
    for index, entries in zip(indices.entries[:, 0], rows.entries, strict=True):
        _write_row(writer, memory, index, entries)
    return table.written()


def _write_row(writer: Writer, memory: Memory, index: Entry, entries: np.ndarray) -> None:
    pointer = _row_pointer(writer, memory, index, "")
    for first, number in _pieces(memory):
        texts = [literal(entry) for entry in entries[first : first + number]]
        if number in (2, 4):
            vector = _vector_type(memory, number)
            writer.statement(f"*({vector}*)({pointer} + {first}) = make_{vector}({', '.join(texts)});")
        else:
            for k, text in enumerate(texts):
                writer.statement(f"{pointer}[{first + k}] = {text};")
