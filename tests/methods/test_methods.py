"""Methods as data: the table of methods, their functions by hand, combinations, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, STUDENT, TEACHER, UNIFORM, Control, Method, Step, methods, plus_reward, stack, train
from tests import small

LOG = np.log
PI, P = np.array([0.6, 0.4, 0.0]), np.array([0.5, 0.25, 0.25])


def step(action=1, **changes):
    values = {
        "student_logits": jnp.log(jnp.float32(P)) + 3,
        "student_value": 0.5,
        "teacher_probs": jnp.float32(PI),
        "teacher_log_probs": jnp.log(jnp.maximum(jnp.float32(PI), 0.01)),
        "teacher_value": 2.0,
        "next_teacher_value": 1.5,
        "reward": -1.0,
        "discount": 0.9,
    } | changes
    values = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return Step(
        **values,
        frozen_logits=values["student_logits"],
        action=jnp.int32(action),
        params={"tau": jnp.float32(2)},
        other_probs=jnp.zeros((0, 3)),
    )


H, BACKWARD = -0.6 * LOG(0.5) - 0.4 * LOG(0.25), -0.5 * LOG(0.6) - 0.25 * LOG(0.4) - 0.25 * LOG(0.01)
BY_HAND = {  # loss, reward, next_reward
    "baseline": (None, -1, None),
    "teacher_distill": (H, None, None),
    "on_policy_distill": (H, None, None),
    "on_policy_distill_r": (H, -1, None),
    "on_policy_distill_r_vcond": (H, -1, None),
    "entropy_regularised": (None, LOG(0.4), None),
    "n_distill": (H, None, -H),
    "exp_entropy_regularised": (BACKWARD, None, LOG(0.4)),
    "kl_regularised": (None, LOG(0.4 / 0.25), None),
    "teacher_v_reward": (None, -1 + 0.9 * 1.5 - 2, None),
    "td_v0": (None, -1, None),
    "td_vpi": (None, -1, None),
}


def test_every_method_is_named_by_itself():
    assert list(METHODS) == list(BY_HAND)
    for name, method in METHODS.items():
        assert method.name == name and method.description.endswith(".") and methods.get(name) is method
        assert methods.get(method) is method


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_rewards_by_hand(name):
    method = METHODS[name]
    for fn, expected in zip((method.loss, method.reward, method.next_reward), BY_HAND[name], strict=True):
        assert (fn is None) == (expected is None)
        if fn is not None:
            assert fn(step()) == pytest.approx(expected, rel=1e-5)
    assert method.has_return == (BY_HAND[name][1:] != (None, None))


def test_what_else_differs_between_methods():
    own = {name for name, m in METHODS.items() if m.control == STUDENT}
    assert set(METHODS) - own == {"teacher_distill"} and METHODS["teacher_distill"].control == TEACHER
    assert {n: (m.bootstrap, m.baseline) for n, m in METHODS.items() if m.estimator} == {
        "td_v0": ("zero", False),
        "td_vpi": ("teacher", False),
    }
    assert {name for name, m in METHODS.items() if not m.needs_teacher} == {"baseline", "td_v0"}


def test_the_v_condition_is_strict():
    """l counts only where V_pi(t) > V_theta(t)."""
    loss = METHODS["on_policy_distill_r_vcond"].loss
    assert loss(step(student_value=1.99)) == pytest.approx(H, rel=1e-5)
    for value in (2.0, 2.5):
        assert loss(step(student_value=value)) == 0
        np.testing.assert_array_equal(methods.loss_gradient(loss, step(student_value=value)), 0)


def test_gradients_are_with_respect_to_the_students_row_alone():
    gradient = methods.loss_gradient(METHODS["on_policy_distill"].loss, step())
    np.testing.assert_allclose(gradient, P - PI, atol=1e-6)
    frozen = methods.loss_gradient(lambda s: jnp.sum(s.frozen_logits * s.student_logits), step())
    np.testing.assert_allclose(frozen, step().student_logits)
    slopes = jax.grad(lambda x: step(student_logits=x).student_log_prob)(step().student_logits)
    np.testing.assert_allclose(methods.score(step()), slopes, atol=1e-6)
    np.testing.assert_allclose(methods.score(step()), np.eye(3)[1] - P, atol=1e-6)


def test_step_reads_the_taken_action():
    assert step(2).student_log_prob == pytest.approx(LOG(0.25), rel=1e-5)
    assert step(2).teacher_log_prob == pytest.approx(LOG(0.01), rel=1e-5)


def test_plus_reward():
    combined = plus_reward(METHODS["entropy_regularised"])
    assert combined.name == "entropy_regularised_r"
    assert combined.reward(step()) == pytest.approx(LOG(0.4) - 1, rel=1e-5)
    assert plus_reward(METHODS["n_distill"], "mine").name == "mine"
    assert plus_reward(METHODS["n_distill"]).reward is methods.environment_reward


def test_a_method_of_ones_own_is_a_few_lines():
    """Its own number may differ per MDP without recompiling; it equals the built-in method where it must."""
    mdps = stack([small.random_mdp(i) for i in range(3)])
    teacher = jax.tree.map(lambda *x: jnp.stack(x), *(small.random_teacher(mdps[i], i) for i in range(3)))

    def weighted(step):
        return methods.cross_entropy(step) * step.params["weight"]

    mine = Method("mine", loss=weighted, params={"weight": 1.0})
    options = {"num_iterations": 20, "num_checkpoints": 7}
    key = jax.random.key(0)
    ours = train(key, mdps, teacher, {"a": mine}, **options)
    builtin = train(key, mdps, teacher, {"a": "on_policy_distill"}, **options)
    np.testing.assert_allclose(ours.logits, builtin.logits, atol=1e-5)
    halved = dataclasses.replace(mine, params={"weight": np.array([1.0, 0.5, 0.5])})
    ours = train(key, mdps, teacher, {"a": halved}, **options)
    slower = train(key, mdps, teacher, {"a": "on_policy_distill"}, loss_weight=[1.0, 0.5, 0.5], **options)
    np.testing.assert_allclose(ours.logits, slower.logits, atol=1e-5)
    assert np.abs(ours.logits[0, 1] - builtin.logits[0, 1]).max() > 1e-3


# --- What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Control(student=0.5), "sum to 1"),
        (lambda: Control(student=1.5, teacher=-0.5), ">= 0"),
        (lambda: Control(student=1.0, per="day"), "'step' or 'episode'; got 'day'"),
        (lambda: Method("m", loss=3), "'m': loss must be a function"),
        (lambda: Method("m", next_reward="r"), "next_reward must be a function"),
        (lambda: Method("m", estimator="gae"), "estimator must be 'td', 'mc', 'lambda' or None; got 'gae'"),
        (lambda: Method("m", reduction="max"), "reduction must be 'mean', 'sum', 'fixed' or None; got 'max'"),
        (lambda: Method("m", bootstrap="v"), "bootstrap must be"),
        (lambda: Method("m", control="student"), "control must be a Control"),
        (lambda: methods.get("ppo"), f"Unknown method 'ppo'; the methods are {', '.join(METHODS)}"),
        (lambda: methods.get(7), "Unknown method 7"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_controls():
    assert (STUDENT.weights, TEACHER.weights, UNIFORM.weights) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert STUDENT.is_student and not Control(student=0.5, uniform=0.5).is_student
