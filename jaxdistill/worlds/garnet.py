"""Random MDPs without structure, small enough for exact answers: Garnets (Archibald, McKinnon and Thomas, 1995).

An action in a state leads to `branching` distinct states, drawn at random, with random probabilities. Everything is in
the arrays, so worlds of equal sizes stack and share compiled programs.
"""

import jax
import numpy as np

from jaxdistill.mdp import MDP, validate
from jaxdistill.runtime import checks


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
    """M random MDPs whose episodes are finite; world i depends only on (key, i) and the sizes.

    Rewards are standard normal, one for each arrival. Episodes start in state 0.

    Args:
      key: random key.
      num_mdps: M.
      num_states, num_actions: S and A.
      branching: distinct successors of a state and action, with probabilities uniform on the simplex; at most S.
      num_observations: O; fewer than S: states share rows of the student's tables, at random, every row is used.
        None: one row for each state.
      terminal_prob: probability that an arrival ends the episode, drawn once for each arrival; never from state 0, so
        that an episode may have more than one step.
      termination_prob: probability that a step ends the episode besides; > 0, so that every episode ends.

    Returns:
      A stack of M MDPs with K = A * branching outcomes. ValueError for impossible sizes or probabilities.
    """
    rows = num_states if num_observations is None else num_observations
    named = {"num_mdps": num_mdps, "num_states": num_states, "num_actions": num_actions, "branching": branching}
    _check(named, rows, terminal_prob, termination_prob)
    sizes = (int(num_states), int(num_actions), int(branching), int(rows))
    terminal_prob, termination_prob = float(terminal_prob), float(termination_prob)
    worlds = [_sample(rng, sizes, terminal_prob) for rng in _generators(key, num_mdps)]
    successor, reward, terminal, probs, observation = map(np.stack, zip(*worlds, strict=True))
    return MDP.from_arrays(
        successor,
        reward,
        terminal,
        probs,
        continue_prob=1 - termination_prob,
        observation=observation,
        num_observations=rows,
    )


def random_policies(key: jax.Array, mdps: MDP, concentration: float = 1.0) -> np.ndarray:
    """Random policies float32 [M, S, A], or [S, A] for a single world, rows drawn from a Dirichlet distribution.

    A `concentration` of 1 is uniform on the simplex; near 0 policies are almost deterministic. ValueError unless > 0.
    """
    validate(mdps)
    if not checks.number("concentration", concentration) > 0:
        raise ValueError(f"concentration must be > 0; got {concentration!r}.")
    alpha = np.full(mdps.num_actions, concentration)
    generators = _generators(key, mdps.num_mdps if mdps.is_stacked else 1)
    probs = np.stack([rng.dirichlet(alpha, mdps.num_states) for rng in generators]).astype(np.float32)
    return probs if mdps.is_stacked else probs[0]


def _check(sizes: dict[str, int], rows: int, terminal_prob: float, termination_prob: float) -> None:
    for name, size in sizes.items():
        if not checks.is_whole(size, 1):
            raise ValueError(f"{name} must be at least 1, a whole number below 2^31; got {checks.shown(size)}.")
    num_mdps, num_states, num_actions, branching = (int(size) for size in sizes.values())
    entries = num_mdps * num_states * num_actions * max(num_states, num_actions * branching)
    if entries > checks.MOST:
        raise ValueError(
            f"These sizes need tables of {entries} entries, at most {checks.MOST} are possible; got {sizes}."
        )
    if branching > num_states:
        raise ValueError(f"branching must be at most num_states = {num_states}; got {branching}.")
    if not checks.is_whole(rows, 1, num_states):
        raise ValueError(f"num_observations must be in [1, num_states = {num_states}]; got {checks.shown(rows)}.")
    checks.number("terminal_prob", terminal_prob, 0, 1)
    if not 0 < checks.number("termination_prob", termination_prob) <= 1:
        raise ValueError(f"termination_prob must be in (0, 1], or episodes may never end; got {termination_prob!r}.")


def _generators(key: jax.Array, num: int) -> list[np.random.Generator]:
    """A stream for each world. NumPy's, because these worlds are tiny and a compiled sampler costs seconds."""
    words = np.asarray(jax.random.key_data(checks.as_key(key))).ravel().tolist()
    return [np.random.default_rng([*words, i]) for i in range(num)]


def _sample(
    rng: np.random.Generator, sizes: tuple[int, int, int, int], terminal_prob: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    num_states, num_actions, branching, rows = sizes
    pairs = np.tile(np.arange(num_states), (num_states, num_actions, 1))
    successor = rng.permuted(pairs, axis=-1)[..., :branching].reshape(num_states, -1)
    weights = rng.dirichlet(np.ones(branching), (num_states, num_actions))
    # Outcomes a * branching, ... belong to action a alone.
    own = np.eye(num_actions)[None, :, :, None]
    probs = (own * weights[:, :, None]).reshape(num_states, num_actions, -1)
    reward = rng.normal(size=successor.shape)
    terminal = rng.random(successor.shape) < terminal_prob
    terminal[0] = False
    observation = np.arange(num_states) if rows == num_states else rng.permutation(num_states) % rows
    return successor, reward, terminal, probs, observation
