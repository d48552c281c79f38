"""CPU compiler options with which XLA compiles the engine's loop into one function without calls inside.

From JAX 0.12 on, XLA compiles loops in this way wherever it can (`packing.write` explains when). Earlier versions do so
only for very small loops, unless an option raises the limit on their size. At the highest level of optimisation XLA
then unrolls loops over the lanes and rounds lanes differently, so that a student's numbers would depend on its lane. So
the engine is compiled one level below.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill.runtime import surroundings

_LARGEST_LOOP = "xla_cpu_small_while_loop_byte_threshold=1000000000000"
_ALL_LANES_ALIKE = {"xla_backend_optimization_level": 2}


def compile_loops_whole() -> None:
    """Adds the option for whole loops to XLA_FLAGS where it is needed.

    XLA reads XLA_FLAGS once, when JAX first looks for its devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__ < (0, 12) and "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={_LARGEST_LOOP}".strip()


@functools.cache
def loops_are_whole() -> bool:
    """Whether XLA compiles a loop into one function here; numbers round differently where it does not.

    Warns once if it does not on a CPU, where it could.
    """
    loop = jax.jit(lambda n: lax.fori_loop(0, n, lambda _, x: jnp.sin(x) + 1, jnp.zeros(2**12)))
    is_whole = " call(" in str(loop.lower(np.int32(1)).compile().as_text())
    if not is_whole and jax.default_backend() == "cpu":
        warnings.warn(
            "training will be slow, because JAX was initialised before jaxdistill was imported, or because XLA_FLAGS "
            "sets xla_backend_extra_options. Import jaxdistill first, or use JAX 0.12 or newer.",
            stacklevel=2,
        )
    return is_whole


def rounding() -> dict[str, Any]:
    """All that decides, besides the versions of packages, how the numbers of a training are rounded in this process.

    Returns:
      What `surroundings` returns, and
      whole_loops: whether XLA compiles a loop into one function.
      xla_flags: the options of XLA.
    """
    return surroundings.surroundings() | {"whole_loops": loops_are_whole(), "xla_flags": surroundings.xla_flags()}


class Compiled:
    """A compiled function that rounds all lanes alike, with a static first argument.

    Args:
      fn: the function.
      donate: index of an argument whose memory the result may reuse, or None.
    """

    def __init__(self, fn: Callable[..., Any], donate: int | None = None) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self._donate = fn, donate

    @functools.cached_property
    def _program(self) -> Any:
        # The program is made at the first call, because `jax.default_backend` starts the backend.
        options = _ALL_LANES_ALIKE if jax.default_backend() == "cpu" else None
        loops_are_whole()
        donated = () if self._donate is None else (self._donate,)
        return jax.jit(self.fn, static_argnums=0, donate_argnums=donated, compiler_options=options)

    def __call__(self, *args: Any) -> Any:
        return self._program(*args)

    def lower(self, *args: Any) -> Any:
        """The lowered program for these arguments, as `lower` of a `jax.jit` function returns it."""
        return self._program.lower(*args)


def compiled(donate: int | None = None) -> Callable[[Callable[..., Any]], Compiled]:
    """A decorator that makes a function `Compiled`."""
    return functools.partial(Compiled, donate=donate)
