"""The primitives that work on entries, one at a time: a table from each to its C expression.

An expression is chosen by the first operand's dtype: "f" for float32, "i" for int32, "u" for uint32, "b" for bool.
Where C leaves a result open (overflow of int, conversion of a large float, NaN in a maximum), the functions of `source`
define it as XLA does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdistill.kernels.values import C_TYPES, Entry, Registers, Untranslatable, constants, dtype_name
from jaxdistill.kernels.writer import Writer, literal

# With 64-bit types enabled, JAX makes constants of them, which are converted or compared before they meet a variable.
_KINDS = {"float32": "f", "int32": "i", "uint32": "u", "bool": "b", "float64": "f", "int64": "i"}


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """An operation on entries.

    Attributes:
      expressions: by the kind of the first operand, a template with a place for each operand.
      fold: the NumPy function that computes exactly the same from constants, or None.
    """

    expressions: Mapping[str, str]
    fold: Callable[..., Any] | None = None


def _alike(kinds: str, template: str, fold: Callable[..., Any] | None = None) -> Elementwise:
    return Elementwise(dict.fromkeys(kinds, template), fold)


def _float_function(name: str) -> Elementwise:
    return _alike("f", f"{name}({{0}})")


def _arithmetic(sign: str, int_function: str, fold: Callable[..., Any]) -> Elementwise:
    return Elementwise(
        {"f": f"{{0}} {sign} {{1}}", "u": f"{{0}} {sign} {{1}}", "i": f"{int_function}({{0}}, {{1}})"}, fold
    )


_ADD = _arithmetic("+", "add_int", np.add)

ELEMENTWISE: dict[str, Elementwise] = {
    "add": _ADD,
    "add_any": _ADD,
    "sub": _arithmetic("-", "sub_int", np.subtract),
    "mul": _arithmetic("*", "mul_int", np.multiply),
    "div": Elementwise({"f": "{0} / {1}", "i": "div_int({0}, {1})", "u": "div_uint({0}, {1})"}),
    "rem": Elementwise({"f": "fmodf({0}, {1})", "i": "rem_int({0}, {1})", "u": "rem_uint({0}, {1})"}),
    "neg": Elementwise({"f": "-{0}", "i": "sub_int(0, {0})", "u": "0u - {0}"}, np.negative),
    "abs": Elementwise({"f": "fabsf({0})", "i": "abs_int({0})"}),
    "sign": Elementwise({"f": "sign_float({0})", "i": "({0} > 0) - ({0} < 0)", "u": "{0} > 0u"}),
    "max": Elementwise(
        {"f": "max_float({0}, {1})", "i": "{0} > {1} ? {0} : {1}", "u": "{0} > {1} ? {0} : {1}", "b": "{0} | {1}"},
        np.maximum,
    ),
    "min": Elementwise(
        {"f": "min_float({0}, {1})", "i": "{0} < {1} ? {0} : {1}", "u": "{0} < {1} ? {0} : {1}", "b": "{0} & {1}"},
        np.minimum,
    ),
    "clamp": Elementwise(
        {"f": "min_float(max_float({1}, {0}), {2})", "i": "clamp_int({0}, {1}, {2})", "u": "clamp_uint({0}, {1}, {2})"}
    ),
    "and": _alike("iub", "{0} & {1}", np.bitwise_and),
    "or": _alike("iub", "{0} | {1}", np.bitwise_or),
    "xor": _alike("iub", "{0} ^ {1}", np.bitwise_xor),
    "not": Elementwise({"i": "~{0}", "u": "~{0}", "b": "!{0}"}, np.bitwise_not),
    "shift_left": Elementwise({"u": "shift_left({0}, {1})", "i": "(int)shift_left((unsigned){0}, (unsigned){1})"}),
    "shift_right_logical": Elementwise(
        {"u": "shift_right({0}, {1})", "i": "(int)shift_right((unsigned){0}, (unsigned){1})"}
    ),
    "lt": _alike("fiub", "{0} < {1}", np.less),
    "le": _alike("fiub", "{0} <= {1}", np.less_equal),
    "gt": _alike("fiub", "{0} > {1}", np.greater),
    "ge": _alike("fiub", "{0} >= {1}", np.greater_equal),
    "eq": _alike("fiub", "{0} == {1}", np.equal),
    "ne": _alike("fiub", "{0} != {1}", np.not_equal),
    "is_finite": _alike("f", "is_finite({0})", np.isfinite),
    "square": Elementwise({"f": "{0} * {0}", "i": "mul_int({0}, {0})", "u": "{0} * {0}"}),
    "logistic": _alike("f", "1.0f / (1.0f + expf(-{0}))"),
    "rsqrt": _alike("f", "1.0f / sqrtf({0})"),
    "atan2": _alike("f", "atan2f({0}, {1})"),
    "nextafter": _alike("f", "nextafterf({0}, {1})"),
    "pow": _alike("f", "powf({0}, (float){1})"),
} | {
    name: _float_function(f"{name}f")
    for name in (
        "exp", "exp2", "expm1", "log", "log1p", "sqrt", "cbrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
        "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "floor", "ceil",
    )
}  # fmt: skip


def elementwise(writer: Writer, name: str, dtype: str, operands: list[Registers]) -> Registers:
    """Applies an operation of `ELEMENTWISE` to entries in the same place; the result has the dtype `dtype`."""
    kind = _KINDS.get(operands[0].dtype)
    if kind is None or kind not in ELEMENTWISE[name].expressions:
        raise Untranslatable(f"The primitive {name} of type {operands[0].dtype} has no translation.")
    return mapped(lambda *entries: entry_of(writer, name, dtype, kind, entries), dtype, operands)


def combine(writer: Writer, name: str, dtype: str) -> Callable[[Entry, Entry], Entry]:
    """The operation `name` on two entries of `dtype`, with a result of `dtype`."""
    kind = _KINDS.get(dtype)
    if kind is None or kind not in ELEMENTWISE[name].expressions:
        raise Untranslatable(f"The primitive {name} of type {dtype} has no translation.")
    return lambda x, y: entry_of(writer, name, dtype, kind, (x, y))


def mapped(function: Callable[..., Entry], dtype: str, operands: list[Registers]) -> Registers:
    """The function of the entries in the same place; arrays [] count as arrays of the others' shape."""
    arrays = np.broadcast_arrays(*(operand.entries for operand in operands))
    entries = np.empty(arrays[0].shape, object)
    for index in np.ndindex(entries.shape):
        entries[index] = function(*(array[index] for array in arrays))
    return Registers(entries, dtype)


def entry_of(writer: Writer, name: str, dtype: str, kind: str, entries: tuple[Entry, ...]) -> Entry:
    """The result of the operation `name` for one entry of each operand."""
    operation = ELEMENTWISE[name]
    if operation.fold and not any(isinstance(entry, str) for entry in entries):
        with np.errstate(all="ignore"):
            return np.dtype(dtype).type(operation.fold(*entries))
    if name in ("and", "or") and kind == "b":
        for entry, other in (entries, entries[::-1]):
            if not isinstance(entry, str):
                return other if bool(entry) == (name == "and") else entry
    if name == "add" and kind in "iu":
        for entry, other in (entries, entries[::-1]):
            if not isinstance(entry, str) and entry == 0:
                return other
    return writer.value(dtype, operation.expressions[kind].format(*map(literal, entries)))


def selected(writer: Writer, dtype: str, condition: Entry, new: Entry, old: Entry) -> Entry:
    """`new` where the condition holds, else `old`."""
    if not isinstance(condition, str):
        return new if condition else old
    if literal(new) == literal(old):
        return new
    if dtype == "bool" and not isinstance(new, str) and not isinstance(old, str):
        return condition if new else writer.value("bool", f"!{condition}")
    return writer.value(dtype, f"{condition} ? {literal(new)} : {literal(old)}")


def select_n(writer: Writer, params: Mapping[str, Any], dtype: str, operands: list[Registers]) -> Registers:
    """The primitive `select_n`: the case whose index the first operand gives."""
    which, *cases = operands

    def select(index: Entry, *entries: Entry) -> Entry:
        if which.dtype == "bool":
            return selected(writer, dtype, index, entries[1], entries[0])
        result = entries[0]
        for k, entry in enumerate(entries[1:], 1):
            is_case = entry_of(writer, "ge", "bool", "i", (index, np.int32(k)))
            result = selected(writer, dtype, is_case, entry, result)
        return result

    return mapped(select, dtype, [which, *cases])


_CONVERSIONS = {
    "ff": "{0}", "fi": "to_int({0})", "fu": "to_uint({0})", "fb": "{0} != 0.0f", "if": "(float){0}", "uf": "(float){0}",
    "bf": "(float){0}", "iu": "(unsigned){0}", "ui": "(int){0}", "bi": "(int){0}", "bu": "(unsigned){0}",
    "ib": "{0} != 0", "ub": "{0} != 0u",
}  # fmt: skip


def convert(writer: Writer, params: Mapping[str, Any], dtype: str, operands: list[Registers]) -> Registers:
    """The primitive `convert_element_type`."""
    (operand,) = operands
    from_kind, to_kind = _KINDS.get(operand.dtype, ""), _KINDS.get(dtype, "")

    def converted(entry: Entry) -> Entry:
        if operand.dtype == dtype:
            return entry
        if not isinstance(entry, str) and from_kind + to_kind not in ("fi", "fu"):
            return constants(np.asarray(entry).astype(dtype)).entries.item()
        return writer.value(dtype_name(dtype), _CONVERSIONS[from_kind + to_kind].format(literal(entry)))

    return mapped(converted, dtype, operands)


_BITS = {"fi": "bits_of({0})", "fu": "(unsigned)bits_of({0})", "if": "float_of({0})", "uf": "float_of((int){0})"}


def bitcast(writer: Writer, params: Mapping[str, Any], dtype: str, operands: list[Registers]) -> Registers:
    """The primitive `bitcast_convert_type`."""
    (operand,) = operands
    if operand.dtype == dtype:
        return operand
    template = _BITS.get(_KINDS[operand.dtype] + _KINDS[dtype], f"({C_TYPES[dtype_name(dtype)]}){{0}}")
    return mapped(lambda entry: writer.value(dtype, template.format(literal(entry))), dtype, operands)


def integer_pow(writer: Writer, params: Mapping[str, Any], dtype: str, operands: list[Registers]) -> Registers:
    """The primitive `integer_pow`, by repeated squaring."""
    exponent, unit = params["y"], np.dtype(dtype).type(1)
    multiply, divide = combine(writer, "mul", dtype), combine(writer, "div", dtype)

    def power(entry: Entry) -> Entry:
        result, factor, left = None, entry, abs(exponent)
        while left:
            if left & 1:
                result = factor if result is None else multiply(result, factor)
            left >>= 1
            factor = multiply(factor, factor) if left else factor
        result = unit if result is None else result
        return result if exponent >= 0 else divide(unit, result)

    return mapped(power, dtype, operands)


def round_entries(writer: Writer, params: Mapping[str, Any], dtype: str, operands: list[Registers]) -> Registers:
    """The primitive `round`, in which halves go to the even neighbour or away from 0."""
    function = "rintf" if int(params["rounding_method"]) else "roundf"
    return mapped(lambda entry: writer.value(dtype, f"{function}({literal(entry)})"), dtype, operands)


SPECIAL: dict[str, Callable[[Writer, Mapping[str, Any], str, list[Registers]], Registers]] = {
    "select_n": select_n,
    "convert_element_type": convert,
    "bitcast_convert_type": bitcast,
    "integer_pow": integer_pow,
    "round": round_entries,
}
"""Primitives with parameters, each a function of (writer, parameters, dtype of the result, operands)."""
