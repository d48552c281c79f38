"""What users pass in, checked: a ValueError in one line says what was wrong, what was expected and what was given."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.runtime.files import one_line

_LONGEST = 80
_LARGEST = float(np.finfo(np.float32).max)
MOST = 2**31 - 1  # entries of one array, and the largest int32


def shown(value: Any) -> str:
    """`value` in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def is_whole(value: Any, least: int, most: int = MOST) -> bool:
    """Whether `value` is an integer in [least, most]; a bool is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(least <= value <= most)


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """`value` as an int; ValueError unless it is a whole number in [least, most]."""
    if not is_whole(value, least, most):
        wanted = f"in [{least}, {most}]" if is_whole(value, least, value) else f"of at least {least}"
        raise ValueError(f"{name} must be a whole number {wanted}; got {shown(value)}.")
    return int(value)


def reals(name: str, value: Any) -> np.ndarray:
    """`value` as an array, not copied; ValueError unless it holds real numbers, NaN and infinity included."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        array = np.asarray(None)
    if array.dtype.kind not in "iufb" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must hold real numbers, in rows of equal length; got {shown(value)}.")
    return array


def numbers(name: str, value: Any) -> np.ndarray:
    """`value` as float64; ValueError unless it holds real numbers that float32 can hold, NaN and infinity included."""
    array = reals(name, value).astype(np.float64)
    if (np.isfinite(array) & (np.abs(array) > _LARGEST)).any():
        raise ValueError(f"{name} must hold numbers of at most {_LARGEST:.1e}, which float32 can hold; got more.")
    return array


def number(name: str, value: Any, least: float = -np.inf, most: float = np.inf) -> float:
    """`value` as a float; ValueError unless it is one finite number in [least, most]."""
    array = numbers(name, value)
    if array.shape != () or not np.isfinite(array) or not least <= array <= most:
        wanted = "a finite number"
        if np.isfinite(least):
            wanted = f"in [{least:g}, {most:g}]" if np.isfinite(most) else f"finite and >= {least:g}"
        raise ValueError(f"{name} must be {wanted}; got {shown(value)}.")
    return float(array)


def seed(value: Any) -> int:
    """`value` as an int; ValueError unless it fits into the 32 bits of which JAX makes keys; the rest it would cut."""
    return whole("--seed", value, 0, 2**32 - 1)


def one_of(name: str, value: Any, valid: Iterable[str]) -> str:
    """`value`; ValueError unless it is one of the words in `valid`."""
    valid = list(valid)
    if not isinstance(value, str) or value not in valid:
        raise ValueError(f"{name} must be {', '.join(map(repr, valid[:-1]))} or {valid[-1]!r}; got {shown(value)}.")
    return value


def as_key(key: Any) -> jax.Array:
    """A typed key from a typed key or the raw words of an old one; ValueError for anything else."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
        return key
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    raise ValueError(f"key must be a random key such as jax.random.key(0); got {type(key).__name__}.")


def listed(value: Any) -> list[Any]:
    """The items of `value`; `[value]` where it is a string or has none."""
    try:
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    except TypeError:  # an array without axes
        return [value]


def why(error: Exception) -> str:
    """Why a user's function failed where it was compiled, without what only JAX's authors know."""
    text = one_line(error)
    if "not a valid JAX type" in text:
        return "it must return a number"
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) or "Traced<" in text or "Tracer(" in text:
        return "it must be written in JAX, with jnp in place of np and of float(), and jnp.where in place of if"
    return text


def positions(index: Any, size: int, what: str) -> np.ndarray:
    """The positions in a stack of `size` that an int, a slice, an int or a bool array means; int32 [] or [N].

    IndexError outside the stack, where JAX would silently clamp, and for anything else; `what` names the stack.
    """
    try:
        chosen = np.arange(size)[index] if isinstance(index, slice) else np.asarray(index)
    except (TypeError, ValueError):
        chosen = np.asarray(None)
    if chosen.dtype == bool and chosen.shape == (size,):
        chosen = np.flatnonzero(chosen)
    if chosen.ndim > 1 or chosen.dtype.kind not in "iu":
        raise IndexError(f"index {size} {what} by an int, a slice, a 1-D int array or a bool array [{size}]")
    if chosen.size and not -size <= chosen.min() <= chosen.max() < size:
        raise IndexError(f"index out of range for a stack of {size} {what}")
    return (chosen % max(size, 1)).astype(np.int32)
