"""The Markov chain of states under a control policy, and the linear systems of its sums and visits.

Two kinds of systems occur. A sum over the steps to come satisfies x = source + P x, and expected visits satisfy
x = source + P^T x. In a stationary chain they are solved by elimination. In an `UnrolledMDP` a step leads from one
block of states to the next, and they are solved block by block.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.mdp import MDP
from jaxdistill.mdp.elimination import resolve
from jaxdistill.runtime.products import einsum, matmul
from jaxdistill.theory.time_limits import UnrolledMDP


@dataclasses.dataclass(frozen=True)
class TransitionMatrix:
    """The transition matrix of a chain, with a factor z for each step that follows another.

    Attributes:
      matrix: [S, S'], P(the episode goes on in s' | s), without the factor; for an `UnrolledMDP`, that of one block.
      z: [], the factor.
      horizon: the number of blocks from which a step leads to a next block; 0 for a stationary chain.
      reaches_cut: whether episodes go on into the last block, in which they are cut; False if a cut is an end.
    """

    matrix: jax.Array
    z: jax.Array
    horizon: int = 0
    reaches_cut: bool = True

    def sum_ahead(self, source: jax.Array, slope: jax.Array | float = 1.0) -> jax.Array:
        """x [S, ...] with x(s) = source(s) + slope * E[z x(s') | s]: the sum over the remaining steps from each state.

        A state in which the episode is cut has no later step, so the transition to it has no factor z.
        """
        if isinstance(slope, float) and slope == 0:
            return source
        columns = source.reshape(len(source), -1)
        if self.horizon == 0:
            return resolve(slope * self.z * self.matrix, columns).reshape(source.shape)
        blocks = columns.reshape(self.horizon + 1, -1, columns.shape[1])

        def previous(following: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            factor, block_source = block
            x = block_source + slope * factor * matmul(self.matrix, following)
            return x, x

        last, earlier = blocks[-1], (self._factors(), blocks[:-1])
        _, solution = jax.lax.scan(previous, last, earlier, reverse=True)
        return jnp.concatenate([solution, last[None]]).reshape(source.shape)

    def visits(self, start: jax.Array) -> jax.Array:
        """x [S] with x = start + z P^T x: sum_t z^t P(s_t = s), for s_0 distributed as `start`."""
        if self.horizon == 0:
            return resolve(self.z * self.matrix, start, transpose=True)
        blocks = start.reshape(self.horizon + 1, -1)

        def following(previous: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            factor, block_start = block
            x = block_start + factor * matmul(self.matrix.T, previous)
            return x, x

        _, solution = jax.lax.scan(following, blocks[0], (self._factors(), blocks[1:]))
        return jnp.concatenate([blocks[:1], solution]).reshape(start.shape)

    def _factors(self) -> jax.Array:
        """The factor of the transitions out of each block, [horizon]: z, and 1 or 0 into the block of the cut."""
        return jnp.full(self.horizon, self.z, self.matrix.dtype).at[-1].set(float(self.reaches_cut))


class Chain(NamedTuple):
    """The Markov chain of states under a control policy.

    Attributes:
      taken: [S, A, K, E], P(action and branch | s), for the branches E = (the episode goes on, it ends); 0 in states in
        which the episode is cut.
      onward: [S, A, K], P(action and branch | s) of the branches in which the episode goes on, with a factor z for each
        step that follows another.
      transitions: the transition matrix.
      weight: [S, A, K, E], E[1(action and branch) z^(number of later steps) | s].
      start: [S], P(s_0 = s).
    """

    taken: jax.Array
    onward: jax.Array
    transitions: TransitionMatrix
    weight: jax.Array
    start: jax.Array


def chain_of(mdp: MDP, branch_probs: jax.Array, control: jax.Array, z: jax.Array) -> Chain:
    """The chain of a single MDP under a control policy [S, A], with a factor z for each step that follows another.

    `branch_probs` is [S, A, K, E], the probability of a branch given state and action.
    """
    taken, dtype = control[:, :, None, None] * branch_probs, branch_probs.dtype
    factor = jnp.broadcast_to(z, mdp.successor.shape)
    ends = jnp.sum(taken[..., 1], axis=(1, 2))
    horizon, reaches_cut, size = 0, True, mdp.num_states
    if isinstance(mdp, UnrolledMDP):
        cut = mdp.is_cut
        horizon, reaches_cut, size = mdp.horizon, mdp.bootstraps, mdp.block_size
        taken = jnp.where(cut[:, None, None, None], 0, taken)
        factor = jnp.where(cut[mdp.successor], 1, factor)
        ends = jnp.where(cut, 1, ends)
    # All blocks of an unrolled MDP have the same transitions, except those into the block of the cut.
    is_successor = jax.nn.one_hot(mdp.successor[:size] % size, size, dtype=dtype)  # [S, K, S']
    matrix = einsum("sak,skn->sn", taken[:size, ..., 0], is_successor)
    transitions = TransitionMatrix(matrix, z, horizon, reaches_cut)
    later_factor = transitions.sum_ahead(ends)  # E[z^(number of later steps) | s]
    factors = jnp.stack([factor * later_factor[mdp.successor], jnp.ones(mdp.successor.shape, dtype)], axis=-1)
    start = jnp.zeros(mdp.num_states, dtype).at[mdp.start].add(jnp.asarray(mdp.start_probs, dtype))
    return Chain(taken, factor[:, None] * taken[..., 0], transitions, taken * factors[:, None], start)
