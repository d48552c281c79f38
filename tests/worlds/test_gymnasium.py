"""MDPs of Gymnasium environments: the law and the optimal values of the table, and the environment's own returns."""

import types

import jax
import numpy as np
import pytest

from jaxdistill import check_method, from_gymnasium, plotting, stack, teachers, train
from jaxdistill.mdp import exact
from jaxdistill.worlds.gymnasium import play

# The names have no version, because the versions differ between the releases of Gymnasium.
WORLDS = {
    "slippery": ("FrozenLake", {}),
    "dry": ("FrozenLake", {"is_slippery": False}),
    "large": ("FrozenLake", {"map_name": "8x8"}),
    "cliff": ("CliffWalking", {}),
    "taxi": ("Taxi", {}),
}


def newest(family):
    """The newest version of a family of environments; Gymnasium warns if an id has no version."""
    gymnasium = pytest.importorskip("gymnasium")
    return max(name for name in gymnasium.registry if name.startswith(f"{family}-v"))


def make(world):
    family, options = WORLDS[world]
    return pytest.importorskip("gymnasium").make(newest(family), **options)


def law(entries):
    """{(successor, reward, terminal): probability} of a list of transitions."""
    probs = {}
    for prob, successor, reward, terminal in entries:
        key = (int(successor), float(np.float32(reward)), bool(terminal))
        probs[key] = probs.get(key, 0) + prob
    return probs


def assert_same_law(mdp, table):
    successor, reward, terminal, probs = map(np.asarray, (mdp.successor, mdp.reward, mdp.terminal, mdp.outcome_probs))
    for s in range(mdp.num_states):
        for a in range(mdp.num_actions):
            outcomes = zip(probs[s, a], successor[s], reward[s], terminal[s], strict=True)
            got, expected = law(o for o in outcomes if o[0] > 0), law(table[s][a])
            assert got.keys() == expected.keys()
            for key, prob in expected.items():
                assert got[key] == pytest.approx(prob, abs=1e-6)


def value_iteration(table, discount):
    """Optimal values computed from the table alone, in float64."""
    rows = [
        (s, a, prob, successor, reward, not terminal)
        for s in range(len(table)) for a in range(len(table[0])) for prob, successor, reward, terminal in table[s][a]
    ]  # fmt: skip
    s, a, prob, successor, reward, goes_on = (np.array(column) for column in zip(*rows, strict=True))
    values = np.zeros(len(table))
    for _ in range(20_000):
        q = np.zeros((len(table), len(table[0])))
        np.add.at(q, (s, a), prob * (reward + discount * goes_on * values[successor]))
        values, before = q.max(1), values
        if np.abs(values - before).max() < 1e-10:
            return values
    raise AssertionError("value iteration has not converged")


@pytest.mark.parametrize("world", WORLDS)
def test_the_law_and_the_optimal_values_are_those_of_the_table(world):
    env = make(world)
    mdp = from_gymnasium(env)
    assert_same_law(mdp, env.unwrapped.P)
    np.testing.assert_allclose(
        np.bincount(mdp.start, mdp.start_probs, mdp.num_states), env.unwrapped.initial_state_distrib, atol=1e-6
    )
    assert mdp.num_outcomes <= 6 and mdp.continue_prob == 1
    for discount in (0.95, 1.0):
        expected = value_iteration(env.unwrapped.P, discount)
        np.testing.assert_allclose(exact.optimal_values(mdp, discount), expected, rtol=1e-4, atol=1e-4)


def test_an_id_with_options_gives_the_mdp_of_the_environment():
    by_id = from_gymnasium(newest("FrozenLake"), map_name="8x8", continue_prob=0.9, observation=np.arange(64) // 8)
    assert by_id.num_states == 64 and by_id.num_observations == 8 and by_id.continue_prob == np.float32(0.9)
    for a, b in zip(jax.tree.leaves(by_id), jax.tree.leaves(from_gymnasium(make("large"))), strict=True):
        if a.shape == b.shape and a.shape not in ((), (64,)):
            np.testing.assert_array_equal(a, b)


class Handmade:
    """An environment with equal entries, rewards that depend on the action, and ends that depend on the entry."""

    unwrapped = property(lambda self: self)
    initial_state_distrib = np.array([0.25, 0.0, 0.75])
    P = types.MappingProxyType({
        0: {0: [(0.5, 1, 1.0, False), (0.25, 1, 1.0, False), (0.25, 1, 1.0, True)], 1: [(1.0, 1, -2.0, False)]},
        1: {0: [(1.0, 2, 0.0, True)], 1: [(0.5, 0, 3.0, False), (0.5, 0, 4.0, False)]},
        2: {0: [(1.0, 2, 0.0, False)], 1: [(1.0, 2, 5.0, True)]},
    })  # fmt: skip


def test_rewards_by_action_equal_entries_and_flags_are_kept():
    mdp = from_gymnasium(Handmade())
    assert_same_law(mdp, Handmade.P)
    assert mdp.num_outcomes == 3
    assert mdp.start.tolist() == [0, 2] and mdp.start_probs.tolist() == [0.25, 0.75]


@pytest.fixture(scope="module")
def trained():
    """Three students of FrozenLake after short training: a return that is always 1 would test nothing."""
    mdps = stack([from_gymnasium(make("slippery"))] * 3)
    return mdps, train(
        jax.random.key(1), mdps, teachers.optimal(mdps), ["entropy_regularised"], num_iterations=30,
        num_checkpoints=5, learning_rate=1.0, progress=False,
    )  # fmt: skip


def assert_played_return_is(env, mdp, logits, exact_return, num_episodes):
    """Plays a student in the environment and compares its mean return with the exact one."""
    policy = np.asarray(jax.nn.softmax(logits))[np.asarray(mdp.observation)]
    returns = play(env.unwrapped, policy, num_episodes, seed=7)
    standard_error = returns.std() / np.sqrt(num_episodes)
    assert standard_error > 0 and abs(returns.mean() - exact_return) < 4 * standard_error


def test_a_trained_policy_earns_its_exact_return_in_the_environment(trained):
    mdps, result = trained
    assert (result.final_returns > 0.08).all() and result.uniform_returns == pytest.approx(0.014, abs=0.001)
    assert len(set(result.final_returns[0].tolist())) == 3  # The students differ.
    assert_played_return_is(make("slippery"), mdps[0], result.logits[0, 0], result.final_returns[0, 0], 2000)


def test_play_keeps_the_time_limit_of_the_environment(trained):
    """The table has no time limit. Here only the time limit ends an episode."""
    always_left = np.eye(4)[np.zeros(16, int)]
    assert play(make("dry"), always_left, 2).tolist() == [0, 0]
    assert make("dry").spec.max_episode_steps == 100


def test_curves_can_be_plotted_and_grids_cannot(trained):
    mdps, result = trained
    assert len(result.plot().axes[0].lines) >= 2
    with pytest.raises(ValueError, match="needs an MDP made from a grid"):
        plotting.draw_grid(mdps[0], values=np.zeros(16))


def test_check_method_accepts_these_mdps(trained):
    mdps, _ = trained
    whole = check_method("entropy_regularised", mdps=mdps[:1], teacher=teachers.uniform(mdps)[:1]).whole
    assert whole.matches and "log pi(a_t)" in str(whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["large", "cliff", "taxi"])
def test_students_of_other_environments_earn_their_exact_return(world):
    env = make(world)
    mdps = stack([from_gymnasium(env)])
    changes = dict(num_iterations=6000, num_checkpoints=2, learning_rate=1.0, progress=False)
    result = train(jax.random.key(2), mdps, teachers.optimal(mdps), ["teacher_distill"], **changes)
    assert_played_return_is(env, mdps[0], result.logits[0, 0], result.final_returns[0, 0], 2000)


# --- bad input ------------------------------------------------------------------------------------------------


class WithoutTable(Handmade):
    P = None


class NamedStates(Handmade):
    P = types.MappingProxyType({"a": [1]})


class Ragged(Handmade):
    P = types.MappingProxyType({0: {0: [(1.0, 0, 0.0, True)], 1: []}, 1: {0: [(1.0, 0, 0.0, True)]}})


class ProbsSumToHalf(Handmade):
    P = types.MappingProxyType({s: {0: [(0.5, 0, 0.0, True)]} for s in range(3)})


class Fickle(Handmade):
    fickle_passenger = True


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (WithoutTable(), {}, "WithoutTable has no transition table"),
        (NamedStates(), {}, r"must be P\[state\]\[action\]"),
        (Ragged(), {}, r"must be P\[state\]\[action\]"),
        (ProbsSumToHalf(), {}, "outcome_probs must sum to 1"),
        (Fickle(), {}, "fickle_passenger"),
        (Handmade(), {"map_name": "8x8"}, "map_name is an option of gymnasium.make"),
        (Handmade(), {"continue_prob": 2.0}, "continue_prob must hold probabilities"),
        (Handmade(), {"observation": [0, 1]}, "observation must have shape"),
        ("NoSuchLake-v1", {}, "refuses"),
        ("FrozenLake-v1", {"no_such": 1}, "refuses"),
        ("Blackjack-v1", {}, "has no transition table"),
    ],
)
def test_bad_environments_give_one_clear_line(env, options, message):
    if isinstance(env, str):
        pytest.importorskip("gymnasium")
    with pytest.raises(ValueError, match=message) as error:
        from_gymnasium(env, **options)
    assert "\n" not in str(error.value)


def test_an_id_needs_gymnasium_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(ImportError, match="pip install gymnasium"):
        from_gymnasium("FrozenLake-v1")
    from_gymnasium(Handmade())  # An environment does not need Gymnasium.


@pytest.mark.parametrize("policy", [np.ones((3, 2)), np.ones(2) / 2, np.full((3, 2), np.nan)])
def test_play_rejects_bad_policies_and_counts(policy):
    with pytest.raises(ValueError, match="policy must be"):
        play(Handmade(), policy, 1)
    with pytest.raises(ValueError, match="num_episodes"):
        play(Handmade(), np.full((3, 2), 0.5), 0)


# --- long episodes, and time limits ---


def chain_of(mdp, policy):
    """The transition matrix [S, S] and the mean reward [S] of a policy [S, A], in float64 NumPy."""
    probs = np.broadcast_to(np.asarray(mdp.outcome_probs, np.float64), (*policy.shape, mdp.num_outcomes))
    weights = np.einsum("sa,sak->sk", policy, probs / probs.sum(-1, keepdims=True))
    matrix = np.zeros((mdp.num_states, mdp.num_states))
    states = np.arange(mdp.num_states)[:, None]
    np.add.at(matrix, (states, np.asarray(mdp.successor)), weights * ~np.asarray(mdp.terminal))
    return matrix, (weights * np.asarray(mdp.reward, np.float64)).sum(1)


def test_the_length_of_long_episodes_is_that_of_a_dense_solution():
    """A random walk on the cliff falls again and again: 6453 steps on average."""
    mdp = from_gymnasium(newest("CliffWalking")).with_time_limit(None)
    matrix, _ = chain_of(mdp, exact.uniform_policy(mdp))
    lengths = exact.expected_length(mdp, exact.uniform_policy(mdp))
    is_played = np.isfinite(lengths)
    system = np.eye(is_played.sum()) - matrix[np.ix_(is_played, is_played)]
    expected = np.linalg.solve(system, np.ones(len(system)))
    np.testing.assert_allclose(lengths[is_played], expected, rtol=1e-9)
    assert exact.start_value(mdp, lengths) == pytest.approx(6453.12, abs=0.01)


def test_returns_and_lengths_with_the_time_limit_of_an_environment():
    """FrozenLake ends after 100 steps: against the powers of the chain, and against 2000 episodes that are played."""
    mdp = from_gymnasium(newest("FrozenLake"))
    assert np.asarray(mdp.time_limit) == 100
    q = exact.optimal_action_values(mdp, 1.0)
    policy = 0.98 * exact.greedy(q, exact.TIE) + 0.02 * exact.uniform_policy(mdp)
    matrix, reward = chain_of(mdp, policy)
    powers = [np.linalg.matrix_power(matrix, t) for t in range(100)]
    values, lengths = exact.policy_values(mdp, policy), exact.expected_length(mdp, policy)
    np.testing.assert_allclose(values, sum(power @ reward for power in powers), rtol=1e-9)
    np.testing.assert_allclose(lengths, sum(power.sum(1) for power in powers), rtol=1e-9)
    assert exact.start_value(mdp, values) < exact.start_value(mdp, exact.optimal_values(mdp)) - 0.03
    returns = play(make("slippery"), policy, 2000, seed=3)
    standard_error = returns.std() / np.sqrt(len(returns))  # 0.01
    assert abs(returns.mean() - exact.start_value(mdp, values)) < 4 * standard_error
