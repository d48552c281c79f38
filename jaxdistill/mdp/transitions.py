"""Conversion of a list of transitions into the outcome tables of an `MDP`, in NumPy.

The reward of a transition may depend on its state, action and successor. In an MDP it belongs to an outcome. So the
outcomes of a state are the distinct triples (successor, reward, terminal) that some action produces there. No rewards
are averaged, and K is small if each state has few transitions.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions of an MDP with S states and A actions; the probabilities of equal transitions add up.

    Attributes:
      state, action, successor: int [N].
      reward: float [N], units of return.
      terminal: bool [N], whether the transition ends the episode.
      prob: float [N], probability of the transition given its state and action.
    """

    state: np.ndarray
    action: np.ndarray
    successor: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    prob: np.ndarray


class Outcomes(NamedTuple):
    """The first four arguments of `MDP.from_arrays`: three tables [S, K], then the outcome probabilities [S, A, K]."""

    successor: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    outcome_probs: np.ndarray


def pack(transitions: Transitions, num_states: int, num_actions: int) -> Outcomes:
    """The outcome tables of `transitions`.

    A state with fewer than K outcomes is filled up with outcomes that stay there and have probability 0.
    """
    columns = (transitions.state, transitions.successor, transitions.reward, transitions.terminal)
    rows = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    # np.unique sorts the rows by state first, so the outcomes of a state are consecutive.
    distinct_rows, row_index = np.unique(rows, axis=0, return_inverse=True)
    state = distinct_rows[:, 0].astype(np.int64)
    outcome = np.arange(len(state)) - np.searchsorted(state, state)  # Number of the outcome within its state.
    num_outcomes = int(outcome.max(initial=0)) + 1
    successor = np.repeat(np.arange(num_states)[:, None], num_outcomes, axis=1)
    reward, terminal = np.zeros(successor.shape), np.zeros(successor.shape, bool)
    successor[state, outcome], reward[state, outcome], terminal[state, outcome] = distinct_rows[:, 1:].T
    outcome_probs = np.zeros((num_states, num_actions, num_outcomes))
    index = (transitions.state, transitions.action, outcome[row_index.ravel()])
    np.add.at(outcome_probs, index, transitions.prob)
    return Outcomes(successor, reward, terminal, outcome_probs)
