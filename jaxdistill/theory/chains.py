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
      into_cut: [S, S'], the same for the step into the block in which episodes are cut; None for a stationary chain.
      horizon: the number of blocks from which a step leads to a next block; 0 for a stationary chain.
      reaches_cut: whether episodes go on into the last block, in which they are cut; False if a cut is an end.
    """

    matrix: jax.Array
    z: jax.Array
    into_cut: jax.Array | None = None
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

        def previous(following: jax.Array, block_source: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = block_source + slope * self.z * matmul(self.matrix, following)
            return x, x

        last = blocks[-2] + slope * matmul(self._into_cut, blocks[-1])
        _, solution = jax.lax.scan(previous, last, blocks[:-2], reverse=True)
        return jnp.concatenate([solution, last[None], blocks[-1:]]).reshape(source.shape)

    def visits(self, start: jax.Array) -> jax.Array:
        """x [S] with x = start + z P^T x: sum_t z^t P(s_t = s), for s_0 distributed as `start`."""
        if self.horizon == 0:
            return resolve(self.z * self.matrix, start, transpose=True)
        blocks = start.reshape(self.horizon + 1, -1)

        def following(previous: jax.Array, block_start: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = block_start + self.z * matmul(self.matrix.T, previous)
            return x, x

        last, solution = jax.lax.scan(following, blocks[0], blocks[1:-1])
        at_cut = blocks[-1] + matmul(self._into_cut.T, last)
        return jnp.concatenate([blocks[:1], solution, at_cut[None]]).reshape(start.shape)

    @property
    def _into_cut(self) -> jax.Array:
        """The transitions into the block of the cut, without a factor z; 0 if a cut is an end."""
        assert self.into_cut is not None
        return self.into_cut if self.reaches_cut else jnp.zeros_like(self.into_cut)


class Chain(NamedTuple):
    """The Markov chain of states under a control policy.

    Attributes:
      taken: [S, A, K, E], P(action and branch | s), for the branches E = (the episode goes on, it ends); 0 in states in
        which the episode is cut.
      onward: [S, A, K], P(action and branch | s) of the branches in which the episode goes on, with a factor z for each
        step that follows another.
      transitions: the transition matrix.
      weight: [S, A, K, E], E[1(action and branch) z^(number of later steps) | s]; for a chain that avoids a row, of the
        episodes that do not come to that row later.
      start: [S], P(s_0 = s).
    """

    taken: jax.Array
    onward: jax.Array
    transitions: TransitionMatrix
    weight: jax.Array
    start: jax.Array


def chain_of(
    mdp: MDP, branch_probs: jax.Array, control: jax.Array, z: jax.Array, avoided_row: jax.Array | None = None
) -> Chain:
    """The chain of a single MDP under a control policy [S, A], with a factor z for each step that follows another.

    Args:
      mdp: the MDP.
      branch_probs: [S, A, K, E], the probability of a branch given state and action.
      control: [S, A].
      z: [].
      avoided_row: int [], a row of the student's tables. Steps that lead to a state that uses it, in which a further
        step is taken, have the weight 0, so that all sums ahead are those of the episodes that do not come to it.
        None: no such row.
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
    into_cut = einsum("sak,skn->sn", taken[:size, ..., 0], is_successor)
    matrix = into_cut
    if avoided_row is not None:
        is_avoided = (mdp.features == avoided_row).any(axis=1)
        matrix = jnp.where(is_avoided[:size], 0, matrix)
        if isinstance(mdp, UnrolledMDP):
            is_avoided &= ~mdp.is_cut
        factor = jnp.where(is_avoided[mdp.successor], 0, factor)
    transitions = TransitionMatrix(matrix, z, into_cut if horizon else None, horizon, reaches_cut)
    later_factor = transitions.sum_ahead(ends)  # E[z^(number of later steps) | s]
    factors = jnp.stack([factor * later_factor[mdp.successor], jnp.ones(mdp.successor.shape, dtype)], axis=-1)
    start = jnp.zeros(mdp.num_states, dtype).at[mdp.start].add(jnp.asarray(mdp.start_probs, dtype))
    return Chain(taken, factor[:, None] * taken[..., 0], transitions, taken * factors[:, None], start)
