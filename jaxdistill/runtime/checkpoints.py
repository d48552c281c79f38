"""Training that survives being stopped: the outputs handed out and the state of every unfinished student, on disk.

A student's numbers depend on nothing that is trained beside it, so the students of a save need not be of the same
moment: each block of lanes publishes its students between two chunks. What a save does not hold is trained again, to
the same bits.
"""

import contextlib
import dataclasses
import hashlib
import io
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.runtime.files import as_path, locked, one_line, write_atomically


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What N students of a task hand out, each at a pause or (pause -1) at its end.

    Attributes:
      params: [N, O, num_params].
      curves: [N, C, 2], as in `lanes.LaneTables`.
      truncated: [N], episodes cut at max_steps.
      count: [N], steps taken.
      fault: [N], iteration, counted from 1, at which a parameter was not finite and the student stopped; 0: none.
    """

    params: np.ndarray
    curves: np.ndarray
    truncated: np.ndarray
    count: np.ndarray
    fault: np.ndarray

    def __getitem__(self, index: Any) -> "Outputs":
        """Those of some of the students."""
        return Outputs(*(getattr(self, name)[index] for name in _FIELDS))


_FIELDS = tuple(field.name for field in dataclasses.fields(Outputs))


@dataclasses.dataclass(frozen=True)
class Snapshots:
    """N unfinished students of a task.

    Attributes:
      students: int [N], their indices.
      pauses: int [N], indices of their next pauses.
      iterations: int [N], the iterations that they have finished, whose directions are applied to all rows.
      leaves: the arrays of `lanes.resting`, each [N, ...].
    """

    students: np.ndarray
    pauses: np.ndarray
    iterations: np.ndarray
    leaves: list[np.ndarray]

    def __getitem__(self, index: Any) -> "Snapshots":
        """Those of some of the students."""
        leaves = [leaf[index] for leaf in self.leaves]
        return Snapshots(self.students[index], self.pauses[index], self.iterations[index], leaves)


Handed = tuple[np.ndarray, np.ndarray, Outputs]
"""Student indices [N], pauses [N], and what each student handed out there."""


class Store:
    """The saves of one training.

    `outputs-<k>.save` holds what was handed out since the save before, `lanes-<k>.save` the unfinished students. The
    last two of the latter are kept, so that one damaged file costs no more than the time between two saves. A file is
    its SHA-256 and a .npz without pickle. A damaged file is reported, and its students are trained again.

    Attributes:
      outputs: read at the start, by task; no student and pause is there twice.
      snapshots: read at the start, by task; no student is there twice.
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.snapshots: dict[int, list[Snapshots]] = {}
        self._unsaved: list[tuple[int, Handed]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
        matches = [re.search(r"-(\d+)\.save$", path.name) for path in folder.glob("*.save")]
        self._number = max((int(match[1]) for match in matches if match), default=0)
        self._parts: dict[int, list[Handed]] = {}
        for path in sorted(folder.glob("outputs-*.save")):
            self._read(path, self._take_outputs)
        self.outputs = {task: _joined(parts) for task, parts in self._parts.items()}
        for path in sorted(folder.glob("lanes-*.save"), reverse=True):
            if self._read(path, self._take_snapshots):
                break
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last_save >= self.seconds

    def add_outputs(self, task: int, students: np.ndarray, pauses: np.ndarray, outputs: Outputs) -> None:
        """Keeps what students of a task hand out for the next save."""
        self._unsaved.append((task, (students, pauses, outputs)))

    def save(self, snapshots: Sequence[tuple[int, Snapshots]]) -> None:
        """Writes the new outputs and all unfinished students. A full disk is reported, and training goes on."""
        outputs, self._number, self._last_save = list(self._unsaved), self._number + 1, time.monotonic()
        try:
            if outputs:
                self._write("outputs", _packed_outputs(outputs))
            self._write("lanes", _packed_snapshots(snapshots))
        except OSError as error:
            warnings.warn(f"the state of the training could not be saved ({error}); it goes on.", stacklevel=2)
            return
        del self._unsaved[: len(outputs)]
        for path in sorted(self.folder.glob("lanes-*.save"))[:-2]:
            path.unlink(missing_ok=True)

    def _write(self, kind: str, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(self.folder / f"{kind}-{self._number:08d}.save", arrays)

    def _read(self, path: Path, take: Callable[[dict[str, np.ndarray]], None]) -> bool:
        """Reads a file and passes its arrays to `take`; False if it is damaged."""
        arrays = read_arrays(path)
        if arrays is not None:
            take(arrays)
        return arrays is not None

    def _take_outputs(self, arrays: dict[str, np.ndarray]) -> None:
        keys = arrays["keys"]
        for task in np.unique(keys[:, 0]).tolist():
            _, students, pauses = keys[keys[:, 0] == task].T
            handed = students, pauses, Outputs(*(arrays[f"{task}.{name}"] for name in _FIELDS))
            self._parts.setdefault(task, []).append(handed)

    def _take_snapshots(self, arrays: dict[str, np.ndarray]) -> None:
        self.snapshots = {}
        for name in [name for name in arrays if name.endswith(".students")]:
            part = name.removesuffix("students")
            num_leaves = sum(key.startswith(f"{part}leaf") and key.count(".") == 2 for key in arrays)
            leaves = [_dense(arrays, f"{part}leaf{i}") for i in range(num_leaves)]
            snapshots = Snapshots(arrays[name], arrays[f"{part}pauses"], arrays[f"{part}iterations"], leaves)
            self.snapshots.setdefault(int(name.split(".")[0]), []).append(snapshots)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a file with a checksum; OSError, one line, if it cannot be written."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()  # not a view of it, which Python 3.13 cannot release when the disk is full
    parts = [hashlib.sha256(data).digest(), data]
    write_atomically(path, lambda file: file.writelines(parts))


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays that `write_arrays` has written; None, with a warning, if the file is damaged, and it is removed."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise ValueError("its checksum is wrong")
        with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({one_line(error)}); its contents are trained again.", stacklevel=5)
        path.unlink(missing_ok=True)
        return None


def _joined(parts: list[Handed]) -> Handed:
    """What was handed out in several parts, each student and pause once: a student that began anew repeats itself."""
    students, pauses = (np.concatenate([part[i] for part in parts]) for i in range(2))
    outputs = Outputs(*(np.concatenate([getattr(part[2], name) for part in parts]) for name in _FIELDS))
    _, first = np.unique(np.stack([students, pauses], axis=-1), axis=0, return_index=True)
    first.sort()
    return students[first], pauses[first], outputs[first]


def _packed_outputs(handed: list[tuple[int, Handed]]) -> dict[str, np.ndarray]:
    keys, arrays = [], dict[str, np.ndarray]()
    for task in sorted({task for task, _ in handed}):  # shapes may differ between tasks
        students, pauses, outputs = _joined([part for t, part in handed if t == task])
        keys.append(np.stack([np.full(len(students), task), students, pauses], axis=-1))
        arrays |= {f"{task}.{name}": getattr(outputs, name) for name in _FIELDS}
    return {"keys": np.concatenate(keys), **arrays}


def _packed_snapshots(snapshots: Sequence[tuple[int, Snapshots]]) -> dict[str, np.ndarray]:
    arrays = dict[str, np.ndarray]()
    for number, (task, part) in enumerate(snapshots):
        name = f"{task}.{number}."
        arrays |= {f"{name}{x}": getattr(part, x) for x in ("students", "pauses", "iterations")}
        for i, leaf in enumerate(part.leaves):
            arrays |= _sparse(f"{name}leaf{i}", leaf)
    return arrays


def _sparse(name: str, leaf: np.ndarray) -> dict[str, np.ndarray]:
    """An array under its name; if it is a table most of whose rows are 0, those that are not, their places, its shape.

    Of the directions of a student's table only those of the current episode are not 0.
    """
    if leaf.ndim < 3:
        return {name: leaf}
    rows = np.ascontiguousarray(leaf).reshape(-1, leaf.shape[-1])
    places = np.flatnonzero(rows.view(np.uint8).any(axis=1))  # so that -0.0 is not 0
    if 2 * len(places) > len(rows):
        return {name: leaf}
    return {name: rows[places], f"{name}.places": places, f"{name}.shape": np.array(leaf.shape)}


def _dense(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The array that `_sparse` has taken apart."""
    values = arrays[name]
    if f"{name}.places" not in arrays:
        return values
    rows = np.zeros((int(np.prod(arrays[f"{name}.shape"][:-1])), values.shape[-1]), values.dtype)
    rows[arrays[f"{name}.places"]] = values
    return rows.reshape(arrays[f"{name}.shape"])


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    """A `resumable` block that a thread has entered: its folder, the seconds between saves, and the thread."""

    folder: Path
    seconds: float
    thread: int


_ENTRIES: list[_Entry] = []  # of all threads, in the order in which they were entered


def _active() -> _Entry | None:
    """The block in whose folder a training that begins now is saved; None if it is not saved.

    It is the innermost block of this thread. For a thread that has not entered a block, such as a worker of a thread
    pool, it is the block of the only other thread that has.

    Raises:
      ValueError: this thread has not entered a block, and several other threads have.
    """
    innermost = {entry.thread: entry for entry in list(_ENTRIES)}
    thread = threading.get_ident()
    if thread in innermost or not innermost:
        return innermost.get(thread)
    if len(innermost) > 1:
        folders = ", ".join(sorted(str(entry.folder) for entry in innermost.values()))
        raise ValueError(
            f"this thread trains while other threads are inside `resumable` of {folders}, so that it is unknown where "
            "to save; enter `resumable` in the thread that trains."
        )
    return next(iter(innermost.values()))


@contextlib.contextmanager
def resumable(folder: Any, *, seconds: float = 30.0) -> Iterator[Path]:
    """Inside, every training saves its state in `folder` and, where it was stopped before, goes on from it.

    After Ctrl-C, a signal, a crash or the loss of a machine, run the same program again. The results are equal to those
    of an uninterrupted run, bit for bit (same kind of machine, same versions). A training is identified by its compiled
    programs, all of its inputs, the versions and the kind of device: if settings, worlds, teachers or losses have
    changed, a new training starts. The folder is removed when the block is left without an exception, so save the
    results inside the block:

        with jaxdistill.resumable("run"):
            result = jaxdistill.train(key, mdps, teacher)
            result.save("result.npz")

    Trainings that run in other threads during the block, such as those of a thread pool, are saved too. They must end
    before the block does.

    Args:
      folder: made if need be; each training takes a folder in it.
      seconds: between two saves, > 0. A save holds the tables and the current episode of every student in a lane.

    Raises:
      ValueError: another process is inside `resumable` of the same folder.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be > 0; got {seconds!r}.")
    folder = as_path(folder)
    with locked(folder):
        entry, is_complete = _Entry(folder, seconds, threading.get_ident()), False
        _ENTRIES.append(entry)
        try:
            yield folder
            is_complete = True
        finally:
            _ENTRIES.remove(entry)
            if is_complete or not list(folder.glob("[!.]*")):  # there is nothing to go on from
                shutil.rmtree(folder, ignore_errors=True)


def is_active() -> bool:
    """Whether a training that begins now is to be saved."""
    return _active() is not None


def open_store(identity: Iterable[bytes]) -> Store:
    """The store of the training with this `identity`, which differs from every other; only inside `resumable`."""
    return Store(*training_folder(identity))


def training_folder(identity: Iterable[bytes]) -> tuple[Path, float]:
    """The folder of the training with this `identity`, and the seconds between two saves; only inside `resumable`."""
    entry = _active()
    assert entry is not None
    digest = hashlib.sha256()
    for part in identity:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return entry.folder / digest.hexdigest()[:16], entry.seconds
