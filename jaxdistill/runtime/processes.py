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
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from jaxdistill.runtime.files import one_line

_PIECE_BYTES = 2**20  # of one entry of the store
_SIGN_SECONDS = 1.0  # between two signs of life of a process
_SILENT_SECONDS = 20.0  # without a sign of life until a process is taken for lost
_POLL_SECONDS, _CONNECT_SECONDS = 0.05, 120
_WITHOUT_LIMIT = 10**6  # seconds
_FIRST_LINE_SECONDS, _LINE_SECONDS = 5.0, 60.0  # until a wait is reported for the first time, and then again
# The variables by which JAX recognises that a launcher has started several processes, and the one with their number.
_LAUNCHERS = {
    "JAX": ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    "SLURM": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
_COUNTS = {"JAX": "JAX_NUM_PROCESSES", "SLURM": "SLURM_NTASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
_EXCHANGE_NUMBERS = itertools.count()  # the same in every process, since all run the same program
_reason: str | None = None  # why another process is taken for lost, once one is
_is_watching = False
_is_connecting = False
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
      coordinator: host:port of process 0; "": taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
        or from the cluster's environment (SLURM, Open MPI, TPU pods, ...), if there is one.
      num_processes, process_id: must be given with a coordinator, and only then.

    Raises:
      ValueError: some of the three arguments, or of a launcher's variables, are missing or out of range.
      ConnectionError: the processes did not reach the coordinator in time.
    """
    is_given = bool(coordinator or num_processes or process_id >= 0)
    launcher = "" if is_given else _launcher()
    if launcher == "JAX":
        coordinator, *numbers = (os.environ[name] for name in _LAUNCHERS[launcher])
        if not all(number.isdecimal() for number in numbers):
            raise ValueError(
                f"JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers; got {' and '.join(numbers)}."
            )
        num_processes, process_id = map(int, numbers)
    if is_given or launcher == "JAX":
        if not coordinator or ":" not in coordinator or num_processes < 1 or not 0 <= process_id < num_processes:
            raise ValueError(
                "--coordinator=host:port, --num_processes=N and --process_id in 0 .. N-1 belong together; got "
                f"{coordinator!r}, {num_processes} and {process_id}."
            )
        place = (coordinator, num_processes, process_id)
        _initialize(f"process {process_id} of {num_processes} at {coordinator}", place, "deactivate")
    else:
        try:
            _initialize(f"the processes that {launcher or 'the cluster'} has started", (None, None, None), None)
        except ValueError as error:
            if launcher:
                raise ValueError(f"The variables of {launcher} are wrong: {one_line(error)}") from None
            return  # this process does not run in a cluster
    check()


def _launcher() -> str:
    """The launcher in `_LAUNCHERS` that has started this process among others; "" if there is none.

    Raises ValueError if a launcher has started several processes and some of its variables are missing.
    """
    incomplete = []
    for name, variables in _LAUNCHERS.items():
        present = [variable for variable in variables if variable in os.environ]
        if len(present) == len(variables):
            return name
        number = os.environ.get(_COUNTS[name], "1" if name == "SLURM" else "")  # SLURM sets some variables without srun
        if present and number != "1":
            given = ", ".join(f"{variable}={os.environ[variable]}" for variable in present)
            missing = ", ".join(variable for variable in variables if variable not in present)
            incomplete.append(
                f"{name} has set {given} but not {missing}, so that the processes cannot meet; start this program by "
                "the launcher, give --coordinator, --num_processes and --process_id, or unset these variables."
            )
    if incomplete:
        raise ValueError(incomplete[0])
    return ""


def _initialize(what: str, place: tuple[str | None, int | None, int | None], detection: str | None) -> None:
    """Starts JAX's coordination service; raises ConnectionError if not all processes have connected in time.

    JAX would end this process without an exception when its own time limit is exceeded. So JAX waits in a thread
    without a limit, and this function raises the error after `_CONNECT_SECONDS`. Meanwhile it prints what it waits for.
    """
    global _is_connecting
    errors: list[Exception] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(
                *place, cluster_detection_method=detection, initialization_timeout=_WITHOUT_LIMIT
            )
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=connect, name="jaxdistill-connect", daemon=True)
    _is_connecting = True
    thread.start()
    with waiting(f"all processes to meet ({what}), for at most {_CONNECT_SECONDS} s"):
        end = time.monotonic() + _CONNECT_SECONDS
        while thread.is_alive() and time.monotonic() < end:
            thread.join(_POLL_SECONDS)
    if thread.is_alive():
        raise ConnectionError(
            f"The processes did not meet ({what}) in {_CONNECT_SECONDS} s; start all of them, with the same address."
        )
    _is_connecting = False
    for error in errors:
        if isinstance(error, ValueError):
            raise error
        raise ConnectionError(f"The processes did not meet ({what}): {one_line(error)}") from None


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Prints to stderr, within the block, what is waited for: after five seconds, and then every minute."""
    is_over = threading.Event()

    def say() -> None:
        seconds, started = _FIRST_LINE_SECONDS, time.monotonic()
        while not is_over.wait(seconds):
            if sys.stderr is not None:
                print(f"waiting for {what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            seconds = _LINE_SECONDS

    thread = threading.Thread(target=say, name="jaxdistill-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


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
    if _is_watching or _is_connecting:
        sys.stdout.flush(), sys.stderr.flush()
        if _is_watching:
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
    with waiting(f"process {prefix.rsplit('/', 1)[1]} to send its results"):
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
