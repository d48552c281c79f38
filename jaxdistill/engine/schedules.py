"""The numbers of students that change with the iteration: a table with a row for each iteration of each schedule.

A lane holds the numbers of its current iteration in its `Student`, and reads the next row when an iteration ends. So a
tick costs the same with any number of schedules, and programs without schedules have no table.

A number is named by its place in `Student`: "learning_rate", "control", "options.discount" or "params.beta".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.engine.rules import Student

CONTROL = "control"
_FEWEST_ROWS = 1024
_MOST_BYTES = 2**31


def num_columns(names: Sequence[str]) -> int:
    """Entries of a row of the table for these numbers; the control policy has three."""
    return sum(3 if name == CONTROL else 1 for name in names)


def scheduled_numbers(student: Student, names: Sequence[str]) -> jax.Array:
    """The named numbers of students, [..., columns]."""
    columns = []
    for name in names:
        group, _, key = name.rpartition(".")
        place: Any = getattr(student, group) if group else student
        value = place[key] if group == "params" else getattr(place, key)
        columns.append(value if name == CONTROL else value[..., None])
    return jnp.concatenate(columns, axis=-1)


def with_numbers(student: Student, names: Sequence[str], numbers: jax.Array) -> Student:
    """Students with the named numbers replaced by `numbers` [..., columns]."""
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    params = dict(student.params)
    column = 0
    for name in names:
        group, _, key = name.rpartition(".")
        place = {"": fields, "options": options, "params": params}[group]
        width = num_columns([name])
        entries = numbers[..., column : column + width]
        place[key] = entries if name == CONTROL else entries[..., 0]
        column += width
    return dataclasses.replace(
        student, options=dataclasses.replace(student.options, **options), params=params, **fields
    )


def num_rows(num_iterations: int) -> int:
    """Rows of one schedule in the table: a power of two, so that few numbers of iterations compile anew."""
    return max(_FEWEST_ROWS, 1 << (num_iterations - 1).bit_length())


def pack(schedules: Sequence[np.ndarray], num_iterations: int) -> np.ndarray:
    """The table of one or more schedules, one after the other, float32 [schedules * num_rows, columns].

    Args:
      schedules: the numbers of each, [num_iterations, columns].
      num_iterations: of the training; the rows beyond repeat the last one.

    Raises:
      ValueError: the table would have more than 2 GiB.
    """
    rows, width = num_rows(num_iterations), schedules[0].shape[1]
    if 4 * rows * width * len(schedules) > _MOST_BYTES:
        raise ValueError(
            f"{len(schedules)} different schedules of {width} numbers over {num_iterations} iterations need more than "
            "2 GiB; train fewer of them at once."
        )
    padded = [np.pad(x, ((0, rows - len(x)), (0, 0)), mode="edge") for x in schedules]
    return np.concatenate(padded).astype(np.float32)
