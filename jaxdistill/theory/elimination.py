"""Linear systems of chains of states, x = source + matrix @ x, by elimination of states.

`matrix` holds chances: no entry is negative, and its rows or its columns sum to less than 1. So 1 - matrix is an
M-matrix, which Gauss's elimination solves as it stands, without pivots, and any part of it alone as well.

Not `jnp.linalg.solve`: JAX 0.10 hands a batch of factorisations to the threads that run the program, and two batches
that run at the same time on a machine of two cores wait for each other's threads for ever.
"""

import jax
import jax.numpy as jnp

_AT_ONCE = 64  # states that are eliminated one by one; more are halved, and the halves joined by products of matrices


def resolve(matrix: jax.Array, source: jax.Array) -> jax.Array:
    """x [S] or [S, N] with x = source + matrix @ x, for a matrix [S, S] of chances; differentiable, may be batched."""
    held = jax.lax.stop_gradient(matrix)
    found = jax.lax.custom_linear_solve(
        lambda x: x - _product(matrix, x),
        source.reshape(len(source), -1),
        solve=lambda _, b: _eliminate(held, b),
        transpose_solve=lambda _, b: _eliminate(held.T, b),
    )
    return found.reshape(source.shape)


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def _eliminate(matrix: jax.Array, source: jax.Array) -> jax.Array:
    """The solution [S, N]: the first half of the states is expressed by the second and put into its equations."""
    num_states = len(matrix)
    if num_states <= _AT_ONCE:
        return _eliminate_each(matrix, source)
    half = num_states // 2
    inside, forth, back, others = matrix[:half, :half], matrix[:half, half:], matrix[half:, :half], matrix[half:, half:]
    passing = _eliminate(inside, jnp.concatenate([forth, source[:half]], axis=1))
    through, found = jnp.split(passing, [num_states - half], axis=1)
    second = _eliminate(others + _product(back, through), source[half:] + _product(back, found))
    return jnp.concatenate([found + _product(through, second), second])


def _eliminate_each(matrix: jax.Array, source: jax.Array) -> jax.Array:
    num_states = len(matrix)
    columns = jnp.arange(num_states + source.shape[1])

    def without(k: jax.Array, rows: jax.Array) -> jax.Array:
        """x_k = (what row k says without x_k) / (1 - rows[k, k]), put into every equation."""
        return jnp.where(columns == k, 0, rows + rows[:, k, None] * (rows[k] / (1 - rows[k, k])))

    return jax.lax.fori_loop(0, num_states, without, jnp.concatenate([matrix, source], axis=1))[:, num_states:]
