"""The exact expected update against every trajectory and finite differences; the paper's theorems."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import MDP, METHODS, Control, Teacher, expected_update, methods, teachers
from jaxdistill.mdp import exact
from jaxdistill.theory import fields, flows
from tests import small

DISCOUNT, FLOOR, LOSS_WEIGHT, RETURN_WEIGHT = 0.7, 0.01, 0.6, 1.4
MAX_STEPS = 8


@contextlib.contextmanager
def float64():
    """Double precision within the block; the rest of the process keeps its own."""
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        from jax.experimental import enable_x64 as enable
    with enable(True):
        yield


def exact_in_binary(probs):
    """Distributions near these, in 256ths: they sum to 1 in float32 and so in float64."""
    counts = np.floor(np.asarray(probs) * 256)
    counts[..., -1] += 256 - counts.sum(-1)
    return jnp.asarray(counts / 256, jnp.float32)


def student(mdp, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(mdp.num_observations, mdp.num_actions)), rng.normal(size=mdp.num_observations)


# --- Every trajectory -----------------------------------------------------------------------------------------


@functools.cache
def brief_world(aliased: bool) -> tuple[MDP, Teacher]:
    """3 states, 2 actions, 2 outcomes; episodes of more than 8 steps have probability below 1e-8."""
    mdp = MDP.from_arrays(
        successor=[[0, 1], [2, 0], [2, 1]],  # 0 and 2 may stay: revisited at once; 1 goes in circles
        reward=[[1.0, -0.5], [0.3, 2.0], [-1.0, 0.7]],
        terminal=[[False, False], [False, True], [False, False]],
        outcome_probs=exact_in_binary([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [1, 0]], [[0.1, 0.9], [0.6, 0.4]]]),
        continue_prob=0.09,
        start=[0, 1],
        start_probs=[0.625, 0.375],
        observation=[0, 1, 1] if aliased else [0, 1, 2],
    )
    probs = exact_in_binary([[0.3, 0.7], [0.0, 1.0], [0.45, 0.55]])
    return mdp, Teacher(probs, jnp.array([0.4, -0.3, 0.9]), probs)


def numbers(mdp):
    """The MDP in float64 NumPy, as it is in float32."""
    return {
        name: np.asarray(getattr(mdp, name), np.float64 if name in ("reward", "outcome_probs") else None)
        for name in ("successor", "reward", "terminal", "outcome_probs", "start", "observation")
    }


def every_trajectory(mdp, control):
    """For each T: states, actions, rewards [N, T] and the probability [N] of every episode of T steps."""
    w, go = numbers(mdp), float(mdp.continue_prob)
    for start, start_prob in zip(w["start"], np.asarray(mdp.start_probs, np.float64), strict=True):
        states = np.full((1, 1), start)
        actions, rewards = np.zeros((1, 0), int), np.zeros((1, 0))
        prob = np.array([start_prob])
        for _ in range(MAX_STEPS):
            # Each episode so far, by each action, by each outcome.
            n = len(prob)
            index, a, k = (x.ravel() for x in np.indices((n, mdp.num_actions, mdp.num_outcomes)))
            s = states[index, -1]
            prob = prob[index] * control[s, a] * w["outcome_probs"][s, a, k]
            states, following = states[index], w["successor"][s, k]
            actions = np.column_stack([actions[index], a])
            rewards = np.column_stack([rewards[index], w["reward"][s, k]])
            terminal = w["terminal"][s, k]
            yield states, actions, rewards, prob * np.where(terminal, 1, 1 - go)
            on = ~terminal & (prob > 0)
            states = np.column_stack([states[on], following[on]])
            actions, rewards, prob = actions[on], rewards[on], prob[on] * go


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


DECAY = {"mc": 1.0, "td": 0.0, "lambda": 0.6}  # lambda of the lambda-return that each estimator is


def brute_force(mdp, teacher, name, logits, values, *, estimator, reduction, control):
    """The expected update by Table 1, written once more; arrays over episodes [N] and steps [T]."""
    observation = np.asarray(mdp.observation)
    pi = np.asarray(teacher.probs, np.float64)
    v_pi = np.asarray(teacher.values, np.float64)
    log_pi = np.log(np.maximum(pi, FLOOR))
    p = softmax(logits)[observation]  # [S, A]
    v = values[observation]
    forward = -(pi * np.log(p)).sum(-1)  # [S]
    backward = -(p * log_pi).sum(-1)
    grad_forward = p - pi
    grad_backward = p * (-log_pi - backward[:, None])
    to_logits, to_values = np.zeros_like(logits), np.zeros_like(values)
    mass = 0.0
    for states, actions, rewards, prob in every_trajectory(mdp, control):
        num_steps = states.shape[1]
        after = np.zeros_like(rewards)
        shifted = lambda x, after=after: np.concatenate([x[:, 1:], after[:, :1]], axis=1)  # noqa: E731
        taken_log_pi, taken_log_p = log_pi[states, actions], np.log(p)[states, actions]
        no_loss = np.zeros((*states.shape, mdp.num_actions))
        vcond = (v_pi > v)[:, None] * grad_forward
        rhat, grad_l = {
            "baseline": (rewards, no_loss),
            "td_v0": (rewards, no_loss),
            "td_vpi": (rewards, no_loss),
            "teacher_distill": (None, grad_forward[states]),
            "on_policy_distill": (None, grad_forward[states]),
            "on_policy_distill_r": (rewards, grad_forward[states]),
            "on_policy_distill_r_vcond": (rewards, vcond[states]),
            "entropy_regularised": (taken_log_pi, no_loss),
            "n_distill": (shifted(-forward[states]), grad_forward[states]),
            "exp_entropy_regularised": (shifted(taken_log_pi), grad_backward[states]),
            "kl_regularised": (taken_log_pi - taken_log_p, no_loss),
            "teacher_v_reward": (rewards + DISCOUNT * shifted(v_pi[states]) - v_pi[states], no_loss),
        }[name]
        if rhat is None:
            target = advantage = after
            value_step = after
        else:
            if name in ("td_v0", "td_vpi"):
                target = rhat + (DISCOUNT * shifted(v_pi[states]) if name == "td_vpi" else 0)
                advantage = target
            else:
                target = np.array(rhat)
                for t in reversed(range(num_steps - 1)):
                    following = DECAY[estimator] * target[:, t + 1] + (1 - DECAY[estimator]) * v[states[:, t + 1]]
                    target[:, t] += DISCOUNT * following
                advantage = target - v[states]
            value_step = target - v[states]
        score = np.eye(mdp.num_actions)[actions] - p[states]
        direction = RETURN_WEIGHT * advantage[..., None] * score - LOSS_WEIGHT * grad_l
        weight = prob / num_steps if reduction == "mean" else prob
        np.add.at(to_logits, observation[states], weight[:, None, None] * direction)
        np.add.at(to_values, observation[states], weight[:, None] * value_step)
        mass += prob.sum()
    assert 1 - 1e-8 < mass < 1 + 1e-12
    return to_logits, to_values


CASES = [
    (name, estimator)
    for name, method in METHODS.items()
    for estimator in DECAY
    if method.estimator in (None, estimator)
]
WEIGHTS = {"discount": DISCOUNT, "probability_floor": FLOOR, "loss_weight": LOSS_WEIGHT, "return_weight": RETURN_WEIGHT}


SUMMED = [("on_policy_distill_r", "mc"), ("n_distill", "td")]  # the other sums are among the gradient fields below


@pytest.mark.parametrize(
    ("name", "estimator", "aliased", "reduction"),
    [(*case, True, "mean") for case in CASES] + [(*case, False, "sum") for case in SUMMED],
)
def test_every_trajectory(name, estimator, aliased, reduction):
    """In float64 to 1e-7, which is what the cut at 8 steps leaves."""
    mdp, teacher = brief_world(aliased)
    logits, values = student(mdp, 1)
    control = softmax(logits)[np.asarray(mdp.observation)]
    if name == "teacher_distill":
        control = np.asarray(teacher.probs, np.float64)
    kind = {"estimator": estimator, "reduction": reduction}
    by_hand = brute_force(mdp, teacher, name, logits, values, control=control, **kind)
    numbers = {"trace_decay": DECAY["lambda"]} if estimator == "lambda" else {}
    with float64():
        update = expected_update(
            mdp, teacher, name, jnp.asarray(logits), jnp.asarray(values), **kind, **WEIGHTS, **numbers
        )
    for ours, theirs in zip(update, by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    if METHODS[name].has_return:
        assert np.abs(by_hand[1]).max() > 0.05


@pytest.mark.parametrize("per", ["step", "episode"])
def test_every_trajectory_of_mixed_control(per):
    """Drawn once per episode, the components' episodes are mixed; drawn per step, their policies are."""
    mdp, teacher = brief_world(True)
    logits, values = student(mdp, 2)
    weights = (0.5, 0.3, 0.2)
    policies = [
        softmax(logits)[np.asarray(mdp.observation)],
        np.asarray(teacher.probs, np.float64),
        np.full((3, 2), 0.5),
    ]
    kind = {"estimator": "mc", "reduction": "mean"}
    by_hand = [
        brute_force(mdp, teacher, "n_distill", logits, values, control=q, **kind)
        for q in (policies if per == "episode" else [np.tensordot(weights, policies, 1)])
    ]
    expected = [
        np.tensordot(weights if per == "episode" else [1.0], np.stack(x), 1) for x in zip(*by_hand, strict=True)
    ]
    method = dataclasses.replace(METHODS["n_distill"], control=Control(*weights, per=per))
    with float64():
        update = expected_update(mdp, teacher, method, jnp.asarray(logits), jnp.asarray(values), **kind, **WEIGHTS)
    for ours, theirs in zip(update, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_float32_is_near():
    mdp, teacher = brief_world(True)
    logits, values = student(mdp, 1)
    with float64():
        precise = expected_update(mdp, teacher, "n_distill", jnp.asarray(logits), jnp.asarray(values), **WEIGHTS)
        precise = [np.asarray(x) for x in precise]
    single = expected_update(mdp, teacher, "n_distill", jnp.float32(logits), jnp.float32(values), **WEIGHTS)
    for x, y in zip(single, precise, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


# --- Gradient fields: Table 1, undiscounted sums over steps -----------------------------------------------------


@functools.cache
def long_world(aliased: bool) -> tuple[MDP, Teacher]:
    """4 states in which episodes go on for long, with revisits, terminals and a teacher that never plays one action."""
    mdp = small.random_mdp(21, aliased=aliased, starts=2)
    numbers = {name: exact_in_binary(getattr(mdp, name)) for name in ("outcome_probs", "start_probs")}
    mdp = dataclasses.replace(mdp, continue_prob=jnp.float32(0.9), **numbers)
    teacher = small.random_teacher(mdp, 21, deterministic_rows=1)
    return mdp, dataclasses.replace(teacher, probs=exact_in_binary(teacher.probs))


def stated_loss(mdp, teacher, cost, logits, *, teacher_control=False):
    """E_q sum_t cost(s_t) by occupancy: d = start + P^T d, in NumPy; `cost(p)` is [S] for the student's p [S, A]."""
    w = numbers(mdp)
    p = softmax(logits)[w["observation"]]
    q = np.asarray(teacher.probs, np.float64) if teacher_control else p
    table = np.broadcast_to(w["outcome_probs"], (mdp.num_states, *w["outcome_probs"].shape[-2:]))
    taken = np.einsum("sa,sak->sk", q, table)
    transition = np.zeros((mdp.num_states, mdp.num_states))
    on = taken * np.where(w["terminal"], 0, float(mdp.continue_prob))
    np.add.at(transition, (np.arange(mdp.num_states)[:, None], w["successor"]), on)
    start = np.zeros(mdp.num_states)
    np.add.at(start, w["start"], np.asarray(mdp.start_probs, np.float64))
    visits = np.linalg.solve(np.eye(mdp.num_states) - transition.T, start)
    return visits @ cost(p)


def costs(mdp, teacher):
    w, pi = numbers(mdp), np.asarray(teacher.probs, np.float64)
    log_pi = np.log(np.maximum(pi, FLOOR))
    table = np.broadcast_to(w["outcome_probs"], (mdp.num_states, *w["outcome_probs"].shape[-2:]))
    reward = np.einsum("sak,sk->sa", table, w["reward"])

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


FIELDS = tuple(costs(*brief_world(False)))
UNDISCOUNTED = {"estimator": "mc", "reduction": "sum", "discount": 1.0, "probability_floor": FLOOR}


def field(name, world, logits, values=None, **changes):
    """The expected update of the logits in float64, NumPy."""
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


@pytest.mark.parametrize("name", FIELDS)
def test_the_update_descends_the_stated_loss(name):
    """Minus the update is the gradient of Table 1's loss by finite differences, whatever V is."""
    world = long_world(True)
    logits, values = student(world[0], 4)
    cost = costs(*world)[name]
    loss = functools.partial(stated_loss, *world, cost, teacher_control=name == "teacher_distill")
    slopes = finite_differences(loss, logits)
    assert np.abs(slopes).max() > 0.05
    np.testing.assert_allclose(field(name, world, logits, values), -slopes, atol=1e-7)
    np.testing.assert_allclose(field(name, world, logits), -slopes, atol=1e-7)


@pytest.mark.parametrize("name", ["baseline", "n_distill", "exp_entropy_regularised"])
def test_td_with_the_true_values_is_a_gradient_too(name):
    """TD(1) bootstrapped by E[Rhat_t | s_t] = s; that V is where the values' own update is 0 (states told apart)."""
    world = long_world(False)
    logits, _ = student(world[0], 4)

    def to_values(values, estimator="td"):
        with float64():
            options = UNDISCOUNTED | {"estimator": estimator}
            return np.asarray(expected_update(*world, name, jnp.asarray(logits), jnp.asarray(values), **options).values)

    zero = np.zeros(4)  # the update is linear in V: solve for the V that it leaves alone
    matrix = np.stack([to_values(e) - to_values(zero) for e in np.eye(4)], axis=1)
    true = np.linalg.solve(matrix, -to_values(zero))
    np.testing.assert_allclose(to_values(true, "mc"), 0, atol=1e-6)
    np.testing.assert_allclose(field(name, world, logits, true, estimator="td"), field(name, world, logits), atol=1e-6)


def numerical_jacobian(name, **changes):
    """J[i, j] of the field of all logits, by central differences."""
    world = long_world(True)
    logits, _ = student(world[0], 4)
    rows = []
    for i in np.ndindex(logits.shape):
        e = np.zeros_like(logits)
        e[i] = 1e-5
        difference = field(name, world, logits + e, **changes) - field(name, world, logits - e, **changes)
        rows.append(difference.ravel() / 2e-5)
    return np.stack(rows, axis=1)


def asymmetry(jacobian):
    return np.abs(jacobian - jacobian.T).max() / np.abs(jacobian).max()


@pytest.mark.parametrize("name", FIELDS)
def test_jacobians_are_symmetric_where_table_1_says_so(name):
    assert asymmetry(numerical_jacobian(name)) < 1e-7


@pytest.mark.parametrize("name", ["on_policy_distill", "on_policy_distill_r"])
def test_on_policy_distillation_is_not_a_gradient_field(name):
    """Theorem 1."""
    assert asymmetry(numerical_jacobian(name)) > 0.02


def test_theorem_2_holds_undiscounted():
    assert asymmetry(numerical_jacobian("n_distill", discount=0.5)) > 1e-3


def test_the_update_is_differentiable():
    world = long_world(True)
    logits, _ = student(world[0], 4)
    with float64():

        def flat(x):
            return expected_update(
                *world, "on_policy_distill_r", x.reshape(logits.shape), **UNDISCOUNTED
            ).logits.ravel()

        jacobian = jax.jacobian(flat)(jnp.asarray(logits).ravel())
    np.testing.assert_allclose(jacobian, numerical_jacobian("on_policy_distill_r"), atol=1e-8)


def test_theorem_2_is_the_missing_term():
    """On-policy distillation plus the score-function term of the later losses is N-distill."""
    world = long_world(True)
    logits, _ = student(world[0], 5)
    alone = dataclasses.replace(METHODS["n_distill"], name="alone", loss=None)
    total = field("on_policy_distill", world, logits) + field(alone, world, logits)
    np.testing.assert_allclose(field("n_distill", world, logits), total, atol=1e-12)


def test_expected_entropy_regularised_is_entropy_regularised():
    """The same field, its first term in expectation; undiscounted, summed, by Monte Carlo."""
    world = long_world(True)
    logits, _ = student(world[0], 6)
    same = field("exp_entropy_regularised", world, logits), field("entropy_regularised", world, logits)
    np.testing.assert_allclose(*same, atol=1e-10)
    discounted = [
        field(name, world, logits, discount=0.5) for name in ("exp_entropy_regularised", "entropy_regularised")
    ]
    assert np.abs(discounted[0] - discounted[1]).max() > 1e-3


def test_teacher_v_reward_is_the_baseline_undiscounted():
    """Proposition 4: the shaping telescopes to a constant of the start, which no policy changes."""
    world = long_world(True)
    logits, _ = student(world[0], 7)
    np.testing.assert_allclose(field("teacher_v_reward", world, logits), field("baseline", world, logits), atol=1e-9)


def test_proposition_4_an_optimal_teacher_punishes_every_worse_action_at_once():
    """E[r + V*(s') - V*(s) | s, a] is the optimal advantage: 0 for optimal actions, below for all others."""
    mdp, _ = long_world(False)
    teacher = teachers.optimal(mdp, discount=1.0)
    v_pi, go = np.asarray(teacher.values), float(mdp.continue_prob)
    w = numbers(mdp)

    def rhat(s, k, goes_on):
        fields = {field.name: None for field in dataclasses.fields(methods.Step)}
        following = goes_on * v_pi[w["successor"][s, k]]
        known = {
            "reward": w["reward"][s, k],
            "teacher_value": v_pi[s],
            "next_teacher_value": following,
            "discount": 1.0,
        }
        return methods.teacher_value_reward(methods.Step(**(fields | known)))

    def mean_rhat(s, a):
        ends = [1.0 if w["terminal"][s, k] else 1 - go for k in range(3)]
        by_outcome = [(1 - ends[k]) * rhat(s, k, 1.0) + ends[k] * rhat(s, k, 0.0) for k in range(3)]
        return np.dot(w["outcome_probs"][a], by_outcome)

    mean = np.array([[mean_rhat(s, a) for a in range(3)] for s in range(4)])
    q, v = exact.optimal_action_values(mdp), exact.optimal_values(mdp)
    np.testing.assert_allclose(mean, q - v[:, None], atol=1e-4)
    best = np.asarray(teacher.probs) > 0
    assert np.abs(mean[best]).max() < 1e-4 and mean[~best].max() < -1e-3


def test_proposition_3_the_teachers_value_points_uphill():
    """Bootstrapped by V_pi, the TD update is 0 in expectation only where no action beats the others by Q_pi: along it,
    a greedy student's value rises above the teacher's."""
    mdp, _ = long_world(False)
    probs = np.full((4, 3), 1 / 3)
    teacher = teachers.from_table(mdp, probs, discount=0.9)
    logits = np.zeros((4, 3))
    for _ in range(400):
        logits = logits + field("td_vpi", (mdp, teacher), logits, discount=0.9)
    values = exact.policy_values(mdp, jnp.float32(softmax(logits)), 0.9)
    assert (np.asarray(values) >= np.asarray(teacher.values) - 1e-4).all()
    assert (np.asarray(values) > np.asarray(teacher.values) + 0.05).any()


def test_a_method_may_fix_its_reduction():
    mdp, teacher = brief_world(True)
    logits, values = student(mdp, 0)
    method = dataclasses.replace(METHODS["baseline"], reduction="sum")
    fixed = expected_update(mdp, teacher, method, jnp.float32(logits), jnp.float32(values), reduction="mean")
    asked = expected_update(mdp, teacher, "baseline", jnp.float32(logits), jnp.float32(values), reduction="sum")
    np.testing.assert_array_equal(fixed.logits, asked.logits)


# --- Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "the methods are baseline"),
        ({"logits": jnp.zeros((3, 2))}, r"logits must be \[O, A\] = \[2, 2\]"),
        ({"values": jnp.zeros(3)}, r"values \[O\] = \[2\]"),
        ({"reduction": "max"}, "reduction must be"),
        ({"teacher": small.random_teacher(long_world(True)[0], 0)}, r"probs must be \[S, A\] = \[3, 2\]"),
        ({"estimator": "gae"}, "estimator must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    mdp, teacher = brief_world(True)
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
def test_what_does_not_fit_into_memory_is_refused_at_once(num_states, num_actions, message):
    """Sizes alone decide, so nothing large is made; 500 parameters are far from it."""
    probs = np.full((num_states, num_actions), 1 / num_actions, np.float32)
    nothing = np.zeros((num_states, num_actions))
    mdp = MDP.from_arrays(nothing.astype(int), nothing, nothing > 0, np.eye(num_actions), continue_prob=0.9)
    teacher = Teacher(probs, nothing[:, 0], probs)
    with pytest.raises(ValueError, match=message) as error:
        expected_update(mdp, teacher, "baseline", jnp.zeros(probs.shape))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"too large for the Jacobian of its update: .* times 64 exceeds"):
        fields.asymmetry(mdp, teacher, "baseline", nothing)
    with pytest.raises(ValueError, match="too large for the Jacobian"):
        flows.fixed_point(mdp, teacher, "baseline")


@pytest.mark.slow
def test_500_parameters_are_no_trouble():
    """Some ten seconds and less than a gigabyte."""
    mdps, teacher = fields.random_problems(jax.random.key(0), 1, num_states=100, num_actions=5)
    report = fields.check_method("n_distill", mdps=mdps, teacher=teacher)
    assert report.whole.matches and report.whole.asymmetry.max() < 1e-12


def test_a_stack_is_refused():
    mdp, teacher = brief_world(True)
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], (mdp, teacher))
    with pytest.raises(ValueError, match=r"single MDP and teacher; index the stacks, such as mdps\[0\]"):
        expected_update(*stacked, "baseline", jnp.zeros((2, 2)))
