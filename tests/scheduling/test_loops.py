"""Training in kernels, which the system's C compiler makes here: the same promises as those of XLA's loop."""

import sys
import types

import jax
import numpy as np
import optax
import pytest

import jaxdistill
from jaxdistill import Cell, teachers
from jaxdistill.kernels import choice, launch, translation
from jaxdistill.kernels.native import NativeToolchain
from jaxdistill.runtime import checkpoints
from jaxdistill.scheduling import block, chunks, group, loops
from jaxdistill.training.config import config_of, resolve_cell
from jaxdistill.training.tasks import make_tasks
from tests.lockstep import lockstep

METHODS = ["on_policy_distill_r", "teacher_distill", "n_distill"]
ARRAYS = ("returns", "lengths", "final_returns", "logits", "values", "teacher_returns")
pytestmark = pytest.mark.usefixtures("compiler")


@pytest.fixture(scope="module")
def problem():
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 10, num_rows=5, num_cols=5, p_plus10=0.1)
    return mdps, teachers.optimal(mdps)


def train(problem, methods=METHODS, lanes=64, **options):
    options = dict(num_iterations=120, num_checkpoints=4, estimator="td") | options
    with choice.on_cpu(NativeToolchain(lanes)):
        return jaxdistill.train(jax.random.key(1), *problem, methods, **options)


@pytest.fixture(scope="module", params=["td", "mc"])
def whole(problem, request, compiler):
    """A training in kernels, and its estimator."""
    return train(problem, estimator=request.param), request.param


def assert_same(ours, theirs):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    assert ours.settings["steps"] == theirs.settings["steps"]


def test_the_loop_is_in_the_settings(problem, whole):
    result, estimator = whole
    kernel = {"estimator": estimator, "loop": "kernel", "toolchain": "C on the processor"}
    assert result.settings["loops"] == [kernel]
    assert "cc" in result.settings["surroundings"]["kernels"]
    usual = jaxdistill.train(jax.random.key(1), *problem, "baseline", num_iterations=5, num_checkpoints=1)
    assert usual.settings["loops"] == [{"estimator": "td", "loop": "XLA"}]
    assert usual.settings["surroundings"]["kernels"] == ""


@pytest.mark.parametrize("lanes", [1, 7])
def test_the_number_of_lanes_changes_nothing(problem, whole, lanes):
    result, estimator = whole
    assert_same(train(problem, estimator=estimator, lanes=lanes), result)


@pytest.mark.parametrize("num_ticks", [1, 50])
def test_the_size_of_chunks_changes_nothing(problem, whole, num_ticks, monkeypatch):
    _, estimator = whole
    few = dict(methods=METHODS[:1], num_iterations=20)
    expected = train(problem, estimator=estimator, **few)
    monkeypatch.setattr(chunks, "_MOST", num_ticks)
    monkeypatch.setattr(chunks, "_FEWEST", num_ticks)
    monkeypatch.setattr(chunks, "_FIRST", num_ticks)
    assert_same(train(problem, estimator=estimator, **few), expected)


def test_company_changes_nothing(problem, whole):
    result, estimator = whole
    alone = train(problem, ["teacher_distill"], estimator=estimator)
    np.testing.assert_array_equal(alone.logits[0], result.logits[result.method_index("teacher_distill")])


def test_a_small_ring_changes_nothing(problem, whole, monkeypatch):
    """Lanes that stop before they overwrite scales settle their rows by the same arithmetic."""
    result, estimator = whole
    monkeypatch.setattr(loops, "RINGS", (8,))
    assert_same(train(problem, estimator=estimator), result)


class Stopped(Exception):
    """Stands for Ctrl-C in the middle of a training."""


def stop_after(fraction):
    def hook(done, steps, seconds):
        if done > fraction:
            raise Stopped

    return hook


def stop(problem, folder, fraction, **options):
    with pytest.raises(Stopped), lockstep(), checkpoints.resumable(folder, seconds=1e-9):
        train(problem, on_chunk=stop_after(fraction), **options)


def test_a_stopped_training_goes_on_with_the_same_bits(problem, whole, tmp_path, capsys):
    result, estimator = whole
    for fraction in (0.1, 0.5):
        stop(problem, tmp_path / "run", fraction, estimator=estimator, lanes=16)
    with checkpoints.resumable(tmp_path / "run"):
        assert_same(train(problem, estimator=estimator), result)
    assert "going on from" in capsys.readouterr().err


def test_the_other_loop_does_not_go_on_from_a_save(problem, tmp_path, capsys):
    stop(problem, tmp_path / "run", 0.3)
    with pytest.raises(Stopped), lockstep(), checkpoints.resumable(tmp_path / "run"):
        options = dict(num_iterations=120, num_checkpoints=4, estimator="td", on_chunk=stop_after(0.0))
        jaxdistill.train(jax.random.key(1), *problem, METHODS, **options)
    assert len(list((tmp_path / "run").glob("[!.]*"))) == 2
    assert "going on" not in capsys.readouterr().err


def test_a_student_that_is_not_finite_stops_alone(problem):
    mdps, _ = problem
    start = np.zeros((1, 10, mdps.num_observations, 4), np.float32)
    finite = train(problem, "baseline", initial_logits=start)
    with pytest.warns(UserWarning, match="1 students diverged"):
        broken = train(problem, "baseline", initial_logits=start, learning_rate=np.where(np.arange(10) == 3, 1e38, 0.1))
    others = np.arange(10) != 3
    np.testing.assert_array_equal(broken.logits[:, others], finite.logits[:, others])
    assert np.isnan(broken.logits[:, 3]).all()


LINES = {
    "optimizer": (dict(optimizer=optax.sgd(0.1)), "an optax optimizer works on whole tables"),
    "wide": (dict(), "has 8 entries; at most 4 become variables"),
}


@pytest.mark.parametrize("what", LINES)
def test_what_has_no_kernel_says_so_in_one_line(problem, what, capsys, monkeypatch):
    monkeypatch.setattr(loops, "_SAID", set())
    monkeypatch.setattr(launch, "_KERNELS", {})
    options, text = LINES[what]
    if what == "wide":
        monkeypatch.setattr(translation, "MAX_UNROLLED", 4)
    for _ in range(2):
        result = train(problem, "baseline", num_iterations=3, num_checkpoints=1, **options)
    lines = [line for line in capsys.readouterr().err.splitlines() if "training runs in" in line]
    assert len(lines) == 1 and text in lines[0] and "XLA's loop and not in a kernel" in lines[0]
    assert result.settings["loops"][0]["loop"] == "XLA" and text in result.settings["loops"][0]["reason"]


def test_outputs_are_handed_out_while_the_next_chunk_runs(problem, monkeypatch):
    """Numbers are those of a training in which the host waits for every chunk."""
    running = []
    deliver = block.Block.deliver

    def delivered(self, collected):
        if collected:
            running.append(any(group._running for group in groups if self in group.blocks))
        deliver(self, collected)

    groups, init = [], group.Group.__init__
    monkeypatch.setattr(group.Group, "__init__", lambda self, blocks: groups.append(self) or init(self, blocks))
    monkeypatch.setattr(block.Block, "deliver", delivered)
    overlapped = train(problem, lanes=5)
    assert 0 < np.mean(running) < 1
    begin = group.Group._begin_chunk
    monkeypatch.setattr(group.Group, "_begin_chunk", lambda self: begin(self) or self.finish())
    assert_same(train(problem, lanes=5), overlapped)


def test_lanes_are_divided_by_work():
    kernels = [types.SimpleNamespace(toolchain=NativeToolchain(1000))] * 3

    def lanes(work, students, sizes=(1, 1, 1), **memory):
        card = types.SimpleNamespace(local_hardware_id=0, memory_stats=lambda: memory)
        return loops.lanes_of(kernels[: len(work)], card, work, students, sizes[: len(work)])

    assert lanes([5.0], [10_000]) == [1000]
    assert lanes([5.0], [10]) == [10]
    assert lanes([1.0, 3.0], [10_000, 10_000]) == [250, 750]
    assert lanes([1.0, 1.0, 2.0], [100, 10_000, 10_000]) == [100, 300, 600]
    assert lanes([0.0, 1.0], [5, 10_000]) == [1, 1000]
    assert lanes([1.0, 3.0], [10_000, 10_000], (2, 2), bytes_limit=1000) == [62, 187]


@pytest.mark.parametrize(("num_iterations", "ring"), [(1022, 1024), (1023, 2**15), (10**6, 2**15)])
def test_the_ring_holds_all_iterations_of_short_trainings(problem, num_iterations, ring):
    cell = resolve_cell(
        "baseline", jaxdistill.METHODS["baseline"], None, config_of(None, {"num_iterations": num_iterations})
    )
    (task,) = make_tasks(jax.random.key(0), problem[0], [cell], np.ones(10), lambda *_: None)
    with choice.on_cpu(NativeToolchain()):
        assert task.loop.program.ring == ring
    table_bytes = 4 * (2 * 8 * problem[0].num_observations + 2 * ring + 2 * 100)
    assert table_bytes < task.lane_bytes() < table_bytes + 1000


def device(**attributes):
    usual = dict(platform="gpu", device_kind="A card", compute_capability="9.0")
    return types.SimpleNamespace(**usual | {"client": types.SimpleNamespace(platform_version="cuda 13")} | attributes)


def test_a_device_without_a_toolchain_says_why(monkeypatch):
    with pytest.raises(choice.NoToolchain, match=r"need an NVIDIA GPU, and this device is A card \(tpu\)"):
        choice.toolchain_of(device(platform="tpu"))
    with pytest.raises(choice.NoToolchain, match="need an NVIDIA GPU"):
        choice.toolchain_of(device(client=types.SimpleNamespace(platform_version="rocm 7")))
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    choice._cuda_toolchain.cache_clear()
    with pytest.raises(
        choice.NoToolchain, match=r"cuda-core cannot be imported .*; pip install 'jaxdistill\[cuda12\]'"
    ):
        choice.toolchain_of(device())
    choice._cuda_toolchain.cache_clear()
    with pytest.raises(choice.NoToolchain, match=r"^$"):
        choice.toolchain_of(jax.devices()[0])


def test_programs_of_one_training_run_in_one_call(problem, monkeypatch):
    """An optimizer's program, which has no kernel, is trained by XLA's loop beside them."""
    numbers = []
    advance = launch.advance
    monkeypatch.setattr(launch, "advance", lambda *args: numbers.append(len(args[0])) or advance(*args))
    cells = {
        "td": Cell("baseline", changes={"estimator": "td"}),
        "mc": Cell("baseline", changes={"estimator": "mc"}),
        "optimizer": Cell("baseline", changes={"optimizer": optax.sgd(0.1)}),
    }
    together = train(problem, cells, lanes=20)
    loops_by_estimator = [(loop["estimator"], loop["loop"]) for loop in together.settings["loops"]]
    assert max(numbers) == 2 and loops_by_estimator == [("mc", "kernel"), ("td", "XLA"), ("td", "kernel")]
    alone = train(problem, {"mc": cells["mc"]})
    np.testing.assert_array_equal(alone.logits[0], together.logits[1])
    assert np.isfinite(together.final_returns).all()
