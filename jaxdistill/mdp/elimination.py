"""Linear systems x = source + P x, or x = source + P^T x, of Markov chains, solved by elimination of states.

No entry of P is negative, and a row sums to 1 - leak, where `leak` is the probability that the chain ends. Gaussian
elimination needs no pivots then. Its divisors 1 - p_kk are computed as the sum of the probabilities of leaving state k,
so that nothing is subtracted (Grassmann, Taksar and Heyman 1985). A solution for a source >= 0 is therefore accurate in
every digit, however long the chain runs.

`jnp.linalg.solve` is not used, because it can deadlock. JAX 0.10 runs batched factorisations on the threads that also
run programs, and on a machine with two cores, two batches at the same time wait for each other's threads for ever.
"""

import jax
import jax.numpy as jnp

_SMALL = 64  # States of a system that is eliminated state by state; a larger one is split into two halves.


def resolve(matrix: jax.Array, source: jax.Array, transpose: bool = False) -> jax.Array:
    """x [S] or [S, N] with x = source + matrix @ x, for probabilities [S, S]; differentiable, may be batched.

    With `transpose`, x = source + matrix.T @ x. The rows of `matrix` sum to at most 1 in both cases. Where they sum to
    1 up to rounding, so that the chain ends too rarely to tell, the solution is nan or inf.
    """
    fixed_matrix = jax.lax.stop_gradient(matrix)
    leak = 1 - jnp.sum(fixed_matrix, axis=1)
    leak = jnp.where(leak > len(matrix) * jnp.finfo(matrix.dtype).eps, leak, 0)
    system = matrix.T if transpose else matrix
    solution = jax.lax.custom_linear_solve(
        lambda x: x - _product(system, x),
        source.reshape(len(source), -1),
        solve=lambda _, b: eliminate(fixed_matrix, leak, b, transpose),
        transpose_solve=lambda _, b: eliminate(fixed_matrix, leak, b, not transpose),
    )
    return solution.reshape(source.shape)


def eliminate(matrix: jax.Array, leak: jax.Array, source: jax.Array, transpose: bool) -> jax.Array:
    """The solution [S, N] for `source` [S, N] and probabilities [S, S] whose rows sum to 1 - leak [S]."""
    return _eliminate(matrix.T if transpose else matrix, leak, source, transpose)


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def _eliminate(system: jax.Array, leak: jax.Array, source: jax.Array, transpose: bool) -> jax.Array:
    """x [S, N]: the first half of the states is expressed by the second half and inserted into its equations."""
    num_states = len(system)
    if num_states <= _SMALL:
        return _eliminate_each(system, leak, source, transpose)
    half = num_states // 2
    first_to_first, first_to_second = system[:half, :half], system[:half, half:]
    second_to_first, second_to_second = system[half:, :half], system[half:, half:]
    # From the first half, the chain leaves by ending or into the second half.
    leaving = leak[:half] + (jnp.sum(second_to_first, axis=0) if transpose else jnp.sum(first_to_second, axis=1))
    # The first half is `coefficients @ second + constant`, and `end` is the probability to end before the second half.
    parts = [first_to_second, source[:half]] + ([] if transpose else [leak[:half, None]])
    expressed = _eliminate(first_to_first, leaving, jnp.concatenate(parts, axis=1), transpose)
    coefficients, constant, end = jnp.split(expressed, [num_states - half, num_states - half + source.shape[1]], axis=1)
    detour = _product(coefficients.T, leak[:half]) if transpose else _product(second_to_first, end)[:, 0]
    second = _eliminate(
        second_to_second + _product(second_to_first, coefficients),
        leak[half:] + detour,
        source[half:] + _product(second_to_first, constant),
        transpose,
    )
    return jnp.concatenate([constant + _product(coefficients, second), second])


def _eliminate_each(system: jax.Array, leak: jax.Array, source: jax.Array, transpose: bool) -> jax.Array:
    """The solution [S, N], by eliminating one state after another."""
    num_states = len(system)
    columns, states = jnp.arange(num_states + source.shape[1]), jnp.arange(num_states)

    def eliminate_state(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Row k, solved for x_k, is inserted into every equation."""
        rows, leak = carry
        onward = rows[:, k] if transpose else rows[k, :num_states]  # the probabilities of the steps from state k
        leaving = leak[k] + jnp.sum(jnp.where(states > k, onward, 0))
        row = rows[k] / leaving
        new_leak = leak + leak[k] * (row[:num_states] if transpose else rows[:, k] / leaving)
        return jnp.where(columns == k, 0, rows + rows[:, k, None] * row), new_leak

    rows = jnp.concatenate([system, source], axis=1)
    return jax.lax.fori_loop(0, num_states, eliminate_state, (rows, leak))[0][:, num_states:]
