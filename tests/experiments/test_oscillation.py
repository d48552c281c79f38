"""The oscillation game of Fig. 2 against the equations that the paper derives for it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.oscillation import (
    OSCILLATION_METHODS,
    STATES,
    information_potential,
    log_odds,
    oscillation_game,
    oscillation_teacher,
)
from jaxdistill import expected_update, teachers
from jaxdistill.mdp import exact

POINTS = [(0.0, 2.0), (1.0, -0.5), (-1.7, 0.3), (2.5, 2.5)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def table(x, y):
    """Logits [3, 2] at the log-odds x of R in s0 and y of L in s_L and s_R, with shifts that change no policy."""
    return jnp.asarray([[0.3, 0.3 + x], [y - 1.1, -1.1], [0, 0]], jnp.float32)


def closed_form(name, x, y):
    """(dx, dy) as stated in App. C for on-policy distillation + R; for N-distill + R, the gradient that it ascends.

    E[sum of rewards] = (1 - p) (q - 2) - 3 p (1 - q) and E[sum of l] = p (4 q - 4), with p = P(R|s0), q = P(L).
    """
    if name == "on_policy_distill_r":
        ex, ey = np.exp(x), np.exp(y)
        dx = ex * (ey - 1) / ((1 + ex) ** 2 * (1 + ey))
        dy = ey * (1 - ex) / ((1 + ex) * (1 + ey) ** 2)
        return dx, dy
    p, q = sigmoid(x), sigmoid(y)
    d_p = -(q - 2) - 3 * (1 - q) - (4 * q - 4)
    d_q = (1 - p) + 3 * p - 4 * p
    return d_p * p * (1 - p), d_q * q * (1 - q)


def update(name, x, y):
    game = oscillation_game()
    expected = expected_update(
        game, oscillation_teacher(game), OSCILLATION_METHODS[name], table(x, y), estimator="mc", reduction="sum",
        discount=1.0,
    )  # fmt: skip
    return np.asarray(expected.logits)


@pytest.mark.parametrize("name", list(OSCILLATION_METHODS))
def test_expected_update_is_the_published_field(name):
    """Two logits move by the derivative in opposite directions, so their difference moves at twice the rate."""
    for x, y in POINTS:
        logits = update(name, x, y)
        np.testing.assert_allclose(np.asarray(log_odds(logits)) / 2, closed_form(name, x, y), atol=2e-6)
        np.testing.assert_allclose(logits.sum(-1), 0, atol=1e-6)
        np.testing.assert_array_equal(logits[2], 0)  # no action is taken in the final states


def test_first_integral_is_constant_along_the_field_of_on_policy_distillation_alone():
    for name in OSCILLATION_METHODS:
        rates = []
        for x, y in POINTS:
            dx, dy = np.asarray(log_odds(update(name, x, y)))
            rates.append((np.exp(x) - np.exp(-x)) * dx + (np.exp(y) - np.exp(-y)) * dy)
        if name == "on_policy_distill_r":
            np.testing.assert_allclose(rates, 0, atol=1e-5)
        else:
            assert np.abs(rates).max() > 1


def test_the_loss_is_that_of_the_paper():
    """It is 4 y - 4 in s_R and 0 in every other state, which differ in the teacher's row."""
    probs = np.asarray(oscillation_teacher(oscillation_game()).probs)
    for state, row in zip(STATES, probs, strict=True):
        for y in (-1.0, 0.0, 2.0):
            log_probs = jax.nn.log_softmax(jnp.asarray([y, 0.0]))
            step = types.SimpleNamespace(teacher_probs=jnp.asarray(row), student_log_probs=log_probs)
            expected = 4 * sigmoid(y) - 4 if state == "s_R" else 0
            assert float(information_potential(step)) == pytest.approx(expected, abs=1e-6)


def test_moves_and_rewards_by_hand():
    game = oscillation_game()
    assert (game.num_states, game.num_actions, game.num_observations) == (7, 2, 3)
    for state, left, right in (("s0", "s_L", "s_R"), ("s_L", "s_LL", "s_LR"), ("s_R", "s_RL", "s_RR")):
        successors = np.asarray(game.successor)[STATES.index(state)]
        assert [STATES[s] for s in successors] == [left, right]
    for first, second, expected in ((0, 0, -1), (0, 1, -2), (1, 0, 0), (1, 1, -3)):
        policy = np.tile(np.eye(2)[second], (7, 1))
        policy[0] = np.eye(2)[first]
        value = exact.start_value(game, exact.policy_values(game, jnp.asarray(policy, jnp.float32)))
        assert float(value) == expected
        assert float(exact.start_value(game, exact.expected_length(game, jnp.asarray(policy, jnp.float32)))) == 2
    optimal = teachers.optimal(game, discount=1.0)
    assert float(optimal.values[0]) == 0


def test_a_stack_of_games():
    games = oscillation_game(4)
    np.testing.assert_array_equal(games.id, [0, 1, 2, 3])
    teacher = oscillation_teacher(games)
    np.testing.assert_array_equal(teacher.probs[3], oscillation_teacher(oscillation_game()).probs)
    np.testing.assert_allclose(teacher.values[:, 0], [-0.75] * 4)  # -1.5 in s_L and 0 in s_R, each with probability 1/2


def test_refusals():
    with pytest.raises(ValueError, match="num_mdps must be at least 1"):
        oscillation_game(0)
