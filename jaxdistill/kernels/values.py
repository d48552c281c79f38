"""What the arrays of a jaxpr become in C: entries in named variables, or a table in memory."""

import dataclasses
from typing import Any

import numpy as np

C_TYPES = {"float32": "float", "int32": "int", "uint32": "unsigned", "bool": "bool"}
"""The C type of each dtype that can be translated."""

Entry = str | np.generic
"""An entry of an array: the name of a C variable, or a constant."""


class Untranslatable(Exception):
    """Says in one sentence what of a program cannot be written in C, and why."""


def dtype_name(dtype: Any) -> str:
    """The name of a dtype; raises `Untranslatable` for one that has no C type here."""
    name = str(dtype)
    if name not in C_TYPES:
        raise Untranslatable(f"An array has the type {name}; only {', '.join(C_TYPES)} can be translated.")
    return name


@dataclasses.dataclass(frozen=True)
class Registers:
    """A small array, each entry of which is a C variable or a constant.

    Attributes:
      entries: an object array of `Entry`, of the array's shape.
      dtype: the name of its dtype.
    """

    entries: np.ndarray
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape

    def constant(self) -> np.generic:
        """The value of a constant array of one entry; raises TypeError for a variable."""
        entry = self.entries.item()
        if isinstance(entry, str):
            raise TypeError(f"{entry} is no constant")
        return entry


@dataclasses.dataclass
class Memory:
    """A table of rows in memory that a pointer names.

    Attributes:
      name: of the pointer.
      dtype: the name of its dtype.
      num_columns: entries of a row.
      stride: entries from the start of a row to that of the next.
      is_writable: whether it is a lane's own table; the others are shared by all lanes.
      version: counts the writes that have been translated.
    """

    name: str
    dtype: str
    num_columns: int
    stride: int
    is_writable: bool
    version: int = 0


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as of one version: the value of a variable of the jaxpr, which never changes.

    Memory does change. So a read of a version that has been overwritten is refused.
    """

    memory: Memory
    version: int

    @property
    def dtype(self) -> str:
        return self.memory.dtype

    def check_current(self) -> None:
        """Raises `Untranslatable` if the memory has been written since this version."""
        if self.version != self.memory.version:
            raise Untranslatable(
                f"The table {self.memory.name} is used as it was before a write to it, which has overwritten it."
            )

    def written(self) -> "Table":
        """The table after one more write."""
        self.memory.version += 1
        return Table(self.memory, self.memory.version)


Value = Registers | Table


def constants(array: Any) -> Registers:
    """An array of constants."""
    array = np.asarray(array)
    entries = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        entries[index] = array[index]
    return Registers(entries, str(array.dtype))


def registers(value: Value, user: str) -> Registers:
    """`value`, which must be in registers; raises `Untranslatable` for a table, which `user` would read as a whole."""
    if isinstance(value, Table):
        raise Untranslatable(
            f"The operation {user} uses the table {value.memory.name} as a whole; only its rows can be read or written."
        )
    return value
