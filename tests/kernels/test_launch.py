"""Kernels from inside `jax.jit`: on the lanes' own memory, several at once, compiled once and kept on disk."""

import hashlib

import jax
import numpy as np
import pytest

from jaxdistill.kernels import code_files, launch
from jaxdistill.kernels.native import NativeToolchain
from tests.kernels.agreement import kernel_of, lanes_of, task_of, until_of, worlds_of
from tests.kernels.test_agreement import NEXT, PAPER, assert_same

pytestmark = pytest.mark.usefixtures("compiler")


@pytest.fixture(scope="module")
def both(compiler):
    """A task of each estimator, on different worlds."""
    kinds = {"td": (PAPER, "limited"), "mc": (NEXT, "aliased")}
    return [task_of(methods, *worlds_of(kind), estimator=name) for name, (methods, kind) in kinds.items()]


def kernel(task, toolchain=None):
    return launch.kernel_of(
        toolchain or NativeToolchain(), task.program, task.worlds, task.teachers, task.schedules, task.students
    )


def work(task):
    tables = jax.device_put(kernel(task).tables(task.worlds, task.teachers, task.schedules))
    return launch.Work(lanes_of(task), tables, np.full(1, task.num_iterations, np.int32), until_of(task))


def test_two_programs_at_once_do_what_each_does_alone(both):
    works = [work(task) for task in both]
    expected = [
        kernel_of(task)(w.lanes, task.worlds, task.teachers, task.schedules, task.num_iterations, w.until, 300)
        for task, w in zip(both, works, strict=True)
    ]
    pointers = [leaf.unsafe_buffer_pointer() for w in works for leaf in jax.tree.leaves(w.lanes)]
    results = launch.advance([kernel(task) for task in both], 0, works, 300)
    for task, (lanes, status), (expected_lanes, expected_status) in zip(both, results, expected, strict=True):
        assert_same(jax.device_get(lanes), expected_lanes, task.program.num_lanes)
        np.testing.assert_array_equal(status, expected_status)
    assert [leaf.unsafe_buffer_pointer() for lanes, _ in results for leaf in jax.tree.leaves(lanes)] == pointers
    assert all(leaf.is_deleted() for w in works for leaf in jax.tree.leaves(w.lanes))


def test_no_tick_settles_all_rows(both):
    """Rows that are settled stay as they are in more ticks and in another settling."""
    for task in both:
        lanes, _ = launch.advance([kernel(task)], 0, [work(task)], 200)[0]
        copies = jax.tree.map(np.array, lanes)
        rule, iteration = task.program.rule, np.asarray(lanes.state.iteration)
        stamps = np.asarray(rule.stamp(lanes.tables.rows)).reshape(len(iteration), -1)
        assert (stamps < iteration[:, None]).any()
        one = work(task)
        ((settled, _),) = launch.advance([kernel(task)], 0, [launch.Work(jax.device_put(copies), *rest(one))], 0)
        stamps = np.asarray(rule.stamp(settled.tables.rows)).reshape(len(iteration), -1)
        np.testing.assert_array_equal(stamps, np.broadcast_to(iteration[:, None], stamps.shape))
        before = jax.tree.map(np.array, settled)
        ((again, _),) = launch.advance([kernel(task)], 0, [launch.Work(settled, *rest(one))], 0)
        assert_same(again, before, task.program.num_lanes)


def rest(one):
    return one.tables, one.num_iterations, one.until


class Counting(NativeToolchain):
    """Counts the sources that it compiles."""

    def __init__(self):
        super().__init__()
        self.num_compiled = 0

    def compile(self, source):
        self.num_compiled += 1
        return super().compile(source)


SOURCE = "void advance(int* x, int n) { x[0] += n; }"


def ran(function):
    x = np.zeros(1, np.int32)
    NativeToolchain().run(None, 0, [launch.Call(function, [x], 7)])
    return int(x[0])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(code_files, "folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


def test_code_is_compiled_once_and_kept(folder):
    toolchain = Counting()
    assert [ran(code_files.loaded(toolchain, SOURCE)) for _ in range(2)] == [7, 7]
    assert toolchain.num_compiled == 1 and len(list(folder.iterdir())) == 1
    code_files.loaded(toolchain, SOURCE + "\n")
    assert toolchain.num_compiled == 2 and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no code"])
def test_a_damaged_file_is_compiled_again(folder, damage):
    toolchain = Counting()
    code_files.loaded(toolchain, SOURCE)
    (path,) = folder.iterdir()
    good, data = path.read_bytes(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    useless = hashlib.sha256(b"no code").digest() + b"no code"  # with the right checksum
    path.write_bytes({"flipped": data, "cut": data[:999], "empty": b"", "no code": useless}[damage])
    assert ran(code_files.loaded(toolchain, SOURCE)) == 7
    assert toolchain.num_compiled == 2 and path.read_bytes()[:32] == hashlib.sha256(path.read_bytes()[32:]).digest()
    assert len(path.read_bytes()) == len(good)


def test_another_toolchain_compiles_anew(folder, monkeypatch):
    toolchain = Counting()
    code_files.loaded(toolchain, SOURCE)
    monkeypatch.setattr(Counting, "identity", "another version")
    code_files.loaded(toolchain, SOURCE)
    assert toolchain.num_compiled == 2


def test_where_nothing_can_be_written_one_warning_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(code_files, "folder", lambda: tmp_path / "file" / "kernels")
    with pytest.warns(UserWarning, match="compiled kernels are not kept for the next run"):
        assert ran(code_files.loaded(NativeToolchain(), SOURCE)) == 7


def test_code_is_kept_beside_the_programs_of_jax(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert code_files.folder() == tmp_path / "kernels"
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/folder")
        assert code_files.folder() is None
        jax.config.update("jax_compilation_cache_dir", None)
        assert code_files.folder() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
