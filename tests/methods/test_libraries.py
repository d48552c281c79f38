"""The updates of other libraries, written down by hand as their sources have them, and the methods that equal them.

Each twin below is the gradient of a library's loss with respect to the logits, token by token, derived by hand from the
place that its row names. The expected update of the method must be its expectation over all trajectories of a world of
two steps, which are enumerated.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill import METHODS, ZOO, Control, expected_update
from jaxdistill.methods import loss_gradient, make_step
from jaxdistill.methods.library_rows import LIBRARY_UPDATES
from jaxdistill.methods.library_settings import Case
from jaxdistill.theory.precision import float64

A = 4

# --- Gradients with respect to the logits of one state, by hand --------------------------------------------------
# p is the student, t the teacher, a the action taken, k1 = log(p / t).


def score(p, a):
    """The gradient of log p(a)."""
    return np.eye(len(p))[a] - p


def through(p, slope):
    """The gradient of a function of p whose derivative by p is `slope`."""
    return p * (slope - p @ slope)


def jsd(p, t, beta):
    """beta KL(t||m) + (1 - beta) KL(p||m), whose slope by p is (1 - beta) log(p / m); the KLs at the ends."""
    if beta == 0:
        return p - t
    if beta == 1:
        return through(p, np.log(p / t))
    return through(p, (1 - beta) * np.log(p / (beta * t + (1 - beta) * p)))


def softened(p, temperature):
    powers = p ** (1 / temperature)
    return powers / powers.sum()


def soft_jsd(p, t, beta, temperature):
    """Logits divided by the temperature: the chain rule gives a factor 1 / temperature, and nothing makes up for it."""
    return jsd(softened(p, temperature), softened(t, temperature), beta) / temperature


def top(t, k):
    return np.argsort(-t, kind="stable")[:k]


def jsd_given(p, t, k, beta):
    """The divergence of both policies divided by their mass on the teacher's k actions."""
    chosen_actions, gradient = top(t, k), np.zeros(A)
    p_s, t_s = (x[chosen_actions] / x[chosen_actions].sum() for x in (p, t))
    gradient[chosen_actions] = jsd(p_s, t_s, beta)
    return gradient


def soft_targets(p, t, k):
    """The cross-entropy of the student with the teacher's k actions, their weights divided by their sum."""
    weights = np.zeros(A)
    weights[top(t, k)] = t[top(t, k)] / t[top(t, k)].sum()
    return p - weights


def top_k_sum(p, t, k):
    """The sum of t log(t / p) over the teacher's k actions, and its gradient."""
    inside = np.isin(np.arange(A), top(t, k))
    return np.sum(np.where(inside, t * np.log(t / p), 0)), p * t[inside].sum() - np.where(inside, t, 0)


def estimate(kind, p, t, a):
    """The value of k1, k2 or k3 and its derivative by log p(a)."""
    k1, x = np.log(p[a] / t[a]), t[a] / p[a]
    return {"k1": (k1, 1.0), "k2": (k1**2 / 2, k1), "k3": (x - 1 + k1, 1 - x)}[kind]


def estimator_loss(kind, p, t, a, ratio=False, most=np.inf, most_ratio=np.inf):
    """The gradient of an estimate, with the ratio p(a) / sg[p(a)] before it, 0 where it or its log ratio is clamped."""
    value, slope = estimate(kind, p, t, a)
    if abs(value) > most or abs(np.log(p[a] / t[a])) > most_ratio:
        return np.zeros(A)
    return (slope + value * ratio) * score(p, a)


def policy_gradient(p, a, advantage):
    return -advantage * score(p, a)


# --- The libraries: the gradients of all tokens of a trajectory ---------------------------------------------------


def tokens(gradient):
    """A twin of a loss in which each token has a term of its own."""

    def trajectory(ps, ts, actions, **settings):
        return [gradient(p, t, a, **settings) for p, t, a in zip(ps, ts, actions, strict=True)]

    return trajectory


def trl_gkd(p, t, a, beta, lmbda):
    return jsd(p, t, beta)


def trl_distillation(p, t, a, beta, temperature):
    return soft_jsd(p, t, beta, temperature)


def trl_minillm(ps, ts, actions, gamma, length_normalization, rkl_advantage, single_step_decomposition):
    """Advantages with their gradients, because the library does not detach them, and the reverse KL of each token."""
    powers = gamma ** np.arange(len(actions)) if gamma > 0 else np.ones(len(actions))
    rewards = [np.log(t[a] / p[a]) for p, t, a in zip(ps, ts, actions, strict=True)]
    gradients = [np.zeros(A) for _ in actions]
    for i, (p, t, a) in enumerate(zip(ps, ts, actions, strict=True)):
        counted = range(i, len(actions)) if gamma > 0 else [i]
        if rkl_advantage:
            gradients[i] += policy_gradient(p, a, sum(powers[j] * rewards[j] for j in counted))
            for j in counted:  # minus the gradient of the advantage
                gradients[j] += powers[j] * score(ps[j], actions[j])
        if single_step_decomposition:
            gradients[i] += through(p, np.log(p / t))
    return gradients


def trl_grpo_kl(p, t, a, beta, use_bias_correction_kl):
    return beta * estimator_loss("k3", p, t, a, ratio=use_bias_correction_kl)


def trl_iw_opd(ps, ts, actions, iw_opd_gamma):
    ratios = np.array([np.log(t[a] / p[a]) for p, t, a in zip(ps, ts, actions, strict=True)])
    sizes = np.abs(ratios)
    weights = 1 + iw_opd_gamma * (1 - (np.cumsum(sizes) - sizes) / max(sizes.sum(), 1e-8))
    return [policy_gradient(p, a, w * r) for p, a, w, r in zip(ps, actions, weights, ratios, strict=True)]


def trl_sdpo(p, t, a, distillation_mode, distillation_alpha):
    if distillation_mode == "sampled_token":
        return np.log(p[a] / t[a]) * score(p, a)
    return jsd(p, t, distillation_alpha)


def verl_distillation(p, t, a, loss_mode, use_policy_gradient, topk, loss_max_clamp):
    kind = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}.get(loss_mode, loss_mode)
    if kind == "forward_kl_topk":
        value, gradient = top_k_sum(p, t, topk)
        return policy_gradient(p, a, -max(value, 0)) if use_policy_gradient else gradient * (value > 0)
    if not use_policy_gradient:
        most = 10 if kind == "k3" else np.inf
        return estimator_loss(kind, p, t, a, most=most, most_ratio=20 if kind == "k3" else np.inf)
    value, _ = estimate(kind, p, t, a)
    return policy_gradient(p, a, -min(value, 10) if kind == "k3" else -value)


def verl_kl_loss(p, t, a, kl_loss_coef, kl_loss_type):
    name = kl_loss_type
    kind = "k2" if name.endswith("+") else {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}.get(name, name)
    limits = dict(most=10, most_ratio=20) if kind == "k3" else {}
    return kl_loss_coef * estimator_loss(kind, p, t, a, **limits)


def nemo_distillation(p, t, a, kl_type, mixed_kl_weight, zero_outside_topk, topk_logits_k):
    if zero_outside_topk:
        return soft_targets(p, t, topk_logits_k)  # kl_type "forward"
    weight = {"forward": 1.0, "reverse": 0.0, "mixed": mixed_kl_weight}[kl_type]
    forward, reverse = (jsd_given(p, t, topk_logits_k, beta) for beta in (0, 1))
    return weight * forward + (1 - weight) * reverse


def nemo_opd(p, t, a, adv_estimator):
    return policy_gradient(p, a, np.log(t[a] / p[a]))


def nemo_grpo_kl(p, t, a, reference_policy_kl_penalty, reference_policy_kl_type, kl_input_clamp_value, **limits):
    most_ratio, most = (np.inf if x is None else x for x in (kl_input_clamp_value, limits["kl_output_clamp_value"]))
    kl = estimator_loss(reference_policy_kl_type, p, t, a, ratio=True, most=most, most_ratio=most_ratio)
    return reference_policy_kl_penalty * kl


def slime_opd(p, t, a, opd_kl_coef, normalize_advantages):
    return policy_gradient(p, a, 0 - opd_kl_coef * np.log(p[a] / t[a]))


def slime_kl_loss(p, t, a, kl_loss_coef, kl_loss_type, use_unbiased_kl):
    kind, most = ("k3", 10) if kl_loss_type == "low_var_kl" else (kl_loss_type, np.inf)
    return kl_loss_coef * estimator_loss(kind, p, t, a, ratio=use_unbiased_kl, most=most)


def swift_gkd(p, t, a, beta, lmbda, temperature, gkd_logits_topk, sft_alpha):
    if gkd_logits_topk is None:
        return soft_jsd(p, t, beta, temperature)
    return jsd_given(p, t, gkd_logits_topk, beta)


def swift_opd_rl(p, t, a, teacher_kl_coef):
    return policy_gradient(p, a, 0 + teacher_kl_coef * (np.log(t[a]) - np.log(p[a])))


def tinker_on_policy(ps, ts, actions, kl_penalty_coef, kl_discount_factor):
    penalties = [-kl_penalty_coef * np.log(p[a] / t[a]) for p, t, a in zip(ps, ts, actions, strict=True)]
    running, advantages = 0.0, []
    for penalty in reversed(penalties):
        running = penalty + kl_discount_factor * running
        advantages.insert(0, running)
    return [policy_gradient(p, a, x) for p, a, x in zip(ps, actions, advantages, strict=True)]


def tinker_off_policy(p, t, a, n_teacher_targets):
    return soft_targets(p, t, n_teacher_targets)


def tinker_sdft(p, t, a, topk):
    return policy_gradient(p, a, np.log(t[a] / p[a])) if topk == 0 else soft_targets(p, t, topk)


TWINS = {
    "trl.gkd": tokens(trl_gkd),
    "trl.distillation": tokens(trl_distillation),
    "trl.minillm": trl_minillm,
    "trl.grpo_kl": tokens(trl_grpo_kl),
    "trl.iw_opd": trl_iw_opd,
    "trl.sdpo": tokens(trl_sdpo),
    "verl.distillation": tokens(verl_distillation),
    "verl.kl_loss": tokens(verl_kl_loss),
    "nemo_rl.distillation": tokens(nemo_distillation),
    "nemo_rl.opd": tokens(nemo_opd),
    "nemo_rl.grpo_kl": tokens(nemo_grpo_kl),
    "slime.opd": tokens(slime_opd),
    "slime.kl_loss": tokens(slime_kl_loss),
    "ms_swift.gkd": tokens(swift_gkd),
    "ms_swift.opd_rl": tokens(swift_opd_rl),
    "tinker.on_policy": tinker_on_policy,
    "tinker.off_policy": tokens(tinker_off_policy),
    "tinker.sdft": tokens(tinker_sdft),
}

UNCLAMPED = {"kl_input_clamp_value": None, "kl_output_clamp_value": None}
MINILLM = [
    {}, {"single_step_decomposition": False}, {"rkl_advantage": False},
    {"gamma": 1.0, "length_normalization": False},
    {"gamma": 1.0, "length_normalization": False, "single_step_decomposition": False},
]  # fmt: skip
MODES = ["k1", "kl", "k2", "mse", "k3", "low_var_kl"]
VERL = [{"loss_mode": m, "use_policy_gradient": g} for m in MODES for g in (True, False) if (m, g) != ("k1", False)]
VERL += [{"loss_mode": "forward_kl_topk", "topk": k, "use_policy_gradient": g} for k in (1, 3) for g in (True, False)]
SETTINGS = {
    "trl.gkd": [{"beta": b, "lmbda": w} for b in (0.0, 0.1, 0.5, 1.0) for w in (0.0, 0.3, 1.0)],
    "trl.distillation": [{"beta": b, "temperature": x} for b in (0.0, 0.2, 1.0) for x in (1.0, 0.7, 3.0)],
    "trl.minillm": MINILLM,
    "trl.grpo_kl": [{"beta": 0.04}, {"beta": 1.0, "use_bias_correction_kl": True}],
    "trl.iw_opd": [{"iw_opd_gamma": 0.0}],
    "trl.sdpo": [{}, *({"distillation_mode": "full_logits", "distillation_alpha": b} for b in (0.0, 0.3, 1.0))],
    "verl.distillation": [{}, {"loss_max_clamp": 10.0}, *VERL],
    "verl.kl_loss": [{"kl_loss_type": x} for x in ("low_var_kl", "k3", "k2", "k1", "k1+", "k3+")],
    "nemo_rl.distillation": [
        *({"kl_type": "mixed", "mixed_kl_weight": w, "topk_logits_k": 2} for w in (0.5, 0.2)),
        *({"kl_type": x, "topk_logits_k": 3} for x in ("forward", "reverse")),
        {"kl_type": "forward", "zero_outside_topk": True, "topk_logits_k": 2},
    ],
    "nemo_rl.opd": [{}],
    "nemo_rl.grpo_kl": [{"reference_policy_kl_type": x, **y} for x in ("k1", "k2", "k3") for y in ({}, UNCLAMPED)],
    "slime.opd": [{}, {"opd_kl_coef": 0.3}],
    "slime.kl_loss": [
        {"kl_loss_coef": 0.5, "kl_loss_type": x, "use_unbiased_kl": u}
        for x in ("k1", "k2", "k3", "low_var_kl")
        for u in (False, True)
    ],
    "ms_swift.gkd": [
        *({"beta": b, "temperature": x} for b in (0.0, 0.2, 1.0) for x in (1.0, 0.9)),
        *({"beta": b, "temperature": 1.0, "gkd_logits_topk": 2, "lmbda": 1.0} for b in (0.0, 0.2, 1.0)),
    ],
    "ms_swift.opd_rl": [{}, {"teacher_kl_coef": 2.0}],
    "tinker.on_policy": [{"kl_discount_factor": g, "kl_penalty_coef": c} for g in (0.0, 0.6, 1.0) for c in (1.0, 0.3)],
    "tinker.off_policy": [{"n_teacher_targets": k} for k in (1, 3)],
    "tinker.sdft": [{"topk": k} for k in (0, 1, 3)],
}  # fmt: skip


# --- The comparison ------------------------------------------------------------------------------------------------


def world():
    """Two steps: from state 0, action a leads to state 1 + a, where every action ends the episode."""
    successor = np.tile(np.arange(1, A + 1), (A + 1, 1))
    terminal = np.ones((A + 1, A), bool)
    terminal[0] = False
    moves = np.tile(np.eye(A), (A + 1, 1, 1))
    start = dict(start=np.arange(1), start_probs=np.ones(1))
    return jd.MDP.from_arrays(successor, np.zeros((A + 1, A)), terminal, moves, **start)


def policies(seed):
    """Teacher and student [S, A]; in every second seed they differ so much that the clamps of k3 are reached."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, A + 1, A)) * (4.0 if seed % 2 else 1.0)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expectation(twin, teacher, student, acts, **settings):
    """The expected gradient of a library's loss [S, A], over all trajectories of a policy."""
    gradient = np.zeros((A + 1, A))
    for first, second in itertools.product(range(A), repeat=2):
        visited = [0, 1 + first]
        probability = acts[0, first] * acts[1 + first, second]
        rows = twin(student[visited], teacher[visited], [first, second], **settings)
        for state, row in zip(visited, rows, strict=True):
            gradient[state] += probability * row
    return gradient


def gradients_of(method, teacher, student):
    """The gradient of each token of a trajectory by a method, from its functions, as a twin has it."""
    assert not (method.baseline and method.has_return)
    params = {name: jnp.asarray(value, float) for name, value in method.params.items()}

    def parts(s, a):
        step = make_step(
            jnp.log(student[s]) + 1, jnp.asarray(teacher[s]), action=a, probability_floor=0.0, params=params
        )
        zero = jnp.zeros(())
        rewards = [zero if fn is None else fn(step) for fn in (method.reward, method.next_reward)]
        return *rewards, jnp.zeros(A) if method.loss is None else loss_gradient(method.loss, step)

    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    tables = jax.vmap(jax.vmap(parts, (None, 0)), (0, None))(jnp.arange(A + 1), jnp.arange(A))
    reward, next_reward, loss = map(np.asarray, tables)
    discount = 0.7 if method.discount is None else method.discount

    def twin(ps, ts, actions):
        visited = [(0, actions[0]), (1 + actions[0], actions[1])]
        credit = [reward[visited[0]] + next_reward[visited[1]], reward[visited[1]]]
        returns = [credit[0] + discount * credit[1], credit[1]]
        return [policy_gradient(ps[i], actions[i], returns[i]) + loss[visited[i]] for i in range(2)]

    return twin


CASES = [(key, settings) for key, group in SETTINGS.items() for settings in group]


def case_name(x):
    return x if isinstance(x, str) else "-".join(map(str, x.values())) or "defaults"


def library_gradient(key, settings, method, teacher, student):
    """The expected gradient of a library with settings."""
    update = LIBRARY_UPDATES[key]
    given = {**update.defaults, **settings}
    share = given[update.student_share] if update.student_share else float(method.control.is_student)
    pairs = ((share, student), (1 - share, teacher))
    return sum(weight * expectation(TWINS[key], teacher, student, acts, **given) for weight, acts in pairs)


@pytest.mark.parametrize(("key", "settings"), CASES, ids=case_name)
def test_the_method_has_the_update_of_the_library(key, settings):
    method = jd.from_library(key, **settings)
    for seed in range(2):
        teacher, student = policies(seed)
        expected = library_gradient(key, settings, method, teacher, student)
        share = method.control.student
        assert method.control.uniform == 0 and method.control.per == ("step" if share in (0, 1) else "episode")
        with float64():
            twin = gradients_of(method, teacher, student)
        pairs = ((share, student), (1 - share, teacher))
        actual = sum(weight * expectation(twin, teacher, student, acts) for weight, acts in pairs)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("key", SETTINGS)
def test_the_exact_expected_update_is_that_of_the_library(key):
    """The same by `expected_update`, for the last settings of each library."""
    settings = SETTINGS[key][-1]
    method = jd.from_library(key, **settings)
    teacher, student = policies(0)
    options = dict(estimator="mc", reduction="sum", discount=0.7, probability_floor=0.0)
    world_teacher = jd.Teacher(teacher, np.zeros(A + 1), teacher)
    values = np.linspace(-1, 1, A + 1)  # V_theta, which no library here subtracts
    actual = expected_update(world(), world_teacher, method, np.log(student) + 1, values, **options)
    expected = library_gradient(key, settings, method, teacher, student)
    np.testing.assert_allclose(-actual.logits, expected, rtol=1e-9, atol=1e-11)


def test_every_case_of_every_update_is_compared():
    assert set(TWINS) == set(SETTINGS) == set(LIBRARY_UPDATES)
    for key, update in LIBRARY_UPDATES.items():
        reached = [update.case_of({**update.defaults, **settings}) for settings in SETTINGS[key]]
        assert all(case in reached or case.back_only for case in update.cases), key


@pytest.mark.parametrize(("key", "settings"), CASES, ids=str)
def test_the_way_back_leads_to_the_same_update(key, settings):
    """`to_library` names settings from which `from_library` makes the same method again."""
    update, method = LIBRARY_UPDATES[key], jd.from_library(key, **settings)
    if "coefficient" in method.params:
        return  # the way back has no coefficient, which is a step size
    back = jd.to_library(method)
    again = jd.from_library(key, **back[key])
    assert (again.loss, again.reward, again.control, again.discount) == (
        method.loss, method.reward, method.control, method.discount
    )  # fmt: skip
    assert again.params == method.params and set(back[key]) <= set(update.defaults)


def test_from_library_by_hand():
    assert jd.from_library("trl.distillation") is ZOO["reverse_kl"]
    assert jd.from_library("trl.gkd", lmbda=1.0, beta=0.0) is METHODS["on_policy_distill"]
    mixed = jd.from_library("trl.gkd", lmbda=0.3, beta=0.1)
    assert mixed.control == Control(student=0.3, teacher=0.7, per="episode")
    assert mixed.name == "gkd:beta=0.1:student=0.3" and mixed.params == {"beta": 0.1}
    half = jd.from_library("slime.opd", opd_kl_coef=0.5)
    assert half.name == "k1_reward:coefficient=0.5" and half.gradient_of.endswith("coefficient KL(pi_theta||pi)")
    assert jd.from_library("tinker.on_policy", kl_discount_factor=0.5).gradient_of == ""


def test_to_library_by_hand():
    assert jd.to_library("gamma_opd") == {"tinker.on_policy": {"kl_discount_factor": 0.92}}
    assert jd.to_library("jsd:beta=0.2")["trl.gkd"] == {"beta": 0.2, "lmbda": 1.0}
    assert jd.to_library("vopd") == {}
    assert jd.to_library("k3_loss")["trl.grpo_kl"] == {"beta": 1.0}
    uniform = jd.from_library("trl.gkd")
    assert jd.to_library(uniform)["trl.gkd"] == {}


REFUSED = [
    ("trl.gkt", {}, "Unknown update 'trl.gkt' (did you mean 'trl.gkd'?)"),
    ("trl.gkd", {"bta": 1}, "Unknown setting 'bta' (did you mean 'beta'?); the settings of trl.gkd are beta, lmbda."),
    ("trl.gkd", {"beta": "x"}, "the settings known are beta = 0; beta = 1; beta between 0 and 1."),
    ("trl.gkd", {"beta": 1e-9}, "beta must be 0, 1 or in [1e-06, 0.999999]"),
    ("trl.gkd", {"lmbda": 2.0}, "the student's share of episodes must be in [0, 1]; got 2.0."),
    ("trl.minillm", {"gamma": 0.5}, "the return of step t is multiplied by gamma^t"),
    ("trl.minillm", {"gamma": 1.0}, "divided by the discounted number of steps that are left"),
    ("trl.grpo_kl", {}, "it has no KL term."),
    ("trl.iw_opd", {}, "the weight of a step depends on the log ratios of the whole episode"),
    ("verl.distillation", {"loss_mode": "k1"}, "verl refuses it"),
    ("verl.distillation", {"loss_mode": "abs"}, "no method has the absolute log ratio"),
    ("verl.distillation", {"loss_max_clamp": 1.0}, "has no method here for loss_mode = k3"),
    ("nemo_rl.distillation", {"zero_outside_topk": True}, "the teacher's log probability is set to -100"),
    ("slime.opd", {"normalize_advantages": True}, "divided by their standard deviation"),
    ("ms_swift.gkd", {"sft_alpha": 0.1}, "the likelihood of the data set is added"),
    ("ms_swift.gkd", {"gkd_logits_topk": 3}, "with temperature 1 there is one"),
    ("tinker.on_policy", {"kl_discount_factor": 2.0}, "has no method here for"),
]


@pytest.mark.parametrize(("key", "settings", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else None)
def test_settings_without_a_method_are_refused_with_the_reason(key, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        jd.from_library(key, **settings)
    assert "\n" not in str(error.value)


def test_an_update_without_an_equal_is_no_method_here():
    """The refused discount of TRL's MiniLLM is another update than that of a discounted return."""
    teacher, student = policies(0)
    settings = {**LIBRARY_UPDATES["trl.minillm"].defaults, "gamma": 0.5, "length_normalization": False}
    settings |= {"single_step_decomposition": False}
    refused = expectation(trl_minillm, teacher, student, student, **settings)
    discounted = expectation(tinker_on_policy, teacher, student, student, kl_penalty_coef=1.0, kl_discount_factor=0.5)
    assert np.abs(refused - discounted)[1:].max() > 1e-2 and np.abs(refused - discounted)[0].max() < 1e-12


def test_every_row_names_version_place_and_difference():
    for key, update in LIBRARY_UPDATES.items():
        assert re.search(r"commit [0-9a-f]{7}$", update.version) and re.search(r"\w+\.py: \w+", update.place), key
        assert update.difference.endswith(".") and key == update.key and update.library.kind == "library"
        assert all(isinstance(case, Case) and case.note.endswith(("", ".")) for case in update.cases)
        for case in update.cases:
            assert {*case.when, *case.numbers} <= set(update.defaults), key
            assert set(case.numbers.values()) <= set(case.method.params), key
