"""Files that are written completely or not at all, and folders that only one run at a time may use."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import filelock


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], None]) -> Path:
    """Calls `write(file)` on a temporary file beside `path`, then renames that file to `path`.

    Returns the path. Raises an OSError of one line if the file cannot be written; an older file at `path` is then
    unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot write: {error.strerror or one_line(error)}"
        raise OSError(error.errno, reason, str(path)) from error
    return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks `folder`, which is made if it is missing; raises ValueError at once if another process holds the lock.

    The operating system frees the lock when its process ends, after a crash too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        acquired = lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"{folder} is in use by another run; wait for its end, or use another folder.") from None
    with acquired:
        yield


def one_line(error: BaseException) -> str:
    """The type and the message of an exception, in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
