"""Computations on single rows [A]: distributions in nats, and the picking, joining, ranking and sampling of entries.

In sums over a distribution 0 log 0 = 0. Where two distributions meet, the arguments are keyword-only, because optax and
rlax disagree on their order.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Rows up to this length are handled entry by entry. XLA fuses that with the operations around it, which it does not do
# with a reduction or a sort; and on CPU a loop that contains a sort is not compiled into one function.
LONGEST_UNROLLED = 16


# --- Distributions ------------------------------------------------------------------------------------------------


def log_floored(probs: jax.Array, floor: jax.Array | float) -> jax.Array:
    """log max(probs, floor), nats; -inf only where both are 0.

    Paper: log pi(a) of a deterministic teacher is -inf and the text names no remedy. Here: a probability floor.
    """
    return jnp.log(jnp.maximum(probs, jnp.asarray(floor, probs.dtype)))


def log_positive(probs: jax.Array) -> jax.Array:
    """log probs, nats, and 0 where a probability is 0; for sums in which that probability is the weight."""
    return jnp.log(jnp.where(probs > 0, probs, 1))


def entropy(p: jax.Array) -> jax.Array:
    """The entropy H(p) = -sum_a p(a) log p(a), nats, in [0, log A]."""
    return -_expected_log(p, log_positive(p))


def cross_entropy(*, p: jax.Array, log_q: jax.Array) -> jax.Array:
    """The cross-entropy H(p||q) = -sum_a p(a) log q(a), nats; infinite where q is 0 and p is not."""
    return -_expected_log(p, log_q)


def _expected_log(p: jax.Array, log_q: jax.Array) -> jax.Array:
    """sum_a p(a) log q(a) over the last axis, nats, with 0 * -inf = 0."""
    return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_q, 0), 0), axis=-1)


def capped(exponent: jax.Array) -> jax.Array:
    """The exponent, lowered where needed so that its exponential is finite and has room for a factor of 7.

    The derivative stays 1. So the exponential of a log ratio times a probability that has underflowed to 0 is 0, in
    values and in gradients; infinity times 0 would be NaN.
    """
    most = math.log(float(jnp.finfo(exponent.dtype).max)) - 2
    return exponent - lax.stop_gradient(jnp.maximum(exponent - most, 0))


def kl_terms(*, p: jax.Array, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """The terms p(a) (log p(a) - log q(a)) of KL(p||q), nats, one for each action; both logarithms must be finite."""
    return p * (log_p - log_q)


# --- Entries of a row ---------------------------------------------------------------------------------------------


def pick(row: jax.Array, index: jax.Array) -> jax.Array:
    """The entry row[index] of a row [A], for an index [].

    For a short row it is a masked sum, which the compiler vectorises over students.
    """
    if row.shape[-1] > LONGEST_UNROLLED:
        return row[index]
    return jnp.sum(jnp.where(jnp.arange(row.shape[-1], dtype=jnp.int32) == index, row, 0), axis=-1)


def spread(parts: Sequence[jax.Array], width: int) -> jax.Array:
    """A row [width] of the entries of `parts`, which are rows and numbers, in their order; the rest is 0."""
    # The barrier stops XLA from computing a part anew for every entry that is selected from it.
    rows = lax.optimization_barrier([jnp.atleast_1d(part) for part in parts])
    num_entries = sum(map(len, rows))
    if num_entries > LONGEST_UNROLLED:
        return jnp.concatenate([*rows, jnp.zeros(width - num_entries, rows[0].dtype)])
    place, joined = jnp.arange(width, dtype=jnp.int32), jnp.zeros(width, rows[0].dtype)
    for k, entry in enumerate(row[i] for row in rows for i in range(len(row))):
        joined = jnp.where(place == k, entry, joined)
    return joined


def ranks(scores: jax.Array) -> jax.Array:
    """The rank of every entry of a row [A], int32 [A]: 0 is the largest, and of equal entries the first comes first."""
    if scores.shape[-1] > LONGEST_UNROLLED:
        return jnp.argsort(jnp.argsort(-scores, stable=True), stable=True).astype(jnp.int32)
    place = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    equal_before = (scores[None] == scores[:, None]) & (place[None] < place[:, None])
    return jnp.sum((scores[None] > scores[:, None]) | equal_before, axis=1, dtype=jnp.int32)


def all_finite(row: jax.Array) -> jax.Array:
    """True unless an entry of a row [R] is NaN or infinite, bool []."""
    if row.shape[-1] > LONGEST_UNROLLED:
        return jnp.isfinite(row).all(-1)
    finite = jnp.isfinite(row[..., 0])
    for k in range(1, row.shape[-1]):
        finite &= jnp.isfinite(row[..., k])
    return finite


def all_true(row: jax.Array) -> jax.Array:
    """True if all entries of a row [R] of booleans are, bool []."""
    if row.shape[-1] > LONGEST_UNROLLED:
        return row.all(-1)
    result = row[..., 0]
    for k in range(1, row.shape[-1]):
        result &= row[..., k]
    return result


def sample_index(weights: jax.Array, u: jax.Array) -> jax.Array:
    """The index drawn from unnormalised `weights` [A] >= 0 by a uniform u in [0, 1 - 2^-23]; int32 in [0, A)."""
    num_entries = weights.shape[-1]
    if num_entries > LONGEST_UNROLLED:
        cumulative = jnp.cumsum(weights)
        return jnp.minimum(jnp.sum(u * cumulative[-1] >= cumulative, dtype=jnp.int32), num_entries - 1)
    sums = [weights[0]]
    for k in range(1, num_entries):
        sums.append(sums[-1] + weights[k])
    threshold = u * sums[-1]
    index = jnp.zeros((), jnp.int32)
    for k in range(num_entries - 1):
        index += (threshold >= sums[k]).astype(jnp.int32)
    return index
