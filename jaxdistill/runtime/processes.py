"""Several processes, on one machine or many, and one training: who trains whom, and how all come to hold one result.

Every process runs the same program. It trains its share of the students, tells the others what they gave, and ends with
the same result as they; only the first process writes files. What they say to each other goes through the store of
JAX's coordination service, which needs no collectives of the accelerator, and in which waiting can be interrupted.
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

_PIECE = 2**20  # bytes of one message of the store
_BEAT_SECONDS, _SILENT_SECONDS = 1.0, 20.0  # between signs of life, and without one until a process is given up
_POLL_SECONDS, _CONNECT_SECONDS = 0.05, 120
_NUMBERS = itertools.count()  # of the exchanges; every process counts the same ones
_lost: str | None = None  # why this program cannot go on
_watching = False


class Lost(RuntimeError):
    """Another process has died, or failed."""


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def rank() -> int:
    """Which of them this is, 0 .. count - 1."""
    return jax.process_index()


def is_writer() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def connect(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of this program; nothing where there is only this one.

    Args:
      coordinator: host:port of process 0; "": as the cluster's environment says (SLURM, Open MPI, TPU pods, ...).
      num_processes, process_id: needed with a coordinator.

    Raises:
      ValueError: the three do not go together.
      ConnectionError: the processes did not find each other.
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
        except ValueError:  # no cluster
            return
    check()


def share(students: list[int], first: int) -> list[int]:
    """Those of a queue of students that this process trains; `first`: how many were dealt out before them."""
    return students[(rank() - first) % count() :: count()]


def check() -> None:
    """Raises `Lost` if another process has been lost; the first call begins to watch over them."""
    _begin_to_watch()
    if _lost is not None:
        raise Lost(f"{_lost}; what was trained is saved, and the same command in every process goes on from it.")


def failed(message: str) -> None:
    """Tells the others that this process stops, so that they need not wait for it."""
    if _watching:
        _say(f"failed: {message}")


def leave(code: int) -> NoReturn:
    """Ends this process; one of several does not wait for the others, as it would where all ends well."""
    if _watching:
        sys.stdout.flush(), sys.stderr.flush()
        time.sleep(3 * _BEAT_SECONDS)  # so that the others hear why
        os._exit(code)
    sys.exit(code)


def exchange(data: bytes) -> list[bytes]:
    """What every process gave to this call, by rank; `Lost` if one of them died meanwhile."""
    if count() == 1:
        return [data]
    number, store = next(_NUMBERS), _store()
    check()
    pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
    for i, piece in enumerate(pieces):
        store.key_value_set_bytes(f"jaxdistill/{number}/{rank()}/{i}", piece)
    store.key_value_set_bytes(f"jaxdistill/{number}/{rank()}/pieces", str(len(pieces)).encode())
    found = [data if r == rank() else _receive(f"jaxdistill/{number}/{r}") for r in range(count())]
    # Whoever has written this exchange has read the one before.
    store.key_value_delete(f"jaxdistill/{number - 1}/{rank()}/")
    return found


def combined(mine: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of all processes in one: each entry comes from the process that has it.

    Args:
      mine: bool [...], the entries that this process has.
      arrays: [..., *rest], by name; other names or other `rest` than in the other processes are an error.
    """
    if count() == 1:
        return dict(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, mine=mine, **{name: array[mine] for name, array in arrays.items()})
    whole = {name: array.copy() for name, array in arrays.items()}
    for data in exchange(buffer.getvalue()):
        with np.load(io.BytesIO(data), allow_pickle=False) as theirs:
            for name, array in whole.items():
                array[theirs["mine"]] = theirs[name]
    return whole


def from_writer(data: bytes) -> bytes:
    """What the writer gave to this call."""
    return exchange(data if is_writer() else b"")[0]


def _begin_to_watch() -> None:
    """Starts to give signs of life and to look for those of the others, if there are any."""
    global _watching
    if _watching or count() == 1:
        return
    _watching = True
    atexit.register(_say, "ended")
    threading.Thread(target=_watch, name="jaxdistill-processes", daemon=True).start()


def _store() -> Any:
    from jax._src import distributed  # JAX offers no public name for it

    return distributed.global_state.client


def _receive(prefix: str) -> bytes:
    """A message, once it is there."""
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


def _say(sign: str) -> None:
    """A sign of life, or the last one."""
    with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):  # process 0 has ended
        _store().key_value_set_bytes(f"jaxdistill/alive/{rank()}", sign.encode(), allow_overwrite=True)


def _watch() -> None:
    """Gives signs of life and looks for those of the others; the main thread is interrupted when one is missing."""
    global _lost
    seen: dict[int, tuple[bytes | None, float]] = {r: (None, time.monotonic()) for r in range(count()) if r != rank()}
    for beat in itertools.count():
        _say(str(beat))
        for other, (last, since) in list(seen.items()):
            try:
                now = _get(f"jaxdistill/alive/{other}")
            except Lost as error:
                _lost = str(error)
                break
            if now == b"ended":
                del seen[other]
            elif now is not None and now.startswith(b"failed"):
                _lost = f"process {other} {now.decode()}"
            elif now != last:
                seen[other] = now, time.monotonic()
            elif now is not None and time.monotonic() - since > _SILENT_SECONDS:
                _lost = f"process {other} has given no sign of life for {_SILENT_SECONDS:.0f} seconds"
        if _lost is not None:
            _thread.interrupt_main()
            return
        time.sleep(_BEAT_SECONDS)
