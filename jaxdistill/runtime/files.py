"""Files that are never half written, and folders that one process at a time writes to."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import filelock


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], None]) -> Path:
    """Calls `write(file)` on a temporary file beside `path`, then renames it: `path` is never half written.

    Returns the path. OSError, one line, if it cannot be written; then the old file, if any, is still there.
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
    """Holds `folder`, made where it is missing; ValueError, at once, where another process holds it.

    The operating system lets go of what a process held, however it ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"{folder} is in use by another run; wait for its end, or use another folder.") from None
    with held:
        yield


def one_line(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
