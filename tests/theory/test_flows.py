"""Flows: the order of the integrator, cycles in the game of Fig. 2, fixed points, and the quality of students."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.oscillation import OSCILLATION_METHODS, log_odds, oscillation_game, oscillation_teacher
from jaxdistill import ZOO, Method
from jaxdistill.mdp import exact
from jaxdistill.theory import fields
from jaxdistill.theory.flows import fixed_point, flow
from jaxdistill.theory.precision import float64, precise
from jaxdistill.theory.quality import quality

START = np.array([[-0.4, 0.4], [0.1, -0.1], [0.0, 0.0]])  # x = 0.8, y = 0.2


def game_flow(name, step_size=0.1):
    """600 steps with a record at every second one; all step sizes share a compiled program."""
    game = oscillation_game()
    method = OSCILLATION_METHODS[name]
    return flow(game, oscillation_teacher(game), method, START, num_steps=600, step_size=step_size, num_records=300)


@pytest.fixture(scope="module")
def orbit():
    return game_flow("on_policy_distill_r")


def test_on_policy_distillation_is_periodic(orbit):
    """The first integral e^x + e^-x + e^y + e^-y is conserved, and the crossings of y = 0 have the same period."""
    x, y = np.asarray(log_odds(jnp.asarray(orbit.logits))).T
    integral = 2 * np.cosh(x) + 2 * np.cosh(y)
    np.testing.assert_allclose(integral, integral[0], rtol=1e-6)
    upwards = orbit.times[1:][(y[:-1] < 0) & (y[1:] >= 0)]
    period = float(orbit.periods())
    assert period == pytest.approx(np.diff(upwards).mean(), rel=0.02)
    assert orbit.speed.min() > 0.05
    assert orbit.quality.returns.shape == orbit.times.shape


def test_n_distill_is_not_periodic():
    path = game_flow("n_distill_r")
    assert np.isnan(path.periods())
    assert path.speed[-1] < path.speed[0]


def test_a_path_that_converges_is_not_periodic():
    mdps, teacher = fields.random_problems(jax.random.key(0), 2, num_states=3)
    path = flow(mdps, teacher, "on_policy_distill", num_steps=200, step_size=0.5, num_records=50)
    assert path.logits.shape == (2, 51, 3, 3) and path.periods().shape == (2,)
    assert np.isnan(path.periods()).all()
    # It never grows, because every state has its own row.
    assert (np.diff(path.quality.trajectory_kl, axis=1) < 1e-12).all()


def test_the_integrator_is_of_order_4():
    """Half the step size has a sixteenth of the error, here after 4, 8 and 64 steps to tau = 4."""
    end = {n: game_flow("on_policy_distill_r", step_size=4 / n).logits[n // 2] for n in (4, 8, 64)}
    errors = [np.abs(end[n] - end[64]).max() for n in (4, 8)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.7)


def test_a_fixed_point_is_where_a_long_flow_ends():
    """The field is not a gradient, states share rows, and V_theta takes part in the flow."""
    mdps, teacher = fields.random_problems(jax.random.key(4), 2, num_states=4, num_observations=3)
    point = fixed_point(mdps, teacher, "on_policy_distill_r", estimator="td", discount=0.9)
    assert point.converged.all() and point.stable.all()
    assert point.speed.max() < 1e-10
    path = flow(
        mdps, teacher, "on_policy_distill_r", point.logits + 0.3 * np.sin(np.arange(9.0)).reshape(3, 3), point.values,
        num_steps=3000, step_size=0.5, num_records=1, estimator="td", discount=0.9,
    )  # fmt: skip
    centred = [x - x.mean(-1, keepdims=True) for x in (path.logits[:, -1], point.logits)]
    np.testing.assert_allclose(*centred, atol=2e-3)
    np.testing.assert_allclose(path.values[:, -1], point.values, atol=2e-3)
    assert np.abs(point.values).max() > 0.1


def test_the_search_does_not_end_at_a_saddle_point():
    """td_vpi prefers the action of greatest Q^pi in each state. Longer steps end at saddle points in two worlds."""
    mdps, teacher = precise(*fields.random_problems(jax.random.key(1), 30, num_states=3, num_others=0))
    point = fixed_point(mdps, teacher, "td_vpi")
    with float64():
        best = np.asarray(exact.action_values(mdps, teacher.values)).argmax(-1)
    start = point.logits[:, 0]
    np.testing.assert_array_equal(start.argmax(-1), best[:, 0])
    assert point.converged.all() and (np.sort(start)[:, -1] - np.sort(start)[:, -2]).min() > 5


def test_a_maximum_is_a_fixed_point_but_not_stable():
    """The uniform student has the greatest entropy. Descending the entropy from another student leads away from it."""

    def entropy(step):
        return -jnp.sum(jnp.exp(step.student_log_probs) * step.student_log_probs)

    mdps, teacher = fields.random_problems(jax.random.key(0), 1, num_states=3)
    method = Method("entropy", loss=entropy)
    maximum = fixed_point(mdps[0], teacher[0], method)
    assert maximum.converged and not maximum.stable
    end = fixed_point(mdps[0], teacher[0], method, np.eye(3), max_steps=60)
    assert np.exp(end.logits - end.logits.max(-1, keepdims=True)).sum(-1).max() < 1.01  # deterministic


def test_quality_agrees_with_exact():
    mdps, teacher = fields.random_problems(jax.random.key(6), 3, num_states=4, num_observations=2)
    logits = np.random.default_rng(1).normal(size=(3, 2, 2, 3))  # two students of each world
    measured = quality(mdps, teacher, logits)
    mdps, teacher = precise(mdps, teacher)
    with float64():
        for n in range(2):
            policy = exact.policy_from_table(mdps, jax.nn.softmax(jnp.asarray(logits[:, n])))
            returns = exact.start_value(mdps, exact.policy_values(mdps, policy))
            row_kl = jnp.sum(policy * (jnp.log(policy) - jnp.log(teacher.probs)), -1)
            kl = exact.start_value(mdps, exact.expected_sum(mdps, policy, row_kl))
            np.testing.assert_allclose(measured.returns[:, n], returns, atol=1e-12)
            np.testing.assert_allclose(measured.trajectory_kl[:, n], kl, atol=1e-12)


def test_distance_is_over_reachable_states_and_the_kl_may_be_infinite():
    game = oscillation_game()
    teacher = oscillation_teacher(game)
    logits = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [1e-9, 1.0]]))  # No step is taken in states of the third row.
    measured = quality(game, teacher, logits)
    assert measured.distance == pytest.approx(0.5)  # in s_R, which shares its row with s_L
    assert measured.trajectory_kl == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.zeros((2, 2))}, r"logits must be \[3, 2\] and values \[3\]; got \[2, 2\]"),
        ({"step_size": 0.0}, "step_size > 0"),
        ({"num_records": 0}, "num_records must be >= 1"),
        ({"learning_rate": 1.0}, "Unknown option 'learning_rate'"),
        ({"method": "ppo"}, "the methods are"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(changes, message):
    game = oscillation_game()
    arguments = {"mdps": game, "teacher": oscillation_teacher(game), "method": "baseline"} | changes
    with pytest.raises(ValueError, match=message) as error:
        flow(**arguments)
    assert "\n" not in str(error.value)


def test_a_search_that_diverges_ends_with_finite_numbers():
    mdps, teacher = fields.random_problems(jax.random.key(0), 2, num_states=3)
    end = fixed_point(mdps, teacher, ZOO["k3_return"])
    assert not end.converged.any()
    assert np.isfinite(end.logits).all() and np.isfinite(end.speed).all() and np.abs(end.logits).max() > 100
