"""Students whose logits and values are sums of rows: no update is lost or doubled, whichever rows steps share."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import MDP, exact, resumable, stack, teachers, train
from jaxdistill.engine.packing import pack_worlds
from tests import reference, small
from tests.engine.test_tick import DECAYS, KEY, Adam, assert_same, assert_same_mean, repeated
from tests.lockstep import lockstep

# 0 -> 1 -> 2 -> 1' -> end, whatever the action. Each step shares rows with the next one and with later ones.
STEPS = [0, 1, 2, 3]
REWARD, PROBS = np.array([1.0, -2.0, 0.5, 3.0]), np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
FEATURES = {
    1: [[1], [0], [1], [1]],
    2: [[2, 0], [1, 2], [1, -1], [1, 0]],
    3: [[2, 1, 0], [4, 1, -1], [2, 4, 3], [1, -1, -1]],
    17: [[(5 * s + 7 * f) % 19 if f < 17 - 4 * s else -1 for f in range(17)] for s in STEPS],
}


@functools.cache
def chain(num_features, limit=None):
    mdp = MDP.from_arrays(
        successor=[[1], [2], [3], [3]],
        reward=REWARD[:, None],
        terminal=[[False], [False], [False], [True]],
        outcome_probs=[[1.0], [1.0]],
        time_limit=limit,
    )
    return repeated(mdp.with_features(FEATURES[num_features]), 3)


def trained(num_features, limit=None, **changes):
    mdps = chain(num_features, limit)
    teacher = teachers.from_table(mdps, PROBS)
    options = {"num_iterations": 40, "num_checkpoints": 2, "discount": 0.9} | changes
    return train(KEY, mdps, teacher, ["on_policy_distill", "baseline"], **options)


def twin(num_features, estimator="td", rates=(0.3, 0.2), limit=4, start=None, bootstraps=True, optimizer=None, **words):
    """The logits of on-policy distillation and V of the baseline in NumPy: no action can change them."""
    rows = [[row for row in features if row >= 0] for features in FEATURES[num_features]]
    size = max(map(max, rows)) + 1
    logits, values = start if start is not None else (np.zeros((size, 2)), np.zeros(size))
    visits, divided = words.get("visits", "every"), words.get("feature_steps") == "divided"
    for k in range(40):
        changes = np.zeros((size, 2)), np.zeros(size)
        following = values[rows[limit]].sum() if limit < 4 and bootstraps else 0.0
        credited = set()
        for s in reversed(STEPS[:limit]):
            probs = np.exp(logits[rows[s]].sum(0))
            value, target = values[rows[s]].sum(), REWARD[s] + 0.9 * following
            for row in rows[s]:
                if visits == "every" or row not in credited:
                    share = 1 / limit / (len(rows[s]) if divided else 1)
                    changes[0][row] += share * (PROBS[s] - probs / probs.sum())
                    changes[1][row] += share * (target - value)
            credited |= set(rows[s])
            following = DECAYS[estimator] * target + (1 - DECAYS[estimator]) * value
        step = optimizer or (lambda k, gradient, which: -rates[which] * gradient)
        logits, values = (x + step(k, -changes[which], which) for which, x in enumerate((logits, values)))
    return logits, values


def assert_twin(result, expected):
    for i in range(3):
        np.testing.assert_allclose(result.logits[0, i], expected[0], rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(result.values[1, i], expected[1], rtol=2e-4, atol=2e-5)


RATES = {"learning_rate": 0.3, "value_learning_rate": 0.2}


@pytest.mark.parametrize("num_features", FEATURES)
@pytest.mark.parametrize("estimator", DECAYS)
def test_forty_iterations_without_chance(num_features, estimator):
    """Rows are shared by successive steps, by other steps of the episode, and by the last and the first step."""
    more = {"trace_decay": 0.6} if estimator == "lambda" else {}
    assert_twin(trained(num_features, estimator=estimator, **RATES, **more), twin(num_features, estimator))


@pytest.mark.parametrize("estimator", ["td", "mc"])
@pytest.mark.parametrize("option", ["divided", "once", "limit", "end"])
def test_options(option, estimator):
    changes, own = {
        "divided": ({"feature_steps": "divided"},) * 2,
        "once": ({"loss_visits": "once", "return_visits": "once"}, {"visits": "once"}),
        "limit": ({"limit": 3},) * 2,
        "end": ({"limit": 3, "truncation": "end"}, {"limit": 3, "bootstraps": False}),
    }[option]
    assert_twin(trained(3, estimator=estimator, **RATES, **changes), twin(3, estimator, **own))


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_an_optimizer_and_initial_parameters(estimator):
    """Spare rows are no parameters: neither Adam nor the mean of the parameters sees them."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 2)), rng.normal(size=5)
    initial = {"initial_logits": start[0], "initial_values": start[1]}
    adam = trained(3, estimator=estimator, optimizer=optax.adam(0.05), **initial)
    assert_twin(adam, twin(3, estimator, start=start, optimizer=Adam(0.05)))
    mean = optax.stateless_with_tree_map(lambda update, params: -0.3 * (update + jnp.mean(params)))

    tables = list(start)

    def step(k, gradient, which):
        change = -0.3 * (gradient + tables[which].mean())
        tables[which] = tables[which] + change
        return change

    assert_twin(
        trained(3, estimator=estimator, optimizer=mean, **initial), twin(3, estimator, start=start, optimizer=step)
    )


@functools.cache
def world():
    mdp = small.random_mdp(9, num_states=6, starts=2)
    mdp = dataclasses.replace(mdp, continue_prob=jnp.float32(0.85))
    mdp = mdp.with_features([[0, 1, -1], [1, 2, 0], [2, -1, -1], [2, 3, 0], [3, 4, -1], [0, 4, 2]])
    return mdp, small.random_teacher(mdp, 6, deterministic_rows=2)


@pytest.mark.parametrize(
    ("names", "estimator", "reduction"),
    [
        (("baseline", "on_policy_distill_r_vcond", "entropy_regularised"), "td", "mean"),
        (("n_distill", "exp_entropy_regularised"), "td", "sum"),
        (("n_distill", "exp_entropy_regularised"), "mc", "mean"),
    ],
)
def test_tables_of_the_reference(names, estimator, reduction):
    """40 iterations at large rates, so that a wrong update compounds."""
    mdp, teacher = world()
    rates = {"learning_rate": 0.1, "value_learning_rate": 0.05, "discount": 0.9, "probability_floor": 0.01}
    mdps, stacked_teacher = repeated(mdp, 512), repeated(teacher, 512)
    more = {"num_iterations": 40, "num_checkpoints": 1, "estimator": estimator, "reduction": reduction}
    result = train(KEY, mdps, stacked_teacher, names, **rates, **more)
    scalar_teacher = reference.Teacher(np.asarray(teacher.probs).tolist(), np.asarray(teacher.values).tolist())
    for p, name in enumerate(names):
        settings = reference.Settings(name, estimator, reduction, **rates)
        runs = [
            reference.train_student(
                reference.World.of(mdp), scalar_teacher, settings, 40, np.random.default_rng((p, i))
            )
            for i in range(80)
        ]
        assert_same_mean(result.logits[p], np.stack([r.logits for r in runs]), f"{name} logits")
        assert_same_mean(result.values[p], np.stack([r.values for r in runs]), f"{name} values")


def test_q_learning_of_the_reference():
    mdp, _ = world()
    options = {"learning_rate": 0.1, "discount": 0.9, "epsilon": 0.3}
    teacher = teachers.q_learning(KEY, repeated(mdp, 512), num_iterations=40, **options)
    scalar_world = reference.World.of(mdp)
    runs = [reference.train_q_learning(scalar_world, 40, np.random.default_rng(i), **options) for i in range(160)]
    theirs = np.stack([scalar_world.sums(r.logits.tolist()) for r in runs])
    assert_same_mean(np.asarray(teacher.scores), theirs, "Q")
    assert np.abs(theirs.mean(0)).max() > 0.3, "the test could not fail"


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_one_feature_is_an_observation_and_the_order_of_features_means_nothing(estimator):
    """Bit for bit."""
    mdps = stack([small.random_mdp(i) for i in range(9)])
    options = {"estimator": estimator, "num_iterations": 30, "num_checkpoints": 3}

    def run(worlds):
        return train(KEY, worlds, teachers.uniform(worlds), ["n_distill", "baseline"], **options)

    rows = np.array([2, 0, 1, 0])
    assert_same(run(mdps.with_features(rows[:, None])), run(mdps.with_observation(rows)))
    features = np.array([[0, 1, 3], [1, 2, -1], [2, 3, 0], [3, -1, -1]])
    whole = run(mdps.with_features(features))
    assert_same(run(mdps.with_features(features[:, [2, 0, 1]])), whole)
    alone = mdps.with_features(features)[4:5]
    assert_same(whole.select(mdps=[4]), run(alone))


def test_exact_returns_and_checkpoints_use_the_sum_of_rows():
    mdps = stack([small.random_mdp(i) for i in range(9)]).with_features([[0, 1], [1, 2], [2, -1], [0, 2]])
    result = train(
        KEY, mdps, teachers.uniform(mdps), "baseline", num_iterations=200, num_checkpoints=10, measure="forward_kl"
    )
    logits = result.logits[0].astype(np.float64)
    states = np.stack(
        [logits[:, 0] + logits[:, 1], logits[:, 1] + logits[:, 2], logits[:, 2], logits[:, 0] + logits[:, 2]], 1
    )
    policies = np.exp(states) / np.exp(states).sum(-1, keepdims=True)
    np.testing.assert_allclose(exact.policy_from_logits(mdps, result.logits[0]), policies, rtol=1e-12)
    np.testing.assert_allclose(result.final_returns[0], exact.episode_return(mdps, policies), rtol=1e-9)


def test_spare_rows_take_the_places_without_a_feature():
    """A step writes different rows, in increasing order."""
    mdps = repeated(small.random_mdp(0).with_features([[3, 0, -1], [-1, 2, -1], [0, 1, 2], [2, -1, 1]]), 1)
    features = np.asarray(pack_worlds(mdps).features)
    np.testing.assert_array_equal(features, [[0, 3, 4], [2, 4, 5], [0, 1, 2], [1, 2, 4]])


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_a_training_that_was_stopped_goes_on(estimator, tmp_path):
    """Bit for bit."""
    mdps = stack([small.random_mdp(i) for i in range(24)]).with_features([[0, 1], [1, 2], [2, -1], [0, 2]])
    reports = []

    def run(**more):
        options = {"num_iterations": 3000, "num_checkpoints": 3, "estimator": estimator} | more
        return train(KEY, mdps, teachers.uniform(mdps), "n_distill", **options)

    def stop(fraction, steps, seconds):
        reports.append(fraction)
        if 0 < fraction < 1:
            raise Interrupted

    whole = run()
    with pytest.raises(Interrupted), lockstep(), resumable(tmp_path, seconds=1e-9):
        run(on_chunk=stop)
    assert 0 < reports[-1] < 1
    with resumable(tmp_path):
        assert_same(run(), whole)
