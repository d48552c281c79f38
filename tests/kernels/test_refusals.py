"""What cannot be written as C is refused with one sentence that says what and why."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxdistill import METHODS
from jaxdistill.engine import packing
from jaxdistill.kernels.lane import trace
from jaxdistill.kernels.translation import MAX_UNROLLED, translate
from jaxdistill.kernels.values import Memory, Registers, Table, Untranslatable
from jaxdistill.kernels.walk import walk
from jaxdistill.kernels.writer import Writer
from jaxdistill.methods import Method
from tests import small
from tests.kernels.agreement import stacked, task_of, worlds_of

TABLE, ROW, INDEX = np.zeros((5, 4), np.float32), np.ones((1, 4), np.float32), np.zeros(1, np.int32)


def lines_of(function, *others, num_tables=1, is_writable=True):
    """The C of a function of tables [5, 4] in memory, and of small arrays."""
    closed = jax.make_jaxpr(function)(*[TABLE] * num_tables, *others)
    writer, names = Writer(), ("table", "table_2")[:num_tables]
    arguments = [Table(Memory(name, "float32", 4, 4, is_writable), 0) for name in names]
    for k, variable in enumerate(closed.jaxpr.invars[num_tables:]):
        entries = np.empty(variable.aval.shape, object)
        for n, index in enumerate(np.ndindex(entries.shape)):
            entries[index] = f"x{k}_{n}"
        arguments.append(Registers(entries, str(variable.aval.dtype)))
    walk(writer, closed.jaxpr, closed.consts, arguments)
    return writer.lines


def read_after_write(table, row, index):
    later = packing.write(table, index, row)
    return later, packing.read(table, index)


def two_writes_to_one_version(table, row, index):
    return packing.write(table, index, row), packing.write(table, index, 2 * row)


def read_from_before_the_loop(table, row, index):
    """In the second round the body would read what the first has written."""

    def body(carry):
        k, later = carry
        return k + 1, packing.write(later, index, packing.read(table, index) + row)

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, table))


def loop_that_loses_a_write(table, row, index):
    def body(carry):
        k, later, seen = carry
        return k + 1, later, seen + packing.read(packing.write(later, index, row), index)

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, table, row))


@pytest.mark.parametrize(
    "function",
    [read_after_write, two_writes_to_one_version, read_from_before_the_loop, loop_that_loses_a_write],
    ids=lambda function: function.__name__,
)
def test_a_stale_table(function):
    with pytest.raises(Untranslatable, match=r"^The table table is used as it was before a write to it"):
        lines_of(function, ROW, INDEX)


def test_reads_before_the_write_and_reads_of_what_was_written_are_no_stale_reads():
    def function(table, row, index):
        before = packing.read(table, index)
        table = packing.write(table, index, before + row)
        return table, packing.read(table, index)

    assert len(lines_of(function, ROW, INDEX)) > 5

    def loop(table, row, index):
        def body(carry):
            k, later = carry
            return k + 1, packing.write(later, index, packing.read(later, index) + row)

        return lax.while_loop(lambda carry: carry[0] < 3, body, (0, table))

    assert len(lines_of(loop, ROW, INDEX)) > 5


USES_OF_TABLES = {
    "as a whole": lambda table: table + 1,
    "whole rows": lambda table: lax.gather(
        table, np.zeros((1, 1), np.int32), packing._READ, (1, 3), mode="promise_in_bounds"
    ),
    "promised to be in bounds": lambda table: lax.gather(
        table, np.zeros((1, 1), np.int32), packing._READ, (1, 4), mode="clip"
    ),
}


@pytest.mark.parametrize("message", USES_OF_TABLES)
def test_a_table_that_is_used_otherwise(message):
    with pytest.raises(Untranslatable, match=message):
        lines_of(USES_OF_TABLES[message])


def test_a_loop_that_exchanges_tables():
    with pytest.raises(Untranslatable, match="exchanges one table for another"):
        lines_of(
            lambda x, y: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[2], c[1]), (0, x, y)), num_tables=2
        )


def test_a_write_to_a_table_of_all_lanes():
    with pytest.raises(Untranslatable, match="shared by all lanes"):
        lines_of(lambda table, row, index: packing.write(table, index, row), ROW, INDEX, is_writable=False)


UNKNOWN = {
    "The primitive sort has no translation": lambda x: jnp.sort(x),
    "The primitive erf_inv has no translation": lambda x: lax.erf_inv(x),
    "A branch .* depends on data": lambda x: lax.cond(x[0] > 0, lambda x: x + 1, lambda x: x - 1, x),
    "has the type float16": lambda x: x.astype(jnp.float16),
    "has the type complex64": lambda x: x + 1j,
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_what_is_unknown(message):
    with pytest.raises(Untranslatable, match=message) as error:
        lines_of(lambda table, x: UNKNOWN[message](x), ROW[0])
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_loss_with_an_unknown_primitive():
    mdps, teachers = worlds_of("grid", 2)
    task = task_of([Method("sorted", loss=lambda step: jnp.sort(step.student_logits)[0])], mdps, teachers)
    with pytest.raises(Untranslatable, match="The primitive sort has no translation into C"):
        translate(trace(task.program, task.worlds, task.teachers, task.schedules, task.students))


def test_an_optimizer():
    mdps, teachers = worlds_of("grid", 2)
    changes = {"optimizer": optax.adam(0.1), "learning_rate": None, "value_learning_rate": None}
    task = task_of([METHODS["on_policy_distill"]], mdps, teachers, **changes)
    with pytest.raises(Untranslatable, match="optimizer works on whole tables"):
        trace(task.program, task.worlds, task.teachers, task.schedules, task.students)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_too_many_features(estimator):
    mdp = small.random_mdp(0, num_actions=3)
    mdp = mdp.with_features([[0, 1, 2, 3, 4]] * 4)
    worlds = dataclasses.replace(stacked([mdp, mdp]), id=jnp.arange(2, dtype=jnp.int32))
    task = task_of(
        [METHODS["on_policy_distill"]], worlds, stacked([small.random_teacher(mdp, 0)] * 2), estimator=estimator
    )
    with pytest.raises(Untranslatable, match="5 features of a state have rows of 8 entries; at most 32 entries in all"):
        trace(task.program, task.worlds, task.teachers, task.schedules, task.students)


def test_rows_that_are_too_long():
    mdp = small.random_mdp(0, num_actions=MAX_UNROLLED)  # a row holds a value and the iteration, too
    teacher = small.random_teacher(mdp, 0)
    worlds = dataclasses.replace(stacked([mdp, mdp]), id=jnp.arange(2, dtype=jnp.int32))
    task = task_of([METHODS["on_policy_distill"]], worlds, stacked([teacher, teacher]))
    with pytest.raises(Untranslatable, match=f"entries; at most {MAX_UNROLLED} become variables"):
        translate(trace(task.program, task.worlds, task.teachers, task.schedules, task.students))
