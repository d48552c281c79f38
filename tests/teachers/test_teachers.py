"""Teachers: their policies and exact values, noise, temperature, learning, functions and mixtures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import MDP, from_text, stack, teachers
from jaxdistill.mdp import exact
from tests import small

KEY = jax.random.key(5)
NUM = 3


def random_worlds(**options):
    return stack([small.random_mdp(30 + i, **options) for i in range(NUM)])


WORLDS = random_worlds()
ALIASED = random_worlds(aliased=True)


def deterministic_policies(mdp):
    """All deterministic policies, [A^S, S, A]."""
    actions = np.indices((mdp.num_actions,) * mdp.num_states).reshape(mdp.num_states, -1).T
    return np.eye(mdp.num_actions, dtype=np.float32)[actions]


@pytest.mark.parametrize("name", ["optimal", "adversarial"])
def test_optimal_and_adversarial_are_the_best_and_worst_of_all_policies(name):
    """Among all 81 deterministic policies, they have the largest and the smallest value in every state."""
    teacher = getattr(teachers, name)(WORLDS, discount=0.9)
    for i in range(NUM):
        mdp = WORLDS[i]
        values = np.asarray(jax.vmap(lambda p, mdp=mdp: exact.policy_values(mdp, p, 0.9))(deterministic_policies(mdp)))
        best = values.max(0) if name == "optimal" else values.min(0)
        np.testing.assert_allclose(teacher.values[i], best, atol=1e-5)
    assert teacher.name == name and teacher.discount == 0.9


def test_values_are_those_of_the_policy():
    for teacher in (
        teachers.uniform(WORLDS, discount=0.8),
        teachers.from_table(WORLDS, np.full((4, 3), 1 / 3), discount=0.8),
    ):
        for i in range(NUM):
            mdp = WORLDS[i]
            weights = np.einsum("sa,ak->sk", np.asarray(teacher.probs[i], np.float64), np.asarray(mdp.outcome_probs))
            onward = weights * np.where(mdp.terminal, 0, mdp.continue_prob)
            transition = np.zeros((4, 4))
            np.add.at(transition, (np.arange(4)[:, None], np.asarray(mdp.successor)), onward)
            expected = np.linalg.solve(np.eye(4) - 0.8 * transition, (weights * np.asarray(mdp.reward)).sum(-1))
            np.testing.assert_allclose(teacher.values[i], expected, atol=1e-5)


def test_actions_of_equal_value_share_the_probability():
    """In the middle of a corridor with the same reward at both ends, left and right are equal up to rounding."""
    mdps = stack([from_text(["+.S.+"])])
    probs = np.asarray(teachers.optimal(mdps).probs)[0]
    np.testing.assert_allclose(probs[2], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(probs[1], [1, 0, 0, 0])
    assert np.asarray(teachers.adversarial(mdps).probs)[0, 2].tolist() == [0, 0, 0.5, 0.5]
    q = np.zeros((5, 4))
    q[1] = [1, 3, 3, 3]
    tied = np.asarray(teachers.from_q(mdps, q).probs)[0]
    np.testing.assert_allclose(tied[0], 0.25)
    np.testing.assert_allclose(tied[1], [0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    q[1, 3] -= 1e-3  # Learned values share it only if they are exactly equal.
    np.testing.assert_allclose(teachers.from_q(mdps, q).probs[0, 1], [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_temperature(temperature):
    q = np.random.default_rng(0).normal(size=(NUM, 4, 3))
    teacher = teachers.from_q(WORLDS, q, temperature=temperature)
    expected = np.exp(q / temperature) / np.exp(q / temperature).sum(-1, keepdims=True)
    np.testing.assert_allclose(teacher.probs, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(teacher.scores, q, rtol=1e-6)


def test_tables_by_state_and_by_observation():
    rng = np.random.default_rng(1)
    by_observation, by_state = rng.dirichlet(np.ones(3), (NUM, 2)), rng.dirichlet(np.ones(3), (NUM, 4))
    np.testing.assert_allclose(teachers.from_table(ALIASED, by_state).probs, by_state, atol=1e-6)
    np.testing.assert_allclose(
        teachers.from_table(ALIASED, by_observation).probs, by_observation[:, [0, 0, 1, 1]], atol=1e-6
    )
    shared = teachers.from_table(ALIASED, by_observation[0])
    np.testing.assert_allclose(shared.probs, np.tile(by_observation[0][[0, 0, 1, 1]], (NUM, 1, 1)), atol=1e-6)
    single = teachers.from_table(ALIASED[1], by_observation[1])
    np.testing.assert_allclose(single.values, teachers.from_table(ALIASED, by_observation).values[1], atol=1e-5)
    logits = np.log(by_observation) + 4
    np.testing.assert_allclose(teachers.from_logits(ALIASED, logits).probs, by_observation[:, [0, 0, 1, 1]], atol=1e-6)


# --- Noise ----------------------------------------------------------------------------------------------------


def flat_worlds(num_states: int, num_mdps: int) -> MDP:
    """Worlds whose actions all lead to the next state."""
    successor = np.tile((np.arange(num_states) + 1)[:, None] % num_states, (num_mdps, 1, 3))
    reward = np.random.default_rng(2).normal(size=successor.shape)
    return MDP.from_arrays(successor, reward, np.zeros(successor.shape, bool), np.eye(3), continue_prob=0.5)


def noisy_states(noisy, teacher):
    """Whether the noisy teacher has another policy than the teacher in each state, bool [M, S]."""
    return (np.asarray(noisy.probs) != np.asarray(teacher.probs)).any(-1)


def test_noise_plays_the_worst_action_with_its_probability_in_nested_states():
    mdps = flat_worlds(200, NUM)
    teacher = teachers.optimal(mdps)
    worst = np.asarray(mdps.reward).argmin(-1)  # All actions lead to the same state.
    fewer_noisy = np.zeros((NUM, 200), bool)
    for noise in (0.0, 0.15, 0.25, 0.6, 1.0):
        noisy = teachers.with_noise(KEY, mdps, teacher, noise)
        is_noisy = noisy_states(noisy, teacher)
        np.testing.assert_array_equal(np.asarray(noisy.probs)[is_noisy], np.eye(3)[worst[is_noisy]])
        standard_error = np.sqrt(noise * (1 - noise) / is_noisy.size)
        assert abs(is_noisy.mean() - noise) <= 4 * standard_error
        assert (is_noisy >= fewer_noisy).all()
        fewer_noisy = is_noisy
        expected = exact.policy_values(mdps, noisy.probs, 0.99)
        np.testing.assert_allclose(noisy.values, expected, rtol=1e-5)
        np.testing.assert_array_equal(noisy.scores, teacher.scores)
    assert (np.asarray(noisy.values) < np.asarray(teacher.values)).all()
    assert noisy.name == "optimal+100% noise"


def test_noise_depends_on_the_key_and_the_id_and_not_on_the_position():
    mdps = flat_worlds(200, NUM)
    teacher = teachers.optimal(mdps)
    noisy = teachers.with_noise(KEY, mdps, teacher, 0.3)
    np.testing.assert_array_equal(noisy.probs[1:2], teachers.with_noise(KEY, mdps[1:2], teacher[1:2], 0.3).probs)
    assert len(np.unique(noisy_states(noisy, teacher), axis=0)) == NUM
    other = teachers.with_noise(jax.random.key(6), mdps, teacher, 0.3)
    assert (np.asarray(other.probs) != np.asarray(noisy.probs)).any()


def test_noise_draws_one_action_among_those_that_qualify():
    """Also where all actions are equally good; each of these actions is played as often as the others."""
    mdps = flat_worlds(2000, NUM)
    scores = np.tile([[0.0, 0.0, 0.0], [1, 0, 0], [2, 1, 0], [1, 1, 0]], (500, 1))
    allowed = {
        "worst": [[0, 1, 2], [1, 2], [2], [2]],
        "any": [[0, 1, 2]] * 4,
        "not_best": [[0, 1, 2], [1, 2], [1, 2], [2]],
    }
    teacher = teachers.from_q(mdps, np.tile(scores, (NUM, 1, 1)))
    for action, by_kind in allowed.items():
        probs = np.asarray(teachers.with_noise(KEY, mdps, teacher, 1.0, action=action, ties="random").probs)
        assert ((probs == 0) | (probs == 1)).all()
        for kind, actions in enumerate(by_kind):
            shares = probs[:, kind::4].mean((0, 1))
            assert set(np.flatnonzero(shares)) == set(actions)
            error = np.sqrt(0.25 / (500 * NUM))
            np.testing.assert_allclose(shares[actions], 1 / len(actions), atol=4 * error)
        shared = np.asarray(teachers.with_noise(KEY, mdps, teacher, 1.0, action=action).probs)
        if action == "any":
            with pytest.raises(ValueError, match="would always play action 0"):
                teachers.with_noise(KEY, mdps, teacher, 1.0, action=action, ties="first")
            continue
        first = np.asarray(teachers.with_noise(KEY, mdps, teacher, 1.0, action=action, ties="first").probs)
        for kind, actions in enumerate(by_kind):
            expected = np.isin(np.arange(3), actions) / len(actions)
            np.testing.assert_allclose(shared[:, kind::4], np.broadcast_to(expected, (NUM, 500, 3)), rtol=1e-6)
            np.testing.assert_array_equal(first[:, kind::4, actions[0]], 1)


# --- Ties -----------------------------------------------------------------------------------------------------


def test_ties_become_one_action():
    """The first, or one that is drawn for each observation, each equally often, by the key and the world alone."""
    q = np.tile([[1.0, 1, 0], [0, 2, 2]], (NUM, 1, 1))
    first = np.asarray(teachers.from_q(ALIASED, q, ties="first").probs)
    np.testing.assert_array_equal(first, np.tile(np.eye(3)[[0, 0, 1, 1]], (NUM, 1, 1)))
    drawn = np.asarray(teachers.from_q(ALIASED, q, ties="random", key=KEY).probs)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    np.testing.assert_array_equal(drawn[1:2], teachers.from_q(ALIASED[1:2], q[1:2], ties="random", key=KEY).probs)
    mdps = flat_worlds(2000, NUM)
    shares = np.asarray(teachers.from_q(mdps, np.ones((2000, 3)), ties="random", key=KEY).probs).mean((0, 1))
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / (2000 * NUM)))
    middle = stack([from_text(["+.S.+"])])
    optimal = np.asarray(teachers.optimal(middle, ties="first").probs)[0, 2]
    np.testing.assert_array_equal(optimal, [1, 0, 0, 0])
    mixed = teachers.from_q(ALIASED, q, temperature=[0, 0.5, 0.5], ties="first").probs
    np.testing.assert_array_equal(mixed[0], first[0])
    np.testing.assert_array_equal(mixed[1:], teachers.from_q(ALIASED, q, temperature=0.5).probs[1:])


def test_the_values_of_an_adversary_for_its_own_reward():
    """They are the optimal values of the negated reward, and the negative of the values for the true one."""
    own = teachers.adversarial(WORLDS, value="own")
    np.testing.assert_allclose(own.values, exact.optimal_values(WORLDS, 0.99, reward=-WORLDS.reward), rtol=1e-5)
    np.testing.assert_allclose(own.values, -np.asarray(teachers.adversarial(WORLDS).values), rtol=1e-5, atol=1e-5)


# --- Learning -------------------------------------------------------------------------------------------------


def with_certain_outcomes(mdp):
    """The same world, in which action a always has outcome a."""
    return dataclasses.replace(mdp, outcome_probs=jnp.eye(3))


def test_q_learning_finds_the_optimal_action_values():
    """With certain outcomes, uniform control and a large rate, the only noise left is the random end of episodes."""
    mdps = stack([with_certain_outcomes(small.random_mdp(40 + i)) for i in range(NUM)])
    options = {"learning_rate": 0.01, "epsilon": 1.0, "discount": 0.9}
    teacher = teachers.q_learning(KEY, mdps, num_iterations=20_000, **options)
    optimal = exact.optimal_action_values(mdps, 0.9)
    visited = np.asarray(exact.occupancy(mdps, jnp.full((4, 3), 1 / 3))) > 0.3
    assert visited.sum() >= 2 * NUM
    np.testing.assert_allclose(np.asarray(teacher.scores)[visited], np.asarray(optimal)[visited], atol=0.25)
    assert np.abs(np.asarray(optimal)[visited]).max() > 1.5


def test_q_learning_on_a_world_does_not_depend_on_the_stack():
    options = {"num_iterations": 200, "learning_rate": 0.1, "temperature": 0.5}
    teacher = teachers.q_learning(KEY, WORLDS, **options)
    np.testing.assert_allclose(teacher.probs, jax.nn.softmax(teacher.scores / 0.5), atol=1e-6)
    np.testing.assert_array_equal(teacher.scores[1:2], teachers.q_learning(KEY, WORLDS[1:2], **options).scores)
    assert np.unique(np.asarray(teacher.scores), axis=0).shape[0] == NUM


def test_actor_critic_improves_on_the_uniform_policy():
    options = {"num_iterations": 3000, "learning_rate": 0.2, "value_learning_rate": 0.1, "discount": 0.9}
    teacher = teachers.actor_critic(KEY, WORLDS, **options)
    optimal, uniform = teachers.optimal(WORLDS, discount=0.9), teachers.uniform(WORLDS, discount=0.9)
    value, best, baseline = (np.asarray(exact.start_value(WORLDS, t.values)) for t in (teacher, optimal, uniform))
    improvement = (value - baseline) / (best - baseline)
    assert (improvement > 0.7).all() and (improvement <= 1 + 1e-5).all()
    assert (np.asarray(teacher.probs) > 0).all()
    assert teacher.name == "actor_critic" and teacher.discount == 0.9


def test_slices_of_teachers():
    teacher = teachers.optimal(WORLDS)
    assert teacher[1].probs.shape == (4, 3) and teacher[1:].values.shape == (2, 4)
    assert teacher[1].name == "optimal"


# --- Bad input ------------------------------------------------------------------------------------------------

UNIFORM = np.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: teachers.from_table(WORLDS, np.full((5, 3), 1 / 3)), r"probs must have shape [3, 4, 3] (by state)"),
        (lambda: teachers.from_table(ALIASED, np.full((3, 3, 3), 1 / 3)), r"or [3, 2, 3] (by observation)"),
        (lambda: teachers.from_table(WORLDS, UNIFORM * 1.1), "sum to 1"),
        (lambda: teachers.from_table(WORLDS, [[1.5, -0.5, 0]] * 4), ">= 0"),
        (lambda: teachers.from_table(WORLDS, UNIFORM * np.nan), "finite"),
        (lambda: teachers.from_logits(WORLDS, [[0, -np.inf, 0]] * 4), "logits must be finite"),
        (lambda: teachers.from_logits(WORLDS, np.zeros((4, 2))), "logits must have shape"),
        (lambda: teachers.from_q(WORLDS, UNIFORM * np.inf), "q must be finite"),
        (lambda: teachers.from_q(WORLDS, UNIFORM, temperature=-1.0), "temperature must be >= 0"),
        (lambda: teachers.with_noise(KEY, WORLDS, teachers.uniform(WORLDS), 1.5), "noise must be in [0, 1]"),
        (lambda: teachers.with_noise(KEY, WORLDS[0], teachers.uniform(WORLDS[0]), 0.5), "stack a single one"),
        (lambda: teachers.with_noise(7, WORLDS, teachers.uniform(WORLDS), 0.5), "jax.random.key(0); got int"),
        (lambda: teachers.q_learning(7, WORLDS), "jax.random.key(0); got int"),
        (lambda: teachers.q_learning(KEY, WORLDS[0]), "stack([mdp])"),
        (lambda: teachers.q_learning(KEY, WORLDS, temperature=float("nan")), "temperature must be >= 0"),
        (lambda: teachers.q_learning(KEY, WORLDS, epsilon=2), "epsilon must be in [0, 1]"),
        (lambda: teachers.q_learning(KEY, WORLDS, control="greedy"), "control must be 'epsilon' or 'boltzmann'"),
        (
            lambda: teachers.q_learning(KEY, WORLDS, control="boltzmann", epsilon=0.1),
            "epsilon has no effect with control",
        ),
        (lambda: teachers.q_learning(KEY, WORLDS, control_temperature=2.0), "control_temperature has no effect"),
        (lambda: teachers.q_learning(KEY, WORLDS, control="boltzmann", control_temperature=0), "must be at least 1e-6"),
        (lambda: teachers.q_learning(KEY, WORLDS, ties="last"), "ties must be 'share', 'first' or 'random'"),
        (lambda: teachers.q_learning(KEY, WORLDS, ties="first", temperature=1), "has an effect at temperature 0 only"),
        (lambda: teachers.actor_critic(KEY, WORLDS, loss_weight=2.0), "loss_weight has no effect on baseline"),
        (
            lambda: teachers.actor_critic(KEY, WORLDS, discount=[0.1, 0.5, 0.9]),
            "discount of a teacher must be one number",
        ),
        (lambda: teachers.optimal(WORLDS, ties="random"), "ties='random' needs a random key"),
        (lambda: teachers.optimal(WORLDS, key=KEY), "ties='share' takes no key"),
        (lambda: teachers.adversarial(WORLDS, value="both"), "value must be 'true' or 'own'"),
        (
            lambda: teachers.with_noise(KEY, WORLDS, teachers.uniform(WORLDS), 0.1, action="best"),
            "action must be 'worst', 'any'",
        ),
        (lambda: teachers.q_learning(KEY, WORLDS, learning_rate=0.0), "learning_rate must be in (0, 1]"),
        (lambda: teachers.q_learning(KEY, WORLDS, num_iterations=0), "num_iterations must be a whole number"),
        (lambda: teachers.q_learning(KEY, WORLDS, discount=1.5), "discount must be in [0, 1]"),
        (lambda: teachers.actor_critic(7, WORLDS), "jax.random.key(0); got int"),
        (lambda: teachers.actor_critic(KEY, WORLDS[0]), "stack([mdp])"),
        (lambda: teachers.optimal(WORLDS, discount=1.5), "discount"),
        (lambda: teachers.from_table(WORLDS, UNIFORM, discount=float("nan")), "discount"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


# --- From a function, and from several teachers ----------------------------------------------------------------


def test_a_function_of_the_state_or_of_the_observation():
    def rule(row):
        return jnp.arange(1.0, 4.0) / 6 if row % 2 else row % 3  # probabilities, or an action

    table = np.array([[1, 0, 0], [1 / 6, 2 / 6, 3 / 6], [0, 0, 1], [1 / 6, 2 / 6, 3 / 6]])
    teacher = teachers.from_policy(ALIASED, rule, discount=0.9)
    np.testing.assert_allclose(teacher.probs, np.tile(table, (NUM, 1, 1)), rtol=1e-6)
    np.testing.assert_allclose(teacher.values, teachers.from_table(ALIASED, table, discount=0.9).values, atol=1e-6)
    assert teacher.name == "rule" and teacher.discount == 0.9
    by_observation = teachers.from_policy(ALIASED, rule, sees="observation", name="by_observation")
    np.testing.assert_allclose(by_observation.probs, np.tile(table[[0, 0, 1, 1]], (NUM, 1, 1)), rtol=1e-6)
    single = teachers.from_policy(ALIASED[1], rule, sees="observation")
    np.testing.assert_allclose(single.probs, by_observation.probs[1])
    assert by_observation.name == "by_observation" and single.values.shape == (4,)


@pytest.mark.parametrize(
    ("result", "shown"),
    [(3, "3"), (-1, "-1"), ([0.5, 0.4, 0.0], r"\[0.5 0.4 0. \]"), ([0.5, 0.5], "0.5"), ([2, -1, 0], "2"),
     (None, "None"), (0.5, "0.5"), ([np.nan, 0.5, 0.5], "nan")],
)  # fmt: skip
def test_a_function_that_returns_neither_probabilities_nor_an_action(result, shown):
    with pytest.raises(ValueError, match=rf"3 probabilities .*action in \[0, 3\); for state 2 it .*{shown}") as error:
        teachers.from_policy(WORLDS, lambda s: result if s == 2 else 0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="sees must be"):
        teachers.from_policy(WORLDS, lambda s: 0, sees="cell")


def test_a_mixture_has_the_average_policy_and_its_exact_values():
    members = [teachers.optimal(WORLDS, discount=0.9), teachers.uniform(WORLDS, discount=0.5)]
    mixed = teachers.mixture(WORLDS, members, [3, 1])
    probs = 0.75 * np.asarray(members[0].probs) + 0.25 / 3
    np.testing.assert_allclose(mixed.probs, probs, atol=1e-6)
    np.testing.assert_allclose(mixed.values, teachers.from_table(WORLDS, probs, discount=0.9).values, atol=1e-5)
    assert mixed.discount == 0.9 and mixed.name == "0.75 optimal+0.25 uniform"
    np.testing.assert_allclose(teachers.mixture(WORLDS, members).probs, (probs - 0.25 / 3) / 1.5 + 1 / 6, atol=1e-6)
    single = teachers.mixture(WORLDS[0], [member[0] for member in members], [0, 1], discount=0.7, name="single")
    np.testing.assert_allclose(single.probs, 1 / 3, atol=1e-6)
    assert single.discount == 0.7 and single.name == "single"


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([], None, "mixture needs teachers of these worlds, .*; got no member"),
        ([teachers.uniform(WORLDS[0])], None, r"probs \[3, 4, 3\]; got \[4, 3\]"),
        ([teachers.uniform(WORLDS)], [1, 1], "weights must be 1 numbers"),
        ([teachers.uniform(WORLDS)], [0], "not all 0"),
        ([teachers.uniform(WORLDS)] * 2, [2, -1], "weights must be 2 numbers"),
        ([teachers.uniform(WORLDS)] * 2, [np.nan, 1], "weights must be 2 numbers"),
    ],
)
def test_bad_mixtures_are_refused_in_one_line(members, weights, message):
    with pytest.raises(ValueError, match=message) as error:
        teachers.mixture(WORLDS, members, weights)
    assert "\n" not in str(error.value)
