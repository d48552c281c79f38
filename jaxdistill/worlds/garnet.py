"""Random MDPs without structure, small enough for exact answers: Garnets (Archibald, McKinnon and Thomas, 1995).

An action in a state leads to `branching` distinct states, drawn at random, with random probabilities. Worlds of equal
sizes differ only in the values of their arrays, so they stack and share compiled programs.
"""

import jax
import numpy as np

from jaxdistill.mdp import MDP, validate
from jaxdistill.runtime import checks, streams


def garnet(
    key: jax.Array,
    num_mdps: int,
    *,
    num_states: int = 5,
    num_actions: int = 3,
    branching: int = 2,
    num_observations: int | None = None,
    terminal_prob: float = 0.1,
    termination_prob: float = 0.1,
) -> MDP:
    """Samples M random MDPs whose episodes are finite; world i depends only on (key, i) and the sizes.

    Each outcome has its own reward, drawn from the standard normal distribution. Episodes start in state 0.

    Args:
      key: a random key.
      num_mdps: M.
      num_states, num_actions: S and A.
      branching: number of distinct successors of a state and action, at most S; their probabilities are uniform on
        the simplex.
      num_observations: O, the rows of the student's tables. With fewer than S, states share rows at random and every
        row is used. None: one row for each state.
      terminal_prob: probability that an outcome ends the episode, drawn once for each outcome. The outcomes of state 0
        never end it, so that an episode may have more than one step.
      termination_prob: probability that any step ends the episode, in addition; > 0, so that every episode ends.

    Returns:
      A stack of M MDPs with K = A * branching outcomes.

    Raises:
      ValueError: one line, for impossible sizes or probabilities.
    """
    num_rows = num_states if num_observations is None else num_observations
    sizes = {"num_mdps": num_mdps, "num_states": num_states, "num_actions": num_actions, "branching": branching}
    _check(sizes, num_rows, terminal_prob, termination_prob)
    world_sizes = (int(num_states), int(num_actions), int(branching), int(num_rows))
    terminal_prob, termination_prob = float(terminal_prob), float(termination_prob)
    worlds = [_sample(rng, world_sizes, terminal_prob) for rng in _generators(key, num_mdps)]
    successor, reward, terminal, probs, observation = map(np.stack, zip(*worlds, strict=True))
    return MDP.from_arrays(
        successor,
        reward,
        terminal,
        probs,
        continue_prob=1 - termination_prob,
        observation=observation,
        num_observations=num_rows,
    )


def random_policies(key: jax.Array, mdps: MDP, concentration: float = 1.0) -> np.ndarray:
    """Samples random policies, float32 [M, S, A], or [S, A] for a single world, from a Dirichlet distribution.

    A `concentration` of 1 is uniform on the simplex. With one near 0, the policies are almost deterministic.

    Raises:
      ValueError: one line, unless `concentration` is a number > 0.
    """
    validate(mdps)
    if not checks.number("concentration", concentration) > 0:
        raise ValueError(f"concentration must be > 0; got {concentration!r}.")
    alpha = np.full(mdps.num_actions, concentration)
    generators = _generators(key, mdps.num_mdps if mdps.is_stacked else 1)
    probs = np.stack([rng.dirichlet(alpha, mdps.num_states) for rng in generators]).astype(np.float32)
    return probs if mdps.is_stacked else probs[0]


def _check(sizes: dict[str, int], num_rows: int, terminal_prob: float, termination_prob: float) -> None:
    """Raises ValueError for sizes or probabilities of which no Garnet can be made."""
    for name, size in sizes.items():
        if not checks.is_whole(size, 1):
            raise ValueError(f"{name} must be at least 1, a whole number below 2^31; got {checks.shown(size)}.")
    num_mdps, num_states, num_actions, branching = (int(size) for size in sizes.values())
    num_entries = num_mdps * num_states * num_actions * max(num_states, num_actions * branching)
    if num_entries > checks.MOST:
        raise ValueError(
            f"These sizes need tables of {num_entries} entries, at most {checks.MOST} are possible; got {sizes}."
        )
    if branching > num_states:
        raise ValueError(f"branching must be at most num_states = {num_states}; got {branching}.")
    if not checks.is_whole(num_rows, 1, num_states):
        raise ValueError(f"num_observations must be in [1, num_states = {num_states}]; got {checks.shown(num_rows)}.")
    checks.number("terminal_prob", terminal_prob, 0, 1)
    if not 0 < checks.number("termination_prob", termination_prob) <= 1:
        raise ValueError(f"termination_prob must be in (0, 1], or episodes may never end; got {termination_prob!r}.")


def _generators(key: jax.Array, num_worlds: int) -> list[np.random.Generator]:
    """An independent NumPy generator for each world.

    NumPy draws these worlds, because they are tiny and JAX would need seconds to compile a sampler.
    """
    words = streams.words(streams.as_key(key))
    return [np.random.default_rng([*words, i]) for i in range(num_worlds)]


def _sample(
    rng: np.random.Generator, sizes: tuple[int, int, int, int], terminal_prob: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Samples one world of `sizes` (S, A, branching, O).

    Returns:
      Successor, reward and terminal [S, K], outcome probabilities [S, A, K] and observation [S].
    """
    num_states, num_actions, branching, num_rows = sizes
    states = np.tile(np.arange(num_states), (num_states, num_actions, 1))
    successor = rng.permuted(states, axis=-1)[..., :branching].reshape(num_states, -1)
    weights = rng.dirichlet(np.ones(branching), (num_states, num_actions))
    # The outcomes of a state are those of its first action, then those of its second one, and so on: [S, A, A, b].
    is_same_action = np.eye(num_actions)[None, :, :, None]
    probs = (is_same_action * weights[:, :, None]).reshape(num_states, num_actions, -1)
    reward = rng.normal(size=successor.shape)
    terminal = rng.random(successor.shape) < terminal_prob
    terminal[0] = False
    observation = np.arange(num_states) if num_rows == num_states else rng.permutation(num_states) % num_rows
    return successor, reward, terminal, probs, observation
