"""What an update depends on is found out from the method's functions, and it is what changes their numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, ZOO, Method, expected_update, stack
from jaxdistill.methods import UpdateOptions, effects, get, loss_gradient, make_step
from tests import small

ALL = {**METHODS, **ZOO, "n_distill_r": get("n_distill_r")}
NUM_ACTIONS, NUM_OTHERS, NUM_STEPS = 4, 2, 40
VALUES = ("student_value", "teacher_value", "next_teacher_value", "reward")
VARIED = {"probability_floor": 0.3, "discount": 0.2, "reward": 7.0, "teacher_value": -3.0}


def params_of_steps(method, name):
    """The default of a number of a method in half of the steps, and the upper end of its domain, if any, in the others.

    At beta 1, for example, "gkd" is the reverse KL, which has a logarithm of the teacher.
    """
    domain, default = method.domains.get(name), method.params[name]
    has_end = domain is not None and np.isfinite(domain.most) and domain.open in ("", "least")
    return np.where(np.arange(NUM_STEPS) % 2, domain.most if has_end else default, default)


def steps(method):
    """The arguments of `make_step` for random steps, some of a teacher with zeros, [NUM_STEPS, ...]."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(NUM_ACTIONS, 0.5), NUM_STEPS)
    probs[::3] = np.eye(NUM_ACTIONS)[rng.integers(NUM_ACTIONS, size=len(probs[::3]))]
    arguments = {
        "student_logits": rng.normal(size=probs.shape),
        "teacher_probs": probs,
        "other_probs": rng.dirichlet(np.ones(NUM_ACTIONS), (NUM_STEPS, NUM_OTHERS)),
        **{name: rng.normal(size=NUM_STEPS) for name in VALUES},
        "discount": np.full(NUM_STEPS, 0.9),
        "probability_floor": np.full(NUM_STEPS, 1e-6),
        "params": {name: params_of_steps(method, name) for name in method.params},
    }
    arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arguments)
    return arguments | {"action": jnp.asarray(rng.integers(NUM_ACTIONS, size=NUM_STEPS), jnp.int32)}


def numbers(method, arguments):
    """The rewards and the gradients of the loss of a method in every step, [NUM_STEPS, N]."""

    def of_step(arguments):
        step = make_step(**arguments)
        outputs = [jnp.ravel(fn(step)) for fn in (method.reward, method.next_reward) if fn is not None]
        return jnp.concatenate([*outputs, loss_gradient(method.loss, step)] if method.loss else outputs)

    return jax.vmap(of_step)(arguments)


def check_dependencies(names):
    wrong = []
    for name in names:
        method = ALL[name]
        named = effects.dependencies(method, NUM_ACTIONS, NUM_OTHERS)
        plain = steps(method)
        variants = [plain, *(plain | {key: jnp.full(NUM_STEPS, value)} for key, value in VARIED.items())]
        together = jax.tree.map(lambda *x: jnp.concatenate(x), *variants)
        before, *after = np.split(np.asarray(numbers(method, together)), len(variants))
        for key, numbers_after in zip(VARIED, after, strict=True):
            is_needed = not np.array_equal(before, numbers_after)
            if is_needed is not (key in named):
                wrong.append((name, key, is_needed))
    assert not wrong


def test_dependencies_are_what_changes_the_numbers():
    """For some methods and each of four numbers: it is named as a dependency just where it changes something."""
    check_dependencies([*METHODS, *list(ZOO)[::7]])


@pytest.mark.slow
def test_dependencies_of_all_methods():
    check_dependencies(ALL)


OPTIONS = {"discount": 0.3, "probability_floor": 0.3, "loss_weight": 2.0, "return_weight": 2.0, "trace_decay": 0.2}
WORLD = stack([small.random_mdp(3)])[0]
TEACHER = small.random_teacher(WORLD, 3, deterministic_rows=2)


@pytest.mark.parametrize(
    "name",
    [
        *("kl_regularised", "on_policy_distill_r", "k1_reward"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("n_distill", "td_v0", "td_vpi", "teacher_v_reward", "teacher_distill", "reverse_kl", "top_d",
                         "k1_return", "kickstarting", "exp_entropy_regularised", "on_policy_distill_r_vcond")
        ),
    ],
)  # fmt: skip
def test_an_option_without_effect_changes_no_expected_update(name):
    """And one with an effect does: the rule for each option, held against the exact update."""
    method = ALL[name]
    estimator = method.estimator or "lambda"
    logits, values = small.random_student(WORLD, 3)

    def update(**options):
        if estimator != "lambda":
            options.pop("trace_decay", None)
        return np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, expected_update(
            WORLD, TEACHER, method, logits, values, estimator=estimator, **options
        ))))  # fmt: skip

    plain = update()
    options = UpdateOptions(estimator=estimator).resolved(method)
    for option, value in OPTIONS.items():
        has_effect = not effects.without_effect(option, method, options, WORLD.num_actions)
        assert has_effect is not np.array_equal(update(**{option: value}), plain), option


def test_what_is_read_but_not_needed_has_no_effect():
    """A loss may read the teacher's logarithm and have a gradient without it."""

    def forward_kl(step):
        return jnp.sum(step.teacher_probs * (step.teacher_log_probs - step.student_log_probs))

    assert effects.dependencies(Method("a", loss=forward_kl), 3) >= {"teacher_probs"}
    assert "probability_floor" not in effects.dependencies(Method("a", loss=forward_kl), 3)
    assert "probability_floor" in effects.dependencies(Method("b", reward=forward_kl), 3)


def test_the_share_of_a_teacher_below_the_floor():
    probs = np.array([[[0.5, 0.499, 0.001], [1, 0, 0]], [[0.98, 0.01, 0.01], [0.2, 0.3, 0.5]]])
    share = effects.mass_below_floor(METHODS["kl_regularised"], 0.02, probs)
    assert share == pytest.approx((0.001 + 0 + 0.02 + 0) / 4)
    share = effects.mass_below_floor(METHODS["kl_regularised"], np.array([0.0, 0.25]), probs)
    assert share == pytest.approx((0.02 + 0.2) / 4)
    assert effects.mass_below_floor(METHODS["kl_regularised"], UpdateOptions().probability_floor, probs) == 0
    assert effects.mass_below_floor(METHODS["on_policy_distill"], 0.02, probs) is None
