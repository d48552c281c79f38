"""Students that are nearly deterministic, teachers with zeros, numbers at the ends of their domains: all is finite.

What cannot be finite, the logarithm of a teacher probability that is 0, is refused before any work.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import METHODS, ZOO, Config, Method, Step, expected_update, train
from jaxdistill.methods import check_zeros, divergences, loss_gradient, numerics
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.divergences import Rows
from jaxdistill.scheduling import pool
from jaxdistill.teachers.tabular import with_others
from jaxdistill.theory.precision import float64
from tests import small
from tests.methods.four_actions import PI, P, example_step, kl

KNOWN = tuple(ZOO.values()) + tuple(METHODS.values())
TEACHERS = [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.25] * 4, [0, 0, 1e-4, 1 - 1e-4]]
OTHERS = [[0, 1, 0, 0]]
SIZES = {"float16": (4,), "bfloat16": (50, 200), "float32": (50, 200), "float64": (50, 200)}  # float16 ends at 65504


def students(dtype="float32"):
    """Logits of four actions in all combinations of -size, 0 and size, and a mild student, [N, 4]."""
    extreme = [row for size in SIZES[dtype] for row in itertools.product((-size, 0, size), repeat=4)]
    return np.array([[0.5, -1, 1, 2], *extreme])


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, None, 0, 0, 0, None))
def outputs(methods, floor, params, teacher, logits, action, others):
    """The rewards and the loss gradient of every method in one state, by name; `params` are those of each method."""
    by_method = {}
    for method in methods:
        zero = jnp.zeros((), logits.dtype)
        step = Step(
            logits, logits, zero, teacher, numerics.log_floored(teacher, floor), zero + 1, zero, action, zero, zero,
            params=params[method.name], other_probs=others,
        )  # fmt: skip
        rewards = [fn(step) for fn in (method.reward, method.next_reward) if fn is not None]
        by_method[method.name] = rewards + ([loss_gradient(method.loss, step)] if method.loss is not None else [])
    return by_method


def methods_not_finite(dtype, floor, params=None):
    """The methods with an output that is not finite, over all teachers, students and actions played."""
    params = {method.name: method.params for method in KNOWN} if params is None else params
    with float64():
        kind = jnp.dtype(dtype)
        rows = students(dtype)
        grid = [x.ravel() for x in np.meshgrid(range(len(TEACHERS)), range(len(rows)), range(4), indexing="ij")]
        arrays = (jnp.asarray(TEACHERS, kind)[grid[0]], jnp.asarray(rows, kind)[grid[1]], jnp.asarray(grid[2]))
        numbers = jax.tree.map(lambda x: jnp.asarray(x, kind), params)
        results = outputs(KNOWN, jnp.asarray(floor, kind), numbers, *arrays, jnp.asarray(OTHERS, kind))
        return {
            name
            for name, values in results.items()
            if not all(np.isfinite(np.asarray(x, np.float64)).all() for x in values)
        }


# --- Functions of a step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=() if d in ("float32", "bfloat16") else pytest.mark.slow) for d in SIZES]
)
def test_finite_at_every_floor(dtype):
    for floor in (0.01, 1e-6, 1e-12):
        if floor > float(jnp.finfo(dtype).tiny):
            assert methods_not_finite(dtype, floor) == set(), floor


def near_the_ends(domain):
    """Numbers of a domain: its ends or the nearest sensible numbers, and some between or far away."""
    if domain.whole:
        return [domain.least, 2, 4, 5, 1000]
    least, most = max(domain.least, -1e3), min(domain.most, 1e3)
    inside = [least + 1e-6 * (domain.open in ("least", "both")), most - 1e-6 * (domain.open in ("most", "both"))]
    return [*inside, (least + most) / 2, least + 1e-4, most - 1e-4]


def test_finite_at_the_ends_of_every_domain():
    """A number that a method accepts gives finite outputs, or the zero that it would need a floor for is refused."""
    for i in range(5):
        params = {m.name: {name: near_the_ends(m.domains[name])[i] for name in m.params} for m in KNOWN}
        for name in methods_not_finite("float32", 0.01, params):
            method = next(method for method in KNOWN if method.name == name)
            method = dataclasses.replace(method, params=params[name])
            with pytest.raises(ValueError, match="logarithm of a policy probability that is 0; set the param floor"):
                check_zeros(method, TEACHERS[2:3] * 4, np.tile(OTHERS, (1, 4, 1)), 0.01)


def test_a_method_that_takes_the_logarithm_of_0_is_refused(monkeypatch):
    """Without a floor a method has finite outputs, or `train` and `expected_update` refuse it with one line."""
    mdp = small.random_mdp(1)
    teacher = with_others(small.random_teacher(mdp, 1, deterministic_rows=4), small.random_teacher(mdp, 2))

    def begin(tasks, report):
        raise InterruptedError

    monkeypatch.setattr(pool, "run", begin)
    refused, no_floor = set(), Config(probability_floor=0)
    for method in KNOWN:
        try:
            train(jax.random.key(0), mdp, teacher, method, no_floor, num_iterations=1, progress=False)
        except InterruptedError:
            continue
        except ValueError as error:
            assert "probability that is 0" in str(error) and "\n" not in str(error)
            refused.add(method.name)
            with pytest.raises(ValueError, match="teacher probability that is 0; set probability_floor > 0"):
                expected_update(mdp, teacher, method, np.zeros((4, 3)), probability_floor=0)
    assert {"entropy_regularised", "k1_reward"} <= refused and "on_policy_distill" not in refused
    assert methods_not_finite("float32", 0.0) == refused


def test_zeros_are_looked_for_in_the_world_whose_floor_is_0():
    """The floor and the numbers of a method may differ between worlds, and only the world that meets a 0 counts."""
    positive, deterministic = np.full((2, 4, 3), 1 / 3), np.tile(np.eye(3)[0], (2, 4, 1))
    probs, method = np.stack([positive[0], deterministic[0]]), METHODS["kl_regularised"]
    check_zeros(method, probs, floor=np.array([0.0, 0.01]))
    for floor in (np.array([0.01, 0.0]), 0.0, 1e-40):
        with pytest.raises(ValueError, match="here takes the logarithm of a teacher probability that is 0"):
            check_zeros(method, probs, floor=floor, label="here")
    other = dataclasses.replace(ZOO["two_teachers_k1"], params={"weight": 0.5, "floor": np.array([0.01, 0.0])})
    further = np.stack([deterministic, positive])
    check_zeros(other, positive, further, 0.01)
    with pytest.raises(ValueError, match="policy probability that is 0; set the param floor > 0"):
        check_zeros(other, positive, further[::-1], 0.01)
    with pytest.raises(ValueError, match="floor must be one number or one for each of the 3 MDPs"):
        check_zeros(other, np.full((3, 4, 3), 1 / 3), None, 0.01)


# --- What was not played ------------------------------------------------------------------------------------------

FAR = np.float32([0, 0, -200])
ROW = np.float32([0.5, 0.3, 0.2])


def bandit():
    """A world of one state whose episodes have one step, and its teacher."""
    mdp = jaxdistill.MDP.from_arrays([[0]], [[0.0]], [[True]], np.ones((3, 1)), continue_prob=1.0)
    return mdp, jaxdistill.teachers.from_table(mdp, ROW[None])


@pytest.mark.parametrize("name", ["k3_loss", "k3_ratio", "k3_reward"])
def test_an_action_that_is_never_played_by_hand(name):
    """At [0, 0, -200] the third action is never played: the terms of the first two are finite, and so is their mean.

    For x = pi / pi_theta, the gradient of k3 is (1 - x) grad log pi_theta, and k3 itself is x - 1 - log x.
    """
    probs, x = np.array([0.5, 0.5, 0]), np.array([1.0, 0.6])
    scores = np.eye(3)[:2] - probs
    slopes = {"k3_loss": 1 - x, "k3_ratio": -np.log(x), "k3_reward": x - 1 - np.log(x)}[name]
    method, played = ZOO[name], -slopes[:, None] * scores
    for action in range(2):
        step = dataclasses.replace(
            example_step(action), student_logits=jnp.asarray(FAR), frozen_logits=jnp.asarray(FAR),
            teacher_probs=jnp.asarray(ROW), teacher_log_probs=jnp.log(ROW),
        )  # fmt: skip
        update = -loss_gradient(method.loss, step) if method.loss else method.reward(step) * scores[action]
        np.testing.assert_allclose(update, played[action], atol=1e-6)
    mdp, teacher = bandit()
    # pi_theta x = pi however small pi_theta is, which float64 still knows here.
    last = {"k3_loss": -ROW[2], "k3_ratio": 0.0, "k3_reward": ROW[2]}[name] * (np.eye(3)[2] - probs)
    expected = expected_update(mdp, teacher, method, FAR[None]).logits[0]
    np.testing.assert_allclose(expected, (probs[:2, None] * played).sum(0) - last, atol=1e-6)


@pytest.mark.parametrize("name", ["k3_loss", "k3_ratio", "k3_reward"])
def test_a_student_that_never_plays_an_action_is_trained(name):
    mdp, teacher = bandit()
    options = dict(num_iterations=50, num_checkpoints=1, initial_logits=FAR[None], progress=False)
    result = train(jax.random.key(0), mdp, teacher, ZOO[name], **options)
    assert np.isfinite(result.logits).all() and not result.faults


@functools.partial(jax.jit, static_argnums=0)
def expected_at(method, mdp, teacher, logits):
    return jax.vmap(lambda x: expected_update(mdp, teacher, method, x))(logits)


CHEAP = ("k3_ratio", "k3_return", "power_opd_ratio")


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m.name in CHEAP else pytest.mark.slow) for m in KNOWN], ids=lambda m: m.name
)
def test_the_expected_update_of_extreme_students_is_finite(method):
    """One state with all combinations of logits beside a uniform one; the teacher's rows are deterministic."""
    mdp = small.random_mdp(1, num_states=3, num_actions=4)
    teacher = with_others(small.random_teacher(mdp, 1, deterministic_rows=2), small.random_teacher(mdp, 2))
    rows = np.float32(students())
    tables = np.stack([rows, rows[::-1], 0 * rows], axis=1)
    for values in expected_at(method, mdp, teacher, tables):
        assert np.isfinite(values).all()


# --- The ends of beta ---------------------------------------------------------------------------------------------


def gradient(divergence, rows_of, beta, logits):
    """The gradient of the sum of a divergence's terms with respect to the student's logits."""
    return jax.grad(lambda x: jnp.sum(divergence(rows_of(x), beta)))(logits)


def rows_of(logits, teacher):
    log_probs = jax.nn.log_softmax(logits)
    return Rows(log_probs, log_probs, teacher, jnp.log(jnp.maximum(teacher, 0.01)))


def test_beta_0_and_1_of_gkd_and_of_the_normalised_divergence_by_hand():
    """At 0 both are KL(pi||pi_theta) and at 1 KL(pi_theta||pi); beside the ends gkd is smaller by beta or 1 - beta."""
    for fn, name in ((fns.jensen_shannon_or_kl, "gkd"), (fns.normalised_jensen_shannon, "jsd_normalised")):
        assert ZOO[name].loss is fn
        assert fn(example_step(beta=0)) == pytest.approx(kl(PI, P), rel=1e-5)
        assert fn(example_step(beta=1)) == pytest.approx(kl(P, PI), rel=1e-5)
        np.testing.assert_allclose(loss_gradient(fn, example_step(beta=0)), P - PI, atol=1e-6)
        slope = P * (np.log(P / PI) - kl(P, PI))
        np.testing.assert_allclose(loss_gradient(fn, example_step(beta=1)), slope, atol=1e-6)
    for beta, limit, scale in ((1e-3, fns.forward_kl, 1e-3), (1 - 1e-3, fns.reverse_kl, 1e-3)):
        step = example_step(beta=beta)
        expected = np.asarray(loss_gradient(limit, step))
        np.testing.assert_allclose(loss_gradient(fns.normalised_jensen_shannon, step), expected, rtol=0.02, atol=1e-3)
        np.testing.assert_allclose(
            loss_gradient(fns.jensen_shannon_or_kl, step), scale * expected, rtol=0.02, atol=1e-3 * scale + 1e-6
        )


def test_the_normalised_divergence_is_precise_for_every_beta():
    """In float32 its gradient is that of float64 to 1e-5 of the largest entry, for beta down to 1e-30 from 0."""
    rng = np.random.default_rng(0)
    betas = [0, 1e-30, 1e-12, 1e-7, 1e-4, 0.01, 0.3, 0.5, 0.9, 1 - 1e-4, 1 - 2.0**-23]
    for teacher in (PI, rng.dirichlet(np.ones(4)), np.array([1 - 3e-6, 1e-6, 1e-6, 1e-6])):
        logits = rng.normal(size=4) * 3
        for beta in betas:
            log_probs = logits - math.log(np.exp(logits).sum())
            probs = np.exp(log_probs)
            # The slope in pi_theta(a) is -log(1 + beta (x - 1)) / beta, x = pi / pi_theta; -(x - 1) at beta = 0.
            excess = teacher / probs - 1
            slope = -excess if beta == 0 else -np.log1p(beta * excess) / beta
            expected = probs * (slope - (probs * slope).sum())
            actual = gradient(
                divergences.normalised_jensen_shannon,
                lambda x, teacher=teacher: rows_of(x, jnp.float32(teacher)),
                jnp.float32(beta),
                jnp.float32(logits),
            )
            np.testing.assert_allclose(actual, expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=str(beta))


def test_capped_changes_nothing_below_the_cap():
    x = jnp.float32([-300, -1, 0, 50, 86, 87, 400])
    np.testing.assert_array_equal(numerics.capped(x)[:5], x[:5])
    assert np.isfinite(jnp.exp(numerics.capped(x))).all()
    np.testing.assert_array_equal(jax.vmap(jax.grad(numerics.capped))(x), 1)


def test_a_loss_of_ones_own_is_finite_with_capped():
    """What docs/own_methods.md says about the exponential of a log ratio."""

    def naive(step):
        return numerics.pick(jnp.exp(step.teacher_log_probs - step.student_log_probs), step.action)

    def capped(step):
        ratio = numerics.capped(step.teacher_log_probs - step.student_log_probs)
        return numerics.pick(jnp.exp(ratio), step.action)

    mdp, teacher = bandit()
    methods = [Method("mine", loss=fn) for fn in (naive, capped)]
    updates = [expected_update(mdp, teacher, method, 5 * FAR[None]).logits for method in methods]
    assert np.isnan(updates[0]).any() and np.isfinite(updates[1]).all()
