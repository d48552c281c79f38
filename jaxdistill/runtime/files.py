"""Files that are written completely or not at all, and folders that only one run at a time may use."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import filelock

_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


def as_path(path: str | os.PathLike[str]) -> Path:
    """Returns `path` as a Path in which a leading ~ or ~name is the home folder; ValueError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"~ in {path}: the home folder is not known; write the whole path.") from None


def from_command_line(text: str) -> str:
    """Returns the path in a command's argument, with ~ and with $VARIABLE and ${VARIABLE} replaced by their values.

    A shell does not replace ~ in --flag=~/folder, and neither of them inside quotes. Raises ValueError if a variable is
    not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"{match[0]} in the path {text} is not set; set {name}, or write the whole path.")
        return os.environ[name]

    path = _VARIABLE.sub(value, text)
    return str(as_path(path)) if path.startswith("~") else path


def check_writable(path: Path) -> None:
    """Raises an OSError of one line unless a file can be written at `path`; a file that is there does not change."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot write: there is a folder of this name", str(path))
    temporary = _temporary(path)
    try:
        try:
            temporary.touch(exist_ok=False)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], None]) -> Path:
    """Calls `write(file)` on a temporary file beside `path`, then renames that file to `path`.

    Returns the path. Raises an OSError of one line if the file cannot be written; an older file at `path` is then
    unchanged.
    """
    path = as_path(path)
    temporary = _temporary(path)
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
        raise _cannot_write(path, error) from error
    return path


def _temporary(path: Path) -> Path:
    """A name of a temporary file beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _cannot_write(path: Path, error: OSError) -> OSError:
    """The error of one line for a file that cannot be written at `path`."""
    return OSError(error.errno, f"cannot write: {error.strerror or one_line(error)}", str(path))


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
