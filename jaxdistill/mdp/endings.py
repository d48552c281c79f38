"""Finds which states can be reached and from which an episode can end, exactly, from the graph of possible steps."""

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from jaxdistill.mdp.mdp import MDP, NO_TIME_LIMIT


def never_ending_state(mdps: MDP, policy: npt.ArrayLike | None = None) -> tuple[int, int] | None:
    """The first (world, state) that an episode can reach and from which it cannot end, or None.

    Every episode ends in a world with a time limit, and in one with `continue_prob` < 1; these worlds have no such
    state. The answer is exact, because it depends only on which probabilities are 0. It is computed on the host.

    Args:
      mdps: M stacked MDPs, or one, which is world 0.
      policy: [S, A] or [M, S, A], whose actions of probability 0 are not taken; None: every action may be taken, so
        that no policy can end the episode from the state that is found.

    Raises:
      ValueError: a policy of another shape.
    """
    names = ("successor", "terminal", "outcome_probs", "continue_prob", "start", "start_probs", "time_limit")
    host = {name: np.asarray(getattr(mdps, name)) for name in names}
    if not mdps.is_stacked:
        host = {name: array[None] for name, array in host.items()}
    worlds = np.flatnonzero((host["continue_prob"] >= 1) & (host["time_limit"] >= NO_TIME_LIMIT))
    if worlds.size == 0:
        return None
    host = {name: array[worlds] for name, array in host.items()}
    table = None if policy is None else _by_world(mdps, policy)[worlds if np.ndim(policy) == 3 else slice(None)]
    is_possible = possible_outcomes(host["outcome_probs"], table)
    is_possible = np.broadcast_to(is_possible, host["successor"].shape)
    is_caught = _are_reached(host, is_possible) & ~can_end(host["successor"], host["terminal"], is_possible)
    if not is_caught.any():
        return None
    world, state = np.argwhere(is_caught)[0]
    return int(worlds[world]), int(state)


def reached_states(mdps: MDP, policy: npt.ArrayLike | None = None) -> np.ndarray:
    """Whether an episode can come to a state in which the agent then acts, bool [M, S], or [S] for a single MDP.

    The answer is exact and honours time limits. Arguments and errors are as in `never_ending_state`.
    """
    names = ("successor", "terminal", "outcome_probs", "continue_prob", "start", "start_probs", "time_limit")
    host = {name: np.asarray(getattr(mdps, name)) for name in names}
    if not mdps.is_stacked:
        host = {name: array[None] for name, array in host.items()}
    is_possible = possible_outcomes(host["outcome_probs"], None if policy is None else _by_world(mdps, policy))
    is_possible = np.broadcast_to(is_possible, host["successor"].shape) & (host["continue_prob"] > 0)[:, None, None]
    reached = _are_reached(host, is_possible)
    if (host["time_limit"] < NO_TIME_LIMIT).any():
        reached &= _are_reached_within(host, is_possible)
    return reached if mdps.is_stacked else reached[0]


def _are_reached_within(host: dict[str, np.ndarray], is_possible: np.ndarray) -> np.ndarray:
    """Whether an episode can reach a state before its time limit, bool [M, S]."""
    num_worlds, num_states = is_possible.shape[:2]
    origin, target = _steps(host["successor"], is_possible & ~host["terminal"])
    graph = sparse.csr_array((np.ones(len(origin)), (target, origin)), shape=(is_possible[..., 0].size,) * 2)
    reached = np.zeros((num_worlds, num_states), bool)
    worlds, starts = np.nonzero(host["start_probs"] > 0)
    reached[worlds, host["start"][worlds, starts]] = True
    for step in range(1, num_worlds * num_states):
        goes_on = np.repeat(step < host["time_limit"], num_states)
        later = reached | ((graph.multiply(reached.ravel()).sum(axis=1) > 0) & goes_on).reshape(reached.shape)
        if (later == reached).all():
            break
        reached = later
    return reached


def possible_outcomes(outcome_probs: np.ndarray, policy: np.ndarray | None = None) -> np.ndarray:
    """Whether each outcome is possible in a state, bool [M, S, K]; [M, 1, K] if it is the same in all states.

    Args:
      outcome_probs: [M, A, K] or [M, S, A, K].
      policy: [M, S, A] or [1, S, A]; None: every action may be taken.
    """
    is_outcome = outcome_probs > 0
    if policy is None:
        is_possible = np.asarray(is_outcome.any(-2))
        return is_possible if is_outcome.ndim == 4 else is_possible[:, None]
    # Products of probabilities could underflow to 0; counts of possible actions do not.
    is_action, is_outcome = (policy > 0).astype(np.float32), is_outcome.astype(np.float32)
    if is_outcome.ndim == 3:
        return is_action @ is_outcome > 0.5
    return (is_action[:, :, None] @ is_outcome)[:, :, 0] > 0.5


def can_end(successor: np.ndarray, terminal: np.ndarray, is_possible: np.ndarray) -> np.ndarray:
    """Whether an end of the episode can be reached from a state by possible outcomes, bool [M, S].

    All arguments are [M, S, K].
    """
    origin, target = _steps(successor, is_possible)  # A state with a possible last step is among the first ones.
    is_last = (is_possible & terminal).any(-1)
    return _connected(target, origin, np.flatnonzero(is_last), is_last.size).reshape(is_last.shape)


def _are_reached(host: dict[str, np.ndarray], is_possible: np.ndarray) -> np.ndarray:
    """Whether an episode can reach a state, bool [M, S]."""
    num_worlds, num_states = is_possible.shape[:2]
    origin, target = _steps(host["successor"], is_possible & ~host["terminal"])
    first = (host["start"] + num_states * np.arange(num_worlds)[:, None])[host["start_probs"] > 0]
    return _connected(origin, target, first, num_worlds * num_states).reshape(num_worlds, num_states)


def _steps(successor: np.ndarray, is_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The states between which steps lead, numbered through all worlds: two arrays [N]."""
    num_worlds, num_states = successor.shape[:2]
    numbers = np.arange(num_worlds * num_states).reshape(num_worlds, num_states, 1)
    origin = np.broadcast_to(numbers, successor.shape)[is_step]
    return origin, (successor + num_states * np.arange(num_worlds)[:, None, None])[is_step]


def _connected(origin: np.ndarray, target: np.ndarray, first: np.ndarray, num_nodes: int) -> np.ndarray:
    """Whether a node is among `first` or a path of steps from there leads to it, bool [num_nodes]."""
    # An additional node, from which a step leads to each node of `first`, allows one search for all worlds.
    origin = np.concatenate([origin, np.full(len(first), num_nodes)])
    target = np.concatenate([target, first])
    ones = np.ones(len(origin), bool)
    graph = sparse.csr_array((ones, (origin, target)), shape=(num_nodes + 1, num_nodes + 1))
    order = csgraph.breadth_first_order(graph, num_nodes, return_predecessors=False)
    is_connected = np.zeros(num_nodes + 1, bool)
    is_connected[order] = True
    return is_connected[:-1]


def _by_world(mdps: MDP, policy: npt.ArrayLike) -> np.ndarray:
    """The policy as [1, S, A] or [M, S, A]; raises ValueError for another shape."""
    table = np.asarray(policy)
    shape = (mdps.num_states, mdps.num_actions)
    allowed = [shape, (mdps.num_mdps, *shape)] if mdps.is_stacked else [shape]
    if table.shape not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"policy must have shape {expected} for {mdps}, got {table.shape}")
    return table if table.ndim == 3 else table[None]
