"""One training in several processes, on one machine or many: how its students are divided and its results gathered.

Every process runs the same program. It trains its share of the students, sends their results to the other processes,
and ends with the result of all students; only the first process writes files. Messages go through the key-value store
of JAX's coordination service: it needs no collective operations of the accelerator, and a process that waits for a
message can be interrupted.
"""

import _thread
import atexit
import contextlib
import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from jaxdistill.runtime.files import one_line

_PIECE_BYTES = 2**20  # of one entry of the store
_SIGN_SECONDS = 1.0  # between two signs of life of a process
_SILENT_SECONDS = 20.0  # without a sign of life until a process is taken for lost
_POLL_SECONDS, _CONNECT_SECONDS = 0.05, 120
_EXCHANGE_NUMBERS = itertools.count()  # the same in every process, since all run the same program
_reason: str | None = None  # why another process is taken for lost, once one is
_is_watching = False
_Signs = dict[int, tuple[bytes | None, float]]  # by rank: the last sign of life, and the time when it was first read


class Lost(RuntimeError):
    """Raised where another process has died or failed."""


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def rank() -> int:
    """The number of this process, 0 .. count - 1."""
    return jax.process_index()


def is_writer() -> bool:
    """True in the first process, the only one that writes files and reports progress."""
    return rank() == 0


def connect(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Connects the processes of this program; does nothing where there is only one.

    Args:
      coordinator: host:port of process 0; "": taken from the cluster's environment (SLURM, Open MPI, TPU pods, ...), if
        there is one.
      num_processes, process_id: must be given with a coordinator, and only then.

    Raises:
      ValueError: some of the three arguments are missing or out of range.
      ConnectionError: the processes did not reach the coordinator in time.
    """
    if coordinator or num_processes or process_id >= 0:
        if not coordinator or ":" not in coordinator or num_processes < 1 or not 0 <= process_id < num_processes:
            raise ValueError(
                "--coordinator=host:port, --num_processes=N and --process_id in 0 .. N-1 belong together; got "
                f"{coordinator!r}, {num_processes} and {process_id}."
            )
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id,
                cluster_detection_method="deactivate", initialization_timeout=_CONNECT_SECONDS,
            )  # fmt: skip
        except RuntimeError as error:
            raise ConnectionError(f"The processes did not meet at {coordinator}: {one_line(error)}") from None
    else:
        try:
            jax.distributed.initialize()
        except ValueError:  # this process does not run in a cluster
            return
    check()


def share(students: list[int], first: int) -> list[int]:
    """The students of a queue that this process trains: every `count()`-th one.

    Args:
      students: the queue, the same in every process.
      first: number of students in the queues before this one. The division goes on where theirs ended, so that the
        shares of any two processes differ by at most one student in all.
    """
    return students[(rank() - first) % count() :: count()]


def check() -> None:
    """Raises `Lost` if another process has been lost; the first call starts the thread that watches them."""
    _start_to_watch()
    if _reason is not None:
        raise Lost(f"{_reason}; what was trained is saved, and the same command in every process goes on from it.")


def failed(message: str) -> None:
    """Tells the other processes that this one stops, so that they do not wait for it."""
    if _is_watching:
        _publish_sign(f"failed: {message}")


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code.

    One of several processes ends at once: a normal exit of Python waits for the other processes, which may be lost.
    """
    if _is_watching:
        sys.stdout.flush(), sys.stderr.flush()
        time.sleep(3 * _SIGN_SECONDS)  # so that the other processes can read why
        os._exit(code)
    sys.exit(code)


def exchange(data: bytes) -> list[bytes]:
    """Gathers the data that every process gives to the same call, in the order of their ranks.

    Raises:
      Lost: another process was lost before its data arrived.
    """
    if count() == 1:
        return [data]
    number, store = next(_EXCHANGE_NUMBERS), _store()
    check()
    pieces = [data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES)]
    for i, piece in enumerate(pieces):
        store.key_value_set_bytes(f"jaxdistill/{number}/{rank()}/{i}", piece)
    store.key_value_set_bytes(f"jaxdistill/{number}/{rank()}/pieces", str(len(pieces)).encode())
    gathered = [data if r == rank() else _receive(f"jaxdistill/{number}/{r}") for r in range(count())]
    # A process that has sent its data of this exchange has read all data of the one before, which can be deleted now.
    store.key_value_delete(f"jaxdistill/{number - 1}/{rank()}/")
    return gathered


def combined(computed_here: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merges the arrays of all processes: each entry comes from the process that computed it.

    Args:
      computed_here: bool [...], the entries that this process has computed.
      arrays: [..., *rest], by name; the names and `rest` must be the same in every process.
    """
    if count() == 1:
        return dict(arrays)
    buffer = io.BytesIO()
    computed = {name: array[computed_here] for name, array in arrays.items()}
    np.savez(buffer, allow_pickle=False, computed_here=computed_here, **computed)
    merged = {name: array.copy() for name, array in arrays.items()}
    for data in exchange(buffer.getvalue()):
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            for name, array in merged.items():
                array[file["computed_here"]] = file[name]
    return merged


def from_writer(data: bytes) -> bytes:
    """The data that the first process gives to this call; the argument of the others is ignored."""
    return exchange(data if is_writer() else b"")[0]


def _start_to_watch() -> None:
    """Starts the thread that publishes signs of life and reads those of the other processes, if there are any."""
    global _is_watching
    if _is_watching or count() == 1:
        return
    _is_watching = True
    atexit.register(_publish_sign, "ended")
    threading.Thread(target=_watch, name="jaxdistill-processes", daemon=True).start()


def _store() -> Any:
    from jax._src import distributed  # JAX has no public name for its client of the store

    return distributed.global_state.client


def _receive(prefix: str) -> bytes:
    """Waits for a message and returns it; `Lost` if a process is lost meanwhile."""
    while (pieces := _get(f"{prefix}/pieces")) is None:
        check()
        time.sleep(_POLL_SECONDS)
    return b"".join(_store().blocking_key_value_get_bytes(f"{prefix}/{i}", 60_000) for i in range(int(pieces)))


def _get(key: str) -> bytes | None:
    try:
        return _store().key_value_try_get_bytes(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise Lost(f"process 0, which the others meet at, cannot be reached ({one_line(error)})") from None


def _publish_sign(sign: str) -> None:
    """Writes this process's sign into the store: a count while it lives, "ended", or "failed: " and the reason."""
    with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):  # the store ends with process 0
        _store().key_value_set_bytes(f"jaxdistill/alive/{rank()}", sign.encode(), allow_overwrite=True)


def _watch() -> None:
    """Publishes signs of life and reads those of the other processes; interrupts the main thread when one is lost."""
    global _reason
    last_signs: _Signs = {r: (None, time.monotonic()) for r in range(count()) if r != rank()}
    for number in itertools.count():
        _publish_sign(str(number))
        _reason = _read_signs(last_signs)
        if _reason is not None:
            _thread.interrupt_main()
            return
        time.sleep(_SIGN_SECONDS)


def _read_signs(last_signs: _Signs) -> str | None:
    """Brings the last signs of the other processes up to date; returns the reason if one of them is lost."""
    for other, (last_sign, since) in list(last_signs.items()):
        try:
            sign = _get(f"jaxdistill/alive/{other}")
        except Lost as error:
            return str(error)
        if sign == b"ended":
            del last_signs[other]
        elif sign is not None and sign.startswith(b"failed"):
            return f"process {other} {sign.decode()}"
        elif sign != last_sign:
            last_signs[other] = sign, time.monotonic()
        elif sign is not None and time.monotonic() - since > _SILENT_SECONDS:
            return f"process {other} has given no sign of life for {_SILENT_SECONDS:.0f} seconds"
    return None
