"""Files that are never half written."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO


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


def one_line(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
