"""Converts random keys of every kind to Threefry keys, and draws numbers that depend on the key alone.

JAX takes from its settings which generator `jax.random.key` uses (JAX_DEFAULT_PRNG_IMPL), how draws are laid out
(jax_threefry_partitionable) and what is added to every seed (jax_random_seed_offset). None of these settings changes a
number in this package, because every key comes from `as_key` or `from_seed`, and every draw is made by a function of
this module.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

from jaxdistill.runtime import checks

P = ParamSpec("P")
T = TypeVar("T")
_CIPHER = "threefry2x32"
_NUM_WORDS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}  # of a key, by the name of its generator
_EXPECTED = "key must be one random key, such as jax.random.key(0)"


def as_key(key: Any) -> jax.Array:
    """The typed Threefry key that stands for a random key of any kind.

    A Threefry key is returned as it is. A key of the generators "rbg" and "unsafe_rbg" has four words. In a key that
    was made from a seed, the last two words repeat the first two, and with "rbg" also in every key that was split or
    folded from it. Such a key becomes the Threefry key of its first two words, so a program gives the same numbers
    whichever generator is JAX's default. For any other key of four words, the first two are used as a Threefry key that
    encrypts the last two; the result is the key.

    Args:
      key: a typed key [], or the words of an old-style key, such as `jax.random.PRNGKey(0)`, uint32 [2] or [4].

    Raises:
      ValueError: `key` is anything else, such as several keys, a traced key, or a key of another generator.
    """
    checks.on_host(key)
    is_typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_typed and not (isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim > 0):
        raise ValueError(f"{_EXPECTED}; got {type(key).__name__}.")
    if is_typed and str(jax.random.key_impl(key)) not in _NUM_WORDS:
        raise ValueError(f'{_EXPECTED}; got one of another generator: use jax.random.key(0, impl="{_CIPHER}").')
    shape = key.shape if is_typed else key.shape[:-1]
    if shape:
        raise ValueError(f"{_EXPECTED}; got keys of shape {list(shape)}: pass one of them, such as keys[0].")
    if is_typed and str(jax.random.key_impl(key)) == _CIPHER:
        return key
    given = np.asarray(jax.random.key_data(key) if is_typed else key)
    if len(given) not in _NUM_WORDS.values():
        raise ValueError(f"{_EXPECTED}, or the 2 or 4 words of one; got {len(given)} words.")
    return _from_words(given)


def from_seed(seed: int) -> jax.Array:
    """The key `jax.random.key(seed)` under JAX's default settings; raises ValueError for a seed outside [0, 2^32)."""
    return _from_words(np.array([0, checks.seed(seed)], np.uint32))


def words(key: jax.Array) -> list[int]:
    """The two words of a Threefry key, each in [0, 2^32)."""
    return [int(word) for word in np.asarray(jax.random.key_data(key))]


def _from_words(given: np.ndarray) -> jax.Array:
    """The Threefry key of two words, or of the four words of a key of another generator."""
    first, last = jnp.asarray(given[:2]), jnp.asarray(given[-2:])
    if (given[:2] != given[-2:]).any():
        first = jax.extend.random.threefry_2x32(first, last)
    return jax.random.wrap_key_data(first, impl=_CIPHER)


def _as_by_default(draw: Callable[P, T]) -> Callable[P, T]:
    """Makes `draw` ignore the setting of JAX for the layout of draws, also where it is traced into a program."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.threefry_partitionable(True):
            return draw(*args, **kwargs)

    return drawn


split = _as_by_default(jax.random.split)
fold_in = _as_by_default(jax.random.fold_in)
bits = _as_by_default(jax.random.bits)


@_as_by_default
def uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, low: Any = 0.0, high: Any = 1.0
) -> jax.Array:
    """Uniform numbers in [low, high); float32 also where JAX computes in float64, unless `dtype` says otherwise."""
    return jax.random.uniform(key, shape, dtype, low, high)


@_as_by_default
def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal numbers; float32 also where JAX computes in float64, unless `dtype` says otherwise."""
    return jax.random.normal(key, shape, dtype)
