"""Checks of arguments: each raises a ValueError of one line that says what was expected and what was given."""

import difflib
import sys
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.runtime.files import one_line

_LONGEST = 80
_LARGEST = float(np.finfo(np.float32).max)
MOST = 2**31 - 1  # entries of one array, and the largest int32


class HostError(ValueError):
    """A function that runs on the host was called inside a transformation of JAX."""

    def __init__(self, function: str):
        super().__init__(
            f"{function} runs on the host, and cannot be called inside jit, vmap, grad or scan; call it outside, with "
            "stacked worlds in place of vmap."
        )
        self.function = function

    def __reduce__(self) -> Any:
        return HostError, (self.function,)


def on_host(value: Any = None) -> None:
    """Raises ValueError inside jit, scan and eval_shape, and inside any transformation of JAX that computes `value`.

    Numbers are not known yet inside them, and a function that runs on the host needs the numbers.
    """
    concrete((value, jnp.zeros(())))  # a new array is unknown inside jit, even if `value` is known


def concrete(value: Any) -> None:
    """Raises ValueError if `value` holds a number that is not known yet, inside a transformation of JAX such as jit."""
    if is_traced(value):
        raise HostError(_public_function())


def is_traced(tree: Any) -> bool:
    """Whether some leaf of a pytree stands for unknown numbers, inside a transformation of JAX."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _public_function() -> str:
    """The name of the function or class of jaxdistill that was called from outside."""
    frame, name = sys._getframe(1), ""
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "jaxdistill":
        is_constructor = frame.f_code.co_name in ("__init__", "__post_init__") and "self" in frame.f_locals
        name = type(frame.f_locals["self"]).__name__ if is_constructor else frame.f_code.co_qualname
        frame = frame.f_back  # type: ignore[assignment]
    return "this function" if "<" in name or name.startswith("_") else name


def shown(value: Any) -> str:
    """`value` in one line of at most 80 characters, for an error; raises ValueError as `concrete` does."""
    concrete(value)
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def shown_among(value: Any, valid: Iterable[str]) -> str:
    """`value` in one line, followed by the most similar name in `valid` if it is similar enough to be a misspelling."""
    names = {name.lower(): name for name in valid}
    word = value.lower().replace("-", "_").replace(" ", "_") if isinstance(value, str) else ""
    near = difflib.get_close_matches(word, names, 1) if 0 < len(word) <= _LONGEST else []
    return f"{shown(value)} (did you mean {names[near[0]]!r}?)" if near else shown(value)


def known(kind: str, value: Any, valid: Collection[str], introduction: str = "choose from") -> str:
    """Returns `value`; raises ValueError unless it is one of the names in `valid`.

    Args:
      kind: the kind of thing that is named, such as "method".
      value: the argument.
      valid: the names, which the message lists after `introduction`.
      introduction: words before the list of the names.
    """
    if not isinstance(value, str) or value not in valid:
        raise ValueError(f"Unknown {kind} {shown_among(value, valid)}; {introduction} {', '.join(valid)}.")
    return value


def is_whole(value: Any, least: int, most: int = MOST) -> bool:
    """True if `value` is an integer in [least, most]; a bool does not count as one."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(least <= value <= most)


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Returns `value` as an int; raises ValueError unless it is a whole number in [least, most]."""
    if not is_whole(value, least, most):
        allowed = f"in [{least}, {most}]" if is_whole(value, least, value) else f"of at least {least}"
        raise ValueError(f"{name} must be a whole number {allowed}; got {shown(value)}.")
    return int(value)


def reals(name: str, value: Any) -> np.ndarray:
    """Returns `value` as an array, not copied; raises ValueError unless it holds real numbers.

    NaN and infinity are allowed.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        array = np.asarray(None)
    if array.dtype.kind not in "iufb" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must hold real numbers, in rows of equal length; got {shown(value)}.")
    return array


def numbers(name: str, value: Any) -> np.ndarray:
    """Returns `value` as a float64 array; raises ValueError unless it holds real numbers within float32's range.

    NaN and infinity are allowed.
    """
    array = reals(name, value).astype(np.float64)
    if (np.isfinite(array) & (np.abs(array) > _LARGEST)).any():
        raise ValueError(f"{name} must hold numbers of at most {_LARGEST:.1e}, which float32 can hold; got more.")
    return array


def number(name: str, value: Any, least: float = -np.inf, most: float = np.inf) -> float:
    """Returns `value` as a float; raises ValueError unless it is one finite number in [least, most]."""
    array = numbers(name, value)
    if array.shape != ():
        raise ValueError(f"{name} must be one number; got {shown(value)}.")
    if not np.isfinite(array) or not least <= array <= most:
        allowed = "a finite number"
        if np.isfinite(least):
            allowed = f"in [{least:g}, {most:g}]" if np.isfinite(most) else f"finite and >= {least:g}"
        raise ValueError(f"{name} must be {allowed}; got {shown(value)}.")
    return float(array)


def per_world(name: str, value: Any, num_mdps: int) -> np.ndarray:
    """One number for each MDP, float32 [M]; raises ValueError unless `value` is one number or M numbers."""
    array = np.asarray(value, np.float32)
    if array.shape not in ((), (num_mdps,)):
        raise ValueError(f"{name} must be one number or one for each of the {num_mdps} MDPs; got shape {array.shape}.")
    return np.array(np.broadcast_to(array, num_mdps))


def seed(value: Any) -> int:
    """Returns `value` as an int; raises ValueError unless it fits into 32 bits, since JAX ignores the bits above."""
    return whole("--seed", value, 0, 2**32 - 1)


def one_of(name: str, value: Any, valid: Iterable[str]) -> str:
    """Returns `value`; raises ValueError unless it is one of the words in `valid`."""
    valid = list(valid)
    if not isinstance(value, str) or value not in valid:
        expected = " or ".join(filter(None, [", ".join(map(repr, valid[:-1])), repr(valid[-1])]))
        raise ValueError(f"{name} must be {expected}; got {shown_among(value, valid)}.")
    return value


def listed(value: Any) -> list[Any]:
    """Returns the items of `value` as a list; `[value]` if it is a string or not iterable."""
    try:
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    except TypeError:  # an array without axes
        return [value]


def why(error: Exception) -> str:
    """Says why a user's function failed to compile, in terms of that function and not of JAX's internals."""
    text = one_line(error)
    if isinstance(error, HostError):
        return f"it calls {error.function}, which runs on the host; it must be written in JAX alone"
    if "not a valid JAX type" in text:
        return "it must return a number"
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) or "Traced<" in text or "Tracer(" in text:
        return "it must be written in JAX, with jnp in place of np and of float(), and jnp.where in place of if"
    return text


def positions(index: Any, size: int, what: str) -> np.ndarray:
    """Returns the positions in a stack of `size` that an index selects, int32 [] or [N].

    Args:
      index: an int, a slice, an int array or a bool array [size].
      size: number of entries of the stack.
      what: the name of the entries, for the messages.

    Raises:
      IndexError: a position is outside the stack, which JAX would silently clamp, or `index` is of another kind.
    """
    try:
        selected = np.arange(size)[index] if isinstance(index, slice) else np.asarray(index)
    except (TypeError, ValueError):
        selected = np.asarray(None)
    if selected.dtype == bool and selected.shape == (size,):
        selected = np.flatnonzero(selected)
    if selected.ndim > 1 or selected.dtype.kind not in "iu":
        raise IndexError(f"index {size} {what} by an int, a slice, a 1-D int array or a bool array [{size}]")
    if selected.size and not -size <= selected.min() <= selected.max() < size:
        raise IndexError(f"index out of range for a stack of {size} {what}")
    return (selected % max(size, 1)).astype(np.int32)
