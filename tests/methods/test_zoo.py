"""The zoo: claims of gradients hold exactly, values at probability 0 are finite, and sampled updates are unbiased."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, Step, Teacher, expected_update, plus_reward, stack
from jaxdistill.methods import Method, loss_gradient, score
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    IN_EACH_STATE,
    NO_LOSS,
    ZERO_FIELD,
    Objective,
    discounted,
    length_normalised,
    without_own_step,
)
from jaxdistill.methods.zoo import ZOO
from jaxdistill.teachers.tabular import with_others
from jaxdistill.theory.precision import float64, precise
from jaxdistill.training import tasks
from jaxdistill.training.sampling import sampled_updates
from tests import small
from tests.methods.four_actions import PI, P, example_step, kl
from tests.training import test_unbiased

NUM_MDPS, NUM_ACTIONS = 64, 4
SUM = {"estimator": "mc", "reduction": "sum", "discount": 1.0, "probability_floor": 0.0}


@functools.cache
def problems():
    """64 random worlds in float64, each with a teacher and a further policy, and the logits and values of students.

    Every second teacher is nearly deterministic: its other actions have a mass of 0.1 to 1e-7.
    """
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
# Compiling a method takes seconds. Here methods of the same shape share a program, and which of its functions are used
# is an argument.

KNOWN = tuple(ZOO.values()) + tuple(METHODS.values())
PARAMS = sorted({name for method in KNOWN for name in method.params})


def shape_of(method):
    return method.control, method.estimator, method.bootstrap, method.baseline, method.loss is None, method.has_return


def functions_of(method):
    return method.loss, method.reward, method.next_reward


@functools.cache
def family(shape, known):
    """The distinct losses, rewards and next rewards of all known methods of a shape; None stands for 0."""
    alike = [functions_of(method) for method in known if shape_of(method) == shape]
    return tuple(tuple(dict.fromkeys(fns)) for fns in zip(*alike, strict=True))


def switched(functions, which):
    if functions == (None,):
        return None
    branches = [fn or (lambda step: jnp.zeros_like(step.student_value)) for fn in functions]
    return lambda step: jax.lax.switch(which, branches, step)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def exact(jacobian, shape, families, options, which, params, discount, *arrays):
    """`expected_update` of a method of this shape on every world of a stack, or the Jacobian of its logits."""
    functions = [switched(fns, i) for fns, i in zip(families, which, strict=True)]
    others = dict(zip(("control", "estimator", "bootstrap", "baseline"), shape, strict=False))

    def update(mdp, teacher, logits, values):
        method = Method("any", *functions, params=params, **others)
        return expected_update(mdp, teacher, method, logits, values, discount=discount, **dict(options))

    return jax.vmap(jax.jacfwd(lambda *x: update(*x).logits, argnums=2) if jacobian else update)(*arrays)


def exact_update(method, arrays, known=KNOWN, jacobian=False, **options):
    """`exact` of a method in the program of all known methods of its shape; its params may differ from theirs."""
    shape, functions = shape_of(method), functions_of(method)
    families = family(shape, known)
    if not families or any(fn not in fns for fn, fns in zip(functions, families, strict=True)):
        families = tuple((fn,) for fn in functions)  # an unknown method has a program for itself
    which = [fns.index(fn) for fn, fns in zip(functions, families, strict=True)]
    discount = options.pop("discount")
    discount = float(discount if method.discount is None else method.discount)
    params = {name: np.asarray(method.params.get(name, 1), arrays[2].dtype) for name in PARAMS}
    return exact(jacobian, shape, families, tuple(options.items()), which, params, discount, *arrays)


def unfloored(method):
    """The method with floor 0 for further policies, as `SUM` has for the teacher."""
    return dataclasses.replace(method, params={**method.params, "floor": 0.0}) if "floor" in method.params else method


@functools.cache
def field(method, teacher=None):
    """Minus the expected update of the logits in all worlds, [M, O, A] float64."""
    (mdps, first_teacher), logits, values = problems()
    with float64():
        arrays = mdps, teacher or first_teacher, logits, values
        return -np.asarray(exact_update(unfloored(method), arrays, **SUM).logits)


def assert_equal_fields(actual, expected, factor=1.0):
    """`actual` is `factor` times `expected` to 1e-9 of the largest entry, or to 1e-9 where that entry is below 1."""
    largest = np.abs(actual).max()
    assert largest > 1e-3
    np.testing.assert_allclose(actual, factor * expected, rtol=0, atol=1e-9 * max(1, largest))


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
    """The pairs (weight, policy [S, A]) of the policies that are drawn once per episode."""
    policies = [jax.nn.softmax(logits)[mdp.observation], teacher.probs, jnp.full_like(teacher.probs, 1 / NUM_ACTIONS)]
    pairs = list(zip(method.control.weights, policies, strict=True))
    return pairs if method.control.per == "episode" else [(1.0, sum(w * p for w, p in pairs))]


def visits(mdp, policy):
    """The expected visits d [S], the solution of d = start + P^T d."""
    num = mdp.successor.shape[0]
    goes_on = jnp.where(mdp.terminal, 0, mdp.continue_prob)
    successors = jax.nn.one_hot(mdp.successor, num)
    transitions = jnp.einsum("sa,sak,sk,skn->sn", policy, mdp.outcome_probs, goes_on, successors)
    start = jnp.zeros(num).at[mdp.start].add(mdp.start_probs)
    return jnp.linalg.solve(jnp.eye(num) - transitions.T, start)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def state_gradients(methods, mdp, teacher, logits, values):
    """The gradient sum_s d(s) grad l(s) of every method's state loss, [O, A] each."""
    visited = {m.control: sum(w * visits(mdp, q) for w, q in controls(m, mdp, teacher, logits)) for m in methods}
    gradients = []
    for method in methods:
        step_of = functools.partial(make_step, method, mdp, teacher, logits, values)
        slopes = jax.vmap(lambda s: loss_gradient(method.state_loss, step_of(s, 0, 0, 1)))(jnp.arange(5))  # noqa: B023
        gradients.append(jnp.zeros_like(logits).at[mdp.observation].add(visited[method.control][:, None] * slopes))
    return gradients


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def total_gradients(methods, mdp, teacher, logits, values):
    """The gradient of E_q sum_t l(t) of every method's total loss; visits, actions and losses are differentiated."""

    def loss(logits, method):
        step_of = functools.partial(make_step, method, mdp, teacher, logits, values)
        total = 0
        for weight, q in controls(method, mdp, teacher, logits):
            costs = jax.vmap(lambda s, a, k: method.total_loss(step_of(s, a, k, 1)), (None, None, 0))
            costs = jax.vmap(jax.vmap(costs, (None, 0, None)), (0, None, None))
            cost = costs(*(jnp.arange(n) for n in mdp.outcome_probs.shape))
            total += weight * jnp.einsum("s,sa,sak,sak", visits(mdp, q), q, mdp.outcome_probs, cost)
        return total

    return [jax.grad(loss)(logits, method) for method in methods]


@functools.cache
def claimed(which):
    """The gradients that the objectives claim, by name."""
    (mdps, teacher), logits, values = problems()
    objectives = {name: unfloored(m) for name, m in ZOO.items() if getattr(m, which) is not None}
    gradients = {"state_loss": state_gradients, "total_loss": total_gradients}[which]
    with float64():
        by_objective = gradients(tuple(objectives.values()), mdps, teacher, logits, values)
        return dict(zip(objectives, map(np.asarray, by_objective), strict=True))


@pytest.mark.parametrize("which", ["state_loss", "total_loss"])
@pytest.mark.parametrize("name", ZOO)
def test_the_field_is_the_gradient_that_is_claimed(name, which):
    if getattr(ZOO[name], which) is None:
        return
    expected = claimed(which)[name]
    if getattr(ZOO[name], which) is fns.nothing:
        np.testing.assert_allclose(field(ZOO[name]), 0, atol=1e-12)
    else:
        assert_equal_fields(field(ZOO[name]), expected)


def test_every_objective_has_a_source_and_a_claim():
    for name, objective in ZOO.items():
        assert objective.name == name and objective.source and objective.gradient_of
        claims = objective.state_loss is not None or objective.total_loss is not None
        assert claims == (objective.gradient_of != NO_LOSS), name
        in_each_state = objective.gradient_of.startswith(IN_EACH_STATE)
        assert not in_each_state or objective.state_loss is not None, name
        assert (objective.gradient_of == ZERO_FIELD) == (objective.state_loss is fns.nothing), name
    assert not set(ZOO) & set(METHODS)


def test_descriptions():
    texts = {
        "distral": "The gradient of E_pi_theta sum_t ((kl + entropy) log pi_theta(a_t) - r_t - kl log pi(a_t)) "
        "(Distral, Teh et al. 2017, the teacher as prior).",
        "k2_loss": "In each visited state, the gradient of KL(pi_theta||pi) (verl, k2).",
        "gamma_opd": "Not the gradient of any loss (gamma-OPD, arXiv 2609.16937).",
        "top_k_scalar": "Zero in expectation (miles, issue 2362).",
    }
    assert {name: ZOO[name].description for name in texts} == texts
    assert discounted(ZOO["k2_loss"], 1.0).description == "Without a claim about its gradient (verl, k2)."
    assert Objective("mine", loss=fns.k1).description == "Without a claim about its gradient."


def test_every_function_has_a_name_that_shows_how_it_is_composed():
    names = {"k1_reward": "negated(k1)", "tempered_forward_kl": "total(tempered(plain(forward_kl), scaled=True))"}
    for name, text in names.items():
        assert (ZOO[name].loss or ZOO[name].reward).__qualname__ == text
    for method in (*KNOWN, plus_reward("kl_regularised")):
        for fn in functions_of(method):
            assert fn is None or "<" not in fn.__qualname__, method.name


def has_testable_jacobian(objective):
    """True where a loss of whole episodes is claimed, or no loss at all."""
    return objective.control.is_student and (objective.total_loss is not None or objective.gradient_of == NO_LOSS)


JACOBIANS = tuple(
    m for name, m in ZOO.items() if has_testable_jacobian(m) or name in ("reverse_kl", "k1_reward", "k1_loss")
)


@pytest.mark.parametrize("objective", JACOBIANS, ids=lambda m: m.name)
def test_the_jacobian_is_symmetric_only_where_a_loss_of_whole_episodes_is_claimed(objective):
    """A claim that holds in each visited state by itself is not enough for a symmetric Jacobian."""
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


EQUAL = [  # the field of the first is `factor` times the field of the second
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


def with_params(name, **params):
    method = ZOO[name] if name in ZOO else METHODS[name]
    return dataclasses.replace(method, params={**method.params, **params}) if params else method


@pytest.mark.parametrize(("first", "second", "factor"), EQUAL)
def test_methods_with_the_same_field(first, second, factor):
    assert_equal_fields(field(with_params(first)), field(with_params(second)), factor)


def test_three_objectives_are_the_same_estimator():
    """k1 as reward, k2 as loss and k3 times the ratio give the same update sample by sample, not only in the mean."""
    for action in range(NUM_ACTIONS):
        step = example_step(action)
        rewarded = ZOO["k1_reward"].reward(step) * score(step)
        for name in ("k2_loss", "k3_ratio"):
            np.testing.assert_allclose(-loss_gradient(ZOO[name].loss, step), rewarded, rtol=1e-4, atol=1e-6)


def test_k3_as_reward_descends_the_difference_of_the_divergences():
    assert_equal_fields(field(ZOO["k3_reward"]), field(ZOO["reverse_kl"]) - field(METHODS["on_policy_distill"]))


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
def test_the_proximal_teacher_is_the_jensen_shannon_divergence(alpha):
    proximal, jensen_shannon = field(with_params("top_d", alpha=alpha)), field(with_params("jsd", beta=alpha))
    assert_equal_fields(proximal, jensen_shannon, 1 / (1 - alpha))


def test_normalised_jensen_shannon_has_no_jump_at_its_ends():
    mild = slice(None, None, 2)  # a nearly deterministic teacher needs a beta below its least probability
    for beta, end in ((1e-6, METHODS["on_policy_distill"]), (1 - 1e-6, ZOO["reverse_kl"])):
        np.testing.assert_allclose(field(with_params("jsd_normalised", beta=beta))[mild], field(end)[mild], atol=1e-3)


def replaced_teacher(probs):
    """The teacher of `problems` with these probabilities, whose rows are normalised."""
    (_, teacher), _, _ = problems()
    return dataclasses.replace(teacher, probs=probs / probs.sum(-1, keepdims=True))


def test_two_policies_are_equivalent_to_a_single_teacher():
    (_, teacher), _, _ = problems()
    pi, other = teacher.probs, teacher.others[:, 0]
    geometric, arithmetic = replaced_teacher(np.sqrt(pi * other)), replaced_teacher((pi + other) / 2)
    extrapolated = replaced_teacher(pi**1.25 * other**-0.25)
    assert_equal_fields(field(ZOO["exopd"]), field(ZOO["reverse_kl"], extrapolated))
    for name in ("two_teachers_reverse_kl", "two_teachers_k1"):
        assert_equal_fields(field(ZOO[name]), field(ZOO["reverse_kl"], geometric))
    assert_equal_fields(field(ZOO["two_teachers_forward_kl"]), field(METHODS["on_policy_distill"], arithmetic))


def half_squared_error(step):
    return jnp.sum((jnp.exp(step.student_log_probs) - step.teacher_probs) ** 2) / 2


def teacher_mean_of_k2(step):
    return jnp.sum(step.teacher_probs * (step.student_log_probs - step.teacher_log_probs) ** 2) / 2


def test_further_divergences_equal_their_formulas():
    assert_equal_fields(field(with_params("power_opd", power=1.0)), field(Method("squares", loss=half_squared_error)))
    all_actions = {"k": float(NUM_ACTIONS)}
    expected = field(Method("k2", loss=teacher_mean_of_k2))
    assert_equal_fields(field(with_params("top_k_opd_teacher", **all_actions)), expected)
    for name in ("top_k_opd", "top_k_opd_written", "top_k_reverse_kl", "top_k_reverse_kl_tail"):
        assert_equal_fields(field(with_params(name, **all_actions)), field(ZOO["reverse_kl"]))
    assert_equal_fields(field(with_params("top_k_forward_kl_tail", **all_actions)), field(METHODS["on_policy_distill"]))


def test_td_vpi_descends_the_teachers_action_values():
    """The field of Proposition 3 is that of -E_pi_theta sum_a pi_theta(a) Q^pi(s, a) with visits held fixed.

    The field of `teacher_v_reward` is that of the negative return.
    """

    @jax.vmap
    def fields(mdp, teacher, logits):
        def negative_action_value(probs, d):
            next_value = jnp.where(mdp.terminal, 0, mdp.continue_prob) * teacher.values[mdp.successor]
            q = jnp.einsum("sak,sk->sa", mdp.outcome_probs, mdp.reward + next_value)
            return -jnp.einsum("s,sa,sa", d, probs, q)

        def negative_return(logits):
            probs = jax.nn.softmax(logits)
            return -jnp.einsum("s,sa,sak,sk", visits(mdp, probs), probs, mdp.outcome_probs, mdp.reward)

        d = visits(mdp, jax.nn.softmax(logits))
        action_value_field = jax.grad(lambda x: negative_action_value(jax.nn.softmax(x), d))(logits)
        return action_value_field, jax.grad(negative_return)(logits)

    (mdps, teacher), logits, _ = problems()
    with float64():
        action_value_field, return_field = jax.tree.map(np.asarray, fields(mdps, teacher, logits))
    assert_equal_fields(field(METHODS["td_vpi"]), action_value_field)
    assert_equal_fields(field(METHODS["teacher_v_reward"]), return_field)


def test_modifiers_of_methods():
    """The KL of trajectories is the one-step loss plus the k1 return from the next step; a change removes claims."""
    later = without_own_step(ZOO["k1_return"], name="later")
    assert_equal_fields(field(METHODS["kl_regularised"]), field(ZOO["reverse_kl"]) + field(later))
    assert_equal_fields(field(discounted(ZOO["k1_reward"], 1.0)), field(ZOO["k1_return"]))
    assert ZOO["k1_reward"].state_loss and not discounted(ZOO["k1_reward"], 1.0).state_loss
    assert discounted(METHODS["baseline"], 0.5).discount == 0.5
    assert length_normalised(ZOO["k1_return"]).reduction == "mean"


# --- Functions by hand --------------------------------------------------------------------------------------------

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
    step = example_step(**ZOO[name].params)
    step = dataclasses.replace(step, other_probs=jnp.float32(OTHER[None]), reward=jnp.float32(2))
    assert (ZOO[name].loss or ZOO[name].reward)(step) == pytest.approx(BY_HAND[name], rel=1e-5)


# --- Sampled = exact ------------------------------------------------------------------------------------------------


# Some objectives of each shape of the sampling program; the slow tests take the whole zoo.
KINDS = [
    ["k1_reward", "k3_loss", "k3_ratio", "top_d", "distral", "two_teachers_k1", "top_k_opd", "top_k_forward_kl_tail"],
    ["n_distill_kl", "minillm"],
    ["gkd"],
]


def groups():
    """Groups of at most 8 objectives that share a sampling program, which computes the functions of all of them."""
    by_shape = {}
    for name, m in ZOO.items():
        by_shape.setdefault((m.next_reward is None, m.control), []).append(name)
    return [names[i : i + 8] for names in by_shape.values() for i in range(0, len(names), 8)]


CASES = [(names, "td") for names in KINDS] + [
    pytest.param(names, estimator, marks=pytest.mark.slow) for names in groups() for estimator in ("td", "mc")
]


@pytest.mark.parametrize(("names", "estimator"), CASES, ids=lambda x: x if isinstance(x, str) else x[0])
def test_mean_of_sampled_updates_is_the_exact_update(names, estimator, monkeypatch):
    """As in test_unbiased.py; all methods of a group share one program, which saves time."""
    all_params = [{p: ZOO[n].params.get(p, 1.0) for p in PARAMS} for n in names]
    methods = tuple(dataclasses.replace(ZOO[n], params=params) for n, params in zip(names, all_params, strict=True))
    monkeypatch.setattr(tasks, "methods_in_program", lambda method: methods)
    monkeypatch.setattr(tasks, "lane_width", lambda *_: test_unbiased.WIDE)
    worlds = [small.random_mdp(3, by_state=True), small.random_mdp(2, by_state=True, aliased=True)]
    worlds = stack([dataclasses.replace(mdp, num_observations=4) for mdp in worlds])
    teachers = test_unbiased.stack([small.random_teacher(worlds[i], i, deterministic_rows=1) for i in range(2)])
    teachers = with_others(teachers, test_unbiased.stack([small.random_teacher(worlds[i], i + 9) for i in range(2)]))
    tables = zip(*(small.random_student(worlds[i], i) for i in range(2)), strict=True)
    logits, values = (np.stack(x) for x in tables)
    changes = {"estimator": estimator, "reduction": "mean", **test_unbiased.NUMBERS}
    key = jax.random.key(0)
    updates = sampled_updates(key, worlds, teachers, methods, logits, values, num_updates=4000, **changes)
    for name, sampled in updates.items():
        update = np.concatenate([sampled.logits, sampled.values[..., None]], axis=-1)
        arrays = worlds, teachers, jnp.asarray(logits), jnp.asarray(values)
        exact = exact_update(ZOO[name], arrays, known=tuple(ZOO[n] for n in names), **changes)
        exact = np.concatenate([exact.logits, np.asarray(exact.values)[..., None]], axis=-1)
        error = np.abs(update.mean(1) - exact)
        standard_error = update.std(1, ddof=1) / np.sqrt(update.shape[1])
        assert (error <= 4 * standard_error + 2e-6).all(), f"{name}: {(error / (standard_error + 1e-12)).max()}"
        could_fail = standard_error.max() < 0.25 * np.abs(exact).max()
        assert could_fail or ZOO[name].state_loss is fns.nothing, f"{name}: the test could not fail"
