"""Training that survives being stopped: what was handed out, and the carry of every student on its way, on disk.

A student's numbers depend on nothing that is trained beside it, so a save needs no common moment: each block of lanes
gives its students when it comes to it, and whatever a save does not know is simply trained again, to the same bits.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import io
import re
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.runtime import processes
from jaxdistill.runtime.files import locked, one_line, write_atomically


@dataclasses.dataclass(frozen=True)
class Output:
    """What a student hands out at a pause, or (pause -1) at its end.

    Attributes:
      params: [O, num_params].
      curves: [C, 2], as in `lanes.Lanes`.
      truncated: episodes cut at max_steps.
      count: steps taken.
      fault: iteration, counted from 1, at which it met a number that is not finite and stopped; 0: none.
    """

    params: np.ndarray
    curves: np.ndarray
    truncated: int
    count: int
    fault: int


@dataclasses.dataclass(frozen=True)
class OnItsWay:
    """A student in training: its next pause, the iteration up to which it is settled, its part of the lanes' carry."""

    pause: int
    settled: int
    leaves: list[np.ndarray]


Who = tuple[int, int]  # task, student


class Store:
    """The saves of one training.

    `outputs-<k>.save` holds what was handed out since the save before, `lanes-<k>.save` the students on their way; of
    the latter the last two are kept, so that one damaged file costs no more than the time between two saves. A file is
    its SHA-256 and a .npz without pickle; a damaged one is reported and its students are trained again.

    Attributes:
      outputs: read at the start, by (task, student, pause).
      on_their_way: likewise, by (task, student).
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.outputs: dict[tuple[int, int, int], Output] = {}
        self.on_their_way: dict[Who, OnItsWay] = {}
        self._new: list[tuple[tuple[int, int, int], Output]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
        numbers = [int(found[1]) for path in folder.glob("*.save") if (found := re.search(r"-(\d+)\.save$", path.name))]
        self._number = max(numbers, default=0)
        for path in sorted(folder.glob("outputs-*.save")):
            self._read(path, self._take_outputs)
        for path in sorted(folder.glob("lanes-*.save"), reverse=True):
            if self._read(path, self._take_lanes):
                break
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= self.seconds

    def add(self, key: tuple[int, int, int], output: Output) -> None:
        """Remembers what a student (task, student, pause) hands out for the next save."""
        self._new.append((key, output))

    def save(self, students: dict[Who, OnItsWay]) -> None:
        """Writes what is new and all students on their way; a full disk is reported, and training goes on."""
        new, self._number, self._last = list(self._new), self._number + 1, time.monotonic()
        try:
            if new:
                self._write("outputs", _packed_outputs(new))
            self._write("lanes", _packed_students(students))
        except OSError as error:
            warnings.warn(f"the state of the training could not be saved ({error}); it goes on.", stacklevel=2)
            return
        del self._new[: len(new)]
        for path in sorted(self.folder.glob("lanes-*.save"))[:-2]:
            path.unlink(missing_ok=True)

    def _write(self, kind: str, arrays: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        data = buffer.getvalue()  # not a view of it, which Python 3.13 cannot release when the disk is full
        parts = [hashlib.sha256(data).digest(), data]
        write_atomically(self.folder / f"{kind}-{self._number:08d}.save", lambda file: file.writelines(parts))

    def _read(self, path: Path, take: Any) -> bool:
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                raise ValueError("its checksum is wrong")
            with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
                take({name: file[name] for name in file.files})
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({one_line(error)}); what it held is trained again.", stacklevel=4)
            path.unlink(missing_ok=True)
            return False
        return True

    def _take_outputs(self, arrays: dict[str, np.ndarray]) -> None:
        found = {}
        keys = arrays["keys"]
        for task in np.unique(keys[:, 0]).tolist():
            columns = [arrays[f"{task}.{field.name}"] for field in dataclasses.fields(Output)]
            for key, params, curves, *counts in zip(keys[keys[:, 0] == task], *columns, strict=True):
                found[tuple(key.tolist())] = Output(params, curves, *map(int, counts))
        self.outputs |= found

    def _take_lanes(self, arrays: dict[str, np.ndarray]) -> None:
        found = {}
        for name in [name for name in arrays if name.endswith(".who")]:
            task = int(name.split(".")[0])
            leaves = [arrays[f"{task}.leaf{i}"] for i in range(sum(k.startswith(f"{task}.leaf") for k in arrays))]
            for i, (who, (pause, settled)) in enumerate(
                zip(arrays[name].tolist(), arrays[f"{task}.place"].tolist(), strict=True)
            ):
                found[task, who] = OnItsWay(pause, settled, [leaf[i] for leaf in leaves])
        self.on_their_way = found


def _packed_outputs(outputs: list[tuple[tuple[int, int, int], Output]]) -> dict[str, np.ndarray]:
    keys = np.array([key for key, _ in outputs])
    arrays = {"keys": keys}
    for task in np.unique(keys[:, 0]):  # shapes may differ between tasks
        mine = [output for key, output in outputs if key[0] == task]
        for field in dataclasses.fields(Output):
            arrays[f"{task}.{field.name}"] = np.stack([getattr(output, field.name) for output in mine])
    return arrays


def _packed_students(students: dict[Who, OnItsWay]) -> dict[str, np.ndarray]:
    arrays = {}
    for task in {task for task, _ in students}:
        whose = [who for t, who in students if t == task]
        mine = [students[task, who] for who in whose]
        arrays[f"{task}.who"] = np.array(whose)
        arrays[f"{task}.place"] = np.array([(one.pause, one.settled) for one in mine])
        for i, leaf in enumerate(zip(*(one.leaves for one in mine), strict=True)):
            arrays[f"{task}.leaf{i}"] = np.stack(leaf)
    return arrays


_ACTIVE: contextvars.ContextVar[tuple[Path, float] | None] = contextvars.ContextVar("resumable", default=None)


@contextlib.contextmanager
def resumable(folder: Any, *, seconds: float = 30.0) -> Iterator[Path]:
    """Inside, every training saves its state in `folder` and, where it was stopped before, goes on from it.

    Stopped by Ctrl-C, by a signal, by a crash or by a lost machine: run the same program again. The results are equal
    to those of an uninterrupted run, bit for bit (same kind of machine, same versions). A training is known by its
    compiled programs and all of its inputs: changed settings, worlds, teachers or losses start one of their own. The
    folder is removed when the block is left without an exception, so save results inside it:

        with jaxdistill.resumable("run"):
            result = jaxdistill.train(key, mdps, teacher)
            result.save("result.npz")

    Args:
      folder: made if need be; each training takes a folder in it.
      seconds: between two saves, > 0. A save holds every lane in use, some tens of MB on CPU.

    Raises:
      ValueError: another process is inside `resumable` of the same folder.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be > 0; got {seconds!r}.")
    folder = Path(folder)
    mine = folder / f"process-{processes.rank()}-of-{processes.count()}" if processes.count() > 1 else folder
    with locked(mine):
        token, whole = _ACTIVE.set((mine, seconds)), False
        try:
            yield folder
            whole = True
        finally:
            _ACTIVE.reset(token)
            if whole or not list(mine.glob("[!.]*")):  # nothing to go on from
                shutil.rmtree(mine, ignore_errors=True)
    if mine != folder:
        with contextlib.suppress(OSError):  # while another process is still in it
            folder.rmdir()


def active() -> bool:
    """Whether a training begun now is to be saved."""
    return _ACTIVE.get() is not None


def open_store(identity: Iterable[bytes]) -> Store:
    """The store of the training that `identity` tells apart from every other; only inside `resumable`."""
    found = _ACTIVE.get()
    assert found is not None
    digest = hashlib.sha256()
    for part in identity:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return Store(found[0] / digest.hexdigest()[:16], found[1])
