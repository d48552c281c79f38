"""The mean of sampled updates is the exact expected update, for every method: the test that holds all together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, Control, expected_update, students
from jaxdistill import pool as pool_lib
from jaxdistill.methods import Method
from tests import small

NUM_STUDENTS = 8_000  # one sampled update each
MIXTURES = {
    f"{base}/{per}": dataclasses.replace(
        METHODS[base], name=f"{base}/{per}", control=Control(student=0.5, teacher=0.3, uniform=0.2, per=per)
    )
    for base in ("on_policy_distill", "n_distill")
    for per in ("step", "episode")
}
BATTERY: dict[str, Method] = METHODS | MIXTURES
WORLDS = {
    "plain": {"seed": 1},
    "aliased": {"seed": 2, "aliased": True, "starts": 2},
    "by_state": {"seed": 3, "by_state": True, "num_states": 5},
}


def sampled_updates(mdp, teacher, method, logits, values, *, num_students=NUM_STUDENTS, **changes):
    """[N, O, A + 1]: what one iteration added to the tables of N students, at learning rate 1."""
    config = students.Config(num_iterations=1, num_checkpoints=1, learning_rate=1.0, value_learning_rate=1.0, **changes)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_students, *x.shape)), mdp)
    stacked = dataclasses.replace(stacked, id=jnp.arange(num_students, dtype=jnp.int32))
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_students, *x.shape)), teacher)
    before = np.concatenate([logits, values[:, None]], axis=1)
    after = np.zeros((num_students, *before.shape), np.float64)

    def keep(cell, student, pause, params, curves, truncated):
        after[student] = params

    cell = students.Resolved(method.name, method, many, config)
    initial = np.broadcast_to(before, (1, num_students, *before.shape))
    cost = np.ones(num_students)
    pool_lib.run(students.make_tasks(jax.random.key(0), stacked, [cell], cost, keep, initial=initial))
    return after - before


def cases():
    for name, method in BATTERY.items():
        for estimator in ("mc", "td"):
            if method.estimator in (None, estimator):
                yield name, estimator


@pytest.mark.parametrize(("name", "estimator"), list(cases()))
def test_mean_of_sampled_updates_is_the_exact_update(name, estimator):
    """Within 4 standard errors in every entry, on three worlds; the fixed seed makes the 4 a fact and not a chance."""
    for world, (kind, options) in enumerate(WORLDS.items()):
        mdp = small.random_mdp(**options)
        teacher = small.random_teacher(mdp, world, deterministic_rows=1)
        logits, values = small.random_student(mdp, world)
        reduction = "sum" if world == 1 else "mean"
        sampled = sampled_updates(
            mdp, teacher, BATTERY[name], logits, values, estimator=estimator, reduction=reduction, discount=0.9,
            loss_weight=0.7, return_weight=1.3,
        )  # fmt: skip
        exact = expected_update(
            mdp, teacher, BATTERY[name], jnp.asarray(logits), jnp.asarray(values), estimator=estimator,
            reduction=reduction, discount=0.9, loss_weight=0.7, return_weight=1.3,
        )  # fmt: skip
        exact = np.concatenate([exact.logits, np.asarray(exact.values)[:, None]], axis=1)
        error = sampled.mean(0) - exact
        standard_error = sampled.std(0, ddof=1) / np.sqrt(len(sampled))
        assert (np.abs(error) <= 4 * standard_error + 2e-6).all(), (
            kind,
            np.abs(error / (standard_error + 1e-12)).max(),
        )
        assert standard_error.max() < 0.25 * np.abs(exact).max(), "the test could not fail"
