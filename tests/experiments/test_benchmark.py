"""The benchmark: its two baselines train the same students as the engine, and what it counts is what it says."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark, common
from experiments.baselines import Problem, Trained, clock, engine, padded_scan, pages, problems, scalar_loop, ticks
from jaxdistill import MDP, METHODS, Config, methods, sample_mdps, stack, teachers
from jaxdistill.training.config import resolve_cell
from tests import reference, small

ROOT = Path(__file__).resolve().parents[2]
NEEDS_NUMBA = pytest.mark.skipif(not scalar_loop.available(), reason="numba is an extra: pip install -e '.[benchmark]'")
RATES = {"learning_rate": 0.4, "value_learning_rate": 0.2, "discount": 0.9}


# --- A world and a control policy without chance: the tables of the scalar reference ----------------------------

NUM_ITERATIONS = 7
ALL_PAIRS = [(name, e) for name in METHODS for e in ("td", "mc") if METHODS[name].estimator in (None, e)]
FEW_PAIRS = [  # each is a program of the padded scan
    ("on_policy_distill_r_vcond", "td"), ("n_distill", "mc"),
]  # fmt: skip


@functools.cache
def certain():
    """Six states in a row, two to an observation; the teacher walks to the end, and so does whom it controls."""
    rng, states = np.random.default_rng(0), np.arange(6)
    never = np.zeros(6, bool)
    mdp = MDP.from_arrays(
        np.stack([np.minimum(states + 1, 5), states, 0 * states], axis=1),
        np.round(rng.normal(size=(6, 3)), 1),
        np.stack([states == 5, never, never], axis=1),
        np.eye(3),
        observation=states // 2,
    )
    probs = jnp.tile(jnp.array([1.0, 0.0, 0.0]), (6, 1))
    return mdp, dataclasses.replace(small.random_teacher(mdp, 1), probs=probs)


def of_the_reference(mdp, teacher, name, estimator):
    """Logits and values [O, A + 1] after `NUM_ITERATIONS` episodes of the teacher."""
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
def test_without_chance_a_baseline_has_the_tables_of_the_reference(train, pairs):
    """Aliased observations, a revisit in every step, large rates: float32 against float64, to 1e-5."""
    mdp, teacher = certain()
    cells = tuple(
        resolve_cell(f"{name}/{e}", dataclasses.replace(METHODS[name], control=methods.TEACHER), teacher[None],
                 Config(estimator=e, **RATES))
        for name, e in pairs
    )  # fmt: skip
    trained = train(Problem(stack([mdp]), cells, NUM_ITERATIONS))
    assert trained.steps == 6 * NUM_ITERATIONS * len(pairs)
    for (name, e), params, total in zip(pairs, trained.params[:, 0], trained.returns[:, 0], strict=True):
        expected = of_the_reference(mdp, teacher, name, e)
        assert np.abs(expected).max() > 0.1 or name == "entropy_regularised"  # its reward is log 1
        np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-5, err_msg=f"{name} {e}")
        np.testing.assert_allclose(total, np.asarray(mdp.reward)[:, 0].sum(), rtol=1e-5)


# --- Sampled worlds: the same learning as the engine's ----------------------------------------------------------

COMPARED = ("baseline/td", "on_policy_distill_r_vcond/td", "entropy_regularised/mc")


@functools.cache
def sampled() -> tuple[Problem, Trained]:
    """120 worlds of 4 x 5 with terminals, walls and slips, and what the engine makes of them in 50 episodes."""
    mdps = sample_mdps(jax.random.key(0), 120, num_rows=4, num_cols=5, p_plus10=0.1, termination_prob=0.15)
    teacher = teachers.with_noise(jax.random.key(1), mdps, teachers.optimal(mdps), 0.3)
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
        pytest.param(functools.partial(padded_scan.train, horizon=60), id="padded_scan"),
        pytest.param(scalar_loop.train, id="scalar_loop", marks=NEEDS_NUMBA),
    ],
)
def test_a_baseline_learns_what_the_engine_learns(train):
    """Paired over 120 worlds: return and length of an episode, and the mean of |logits| and of V, within 4 standard
    errors of the mean difference; those are about 0.03 in the return, of a mean of 3 to 6."""
    problem, ours = sampled()
    theirs = train(problem)
    for p, label in enumerate(COMPARED):
        pairs = {
            "return": (ours.returns[p], theirs.returns[p]),
            "length": (ours.lengths[p], theirs.lengths[p]),
            "|logits|": tuple(np.abs(x.params[p, :, :, :-1]).mean((1, 2)) for x in (ours, theirs)),
            "V": tuple(x.params[p, :, :, -1].mean(1) for x in (ours, theirs)),
        }
        for what, (a, b) in pairs.items():
            difference = a - b
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            assert abs(difference.mean()) <= 4 * error + 1e-6, f"{label}: {what} off by {difference.mean() / error:.1f}"
    assert theirs.steps == pytest.approx((theirs.lengths * problem.num_iterations).sum())


@NEEDS_NUMBA
def test_the_scalar_loop_refuses_what_it_does_not_know():
    other = dataclasses.replace(METHODS["baseline"], name="mine", reward=lambda step: step.reward)
    with pytest.raises(ValueError, match="mine"):
        scalar_loop.codes(other, "td")


@NEEDS_NUMBA
def test_threads_change_no_number():
    problem, _ = sampled()
    one, two = (scalar_loop.train(problem, num_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.params, two.params)
    assert one.steps == two.steps


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

    found = clock.in_turns({"a": compiles_in_its_second_call}, 3, "test")["a"]
    assert found["seconds"] == [2.0] * 3 and found["compiled_meanwhile"] == 0
    assert len(calls) == 1 + 3 + 1
    rates = clock.with_rates(found, 4)
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
def full():
    """A full block of TD(1) students."""
    mix = problems.Mix(1, 15, ("baseline", "on_policy_distill"), ("td",))
    problem, _ = problems.fig8_mix(ticks.filling(mix, 8), 1)
    return ticks.full_block(problem, estimator="td", num_lanes=8)


def test_no_table_is_copied_in_the_loop_of_the_engine(full):
    text = ticks.variant(full, []).text
    lanes = full.lanes
    tables = [lanes.tables.rows[0].size, lanes.tables.scales.size, full.teachers.size, full.worlds.arrivals.size]
    assert lanes.tables.rows[0].size > 10_000
    assert ticks.table_copies(text, tables) == []
    assert 0 < ticks.kernels(text) < 100


def test_parts_of_a_tick_add_up_and_leave_the_lanes_in_range(full):
    before = np.asarray(full.lanes.state.count).copy()
    seconds = ticks.measure(full, 200, ["random", "rest"], 2)
    assert list(seconds) == ["random", "rest"] and all((one > 0).all() for one in seconds.values())
    shares = ticks.shares(seconds)
    assert sum(shares.values()) == pytest.approx(np.min(seconds["random"]))
    np.testing.assert_array_equal(full.lanes.state.count, before)  # it ran on copies


def test_other_numbers_compile_nothing():
    mix = problems.Mix(16, 5, ("baseline", "on_policy_distill"), ("td",))
    problem, _ = problems.fig8_mix(mix, 120)
    engine.train(problem)
    compilations = clock.Compilations()
    changes = {"learning_rate": 0.3, "discount": 0.5, "probability_floor": 0.2, "return_weight": 2.0}
    cells = tuple(dataclasses.replace(c, config=dataclasses.replace(c.config, **changes)) for c in problem.cells)
    engine.train(dataclasses.replace(problem, cells=cells, seed=5, num_iterations=150))
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
    settings = common.parse(benchmark.Settings, "benchmark", benchmark.SMOKE, ["b", f"--outdir={tmp_path}/new", flag])
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
    line = [sys.executable, "-m", "experiments.benchmark", "--smoke", f"--outdir={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(saved["measured"]) == set(benchmark.PARTS)
    assert saved["versions"]["jax"] and saved["device"]["cores"] >= 1 and saved["command"][1:] == line[3:]
    assert np.isfinite(numbers(saved["measured"])).all()
    for start in pages.STARTS:
        for one in saved["measured"]["mix"][start].values():
            assert len(one["seconds"]) == benchmark.SMOKE["repeats"]
    assert saved["measured"]["compilation"]["warm"]["by_other_numbers"] == 0
    assert (tmp_path / "benchmark.png").stat().st_size > 20_000
    assert "left at the default scale" in done.stderr
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0 and "7 of them from" in again.stdout
