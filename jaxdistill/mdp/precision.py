"""Double precision for exact computations, in a process that otherwise computes in float32."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from jaxdistill.runtime.surroundings import default_promotion

_WITH_FLOAT64 = ("cpu", "gpu")  # A TPU computes float64 by pairs of float32, with fewer digits and a smaller range.


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Double precision within the block and in this thread; the rest of the process does not change.

    Computations stay on the device of the process if it has float64, as a GPU has, and go to the CPU otherwise.
    """
    with _enable_x64(), _device():
        yield


def placed(tree: Any) -> Any:
    """The arrays of a pytree; as NumPy arrays if `float64` computes on another device than the one that holds them."""
    return tree if jax.default_backend() in _WITH_FLOAT64 else jax.device_get(tree)


def as_float64(tree: Any) -> Any:
    """The pytree with its floating-point leaves in float64, or in float32 where 64 bits are off."""

    def convert(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(_largest_float()) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def in_float64(fn: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """Makes fn(static, arrays) compute in float64 inside any trace; it then returns the floats of the trace.

    Where 64 bits are off, only the result is rounded to float32. If a trace saw the operations of `fn`, JAX would
    transform them after 64 bits have been switched off again, in float32. Therefore a trace sees a single function,
    which can be mapped over a batch and has no derivatives.
    """

    @functools.wraps(fn)
    def wrapper(static: Hashable, arrays: Any) -> jax.Array:
        return _hidden(_compiled(fn, static))(jax.tree.map(jnp.asarray, arrays))

    return wrapper


@functools.lru_cache(maxsize=256)
def _compiled(fn: Callable[[Any, Any], jax.Array], static: Hashable) -> Callable[[Any], jax.Array]:
    return jax.jit(lambda arrays: fn(static, as_float64(arrays)))


@functools.lru_cache(maxsize=256)
def _hidden(compute: Callable[[Any], jax.Array]) -> Callable[[Any], jax.Array]:
    """The function `compute` with 64 bits, as a single function whose operations a trace does not see."""

    @custom_vmap
    def call(arrays: Any) -> jax.Array:
        with _enable_x64(), default_promotion():  # a batch is traced after `wrapper` has returned
            result = compute(arrays)
        is_floating = jnp.issubdtype(result.dtype, jnp.floating)
        return result.astype(_largest_float()) if is_floating else result

    @call.def_vmap
    def call_batch(axis_size: int, is_batched: list[Any], arrays: Any) -> tuple[jax.Array, bool]:
        del axis_size
        flags, structure = jax.tree.flatten(is_batched[0])
        return _hidden(_mapped(compute, structure, tuple(flags)))(arrays), True

    return call


@functools.lru_cache(maxsize=256)
def _mapped(compute: Callable[[Any], jax.Array], structure: Any, flags: tuple[bool, ...]) -> Callable[[Any], jax.Array]:
    """`compute` mapped over the leaves whose flag is set.

    On CPU, where launching is cheap, the members of the batch are computed one after another, so that the loops of each
    stop by themselves.
    """

    def mapped(arrays: Any) -> jax.Array:
        leaves = jax.tree.leaves(arrays)
        if jax.default_backend() != "cpu":
            return jax.vmap(compute, in_axes=(structure.unflatten([0 if flag else None for flag in flags]),))(arrays)

        def member(batched: list[jax.Array]) -> jax.Array:
            remaining = iter(batched)
            return compute(
                structure.unflatten(
                    [next(remaining) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
                )
            )

        return jax.lax.map(member, [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag])

    return jax.jit(mapped)


def _largest_float() -> Any:
    return jax.dtypes.canonicalize_dtype(np.float64)


def _enable_x64() -> contextlib.AbstractContextManager[None]:
    module: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # `jax.experimental` before JAX 0.8
    return module.enable_x64(True)


def _device() -> contextlib.AbstractContextManager[Any]:
    """The CPU as default device, unless the device of the process has float64."""
    if jax.default_backend() in _WITH_FLOAT64:
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU.
        return contextlib.nullcontext()
