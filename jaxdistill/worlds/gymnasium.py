"""Worlds of Gymnasium that publish their transition table, such as FrozenLake, CliffWalking and Taxi.

Gymnasium is optional: `pip install gymnasium`. It is imported when an environment is asked for by its id, and not
before.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, transitions
from jaxdistill.runtime import checks
from jaxdistill.runtime.files import one_line


def from_gymnasium(
    env: Any,
    *,
    continue_prob: float = 1.0,
    observation: npt.ArrayLike | None = None,
    num_observations: int | None = None,
    **options: Any,
) -> MDP:
    """The MDP of a Gymnasium environment that has a transition table `P`, exactly.

    P[s][a] lists (probability, successor, reward, terminated); equal entries are added up, and rewards that depend on
    the action become outcomes of their own. States and actions keep their numbers, so that a policy of one is a policy
    of the other (`play`).

    What is not in the table is not in the MDP: wrappers are looked through, and there is no time limit, although
    `gymnasium.make` adds one to most environments (100 steps in FrozenLake). An unlucky student can then walk for very
    long. `train(..., max_episode_steps=100)` cuts training episodes as the time limit would; `continue_prob=0.99` ends
    episodes at random after 100 steps in the mean, in training and in the exact values.

    One world gives one student per method. `stack([from_gymnasium("FrozenLake-v1")] * 20)` gives twenty, each with its
    own random numbers; their intervals are then over students and not over worlds.

    Args:
      env: an environment, wrapped or not, or the id of one, such as "FrozenLake-v1", "CliffWalking-v1" or "Taxi-v4".
      continue_prob: probability in [0, 1] that an episode goes on after a step that did not end it.
      observation: int [S], the row of the student's tables in each state; None: one row for each state.
      num_observations: rows of the student's tables; None: as many as `observation` uses.
      **options: of `gymnasium.make` where `env` is an id, such as map_name="8x8", is_slippery=False.

    Returns:
      A single MDP, which `train` takes as it is.

    Raises:
      ImportError: an id was given and Gymnasium is not installed.
      ValueError: one line, for an unknown id, an environment without a table, or a table that is not one.
    """
    if isinstance(env, str):
        env = _make(env, options)
    elif options:
        raise ValueError(f"{next(iter(options))} is an option of gymnasium.make; give an id, not an environment.")
    bare = getattr(env, "unwrapped", env)
    name = type(bare).__name__
    table, start = getattr(bare, "P", None), getattr(bare, "initial_state_distrib", None)
    if table is None or start is None:
        raise ValueError(
            f"{name} has no transition table (unwrapped.P and unwrapped.initial_state_distrib), so its MDP is unknown; "
            "FrozenLake, CliffWalking and Taxi have one."
        )
    if getattr(bare, "fickle_passenger", False):
        raise ValueError(f"{name} with fickle_passenger=True does not follow its transition table; leave it out.")
    try:
        packed = _packed(table)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError):
        raise ValueError(
            f"The table of {name} must be P[state][action] = [(probability, successor, reward, terminated), ...] with "
            "states and actions numbered from 0; it is not."
        ) from None
    weights = checks.numbers(f"initial_state_distrib of {name}", start)
    if weights.shape != (len(table),):
        raise ValueError(f"initial_state_distrib of {name} must be [S] = [{len(table)}]; got {list(weights.shape)}.")
    starts = np.flatnonzero(weights)
    return MDP.from_arrays(
        *packed,
        continue_prob=continue_prob,
        start=starts,
        start_probs=weights[starts],
        observation=observation,
        num_observations=num_observations,
    )


def play(env: Any, policy: npt.ArrayLike, num_episodes: int, *, seed: int = 0) -> np.ndarray:
    """Undiscounted returns [num_episodes] of a policy in the Gymnasium environment itself, step by step.

    Their mean is, but for sampling, the exact return that `train` and `exact` report, unless `env` ends episodes by a
    time limit: pass `env.unwrapped` to play without it.

    Args:
      env: the environment.
      policy: [S, A], probabilities by state; of a student, `softmax(result.logits[p, m])[mdp.observation]`.
      num_episodes: at least 1.
      seed: of the environment and of the actions.

    Raises:
      ValueError: a policy that is not a table of distributions.
    """
    table = checks.numbers("policy", policy)
    if (
        table.ndim != 2
        or 0 in table.shape
        or not np.isfinite(table).all()
        or (table < 0).any()
        or np.abs(table.sum(-1) - 1).max() > 1e-4
    ):
        raise ValueError(f"policy must be [S, A] with rows that sum to 1; got shape {table.shape}.")
    checks.whole("num_episodes", num_episodes, 1)
    checks.whole("seed", seed, 0)
    expected = tuple(getattr(getattr(env, name, None), "n", None) for name in ("observation_space", "action_space"))
    if any(known not in (None, size) for known, size in zip(expected, table.shape, strict=True)):
        raise ValueError(f"policy must be [S, A] = {list(expected)} for this environment; got {list(table.shape)}.")
    edges = np.cumsum(table, axis=1)
    edges[:, -1] = np.inf  # rounding must not leave an action out
    rng, returns = np.random.default_rng(seed), np.zeros(num_episodes)
    for episode in range(num_episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            action = int(np.searchsorted(edges[state], rng.random() * table[state].sum(), side="right"))
            state, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += reward
            over = terminated or truncated
    return returns


def _make(name: str, options: dict[str, Any]) -> Any:
    try:
        import gymnasium
    except ImportError:
        raise ImportError(f"from_gymnasium({name!r}) needs Gymnasium: pip install gymnasium") from None
    try:
        return gymnasium.make(name, **options)
    except Exception as error:  # of Gymnasium, or of the environment's constructor
        raise ValueError(f"gymnasium.make({checks.shown(name)}) refuses: {one_line(error)}") from None


def _packed(table: Any) -> transitions.Outcomes:
    num_states, num_actions = len(table), len(table[0])
    found = [
        (s, a, successor, reward, terminated, prob)
        for s in range(num_states)
        for a in range(_same(len(table[s]), num_actions))
        for prob, successor, reward, terminated in table[s][a]
    ]
    state, action, successor, reward, terminal, prob = (
        checks.numbers("P", list(column)) for column in zip(*found, strict=True)
    )
    if not np.isin(successor, np.arange(num_states)).all() or not np.isin(terminal, (0, 1)).all():
        raise ValueError("a successor is no state, or terminated is no truth value")
    transitions = transitions.Transitions(
        state.astype(int), action.astype(int), successor, reward, terminal.astype(bool), prob
    )
    return transitions.pack(transitions, num_states, num_actions)


def _same(found: int, expected: int) -> int:
    if found != expected:
        raise ValueError("states differ in their number of actions")
    return found
