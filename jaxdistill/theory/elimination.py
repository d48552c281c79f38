"""Linear systems x = source + matrix @ x of Markov chains, solved by Gaussian elimination.

`matrix` holds probabilities: no entry is negative, and its rows or its columns sum to less than 1. So 1 - matrix is an
M-matrix. Gaussian elimination solves it without pivots, and each of its diagonal blocks as well.

`jnp.linalg.solve` is not used, because it can deadlock. JAX 0.10 runs batched factorisations on the threads that also
run programs, and on a machine with two cores, two batches at the same time wait for each other's threads for ever.
"""

import jax
import jax.numpy as jnp

from jaxdistill.theory.products import matmul

_SMALL = 64  # States of a system that is eliminated state by state; a larger one is split into two halves.


def resolve(matrix: jax.Array, source: jax.Array) -> jax.Array:
    """x [S] or [S, N] with x = source + matrix @ x, for probabilities [S, S]; differentiable, may be batched."""
    fixed_matrix = jax.lax.stop_gradient(matrix)
    solution = jax.lax.custom_linear_solve(
        lambda x: x - matmul(matrix, x),
        source.reshape(len(source), -1),
        solve=lambda _, b: _eliminate(fixed_matrix, b),
        transpose_solve=lambda _, b: _eliminate(fixed_matrix.T, b),
    )
    return solution.reshape(source.shape)


def _eliminate(matrix: jax.Array, source: jax.Array) -> jax.Array:
    """The solution [S, N]: the first half of the states is expressed by the second and inserted into its equations."""
    num_states = len(matrix)
    if num_states <= _SMALL:
        return _eliminate_each(matrix, source)
    half = num_states // 2
    first_to_first, first_to_second = matrix[:half, :half], matrix[:half, half:]
    second_to_first, second_to_second = matrix[half:, :half], matrix[half:, half:]
    # The first half is `coefficients @ second + constant`.
    expressed = _eliminate(first_to_first, jnp.concatenate([first_to_second, source[:half]], axis=1))
    coefficients, constant = jnp.split(expressed, [num_states - half], axis=1)
    second = _eliminate(
        second_to_second + matmul(second_to_first, coefficients),
        source[half:] + matmul(second_to_first, constant),
    )
    return jnp.concatenate([constant + matmul(coefficients, second), second])


def _eliminate_each(matrix: jax.Array, source: jax.Array) -> jax.Array:
    """The solution [S, N], by eliminating one state after another."""
    num_states = len(matrix)
    columns = jnp.arange(num_states + source.shape[1])

    def eliminate_state(k: jax.Array, rows: jax.Array) -> jax.Array:
        """Row k, solved for x_k, is inserted into every equation."""
        return jnp.where(columns == k, 0, rows + rows[:, k, None] * (rows[None, k] / (1 - rows[k, k])))

    return jax.lax.fori_loop(0, num_states, eliminate_state, jnp.concatenate([matrix, source], axis=1))[:, num_states:]
