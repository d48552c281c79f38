"""The walk over a jaxpr that writes each equation as C."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jax.extend import core as jex_core

from jaxdistill.kernels.indexing import INDEXING, SCATTERING, scatter
from jaxdistill.kernels.memory import read_rows, write_rows
from jaxdistill.kernels.primitives import ELEMENTWISE, SPECIAL, elementwise
from jaxdistill.kernels.rearranging import REARRANGING, split
from jaxdistill.kernels.reductions import COMBINING
from jaxdistill.kernels.values import Entry, Registers, Table, Untranslatable, Value, constants, registers
from jaxdistill.kernels.writer import Writer, literal

_CALLS = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip
"""Primitives that call a jaxpr, which is walked in their place, and the parameter that holds it."""

_IDENTITIES = ("optimization_barrier", "stop_gradient", "copy")

_ROWS: dict[str, Callable[..., Value]] = {"gather": read_rows, "scatter": write_rows}
"""What a table can be used for."""


def walk(writer: Writer, jaxpr: Any, consts: Iterable[Any], arguments: Iterable[Value]) -> list[Value]:
    """Writes the equations of a jaxpr; returns its results.

    Args:
      writer: collects the C.
      jaxpr: an open jaxpr.
      consts: its constants, arrays.
      arguments: its arguments.

    Raises:
      Untranslatable: something in it cannot be written as C.
    """
    environment: dict[Any, Value] = {}

    def read(atom: Any) -> Value:
        if isinstance(atom, jex_core.Literal):
            return constants(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
        return environment[atom]

    environment.update(zip(jaxpr.constvars, map(_as_value, consts), strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        results = _apply(writer, equation, [read(atom) for atom in equation.invars])
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _as_value(constant: Any) -> Value:
    return constant if isinstance(constant, Registers | Table) else constants(constant)


def _open(jaxpr: Any) -> Any:
    """A jaxpr, which may be closed, without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _walk_closed(writer: Writer, jaxpr: Any, arguments: Iterable[Value]) -> list[Value]:
    """Walks a closed jaxpr, or an open one without constants."""
    return walk(writer, _open(jaxpr), getattr(jaxpr, "consts", ()), arguments)


def _apply(writer: Writer, equation: Any, operands: list[Value]) -> list[Value]:
    """The results of an equation."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _walk_closed(writer, params[_CALLS[name]], operands)
    if name in _IDENTITIES:
        return operands
    if name in _CONTROL:
        return _CONTROL[name](writer, equation, operands)
    if operands and isinstance(operands[0], Table) and name in _ROWS:
        return [_ROWS[name](writer, params, operands[0], *(registers(other, name) for other in operands[1:]))]
    return _in_registers(writer, equation, [registers(operand, name) for operand in operands])


def _in_registers(writer: Writer, equation: Any, operands: list[Registers]) -> list[Value]:
    """The results of an equation all of whose operands are in registers."""
    name, params, result = equation.primitive.name, equation.params, equation.outvars[0].aval
    dtype, shape = str(result.dtype), result.shape
    if name == "split":
        return [*split(params, operands[0])]
    if name in REARRANGING:
        return [Registers(REARRANGING[name](params, shape, [x.entries for x in operands]), dtype)]
    if name in ELEMENTWISE:
        return [elementwise(writer, name, dtype, operands)]
    if name in SPECIAL:
        return [SPECIAL[name](writer, params, dtype, operands)]
    if name in COMBINING:
        function, operation = COMBINING[name]
        return [function(writer, operation, params, operands)]
    if name in SCATTERING:
        return [scatter(writer, SCATTERING[name], params, operands)]
    if name in INDEXING:
        return [INDEXING[name](writer, params, shape, operands)]
    raise Untranslatable(f"The primitive {name} has no translation into C.")


def _platform_index(writer: Writer, equation: Any, operands: list[Value]) -> list[Value]:
    """The branch of `lax.platform_dependent` that is not made for one platform: the last one."""
    return [constants(np.int32(len(equation.params["platforms"]) - 1))]


def _cond(writer: Writer, equation: Any, operands: list[Value]) -> list[Value]:
    """A `cond` or `switch`, whose branch must be known here."""
    index, *arguments = operands
    entry = registers(index, "cond").entries.item()
    if isinstance(entry, str):
        raise Untranslatable("A branch (cond or switch) depends on data; only a selection of both results does not.")
    branches = equation.params["branches"]
    return _walk_closed(writer, branches[int(np.clip(int(entry), 0, len(branches) - 1))], arguments)


def _while(writer: Writer, equation: Any, operands: list[Value]) -> list[Value]:
    """A `while`, which becomes a loop. What its body returns unchanged is no variable of the loop."""
    params = equation.params
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = operands[:num_cond], operands[num_cond : num_cond + num_body]
    initial, body = operands[num_cond + num_body :], _open(params["body_jaxpr"])
    is_fixed = [out is argument for out, argument in zip(body.outvars, body.invars[num_body:], strict=True)]
    carry = [value if fixed else _carried(writer, value) for value, fixed in zip(initial, is_fixed, strict=True)]
    constant = [*cond_consts, *body_consts, *(value for value, fixed in zip(carry, is_fixed, strict=True) if fixed)]
    changing = [value for value, fixed in zip(carry, is_fixed, strict=True) if not fixed]
    constant_tables = _tables_without(constant, changing)
    with writer.block("for (;;)"):
        (goes_on,) = _walk_closed(writer, params["cond_jaxpr"], cond_consts + carry)
        writer.statement(f"if (!({literal(registers(goes_on, 'while').entries.item())})) break;")
        results = _walk_closed(writer, params["body_jaxpr"], body_consts + carry)
        _hand_on(writer, changing, [result for result, fixed in zip(results, is_fixed, strict=True) if not fixed])
    for table in constant_tables:
        table.check_current()  # The next round would read what this one has written.
    return [value if fixed else _after(value) for value, fixed in zip(carry, is_fixed, strict=True)]


def _after(variable: Value) -> Value:
    """A variable of a loop after the loop."""
    return Table(variable.memory, variable.memory.version) if isinstance(variable, Table) else variable


def _tables_without(values: list[Value], others: list[Value]) -> list[Table]:
    """The tables among `values`, as they are now, whose memory is that of none of `others`."""
    names = [value.memory.name for value in others if isinstance(value, Table)]
    tables = [value for value in values if isinstance(value, Table) and value.memory.name not in names]
    return [Table(table.memory, table.memory.version) for table in tables]


def _carried(writer: Writer, value: Value) -> Value:
    """A variable of a loop at its start.

    A table that the loop writes gets a new version: in the second round nothing may read it as it was before the loop.
    """
    if isinstance(value, Table):
        value.check_current()
        return value.written()
    entries = np.empty(value.shape, object)
    for index in np.ndindex(value.shape):
        entries[index] = writer.variable(value.dtype, value.entries.item(index))
    return Registers(entries, value.dtype)


def _hand_on(writer: Writer, variables: list[Value], results: list[Value]) -> None:
    """Assigns the variables of a loop at the end of a round, all at once."""
    assignments: dict[str, Entry] = {}
    types: dict[str, str] = {}
    for old, new in zip(variables, results, strict=True):
        if isinstance(old, Table) or isinstance(new, Table):
            if not (isinstance(old, Table) and isinstance(new, Table) and old.memory is new.memory):
                raise Untranslatable("A loop exchanges one table for another; each must stay in its place.")
            new.check_current()
        else:
            assignments |= zip(old.entries.flat, new.entries.flat, strict=True)
            types |= dict.fromkeys(old.entries.flat, old.dtype)
    for name, entry in assignments.items():
        # A variable that another one takes over is copied first, because it may be assigned before that.
        if isinstance(entry, str) and entry in types and entry != name:
            assignments[name] = writer.load(types[entry], entry)
    for name, entry in assignments.items():
        if entry != name:
            writer.statement(f"{name} = {literal(entry)};")


def _scan(writer: Writer, equation: Any, operands: list[Value]) -> list[Value]:
    """A `scan`, which is unrolled."""
    params, body = equation.params, equation.params["jaxpr"]
    inner = _open(body)
    num_carry = _num_alike(inner.outvars, equation.outvars)
    num_rows = len(operands) - _num_alike(inner.invars, equation.invars)
    first_row = len(operands) - num_rows
    consts, carry = operands[: first_row - num_carry], operands[first_row - num_carry : first_row]
    rows = [registers(x, "scan") for x in operands[first_row:]]
    results: dict[int, list[Registers]] = {}
    order = range(params["length"])
    for k in reversed(order) if params["reverse"] else order:
        inputs = [Registers(np.asarray(x.entries[k], object), x.dtype) for x in rows]
        outputs = _walk_closed(writer, body, [*consts, *carry, *inputs])
        carry, results[k] = outputs[:num_carry], [registers(x, "scan") for x in outputs[num_carry:]]
    stacked = zip(*(results[k] for k in order), strict=True)
    return [*carry, *(Registers(np.stack([x.entries for x in parts]), parts[0].dtype) for parts in stacked)]


def _num_alike(inside: Iterable[Any], outside: Iterable[Any]) -> int:
    """How many variables have the same shape inside and outside of a `scan`; they come first."""
    return sum(x.aval.shape == y.aval.shape for x, y in zip(inside, outside, strict=True))


_CONTROL: dict[str, Callable[[Writer, Any, list[Value]], list[Value]]] = {
    "platform_index": _platform_index,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
