"""Functions of small arrays, translated into C and called through ctypes."""

import ctypes

import jax
import numpy as np

from jaxdistill.kernels.native import compile_code, load_library
from jaxdistill.kernels.source import C_PRELUDE
from jaxdistill.kernels.values import C_TYPES, Registers
from jaxdistill.kernels.walk import walk
from jaxdistill.kernels.writer import Writer, literal


def written(name, function, *examples) -> str:
    """A C function of pointers to the arguments and then to the results, all of them in registers."""
    closed = jax.make_jaxpr(function)(*examples)
    writer, arguments = Writer(), []
    for k, variable in enumerate(closed.jaxpr.invars):
        dtype, entries = str(variable.aval.dtype), np.empty(variable.aval.shape, object)
        for n, index in enumerate(np.ndindex(entries.shape)):
            entries[index] = writer.load(dtype, f"in{k}[{n}]")
        arguments.append(Registers(entries, dtype))
    results = walk(writer, closed.jaxpr, closed.consts, arguments)
    for k, result in enumerate(results):
        for n, entry in enumerate(result.entries.flat):
            writer.statement(f"out{k}[{n}] = {literal(entry)};")
    parameters = [f"const {C_TYPES[x.dtype]}* in{k}" for k, x in enumerate(arguments)]
    parameters += [f"{C_TYPES[x.dtype]}* out{k}" for k, x in enumerate(results)]
    body = "\n".join(writer.lines)
    return f"void {name}({', '.join(parameters)}) {{\n{body}\n}}\n"


def compiled(functions):
    """{name: function of arrays} from {name: (function, examples of its arguments)}; all in one library."""
    text = "\n".join(written(f"f_{name}", fn, *examples) for name, (fn, examples) in functions.items())
    library = load_library(compile_code(f"{C_PRELUDE}\n{text}"))
    return {name: caller(library, f"f_{name}", fn) for name, (fn, _) in functions.items()}


def caller(library, name, function):
    def call(*arguments):
        arrays = [np.ascontiguousarray(x) for x in arguments]
        shapes, structure = jax.tree.flatten(jax.eval_shape(function, *arguments))
        results = [np.zeros(x.shape, x.dtype) for x in shapes]
        library[name](*(ctypes.c_void_p(x.ctypes.data) for x in (*arrays, *results)))
        return jax.tree.unflatten(structure, results)

    return call
