"""Exact values, visits and episode lengths against linear solves in float64, and against enumeration."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.mdp import MDP, exact, stack
from jaxdistill.mdp.precision import float64

# (states, actions, outcomes, whether outcome probabilities depend on the state, continue_prob)
SIZES = [(3, 2, 2, True, 0.9), (5, 3, 20, False, 0.99)]  # Gathers of 20 outcomes are not unrolled.
DISCOUNTS = [1.0, 0.99, 0.5, 0.0]


def random_mdp(seed, size):
    num_states, num_actions, num_outcomes, general, continue_prob = size
    rng = np.random.default_rng(seed)
    rows = (num_states, num_actions) if general else (num_actions,)
    return MDP.from_arrays(
        successor=rng.integers(num_states, size=(num_states, num_outcomes)),
        reward=rng.normal(size=(num_states, num_outcomes)),
        terminal=rng.random((num_states, num_outcomes)) < 0.2,
        outcome_probs=rng.dirichlet(np.full(num_outcomes, 0.7), rows),
        continue_prob=continue_prob,
        start=[0, num_states - 1],
        start_probs=[0.25, 0.75],
        observation=rng.integers(2, size=num_states),
        num_observations=2,
    )


def random_policy(seed, mdp):
    probs = np.random.default_rng(100 + seed).dirichlet(np.full(mdp.num_actions, 0.7), mdp.num_states)
    return probs.astype(np.float32)


def dense(mdp, reward=None):
    """P[S, A, S'] of the steps after which the episode goes on, R[S, A] and the start distribution, in float64."""
    mdp = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64 if leaf.dtype == jnp.float32 else None), mdp)
    reward = mdp.reward if reward is None else np.asarray(reward, np.float64)
    go_on = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    mean = np.zeros((mdp.num_states, mdp.num_actions))
    for s, a, k in itertools.product(*map(range, (mdp.num_states, mdp.num_actions, mdp.num_outcomes))):
        weight = mdp.outcome_probs[s, a, k] if mdp.outcome_probs.ndim == 3 else mdp.outcome_probs[a, k]
        mean[s, a] += weight * reward[s, k]
        if not mdp.terminal[s, k]:
            go_on[s, a, mdp.successor[s, k]] += weight * mdp.continue_prob
    start = np.zeros(mdp.num_states)
    for s, p in zip(mdp.start, mdp.start_probs, strict=True):
        start[s] += p
    return go_on, mean, start


def chain(mdp, policy, discount, reward=None):
    """The discounted transition matrix [S, S], the mean reward [S] and the start distribution [S] under a policy."""
    go_on, mean, start = dense(mdp, reward)
    policy = np.asarray(policy, np.float64)
    return discount * np.einsum("sa,sat->st", policy, go_on), (policy * mean).sum(1), start


def solve_values(mdp, policy, discount, reward=None):
    matrix, b, _ = chain(mdp, policy, discount, reward)
    return np.linalg.solve(np.eye(len(b)) - matrix, b)


@pytest.fixture(params=range(len(SIZES)), ids=[f"S{s}A{a}K{k}" for s, a, k, *_ in SIZES])
def case(request):
    mdp = random_mdp(request.param, SIZES[request.param])
    return mdp, random_policy(request.param, mdp)


# --- against linear solves ---


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_policy_values(case, discount):
    mdp, policy = case
    got = exact.policy_values(mdp, policy, discount)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, solve_values(mdp, policy, discount), atol=2e-5, rtol=1e-5)


def test_policy_values_of_another_reward(case):
    mdp, policy = case
    reward = np.random.default_rng(5).normal(size=mdp.reward.shape).astype(np.float32)
    got = exact.policy_values(mdp, policy, 0.9, reward)
    np.testing.assert_allclose(got, solve_values(mdp, policy, 0.9, reward), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_expected_sum_length_and_occupancy(case, discount):
    mdp, policy = case
    f = np.random.default_rng(6).normal(size=mdp.num_states).astype(np.float32)
    matrix, _, start = chain(mdp, policy, discount)
    system = np.eye(len(f)) - matrix
    sums = exact.expected_sum(mdp, policy, f, discount)
    visits = exact.occupancy(mdp, policy, discount)
    np.testing.assert_allclose(sums, np.linalg.solve(system, f), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(visits, np.linalg.solve(system.T, start), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(exact.start_value(mdp, sums), visits @ f, atol=2e-5, rtol=1e-5)
    if discount == 1:
        length = exact.expected_length(mdp, policy)
        np.testing.assert_allclose(length, np.linalg.solve(system, np.ones_like(f)), rtol=1e-5)
        np.testing.assert_allclose(visits.sum(), exact.start_value(mdp, length), rtol=1e-5)


def test_action_values_and_outcome_weights(case):
    mdp, policy = case
    values = np.random.default_rng(7).normal(size=mdp.num_states).astype(np.float32)
    go_on, mean, _ = dense(mdp)
    np.testing.assert_allclose(exact.action_values(mdp, values, 0.9), mean + 0.9 * go_on @ values, atol=1e-5)
    weights = exact.outcome_weights(mdp, policy)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    table = np.asarray(mdp.outcome_probs)
    table = np.broadcast_to(table, (mdp.num_states, *table.shape[-2:]))
    np.testing.assert_allclose(weights, (policy[:, :, None] * table).sum(1), atol=1e-6)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_optimal_values_are_the_best_of_all_deterministic_policies(case, discount):
    mdp, _ = case
    go_on, mean, _ = dense(mdp)
    rows, best = np.arange(mdp.num_states), np.full(mdp.num_states, -np.inf)
    for actions in itertools.product(range(mdp.num_actions), repeat=mdp.num_states):
        system = np.eye(len(rows)) - discount * go_on[rows, actions]
        best = np.maximum(best, np.linalg.solve(system, mean[rows, actions]))
    np.testing.assert_allclose(exact.optimal_values(mdp, discount), best, atol=3e-5, rtol=1e-5)
    q = exact.optimal_action_values(mdp, discount)
    np.testing.assert_allclose(q, mean + discount * go_on @ best, atol=3e-5, rtol=1e-5)
    played = exact.policy_values(mdp, exact.greedy(q, 1e-4), discount)
    np.testing.assert_allclose(played, best, atol=3e-4)


def test_optimal_values_of_the_negative_reward_give_the_worst_policy():
    mdp = random_mdp(0, SIZES[0])
    negative_q = exact.optimal_action_values(mdp, 0.9, -mdp.reward)
    worst = exact.policy_values(mdp, exact.greedy(negative_q, 1e-4), 0.9)
    np.testing.assert_allclose(worst, -exact.optimal_values(mdp, 0.9, -mdp.reward), atol=1e-4)
    assert np.all(worst <= exact.policy_values(mdp, exact.uniform_policy(mdp), 0.9))


def test_values_agree_with_a_sum_over_trajectories():
    """Sums probability times return over all trajectories of up to 12 steps; longer ones are very improbable."""
    rng = np.random.default_rng(3)
    successor, terminal = np.array([[1, 2, 0], [2, 1, 1], [0, 2, 2]]), np.zeros((3, 3), bool)
    terminal[:, 0] = [False, True, True]
    probs = rng.dirichlet(np.ones(3), (3, 2))
    mdp = MDP.from_arrays(successor, rng.normal(size=(3, 3)), terminal, probs, continue_prob=0.2)
    policy = random_policy(3, mdp)
    weights = np.einsum("sa,sak->sk", np.asarray(policy, np.float64), np.asarray(mdp.outcome_probs))
    reward = np.asarray(mdp.reward, np.float64)

    def walk(state, probability, total, steps):
        if steps == 12 or probability < 1e-10:
            return probability * np.array([total, steps])
        expected = np.zeros(2)
        for k in range(3):
            p, new_total = probability * weights[state, k], total + 0.9**steps * reward[state, k]
            stop = 1.0 if terminal[state, k] else 0.8
            expected += p * stop * np.array([new_total, steps + 1])
            if stop < 1:
                expected += walk(successor[state, k], p * (1 - stop), new_total, steps + 1)
        return expected

    value, length = walk(0, 1.0, 0.0, 0)
    np.testing.assert_allclose(exact.policy_values(mdp, policy, 0.9)[0], value, atol=1e-5)
    np.testing.assert_allclose(exact.expected_length(mdp, policy)[0], length, atol=1e-5)


# --- stacks ---


def test_a_stack_gives_the_results_of_its_single_mdps():
    mdps = [random_mdp(seed, SIZES[1]) for seed in range(4)]
    policies = np.stack([random_policy(seed, mdp) for seed, mdp in enumerate(mdps)])
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    rewards = np.random.default_rng(1).normal(size=(4, 5, 20)).astype(np.float32)
    table = np.random.default_rng(2).dirichlet(np.ones(3), 2).astype(np.float32)
    calls = {
        "values": lambda m, p, v, r: exact.policy_values(m, p, 0.9, r),
        "occupancy": lambda m, p, v, r: exact.occupancy(m, p),
        "q": lambda m, p, v, r: exact.action_values(m, v, 0.9),
        "optimal": lambda m, p, v, r: exact.optimal_values(m, 0.9),
        "start": lambda m, p, v, r: exact.start_value(m, v),
        "table": lambda m, p, v, r: exact.policy_from_table(m, table),  # The stack shares the table.
        "uniform": lambda m, p, v, r: exact.policy_values(m, exact.uniform_policy(m), 0.9, r),
    }
    stacked = stack(mdps)
    for name, call in calls.items():
        got = call(stacked, policies, values, rewards)
        singles = [call(mdp, *args) for mdp, *args in zip(mdps, policies, values, rewards, strict=True)]
        np.testing.assert_allclose(got, np.stack(singles), atol=1e-5, err_msg=name)


def test_functions_of_single_mdps_can_be_vmapped_and_compile_once():
    mdps = stack([random_mdp(seed, SIZES[0]) for seed in range(3)])
    policies = np.stack([random_policy(seed, mdps[seed]) for seed in range(3)])
    mapped = jax.vmap(lambda m, p: exact.policy_values(m, p, 0.9))(mdps, policies)
    np.testing.assert_allclose(mapped, exact.policy_values(mdps, policies, 0.9), atol=1e-5)
    num_programs = exact._map_over_stack._cache_size()
    exact.policy_values(mdps, policies, 0.7)  # Another discount must not compile another program.
    assert exact._map_over_stack._cache_size() == num_programs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: exact.policy_values(m, np.ones((4, 2))), r"policy must have shape \(3, 2\) for MDP"),
        (lambda m: exact.policy_values(m, np.ones((1, 3, 2))), "policy must have shape"),
        (lambda m: exact.policy_values(m, np.ones((3, 2)), 1.0, np.ones(3)), "reward must have shape"),
        (lambda m: exact.expected_sum(m, np.ones((3, 2)), np.ones(4)), "per_state must have shape"),
        (lambda m: exact.start_value(m, np.ones(4)), "values must have shape"),
        (lambda m: exact.policy_from_table(m, np.ones((3, 2))), "table must have shape"),
        (lambda m: exact.occupancy(stack([m, m]), np.ones((3, 3, 2))), r"\(3, 2\) or \(2, 3, 2\)"),
    ],
)
def test_wrong_shapes_give_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(random_mdp(0, SIZES[0]))
    assert "\n" not in str(error.value)


# --- policies ---


def test_greedy_shares_ties_equally():
    q = jnp.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 1.0 - 1e-5, -1.0]], jnp.float32)
    third = 1 / 3
    np.testing.assert_allclose(exact.greedy(q), [[0, 0.5, 0.5, 0], [0.25] * 4, [0, 1, 0, 0]])
    np.testing.assert_allclose(exact.greedy(q, 1e-4), [[0, 0.5, 0.5, 0], [0.25] * 4, [0, 0.5, 0.5, 0]])
    np.testing.assert_allclose(exact.greedy(q[0], 2.5), [third, third, third, 0], rtol=1e-6)
    np.testing.assert_allclose(exact.greedy(-q)[0], [0, 0, 0, 1])


def test_aliased_states_share_a_row():
    mdp = random_mdp(1, SIZES[1])
    table = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], np.float32)
    rows = np.asarray(mdp.observation)
    assert set(rows) == {0, 1}
    np.testing.assert_array_equal(exact.policy_from_table(mdp, table), table[rows])
    np.testing.assert_allclose(exact.uniform_policy(mdp), np.full((5, 3), 1 / 3), rtol=1e-6)


# --- episodes that may never end ---


def loop_mdp(reward, continue_prob=1.0):
    """State 0 leads to 1, or ends with +1; 1 and 2 lead to each other for ever, with `reward` in 2; 3 ends with +5."""
    successor = [[1, 0], [2, 2], [1, 1], [3, 3]]
    rewards = [[0, 1], [reward, reward], [0, 0], [5, 5]]
    terminal = [[False, True], [False, False], [False, False], [True, True]]
    return MDP.from_arrays(successor, rewards, terminal, np.eye(2), continue_prob=continue_prob)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_program_for_common_worlds_is_exact_or_not_finite(discount):
    """So that the program for all worlds is run where, and only where, it is needed."""
    mdps = stack([random_mdp(seed, SIZES[0]) for seed in range(5)])
    uncommon = dataclasses.replace(mdps, continue_prob=np.array([0.9, 1, 0.9, 1 - 1e-7, 1], np.float32))
    policy = np.stack([random_policy(seed, mdps) for seed in range(5)])

    def answers(mdps, common_only):
        functions = [
            *((fn, {"policy": policy}) for fn in (exact.policy_values, exact.occupancy)),
            *((fn, {}) for fn in (exact.optimal_values, exact.optimal_policy)),
        ]
        with float64():
            return [
                np.asarray(exact._map_over_stack(fn.__wrapped__, common_only, mdps, arrays, {}, {"discount": discount}))
                for fn, arrays in functions
            ]

    for common, full in zip(answers(mdps, True), answers(mdps, False), strict=True):
        np.testing.assert_allclose(common, full, rtol=1e-12, atol=1e-12)
    for common, full in zip(answers(uncommon, True), answers(uncommon, False), strict=True):
        is_given = np.isfinite(common.reshape(5, -1)).all(1)
        assert is_given.tolist() == [True, discount < 1, True, discount < 1, discount < 1]
        np.testing.assert_allclose(common[is_given], full[is_given], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:exact")
def test_endless_episodes_give_inf_or_nan_in_their_states_only():
    half = np.full((4, 2), 0.5, np.float32)
    mdp = loop_mdp(1.0)
    np.testing.assert_array_equal(exact.policy_values(mdp, half), [np.nan, np.nan, np.nan, 5])
    np.testing.assert_array_equal(exact.expected_length(mdp, half), [np.inf, np.inf, np.inf, 1])
    np.testing.assert_array_equal(exact.occupancy(mdp, half), [1, np.inf, np.inf, 0])
    np.testing.assert_array_equal(exact.optimal_values(mdp), [np.nan, np.nan, np.nan, 5])
    right = np.tile(np.float32([0, 1]), (4, 1))
    np.testing.assert_array_equal(exact.policy_values(mdp, right)[::3], [1, 5])
    assert exact.start_value(mdp, exact.expected_length(mdp, right)) == 1


@pytest.mark.filterwarnings("ignore:exact")
def test_endless_episodes_without_reward_have_finite_values():
    half = np.full((4, 2), 0.5, np.float32)
    np.testing.assert_allclose(exact.policy_values(loop_mdp(0.0), half), [0.5, 0, 0, 5])
    np.testing.assert_allclose(exact.optimal_values(loop_mdp(0.0)), [1, 0, 0, 5])
    np.testing.assert_allclose(exact.optimal_values(loop_mdp(-1.0))[::3], [1, 5])


@pytest.mark.parametrize("continue_prob", [0.999, 0.99999])
def test_long_episodes_have_nine_digits(continue_prob):
    rtol = 1e-9
    mdp = loop_mdp(1.0, continue_prob)
    stop = 1 - float(mdp.continue_prob)  # The MDP holds a float32.
    half = np.full((4, 2), 0.5, np.float32)
    expected = 1 / (1 - (1 - stop) ** 2)  # From state 1 there is a reward in every second step.
    np.testing.assert_allclose(exact.policy_values(mdp, half)[1], expected, rtol=rtol)
    np.testing.assert_allclose(exact.expected_length(mdp, half)[1], 1 / stop, rtol=rtol)
    np.testing.assert_allclose(exact.optimal_values(mdp)[1], expected, rtol=rtol)


def test_corridors_without_random_termination():
    """A symmetric walk between two ends takes s (n - 1 - s) steps, at discount 1 and continue_prob 1."""
    n = 21
    s = np.arange(n)
    successor = np.stack([np.maximum(s - 1, 0), np.minimum(s + 1, n - 1)], axis=1)
    terminal = np.isin(successor, [0, n - 1])
    mdp = MDP.from_arrays(successor, terminal * np.sign(successor - 1), terminal, np.eye(2), start=n // 2)
    half = exact.uniform_policy(mdp)
    inner = slice(1, n - 1)
    np.testing.assert_allclose(exact.expected_length(mdp, half)[inner], (s * (n - 1 - s))[inner], rtol=1e-4)
    np.testing.assert_allclose(exact.occupancy(mdp, half).sum(), 10 * 10, rtol=1e-4)


def test_a_policy_with_nan_gives_nan():
    mdp = random_mdp(0, SIZES[0])
    policy = np.full((3, 2), np.nan, np.float32)
    assert np.isnan(exact.policy_values(mdp, policy)).all() and np.isnan(exact.expected_length(mdp, policy)).all()


# --- derivatives ---


def test_gradients_are_visits_times_action_values_or_outcome_weights(case):
    mdp, policy = case
    objective = lambda p, r: exact.start_value(mdp, exact.policy_values(mdp, p, 0.9, r))  # noqa: E731
    by_policy, by_reward = jax.grad(objective, argnums=(0, 1))(policy, mdp.reward)
    visits = exact.occupancy(mdp, policy, 0.9)[:, None]
    q = exact.action_values(mdp, exact.policy_values(mdp, policy, 0.9), 0.9)
    np.testing.assert_allclose(by_policy, visits * q, atol=2e-5)
    np.testing.assert_allclose(by_reward, visits * exact.outcome_weights(mdp, policy), atol=1e-5)


def test_derivatives_in_forward_mode():
    mdp = random_mdp(0, SIZES[0])
    policy = random_policy(0, mdp)
    direction = np.random.default_rng(8).normal(size=policy.shape).astype(np.float32)
    objective = lambda p: exact.start_value(mdp, exact.policy_values(mdp, p, 0.9))  # noqa: E731
    _, slope = jax.jvp(objective, (policy,), (direction,))
    q = exact.action_values(mdp, exact.policy_values(mdp, policy, 0.9), 0.9)
    expected = exact.occupancy(mdp, policy, 0.9) @ (q * direction).sum(1)
    np.testing.assert_allclose(slope, expected, atol=1e-4)


def test_gradient_of_the_occupancy_agrees_with_central_differences():
    mdp = random_mdp(1, SIZES[1])
    policy, f = random_policy(1, mdp), np.random.default_rng(9).normal(size=5).astype(np.float32)
    got = jax.grad(lambda p: exact.occupancy(mdp, p, 0.9) @ f)(policy)

    def objective(p):
        matrix, _, start = chain(mdp, p, 0.9)
        return np.linalg.solve((np.eye(5) - matrix).T, start) @ f

    for index in np.ndindex(policy.shape):
        step = np.zeros(policy.shape)
        step[index] = 1e-5
        slope = (objective(policy + step) - objective(policy - step)) / 2e-5
        np.testing.assert_allclose(got[index], slope, atol=1e-4)
