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

from jaxdistill.mdp import MDP, NO_TIME_LIMIT, exact, stack

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


def world(kind, seed):
    """A world of 12 states, 3 actions, 4 outcomes and 2 start states; its episodes have up to a million steps."""
    rng, s, ending = np.random.default_rng(seed), np.arange(12), 0.1
    successor, terminal = rng.integers(12, size=(12, 4)), np.zeros((12, 4), bool)
    terminal[:, 3] = True
    if kind == "ring":
        successor, ending = np.stack([(s + 1) % 12, (7 * s + 3) % 12, s, 0 * s], axis=1), 1e-6
    if kind == "corridor":
        successor = np.stack([np.maximum(s - 1, 0), np.minimum(s + 1, 11), s, s], axis=1)
        terminal[:, :2], terminal[:, 3] = (successor[:, :2] % 11 == 0), False
    probs = rng.dirichlet(np.ones(3), (12, 3)) * (1 - ending)
    probs = np.append(probs, np.full((12, 3, 1), ending), axis=-1)
    return MDP.from_arrays(
        successor,
        rng.normal(size=(12, 4)) + (kind == "ring"),
        terminal,
        np.float32(probs),
        continue_prob={"rare end": 1 - 1e-6, "discounted": 0.99}.get(kind, 1.0),
        start=[3, 5] if kind == "starts" else [4, 4],
        start_probs=[0.3, 0.7],
    )


KINDS = ("plain", "starts", "discounted", "rare end", "ring", "corridor")
WORLDS = [world(kind, seed) for seed, kind in enumerate(KINDS * 3)]
STACK = stack(WORLDS)
POLICIES = np.float32(np.random.default_rng(1).dirichlet(np.ones(3), (len(WORLDS), 12)))


@pytest.mark.parametrize("discount", [1.0, 0.99, 0.0])
def test_all_sums_are_those_of_a_dense_solution(discount):
    got = exact_totals(STACK, POLICIES, discount)
    for m, mdp in enumerate(WORLDS):
        for quantity, value in dense_totals(mdp, POLICIES[m], discount).items():
            assert got[quantity].dtype == np.float64
            assert_close(got[quantity][m], value)


def test_the_longest_episodes_against_fractions():
    """A dense float64 solution has an error of 1e-16 times the length of the episodes; fractions have none."""
    endings = np.float32([1e-3, 1e-6, 1e-10, 1e-20])
    probs = np.stack([1 - endings, endings], axis=-1)[:, None]
    successor = np.broadcast_to([[1, 0], [0, 0]], (4, 2, 2))
    mdps = MDP.from_arrays(successor, [[1, 0], [2, 0]], [[False, True]] * 2, probs)
    always = np.ones((2, 1))
    values, lengths = exact.policy_values(mdps, always), exact.expected_length(mdps, always)
    visits, best = exact.occupancy(mdps, always), exact.optimal_values(mdps)
    for m, row in enumerate(np.asarray(mdps.outcome_probs)[:, 0]):
        stay, end = (Fraction(float(x)) for x in row)  # The row of float32 numbers is divided by its sum.
        stay, end = stay / (stay + end), end / (stay + end)
        first = float(stay * (1 + 2 * stay) / (1 - stay**2))
        assert_close([values[m, 0], best[m, 0]], np.full(2, first))
        assert_close(lengths[m], np.full(2, float(1 / end)))
        assert_close(visits[m], np.array([float(x / (1 - stay**2)) for x in (1, stay)]))


def test_optimal_values_satisfy_the_equation_of_optimality():
    """A solution of v = max_a Q(a) is that of its greedy policy, which NumPy solves by itself."""
    values = exact.optimal_values(STACK)
    q = exact.action_values(STACK, values)
    for m, mdp in enumerate(WORLDS):
        policy = np.eye(3)[q[m].argmax(-1)]
        assert_close(values[m], dense_totals(mdp, policy, 1.0)["values"])


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_trace_computes_in_float64_and_rounds_the_result(is_mapped):
    """The values of the rings are a million; sums in float32 would be off by percents."""
    rounding = RELATIVE if jax.config.jax_enable_x64 else 1.2e-7
    fn = jax.vmap(exact.policy_values) if is_mapped else exact.policy_values
    got = jax.jit(fn)(STACK, POLICIES)
    for m, mdp in enumerate(WORLDS):
        assert_close(got[m], dense_totals(mdp, POLICIES[m], 1.0)["values"], rounding)


# --- time limits ---


def cut_totals(mdp, policy, limit, discount=1.0):
    """Values, lengths and visits of episodes of at most `limit` steps, by powers of the matrix."""
    matrix, b, start = dense_chain(mdp, policy, discount)
    whole, _, _ = dense_chain(mdp, policy, 1.0)
    powers = [np.linalg.matrix_power(matrix, t) for t in range(limit)]
    return {
        "values": sum(power @ b for power in powers),
        "length": sum(np.linalg.matrix_power(whole, t) @ np.ones(len(b)) for t in range(limit)),
        "visits": sum(power.T @ start for power in powers),
    }


def test_time_limits_are_sums_of_powers():
    limits = np.resize([1, 2, 17, NO_TIME_LIMIT], len(WORLDS))
    got = exact_totals(STACK.with_time_limit(limits), POLICIES, 0.9)
    for m, (mdp, limit) in enumerate(zip(WORLDS, limits, strict=True)):
        is_cut = limit < NO_TIME_LIMIT
        expected = cut_totals(mdp, POLICIES[m], limit, 0.9) if is_cut else dense_totals(mdp, POLICIES[m], 0.9)
        for quantity, value in expected.items():
            assert_close(got[quantity][m], value)


def test_derivatives_are_nan_with_a_time_limit_and_right_without():
    mdps = STACK[:2].with_time_limit([3, NO_TIME_LIMIT])

    def total(policy, mdp):
        return exact.policy_values(mdp, policy, 0.5).sum()

    slopes = jax.vmap(jax.grad(total))(jnp.asarray(POLICIES[:2]), mdps)
    assert np.isnan(slopes[0]).all()
    np.testing.assert_allclose(slopes[1], jax.grad(total)(jnp.asarray(POLICIES[1]), WORLDS[1]), rtol=1e-5, atol=1e-6)


# --- what has no finite value ---


def test_nan_has_a_reason_that_names_world_and_state():
    loop = MDP.from_arrays([[0, 1], [1, 1]], [[0.0, 1.0], [1.0, 1.0]], [[True, False], [False, False]], np.eye(2))
    safe, half = dataclasses.replace(loop, continue_prob=jnp.float32(0.5)), np.full((2, 2), 0.5)
    with pytest.warns(UserWarning, match=r"policy_values is nan for state 0 of world 1 .* may never end") as caught:
        values = exact.policy_values(stack([safe, loop]), half)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(np.isnan(values), [[False, False], [True, True]])
    with pytest.warns(UserWarning, match="optimal_values is nan"):
        assert np.isnan(exact.optimal_values(loop)).all()
    with pytest.warns(UserWarning, match="the policy of state 1 holds no probabilities"):
        assert np.isnan(exact.policy_values(safe, np.array([[0.5, 0.5], [0.5, 0.6]]))[1])
    np.testing.assert_array_equal(exact.expected_length(loop, half), np.inf)


def test_idle_loops_have_the_value_0_and_are_chosen_where_that_is_best():
    """State 0 may stay at no cost, go to the end at a cost of 5, or play state 1, where each step costs 1."""
    successor, reward = [[0, 0, 1], [1, 1, 0]], [[0.0, -5.0, 0.0], [-1.0, -1.0, -1.0]]
    mdp = MDP.from_arrays(successor, reward, [[False, True, False]] + [[False, False, False]], np.eye(3))
    np.testing.assert_array_equal(exact.optimal_values(mdp), [0, -1])
    np.testing.assert_array_equal(exact.policy_values(mdp, np.eye(3)[[0, 2]]), [0, -1])


# --- in other processes ---

IN_A_PROCESS = """
import numpy as np
from tests.mdp import test_precision as t
values = t.exact.policy_values(t.STACK, t.POLICIES)
for m, mdp in enumerate(t.WORLDS):
    t.assert_close(values[m], t.dense_totals(mdp, t.POLICIES[m], 1.0)["values"])
"""


@pytest.mark.parametrize("x64", ["0", "1"])
def test_the_setting_of_the_process_does_not_matter(x64):
    environment = {**os.environ, "JAX_ENABLE_X64": x64}
    subprocess.run([sys.executable, "-c", IN_A_PROCESS], env=environment, check=True)
