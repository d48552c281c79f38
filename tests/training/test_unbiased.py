"""The mean of sampled updates is the exact expected update, for every method: the test that holds all together."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, Control, expected_update
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods import Method, numerics
from jaxdistill.teachers.tabular import with_others
from jaxdistill.training import tasks
from jaxdistill.training.sampling import sampled_updates
from jaxdistill.training.tasks import methods_in_program
from tests import small

NUM_STUDENTS = 8_000  # on each world, one sampled update each
NUMBERS = {"discount": 0.9, "loss_weight": 0.7, "return_weight": 1.3}
OWN_NUMBERS = {"lambda": {"trace_decay": 0.6}}  # by estimator
MIXTURES = {
    f"{base}/{per}": dataclasses.replace(
        METHODS[base], name=f"{base}/{per}", control=Control(student=0.5, teacher=0.3, uniform=0.2, per=per)
    )
    for base in ("on_policy_distill", "n_distill")
    for per in ("step", "episode")
}
BATTERY: dict[str, Method] = METHODS | MIXTURES


WIDE = 2048  # lanes of a block: these students live for one episode, and a wide block hands out many at once


def stack(items):
    return jax.tree.map(lambda *x: jnp.stack(x), *items)


def sampled(mdps, teachers, methods, logits, values, **changes):
    """{method name: [W, N, O, A + 1]}: what one iteration added to the tables of N students on each of W worlds."""
    with mock.patch.object(tasks, "lane_width", lambda *_: WIDE):
        updates = sampled_updates(
            jax.random.key(0), mdps, teachers, methods, logits, values, num_updates=NUM_STUDENTS, **changes
        )
    return {name: np.concatenate([x.logits, x.values[..., None]], axis=-1) for name, x in updates.items()}


def check(methods, worlds, estimator, reduction, teachers=None, **more):
    """Within 4 standard errors in every entry; the fixed seed makes the 4 a fact and not a chance."""
    teachers = teachers or [small.random_teacher(mdp, i, deterministic_rows=1) for i, mdp in enumerate(worlds)]
    tables = [small.random_student(mdp, i) for i, mdp in enumerate(worlds)]
    logits, values = (np.stack(x) for x in zip(*tables, strict=True))
    changes = {"estimator": estimator, "reduction": reduction, **NUMBERS, **OWN_NUMBERS.get(estimator, {}), **more}
    updates = sampled(stack(worlds), stack(teachers), methods, logits, values, **changes)
    for method in methods:
        for i, (mdp, teacher) in enumerate(zip(worlds, teachers, strict=True)):
            exact = expected_update(mdp, teacher, method, jnp.asarray(logits[i]), jnp.asarray(values[i]), **changes)
            exact = np.concatenate([exact.logits, np.asarray(exact.values)[:, None]], axis=1)
            update = updates[method.name][i].astype(np.float64)  # a mean of float32 would be rounded
            error = update.mean(0) - exact
            standard_error = update.std(0, ddof=1) / np.sqrt(len(update))
            excess = np.abs(error) - 4 * standard_error
            assert (excess <= 2e-6).all(), f"{method.name}, world {i}: {np.abs(error / (standard_error + 1e-12)).max()}"
            assert standard_error.max() < 0.25 * np.abs(exact).max(), f"{method.name}, world {i}: it could not fail"


def groups():
    """(names, estimator) of the methods that share a program."""
    names_by_program = {}
    for name, method in BATTERY.items():
        for estimator in ESTIMATORS:
            if method.estimator in (None, estimator):
                names_by_program.setdefault((methods_in_program(method)[0].name, estimator), []).append(name)
    return [(tuple(names), estimator) for (_, estimator), names in names_by_program.items()]


@pytest.mark.parametrize(("names", "estimator"), groups(), ids=lambda x: x if isinstance(x, str) else x[0])
def test_mean_of_sampled_updates_is_the_exact_update(names, estimator):
    """On three worlds whose outcomes depend on the state, in one of which states share rows."""
    worlds = [small.random_mdp(3, by_state=True), small.random_mdp(2, by_state=True, aliased=True)]
    worlds.append(small.random_mdp(4, by_state=True))
    worlds = [dataclasses.replace(mdp, num_observations=4) for mdp in worlds]  # rows that no state uses stay 0
    check([BATTERY[name] for name in names], worlds, estimator, "mean")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["on_policy_distill_r", "n_distill"])
def test_outcomes_shared_by_states_and_the_sum_over_steps(name, estimator):
    """The form of the grid worlds, [A, K]; several start states; the update a sum."""
    check([METHODS[name]], [small.random_mdp(2, aliased=True, starts=2)], estimator, "sum")


@pytest.mark.parametrize("truncation", ["bootstrap", "end"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_episodes_that_are_cut(estimator, truncation):
    """Every second episode or more is cut; the limits differ between the worlds, which share states' rows or not."""
    worlds = [small.random_mdp(seed, aliased=seed == 2).with_time_limit(limit) for seed, limit in ((2, 1), (1, 3))]
    worlds = [dataclasses.replace(mdp, num_observations=4) for mdp in worlds]
    names = ["baseline", "exp_entropy_regularised", "n_distill", "teacher_v_reward"]
    check([METHODS[name] for name in names], worlds, estimator, "mean", truncation=truncation)


@pytest.mark.parametrize("words", [("once", "every"), ("every", "once"), ("once", "once")], ids="-".join)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_visits_that_count_once_and_a_fixed_length(estimator, words):
    """Most episodes come to a row twice or more; in one world states share rows."""
    worlds = [small.random_mdp(2, aliased=True), small.random_mdp(1)]
    worlds = [dataclasses.replace(mdp, num_observations=4) for mdp in worlds]
    names = ["n_distill", "exp_entropy_regularised"] if words == ("once", "once") else ["on_policy_distill_r"]
    more = dict(loss_visits=words[0], return_visits=words[1], fixed_length=5.0)
    check([METHODS[name] for name in names], worlds, estimator, "fixed", **more)


FEATURES = {  # of 4 states, any of which may follow another; -1 pads
    1: [[0], [1], [0], [2]],
    2: [[0, 1], [1, 2], [2, -1], [0, 3]],
    4: [[0, 1, 2, 3], [1, 4, -1, -1], [0, 4, 5, 2], [3, 2, 1, 5]],
}
FEATURE_CASES = {
    "own action": (["baseline", "on_policy_distill_r_vcond", "kl_regularised"], {}),
    "next action": (["n_distill", "exp_entropy_regularised"], {}),
    "divided": (["n_distill"], {"feature_steps": "divided"}),
    "once": (["on_policy_distill_r"], {"loss_visits": "once", "reduction": "sum"}),
    "cut": (["n_distill", "exp_entropy_regularised"], {"limit": 3}),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case", FEATURE_CASES)
@pytest.mark.parametrize("num_features", FEATURES)
def test_states_that_share_features(num_features, case, estimator):
    """A state shares some features with itself, when it follows itself, and with its other successors."""
    names, options = FEATURE_CASES[case]
    options = {"reduction": "mean", **options}
    worlds = [small.random_mdp(seed, by_state=seed == 3) for seed in (3, 2)]
    worlds = [mdp.with_features(FEATURES[num_features], 6).with_time_limit(options.get("limit")) for mdp in worlds]
    worlds = [dataclasses.replace(mdp, outcome_probs=by_state(mdp)) for mdp in worlds]
    options.pop("limit", None)
    check([METHODS[name] for name in names], worlds, estimator, options.pop("reduction"), **options)


def by_state(mdp):
    """The outcome probabilities of an MDP for every state, [S, A, K]."""
    return jnp.broadcast_to(mdp.outcome_probs, (mdp.num_states, *mdp.outcome_probs.shape[-2:]))


def second_opinion(step):
    """A loss that looks at a further policy beside the teacher's."""
    return numerics.cross_entropy(p=step.other_probs[0], log_q=step.student_log_probs)


def second_reward(step):
    return step.params["weight"] * jnp.log(step.other_probs[0])[step.action]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_method_of_ones_own_with_two_teachers_and_its_own_discount(estimator):
    method = Method("two", loss=second_opinion, next_reward=second_reward, discount=0.5, params={"weight": 0.8})
    mdp = small.random_mdp(1)
    teachers_ = small.random_teacher(mdp, 0), small.random_teacher(mdp, 7)
    check([method], [mdp], estimator, "mean", teachers=[with_others(*teachers_)])
