"""Runs a program that is started from a shell: errors are one line, and output that cannot be printed stops no work."""

import codecs
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

import jax

from jaxdistill.runtime import errors

_ASCII = {"±": "+-", "×": "x", "−": "-", "‖": "||", "π": "pi", "θ": "theta", "²": "^2", "’": "'"}


def run(work: Callable[[], None]) -> None:
    """Runs the work of a command, and ends the process unless it succeeds.

    An error that the user or the surroundings cause ends it with one line on stderr and exit code 2: every ValueError,
    OSError and ImportError, and all errors of other packages, such as JAX without the device that JAX_PLATFORMS names.
    Any other error is a bug, which keeps its traceback. Ctrl-C and SIGTERM end it with exit code 130. `python -X dev`
    shows the traceback of every error.

    Args:
      work: the command. It may raise a KeyboardInterrupt whose message says what is saved and how to resume.
    """
    errors.unguard()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # type: ignore[assignment]
    with _whole_tracebacks(), _terminated_as_interrupted(), _safe_output() as output:
        try:
            work()
        except Exception as error:
            if sys.flags.dev_mode or not errors.is_of_surroundings(error):
                raise
            fail(errors.message(error))
        except KeyboardInterrupt as stop:
            print("; ".join(filter(None, ["stopped", str(stop)])), file=sys.stderr)
            sys.exit(130)
        sys.stdout.flush()
        if output.error is not None:
            fail(f"the output could not be printed ({output.error.strerror}); all files are written.")


def fail(message: str) -> NoReturn:
    """Prints an error of one line to stderr and ends the process with exit code 2."""
    errors.print_line(message)
    sys.exit(2)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM, which a batch system sends before it ends a job, interrupt the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # Python sends no signals to other threads
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """Keeps JAX from removing its frames, which show whether an error was raised in JAX."""
    config: Any = jax.config  # Older type stubs lack its settings.
    before = config.jax_traceback_filtering
    config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        config.update("jax_traceback_filtering", before)


class _Output:
    """A standard stream that never raises: after an error it discards the output, so that the work continues.

    Attributes:
      error: why the stream could not be written; None if it could, or if the program that reads it has ended early, as
        `head` does.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="jaxdistill")

    def write(self, text: str) -> int:
        with self._discarding():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._discarding():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.error = error
            with open(os.devnull, "wb") as nowhere:  # so that flushing the buffers of Python cannot fail
                os.dup2(nowhere.fileno(), self._stream.fileno())


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that a terminal's encoding does not have by a spelling in ASCII, or by a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("jaxdistill", _in_ascii)


@contextlib.contextmanager
def _safe_output() -> Iterator[_Output]:
    """Replaces stdout and stderr, each of which may be missing, by streams that never raise; yields that of stdout."""
    before = sys.stdout, sys.stderr
    streams = [stream if stream is not None else open(os.devnull, "w") for stream in before]  # noqa: SIM115
    outputs = [*map(_Output, streams)]
    sys.stdout, sys.stderr = outputs  # type: ignore[assignment]
    try:
        yield outputs[0]
    finally:
        for output in outputs:
            output.flush()
        sys.stdout, sys.stderr = before
