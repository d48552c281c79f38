"""Rows of probabilities and logits: entropy, cross-entropy and KL in nats, with 0 log 0 = 0; picking and sampling.

Roles are keyword-only where two distributions meet, because optax and rlax disagree on their order.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Rows up to this length are handled entry by entry: XLA fuses that with its neighbours, which a reduction or a sort it
# does not, and a loop with a sort does not become one function on CPU.
_UNROLL = 16


def log_floored(probs: jax.Array, floor: jax.Array | float) -> jax.Array:
    """log max(probs, floor), nats; -inf only where both are 0.

    Paper: log pi(a) of a deterministic teacher is -inf and the text names no remedy. Here: a probability floor.
    """
    return jnp.log(jnp.maximum(probs, jnp.asarray(floor, probs.dtype)))


def plogq(p: jax.Array, log_q: jax.Array) -> jax.Array:
    """sum_a p(a) log q(a) over the last axis, nats, with 0 * -inf = 0."""
    return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_q, 0), 0), axis=-1)


def entropy(p: jax.Array) -> jax.Array:
    """H(p) = -sum_a p(a) log p(a), nats, in [0, log A]."""
    return -plogq(p, jnp.log(jnp.where(p > 0, p, 1)))


def cross_entropy(*, p: jax.Array, log_q: jax.Array) -> jax.Array:
    """H(p||q) = -sum_a p(a) log q(a), nats; infinite where q misses p's support."""
    return -plogq(p, log_q)


def kl_divergence(*, p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p||q) = H(p||q) - H(p), nats, >= 0."""
    return cross_entropy(p=p, log_q=log_q) - entropy(p)


def pick(row: jax.Array, index: jax.Array) -> jax.Array:
    """row[index] for a row [A] and an index []; a masked sum when the row is short, which vectorises over students."""
    if row.shape[-1] > _UNROLL:
        return row[index]
    return jnp.sum(jnp.where(jnp.arange(row.shape[-1], dtype=jnp.int32) == index, row, 0), axis=-1)


def spread(parts: Sequence[jax.Array], width: int) -> jax.Array:
    """The entries of `parts`, rows and numbers, one after the other and then zeros, [width]."""
    rows = lax.optimization_barrier([jnp.atleast_1d(part) for part in parts])
    if sum(map(len, rows)) > _UNROLL:
        return jnp.concatenate([*rows, jnp.zeros(width - sum(map(len, rows)), rows[0].dtype)])
    place, out = jnp.arange(width, dtype=jnp.int32), jnp.zeros(width, rows[0].dtype)
    for k, entry in enumerate(row[i] for row in rows for i in range(len(row))):
        out = jnp.where(place == k, entry, out)
    return out


def ranks(scores: jax.Array) -> jax.Array:
    """The place of every entry of [A], the largest having 0 and of equals the first; int32 [A]."""
    if scores.shape[-1] > _UNROLL:
        return jnp.argsort(jnp.argsort(-scores, stable=True), stable=True).astype(jnp.int32)
    place = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    equal_before = (scores[None] == scores[:, None]) & (place[None] < place[:, None])
    return jnp.sum((scores[None] > scores[:, None]) | equal_before, axis=1, dtype=jnp.int32)


def all_finite(row: jax.Array) -> jax.Array:
    """Whether no entry of a row [R] is NaN or infinite, bool []."""
    if row.shape[-1] > _UNROLL:
        return jnp.isfinite(row).all(-1)
    finite = jnp.isfinite(row[..., 0])
    for k in range(1, row.shape[-1]):
        finite &= jnp.isfinite(row[..., k])
    return finite


def sample_index(weights: jax.Array, u: jax.Array) -> jax.Array:
    """The index drawn from unnormalised `weights` [A] >= 0 by a uniform u in [0, 1 - 2^-23]; int32 in [0, A)."""
    num = weights.shape[-1]
    if num > _UNROLL:
        cumulative = jnp.cumsum(weights)
        return jnp.minimum(jnp.sum(u * cumulative[-1] >= cumulative, dtype=jnp.int32), num - 1)
    sums = [weights[0]]
    for k in range(1, num):
        sums.append(sums[-1] + weights[k])
    threshold = u * sums[-1]
    index = jnp.zeros((), jnp.int32)
    for k in range(num - 1):
        index += (threshold >= sums[k]).astype(jnp.int32)
    return index
