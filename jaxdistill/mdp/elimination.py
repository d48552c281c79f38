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

from jaxdistill.runtime.products import matmul
from jaxdistill.runtime.surroundings import default_promotion

_BLOCK = 32  # States that are eliminated one by one before they are inserted into all other equations together.


@default_promotion()
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
        lambda x: x - matmul(system, x),
        source.reshape(len(source), -1),
        solve=lambda _, b: eliminate(fixed_matrix, leak, b, transpose),
        transpose_solve=lambda _, b: eliminate(fixed_matrix, leak, b, not transpose),
    )
    return solution.reshape(source.shape)


def eliminate(matrix: jax.Array, leak: jax.Array, source: jax.Array, transpose: bool) -> jax.Array:
    """The solution [S, N] for `source` [S, N] and probabilities [S, S] whose rows sum to 1 - leak [S]."""
    num_states, num_columns = source.shape
    if num_states <= _BLOCK:
        return _eliminate_each(matrix.T if transpose else matrix, leak, source, transpose)
    padding = -num_states % _BLOCK  # Added states end at once and are not visited.
    system = jnp.pad(matrix.T if transpose else matrix, (0, padding))
    source, leak = jnp.pad(source, ((0, padding), (0, 0))), jnp.pad(leak, (0, padding), constant_values=1)
    size = num_states + padding
    positions = jnp.arange(size)

    def eliminate_block(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The equations of a block, solved for its states, are inserted into all other equations."""
        rows, leak = carry
        first = i * _BLOCK
        is_later, is_inside = positions >= first + _BLOCK, (positions >= first) & (positions < first + _BLOCK)
        by_block = jax.lax.dynamic_slice_in_dim(rows, first, _BLOCK, 1)  # [size, block]
        equations = jax.lax.dynamic_slice_in_dim(rows, first, _BLOCK, 0)
        inside = jax.lax.dynamic_slice_in_dim(by_block, first, _BLOCK, 0)
        own_leak = jax.lax.dynamic_slice_in_dim(leak, first, _BLOCK)
        outside = equations.at[:, :size].multiply(~is_inside[None])
        # The chain leaves the block by ending or to a state that has not been eliminated.
        to_later = jnp.sum(by_block.T if transpose else outside[:, :size], 1, where=is_later[None])
        parts = [outside, own_leak[:, None]]
        solved = _eliminate_each(inside, own_leak + to_later, jnp.concatenate(parts, axis=1), transpose)
        solved, end = solved[:, :-1], solved[:, -1]
        inserted = jnp.where(is_inside[:, None], 0, by_block)
        new_leak = leak + (matmul(own_leak, solved[:, :size]) if transpose else matmul(inserted, end))
        rows = jnp.where(jnp.append(is_inside, jnp.zeros(num_columns, bool)), 0, rows) + matmul(inserted, solved)
        return jax.lax.dynamic_update_slice_in_dim(rows, solved, first, 0), new_leak

    rows = jnp.concatenate([system, source], axis=1)
    rows, _ = jax.lax.fori_loop(0, size // _BLOCK, eliminate_block, (rows, leak))
    return rows[:num_states, size:]


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
        return jnp.where(columns[None] == k, 0, rows + rows[:, k, None] * row[None]), new_leak

    rows = jnp.concatenate([system, source], axis=1)
    return jax.lax.fori_loop(0, num_states, eliminate_state, (rows, leak))[0][:, num_states:]
