"""Measures of policies against enumeration of whole episodes, simulation, and each other."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill import measures
from jaxdistill.mdp import exact, straight_line
from jaxdistill.mdp.endings import reached_states
from jaxdistill.mdp.evaluation import Evaluator
from jaxdistill.worlds.corridor import chain
from jaxdistill.worlds.garnet import garnet
from tests import small

POLICIES = ("student", "teacher", "uniform")
NAMES = [
    *(f"{kind}:{policy}" for kind in ("return", "discounted_return", "length") for policy in POLICIES),
    *(f"{kind}:{policy}{end}" for kind in ("entropy", "forward_kl") for policy in POLICIES for end in ("", ":sum")),
    *(f"reverse_kl:{policy}{end}" for policy in POLICIES for end in ("", ":sum", ":floor", ":sum:floor=0.1")),
    *(f"agreement:{policy}" for policy in POLICIES),
    "discounted_return:discount=0.5", "sequence_forward_kl", "sequence_reverse_kl", "sequence_reverse_kl:floor=0.01",
]  # fmt: skip


def student_policy(mdp, seed=0):
    logits, _ = small.random_student(mdp, seed)
    return rows(np.exp(logits.astype(np.float64)))[np.asarray(mdp.observation)]


def rows(table):
    table = np.asarray(table, np.float64)
    return table / table.sum(-1, keepdims=True)


# --- Whole episodes of a tiny world ----------------------------------------------------------------------------------


def episodes(mdp, policy):
    """All episodes of a world with a time limit: (probability, [(state, action, reward) of each step])."""
    outcome_probs = np.broadcast_to(rows(mdp.outcome_probs), (mdp.num_states, mdp.num_actions, mdp.num_outcomes))
    limit, goes_on = int(mdp.time_limit), float(mdp.continue_prob)

    def from_state(state, steps):
        for action in range(mdp.num_actions):
            for outcome in range(mdp.num_outcomes):
                prob = policy[state, action] * outcome_probs[state, action, outcome]
                step = (state, action, float(mdp.reward[state, outcome]))
                is_last = bool(mdp.terminal[state, outcome]) or steps + 1 == limit
                ends = [(prob, [step])] if is_last else [(prob * (1 - goes_on), [step])]
                yield from ends
                if not is_last:
                    for later_prob, later in from_state(int(mdp.successor[state, outcome]), steps + 1):
                        yield prob * goes_on * later_prob, [step, *later]

    for start, start_prob in zip(np.asarray(mdp.start), rows(mdp.start_probs), strict=True):
        for prob, steps in from_state(int(start), 0):
            yield start_prob * prob, steps


@pytest.fixture(scope="module")
def tiny():
    """A world of three states with aliased observations, two starts and episodes of at most three steps."""
    mdp = small.random_mdp(3, num_states=3, num_actions=2, num_outcomes=2, aliased=True, by_state=True, starts=2)
    return mdp.with_time_limit(3), small.random_teacher(mdp, 3)


def log_prob(policy, steps):
    return sum(np.log(policy[state, action]) for state, action, _ in steps)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_of_whole_episodes_is_a_sum_over_their_steps(tiny, direction):
    """The chain rule: the KL divergence of the distributions of whole episodes, by enumeration of all of them."""
    mdp, teacher = tiny
    student, pi = student_policy(mdp), rows(teacher.probs)
    first, second = (pi, student) if direction == "forward" else (student, pi)
    all_episodes = list(episodes(mdp, first))
    assert len(all_episodes) > 100
    np.testing.assert_allclose(sum(prob for prob, _ in all_episodes), 1, rtol=1e-12)
    expected = sum(prob * (log_prob(first, steps) - log_prob(second, steps)) for prob, steps in all_episodes)
    policy = "teacher" if direction == "forward" else "student"
    names = [f"sequence_{direction}_kl", f"{direction}_kl:{policy}:sum"]
    values = measures.evaluate(names, mdp, student, teacher)
    np.testing.assert_allclose(list(values.values()), expected, rtol=1e-9)


def terms_of_step(name, student, pi, floor):
    """f(s) of a measure, written out."""
    kind = name.split(":")[0].removeprefix("sequence_")
    if kind == "entropy":
        return -(student * np.log(student)).sum(-1)
    if kind == "forward_kl":
        return (pi * np.log(pi / student)).sum(-1)
    if kind == "reverse_kl":
        return (student * np.log(student / np.maximum(pi, floor))).sum(-1)
    assert kind == "agreement"
    return (student.argmax(-1) == pi.argmax(-1)).astype(float)


def test_every_measure_is_that_of_all_episodes(tiny):
    """Sums and means over the steps of all episodes of a tiny world, weighted by their probabilities."""
    mdp, teacher = tiny
    student, pi = student_policy(mdp), rows(teacher.probs)
    policies = dict(zip(POLICIES, (student, pi, np.full_like(pi, 0.5)), strict=True))
    by_policy = {name: list(episodes(mdp, policy)) for name, policy in policies.items()}
    values = measures.evaluate(NAMES, mdp, student, teacher, discount=0.9, probability_floor=0.2)
    for name, value in zip(NAMES, values.values(), strict=True):
        kind, *options = name.split(":")
        policy = ([o for o in options if o in POLICIES] or ["teacher" if kind == "sequence_forward_kl" else "student"])[
            0
        ]
        floor = 0.2 if "floor" in options else next((float(o[6:]) for o in options if o.startswith("floor=")), 0)
        discount = {"return": 1.0, "discounted_return": 0.5 if "discount=0.5" in options else 0.9}.get(kind)
        total = 0.0
        length = sum(prob * len(steps) for prob, steps in by_policy[policy])
        for prob, steps in by_policy[policy]:
            if discount is not None:
                total += prob * sum(discount**t * reward for t, (*_, reward) in enumerate(steps))
            elif kind == "length":
                total += prob * len(steps)
            else:
                total += prob * sum(terms_of_step(name, student, pi, floor)[state] for state, *_ in steps)
        is_mean = kind in ("entropy", "forward_kl", "reverse_kl", "agreement") and "sum" not in options
        np.testing.assert_allclose(value, total / length if is_mean else total, rtol=1e-7, atol=1e-12, err_msg=name)


# --- Simulation ------------------------------------------------------------------------------------------------------


def simulated(mdp, policy, terms, num_episodes, rng):
    """Sums of `terms` [F, S] over the steps, the length and the return of episodes, [num_episodes, F + 2]."""
    outcome_probs = np.broadcast_to(rows(mdp.outcome_probs), (mdp.num_states, mdp.num_actions, mdp.num_outcomes))
    weights = np.einsum("sa,sak->sk", policy, outcome_probs).cumsum(-1)
    successor, reward, terminal = (np.asarray(getattr(mdp, name)) for name in ("successor", "reward", "terminal"))
    state = rng.choice(np.asarray(mdp.start), num_episodes, p=rows(mdp.start_probs))
    sums, is_running = np.zeros((num_episodes, len(terms) + 2)), np.ones(num_episodes, bool)
    for _ in range(int(mdp.time_limit) if mdp.has_time_limit else 1000):
        outcome = np.minimum((rng.random(num_episodes)[:, None] > weights[state]).sum(1), mdp.num_outcomes - 1)
        step = np.concatenate([terms[:, state], np.ones((1, num_episodes)), reward[state, outcome][None]])
        sums += np.where(is_running, step, 0).T
        is_running &= ~terminal[state, outcome] & (rng.random(num_episodes) < float(mdp.continue_prob))
        state = successor[state, outcome]
        if not is_running.any():
            break
    return sums


@pytest.mark.parametrize("limit", [None, 4])
def test_measures_against_simulation(limit):
    """Within 4 standard errors of 40,000 episodes (seed 0), in a world with two starts and aliased observations."""
    mdp = small.random_mdp(7, num_states=6, aliased=True, starts=2).with_time_limit(limit)
    teacher = small.random_teacher(mdp, 7)
    student, pi = student_policy(mdp), rows(teacher.probs)
    kinds = ["entropy", "agreement", "forward_kl", "reverse_kl"]
    terms = np.stack([terms_of_step(kind, student, pi, 0) for kind in kinds])
    names = [f"{kind}:{policy}{'' if kind == 'agreement' else ':sum'}" for policy in POLICIES for kind in kinds]
    ends = [f"{kind}:{policy}" for policy in POLICIES for kind in ("length", "return")]
    values = measures.evaluate([*names, *ends], mdp, student, teacher)
    of_steps, of_episodes = np.array([*values.values()])[:12].reshape(3, 4), np.array([*values.values()])[12:]
    of_episodes = of_episodes.reshape(3, 2)
    of_steps[:, 1] *= of_episodes[:, 0]  # the agreement is a mean over steps
    for i, policy in enumerate((student, pi, np.full_like(pi, 1 / mdp.num_actions))):
        sums = simulated(mdp, policy, terms, 40_000, np.random.default_rng(0))
        error = sums.std(0) / np.sqrt(len(sums))
        got = np.concatenate([of_steps[i], of_episodes[i]])
        assert (np.abs(got - sums.mean(0)) < 4 * error).all()


# --- What is infinite, equal or empty --------------------------------------------------------------------------------


def test_the_reverse_divergence_to_a_deterministic_teacher_is_infinite_without_a_floor():
    mdp = small.random_mdp(5)
    teacher = small.random_teacher(mdp, 5, deterministic_rows=mdp.num_states)
    student = student_policy(mdp)
    names = [f"reverse_kl:{policy}" for policy in POLICIES] + ["sequence_reverse_kl", "sequence_reverse_kl:floor=0.001"]
    values = measures.evaluate(names, mdp, student, teacher)
    assert [np.isinf(value) for value in values.values()] == [True] * 4 + [False]
    same = measures.evaluate(["reverse_kl", "forward_kl"], mdp, teacher.probs, teacher)
    assert [*same.values()] == [0, 0]


def test_infinite_terms_count_where_the_acting_policy_goes_and_nowhere_else():
    """Of three states in a row, the last is not visited by a policy that stays before it, nor within a short limit."""
    mdp = jd.MDP.from_arrays(
        [[0, 1], [1, 2], [2, 2]], np.zeros((3, 2)), np.zeros((3, 2), bool), np.eye(2), continue_prob=0.9
    )
    goes, stays = np.tile([0.5, 0.5], (3, 1)), np.array([[0.5, 0.5], [1, 0], [0.5, 0.5]])
    teacher = jd.teachers.from_table(mdp, np.array([[0.5, 0.5], [0.5, 0.5], [1, 0]]))
    assert np.isinf(measures.evaluate("reverse_kl", mdp, goes, teacher)["reverse_kl:student"])
    assert np.isfinite(measures.evaluate("reverse_kl", mdp, stays, teacher)["reverse_kl:student"])
    assert np.isinf(measures.evaluate("reverse_kl", mdp.with_time_limit(3), goes, teacher)["reverse_kl:student"])
    assert np.isfinite(measures.evaluate("reverse_kl", mdp.with_time_limit(2), goes, teacher)["reverse_kl:student"])


def test_ties_of_the_student_agree_in_shares():
    mdp = small.random_mdp(1, num_actions=4)
    teacher = jd.teachers.from_table(mdp, np.tile([0.5, 0.5, 0, 0], (mdp.num_states, 1)))
    students = {0.5: [0.25, 0.25, 0.25, 0.25], 1.0: [0.4, 0.4, 0.1, 0.1], 0.0: [0.1, 0.1, 0.1, 0.7]}
    for expected, row in students.items():
        policy = np.tile(row, (mdp.num_states, 1))
        got = measures.evaluate("agreement", mdp, policy, teacher)["agreement:student"]
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_mean_over_steps_of_endless_episodes_is_nan():
    mdp = jd.MDP.from_arrays([[0, 0]], [[0.0, 1.0]], [[False, False]], np.eye(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        values = measures.evaluate(["entropy", "entropy:sum", "length", "return"], mdp, np.array([[0.5, 0.5]]))
    assert np.isnan(values["entropy:student"]) and np.isinf(values["entropy:student:sum"])
    assert np.isinf(values["length"]) and np.isnan(values["return"])


# --- All measures in all kinds of worlds ------------------------------------------------------------------------------


def worlds():
    grids = jd.sample_mdps(jax.random.key(0), 2, num_rows=5, num_cols=5)
    random_mdps = jd.stack([small.random_mdp(seed, num_states=6, aliased=True, starts=2) for seed in (1, 2)])
    long_episodes = garnet(jax.random.key(1), 2, num_states=8, termination_prob=1e-4)
    return {
        "grid": grids,
        "grid with a limit": grids.with_time_limit(7),
        "corridor": jd.stack([chain(6), dataclasses.replace(chain(6), id=jnp.int32(1))]),
        "garnet": garnet(jax.random.key(0), 2, num_states=10),
        "garnet with long episodes": long_episodes,
        "aliased": random_mdps,
        "aliased with limits": random_mdps.with_time_limit([1, 9]),
    }


@pytest.mark.parametrize("kind", list(worlds()))
def test_all_measures_are_finite_and_consistent_in_all_kinds_of_worlds(kind):
    mdps = worlds()[kind]
    rng = np.random.default_rng(0)
    shape = (mdps.num_mdps, mdps.num_states, mdps.num_actions)
    teacher = jd.teachers.from_table(mdps, rng.dirichlet(np.ones(shape[-1]), shape[:-1]))
    logits = rng.normal(size=(mdps.num_mdps, mdps.num_observations, shape[-1])).astype(np.float32)
    policies = exact.policy_from_table(mdps, np.asarray(jax.nn.softmax(jnp.asarray(logits))))
    values = measures.evaluate(NAMES, mdps, policies, teacher)
    assert all(np.isfinite(value).all() for value in values.values()), kind
    for name, value in values.items():
        if "kl" in name or "entropy" in name:
            assert (value >= 0).all() or "floor" in name, name
        elif "agreement" in name:
            assert ((value >= 0) & (value <= 1)).all()
    for policy in POLICIES:
        lengths = values["length" if policy == "student" else f"length:{policy}"]
        for name in ("entropy", "forward_kl", "reverse_kl"):
            np.testing.assert_allclose(values[f"{name}:{policy}:sum"], lengths * values[f"{name}:{policy}"], rtol=1e-8)
    np.testing.assert_allclose(values["sequence_forward_kl"], values["forward_kl:teacher:sum"], rtol=1e-12)
    np.testing.assert_allclose(values["return"], exact.episode_return(mdps, policies), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(values["return:teacher"], exact.episode_return(mdps, teacher.probs), rtol=1e-12)


# --- The planned elimination -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid", "garnet", "garnet with long episodes", "aliased", "corridor"])
def test_planned_and_general_results_agree(kind):
    """To nine digits, also for students with nearly deterministic policies, and in a batch of unequal groups."""
    mdps, rng = worlds()[kind], np.random.default_rng(1)
    teacher = jd.teachers.from_table(mdps, rng.dirichlet(np.ones(mdps.num_actions), (2, mdps.num_states)))
    names = ["return", "length", "forward_kl", "entropy:teacher", "discounted_return", "sequence_reverse_kl"]
    parsed = [measures.parse(name) for name in names]
    world = np.array([0] * 11 + [1] * 3)
    scale = rng.choice([0.1, 3, 30], size=(14, 1, 1))
    logits = (scale * rng.normal(size=(14, mdps.num_observations, mdps.num_actions))).astype(np.float32)
    cells, numbers = np.zeros(14, int), (np.array([0.9, 0.7]), 1e-6)
    planned = Evaluator(mdps, [teacher], parsed, *numbers, planned=[True])
    general = Evaluator(mdps, [teacher], parsed, *numbers)
    assert planned.planned.all() and not general.planned.any()
    got, expected = planned(cells, world, logits), general(cells, world, logits)
    np.testing.assert_allclose(got, expected, rtol=2e-9, atol=1e-9)
    alone = np.stack([planned(cells[:1], world[i : i + 1], logits[i : i + 1])[0] for i in (3, 12)])
    np.testing.assert_array_equal(alone, got[[3, 12]])  # the same bits, whatever is computed beside it


def test_the_students_of_a_grid_do_not_need_the_general_method(monkeypatch):
    """All are solved by the elimination, which would otherwise be of no use."""
    mdps, rng = worlds()["grid"], np.random.default_rng(3)
    logits = rng.choice([0.1, 3, 30], size=(8, 1, 1)) * rng.normal(size=(8, mdps.num_observations, 4))
    planned = Evaluator(mdps, [None], [measures.parse("length")], planned=[True])
    monkeypatch.setattr(planned, "of_policies", None)
    got = planned(np.zeros(8, int), np.zeros(8, int), logits.astype(np.float32))[:, 0]
    for row, length in zip(logits.astype(np.float32).astype(np.float64), got, strict=True):
        weights = np.exp(row - row.max(-1, keepdims=True))
        policy = rows(weights)[np.asarray(mdps.observation[0])]
        np.testing.assert_allclose(length, exact.occupancy(mdps[0], policy).sum(), rtol=1e-9)


def test_a_wrong_elimination_is_noticed():
    """Its residual is too large, so that the general method is used in its place."""
    mdps = worlds()["grid"]
    parsed, cells, numbers = [measures.parse("entropy")], np.zeros(8, int), (0.99, 0.0)
    logits = np.random.default_rng(2).normal(size=(8, mdps.num_observations, 4)).astype(np.float32)
    right = Evaluator(mdps, [None], parsed, *numbers, planned=[True])
    expected = right(cells, cells, logits)
    wrong = Evaluator(mdps, [None], parsed, *numbers, planned=[True])
    plan = right._plans[0]
    wrong._plans[0] = plan._replace(stages=plan.stages[: len(plan.stages) // 2])
    np.testing.assert_allclose(wrong(cells, cells, logits), expected, rtol=1e-9)


def test_an_elimination_that_does_not_pay_is_not_planned():
    mdp = worlds()["garnet"][0]
    reached = reached_states(mdp)
    assert straight_line.plan(mdp, reached, 10**6) is not None
    assert straight_line.plan(mdp, reached, 10) is None


# --- Names -----------------------------------------------------------------------------------------------------------


def test_every_name_is_read_back():
    for name in NAMES:
        assert measures.parse(measures.parse(name).name) == measures.parse(name)
    for kind, definition in measures.MEASURES.items():
        measure = measures.parse(kind)
        assert measure.kind == kind and measure.title and measure.unit and measure.better == definition.better
    assert measures.parse("reverse_kl:sum:floor=0.1:teacher").name == "reverse_kl:teacher:sum:floor=0.1"
    configured = measures.parse("reverse_kl:floor").with_configured(0.9, 1e-3)
    assert configured.name == "reverse_kl:student:floor=0.001"
    assert configured.is_named_by(measures.parse("reverse_kl:floor"))
    assert not configured.is_named_by(measures.parse("reverse_kl"))
    assert measures.parse("reverse_kl:floor").with_configured(0.9, np.ones(2)).name == "reverse_kl:student:floor"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forwrd_kl", "did you mean 'forward_kl'"),
        ("forward_kl:techer", "did you mean 'teacher'"),
        ("forward_kl:floor", "no option 'floor'"),
        ("forward_kl:student:teacher", "gives trajectories twice"),
        ("reverse_kl:floor=2", r"in \[0, 1\]"),
        ("reverse_kl:floor=x", "floor"),
        ("forward_kl:sum=3", "takes no number"),
        ("sequence_forward_kl:student", "no option 'student'"),
        ("", "Unknown measure ''"),
        (3, "Unknown measure 3"),
        (None, "Unknown measure None"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        measures.parse(name)
    assert "\n" not in str(error.value)


def test_evaluate_refuses_what_does_not_fit():
    mdp = small.random_mdp(1)
    policy, teacher = student_policy(mdp), small.random_teacher(mdp, 1)
    for arguments, message in (
        (("forward_kl", mdp, policy), "needs a teacher"),
        (("forward_kl", mdp, policy[:2], teacher), "policies must be distributions"),
        (("return", mdp, policy * 2), "policies must be distributions"),
        (("forward_kl", mdp, policy, small.random_teacher(small.random_mdp(1, num_states=5), 1)), "do not fit"),
        (("forward_kl:teachr", mdp, policy, teacher), "did you mean 'teacher'"),
    ):
        with pytest.raises(ValueError, match=message):
            measures.evaluate(*arguments)
