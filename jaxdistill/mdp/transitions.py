"""From transitions one by one to the outcome tables of an `MDP`. Plain NumPy.

Rewards may depend on state, action and successor. An MDP has them on outcomes, so the outcomes of a state are the
distinct (successor, reward, whether it ends) that some action produces there: nothing is averaged, and K is small where
transitions are few.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions of S states and A actions; the probabilities of equal ones add up. Arrays [N].

    Attributes:
      state, action, successor: int.
      reward: float, units of return.
      terminal: bool, whether it ends the episode.
      prob: float, given state and action.
    """

    state: np.ndarray
    action: np.ndarray
    successor: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    prob: np.ndarray


class Outcomes(NamedTuple):
    """The first four arguments of `MDP.from_arrays`: [S, K] three times, and [S, A, K]."""

    successor: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    outcome_probs: np.ndarray


def pack(found: Transitions, num_states: int, num_actions: int) -> Outcomes:
    """The outcome tables of these transitions. Outcomes that a state does not need stay there, with probability 0."""
    columns = (found.state, found.successor, found.reward, found.terminal)
    table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    distinct, which = np.unique(table, axis=0, return_inverse=True)  # sorted by state first
    state = distinct[:, 0].astype(np.int64)
    rank = np.arange(len(state)) - np.searchsorted(state, state)  # within its state
    num_outcomes = int(rank.max(initial=0)) + 1
    successor = np.repeat(np.arange(num_states)[:, None], num_outcomes, axis=1)
    reward, terminal = np.zeros(successor.shape), np.zeros(successor.shape, bool)
    successor[state, rank], reward[state, rank], terminal[state, rank] = distinct[:, 1:].T
    outcome_probs = np.zeros((num_states, num_actions, num_outcomes))
    np.add.at(outcome_probs, (found.state, found.action, rank[which.ravel()]), found.prob)
    return Outcomes(successor, reward, terminal, outcome_probs)
