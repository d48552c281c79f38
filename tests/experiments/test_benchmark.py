"""The benchmark: its two baselines train the same students as the engine, and it measures what it reports."""

import dataclasses
import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark, common
from experiments.baselines import (
    BASELINE_ESTIMATORS,
    Problem,
    Trained,
    clock,
    engine,
    padded_scan,
    pages,
    problems,
    scalar_loop,
    ticks,
)
from jaxdistill import MDP, METHODS, Config, Teacher, methods, stack
from jaxdistill.engine.rules import StudentRule
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.training.config import resolve_cell
from tests import reference, small

ROOT = Path(__file__).resolve().parents[2]
NEEDS_NUMBA = pytest.mark.skipif(not scalar_loop.available(), reason="numba is an extra: pip install -e '.[benchmark]'")
RATES = {"learning_rate": 0.4, "value_learning_rate": 0.2, "discount": 0.9}


# --- A world and a control policy without chance: the tables of the scalar reference ----------------------------

NUM_ITERATIONS = 7
ALL_PAIRS = [(name, e) for name in METHODS for e in BASELINE_ESTIMATORS if METHODS[name].estimator in (None, e)]
FEW_PAIRS = [  # each is a program of the padded scan
    ("on_policy_distill_r_vcond", "td"), ("n_distill", "mc"),
]  # fmt: skip


@pytest.fixture(scope="module")
def certain():
    """Six states in a row, two to an observation; the teacher walks to the end, and its students with it."""
    rng, states = np.random.default_rng(0), np.arange(6)
    never = np.zeros(6, bool)
    mdp = MDP.from_arrays(
        np.stack([np.minimum(states + 1, 5), states, 0 * states], axis=1),
        np.round(rng.normal(size=(6, 3)), 1),
        np.stack([states == 5, never, never], axis=1),
        np.eye(3)[[0, 1, 2, 2]],  # four actions, as in the other worlds, so that the scalar loop compiles once
        observation=states // 2,
    )
    probs = jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (6, 1))
    return mdp, dataclasses.replace(small.random_teacher(mdp, 1), probs=probs)


def reference_tables(mdp, teacher, name, estimator):
    """Logits and values [O, A + 1] after `NUM_ITERATIONS` episodes of the teacher, by the scalar reference."""
    world = reference.World.of(mdp)
    tables = reference.Teacher(np.asarray(teacher.probs).tolist(), np.asarray(teacher.values).tolist())
    settings = reference.Settings(name, estimator, **RATES)
    params = np.zeros((mdp.num_observations, mdp.num_actions + 1))
    for _ in range(NUM_ITERATIONS):
        episode = reference.play_episode(world, tables.probs, np.random.default_rng(0))
        assert len(episode) == 6
        policy = [reference.softmax(row) for row in params[:, :-1].tolist()]
        update = reference.episode_update(world, tables, settings, policy, params[:, -1].tolist(), episode)
        for o, slopes in update.logits.items():
            params[o, :-1] -= settings.learning_rate * np.array(slopes)
        if METHODS[name].has_return:
            for o, change in update.values.items():
                params[o, -1] += settings.value_learning_rate * change
    return params


@pytest.mark.parametrize(
    ("train", "pairs"),
    [
        pytest.param(functools.partial(padded_scan.train, horizon=9), FEW_PAIRS, id="padded_scan"),
        pytest.param(scalar_loop.train, ALL_PAIRS, id="scalar_loop", marks=NEEDS_NUMBA),
    ],
)
def test_without_chance_a_baseline_has_the_tables_of_the_reference(certain, train, pairs):
    """Aliased observations, a revisit in every step, large rates: float32 against float64, to 1e-5."""
    mdp, teacher = certain
    cells = tuple(
        resolve_cell(f"{name}/{e}", dataclasses.replace(METHODS[name], control=methods.TEACHER), teacher[None],
                 Config(estimator=e, **RATES))
        for name, e in pairs
    )  # fmt: skip
    trained = train(Problem(stack([mdp]), cells, NUM_ITERATIONS))
    assert trained.steps == 6 * NUM_ITERATIONS * len(pairs)
    for (name, e), params, total in zip(pairs, trained.params[:, 0], trained.returns[:, 0], strict=True):
        expected = reference_tables(mdp, teacher, name, e)
        assert np.abs(expected).max() > 0.1 or name == "entropy_regularised"  # its reward is log 1
        np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-5, err_msg=f"{name} {e}")
        np.testing.assert_allclose(total, np.asarray(mdp.reward)[:, 0].sum(), rtol=1e-5)


# --- Random worlds: the same learning as the engine's -----------------------------------------------------------

COMPARED = ("baseline/td", "on_policy_distill_r_vcond/td", "entropy_regularised/mc")


@pytest.fixture(scope="module")
def compared() -> tuple[Problem, Trained]:
    """120 random worlds with terminals, aliased states and two start states, and the engine's result of 50 episodes.

    Ten of the 160 rows of a table are observed; the others make tables larger than anything else in a block.
    """
    rng, num_worlds, states = np.random.default_rng(0), 120, np.arange(20)
    shape = (num_worlds, len(states), 3)
    successor = rng.integers(len(states), size=shape)
    successor[..., -1] = states  # stay
    mdps = MDP.from_arrays(
        successor,
        np.round(rng.normal(1.0, 1.0, shape), 1),
        rng.random(shape) < 0.1,
        rng.dirichlet(np.ones(3), (num_worlds, 4)),
        continue_prob=0.85,
        start=[0, 1],
        start_probs=rng.dirichlet(np.ones(2), num_worlds),
        observation=states // 2 * 16,
        num_observations=160,
    )
    probs, values = rng.dirichlet(np.ones(4), (num_worlds, len(states))), rng.normal(size=shape[:2])
    teacher = Teacher(probs=jnp.asarray(probs), values=jnp.asarray(values), scores=jnp.asarray(probs))
    pairs = [label.split("/") for label in COMPARED]
    cells = tuple(
        resolve_cell("/".join(pair), METHODS[pair[0]], teacher, Config(estimator=pair[1], num_checkpoints=1, **RATES))
        for pair in pairs
    )
    problem = Problem(mdps, cells, 50)
    return problem, engine.train(problem)


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(functools.partial(padded_scan.train, horizon=40), id="padded_scan"),
        pytest.param(scalar_loop.train, id="scalar_loop", marks=NEEDS_NUMBA),
    ],
)
def test_a_baseline_learns_what_the_engine_learns(compared, train):
    """Paired over 120 worlds: the means of an episode's return and length, of |logits| and of V differ by at most 4
    standard errors of the difference, which are about 2 % of each mean."""
    problem, by_engine = compared
    by_baseline = train(problem)
    for p, label in enumerate(COMPARED):
        pairs = {
            "return": (by_engine.returns[p], by_baseline.returns[p]),
            "length": (by_engine.lengths[p], by_baseline.lengths[p]),
            "|logits|": tuple(np.abs(x.params[p, :, :, :-1]).mean((1, 2)) for x in (by_engine, by_baseline)),
            "V": tuple(x.params[p, :, :, -1].mean(1) for x in (by_engine, by_baseline)),
        }
        for quantity, (engine_values, baseline_values) in pairs.items():
            difference = engine_values - baseline_values
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            message = f"{label}: {quantity} differs by {difference.mean():.3g}; standard error {error:.3g}"
            assert abs(difference.mean()) <= 4 * error + 1e-6, message
    assert by_baseline.steps == pytest.approx((by_baseline.lengths * problem.num_iterations).sum())


def test_the_engine_counts_the_ticks_that_advance_a_student(compared):
    _, trained = compared
    assert set(trained.used) == {"td", "mc"} and all(0 < share <= 1 for share in trained.used.values())


@NEEDS_NUMBA
def test_the_scalar_loop_refuses_other_methods():
    method = dataclasses.replace(METHODS["baseline"], name="my_method", reward=lambda step: step.reward)
    with pytest.raises(ValueError, match="my_method"):
        scalar_loop.codes(method, "td")


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(padded_scan.train, id="padded_scan"),
        pytest.param(scalar_loop.train, id="scalar_loop", marks=NEEDS_NUMBA),
    ],
)
def test_a_baseline_refuses_other_estimators(compared, train):
    problem, _ = compared
    config = dataclasses.replace(problem.cells[0].config, estimator="lambda")
    cells = (*problem.cells, dataclasses.replace(problem.cells[0], config=config))
    with pytest.raises(ValueError, match="has the estimators td and mc only; got 'lambda'"):
        train(dataclasses.replace(problem, cells=cells))


@NEEDS_NUMBA
def test_threads_change_no_number(compared):
    problem, _ = compared
    with_one, with_three = (scalar_loop.train(problem, num_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(with_one.params, with_three.params)
    assert with_one.steps == with_three.steps


# --- What is counted --------------------------------------------------------------------------------------------


def test_the_mix_is_that_of_fig8():
    mix = problems.Mix(34, 5, tuple(benchmark.Settings().methods), tuple(benchmark.Settings().columns))
    problem, cells = problems.fig8_mix(mix, 3)
    assert len(cells) == 34 and problem.num_students == 34
    assert {cell.config.estimator for cell in problem.cells} == {"mc", "td"}
    few, _ = problems.fig8_mix(mix._replace(num_students=10), 3)
    assert few.num_students == 10 and len({cell.label for cell in few.cells}) == 10


def test_turns_in_which_something_was_compiled_run_again():
    sizes = iter(range(1, 100))
    calls = []

    def compiles_in_its_second_call():
        calls.append(None)
        if len(calls) <= 2:
            jax.jit(lambda x: x + 1)(jnp.zeros(next(sizes)))
        return Trained(10, 2.0, *[np.empty(0)] * 3)

    measured = clock.in_turns({"a": compiles_in_its_second_call}, 3, "test")["a"]
    assert measured["seconds"] == [2.0] * 3 and measured["compiled_meanwhile"] == 0
    assert len(calls) == 1 + 3 + 1
    rates = clock.with_rates(measured, 4)
    assert rates["steps_per_second"] == {"min": 5.0, "median": 5.0, "max": 5.0}
    assert rates["updates_per_second"]["median"] == 2.0


def test_copies_of_tables_are_found():
    """A table that is read after it was written is copied, in the loop and nowhere else."""

    def body(i, x):
        return x.at[i].set(jnp.flip(x).sum() + x[i]) + jnp.roll(x, 1)[::-1].at[i].mul(2)

    text = "\n".join([
        "%body (arg: (f32[8])) -> (f32[8]) {",
        "  %copy.1 = f32[8,2]{1,0} copy(%x)",
        "  %copy.2 = f32[4]{0} copy(%y)",
        "}",
        "ENTRY %main (x: f32[8,2]) -> f32[8,2] {",
        "  %copy.3 = f32[8,2]{1,0} copy(%x)",
        "}",
    ])  # fmt: skip
    assert ticks.table_copies(text, [16]) == ["%copy.1 = f32[8,2]{1,0} copy(%x)"]
    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 5, body, x)).lower(jnp.zeros(4096)).compile().as_text()
    assert ticks.kernels(compiled) > 0


@pytest.fixture(scope="module")
def full(compared):
    """A full block of TD(1) students."""
    return ticks.full_block(compared[0], "td", ticks.usual_width(4))


@pytest.fixture(scope="module")
def programs(full):
    """The tick of the full block, with all its parts and without all but the last."""
    return ticks.variants(full, ["random", "rest"])


def test_no_table_is_copied_in_the_loop_of_the_engine(full, programs):
    text = programs["random"].text
    lanes = full.lanes
    tables = [lanes.tables.rows[0].size, lanes.tables.scales.size, full.teachers.size, full.worlds.arrivals.size]
    assert lanes.tables.rows[0].size > 10_000
    assert ticks.table_copies(text, tables) == []
    assert 0 < ticks.kernels(text) < 100


def test_parts_of_a_tick_add_up_and_leave_the_lanes_in_range(full, programs):
    before = np.asarray(full.lanes.state.count).copy()
    seconds = ticks.measure(full.lanes, programs, 200, 2)
    assert list(seconds) == ["random", "rest"] and all((times > 0).all() for times in seconds.values())
    shares = ticks.shares(seconds)
    assert sum(shares.values()) == pytest.approx(np.min(seconds["random"]))
    np.testing.assert_array_equal(full.lanes.state.count, before)  # it ran on copies


@pytest.mark.parametrize("estimator", BASELINE_ESTIMATORS)
def test_every_part_of_a_tick_is_taken_out(compared, estimator):
    """Without each part there are fewer operations. Without all of them the functions of the rule are not called, no
    table is read, and only the curves are written."""
    block = ticks.full_block(compared[0], estimator, ticks.usual_width(4), num_ticks=0)
    rule = dataclasses.replace(block.program.rule, next_rewards=(methods.teacher_log_prob,))
    block.program = dataclasses.replace(block.program, rule=rule)
    parts = ticks.parts_of(ESTIMATORS[estimator])
    texts = [ticks.lowered(block, parts[:i]).as_text() for i in range(len(parts) - 1)]
    names = ("reward", "next_reward", "state_value", "credit", "credit_more", "refresh", "weights")
    with mock.patch.multiple(StudentRule, **{name: mock.Mock(side_effect=AssertionError(name)) for name in names}):
        texts.append(ticks.lowered(block, parts[:-1]).as_text())
    free = ("constant", "broadcast_in_dim", "return")
    counts = [sum(name not in free for name in re.findall(r"stablehlo\.(\w+)", text)) for text in texts]
    for part, before, after in zip(parts, counts, counts[1:], strict=False):
        assert after < before, part
    reads, writes = (
        [len(re.findall(rf"stablehlo\.{name}\b", text)) for text in (texts[0], texts[-1])]
        for name in ("gather", "dynamic_update_slice")
    )
    assert reads[0] > 0 and reads[1] == 0
    assert writes[0] > 1 and writes[1] == 1


def test_a_mix_of_several_programs_fills_a_block():
    """Only students of one program share a block; a column without cells does not count."""
    mix = problems.Mix(1, 5, ("on_policy_distill", "n_distill", "td_v0"), ("mc", "td"))
    assert mix.num_cells == 5 and ticks.filling(mix, 8).num_students == 5 * 8
    assert ticks.filling(mix._replace(methods=("td_v0",)), 8).num_students == 8


def test_other_numbers_compile_nothing(compared):
    problem, _ = compared
    compilations = clock.Compilations()
    changes = {"learning_rate": 0.3, "discount": 0.5, "probability_floor": 0.2, "return_weight": 2.0}
    cells = tuple(dataclasses.replace(c, config=dataclasses.replace(c.config, **changes)) for c in problem.cells)
    engine.train(dataclasses.replace(problem, cells=cells, seed=5, num_iterations=60))
    assert compilations.count == 0


def test_peak_memory_is_that_of_this_process():
    before = clock.peak_memory()
    block = np.ones(2**26, np.uint8)
    assert block[-1] == 1 and 2**24 < clock.peak_memory() - before + 2**25 < 2**28


# --- The command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--only=speed", "width"),
        ("--repeats=0", "at least 1"),
        ("--widths=1,many", "many"),
        ("--methods=clone", "baseline"),
    ],
)
def test_bad_flags(flag, expected, capsys, tmp_path):
    settings = common.parse(benchmark.Settings, "benchmark", benchmark.SMOKE, ["b", f"--out={tmp_path}/new", flag])
    with pytest.raises(ValueError, match=expected):
        benchmark.work(settings)
    assert not list(tmp_path.glob("new/*"))


def numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [x for item in tree for x in numbers(item)]
    return [tree] if isinstance(tree, int | float) else []


@pytest.mark.slow
def test_smoke_writes_everything(tmp_path):
    line = [sys.executable, "-m", "experiments.benchmark", "--smoke", f"--out={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(saved["measured"]) == set(benchmark.PARTS)
    assert saved["versions"]["jax"] and saved["device"]["cores"] >= 1 and saved["command"][1:] == line[3:]
    assert np.isfinite(numbers(saved["measured"])).all()
    for start in pages.STARTS:
        for run in saved["measured"]["mix"][start].values():
            assert len(run["seconds"]) == benchmark.SMOKE["repeats"]
    assert saved["measured"]["compilation"]["warm"]["by_other_numbers"] == 0
    assert (tmp_path / "benchmark.png").stat().st_size > 20_000
    assert "left at the default scale" in done.stderr
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0 and "7 of them from" in again.stdout
