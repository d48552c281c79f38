"""One action among several that are equally good: how a policy is made from action values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, exact
from jaxdistill.runtime import checks, streams

TIES = ("share", "first", "random")
"""How the best actions of a state become a policy: all share the probability, the first plays, or one that is drawn."""


def check_ties(ties: Any, key: Any) -> jax.Array | None:
    """The random key, or None; raises ValueError unless `ties` is known and only "random" has a key."""
    checks.one_of("ties", ties, TIES)
    if (ties == "random") == (key is None):
        need = "needs a random key, such as key=jax.random.key(0)" if key is None else "takes no key; remove it"
        raise ValueError(f"ties={ties!r} {need}.")
    return None if key is None else streams.as_key(key)


def greedy(mdps: MDP, q: jax.Array, tolerance: float, ties: str, key: jax.Array | None) -> jax.Array:
    """The greedy policy [..., S, A] of action values [..., S, A] of one MDP or a stack.

    Args:
      mdps: the MDP, or the stack.
      q: action values.
      tolerance: values that differ from the largest by at most this much are equal to it.
      ties: a name of `TIES`.
      key: the random key for "random". States with the same observation draw alike, so that a table by observation
        gives a policy by observation; states with several features draw each for itself. The draws of a world depend on
        the key and on its id only.
    """
    is_best = jnp.asarray(exact.greedy(q, tolerance)) > 0

    def priorities() -> jax.Array:
        assert key is not None
        if mdps.num_features > 1:
            return draws(key, mdps, mdps.num_states)
        by_row = draws(key, mdps, mdps.num_observations)
        return jnp.take_along_axis(by_row, mdps.observation[..., None], axis=-2)

    return _policy(is_best, ties, priorities)


def draws(key: jax.Array, mdps: MDP, num_rows: int) -> jax.Array:
    """Uniform numbers [..., num_rows, A], which depend on the key and on the id of each MDP."""

    def of_world(index: jax.Array) -> jax.Array:
        return streams.uniform(streams.fold_in(key, index), (num_rows, mdps.num_actions))

    return jax.vmap(of_world)(mdps.id) if mdps.is_stacked else of_world(mdps.id)


NOISES = ("worst", "any", "not_best")
"""Which actions a noisy teacher plays: the worst ones, any, or all but the best."""


def noise_policy(key: jax.Array, mdps: MDP, scores: Any, action: str, ties: str) -> jax.Array:
    """The policy [M, S, A] of a noisy teacher, by a name of `NOISES` and, for the actions that qualify, of `TIES`.

    Where all actions are equally good, every one qualifies. The draws of a world depend on the key and on its id only.
    """
    scores = jnp.asarray(np.asarray(scores), jnp.float32)
    is_best, is_worst = (jnp.asarray(exact.greedy(x)) > 0 for x in (scores, -scores))
    qualifies = {"worst": is_worst, "any": jnp.ones_like(is_worst), "not_best": ~is_best}[action]
    qualifies |= jnp.all(is_best, axis=-1, keepdims=True)
    return _policy(qualifies, ties, lambda: draws(streams.fold_in(key, 1), mdps, mdps.num_states))


def _policy(is_allowed: jax.Array, ties: str, priorities: Callable[[], jax.Array]) -> jax.Array:
    """The policy [..., A] of the allowed actions, by a name of `TIES`; "random" plays that of the highest priority."""
    if ties == "share":
        weights = is_allowed.astype(jnp.float32)
        return weights / jnp.sum(weights, axis=-1, keepdims=True)
    ranking = jnp.where(is_allowed, priorities() if ties == "random" else 1.0, -1.0)
    return jax.nn.one_hot(jnp.argmax(ranking, axis=-1), ranking.shape[-1], dtype=jnp.float32)
