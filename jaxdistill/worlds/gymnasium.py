"""Environments of Gymnasium that publish their transition table, such as FrozenLake, CliffWalking and Taxi, as MDPs.

Gymnasium is optional: `pip install gymnasium`. It is imported only when an environment is given by its id.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import are_distributions
from jaxdistill.mdp.transitions import Outcomes, Transitions, pack
from jaxdistill.runtime import checks
from jaxdistill.runtime.files import one_line


def from_gymnasium(
    env: Any,
    *,
    continue_prob: float = 1.0,
    time_limit: int | Literal["env"] | None = "env",
    observation: npt.ArrayLike | None = None,
    num_observations: int | None = None,
    **options: Any,
) -> MDP:
    """Builds the exact MDP of a Gymnasium environment that has a transition table `P`.

    P[s][a] lists (probability, successor, reward, terminated). The probabilities of equal entries are added up, and
    rewards that depend on the action become outcomes of their own. States and actions keep their numbers, so that a
    policy of the MDP is a policy of the environment (`play`).

    The MDP holds what the table holds, and the time limit that `gymnasium.make` adds to most environments (100 steps in
    FrozenLake, 200 in Taxi, none in CliffWalking). Other wrappers are ignored. An episode that reaches the limit is
    truncated and not terminated: training bootstraps there, and exact returns are those of at most so many steps.

    One world gives one student per method. `stack([from_gymnasium("FrozenLake-v1")] * 20)` gives twenty, each with its
    own random numbers; confidence intervals are then over students and not over worlds.

    Args:
      env: an environment, wrapped or not, or the id of one, such as "FrozenLake-v1", "CliffWalking-v1" or "Taxi-v4".
      continue_prob: probability in [0, 1] that an episode goes on after a step that did not end it.
      time_limit: `MDP.time_limit`, >= 1; None for no limit; "env" for that of the environment's `TimeLimit` wrapper.
      observation: int [S], the row of the student's tables in each state; None: one row for each state.
      num_observations: rows of the student's tables; None: as many as `observation` uses.
      **options: options of `gymnasium.make` if `env` is an id, such as map_name="8x8", is_slippery=False.

    Returns:
      A single MDP. `train` accepts it without stacking.

    Raises:
      ImportError: an id was given and Gymnasium is not installed.
      ValueError: one line, for an unknown id, an environment without a table, or a malformed table.
    """
    if isinstance(env, str):
        env = _make(env, options)
    elif options:
        raise ValueError(f"{next(iter(options))} is an option of gymnasium.make; give an id, not an environment.")
    limit = _time_limit(env) if isinstance(time_limit, str) and time_limit == "env" else time_limit
    outcomes, start_distribution = _outcomes_and_start(getattr(env, "unwrapped", env))
    starts = np.flatnonzero(start_distribution)
    return MDP.from_arrays(
        *outcomes,
        continue_prob=continue_prob,
        start=starts,
        start_probs=start_distribution[starts],
        observation=observation,
        num_observations=num_observations,
        time_limit=limit,
    )


def _time_limit(env: Any) -> int | None:
    """The smallest time limit of the environment's `TimeLimit` wrappers; None without one."""
    limits = []
    while env is not getattr(env, "unwrapped", env):
        if type(env).__name__ == "TimeLimit":
            limits.append(int(env._max_episode_steps))
        env = env.env
    return min(limits, default=None)


def play(env: Any, policy: npt.ArrayLike, num_episodes: int, *, seed: int = 0) -> np.ndarray:
    """Plays a policy in the Gymnasium environment itself and gives the undiscounted returns [num_episodes].

    Apart from sampling error, their mean is the exact return that `train` and `exact` report, if `env` has the time
    limit of the MDP: pass `env.unwrapped` to play without a limit.

    Args:
      env: the environment.
      policy: [S, A], probabilities by state; for a student, `exact.policy_from_logits(mdp, result.logits[p, m])`.
      num_episodes: at least 1.
      seed: seed of the environment and of the choice of actions.

    Raises:
      ValueError: `policy` is not a table of distributions.
    """
    table = _policy_table(env, policy)
    checks.whole("num_episodes", num_episodes, 1)
    checks.whole("seed", seed, 0)
    edges = np.cumsum(table, axis=1)
    edges[:, -1] = np.inf  # Rounding must not put a random number beyond the last action.
    rng, returns = np.random.default_rng(seed), np.zeros(num_episodes)
    for episode in range(num_episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        is_over = False
        while not is_over:
            action = int(np.searchsorted(edges[state], rng.random() * table[state].sum(), side="right"))
            state, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += reward
            is_over = terminated or truncated
    return returns


def _make(name: str, options: dict[str, Any]) -> Any:
    """The environment of an id."""
    try:
        import gymnasium
    except ImportError:
        raise ImportError(f"from_gymnasium({name!r}) needs Gymnasium: pip install gymnasium") from None
    try:
        return gymnasium.make(name, **options)
    except Exception as error:  # Gymnasium raised it, or the constructor of the environment.
        raise ValueError(f"gymnasium.make({checks.shown(name)}) refuses: {one_line(error)}") from None


def _outcomes_and_start(env: Any) -> tuple[Outcomes, np.ndarray]:
    """The outcome tables of an unwrapped environment, and its distribution of start states, float64 [S]."""
    name = type(env).__name__
    table, start = getattr(env, "P", None), getattr(env, "initial_state_distrib", None)
    if table is None or start is None:
        raise ValueError(
            f"{name} has no transition table (unwrapped.P and unwrapped.initial_state_distrib), so its MDP is unknown; "
            "FrozenLake, CliffWalking and Taxi have one."
        )
    if getattr(env, "fickle_passenger", False):
        raise ValueError(f"{name} with fickle_passenger=True does not follow its transition table; leave it out.")
    try:
        outcomes = _outcomes(table)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError):
        raise ValueError(
            f"The table of {name} must be P[state][action] = [(probability, successor, reward, terminated), ...] with "
            "states and actions numbered from 0; it is not."
        ) from None
    distribution = checks.numbers(f"initial_state_distrib of {name}", start)
    if distribution.shape != (len(table),):
        raise ValueError(
            f"initial_state_distrib of {name} must be [S] = [{len(table)}]; got {list(distribution.shape)}."
        )
    return outcomes, distribution


def _outcomes(table: Any) -> Outcomes:
    """The outcome tables of a transition table `P`; raises an error of Python or NumPy if `P` is malformed."""
    num_states, num_actions = len(table), len(table[0])
    if any(len(table[state]) != num_actions for state in range(num_states)):
        raise ValueError("states differ in their number of actions")
    entries = [
        (state, action, successor, reward, terminated, prob)
        for state in range(num_states)
        for action in range(num_actions)
        for prob, successor, reward, terminated in table[state][action]
    ]
    state, action, successor, reward, terminal, prob = (
        checks.numbers("P", list(column)) for column in zip(*entries, strict=True)
    )
    if not np.isin(successor, np.arange(num_states)).all() or not np.isin(terminal, (0, 1)).all():
        raise ValueError("a successor is no state, or terminated is no truth value")
    transitions = Transitions(state.astype(int), action.astype(int), successor, reward, terminal.astype(bool), prob)
    return pack(transitions, num_states, num_actions)


def _policy_table(env: Any, policy: npt.ArrayLike) -> np.ndarray:
    """`policy` as float64 [S, A]; raises ValueError unless its rows are distributions and its sizes those of `env`."""
    table = checks.numbers("policy", policy)
    if table.ndim != 2 or 0 in table.shape or not are_distributions(table):
        raise ValueError(f"policy must be [S, A] with rows that sum to 1; got shape {table.shape}.")
    sizes = [getattr(getattr(env, name, None), "n", None) for name in ("observation_space", "action_space")]
    if any(size not in (None, actual) for size, actual in zip(sizes, table.shape, strict=True)):
        raise ValueError(f"policy must be [S, A] = {sizes} for this environment; got {list(table.shape)}.")
    return table
