"""What XLA is asked for on CPU, where the engine's loop is to become one function in which no operation costs a call.

From JAX 0.12 on XLA does so by itself wherever it can (`tables.write` says when); before, only for tiny loops, unless
an option raises the limit. At its highest level of optimisation it then unrolls loops over the lanes and rounds one
lane unlike another, so that a student's numbers would depend on where it sits: the engine is compiled one level below.
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

_LARGEST_LOOP = "xla_cpu_small_while_loop_byte_threshold=1000000000000"
_ALL_LANES_ALIKE = {"xla_backend_optimization_level": 2}


def compile_loops_whole() -> None:
    """Adds the option to XLA_FLAGS where it is needed; XLA reads them once, when JAX first looks for its devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__ < (0, 12) and "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={_LARGEST_LOOP}".strip()


@functools.cache
def loops_are_whole() -> bool:
    """Whether XLA does so here; a warning once if it could. Numbers round differently where it does not."""
    loop = jax.jit(lambda n: lax.fori_loop(0, n, lambda _, x: jnp.sin(x) + 1, jnp.zeros(2**12)))
    whole = " call(" in str(loop.lower(np.int32(1)).compile().as_text())
    if not whole and jax.default_backend() == "cpu":
        warnings.warn(
            "training is slower than it need be: JAX had been in use before jaxdistill was imported, or XLA_FLAGS has "
            "xla_backend_extra_options of its own. Import jaxdistill first, or use JAX 0.12 or newer.",
            stacklevel=2,
        )
    return whole


class Compiled:
    """A function of a static first argument, compiled so that all lanes round alike; it may eat argument `donate`."""

    def __init__(self, fn: Callable[..., Any], donate: int | None = None):
        functools.update_wrapper(self, fn)
        self.fn, self._donate = fn, donate

    @functools.cached_property
    def _program(self) -> Any:
        # Not at import: asking for the backend would start it.
        options = _ALL_LANES_ALIKE if jax.default_backend() == "cpu" else None
        loops_are_whole()
        donated = () if self._donate is None else (self._donate,)
        return jax.jit(self.fn, static_argnums=0, donate_argnums=donated, compiler_options=options)

    def __call__(self, *args: Any) -> Any:
        return self._program(*args)

    def lower(self, *args: Any) -> Any:
        """As `jax.jit`'s."""
        return self._program.lower(*args)

    def num_compiled(self) -> int:
        """How many programs have been compiled so far."""
        return self._program._cache_size()


def compiled(donate: int | None = None) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: `Compiled`."""
    return functools.partial(Compiled, donate=donate)
