"""Disk faults: full, read-only, deleted, cut and flipped files. One clear line, nothing half written, nothing lost.

Faults are injected into `open`, since the tests may run as a user to whom nothing is forbidden.
"""

import builtins
import collections
import contextlib
import dataclasses
import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import all as run_all
from experiments import common
from experiments.common import part_files
from jaxdistill import Result, load, plotting
from jaxdistill.cli import commands, main
from jaxdistill.results import storage
from tests.results.random_results import assert_same, make

ROOT = Path(__file__).resolve().parents[1]
MANY = 20  # times as many damaged files in the slow tests
CORRUPTED: collections.Counter = collections.Counter()


@pytest.fixture(autouse=True, scope="module")
def report():
    """Says how much was damaged: pytest -s tests/test_faults.py."""
    yield
    print(f"\nfiles corrupted: {CORRUPTED.total()} ({dict(CORRUPTED)})")


# --- Damaged files --------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after one of the accidents that happen to files."""
    size, content = len(data), bytearray(data)
    at = int(rng.integers(size))
    match rng.choice(
        ["flip", "flip", "flip", "flips", "cut", "zeros", "noise", "repeated", "swapped", "longer", "other"]
    ):
        case "flip":
            content[at] ^= 1 << int(rng.integers(8))
        case "flips":
            for position in rng.integers(size, size=8):
                content[position] ^= 1 << int(rng.integers(8))
        case "cut":
            del content[at:]
        case "zeros":  # a block that never reached the disk
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        case "noise":
            content[at : at + 64] = rng.bytes(len(content[at : at + 64]))
        case "repeated":
            content[at:at] = content[at : at + 100]
        case "swapped":
            content = content[at:] + content[:at]
        case "longer":
            content += rng.bytes(50)
        case "other":
            content = bytearray(
                rng.choice([b"", b"PK", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"null", pickle.dumps({}), rng.bytes(300)])
            )
    return bytes(content)


def one_line(error: BaseException, *said: str) -> str:
    message = str(error)
    assert "\n" not in message and len(message) < 500 and all(text in message for text in said), message
    return message


def damages(
    what: str, count: int, data: bytes, path: Path, read: Callable[[], Any], same: Callable[[Any], Any], said: str
) -> int:
    """Reads `count` damaged copies: each is refused in one line, or is as the original; how many were refused."""
    rng, refused = np.random.default_rng(len(data)), 0
    for _ in range(count):
        path.write_bytes(damaged(data, rng))
        CORRUPTED[what] += 1
        try:
            found = read()
        except ValueError as error:
            one_line(error, str(path), said)
            refused += 1
        else:
            same(found)
    return refused


@pytest.mark.parametrize("tables", [True, False])
def test_damaged_results(tmp_path, tables):
    path, result = tmp_path / "run.npz", make(num_mdps=2, tables=tables)
    data = result.save(path).read_bytes()
    refused = damages("results", 150, data, path, lambda: load(path), lambda found: assert_same(found, result), "")
    assert refused > 75


@pytest.mark.slow
def test_many_damaged_results(tmp_path):
    path, result = tmp_path / "run.npz", make(num_mdps=2)
    data = result.save(path).read_bytes()
    refused = damages(
        "results", 150 * MANY, data, path, lambda: load(path), lambda found: assert_same(found, result), ""
    )
    assert refused > 75 * MANY


class Payload:
    """Unpickling it leaves a file: whoever executes what is in a file is found out."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def write_npz(path: Path, metadata: Any, arrays: dict[str, Any], checksum: bool = True) -> None:
    """A results file whose checksum is right, whatever is in it."""
    if checksum and isinstance(metadata, dict):
        plain = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        metadata = metadata | {"checksum": storage.checksum(metadata, plain)}
    with zipfile.ZipFile(path, "w") as archive:
        if metadata is not None:
            archive.writestr("metadata.json", metadata if isinstance(metadata, str | bytes) else json.dumps(metadata))
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array) if isinstance(array, np.ndarray) else array)


def contents() -> tuple[dict[str, Any], dict[str, Any]]:
    result = make(num_mdps=2)
    arrays = {name: getattr(result, name) for name in Result.axes if getattr(result, name) is not None}
    metadata = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in Result.axes}
    return {"format": storage.FORMAT, "version": storage.FORMAT_VERSION} | metadata, arrays


def test_nothing_in_a_file_is_executed(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "run.npz"
    pickled = np.array([Payload(trace)], object)
    metadata, arrays = contents()
    files = [npy(pickled), pickle.dumps(Payload(trace)), b"PK" + pickle.dumps(Payload(trace))]
    for name in [*arrays, "metadata", "other"]:
        write_npz(path, metadata, arrays | {name: pickled}, checksum=False)
        files.append(path.read_bytes())
    write_npz(path, pickle.dumps(Payload(trace)), arrays)
    files.append(path.read_bytes())
    write_npz(path, metadata, arrays | {"returns": pickle.dumps(Payload(trace))}, checksum=False)
    files.append(path.read_bytes())
    for data in files:
        path.write_bytes(data)
        CORRUPTED["pickles"] += 1
        for read in (lambda: load(path), lambda: part_files.read_part(path.read_bytes(), path)):
            with pytest.raises(ValueError) as error:
                read()
            one_line(error.value, str(path))
        assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # the payload works


WRONG = [None, 5, "x", [], {}, [1], ["a", "a"], {"a": 1}, True, 1.5, [[1], [2]], "baseline"]


def test_a_file_of_another_result_is_refused_and_named(tmp_path):
    """Its checksum is right: a file of a program that means something else by a result."""
    path = tmp_path / "run.npz"
    metadata, arrays = contents()
    variants: list[tuple[Any, dict[str, Any]]] = [
        (value, arrays) for value in (*WRONG, "not json {", b"\xff\xfe", "[" * 100_000)
    ]
    for name in metadata:
        variants += [(metadata | {name: value}, arrays) for value in WRONG]
        variants.append(({key: value for key, value in metadata.items() if key != name}, arrays))
    bad = [np.zeros(0), np.zeros((1, 1)), np.array("x"), np.array(3), np.zeros(2, complex), np.full((3, 2, 3), np.nan),
           np.zeros(2, [("a", int)]), np.array(["2020"], "M8[Y]"), np.zeros((), "U0")]  # fmt: skip
    for name in arrays:
        variants += [(metadata, arrays | {name: array}) for array in bad]
        variants.append((metadata, {key: value for key, value in arrays.items() if key != name}))
        variants.append((metadata, arrays | {name: b"no array"}))
    variants += [
        (metadata | {"unknown": 1}, arrays),
        (metadata, arrays | {"unknown": np.zeros(2), "labels": np.zeros(2)}),
    ]
    accepted = 0
    for meta, content in variants:
        write_npz(path, meta, content)
        CORRUPTED["crafted"] += 1
        try:
            found = load(path)
        except ValueError as error:
            one_line(error, str(path))
        else:  # such as settings of another kind, or no versions
            accepted += 1
            assert str(found) and str(found.summary()) and found.returns.shape == (3, 2, 3)
    assert len(variants) > 150 and accepted < len(variants) / 3


def test_members_of_a_zip_that_are_not_ours(tmp_path):
    path, result = tmp_path / "run.npz", make()
    for names in (
        ["../evil.npy"],
        ["returns.npy/x.npy"],
        ["returns.npy", "returns.npy"],
        ["metadata.json", "metadata.json"],
    ):
        data = result.save(path).read_bytes()
        path.write_bytes(data)
        with (
            pytest.warns() if len(set(names)) < len(names) else contextlib.nullcontext(),
            zipfile.ZipFile(path, "a") as archive,
        ):
            for name in names:
                archive.writestr(name, npy(np.zeros(3)))
        CORRUPTED["crafted"] += 1
        with pytest.raises(ValueError) as error:
            load(path)
        one_line(error.value, str(path))
    assert not (tmp_path.parent / "evil.npy").exists()
    for flag, value in ((6, 1), (8, 99)):  # said to be encrypted; packed in an unknown way
        data = bytearray(result.save(path).read_bytes())
        data[flag] = value
        central = data.index(b"PK\x01\x02")
        data[central + flag + 2] = value
        path.write_bytes(data)
        CORRUPTED["crafted"] += 1
        with pytest.raises(ValueError) as error:
            load(path)
        one_line(error.value, str(path))


@pytest.mark.parametrize("command", ["show", "table", "plot"])
def test_commands_on_damaged_files(tmp_path, monkeypatch, capsys, command):
    """Exit code 2, one line, and no file beside it."""
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(commands, "draw", lambda *_, **__: [])
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    path, rng, refused = tmp_path / "run.npz", np.random.default_rng(1), 0
    data = make().save(path).read_bytes()
    for _ in range(25):
        path.write_bytes(damaged(data, rng))
        CORRUPTED["for commands"] += 1
        try:
            main.main([command, str(path)])
        except SystemExit as stopped:
            error = capsys.readouterr().err
            assert stopped.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and str(path) in error
            refused += 1
        assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    assert refused > 10


# --- Experiments ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Settings(common.Output):
    """An experiment of two parts: a Result and arrays."""

    seed: int = common.option(0, "seed")


RESULT, ARRAYS = make(num_mdps=2), {"x": np.arange(2000.0), "names": np.array(["a", "b"])}
CALLS: list[str] = []


def part(name: str) -> Any:
    CALLS.append(name)
    return RESULT if name == "result" else ARRAYS


def figure() -> Any:
    figure, axes = plotting.new_figure()
    axes[0, 0].plot([0, 1])
    return figure


def work(outdir: Path, draw: bool = False, **settings: Any) -> dict[str, Any]:
    """Runs it; the parts that were computed are in CALLS."""
    CALLS.clear()
    chosen = Settings(out=str(outdir), **settings)
    folder = common.prepare_outdir(chosen)
    parts = common.run_parts(chosen, folder, {name: lambda name=name: part(name) for name in ("result", "arrays")})
    if draw:
        common.deliver(figure(), folder, "figure")
        common.deliver_table(["| a |"], folder, "figure")
    return parts


def assert_right(parts: dict[str, Any]) -> None:
    assert_same(parts["result"], RESULT)
    assert parts["arrays"].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(parts["arrays"][name], array)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


def many_damaged_parts(folder: Path, name: str, count: int) -> None:
    """Refused by name and with what to do, or as it was, or computed again; the other part is not touched."""
    work(folder)
    path, before = folder / f"{name}.npz", files(folder)
    rng = np.random.default_rng(3)
    seen = collections.Counter()
    for _ in range(count):
        path.write_bytes(damaged(before[path.name], rng))
        CORRUPTED["parts"] += 1
        try:
            assert_right(work(folder))
            seen["again" if CALLS else "as it was"] += 1
        except ValueError as error:
            one_line(error, path.name)
            seen["refused"] += 1
        assert CALLS in ([], [name])
        now = files(folder)
        others = [other for other in before if not other.startswith(name)]
        assert [now.get(other) for other in others] == [before[other] for other in others]
    assert seen["refused"] > count / 2
    assert_right(work(folder, restart=True))
    assert files(folder).keys() == before.keys()


@pytest.mark.parametrize("name", ["result", "arrays"])
def test_damaged_parts(tmp_path, name, capsys):
    many_damaged_parts(tmp_path, name, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["result", "arrays"])
def test_many_damaged_parts(tmp_path, name, capsys):
    many_damaged_parts(tmp_path, name, 60 * MANY)


def test_damaged_settings(tmp_path, capsys):
    """Refused with what to do, and nothing that is finished is touched; or read as they were."""
    work(tmp_path)
    path, before = tmp_path / "settings.json", files(tmp_path)
    rng = np.random.default_rng(4)
    held = [None, [1], "x", 3, {}, {"seed": [1]}, {"seed": 0, "more": {}}]
    odd = ["", "{}", "[]", "null", "[" * 5000, *(json.dumps({"settings": value}) for value in held)]
    for data in [*(damaged(before[path.name], rng) for _ in range(60)), *(text.encode() for text in odd)]:
        path.write_bytes(data)
        CORRUPTED["settings"] += 1
        try:
            assert_right(work(tmp_path))
            assert json.loads(path.read_bytes())["settings"] == {"seed": 0}
        except ValueError as error:
            assert "--restart" in one_line(error) and str(tmp_path) in str(error)
        assert CALLS == []
        assert files(tmp_path) == before | {path.name: data}
    assert_right(work(tmp_path, restart=True))


def test_damaged_results_of_another_experiment_are_not_shared(tmp_path, capsys):
    """None, where they cannot be of the same settings; else as they were, or refused by name."""
    work(tmp_path)
    rng, wanted = np.random.default_rng(5), Settings()
    for name in ("settings.json", "result.npz"):
        path = tmp_path / name
        data = path.read_bytes()
        for content in [
            *(damaged(data, rng) for _ in range(30)),
            b'{"settings": [1]}',
            b'{"settings": "x"}',
            b"[" * 5000,
        ]:
            path.write_bytes(content)
            CORRUPTED["shared"] += 1
            try:
                found = common.shared_part(wanted, str(tmp_path), "result", ())
            except ValueError as error:
                one_line(error, str(tmp_path))
            else:
                if found is not None:
                    assert_same(found, RESULT)
        path.write_bytes(data)


def test_a_deleted_part_is_computed_again_and_no_other(tmp_path, capsys):
    work(tmp_path)
    before = files(tmp_path)
    for name in ("result", "arrays"):
        (tmp_path / f"{name}.npz").unlink()
        assert_right(work(tmp_path))
        assert [name] == CALLS and files(tmp_path) == before
    (tmp_path / "settings.json").unlink()  # then nobody knows whose they are
    without = files(tmp_path)
    with pytest.raises(ValueError, match=r"unknown settings, because settings.json is missing.* or --restart"):
        work(tmp_path)
    assert CALLS == [] and files(tmp_path) == without
    assert_right(work(tmp_path, restart=True))
    assert CALLS == ["result", "arrays"] and files(tmp_path) == before


@pytest.mark.parametrize("gone", ["result.npz", "settings.json", "."])
def test_what_is_deleted_in_the_middle_of_a_run(tmp_path, monkeypatch, capsys, gone):
    """A file: the run ends well, and the next one computes no more than that. The folder: one line, no traceback."""
    missing = {"result.npz": ["result"], "settings.json": [], ".": ["result", "arrays"]}
    folder = tmp_path / "out"

    def deletes(name: str) -> Any:
        if name == "arrays":
            shutil.rmtree(folder) if gone == "." else (folder / gone).unlink()
        return part(name)

    def run() -> dict[str, Any]:
        chosen = Settings(out=str(folder))
        parts = {name: lambda name=name: deletes(name) for name in ("result", "arrays")}
        return common.run_parts(chosen, common.prepare_outdir(chosen), parts)

    if gone == ".":
        with pytest.raises(OSError) as error:
            run()
        one_line(error.value, "arrays.npz", "cannot write")
    else:
        assert_right(run())
    assert_right(work(folder))
    assert missing[gone] == CALLS


# --- A full disk ----------------------------------------------------------------------------------------------


class FullDisk:
    """Replaces `open` so that the `number`-th file opened for writing below a folder takes half of what is written."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number, self.opened = folder, number, []

    @contextlib.contextmanager
    def __call__(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["FullDisk"]:
        real = builtins.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            found = real(file, mode, *args, **kwargs)
            inside = not isinstance(file, int) and Path(os.fspath(file)).absolute().is_relative_to(self.folder)
            if inside and set(mode) & set("wxa"):
                self.opened.append(Path(file).name)
                if len(self.opened) - 1 == self.number:
                    return Filling(found)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", opened)
            patch.setattr(io, "open", opened)
            yield self


class Filling:
    """A file of which only half of the first write arrives."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(bytes(data)[: max(len(data) // 2, 1)])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "Filling":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_costs_what_is_being_written_and_no_more(tmp_path, monkeypatch, capsys):
    """At every file in turn: one line with its name, no half of it, and the next run goes on from what is finished."""
    faults, whole = 0, tmp_path / "whole"
    work(whole, draw=True)
    expected = files(whole)
    for number in range(50):
        folder = tmp_path / str(number)
        with FullDisk(folder, number)(monkeypatch) as disk:
            try:
                work(folder, draw=True)
            except (OSError, ValueError) as fault:
                faults += 1
                message = one_line(fault, "No space left on device")
                assert "out" in message or any(name in message for name in expected), message
        assert len(disk.opened) >= number + 1 or files(folder) == expected
        left = files(folder)
        assert left == {name: expected.get(name) for name in left}, sorted(left)  # what is there is whole
        saved = {name for name in ("result", "arrays") if f"{name}.npz" in left and "settings.json" in left}
        assert_right(work(folder, draw=True))
        assert {*CALLS} == {"result", "arrays"} - saved
        assert files(folder) == expected
        if len(disk.opened) <= number:
            break
    assert faults >= 6  # settings, two parts, csv, two figures, the table


def test_a_full_disk_leaves_the_old_figure(tmp_path, monkeypatch):
    paths = plotting.save_figure(figure(), tmp_path / "figure")
    before = files(tmp_path)
    for number in range(2):
        with FullDisk(tmp_path, number)(monkeypatch), pytest.raises(OSError) as error:
            plotting.save_figure(figure(), tmp_path / "figure")
        one_line(error.value, "No space left on device", paths[number].name)
        assert files(tmp_path) == before


def test_a_full_disk_under_the_command(tmp_path, monkeypatch, capsys):
    """The result is saved before the pictures are drawn, so that a disk that fills up with them loses no training."""
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    monkeypatch.setattr(commands, "train", lambda *_, **__: make())
    line = ["compare", "--worlds=garnet", "--num_mdps=2", "--teacher=uniform", f"--out={tmp_path}/x", "--overwrite"]
    written = ["x.npz", "x.png", "x.pdf", "x_intervals.png", "x_intervals.pdf"]
    for number in range(len(written) + 1):  # the first file holds the settings of the training that begins
        with FullDisk(tmp_path, number)(monkeypatch), pytest.raises(SystemExit) as stopped:
            main.main(line)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1 and "No space left on device" in error
        assert sorted(files(tmp_path)) == sorted(written[: max(number - 1, 0)])
        if number > 1:
            assert_same(load(tmp_path / "x.npz"), make())
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_file_too_large_for_its_owner(tmp_path):
    """A limit of the operating system and not a mock: exit code 2, one line, nothing half written."""

    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        f"sys.argv = ['fig1', '--out={tmp_path}/out']; runpy.run_module('experiments.fig1', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "File too large" in done.stderr
    assert not [name for name in files(tmp_path / "out") if name.endswith((".png", ".pdf", ".tmp"))]


# --- Folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "file/below", "null"])
def test_a_folder_that_is_none(tmp_path, where, capsys):
    (tmp_path / "file").write_text("mine")
    outdir = Path("/dev/null/folder") if where == "null" else tmp_path / where
    with pytest.raises(ValueError, match=r"cannot be written: .*; choose another folder") as error:
        work(outdir)
    one_line(error.value, str(outdir))
    assert (tmp_path / "file").read_text() == "mine" and CALLS == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """Found before the work, whether it has to be made or is there."""

    def read_only(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(ValueError, match="cannot be written: Read-only file system; choose another folder"):
        work(tmp_path)
    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(ValueError, match="cannot be written: Read-only file system; choose another folder"):
        work(tmp_path / "new")
    assert CALLS == [] and not list(tmp_path.iterdir())


# --- experiments.all ------------------------------------------------------------------------------------------


def test_damaged_records_of_all_runs(tmp_path):
    """runs.json: what cannot be read is run again; nothing stops the others, nor the page."""
    rng, path = np.random.default_rng(6), tmp_path / "runs.json"
    run = run_all.Run("done", ["--smoke"], 3.5, "2026-01-01 00:00", ["settings.json"], "")
    run_all.write_index(tmp_path, {"fig1": run})
    data = path.read_bytes()
    record = dataclasses.asdict(run)
    odd: list[Any] = [
        None,
        [],
        "x",
        3,
        {"fig1": None},
        {"fig1": []},
        {"fig1": 3},
        {"fig1": {}},
        {"fig1": record | {"more": 1}},
    ]
    for name in record:
        odd += [{"fig1": record | {name: value}} for value in (None, 5, "x", [1], {"a": 1}, [None], float("inf"), -1.0)]
    known = 0
    for content in [
        *(damaged(data, rng) for _ in range(60)),
        *(json.dumps(value).encode() for value in odd),
        b"[" * 5000,
    ]:
        path.write_bytes(content)
        CORRUPTED["runs"] += 1
        runs = run_all.read_runs(tmp_path)
        for name, found in runs.items():
            known += 1
            assert str(found) and isinstance(name, str)
            assert run_all.finished(found, ["--smoke"], tmp_path) in (True, False)
        run_all.time_left([run_all.TABLE[0]], run_all.Settings(), runs, tmp_path)
        assert run_all.page(tmp_path, runs).startswith("<!DOCTYPE html>")
    assert known >= 5
