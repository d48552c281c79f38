"""The reference itself: updates by hand, gradients by finite differences, Table 1 by enumeration."""

import math
from itertools import product

import numpy as np
import pytest

from tests.reference import (
    METHODS,
    Settings,
    Step,
    Teacher,
    World,
    close_episode,
    draw,
    episode_update,
    forward_cross_entropy,
    forward_cross_entropy_gradient,
    log_floored,
    play_episode,
    pseudo_rewards,
    reverse_cross_entropy,
    reverse_cross_entropy_gradient,
    softmax,
    train_q_learning,
    train_student,
)

# Two states in a row, two actions, action a brings outcome a for sure: 0 -> 1 -> end.
CORRIDOR = World(
    successor=[[1, 1], [1, 1]],
    reward=[[2.0, 0.0], [0.0, -1.0]],
    terminal=[[False, False], [True, True]],
    outcome_probs=[[[1.0, 0.0], [0.0, 1.0]]] * 2,
    continue_prob=1.0,
    start=[0],
    start_probs=[1.0],
    observation=[0, 1],
    num_observations=2,
)
TEACHER = Teacher(probs=[[0.6, 0.4], [1.0, 0.0]], values=[2.0, 1.0])
POLICY = [[0.75, 0.25], [0.5, 0.5]]
VALUES = [0.5, 3.0]
EPISODE = [
    Step(0, 0, 2.0, 1),
    Step(1, 1, -1.0, None),
]  # the teacher never plays action 1 in state 1: floor 1e-6

H = [-0.6 * math.log(0.75) - 0.4 * math.log(0.25), -math.log(0.5)]  # H(pi || pi_theta) in both states
FORWARD = [[0.15, -0.15], [-0.5, 0.5]]  # pi_theta - pi
HALF_SPREAD = [0.75 * 0.25 * math.log(0.4 / 0.6), 0.5 * 0.5 * math.log(1e-6 / 1.0)]
REVERSE = [[x, -x] for x in HALF_SPREAD]  # p (1 - p) (log pi(1) - log pi(0)): d H(pi_theta || pi) / d logits
NONE = [[0.0, 0.0], [0.0, 0.0]]
FLOORED = math.log(1e-6)

# (method, estimator) -> targets and grad l of both steps, discount 0.9. Advantage: target - V; td_*: target.
BY_HAND = {
    ("baseline", "mc"): ([2.0 + 0.9 * -1.0, -1.0], NONE),
    ("baseline", "td"): ([2.0 + 0.9 * 3.0, -1.0], NONE),
    ("on_policy_distill_r", "mc"): ([1.1, -1.0], FORWARD),
    ("on_policy_distill_r", "td"): ([4.7, -1.0], FORWARD),
    ("on_policy_distill_r_vcond", "mc"): ([1.1, -1.0], [FORWARD[0], [0.0, 0.0]]),  # 2 > 0.5, but 1 < 3
    ("entropy_regularised", "mc"): ([math.log(0.6) + 0.9 * FLOORED, FLOORED], NONE),
    ("entropy_regularised", "td"): ([math.log(0.6) + 2.7, FLOORED], NONE),
    ("kl_regularised", "mc"): (
        [math.log(0.6 / 0.75) + 0.9 * (FLOORED - math.log(0.5)), FLOORED - math.log(0.5)],
        NONE,
    ),
    ("n_distill", "mc"): ([-H[1], 0.0], FORWARD),
    ("n_distill", "td"): ([-H[1] + 2.7, 0.0], FORWARD),
    ("exp_entropy_regularised", "mc"): ([FLOORED, 0.0], REVERSE),
    ("exp_entropy_regularised", "td"): ([FLOORED + 2.7, 0.0], REVERSE),
    ("teacher_v_reward", "mc"): ([(2 + 0.9 - 2) + 0.9 * (-1 - 1), -1.0 - 1.0], NONE),
    ("teacher_v_reward", "td"): ([0.9 + 2.7, -2.0], NONE),
    # lambda = 0.25: the value to come is 0.25 * target + 0.75 * V of state 1.
    ("baseline", "lambda"): ([2.0 + 0.9 * (0.25 * -1.0 + 0.75 * 3.0), -1.0], NONE),
    ("n_distill", "lambda"): ([-H[1] + 0.9 * (0.75 * 3.0), 0.0], FORWARD),
    ("td_v0", "td"): ([2.0, -1.0], NONE),
    ("td_vpi", "td"): ([2.0 + 0.9 * 1.0, -1.0], NONE),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("method", "estimator"), BY_HAND)
def test_update_by_hand(method, estimator, reduction):
    targets, grad_l = BY_HAND[method, estimator]
    settings = Settings(method, estimator, reduction, discount=0.9, trace_decay=0.25)
    advantage = targets if method.startswith("td_") else [targets[0] - 0.5, targets[1] - 3.0]
    weight = 0.5 if reduction == "mean" else 1.0
    update = episode_update(CORRIDOR, TEACHER, settings, POLICY, VALUES, EPISODE)
    # grad log pi_theta(a) is (1 - .75, -.25) for action 0 in state 0, (-.5, 1 - .5) for action 1 in state 1.
    assert update.logits[0] == pytest.approx(
        [weight * (-0.25 * advantage[0] + grad_l[0][0]), weight * (0.25 * advantage[0] + grad_l[0][1])]
    )
    assert update.logits[1] == pytest.approx(
        [weight * (0.5 * advantage[1] + grad_l[1][0]), weight * (-0.5 * advantage[1] + grad_l[1][1])]
    )
    assert update.values == pytest.approx({0: weight * (targets[0] - 0.5), 1: weight * (targets[1] - 3.0)})


CUT_BY_HAND = {  # the target of the only step, whose episode is cut in state 1, where action 1 is drawn
    "baseline": 2.0 + 0.9 * 3.0,
    "entropy_regularised": math.log(0.6) + 0.9 * 3.0,
    "n_distill": -H[1] + 0.9 * 3.0,
    "exp_entropy_regularised": FLOORED + 0.9 * 3.0,
    "teacher_v_reward": (2.0 + 0.9 * 1.0 - 2.0) + 0.9 * 3.0,
    "td_v0": 2.0,
    "td_vpi": 2.0 + 0.9 * 1.0,
}


@pytest.mark.parametrize("method", CUT_BY_HAND)
def test_a_cut_bootstraps_by_hand(method):
    limited = World(**{**vars(CORRIDOR), "time_limit": 1})
    episode = play_episode(limited, [[1.0, 0.0]] * 2, np.random.default_rng(0))
    assert episode == [EPISODE[0]] and episode[0].next_state == 1
    for estimator in ["td"] if method.startswith("td_") else ["mc", "td", "lambda"]:
        settings = Settings(method, estimator, discount=0.9, trace_decay=0.25)
        closed, cut = close_episode(settings, [[0.0, 1.0]] * 2, episode, np.random.default_rng(0))
        assert closed == episode and cut == (1, 1, 0.0, None)
        update = episode_update(limited, TEACHER, settings, POLICY, VALUES, closed, cut)
        assert update.values == pytest.approx({0: CUT_BY_HAND[method] - 0.5})
        ended, cut = close_episode(
            Settings(method, estimator, truncation="end"), [[0.0, 1.0]] * 2, episode, np.random.default_rng(0)
        )
        assert cut is None and ended[0].next_state is None


@pytest.mark.parametrize("method", ["teacher_distill", "on_policy_distill"])
def test_pure_distillation_by_hand(method):
    update = episode_update(CORRIDOR, TEACHER, Settings(method), POLICY, [0.0, 0.0], EPISODE)
    assert update.logits[0] == pytest.approx([0.075, -0.075])
    assert update.logits[1] == pytest.approx([-0.25, 0.25])
    assert update.values == {0: 0.0, 1: 0.0}


def test_steps_that_share_an_observation_add_up():
    aliased = World(**{**vars(CORRIDOR), "observation": [0, 0], "num_observations": 1})
    settings = Settings("baseline", "mc", discount=0.9)
    update = episode_update(aliased, TEACHER, settings, [[0.75, 0.25]], [0.5], EPISODE)
    advantage = [1.1 - 0.5, -1.0 - 0.5]  # V is the value before the episode in both steps
    # grad log pi_theta: (.25, -.25) for action 0, (-.75, .75) for action 1.
    expected = (-0.25 * advantage[0] + 0.75 * advantage[1]) / 2
    assert update.logits[0] == pytest.approx([expected, -expected])
    assert update.values == pytest.approx({0: (advantage[0] + advantage[1]) / 2})


def test_training_is_one_episode_then_one_update():
    settings = Settings("baseline", "td", learning_rate=0.2, value_learning_rate=0.3, discount=0.9)
    run = train_student(CORRIDOR, TEACHER, settings, 1, np.random.default_rng(0))
    uniform = [[0.5, 0.5]] * 2
    episode = play_episode(CORRIDOR, uniform, np.random.default_rng(0))
    update = episode_update(CORRIDOR, TEACHER, settings, uniform, [0.0, 0.0], episode)
    np.testing.assert_allclose(run.logits, -0.2 * np.array([update.logits[0], update.logits[1]]))
    np.testing.assert_allclose(run.values, 0.3 * np.array([update.values[0], update.values[1]]))
    assert run.returns.tolist() == [sum(step.reward for step in episode)]
    assert run.lengths.tolist() == [2]


# --- Gradients by finite differences ------------------------------------------------------------------------


def finite_differences(function, x, step=1e-6):
    x = np.asarray(x, np.float64)
    slopes = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    return np.array(slopes)


@pytest.mark.parametrize("pi", [[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
def test_gradients_against_finite_differences(pi):
    logits = [0.3, -1.2, 0.8]
    pi_theta = softmax(logits)
    for action in range(3):
        slopes = finite_differences(lambda x, a=action: math.log(softmax(list(x))[a]), logits)
        np.testing.assert_allclose(slopes, np.eye(3)[action] - pi_theta, atol=1e-8)
    slopes = finite_differences(lambda x: forward_cross_entropy(pi, softmax(list(x))), logits)
    np.testing.assert_allclose(forward_cross_entropy_gradient(pi, pi_theta), slopes, atol=1e-8)
    slopes = finite_differences(lambda x: reverse_cross_entropy(pi, softmax(list(x)), 0.01), logits)
    np.testing.assert_allclose(reverse_cross_entropy_gradient(pi, pi_theta, 0.01), slopes, atol=1e-8)


# --- Table 1 by enumeration: the expected update is (or is not) the gradient of the stated loss -------------

# Three states in a diamond with chance and early ends; states 1 and 2 are told apart by the teacher alone.
DIAMOND = World(
    successor=[[1, 2], [2, 0], [0, 0]],
    reward=[[1.0, -0.5], [0.3, 2.0], [-1.0, 0.7]],
    terminal=[[False, False], [False, True], [True, True]],
    outcome_probs=[[[0.8, 0.2], [0.3, 0.7]]] * 3,
    continue_prob=0.9,
    start=[0, 1],
    start_probs=[0.75, 0.25],
    observation=[0, 1, 1],
    num_observations=2,
)
DIAMOND_TEACHER = Teacher([[0.3, 0.7], [0.9, 0.1], [0.45, 0.55]], [0.4, -0.3, 0.2])
THETA = [0.2, -0.4, 0.5, 0.1]


def all_episodes(world, policy_by_state):
    """Every (probability, episode) of a world without loops."""

    def continuations(state):
        for action, outcome in product(range(world.num_actions), range(len(world.successor[state]))):
            prob = policy_by_state[state][action] * world.outcome_probs[state][action][outcome]
            reward, following = world.reward[state][outcome], world.successor[state][outcome]
            p_on = 0.0 if world.terminal[state][outcome] else world.continue_prob
            if p_on < 1:
                yield prob * (1 - p_on), [Step(state, action, reward, None)]
            if p_on > 0:
                for tail_prob, tail in continuations(following):
                    yield prob * p_on * tail_prob, [Step(state, action, reward, following), *tail]

    for start, start_prob in zip(world.start, world.start_probs, strict=True):
        for prob, episode in continuations(start):
            yield start_prob * prob, episode


def policies(theta):
    policy = [softmax(list(row)) for row in np.reshape(theta, (2, 2))]
    return policy, [policy[o] for o in DIAMOND.observation]


def expected_update(method, **settings):
    policy, by_state = policies(THETA)
    control = DIAMOND_TEACHER.probs if method == "teacher_distill" else by_state
    settings = Settings(method, reduction="sum", discount=1.0, **settings)
    total = np.zeros((2, 2))
    for prob, episode in all_episodes(DIAMOND, control):
        update = episode_update(DIAMOND, DIAMOND_TEACHER, settings, policy, [0.0, 0.0], episode)
        for o, row in update.logits.items():
            total[o] += prob * np.array(row)
    return total.ravel()


def expected_cost(theta, cost, control=None):
    """E_q sum_t cost(step, pi_theta(.|s_t)); q is the student if `control` is None."""
    _, by_state = policies(theta)
    return sum(
        prob * sum(cost(step, by_state[step.state]) for step in episode)
        for prob, episode in all_episodes(DIAMOND, control or by_state)
    )


def forward(step, pi_theta):
    return forward_cross_entropy(DIAMOND_TEACHER.probs[step.state], pi_theta)


def log_pi(step, _):
    return -log_floored(DIAMOND_TEACHER.probs[step.state][step.action], 0.01)


def negative_reward(step, _):
    return -step.reward


TABLE_1 = {
    "teacher_distill": forward,
    "entropy_regularised": log_pi,
    "n_distill": forward,
    "exp_entropy_regularised": log_pi,
    "teacher_v_reward": negative_reward,
    "baseline": negative_reward,
    "kl_regularised": lambda step, pi_theta: log_pi(step, None) + math.log(pi_theta[step.action]),
}


def test_enumeration_is_complete():
    assert sum(prob for prob, _ in all_episodes(DIAMOND, policies(THETA)[1])) == pytest.approx(1.0)


@pytest.mark.parametrize("method", TABLE_1)
def test_expected_update_is_the_gradient_of_the_loss(method):
    control = DIAMOND_TEACHER.probs if method == "teacher_distill" else None
    slopes = finite_differences(lambda theta: expected_cost(theta, TABLE_1[method], control), THETA)
    np.testing.assert_allclose(expected_update(method), slopes, atol=1e-8)


def test_on_policy_distillation_is_not_the_gradient_of_its_loss():
    slopes = finite_differences(lambda theta: expected_cost(theta, forward), THETA)
    assert np.abs(expected_update("on_policy_distill") - slopes).max() > 1e-2


def test_teacher_v_rewards_telescope():
    """Prop. 4: the sum of the pseudo-rewards is the return minus V_pi at the start."""
    for _, episode in all_episodes(DIAMOND, DIAMOND_TEACHER.probs):
        settings = Settings("teacher_v_reward", discount=1.0)
        rhat = pseudo_rewards(DIAMOND, DIAMOND_TEACHER, settings, policies(THETA)[0], episode)
        value = DIAMOND_TEACHER.values[episode[0].state]
        assert sum(rhat) == pytest.approx(sum(step.reward for step in episode) - value)


# --- Episodes and learning ----------------------------------------------------------------------------------


def test_draw_has_the_given_frequencies():
    rng = np.random.default_rng(1)
    probs = [0.0, 0.5, 0.2, 0.3, 0.0]
    counts = np.bincount([draw(probs, rng) for _ in range(4000)], minlength=5)
    assert counts[0] == counts[4] == 0
    assert np.abs(counts / 4000 - probs).max() < 4 * math.sqrt(0.25 / 4000)


def test_sampled_episodes_have_the_enumerated_frequencies():
    rng = np.random.default_rng(2)
    by_state = policies(THETA)[1]
    expected = {}
    for prob, episode in all_episodes(DIAMOND, by_state):
        expected[tuple(episode)] = expected.get(tuple(episode), 0.0) + prob
    num = 3000
    counts = dict.fromkeys(expected, 0)
    for _ in range(num):
        counts[tuple(play_episode(DIAMOND, by_state, rng))] += 1  # KeyError: an impossible episode
    chi_square = sum((counts[e] - num * p) ** 2 / (num * p) for e, p in expected.items())
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_a_world_is_copied_from_arrays():
    class Arrays:
        outcome_probs = np.array([[0.8, 0.2], [0.3, 0.7]], np.float32)  # shared by all states

    for name, value in vars(DIAMOND).items():
        if name != "outcome_probs":
            setattr(Arrays, name, np.asarray(value))
    world = World.of(Arrays)
    np.testing.assert_allclose(world.outcome_probs, DIAMOND.outcome_probs, rtol=1e-6)
    assert {**vars(world), "outcome_probs": None} == {**vars(DIAMOND), "outcome_probs": None}


def test_q_learning_finds_the_optimal_values():
    world = World(**{**vars(CORRIDOR), "reward": [[2.0, 0.0], [1.0, -1.0]]})
    run = train_q_learning(world, 2000, np.random.default_rng(3), learning_rate=0.1, discount=0.9)
    np.testing.assert_allclose(run.logits, [[2.9, 0.9], [1.0, -1.0]], atol=0.02)
    np.testing.assert_allclose(run.values, [2.9, 1.0], atol=0.02)
    # 0.1-greedy control takes the best action with probability 0.95, twice.
    best = (run.returns[500:] == 3.0).mean()
    assert abs(best - 0.95**2) < 4 * math.sqrt(0.25 / 1500)


def test_q_learning_shares_ties():
    run = train_q_learning(CORRIDOR, 1000, np.random.default_rng(6), learning_rate=0.0, epsilon=0.0)
    assert abs(run.returns.mean() - 0.5) < 4 * math.sqrt(1.25 / 1000)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("teacher_distill", "on_policy_distill")])
def test_every_method_that_acts_learns_the_corridor(method):
    """Teacher and reward agree here: action 0 in both states."""
    teacher = Teacher([[0.9, 0.1], [0.9, 0.1]], [2.0, 0.0])
    settings = Settings(method, "td", learning_rate=0.5, discount=0.9)
    run = train_student(CORRIDOR, teacher, settings, 400, np.random.default_rng(4))
    assert run.returns[-50:].mean() > run.returns[:20].mean()
    assert run.logits[0, 0] > run.logits[0, 1] and run.logits[1, 0] > run.logits[1, 1]


@pytest.mark.parametrize("method", ["teacher_distill", "on_policy_distill"])
def test_distillation_finds_the_teacher(method):
    run = train_student(CORRIDOR, TEACHER, Settings(method), 2000, np.random.default_rng(5))
    assert softmax(run.logits[0].tolist()) == pytest.approx([0.6, 0.4], abs=1e-6)
    assert run.values.tolist() == [0.0, 0.0]
    punished = (run.returns[:100] < 2.0) & (run.returns[:100] != 0.0)  # action 1 in state 1: never the teacher's
    assert punished.any() == (method == "on_policy_distill")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "ppo"},
        {"method": "td_vpi", "estimator": "mc"},
        {"estimator": "gae"},
        {"reduction": "max"},
    ],
)
def test_unknown_settings_are_refused(settings):
    with pytest.raises(ValueError):
        Settings(**settings)
