"""The zoo: every claim of what is the gradient of what, exactly; finite at probability 0; and sampled without bias."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, Step, Teacher, expected_update, stack, train
from jaxdistill.methods import Method, loss_gradient, numerics, score
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    clamped,
    clipped,
    discounted,
    length_normalised,
    rows,
    tempered,
    times_ratio,
    top_k,
    top_k_weights,
    total,
    whitened,
    without_own_step,
)
from jaxdistill.methods.zoo import ZOO
from jaxdistill.scheduling import pool
from jaxdistill.teachers.tabular import with_others
from jaxdistill.theory.precision import float64, precise
from jaxdistill.training import tasks
from tests import small, test_unbiased

NUM_MDPS, NUM_ACTIONS = 64, 4
SUM = {"estimator": "mc", "reduction": "sum", "discount": 1.0, "probability_floor": 0.0}


@functools.cache
def problems():
    """64 random worlds in float64; every other teacher is nearly deterministic, to 1e-7; a second one beside each."""
    worlds = [small.random_mdp(i, num_states=5, num_actions=NUM_ACTIONS, by_state=True) for i in range(NUM_MDPS)]
    rng = np.random.default_rng(7)
    shape = (NUM_MDPS, 5, NUM_ACTIONS)
    mild, other = rng.dirichlet(np.full(NUM_ACTIONS, 2.0), (2, *shape[:2]))
    sharp = np.eye(NUM_ACTIONS)[rng.integers(NUM_ACTIONS, size=shape[:2])]
    eps = 10.0 ** -rng.uniform(1, 7, (*shape[:2], 1))
    probs = np.where(np.arange(NUM_MDPS)[:, None, None] % 2 == 0, mild, (1 - eps) * sharp + eps * mild)
    teacher = Teacher(probs, rng.normal(size=shape[:2]), probs, other[:, None])
    return precise(stack(worlds), teacher), rng.normal(size=shape) * 1.5, rng.normal(size=shape[:2])


# --- Many methods, few programs -----------------------------------------------------------------------------------
# A method compiles for seconds. Here methods of one shape share a program; which of its functions count is an argument.

KNOWN = tuple(ZOO.values()) + tuple(METHODS.values())
PARAMS = sorted({name for method in KNOWN for name in method.params})


def shape_of(method):
    return method.control, method.estimator, method.bootstrap, method.baseline, method.loss is None, method.has_return


def functions_of(method):
    return method.loss, method.reward, method.next_reward


@functools.cache
def family(shape, known):
    """The distinct functions of all known methods of that shape; None where they have none, which means 0."""
    alike = [functions_of(method) for method in known if shape_of(method) == shape]
    return tuple(tuple(dict.fromkeys(fns)) for fns in zip(*alike, strict=True))


def switched(functions, which):
    if functions == (None,):
        return None
    branches = [fn or (lambda step: jnp.zeros_like(step.student_value)) for fn in functions]
    return lambda step: jax.lax.switch(which, branches, step)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def exact(jacobian, shape, families, options, which, params, discount, *arrays):
    """`expected_update` of the method of this shape on every world of a stack, or the Jacobian of its logits."""
    functions = [switched(fns, i) for fns, i in zip(families, which, strict=True)]
    others = dict(zip(("control", "estimator", "bootstrap", "baseline"), shape, strict=False))

    def update(mdp, teacher, logits, values):
        method = Method("any", *functions, params=params, **others)
        return expected_update(mdp, teacher, method, logits, values, discount=discount, **dict(options))

    return jax.vmap(jax.jacfwd(lambda *x: update(*x).logits, argnums=2) if jacobian else update)(*arrays)


def exact_update(method, arrays, known=KNOWN, jacobian=False, **options):
    """The same, the method looked up by its functions; its params may differ from the known one's."""
    shape, own = shape_of(method), functions_of(method)
    families = family(shape, known)
    if not families or any(
        fn not in fns for fn, fns in zip(own, families, strict=True)
    ):  # not of the zoo: a program of its own
        families = tuple((fn,) for fn in own)
    which = [fns.index(fn) for fn, fns in zip(own, families, strict=True)]
    discount = options.pop("discount")
    discount = float(discount if method.discount is None else method.discount)
    params = {name: np.asarray(method.params.get(name, 1), arrays[2].dtype) for name in PARAMS}
    return exact(jacobian, shape, families, tuple(options.items()), which, params, discount, *arrays)


def unfloored(method):
    """The floor of further policies taken away too, as `SUM` does for the teacher's."""
    return dataclasses.replace(method, params={**method.params, "floor": 0.0}) if "floor" in method.params else method


@functools.cache
def field(method, teacher=None):
    """g = minus the expected update of the logits, [M, O, A] float64, in all worlds."""
    (mdps, own), logits, values = problems()
    with float64():
        return -np.asarray(exact_update(unfloored(method), (mdps, teacher or own, logits, values), **SUM).logits)


def agree(one, other, scale=1.0):
    """To 1e-9 of the largest entry, or absolutely where that is below 1."""
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(one, scale * other, rtol=0, atol=1e-9 * max(1, np.abs(one).max()))


# --- What each objective claims -----------------------------------------------------------------------------------


def make_step(method, mdp, teacher, logits, values, state, action, outcome, goes_on):
    row = logits[mdp.observation[state]]
    return Step(
        student_logits=row,
        frozen_logits=row,
        student_value=values[mdp.observation[state]],
        teacher_probs=teacher.probs[state],
        teacher_log_probs=jnp.log(teacher.probs[state]),
        teacher_value=teacher.values[state],
        next_teacher_value=goes_on * teacher.values[mdp.successor[state, outcome]],
        action=action,
        reward=mdp.reward[state, outcome],
        discount=jnp.ones(()),
        params={name: jnp.asarray(value) for name, value in method.params.items()},
        other_probs=teacher.others[:, state],
    )


def controls(method, mdp, teacher, logits):
    """(weight, policy [S, A]) of what is drawn once per episode."""
    policies = [jax.nn.softmax(logits)[mdp.observation], teacher.probs, jnp.full_like(teacher.probs, 1 / NUM_ACTIONS)]
    pairs = list(zip(method.control.weights, policies, strict=True))
    return pairs if method.control.per == "episode" else [(1.0, sum(w * p for w, p in pairs))]


def visits(mdp, policy):
    """Expected visits [S]: d = start + P^T d."""
    num = mdp.successor.shape[0]
    go = jnp.where(mdp.terminal, 0, mdp.continue_prob)
    arrive = jnp.einsum("sa,sak,sk,skn->sn", policy, mdp.outcome_probs, go, jax.nn.one_hot(mdp.successor, num))
    start = jnp.zeros(num).at[mdp.start].add(mdp.start_probs)
    return jnp.linalg.solve(jnp.eye(num) - arrive.T, start)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def state_gradients(methods, mdp, teacher, logits, values):
    """sum_s d(s) grad l(s) of every method's state loss, [O, A] each."""
    visited = {m.control: sum(w * visits(mdp, q) for w, q in controls(m, mdp, teacher, logits)) for m in methods}
    found = []
    for method in methods:
        step_of = functools.partial(make_step, method, mdp, teacher, logits, values)
        slopes = jax.vmap(lambda s: loss_gradient(method.state_loss, step_of(s, 0, 0, 1)))(jnp.arange(5))  # noqa: B023
        found.append(jnp.zeros_like(logits).at[mdp.observation].add(visited[method.control][:, None] * slopes))
    return found


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def total_gradients(methods, mdp, teacher, logits, values):
    """grad E_q sum_t l(t) of every method's total loss: visits, actions and losses differentiated."""

    def loss(logits, method):
        step_of = functools.partial(make_step, method, mdp, teacher, logits, values)
        total = 0
        for weight, q in controls(method, mdp, teacher, logits):
            over = jax.vmap(lambda s, a, k: method.total_loss(step_of(s, a, k, 1)), (None, None, 0))
            over = jax.vmap(jax.vmap(over, (None, 0, None)), (0, None, None))
            cost = over(*(jnp.arange(n) for n in mdp.outcome_probs.shape))
            total += weight * jnp.einsum("s,sa,sak,sak", visits(mdp, q), q, mdp.outcome_probs, cost)
        return total

    return [jax.grad(loss)(logits, method) for method in methods]


@functools.cache
def claimed(which):
    """{name: the gradient that the objective claims}."""
    (mdps, teacher), logits, values = problems()
    chosen = {name: unfloored(m) for name, m in ZOO.items() if getattr(m, which) is not None}
    gradients = {"state_loss": state_gradients, "total_loss": total_gradients}[which]
    with float64():
        found = gradients(tuple(chosen.values()), mdps, teacher, logits, values)
        return dict(zip(chosen, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("which", ["state_loss", "total_loss"])
@pytest.mark.parametrize("name", ZOO)
def test_the_field_is_the_gradient_that_is_claimed(name, which):
    if getattr(ZOO[name], which) is None:
        return
    expected = claimed(which)[name]
    if getattr(ZOO[name], which) is fns.nothing:
        np.testing.assert_allclose(field(ZOO[name]), 0, atol=1e-12)
    else:
        agree(field(ZOO[name]), expected)


def test_every_objective_says_what_it_is():
    for name, objective in ZOO.items():
        assert objective.name == name and objective.source and objective.gradient_of and objective.description
        claims = objective.state_loss is not None or objective.total_loss is not None
        assert claims == (objective.gradient_of != "no loss"), name
    assert not set(ZOO) & set(METHODS)


def of_interest(objective):
    """A loss of whole episodes is claimed, or none at all."""
    return objective.control.is_student and (objective.total_loss is not None or objective.gradient_of == "no loss")


JACOBIANS = tuple(m for name, m in ZOO.items() if of_interest(m) or name in ("reverse_kl", "k1_reward", "k1_loss"))


@pytest.mark.parametrize("objective", JACOBIANS, ids=lambda m: m.name)
def test_no_loss_means_no_loss(objective):
    """The Jacobian is symmetric where a loss of whole episodes is claimed, and clearly not where only one of states."""
    few = jax.tree.map(lambda x: x[:8], (*problems()[0], *problems()[1:]))
    with float64():
        options = SUM | {"known": JACOBIANS, "jacobian": True}
        matrix = np.asarray(exact_update(unfloored(objective), few, **options)).reshape(8, 20, 20)
    size = np.linalg.norm(matrix, axis=(1, 2))
    skew = np.linalg.norm(matrix - matrix.swapaxes(1, 2), axis=(1, 2))
    if objective.total_loss is not None or objective.state_loss is fns.nothing:
        assert (skew < 1e-8 * np.maximum(size, 1)).all()
    else:
        assert np.median(skew / size) > 1e-2


# --- Identities between methods -----------------------------------------------------------------------------------


EQUAL = [  # one, other, factor
    ("entropy_regularised", "exp_entropy_regularised", 1),
    ("sequence_kl", "kl_regularised", 1),
    ("minillm", "kl_regularised", 1),
    ("k1_return", "kl_regularised", 1),
    ("k2_loss", "reverse_kl", 1),
    ("k1_reward", "reverse_kl", 1),
    ("k1_ratio", "reverse_kl", 1),
    ("k3_ratio", "reverse_kl", 1),
    ("vopd", "reverse_kl", 1),
    ("trl_minillm", "reverse_kl", 2),
    ("k3_loss", "on_policy_distill", 1),
    ("teacher_v_reward", "baseline", 1),
]


def named(name, **params):
    method = ZOO[name] if name in ZOO else METHODS[name]
    return dataclasses.replace(method, params={**method.params, **params}) if params else method


@pytest.mark.parametrize(("one", "other", "factor"), EQUAL)
def test_methods_with_one_field(one, other, factor):
    agree(field(named(one)), field(named(other)), factor)


def test_three_names_of_one_estimator():
    """k1 as reward, k2 as loss and k3 times the ratio give the same update sample by sample, not only in the mean."""
    for action in range(NUM_ACTIONS):
        one = step(action)
        rewarded = ZOO["k1_reward"].reward(one) * score(one)
        for name in ("k2_loss", "k3_ratio"):
            np.testing.assert_allclose(-loss_gradient(ZOO[name].loss, one), rewarded, rtol=1e-4, atol=1e-6)


def test_k3_as_reward_descends_the_difference_of_the_divergences():
    agree(field(ZOO["k3_reward"]), field(ZOO["reverse_kl"]) - field(METHODS["on_policy_distill"]))


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
def test_the_proximal_teacher_is_the_jensen_shannon_divergence(alpha):
    agree(field(named("top_d", alpha=alpha)), field(named("jsd", beta=alpha)), 1 / (1 - alpha))


def test_normalised_jensen_shannon_has_no_jump_at_its_ends():
    mild = slice(None, None, 2)  # a nearly deterministic teacher comes into its own only at betas below its rarest
    for beta, end in ((1e-6, METHODS["on_policy_distill"]), (1 - 1e-6, ZOO["reverse_kl"])):
        np.testing.assert_allclose(field(named("jsd_normalised", beta=beta))[mild], field(end)[mild], atol=1e-3)


def replaced_teacher(probs):
    """The teacher with these probabilities, rows normalised."""
    (_, teacher), _, _ = problems()
    return dataclasses.replace(teacher, probs=probs / probs.sum(-1, keepdims=True))


def test_two_policies_are_one_teacher():
    (_, teacher), _, _ = problems()
    pi, other = teacher.probs, teacher.others[:, 0]
    geometric, arithmetic = replaced_teacher(np.sqrt(pi * other)), replaced_teacher((pi + other) / 2)
    extrapolated = replaced_teacher(pi**1.25 * other**-0.25)
    agree(field(ZOO["exopd"]), field(ZOO["reverse_kl"], extrapolated))
    for name in ("two_teachers_reverse_kl", "two_teachers_k1"):
        agree(field(ZOO[name]), field(ZOO["reverse_kl"], geometric))
    agree(field(ZOO["two_teachers_forward_kl"]), field(METHODS["on_policy_distill"], arithmetic))


def half_squared_error(step):
    return jnp.sum((jnp.exp(step.student_log_probs) - step.teacher_probs) ** 2) / 2


def teacher_mean_of_k2(step):
    return jnp.sum(step.teacher_probs * (step.student_log_probs - step.teacher_log_probs) ** 2) / 2


def test_further_divergences_written_out():
    agree(field(named("power_opd", power=1.0)), field(Method("squares", loss=half_squared_error)))
    everything = {"k": float(NUM_ACTIONS)}
    agree(field(named("top_k_opd_teacher", **everything)), field(Method("k2", loss=teacher_mean_of_k2)))
    for name in ("top_k_opd", "top_k_opd_written", "top_k_reverse_kl", "top_k_reverse_kl_tail"):
        agree(field(named(name, **everything)), field(ZOO["reverse_kl"]))
    agree(field(named("top_k_forward_kl_tail", **everything)), field(METHODS["on_policy_distill"]))


def test_aggrevated_and_the_return():
    """Proposition 3's method descends E_pi_theta sum_a pi_theta(a) Q^pi(s, a) with visits held fixed."""

    @jax.vmap
    def fields(mdp, teacher, logits):
        def advantage(probs, d):
            ahead = jnp.where(mdp.terminal, 0, mdp.continue_prob) * teacher.values[mdp.successor]
            q = jnp.einsum("sak,sk->sa", mdp.outcome_probs, mdp.reward + ahead)
            return -jnp.einsum("s,sa,sa", d, probs, q)

        def negative_return(logits):
            probs = jax.nn.softmax(logits)
            return -jnp.einsum("s,sa,sak,sk", visits(mdp, probs), probs, mdp.outcome_probs, mdp.reward)

        d = visits(mdp, jax.nn.softmax(logits))
        return jax.grad(lambda x: advantage(jax.nn.softmax(x), d))(logits), jax.grad(negative_return)(logits)

    (mdps, teacher), logits, _ = problems()
    with float64():
        by_teacher, whole = jax.tree.map(np.asarray, fields(mdps, teacher, logits))
    agree(field(METHODS["td_vpi"]), by_teacher)
    agree(field(METHODS["teacher_v_reward"]), whole)


def test_modifiers_of_methods():
    """MiniLLM is the one-step loss and the k1 return from the next step on; claims do not survive a change."""
    later = without_own_step(ZOO["k1_return"], name="later")
    agree(field(METHODS["kl_regularised"]), field(ZOO["reverse_kl"]) + field(later))
    agree(field(discounted(ZOO["k1_reward"], 1.0)), field(ZOO["k1_return"]))
    assert ZOO["k1_reward"].state_loss and not discounted(ZOO["k1_reward"], 1.0).state_loss
    assert discounted(METHODS["baseline"], 0.5).discount == 0.5
    assert length_normalised(ZOO["k1_return"]).reduction == "mean"


# --- Modifiers of terms, by hand ------------------------------------------------------------------------------------

PI, P = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])


def step(action=0, **params):
    return Step(
        *[jnp.log(jnp.float32(P)) + 1] * 2, jnp.float32(0), jnp.float32(PI), jnp.log(jnp.float32(PI)),
        *[jnp.float32(0)] * 2, jnp.int32(action), *[jnp.float32(0)] * 2,
        params={name: jnp.float32(x) for name, x in params.items()}, other_probs=jnp.zeros((0, 4)),
    )  # fmt: skip


def kl(p, q):
    return np.sum(p * np.log(np.asarray(p) / q))


OTHER = np.array([0.4, 0.4, 0.1, 0.1])
BY_HAND = {  # loss or reward at action 0 with the default params; the reward of the step is 2
    "distral": 2 + 0.5 * np.log(0.5) - 0.6 * np.log(0.1),
    "top_d": np.log(0.3 * 5 + 0.7),
    "power_opd": np.sqrt(0.5) - np.sqrt(0.1),
    "power_opd_ratio": 2 * (np.sqrt(5) - 1),
    "exopd": -(np.log(0.1 / 0.4) - 1.25 * np.log(0.5 / 0.4)),
    "two_teachers_k1": -(np.log(0.1 / 0.5) + np.log(0.1 / 0.4)) / 2,
    "vopd": np.log(5) + kl(P, PI),
    "k3_loss_clamped": 5 - 1 - np.log(5),
    "jsd": (kl(PI, (P + PI) / 2) + kl(P, (P + PI) / 2)) / 2,
    "jsd_normalised": 2 * (kl(PI, (P + PI) / 2) + kl(P, (P + PI) / 2)),
    "skew_forward_kl": kl(PI, 0.1 * PI + 0.9 * P),
    "skew_reverse_kl": kl(P, 0.9 * PI + 0.1 * P),
    "dagger": -np.sum(PI * np.log(P)) + 1e-3 * np.sum(P * np.log(P)),
    "kickstarting": -0.5 * np.sum(PI * np.log(P)),
    "eopd": kl(PI, P),
    "two_teachers_forward_kl": (kl(PI, P) + kl(OTHER, P)) / 2,
    "top_k_mixed_kl": (kl([5 / 8, 3 / 8], [1 / 3, 2 / 3]) + kl([1 / 3, 2 / 3], [5 / 8, 3 / 8])) / 2,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_functions_by_hand(name):
    one = dataclasses.replace(step(**ZOO[name].params), other_probs=jnp.float32(OTHER[None]), reward=jnp.float32(2))
    assert (ZOO[name].loss or ZOO[name].reward)(one) == pytest.approx(BY_HAND[name], rel=1e-5)


TOP_2 = [  # owner, renormalise, tail, KL(P || PI) by hand
    ("teacher", "none", False, 0.1 * np.log(0.1 / 0.5) + 0.2 * np.log(0.2 / 0.3)),
    ("student", "none", False, 0.3 * np.log(0.3 / 0.15) + 0.4 * np.log(0.4 / 0.05)),
    ("teacher", "both", False, kl(np.array([1, 2]) / 3, np.array([5, 3]) / 8)),
    ("student", "both", False, kl(np.array([3, 4]) / 7, np.array([3, 1]) / 4)),
    ("teacher", "teacher", False, 0.1 * np.log(0.1 / 0.625) + 0.2 * np.log(0.2 / 0.375)),
    ("teacher", "none", True, kl(np.array([0.1, 0.2, 0.7]), np.array([0.5, 0.3, 0.2]))),
]


@pytest.mark.parametrize(("owner", "renormalise", "tail", "expected"), TOP_2)
def test_top_k_by_hand(owner, renormalise, tail, expected):
    fn = total(top_k(fns.REVERSE_KL, owner, renormalise, tail))
    assert fn(step(k=2)) == pytest.approx(expected, rel=1e-5)
    assert fn(step(k=4)) == pytest.approx(kl(P, PI), rel=1e-5)
    for k in range(1, 5):
        assert np.isfinite(loss_gradient(fn, step(k=k))).all()


def test_whitened_by_hand():
    """Mean 0 and variance 1 under the student, at any scale of the terms; nothing of it is differentiated."""
    ratio = np.log(P / PI)
    centred = ratio - np.sum(P * ratio)
    expected = centred / np.sqrt(np.sum(P * centred**2))
    for terms in (fns.K1, lambda rows, params: 100 * fns.K1(rows, params)):
        np.testing.assert_allclose(whitened(terms)(rows(step()), {"epsilon": 0}), expected, rtol=1e-4)
    np.testing.assert_array_equal(loss_gradient(total(whitened(fns.K1)), step(epsilon=0)), 0)
    same = rows(step())._replace(teacher_log_probs=rows(step()).student_log_probs)
    np.testing.assert_allclose(whitened(fns.K1)(same, {"epsilon": 1e-6}), 0, atol=1e-3)


def test_top_k_weights_by_hand():
    for weight, expected in (("student", [0, 0, 3, 4]), ("teacher", [0, 0, 3, 1]), ("one", [0, 0, 1, 1])):
        weights = top_k_weights("student", weight)(rows(step()), {"k": 2})
        np.testing.assert_allclose(weights, np.array(expected) / np.sum(expected), rtol=1e-5)
    np.testing.assert_allclose(top_k_weights("teacher", "one", False)(rows(step()), {"k": 2}), [1, 1, 0, 0])


def test_temperature():
    """At 1 it changes nothing; elsewhere both policies are softened, and the square undoes the gradient's decay."""
    for terms in (fns.FORWARD_KL, fns.REVERSE_KL):
        assert total(tempered(terms))(step(temperature=1)) == pytest.approx(float(total(terms)(step())), rel=1e-5)
    soft = P**0.5 / np.sum(P**0.5), PI**0.5 / np.sum(PI**0.5)
    assert total(tempered(fns.REVERSE_KL))(step(temperature=2)) == pytest.approx(kl(*soft), rel=1e-5)
    squared = total(tempered(fns.FORWARD_KL, scaled=True))
    assert squared(step(temperature=2)) == pytest.approx(4 * kl(*soft[::-1]), rel=1e-5)
    sizes = [np.linalg.norm(loss_gradient(squared, step(temperature=t))) for t in (10, 100)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_clips_and_clamps():
    terms = P * np.log(P / PI)
    assert total(clipped(fns.REVERSE_KL))(step(clip=0.05)) == pytest.approx(np.minimum(terms, 0.05).sum(), rel=1e-5)
    inside, outside = clamped(fns.k1, -3, 3), clamped(fns.k1, most=-2)
    for action in range(4):
        ratio = np.log(P / PI)[action]
        assert inside(step(action)) == pytest.approx(ratio, rel=1e-5) and outside(step(action)) == -2
        np.testing.assert_array_equal(loss_gradient(outside, step(action)), 0)
    assert times_ratio(fns.k1)(step(1)) == fns.k1(step(1))
    with_score = loss_gradient(times_ratio(fns.k1), step(1)) - loss_gradient(fns.k1, step(1))
    np.testing.assert_allclose(with_score, np.log(0.2 / 0.3) * (np.eye(4)[1] - P), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k(fns.REVERSE_KL, "both"), "owner 'student' or 'teacher'"),
        (lambda: top_k(fns.REVERSE_KL, "student", "student"), "renormalise 'none', 'teacher' or 'both'"),
        (lambda: top_k(fns.REVERSE_KL, "student", "both", tail=True), "the rows sum to 1 already"),
        (lambda: top_k_weights("student", "two"), "'two'"),
        (lambda: ZOO["exopd"].reward(step(scale=1.25, floor=0.01)), "give it others [N, S, A]"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


# --- Probability 0 --------------------------------------------------------------------------------------------------

EXTREME = {"float16": 4.0, "bfloat16": 40.0, "float32": 40.0, "float64": 300.0}  # exp(2 of it) is a number of the type
TEACHERS = [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]]


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, None))
def outputs(methods, floor, teacher, logits, action, others):
    """Everything that the methods' functions give in one state, by method."""
    found = {}
    for method in methods:
        zero = jnp.zeros((), logits.dtype)
        one = Step(
            logits, logits, zero, teacher, numerics.log_floored(teacher, floor), zero + 1, zero, action, zero, zero,
            params={name: jnp.asarray(x, logits.dtype) for name, x in method.params.items()}, other_probs=others,
        )  # fmt: skip
        values = [fn(one) for fn in (method.reward, method.next_reward) if fn is not None]
        found[method.name] = values + ([loss_gradient(method.loss, one)] if method.loss is not None else [])
    return found


def unfinished(dtype, floor):
    """Names of the methods with anything that is not finite where the teacher, the student, or both are at 0."""
    size, names = EXTREME[dtype], set()
    with float64():
        kind = jnp.dtype(dtype)
        students = np.array([[0, 0, 0, 0], [0.5, -1, 1, 2], [size, -size, 0, 0], [-size, size, size, -size]])
        grid = [x.ravel() for x in np.meshgrid(range(3), range(4), range(4), indexing="ij")]
        arrays = (jnp.asarray(TEACHERS, kind)[grid[0]], jnp.asarray(students, kind)[grid[1]], jnp.asarray(grid[2]))
        others = jnp.asarray([[0, 1, 0, 0]], kind)
        found = outputs(KNOWN, floor, *arrays, others)
        for name, values in found.items():
            if not all(np.isfinite(np.asarray(x, np.float64)).all() for x in values):
                names.add(name)
    return names


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=() if d in ("float32", "bfloat16") else pytest.mark.slow) for d in EXTREME]
)
def test_finite_at_probability_0(dtype):
    assert unfinished(dtype, 0.01) == set()


def test_what_takes_the_logarithm_of_0_is_refused(monkeypatch):
    """Without a floor a method is finite all the same, or `train` says in one line that it cannot be."""
    mdp = small.random_mdp(1)
    teacher = with_others(small.random_teacher(mdp, 1, deterministic_rows=4), small.random_teacher(mdp, 2))

    def begin(tasks, report):
        raise InterruptedError

    monkeypatch.setattr(pool, "run", begin)
    refused = set()
    for method in KNOWN:
        try:
            train(jax.random.key(0), mdp, teacher, method, num_iterations=1, probability_floor=0, progress=False)
        except InterruptedError:
            continue
        except ValueError as error:
            assert "probability that is 0" in str(error) and "\n" not in str(error)
            refused.add(method.name)
    assert {"entropy_regularised", "k1_reward"} <= refused and "on_policy_distill" not in refused
    assert unfinished("float32", 0.0) == refused


# --- Sampled = exact ------------------------------------------------------------------------------------------------


KINDS = [  # of each kind some by default, alike in the shape of their sampling program; all of the zoo with -m slow
    ["k1_reward", "k3_loss", "k3_ratio", "top_d", "distral", "two_teachers_k1", "top_k_opd", "top_k_forward_kl_tail"],
    ["n_distill_kl", "minillm"],
    ["gkd"],
]


def groups():
    """Names of the methods that share a sampling program, few enough, as each pays for the functions of all."""
    found = {}
    for name, m in ZOO.items():
        found.setdefault((m.next_reward is None, m.control), []).append(name)
    return [names[i : i + 8] for names in found.values() for i in range(0, len(names), 8)]


CASES = [(names, "td") for names in KINDS] + [
    pytest.param(names, estimator, marks=pytest.mark.slow) for names in groups() for estimator in ("td", "mc")
]


@pytest.mark.parametrize(("names", "estimator"), CASES, ids=lambda x: x if isinstance(x, str) else x[0])
def test_mean_of_sampled_updates_is_the_exact_update(names, estimator, monkeypatch):
    """As in test_unbiased.py; all methods of a control policy share one program, for the sake of time."""
    chosen = {n: dataclasses.replace(ZOO[n], params={p: ZOO[n].params.get(p, 1.0) for p in PARAMS}) for n in names}
    monkeypatch.setattr(tasks, "companions", lambda method: tuple(chosen.values()))
    monkeypatch.setattr(test_unbiased, "NUM_STUDENTS", 4000)
    worlds = [small.random_mdp(3, by_state=True), small.random_mdp(2, by_state=True, aliased=True)]
    worlds = stack([dataclasses.replace(mdp, num_observations=4) for mdp in worlds])
    teachers = test_unbiased.stack([small.random_teacher(worlds[i], i, deterministic_rows=1) for i in range(2)])
    teachers = with_others(teachers, test_unbiased.stack([small.random_teacher(worlds[i], i + 9) for i in range(2)]))
    tables = zip(*(small.random_student(worlds[i], i) for i in range(2)), strict=True)
    logits, values = (np.stack(x) for x in tables)
    changes = {"estimator": estimator, "reduction": "mean", **test_unbiased.NUMBERS}
    updates = test_unbiased.sampled_updates(worlds, teachers, tuple(chosen.values()), logits, values, **changes)
    for name, update in updates.items():
        arrays = worlds, teachers, jnp.asarray(logits), jnp.asarray(values)
        exact = exact_update(ZOO[name], arrays, known=tuple(ZOO[n] for n in names), **changes)
        exact = np.concatenate([exact.logits, np.asarray(exact.values)[..., None]], axis=-1)
        error = np.abs(update.mean(1) - exact)
        standard_error = update.std(1, ddof=1) / np.sqrt(update.shape[1])
        assert (error <= 4 * standard_error + 2e-6).all(), f"{name}: {(error / (standard_error + 1e-12)).max()}"
        could_fail = standard_error.max() < 0.25 * np.abs(exact).max()
        assert could_fail or ZOO[name].state_loss is fns.nothing, f"{name}: it could not fail"
