"""All that is called exact is computed in float64, in every process and trace: against dense solves and fractions."""

import dataclasses
import os
import subprocess
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.mdp import MDP, exact, stack
from jaxdistill.worlds.corridor import corridor
from jaxdistill.worlds.garnet import garnet

RELATIVE = 1e-9


def normalised(x):
    x = np.asarray(x, np.float64)
    return x / x.sum(-1, keepdims=True)


def dense_chain(mdp, policy, discount):
    """P [S, S], mean reward [S] and start distribution [S] in float64 NumPy, with a loop over outcomes."""
    s, k = mdp.num_states, mdp.num_outcomes
    probs = np.broadcast_to(normalised(mdp.outcome_probs), (s, mdp.num_actions, k))
    weights = np.einsum("sa,sak->sk", normalised(policy), probs)
    onward = weights * np.where(mdp.terminal, 0.0, discount * np.float64(mdp.continue_prob))
    matrix, start = np.zeros((s, s)), np.zeros(s)
    np.add.at(matrix, (np.arange(s)[:, None], np.asarray(mdp.successor)), onward)
    np.add.at(start, np.asarray(mdp.start), normalised(mdp.start_probs))
    return matrix, (weights * np.asarray(mdp.reward, np.float64)).sum(1), start


def dense_totals(mdp, policy, discount):
    """Values, sums of f(s) = s, lengths and visits by `np.linalg.solve`."""
    matrix, b, start = dense_chain(mdp, policy, discount)
    system = np.eye(len(b)) - matrix
    undiscounted = np.eye(len(b)) - dense_chain(mdp, policy, 1.0)[0]
    return {
        "values": np.linalg.solve(system, b),
        "sum": np.linalg.solve(system, np.arange(len(b), dtype=float)),
        "length": np.linalg.solve(undiscounted, np.ones(len(b))),
        "visits": np.linalg.solve(system.T, start),
    }


def exact_totals(mdp, policy, discount):
    return {
        "values": exact.policy_values(mdp, policy, discount),
        "sum": exact.expected_sum(mdp, policy, np.arange(mdp.num_states, dtype=np.float32), discount),
        "length": exact.expected_length(mdp, policy),
        "visits": exact.occupancy(mdp, policy, discount),
    }


def assert_close(got, expected, relative=RELATIVE):
    error = np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= relative, error


def restarting(ending, num_states=30):
    """A ring that is walked for ever with a reward in each step; a step ends with probability `ending`."""
    s = np.arange(num_states)
    successor = np.stack([(s + 1) % num_states, (7 * s + 3) % num_states, 0 * s], axis=1)
    probs = np.float32([[0.9, 0.1, ending], [0.2, 0.8, ending]])
    reward = np.random.default_rng(0).random((num_states, 3))
    return MDP.from_arrays(successor, reward, [[False, False, True]] * num_states, probs)


def worlds():
    """Worlds of all kinds, with the probability to end a step down to 1e-6."""
    rng = np.random.default_rng(1)
    aliased = garnet(jax.random.key(0), 1, num_states=12)[0].with_observation(np.arange(12) % 3)
    starts = dataclasses.replace(
        garnet(jax.random.key(1), 1, num_states=40, num_actions=4)[0],
        start=jnp.int32([3, 3, 0, 7]),
        start_probs=jnp.float32([0.1, 0.2, 0.3, 0.4]),
    )
    rare = dataclasses.replace(aliased, continue_prob=jnp.float32(1 - 1e-6))
    walk = corridor(40)[0] if corridor(40).is_stacked else corridor(40)
    cases = {"aliased": aliased, "starts": starts, "rare": rare, "corridor": walk}
    cases |= {f"ending {ending:g}": restarting(ending) for ending in (1e-2, 1e-4, 1e-6)}
    tables = {name: rng.dirichlet(np.ones(mdp.num_actions), mdp.num_states) for name, mdp in cases.items()}
    return {name: (mdp, np.float32(tables[name])) for name, mdp in cases.items()}


WORLDS = worlds()


@pytest.mark.parametrize("name", WORLDS)
def test_all_sums_are_those_of_a_dense_solution(name):
    mdp, policy = WORLDS[name]
    for discount in (1.0, 0.99):
        got, expected = exact_totals(mdp, policy, discount), dense_totals(mdp, policy, discount)
        for quantity, value in expected.items():
            assert got[quantity].dtype == np.float64
            assert_close(got[quantity], value)
