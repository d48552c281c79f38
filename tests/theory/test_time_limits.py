"""Exact updates in worlds that cut their episodes, against the enumeration of all episodes by the scalar reference."""

import dataclasses
import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import MDP, METHODS, Teacher, expected_update
from jaxdistill.mdp import stack
from jaxdistill.theory.fields import check_method, field
from jaxdistill.theory.flows import flow
from jaxdistill.theory.precision import float64
from jaxdistill.theory.time_limits import UnrolledMDP, unrolled
from jaxdistill.theory.variance import assess
from tests import reference
from tests.theory.enumeration import random_student, short_episodes, softmax

LIMIT, DISCOUNT, DECAY = 3, 0.7, 0.6


def limited_world(limit: int | None = LIMIT) -> tuple[MDP, Teacher]:
    """The world of 3 states, 2 actions and 2 outcomes, two of whose states share a row; most episodes are cut."""
    mdp, teacher = short_episodes(is_aliased=True)
    return dataclasses.replace(mdp, continue_prob=jnp.float32(0.875)).with_time_limit(limit), teacher


def episodes(world: reference.World, policy) -> Iterator[tuple[float, list[reference.Step], list]]:
    """Every episode with its probability, and where it is cut the actions that may be drawn there, as (prob, cut)."""
    pending = [(prob, state, []) for state, prob in zip(world.start, world.start_probs, strict=True)]
    while pending:
        prob, state, steps = pending.pop()
        for action in range(world.num_actions):
            for outcome, outcome_prob in enumerate(world.outcome_probs[state][action]):
                taken = prob * policy[state][action] * outcome_prob
                reward, following = world.reward[state][outcome], world.successor[state][outcome]
                onward = 0.0 if world.terminal[state][outcome] else world.continue_prob
                if taken * (1 - onward) > 0:
                    yield taken * (1 - onward), [*steps, reference.Step(state, action, reward, None)], [(1.0, None)]
                if taken * onward > 0:
                    episode = [*steps, reference.Step(state, action, reward, following)]
                    if len(episode) < world.time_limit:
                        pending.append((taken * onward, following, episode))
                    else:
                        cuts = [(p, reference.Step(following, a, 0.0, None)) for a, p in enumerate(policy[following])]
                        yield taken * onward, episode, cuts


def enumerated(mdp, teacher, settings, logits, values) -> np.ndarray:
    """Mean and mean square of the update over all episodes, [2, O, A + 1]; the reference states what an update is."""
    world = reference.World.of(mdp)
    table = reference.Teacher(np.asarray(teacher.probs, float).tolist(), np.asarray(teacher.values, float).tolist())
    rows = softmax(logits)
    policy = rows[np.asarray(mdp.observation)].tolist()
    control = table.probs if settings.method == "teacher_distill" else policy
    moments, total = np.zeros((2, mdp.num_observations, mdp.num_actions + 1)), 0.0
    for prob, episode, cuts in episodes(world, control):
        for cut_prob, cut in cuts:
            if settings.truncation == "end" and cut is not None:
                steps = [*episode[:-1], episode[-1]._replace(next_state=None)]
                args = (steps, None)
            else:
                args = (episode, cut)
            update = reference.episode_update(world, table, settings, rows.tolist(), values.tolist(), *args)
            x = np.zeros(moments.shape[1:])
            for o, gradient in update.logits.items():
                x[o, :-1] = -np.asarray(gradient)
            for o, change in update.values.items():
                x[o, -1] = change
            moments += prob * cut_prob * np.stack([x, x**2])
            total += prob * cut_prob
    assert math.isclose(total, 1, abs_tol=1e-12)
    return moments


CASES = [
    (name, estimator)
    for name, method in METHODS.items()
    for estimator in ("mc", "td", "lambda")
    if method.estimator in (None, estimator)
]
FEW = {("baseline", "mc"), ("exp_entropy_regularised", "td"), ("teacher_v_reward", "lambda"), ("td_vpi", "td")}
MANY = [
    pytest.param(*case, reduction, truncation, marks=() if case in FEW and is_default else pytest.mark.long)
    for i, case in enumerate(CASES)
    for reduction, truncation, is_default in (
        ("mean", "bootstrap", True),
        ("sum", "bootstrap", False),
        ("mean", "end", False),
    )
]


@pytest.mark.parametrize(("name", "estimator", "reduction", "truncation"), MANY)
def test_update_is_the_mean_over_all_episodes(name, estimator, reduction, truncation, **more):
    mdp, teacher = limited_world()
    logits, values = random_student(mdp, 1)
    values *= METHODS[name].has_return  # Without a return, V_theta stays 0.
    settings = reference.Settings(
        name, estimator, reduction, discount=DISCOUNT, trace_decay=DECAY, truncation=truncation, probability_floor=0.01,
        **more,
    )  # fmt: skip
    mean, _ = enumerated(mdp, teacher, settings, logits, values)
    options = more | ({"trace_decay": DECAY} if estimator == "lambda" else {})
    options |= dict(estimator=estimator, reduction=reduction, truncation=truncation, discount=DISCOUNT)
    with float64():
        update = expected_update(
            mdp, teacher, name, jnp.asarray(logits), jnp.asarray(values), probability_floor=0.01, **options
        )
    np.testing.assert_allclose(update.logits, mean[:, :-1], atol=1e-12)
    np.testing.assert_allclose(update.values, mean[:, -1], atol=1e-12)


VISITS = {  # by the words for the loss and for the return
    ("once", "every"): ("on_policy_distill_r", "mc", "mean", "bootstrap"),
    ("every", "once"): ("exp_entropy_regularised", "td", "sum", "end"),
    ("once", "once"): ("n_distill", "lambda", "mean", "bootstrap"),
}


@pytest.mark.parametrize("words", VISITS, ids="-".join)
def test_visits_that_count_once(words):
    """States that share a row count as one; the update moves it by its last visit in an episode."""
    test_update_is_the_mean_over_all_episodes(*VISITS[words], loss_visits=words[0], return_visits=words[1])


def test_a_fixed_length():
    test_update_is_the_mean_over_all_episodes("n_distill", "td", "fixed", "bootstrap", fixed_length=7.0)


@pytest.mark.long
@pytest.mark.parametrize("words", VISITS, ids="-".join)
@pytest.mark.parametrize(("name", "estimator"), CASES)
def test_visits_that_count_once_in_every_method(name, estimator, words):
    """Except where the word has no effect, because the method has no loss or no return."""
    method = METHODS[name]
    words = words[0] if method.loss else "every", words[1] if method.has_return else "every"
    test_update_is_the_mean_over_all_episodes(
        name, estimator, "mean", "bootstrap", loss_visits=words[0], return_visits=words[1]
    )


@pytest.mark.parametrize(("name", "estimator"), [("exp_entropy_regularised", "lambda"), ("teacher_v_reward", "td")])
def test_variance_is_that_over_all_episodes(name, estimator):
    """Also for worlds of a stack with different limits."""
    worlds, teachers = zip(*(limited_world(limit) for limit in (1, 3)), strict=True)
    mdps, teacher = stack(worlds), jax_stack(teachers)
    logits, values = random_student(worlds[0], 2)
    settings = reference.Settings(name, estimator, discount=DISCOUNT, trace_decay=DECAY, probability_floor=0.01)
    options = {"trace_decay": DECAY} if estimator == "lambda" else {}
    options |= dict(estimator=estimator, reduction="mean", discount=DISCOUNT, probability_floor=0.01)
    assessed = assess(mdps, teacher, name, np.stack([logits] * 2), np.stack([values] * 2), **options)
    for i, mdp in enumerate(worlds):
        mean, square = enumerated(mdp, teachers[i], settings, logits, values)[..., :-1]
        np.testing.assert_allclose(assessed.mean[i], mean, atol=1e-12)
        np.testing.assert_allclose(assessed.variance[i], square - mean**2, atol=1e-12)
    assert assessed.num_steps[0] == pytest.approx(1, abs=1e-12) and 1 < assessed.num_steps[1] < 3


def jax_stack(teachers):
    fields = {name: jnp.stack([getattr(t, name) for t in teachers]) for name in ("probs", "values", "scores")}
    return dataclasses.replace(teachers[0], **fields)


def test_a_limit_that_no_episode_reaches_changes_nothing():
    mdp, teacher = limited_world(None)
    short = dataclasses.replace(mdp, continue_prob=jnp.float32(0.0625))
    logits, values = random_student(mdp, 3)
    with float64():
        args = (teacher, "n_distill", jnp.asarray(logits), jnp.asarray(values))
        unlimited = expected_update(short, *args, estimator="mc")
        limited = expected_update(short.with_time_limit(16), *args, estimator="mc")
    np.testing.assert_allclose(limited.logits, unlimited.logits, atol=1e-12)
    np.testing.assert_allclose(limited.values, unlimited.values, atol=1e-12)


def test_every_question_of_the_theory_takes_worlds_with_a_limit():
    mdp, teacher = limited_world()
    mdps, teachers = stack([mdp]), jax_stack([teacher])
    report = check_method("baseline", mdps=mdps, teacher=teachers)
    assert "cut after at most 3 steps" in str(report) and "3 states" in str(report)
    path = flow(mdp, teacher, "on_policy_distill", step_size=0.1, num_steps=2)
    logits = np.zeros((2, 2))
    with float64():
        np.testing.assert_allclose(path.logits[0], logits)
        direction = -field(mdp, teacher, "on_policy_distill", jnp.asarray(logits))
    assert np.sum((path.logits[1] - logits) * np.asarray(direction)) > 0


def test_unrolling_refuses_what_it_cannot_do():
    mdp, teacher = limited_world()
    assert unrolled(*limited_world(None), "bootstrap")[0].num_states == 3
    world, _ = unrolled(mdp, teacher, "bootstrap")
    assert isinstance(world, UnrolledMDP) and world.num_states == 3 * (LIMIT + 1) and world.block_size == 3
    mixed = stack([mdp, limited_world(None)[0]])
    with pytest.raises(ValueError, match="all MDPs of an exact computation have a time limit or none"):
        unrolled(mixed, jax_stack([teacher] * 2), "bootstrap")
    with pytest.raises(ValueError, match="too many for an exact expected update"):
        unrolled(mdp.with_time_limit(2**30), teacher, "bootstrap")
    with pytest.raises(ValueError, match="truncation must be 'bootstrap' or 'end'"):
        expected_update(mdp, teacher, "baseline", np.zeros((2, 2)), truncation="terminate")
