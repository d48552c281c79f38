"""States from which an episode cannot end, against the powers of the matrix of possible steps."""

import dataclasses
import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.mdp import MDP, exact, stack


def sparse_mdp(rng, has_table_by_state):
    """A random MDP of 6 states in which few outcomes are possible and few end the episode."""
    s, a, k = 6, 2, 3
    probs = rng.dirichlet(np.ones(k), (s, a) if has_table_by_state else (a,)) * (
        rng.random((s, a, k) if has_table_by_state else (a, k)) < 0.5
    )
    probs[..., 0] += probs.sum(-1) == 0
    return MDP.from_arrays(
        rng.integers(s, size=(s, k)),
        rng.normal(size=(s, k)),
        rng.random((s, k)) < 0.1,
        probs / probs.sum(-1, keepdims=True),
        start=rng.integers(s, size=2),
        start_probs=[[0.0, 1.0], [0.5, 0.5]][rng.integers(2)],
    )


def by_matrix_powers(mdp, policy):
    """The first state, or None, from the reachability matrix of a single MDP."""
    s, terminal, successor = mdp.num_states, np.asarray(mdp.terminal), np.asarray(mdp.successor)
    probs = np.broadcast_to(np.asarray(mdp.outcome_probs), (s, mdp.num_actions, mdp.num_outcomes))
    step, ends = np.zeros((s, s)), np.zeros(s, bool)
    for state, action, outcome in itertools.product(*map(range, probs.shape)):
        if probs[state, action, outcome] > 0 and (policy is None or policy[state, action] > 0):
            if terminal[state, outcome]:
                ends[state] = True
            else:
                step[state, successor[state, outcome]] = 1
    closure = np.linalg.matrix_power(np.eye(s) + step, s) > 0
    starts = np.asarray(mdp.start)[np.asarray(mdp.start_probs) > 0]
    caught = closure[starts].any(0) & ~(closure @ ends)
    return int(np.argmax(caught)) if caught.any() else None


@pytest.mark.parametrize("has_table_by_state", [False, True])
@pytest.mark.parametrize("policies", ["any", "shared", "by world"])
def test_the_first_state_is_that_of_the_matrix_powers(has_table_by_state, policies):
    rng = np.random.default_rng(0)
    worlds = [sparse_mdp(rng, has_table_by_state) for _ in range(30)]
    tables = np.where(rng.random((30, 6, 2)) < 0.2, 0.0, 0.5).astype(np.float32)
    tables[1, :4] = 0.5  # Each of the three kinds has worlds whose episodes end and others.
    tables = {"any": [None] * 30, "shared": [tables[1]] * 30, "by world": tables}[policies]
    expected = [by_matrix_powers(mdp, table) for mdp, table in zip(worlds, tables, strict=True)]
    assert {state is None for state in expected} == {True, False}
    for mdp, table, state in zip(worlds, tables, expected, strict=True):
        assert exact.never_ending_state(mdp, table) == (None if state is None else (0, state))
    together = {"any": None, "shared": tables[1], "by world": np.stack(tables) if policies == "by world" else None}
    first = next((m, state) for m, state in enumerate(expected) if state is not None)
    assert exact.never_ending_state(stack(worlds), together[policies]) == first
    ending = [m for m, state in enumerate(expected) if state is None]
    table = together[policies]
    rest = table[ending] if policies == "by world" else table
    assert exact.never_ending_state(stack(worlds)[ending], rest) is None


def test_worlds_whose_episodes_end_anyway_are_skipped():
    trap = MDP.from_arrays([[0]], [[0.0]], [[False]], [[1.0]])
    assert exact.never_ending_state(trap) == (0, 0)
    assert exact.never_ending_state(trap.with_time_limit(5)) is None
    discounted = dataclasses.replace(trap, continue_prob=jnp.float32(0.99))
    assert exact.never_ending_state(discounted) is None
    assert exact.never_ending_state(stack([discounted, trap.with_time_limit(9), trap])) == (2, 0)


def test_a_probability_that_is_tiny_is_possible():
    leaving = np.float32([1e-45, 1])  # the smallest number of float32
    mdp = MDP.from_arrays([[0, 0]], [[0.0, 0.0]], [[True, False]], [[1e-40, 1.0], [0.0, 1.0]])
    assert exact.never_ending_state(mdp, leaving[None]) is None
    assert exact.never_ending_state(mdp, np.float32([[0, 1]])) == (0, 0)


def test_the_first_state_of_long_corridors():
    """The agent starts in state 5 and leaves at the right end; in state 200 the policy turns back."""
    s = np.arange(400)
    successor = np.stack([np.maximum(s - 1, 0), np.minimum(s + 1, 399)], axis=1)
    terminal = np.stack([s < 0, s == 399], axis=1)
    mdp = MDP.from_arrays(np.broadcast_to(successor, (50, 400, 2)), np.zeros((400, 2)), terminal, np.eye(2), start=5)
    assert exact.never_ending_state(mdp) is None
    turns_back = np.where(s[:, None] == 200, [1.0, 0.0], [0.0, 1.0])
    assert exact.never_ending_state(mdp, turns_back) == (0, 5)


def test_a_policy_of_another_shape_is_one_clear_line():
    mdp = MDP.from_arrays([[0]], [[0.0]], [[True]], [[1.0]])
    with pytest.raises(ValueError, match=re.escape("policy must have shape (1, 1)")) as error:
        exact.never_ending_state(mdp, np.ones((2, 1)))
    assert "\n" not in str(error.value)
