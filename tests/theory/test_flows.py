"""Flows: the order of the integrator, cycles in the game of Fig. 2, resting places, and what is measured there."""

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


def game_flow(name, **options):
    game = oscillation_game()
    return flow(game, oscillation_teacher(game), OSCILLATION_METHODS[name], START, **options)


@pytest.fixture(scope="module")
def orbit():
    return game_flow("on_policy_distill_r", num_steps=600, step_size=0.1, num_records=300)


def test_on_policy_distillation_goes_round(orbit):
    """The first integral e^x + e^-x + e^y + e^-y is kept, and the period is that of the crossings of y = 0."""
    x, y = np.asarray(log_odds(jnp.asarray(orbit.logits))).T
    integral = 2 * np.cosh(x) + 2 * np.cosh(y)
    np.testing.assert_allclose(integral, integral[0], rtol=1e-6)
    upwards = orbit.times[1:][(y[:-1] < 0) & (y[1:] >= 0)]
    period = float(orbit.periods())
    assert period == pytest.approx(np.diff(upwards).mean(), rel=0.02)
    assert orbit.speed.min() > 0.05
    assert orbit.quality.returns.shape == orbit.times.shape


def test_n_distill_does_not():
    path = game_flow("n_distill_r", num_steps=600, step_size=0.1, num_records=300)
    assert np.isnan(path.periods())
    assert path.speed[-1] < path.speed[0]


def test_a_path_that_comes_to_rest_does_not_go_round():
    mdps, teacher = fields.random_problems(jax.random.key(0), 2, num_states=3)
    path = flow(mdps, teacher, "on_policy_distill", num_steps=200, step_size=0.5, num_records=50)
    assert path.logits.shape == (2, 51, 3, 3) and path.periods().shape == (2,)
    assert np.isnan(path.periods()).all()
    assert (np.diff(path.quality.trajectory_kl, axis=1) < 1e-12).all()  # tabular: no way is lost


@pytest.mark.slow
def test_the_integrator_is_of_order_4(orbit):
    """Half the step, a sixteenth of the error."""
    end = {
        n: game_flow("on_policy_distill_r", num_steps=n, step_size=4 / n, num_records=1).logits[-1] for n in (4, 8, 64)
    }
    errors = [np.abs(end[n] - end[64]).max() for n in (4, 8)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.7)


def test_a_fixed_point_is_where_a_long_flow_ends():
    """Of a field that is no gradient, with rows that are shared; and V_theta flows along."""
    mdps, teacher = fields.random_problems(jax.random.key(4), 2, num_states=4, num_observations=3)
    found = fixed_point(mdps, teacher, "on_policy_distill_r", estimator="td", discount=0.9)
    assert found.converged.all() and found.stable.all()
    assert found.speed.max() < 1e-10
    path = flow(
        mdps, teacher, "on_policy_distill_r", found.logits + 0.3 * np.sin(np.arange(9.0)).reshape(3, 3), found.values,
        num_steps=3000, step_size=0.5, num_records=1, estimator="td", discount=0.9,
    )  # fmt: skip
    centred = [x - x.mean(-1, keepdims=True) for x in (path.logits[:, -1], found.logits)]
    np.testing.assert_allclose(*centred, atol=2e-3)
    np.testing.assert_allclose(path.values[:, -1], found.values, atol=2e-3)
    assert np.abs(found.values).max() > 0.1


def test_the_search_does_not_end_at_a_saddle():
    """td_vpi prefers in each state the action of greatest Q^pi; long steps went to others in two of these worlds."""
    mdps, teacher = precise(*fields.random_problems(jax.random.key(1), 30, num_states=3, num_others=0))
    found = fixed_point(mdps, teacher, "td_vpi")
    with float64():
        best = np.asarray(exact.action_values(mdps, teacher.values)).argmax(-1)
    start = found.logits[:, 0]
    np.testing.assert_array_equal(start.argmax(-1), best[:, 0])
    assert found.converged.all() and (np.sort(start)[:, -1] - np.sort(start)[:, -2]).min() > 5


@pytest.mark.slow
def test_a_hilltop_is_a_resting_place_but_not_stable():
    """The uniform student has the greatest entropy; whoever descends entropy falls from it, once pushed."""

    def entropy(step):
        return -jnp.sum(jnp.exp(step.student_log_probs) * step.student_log_probs)

    mdps, teacher = fields.random_problems(jax.random.key(0), 1, num_states=3)
    method = Method("entropy", loss=entropy)
    top = fixed_point(mdps[0], teacher[0], method)
    assert top.converged and not top.stable
    below = fixed_point(mdps[0], teacher[0], method, np.eye(3), max_steps=60)
    assert np.exp(below.logits - below.logits.max(-1, keepdims=True)).sum(-1).max() < 1.01  # deterministic


@pytest.mark.slow
def test_quality_is_that_of_exact():
    mdps, teacher = fields.random_problems(jax.random.key(6), 3, num_states=4, num_observations=2)
    logits = np.random.default_rng(1).normal(size=(3, 2, 2, 3))  # two students of each world
    found = quality(mdps, teacher, logits)
    wide, mine = precise(mdps, teacher)
    with float64():
        for n in range(2):
            policy = exact.policy_from_table(wide, jax.nn.softmax(jnp.asarray(logits[:, n])))
            returns = exact.start_value(wide, exact.policy_values(wide, policy))
            row_kl = jnp.sum(policy * (jnp.log(policy) - jnp.log(mine.probs)), -1)
            kl = exact.start_value(wide, exact.expected_sum(wide, policy, row_kl))
            np.testing.assert_allclose(found.returns[:, n], returns, atol=1e-12)
            np.testing.assert_allclose(found.trajectory_kl[:, n], kl, atol=1e-12)


def test_distance_counts_reachable_states_and_the_kl_may_be_infinite():
    game = oscillation_game()
    teacher = oscillation_teacher(game)
    exact_copy = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [1e-9, 1.0]]))  # the third row is of states without a step
    found = quality(game, teacher, exact_copy)
    assert found.distance == pytest.approx(0.5)  # in s_R, whose row is shared with s_L
    assert found.trajectory_kl == np.inf


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


@pytest.mark.slow
def test_what_diverges_stops_where_numbers_end():
    mdps, teacher = fields.random_problems(jax.random.key(0), 2, num_states=3)
    end = fixed_point(mdps, teacher, ZOO["k3_return"])
    assert not end.converged.any()
    assert np.isfinite(end.logits).all() and np.isfinite(end.speed).all() and np.abs(end.logits).max() > 100
