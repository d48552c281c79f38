"""The exact expected update against the enumeration of all episodes and finite differences; the paper's theorems."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import MDP, METHODS, Control, Teacher, expected_update, methods, teachers
from jaxdistill.mdp import exact
from jaxdistill.theory import fields, flows
from jaxdistill.theory.precision import float64
from jaxdistill.theory.variance import assess
from tests import small
from tests.theory.enumeration import (
    DECAY,
    FEATURES,
    activity,
    all_trajectories,
    exact_in_binary,
    float64_arrays,
    random_student,
    short_episodes,
    softmax,
)

DISCOUNT, FLOOR, LOSS_WEIGHT, RETURN_WEIGHT = 0.7, 0.01, 0.6, 1.4


# --- All episodes -------------------------------------------------------------------------------------------------


def enumerated_update(mdp, teacher, name, logits, values, *, estimator, reduction, control, is_divided=False):
    """The expected update of Table 1 by enumeration, in NumPy; arrays over episodes [N] and steps [T]."""
    is_used = activity(mdp)
    share = is_used / is_used.sum(1, keepdims=True) if is_divided else is_used
    pi = np.asarray(teacher.probs, np.float64)
    v_pi = np.asarray(teacher.values, np.float64)
    log_pi = np.log(np.maximum(pi, FLOOR))
    p = softmax(is_used @ logits)  # [S, A]
    v = is_used @ values
    forward = -(pi * np.log(p)).sum(-1)  # [S]
    backward = -(p * log_pi).sum(-1)
    grad_forward = p - pi
    grad_backward = p * (-log_pi - backward[:, None])
    logits_update, values_update = np.zeros_like(logits), np.zeros_like(values)
    total_prob = 0.0
    for states, actions, rewards, prob in all_trajectories(mdp, control):
        num_steps = states.shape[1]
        zeros = np.zeros_like(rewards)
        taken_log_pi, taken_log_p = log_pi[states, actions], np.log(p)[states, actions]
        no_loss = np.zeros((*states.shape, mdp.num_actions))
        conditional = (v_pi > v)[:, None] * grad_forward
        rhat, grad_loss = {
            "baseline": (rewards, no_loss),
            "td_v0": (rewards, no_loss),
            "td_vpi": (rewards, no_loss),
            "teacher_distill": (None, grad_forward[states]),
            "on_policy_distill": (None, grad_forward[states]),
            "on_policy_distill_r": (rewards, grad_forward[states]),
            "on_policy_distill_r_vcond": (rewards, conditional[states]),
            "entropy_regularised": (taken_log_pi, no_loss),
            "n_distill": (shifted(-forward[states]), grad_forward[states]),
            "exp_entropy_regularised": (shifted(taken_log_pi), grad_backward[states]),
            "kl_regularised": (taken_log_pi - taken_log_p, no_loss),
            "teacher_v_reward": (rewards + DISCOUNT * shifted(v_pi[states]) - v_pi[states], no_loss),
        }[name]
        if rhat is None:
            advantage = value_step = zeros
        else:
            if name in ("td_v0", "td_vpi"):
                target = rhat + (DISCOUNT * shifted(v_pi[states]) if name == "td_vpi" else 0)
                advantage = target
            else:
                target = np.array(rhat)
                for t in reversed(range(num_steps - 1)):
                    continuation = DECAY[estimator] * target[:, t + 1] + (1 - DECAY[estimator]) * v[states[:, t + 1]]
                    target[:, t] += DISCOUNT * continuation
                advantage = target - v[states]
            value_step = target - v[states]
        score = np.eye(mdp.num_actions)[actions] - p[states]
        direction = RETURN_WEIGHT * advantage[..., None] * score - LOSS_WEIGHT * grad_loss
        weight = prob / num_steps if reduction == "mean" else prob
        logits_update += np.einsum("n,nta,nto->oa", weight, direction, share[states])
        values_update += np.einsum("n,nt,nto->o", weight, value_step, share[states])
        total_prob += prob.sum()
    assert 1 - 1e-8 < total_prob < 1 + 1e-12
    return logits_update, values_update


def shifted(x):
    """x(t + 1) in the place of x(t), and 0 in the last step; [N, T]."""
    return np.concatenate([x[:, 1:], np.zeros_like(x[:, :1])], axis=1)


CASES = [
    (name, estimator)
    for name, method in METHODS.items()
    for estimator in DECAY
    if method.estimator in (None, estimator)
]
WEIGHTS = {"discount": DISCOUNT, "probability_floor": FLOOR, "loss_weight": LOSS_WEIGHT, "return_weight": RETURN_WEIGHT}


SUMMED = [("on_policy_distill_r", "mc"), ("n_distill", "td")]  # The tests of gradients below have other sums.


@pytest.mark.parametrize(
    ("name", "estimator", "is_aliased", "reduction"),
    [(*case, True, "mean") for case in CASES] + [(*case, False, "sum") for case in SUMMED],
)
def test_update_by_enumeration(name, estimator, is_aliased, reduction):
    """The tolerance is 1e-7, because the enumeration leaves out episodes of more than 8 steps."""
    mdp, teacher = short_episodes(is_aliased)
    logits, values = random_student(mdp, 1)
    control = softmax(logits)[np.asarray(mdp.observation)]
    if name == "teacher_distill":
        control = np.asarray(teacher.probs, np.float64)
    options = {"estimator": estimator, "reduction": reduction}
    expected = enumerated_update(mdp, teacher, name, logits, values, control=control, **options)
    options |= WEIGHTS | ({"trace_decay": DECAY["lambda"]} if estimator == "lambda" else {})
    with float64():
        update = expected_update(mdp, teacher, name, jnp.asarray(logits), jnp.asarray(values), **options)
    for table, expected_table in zip(update, expected, strict=True):
        np.testing.assert_allclose(table, expected_table, atol=1e-7)
    if METHODS[name].has_return:
        assert np.abs(expected[1]).max() > 0.05


@pytest.mark.parametrize("num_features", FEATURES)
@pytest.mark.parametrize(("name", "estimator"), [("n_distill", "td"), ("on_policy_distill_r", "mc")])
@pytest.mark.parametrize("feature_steps", ["full", "divided"])
def test_update_of_sums_of_rows_by_enumeration(num_features, name, estimator, feature_steps):
    mdp, teacher = short_episodes(False)
    mdp = mdp.with_features(FEATURES[num_features])
    logits, values = random_student(mdp, 1)
    options = {"estimator": estimator, "reduction": "mean"}
    expected = enumerated_update(
        mdp, teacher, name, logits, values, control=softmax(activity(mdp) @ logits),
        is_divided=feature_steps == "divided", **options,
    )  # fmt: skip
    update = expected_update(mdp, teacher, name, logits, values, feature_steps=feature_steps, **options, **WEIGHTS)
    for table, expected_table in zip(update, expected, strict=True):
        np.testing.assert_allclose(table, expected_table, atol=1e-7)


def test_a_sum_of_rows_descends_the_losses_of_a_table():
    """Theorem 2 holds for any parameters of the policy, and Theorem 1's asymmetry stays: shared rows change neither."""
    mdp, teacher = short_episodes(False)
    mdp = mdp.with_features(FEATURES[2])
    worlds = jax.tree.map(lambda x: jnp.asarray(x)[None], (mdp, teacher))
    whole = fields.check_method("n_distill", mdps=worlds[0], teacher=worlds[1]).whole
    assert whole.matches and whole.loss == "E_pi_theta sum_t H(pi||pi_theta)"
    assert not fields.check_method("on_policy_distill", mdps=worlds[0], teacher=worlds[1]).whole.is_gradient


def test_once_counts_the_last_visit_of_a_row_in_any_of_its_states():
    """In a world without chance for the loss, whose row 0 is used in the first and the last of three steps."""
    mdp = MDP.from_arrays([[1], [2], [2]], np.zeros((3, 1)), [[False], [False], [True]], [[1.0], [1.0]])
    mdp = mdp.with_features([[0, 1], [1, 2], [0, 3]])
    teacher = Teacher(*(np.array(x) for x in ([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [0.0] * 3, [[0.0] * 2] * 3)))
    logits = np.array([[1.0, 0.0], [0.0, 0.5], [0.3, 0.0], [0.0, 0.2]])
    update = expected_update(mdp, teacher, "on_policy_distill", logits, reduction="sum", loss_visits="once").logits
    directions = teacher.probs - softmax(activity(mdp) @ logits)
    np.testing.assert_allclose(update, directions[[2, 1, 1, 2]], atol=1e-12)


@pytest.mark.parametrize("per", ["step", "episode"])
def test_update_under_mixed_control_by_enumeration(per):
    """Policies drawn once per episode average the updates; policies drawn per step act as their average."""
    mdp, teacher = short_episodes(True)
    logits, values = random_student(mdp, 2)
    weights = (0.5, 0.3, 0.2)
    policies = [
        softmax(logits)[np.asarray(mdp.observation)],
        np.asarray(teacher.probs, np.float64),
        np.full((3, 2), 0.5),
    ]
    controls = policies if per == "episode" else [np.tensordot(weights, policies, 1)]
    options = {"estimator": "mc", "reduction": "mean"}
    updates = [enumerated_update(mdp, teacher, "n_distill", logits, values, control=q, **options) for q in controls]
    update_weights = weights if per == "episode" else [1.0]
    expected = [np.tensordot(update_weights, np.stack(tables), 1) for tables in zip(*updates, strict=True)]
    method = dataclasses.replace(METHODS["n_distill"], control=Control(*weights, per=per))
    with float64():
        update = expected_update(mdp, teacher, method, jnp.asarray(logits), jnp.asarray(values), **options, **WEIGHTS)
    for table, expected_table in zip(update, expected, strict=True):
        np.testing.assert_allclose(table, expected_table, atol=1e-7)


def test_float32_is_near_float64():
    mdp, teacher = short_episodes(True)
    logits, values = random_student(mdp, 1)
    with float64():
        double = expected_update(mdp, teacher, "n_distill", jnp.asarray(logits), jnp.asarray(values), **WEIGHTS)
        double = [np.asarray(x) for x in double]
    single = expected_update(mdp, teacher, "n_distill", jnp.float32(logits), jnp.float32(values), **WEIGHTS)
    for single_table, double_table in zip(single, double, strict=True):
        np.testing.assert_allclose(single_table, double_table, atol=1e-5)


# --- Gradient fields of Table 1: undiscounted sums over steps -----------------------------------------------------


@functools.cache
def long_episodes(is_aliased: bool) -> tuple[MDP, Teacher]:
    """4 states with long episodes, revisits and terminals; in one state the teacher never takes two of the actions."""
    mdp = small.random_mdp(21, aliased=is_aliased, starts=2)
    probs = {name: exact_in_binary(getattr(mdp, name)) for name in ("outcome_probs", "start_probs")}
    mdp = dataclasses.replace(mdp, continue_prob=jnp.float32(0.9), **probs)
    teacher = small.random_teacher(mdp, 21, deterministic_rows=1)
    return mdp, dataclasses.replace(teacher, probs=exact_in_binary(teacher.probs))


def stated_loss(mdp, teacher, cost, logits, *, teacher_control=False):
    """E_q sum_t cost(s_t) from the visits d = start + P^T d, in NumPy.

    `cost(p)` is [S] for the student's policy p [S, A].
    """
    arrays = float64_arrays(mdp)
    p = softmax(logits)[arrays["observation"]]
    q = np.asarray(teacher.probs, np.float64) if teacher_control else p
    weights = np.einsum("sa,sak->sk", q, probs_by_state(mdp))
    transition = np.zeros((mdp.num_states, mdp.num_states))
    onward = weights * np.where(arrays["terminal"], 0, float(mdp.continue_prob))
    np.add.at(transition, (np.arange(mdp.num_states)[:, None], arrays["successor"]), onward)
    start = np.zeros(mdp.num_states)
    np.add.at(start, arrays["start"], np.asarray(mdp.start_probs, np.float64))
    visits = np.linalg.solve(np.eye(mdp.num_states) - transition.T, start)
    return visits @ cost(p)


def probs_by_state(mdp):
    """The outcome probabilities, [S, A, K], also where they do not depend on the state."""
    probs = float64_arrays(mdp)["outcome_probs"]
    return np.broadcast_to(probs, (mdp.num_states, *probs.shape[-2:]))


def stated_costs(mdp, teacher):
    """The cost of a state in the loss of each method of Table 1 that has one, as a function of the policy [S, A]."""
    pi = np.asarray(teacher.probs, np.float64)
    log_pi = np.log(np.maximum(pi, FLOOR))
    reward = np.einsum("sak,sk->sa", probs_by_state(mdp), float64_arrays(mdp)["reward"])

    def forward(p):
        return -(pi * np.log(p)).sum(-1)

    def negative_reward(p):
        return -(p * reward).sum(-1)

    def negative_log_pi(p):
        return -(p * log_pi).sum(-1)

    return {
        "baseline": negative_reward,
        "teacher_distill": forward,
        "entropy_regularised": negative_log_pi,
        "n_distill": forward,  # Theorem 2
        "exp_entropy_regularised": negative_log_pi,
        "kl_regularised": lambda p: (p * (np.log(p) - log_pi)).sum(-1),
        "teacher_v_reward": negative_reward,
    }


GRADIENTS = tuple(stated_costs(*short_episodes(False)))
UNDISCOUNTED = {"estimator": "mc", "reduction": "sum", "discount": 1.0, "probability_floor": FLOOR}


def logits_update(name, world, logits, values=None, **changes):
    """The expected update of the logits in float64, as a NumPy array."""
    with float64():
        values = None if values is None else jnp.asarray(values)
        return np.asarray(expected_update(*world, name, jnp.asarray(logits), values, **(UNDISCOUNTED | changes)).logits)


def finite_differences(function, x, step=1e-5):
    slopes = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = step
        slopes[i] = (function(x + e) - function(x - e)) / (2 * step)
    return slopes


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_update_descends_the_stated_loss(name):
    """Minus the update is the gradient of Table 1's loss by finite differences, for any V_theta."""
    world = long_episodes(True)
    logits, values = random_student(world[0], 4)
    cost = stated_costs(*world)[name]
    loss = functools.partial(stated_loss, *world, cost, teacher_control=name == "teacher_distill")
    slopes = finite_differences(loss, logits)
    assert np.abs(slopes).max() > 0.05
    np.testing.assert_allclose(logits_update(name, world, logits, values), -slopes, atol=1e-7)
    np.testing.assert_allclose(logits_update(name, world, logits), -slopes, atol=1e-7)


@pytest.mark.parametrize("name", ["baseline", "n_distill", "exp_entropy_regularised"])
def test_the_one_step_target_with_true_values_gives_a_gradient_too(name):
    """If V(s) = E[Rhat_t | s_t = s], bootstrapping by V does not change the expected update (without aliasing).

    This V is the fixed point of the update of the values.
    """
    world = long_episodes(False)
    logits, _ = random_student(world[0], 4)

    def values_update(values, estimator="td"):
        with float64():
            options = UNDISCOUNTED | {"estimator": estimator}
            return np.asarray(expected_update(*world, name, jnp.asarray(logits), jnp.asarray(values), **options).values)

    zero = np.zeros(4)  # The update is linear in V, so its fixed point solves a linear system.
    matrix = np.stack([values_update(e) - values_update(zero) for e in np.eye(4)], axis=1)
    true_values = np.linalg.solve(matrix, -values_update(zero))
    np.testing.assert_allclose(values_update(true_values, "mc"), 0, atol=1e-6)
    one_step = logits_update(name, world, logits, true_values, estimator="td")
    np.testing.assert_allclose(one_step, logits_update(name, world, logits), atol=1e-6)


@functools.cache
def numerical_jacobian(name, **changes):
    """J[i, j] of the update of all logits, by central differences."""
    world = long_episodes(True)
    logits, _ = random_student(world[0], 4)
    columns = []
    for i in np.ndindex(logits.shape):
        e = np.zeros_like(logits)
        e[i] = 1e-5
        plus, minus = (logits_update(name, world, x, **changes) for x in (logits + e, logits - e))
        columns.append((plus - minus).ravel() / 2e-5)
    return np.stack(columns, axis=1)


def relative_asymmetry(jacobian):
    return np.abs(jacobian - jacobian.T).max() / np.abs(jacobian).max()


@pytest.mark.parametrize("name", GRADIENTS)
def test_jacobians_are_symmetric_where_table_1_states_a_loss(name):
    assert relative_asymmetry(numerical_jacobian(name)) < 1e-7


@pytest.mark.parametrize("name", ["on_policy_distill", "on_policy_distill_r"])
def test_on_policy_distillation_is_not_a_gradient_field(name):
    """Theorem 1."""
    assert relative_asymmetry(numerical_jacobian(name)) > 0.02


def test_theorem_2_fails_with_a_discount():
    assert relative_asymmetry(numerical_jacobian("n_distill", discount=0.5)) > 1e-3


def test_the_update_is_differentiable():
    world = long_episodes(True)
    logits, _ = random_student(world[0], 4)
    with float64():

        def flat_update(x):
            x = x.reshape(logits.shape)
            return expected_update(*world, "on_policy_distill_r", x, **UNDISCOUNTED).logits.ravel()

        jacobian = jax.jacobian(flat_update)(jnp.asarray(logits).ravel())
    np.testing.assert_allclose(jacobian, numerical_jacobian("on_policy_distill_r"), atol=1e-8)


def test_n_distill_adds_the_missing_term_of_theorem_2():
    """N-distill is on-policy distillation plus the score-function term of the losses of later steps."""
    world = long_episodes(True)
    logits, _ = random_student(world[0], 5)
    missing_term = dataclasses.replace(METHODS["n_distill"], name="missing_term", loss=None)
    total = logits_update("on_policy_distill", world, logits) + logits_update(missing_term, world, logits)
    np.testing.assert_allclose(logits_update("n_distill", world, logits), total, atol=1e-12)


def test_expected_entropy_regularised_is_entropy_regularised():
    """Both have the same expected update with Monte Carlo returns, sums over steps and no discount."""
    world = long_episodes(True)
    logits, _ = random_student(world[0], 6)
    names = ("exp_entropy_regularised", "entropy_regularised")
    np.testing.assert_allclose(*(logits_update(name, world, logits) for name in names), atol=1e-10)
    discounted = [logits_update(name, world, logits, discount=0.5) for name in names]
    assert np.abs(discounted[0] - discounted[1]).max() > 1e-3


def test_teacher_v_reward_is_the_baseline_undiscounted():
    """Proposition 4: the shaping terms add up to minus the value of the start, which no policy changes."""
    world = long_episodes(True)
    logits, _ = random_student(world[0], 7)
    names = ("teacher_v_reward", "baseline")
    np.testing.assert_allclose(*(logits_update(name, world, logits) for name in names), atol=1e-9)


def test_proposition_4_an_optimal_teacher_penalises_every_worse_action_at_once():
    """E[r + V*(s') - V*(s) | s, a] is the optimal advantage: 0 for optimal actions and negative for all others."""
    mdp, _ = long_episodes(False)
    teacher = teachers.optimal(mdp, discount=1.0)
    v_pi, arrays = np.asarray(teacher.values), float64_arrays(mdp)
    unused = dict.fromkeys(field.name for field in dataclasses.fields(methods.Step))

    def shaped_reward(s, k, goes_on):
        next_value = goes_on * v_pi[arrays["successor"][s, k]]
        used = {"teacher_value": v_pi[s], "next_teacher_value": next_value, "discount": 1.0}
        return methods.teacher_value_reward(methods.Step(**(unused | used | {"reward": arrays["reward"][s, k]})))

    def mean_reward(s, a):
        end_prob = [1.0 if arrays["terminal"][s, k] else 1 - float(mdp.continue_prob) for k in range(3)]
        by_outcome = [
            (1 - end_prob[k]) * shaped_reward(s, k, 1.0) + end_prob[k] * shaped_reward(s, k, 0.0) for k in range(3)
        ]
        return np.dot(arrays["outcome_probs"][a], by_outcome)

    mean = np.array([[mean_reward(s, a) for a in range(3)] for s in range(4)])
    q, v = exact.optimal_action_values(mdp), exact.optimal_values(mdp)
    np.testing.assert_allclose(mean, q - v[:, None], atol=1e-4)
    is_best = np.asarray(teacher.probs) > 0
    assert np.abs(mean[is_best]).max() < 1e-4 and mean[~is_best].max() < -1e-3


def test_proposition_3_bootstrapping_by_the_teacher_improves_on_it():
    """The expected one-step update with V_pi is 0 only where no action has a greater Q_pi than the others.

    So a student that follows it becomes greedy with respect to Q_pi, and its value exceeds the teacher's.
    """
    mdp, _ = long_episodes(False)
    teacher = teachers.from_table(mdp, np.full((4, 3), 1 / 3), discount=0.9)
    logits = np.zeros((4, 3))
    for _ in range(400):
        logits = logits + logits_update("td_vpi", (mdp, teacher), logits, discount=0.9)
    values = exact.policy_values(mdp, jnp.float32(softmax(logits)), 0.9)
    assert (np.asarray(values) >= np.asarray(teacher.values) - 1e-4).all()
    assert (np.asarray(values) > np.asarray(teacher.values) + 0.05).any()


def test_a_method_may_fix_its_reduction():
    mdp, teacher = short_episodes(True)
    tables = [jnp.float32(table) for table in random_student(mdp, 0)]
    method = dataclasses.replace(METHODS["baseline"], reduction="sum")
    fixed = expected_update(mdp, teacher, method, *tables, reduction="mean")
    summed = expected_update(mdp, teacher, "baseline", *tables, reduction="sum")
    np.testing.assert_array_equal(fixed.logits, summed.logits)


# --- Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "the methods are baseline"),
        ({"logits": jnp.zeros((3, 2))}, r"logits must be \[O, A\] = \[2, 2\]"),
        ({"values": jnp.zeros(3)}, r"values \[O\] = \[2\]"),
        ({"reduction": "max"}, "reduction must be"),
        ({"teacher": small.random_teacher(long_episodes(True)[0], 0)}, r"probs must be \[S, A\] = \[3, 2\]"),
        ({"estimator": "gae"}, "estimator must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    mdp, teacher = short_episodes(True)
    arguments = {"mdp": mdp, "teacher": teacher, "method": "baseline", "logits": jnp.zeros((2, 2))} | changes
    with pytest.raises(ValueError, match=message) as error:
        expected_update(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("num_states", "num_actions", "message"),
    [
        (2100, 2, r"MDP of 2100 states.* too large for the exact update: S\*S\*max\(K, nodes\) = 282,240,000 exceeds"),
        (2, 512, r"too large for the exact update: S\*A\*K\*2\*A = 536,870,912 exceeds 268,435,456 entries; use"),
    ],
)
def test_a_computation_that_does_not_fit_into_memory_is_refused_at_once(num_states, num_actions, message):
    """The sizes of the MDP decide before any large array is made."""
    probs = np.full((num_states, num_actions), 1 / num_actions, np.float32)
    zeros = np.zeros((num_states, num_actions))
    mdp = MDP.from_arrays(zeros.astype(int), zeros, zeros > 0, np.eye(num_actions), continue_prob=0.9)
    teacher = Teacher(probs, zeros[:, 0], probs)
    with pytest.raises(ValueError, match=message) as error:
        expected_update(mdp, teacher, "baseline", jnp.zeros(probs.shape))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"too large for the Jacobian of its update: .* times 64 exceeds"):
        fields.asymmetry(mdp, teacher, "baseline", zeros)
    with pytest.raises(ValueError, match="too large for the Jacobian"):
        flows.fixed_point(mdp, teacher, "baseline")
    with pytest.raises(ValueError, match=message):
        flows.flow(mdp, teacher, "baseline", reduction="mean")
    with pytest.raises(ValueError, match=message):
        assess(mdp, teacher, "baseline", zeros, reduction="mean")


def test_500_parameters_fit_into_memory():
    """They need a few seconds and less than a gigabyte."""
    mdps, teacher = fields.random_problems(jax.random.key(0), 1, num_states=100, num_actions=5)
    report = fields.check_method("n_distill", mdps=mdps, teacher=teacher)
    assert report.whole.matches and report.whole.asymmetry.max() < 1e-12


def test_a_stack_is_refused():
    mdp, teacher = short_episodes(True)
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], (mdp, teacher))
    with pytest.raises(ValueError, match=r"single MDP and teacher; index the stacks, such as mdps\[0\]"):
        expected_update(*stacked, "baseline", jnp.zeros((2, 2)))
