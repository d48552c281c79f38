"""What a worker does with a shard: it trains it, saves it, and returns its result, its warnings or its error."""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle
import jax

from jaxdistill.executors import portable
from jaxdistill.executors.saves import Finished, Place
from jaxdistill.kernels import choice
from jaxdistill.runtime import errors, progress
from jaxdistill.runtime.surroundings import package_versions

_STOP_SECONDS = 2.0  # between two checks whether the training goes on, of a disk that a thousand workers may share
_CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
_RUNS_JOB = threading.Lock()  # held while this process trains a shard


class StoppedShard(KeyboardInterrupt):
    """Raised by the function of a shard after a KeyboardInterrupt; `arrays` are of the students that had finished."""

    def __init__(self, arrays: Mapping[str, Any]):
        super().__init__()
        self.arrays = dict(arrays)


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard, as it is sent to a worker.

    Attributes:
      index: its number among the shards of the training.
      shared: `portable.dumps` of the function that trains a shard, under the name "function", and of its keyword
        arguments that all shards have in common. The function is called as function(part=..., report=..., **shared).
      part: the pickled argument `part`.
      place: where it is saved.
      versions: those of the caller, which the worker must have too; {}: they may differ.
      settings: the caller's settings of JAX for the files of compiled programs.
    """

    index: int
    shared: bytes
    part: bytes
    place: Place
    versions: dict[str, str]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a worker returns of a shard.

    Attributes:
      worker: the name of its machine.
      finished: the result, of some students only if it was stopped; None after an error.
      is_stopped: whether it was stopped.
      warnings: those that the training gave: the category and the text of each.
      error: the pickled exception; b"" without an error.
      trace: the traceback of the error, as text.
      is_of_surroundings: whether the error is one that `runtime.errors.is_of_surroundings` recognises by its traceback.
      seconds: from the start of the job to its end.
    """

    worker: str
    finished: Finished | None = None
    is_stopped: bool = False
    warnings: tuple[tuple[type[Warning], str], ...] = ()
    error: bytes = b""
    trace: str = ""
    is_of_surroundings: bool = False
    seconds: float = 0.0


def run_job(job: Job) -> Outcome:
    """Trains a shard; every error is returned and not raised, because not every exception can be sent as it is."""
    started, outcome = time.perf_counter(), Outcome(socket.gethostname())
    with _recorded() as messages:
        try:
            finished, is_stopped = _trained(job)
            outcome = dataclasses.replace(outcome, finished=finished, is_stopped=is_stopped)
        except KeyboardInterrupt:  # before the training began
            outcome = dataclasses.replace(outcome, is_stopped=True)
        except Exception as error:
            outcome = dataclasses.replace(
                outcome,
                trace=traceback.format_exc(),
                is_of_surroundings=errors.is_of_surroundings(error),
                error=_pickled(error),
            )
    texts = dict.fromkeys((_category(message), str(message.message)) for message in messages)
    return dataclasses.replace(outcome, warnings=tuple(texts), seconds=time.perf_counter() - started)


def end_with_parent() -> None:
    """Ends this process when the process that started it has died; a shard that it trains is saved before.

    A worker of a `ProcessPoolExecutor` would otherwise wait for shards for ever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        with _RUNS_JOB:
            os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, name="jaxdistill-parent", daemon=True).start()


def _trained(job: Job) -> tuple[Finished, bool]:
    """The result of a shard, and whether it was stopped before its end."""
    _check_versions(job.versions)
    _keep_programs(job.settings)
    shared = dict(portable.loads(job.shared))
    steps, is_followed = [0], job.place.is_seen()
    report = _reporter(steps, job.place if is_followed else None)

    def finished(arrays: Mapping[str, Any]) -> Finished:
        return Finished(dict(arrays), steps[0], choice.rounding())

    try:
        with job.place.running(job.index), progress.silent():
            result = finished(shared.pop("function")(part=pickle.loads(job.part), report=report, **shared))
            job.place.write(job.index, result)
            return result, False
    except StoppedShard as stop:
        return finished(stop.arrays), True


def _reporter(steps: list[int], place: Place | None) -> Callable[[float, int, float], None]:
    """A hook that keeps the number of steps, and raises KeyboardInterrupt when the training must stop.

    It must when its sign is removed, or when the process that started this worker has died.
    """
    last_check, parent = [time.monotonic()], multiprocessing.parent_process()

    def report(fraction: float, num_steps: int, left: float) -> None:
        steps[0] = num_steps
        if fraction >= 1 or time.monotonic() - last_check[0] < _STOP_SECONDS:
            return
        last_check[0] = time.monotonic()
        if (place is not None and not place.is_seen()) or (parent is not None and not parent.is_alive()):
            raise KeyboardInterrupt

    return report


def _check_versions(expected: Mapping[str, str]) -> None:
    """Raises ValueError unless the versions here are the expected ones; nothing is expected by {}."""
    versions = package_versions() if expected else {}
    different = [
        f"{name} {versions.get(name, 'missing')} and not {expected.get(name, 'missing')}"
        for name in sorted(versions.keys() | expected.keys())
        if versions.get(name) != expected.get(name)
    ]
    if different:
        raise ValueError(
            f"the worker on {socket.gethostname()} has {', '.join(different)}, so that its numbers could differ; "
            "install the same versions, or allow it with allow_mixed (--allow_mixed)."
        )


def cache_settings() -> dict[str, Any]:
    """The settings of JAX for the files of compiled programs in this process."""
    config: Any = jax.config
    return {name: getattr(config, name) for name in _CACHE_SETTINGS}


def _keep_programs(settings: Mapping[str, Any]) -> None:
    """Keeps compiled programs where the caller does, unless this process keeps them already."""
    config: Any = jax.config
    if settings["jax_compilation_cache_dir"] and not config.jax_compilation_cache_dir:
        for name, value in settings.items():
            config.update(name, value)


@contextlib.contextmanager
def _recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Records the warnings of the block.

    Python records the warnings of a whole process. So if this process runs several shards at a time, the first of them
    records those of all.
    """
    if not _RUNS_JOB.acquire(blocking=False):
        yield []
        return
    try:
        with warnings.catch_warnings(record=True) as messages:
            yield messages
    finally:
        _RUNS_JOB.release()


def _category(message: warnings.WarningMessage) -> type[Warning]:
    """The category of a warning, or UserWarning for one that the caller may not know."""
    return message.category if message.category.__module__ == "builtins" else UserWarning


def _pickled(error: Exception) -> bytes:
    """The bytes of an exception, or of a RuntimeError with its message if it cannot be pickled."""
    try:
        data = cloudpickle.dumps(error.with_traceback(None))
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
