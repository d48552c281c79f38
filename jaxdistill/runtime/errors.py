"""Reports the errors of a command in one line, also those of its imports; this module imports nothing that can fail.

JAX and matplotlib read variables of the environment when they are imported. So an import can fail before `command.run`
has begun, which reports all later errors.
"""

import os
import sys
import traceback
from types import TracebackType
from typing import Any

_MAX_MESSAGE = 1000  # characters of an error message, which may contain a flag's value of any length
_COMMANDS = ("jaxdistill", "experiments")


class ExecutorFailed(RuntimeError):
    """Raised where an executor has lost shards of a training, for example because its workers were killed.

    Attributes:
      result: the `Result` of the students that had finished, the others NaN; None where `train` did not raise it.
    """

    result: Any = None


class RemoteError(Exception):
    """The cause of an error that was raised in another process; its message is the traceback there.

    Args:
      message: the traceback, as text.
      is_of_surroundings: what the function of that name said there about the error.
    """

    def __init__(self, message: str, is_of_surroundings: bool):
        super().__init__(message)
        self.is_of_surroundings = is_of_surroundings


EXPECTED: tuple[type[BaseException], ...] = (ValueError, OSError, ImportError, MemoryError, ExecutorFailed)
"""Types of errors whose messages say what was wrong, so that a traceback is not needed."""


def is_of_surroundings(error: BaseException) -> bool:
    """Whether an error is expected, or was raised in the code of another package; any other error is a bug."""
    if isinstance(error, EXPECTED):
        return True
    if isinstance(error.__cause__, RemoteError):
        return error.__cause__.is_of_surroundings
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(names) and names[-1].split(".")[0] not in (*_COMMANDS, "__main__")


def print_line(message: str) -> None:
    """Prints the message of an error as one line of limited length to stderr."""
    line = " ".join(message.split())
    line = line if len(line) <= _MAX_MESSAGE else line[:_MAX_MESSAGE] + "..."
    print(f"error: {line}", file=sys.stderr, flush=True)


def message(error: BaseException) -> str:
    """The message of an error, after the name of its type unless it is one of `EXPECTED`."""
    return str(error) if isinstance(error, EXPECTED) and str(error) else f"{type(error).__name__}: {error}"


def guard_imports() -> None:
    """Makes an import that fails end a command of jaxdistill or of the experiments with one line and exit code 2.

    Other programs that import jaxdistill keep their tracebacks. `command.run` calls `unguard`.
    """
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:  # while Python imports the package
        program = sys.orig_argv[sys.orig_argv.index("-m") + 1].split(".")[0]
    else:
        program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program in _COMMANDS and not sys.flags.dev_mode:
        sys.excepthook = _report


def unguard() -> None:
    """Undoes `guard_imports`."""
    if sys.excepthook is _report:
        sys.excepthook = sys.__excepthook__


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Reports an error that was not caught, and ends the process; a bug keeps its traceback."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)
    if not is_of_surroundings(error):
        return sys.__excepthook__(kind, error, trace)
    print_line(message(error))
    os._exit(2)
