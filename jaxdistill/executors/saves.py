"""The folder of a sharded training: its finished shards, the saves of those that run, and the sign that it goes on.

A worker that sees the folder saves in it. On a machine that does not, a shard that is lost is trained again from its
beginning.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.runtime import checkpoints

_SETTINGS = "settings"


@dataclasses.dataclass(frozen=True)
class Finished:
    """What the training of a shard has given.

    Attributes:
      arrays: named arrays.
      steps: environment steps that were taken.
      surroundings: what decided how the worker rounded, as `xla.rounding` returns it.
    """

    arrays: dict[str, np.ndarray]
    steps: int
    surroundings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the shards of a training are saved; it is sent to the workers.

    Attributes:
      folder: the path.
      sign: the name of the file that is there while the training goes on.
      seconds: between two saves of a running shard; None: finished and running shards are not kept.
    """

    folder: str
    sign: str
    seconds: float | None

    def is_seen(self) -> bool:
        """Whether the training goes on, and this machine sees its folder."""
        return Path(self.folder, self.sign).exists()

    def is_begun(self, index: int) -> bool:
        """Whether a worker that sees the folder has begun a shard of this training."""
        return Path(self.folder, f".{index}{self.sign}").exists()

    @contextlib.contextmanager
    def running(self, index: int) -> Iterator[None]:
        """Inside, the trainings of this thread are saved in the folder of a shard, if that is possible.

        It is not where this machine does not see the folder, nor where another process is training the shard, which the
        executor has taken for lost.
        """
        with contextlib.ExitStack() as stack:
            if self.is_seen():
                Path(self.folder, f".{index}{self.sign}").write_text(f"{socket.gethostname()} {os.getpid()}\n")
                if self.seconds is not None:
                    with contextlib.suppress(OSError, ValueError):
                        block = checkpoints.resumable(Path(self.folder, f"shard-{index}"), seconds=self.seconds)
                        stack.enter_context(block)
            yield

    def write(self, index: int, finished: Finished) -> None:
        """Keeps a finished shard, if shards are kept and this machine has the folder."""
        path = self._path(index)
        if self.seconds is None or path.exists() or not path.parent.is_dir():
            return
        settings = json.dumps({"steps": finished.steps, "surroundings": finished.surroundings})
        arrays = {f"array.{name}": array for name, array in finished.arrays.items()}
        with contextlib.suppress(OSError):  # a full disk costs the save, and not the shard
            checkpoints.write_arrays(path, {**arrays, _SETTINGS: np.frombuffer(settings.encode(), np.uint8)})

    def read(self, index: int) -> Finished | None:
        """The finished shard that an earlier run has kept; None if there is none, or its file is damaged."""
        arrays = checkpoints.read_arrays(self._path(index)) if self._path(index).exists() else None
        if arrays is None:
            return None
        settings = json.loads(arrays.pop(_SETTINGS).tobytes())
        return Finished({name.removeprefix("array."): array for name, array in arrays.items()}, **settings)

    def _path(self, index: int) -> Path:
        return Path(self.folder, f"finished-{index:05d}.save")


@contextlib.contextmanager
def place(identity: Callable[[], Iterable[bytes]]) -> Iterator[Place]:
    """The place of a training within the block; its sign is removed at the end, at the latest.

    Inside `resumable` it is a folder for this training alone, and elsewhere a temporary folder.

    Args:
      identity: returns what distinguishes this training from others; called inside `resumable` only.
    """
    is_kept, sign = checkpoints.is_active(), f".running-{secrets.token_hex(4)}"
    if is_kept:
        folder, seconds = checkpoints.training_folder(identity())
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*running-*"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
        where = Place(str(folder.resolve()), sign, seconds)
    else:
        where = Place(tempfile.mkdtemp(prefix="jaxdistill-"), sign, None)
    Path(where.folder, sign).touch()
    try:
        yield where
    finally:
        withdraw(where)
        if not is_kept:
            shutil.rmtree(where.folder, ignore_errors=True)


def withdraw(where: Place) -> None:
    """Removes the sign of a training, so that the workers that see its folder save and stop."""
    Path(where.folder, where.sign).unlink(missing_ok=True)


def number_of_shards(where: Place, default: int) -> int:
    """Into how many shards an earlier run cut this training; `default`, which is kept, if there was none.

    Finished shards are of use only if the training is cut as before, also on an executor with other workers.
    """
    path = Path(where.folder, "cut.save")
    arrays: Mapping[str, np.ndarray] | None = checkpoints.read_arrays(path) if path.exists() else None
    if arrays is not None:
        return int(arrays["num_shards"])
    if where.seconds is not None:
        with contextlib.suppress(OSError):
            checkpoints.write_arrays(path, {"num_shards": np.array(default)})
    return default
