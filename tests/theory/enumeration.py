"""A world with short episodes and the enumeration of all of them, in NumPy and without `jaxdistill.theory`."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxdistill import MDP, Teacher

MAX_STEPS = 8  # Longer episodes are left out.
DECAY = {"mc": 1.0, "td": 0.0, "lambda": 0.6}  # the lambda of the lambda-return that each estimator is


def exact_in_binary(probs):
    """Distributions in multiples of 1/256 near `probs`, whose sum is 1 in float32 and therefore in float64."""
    counts = np.floor(np.asarray(probs) * 256)
    counts[..., -1] += 256 - counts.sum(-1)
    return jnp.asarray(counts / 256, jnp.float32)


@functools.cache
def short_episodes(is_aliased: bool) -> tuple[MDP, Teacher]:
    """3 states, 2 actions, 2 outcomes; episodes of more than 8 steps have probability below 1e-8."""
    mdp = MDP.from_arrays(
        successor=[[0, 1], [2, 0], [2, 1]],  # States 0 and 2 may lead to themselves. State 1 leads to the others.
        reward=[[1.0, -0.5], [0.3, 2.0], [-1.0, 0.7]],
        terminal=[[False, False], [False, True], [False, False]],
        outcome_probs=exact_in_binary([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [1, 0]], [[0.1, 0.9], [0.6, 0.4]]]),
        continue_prob=0.09,
        start=[0, 1],
        start_probs=[0.625, 0.375],
        observation=[0, 1, 1] if is_aliased else [0, 1, 2],
    )
    probs = exact_in_binary([[0.3, 0.7], [0.0, 1.0], [0.45, 0.55]])
    return mdp, Teacher(probs, jnp.array([0.4, -0.3, 0.9]), probs)


FEATURES = {1: [[0], [1], [1]], 2: [[1, 0], [1, 2], [2, -1]], 4: [[0, 1, 2, 3], [3, -1, -1, -1], [4, 1, 0, -1]]}


def activity(mdp: MDP) -> np.ndarray:
    """1 where a state uses a row of the student's tables, else 0, [S, O]."""
    table = np.zeros((mdp.num_states, mdp.num_observations))
    for state, features in enumerate(np.asarray(mdp.observation).reshape(mdp.num_states, -1)):
        table[state, features[features >= 0]] = 1
    return table


def random_student(mdp: MDP, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random logits [O, A] and values [O], in float64."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(mdp.num_observations, mdp.num_actions)), rng.normal(size=mdp.num_observations)


def float64_arrays(mdp: MDP) -> dict[str, np.ndarray]:
    """The arrays of an MDP as float64 NumPy arrays of the same float32 numbers."""
    names = ("successor", "reward", "terminal", "outcome_probs", "start", "observation")
    dtypes = {"reward": np.float64, "outcome_probs": np.float64}
    return {name: np.asarray(getattr(mdp, name), dtypes.get(name)) for name in names}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def all_trajectories(mdp: MDP, control: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """For each start and each T: states, actions, rewards [N, T] and probabilities [N] of all episodes of T steps."""
    arrays, continue_prob = float64_arrays(mdp), float(mdp.continue_prob)
    for start, start_prob in zip(arrays["start"], np.asarray(mdp.start_probs, np.float64), strict=True):
        states = np.full((1, 1), start)
        actions, rewards = np.zeros((1, 0), int), np.zeros((1, 0))
        prob = np.array([start_prob])
        for _ in range(MAX_STEPS):
            # Every episode so far is continued by every action and every outcome.
            index, a, k = (x.ravel() for x in np.indices((len(prob), mdp.num_actions, mdp.num_outcomes)))
            s = states[index, -1]
            prob = prob[index] * control[s, a] * arrays["outcome_probs"][s, a, k]
            states, next_states = states[index], arrays["successor"][s, k]
            actions = np.column_stack([actions[index], a])
            rewards = np.column_stack([rewards[index], arrays["reward"][s, k]])
            terminal = arrays["terminal"][s, k]
            yield states, actions, rewards, prob * np.where(terminal, 1, 1 - continue_prob)
            goes_on = ~terminal & (prob > 0)
            states = np.column_stack([states[goes_on], next_states[goes_on]])
            actions, rewards, prob = actions[goes_on], rewards[goes_on], prob[goes_on] * continue_prob
