"""Says on which executor a training runs and how it is cut, and refuses executors on which JAX cannot run."""

import concurrent.futures
import dataclasses
from typing import Any

from jaxdistill.runtime import checks

_SHARDS_PER_WORKER = 4  # at most, so that a worker that is done early takes another shard
_FULL_SHARD = 256  # students that are worth a shard of their own: at the end of each shard, lanes are without work
_DEFAULT_SHARDS = 16  # at most, where the executor does not say how many workers it has
_LEAST_STUDENTS = 64  # of each of these
_EXPECTED = "executor must be a concurrent.futures.Executor"


@dataclasses.dataclass(frozen=True, eq=False)
class Sharding:
    """An executor with options; wherever an executor can be given, this can be given in its place.

    Attributes:
      executor: a `concurrent.futures.Executor` whose workers are processes: a `ProcessPoolExecutor` that spawns its
        processes, `client.get_executor()` of Dask, a `SubmititExecutor`, and others of that interface.
      num_shards: into how many shards a training is cut, >= 1. None: up to four for each worker, as long as a shard has
        256 students; or, if the number of workers is not known, up to 16, as long as a shard has 64 students.
      num_threads: threads of a shard on a CPU, >= 1; None: one for each core that the worker's process may use. The
        default suits executors with one worker for each core. It changes no number.
      allow_mixed: whether the workers may differ in their devices, their versions and JAX's settings. Such students
        round differently, so that the result depends on which worker trained which student.
      num_workers: how many shards run at the same time, >= 1; None: it is read from a `ProcessPoolExecutor`, and
        unknown for others.

    Raises:
      ValueError: the executor forks, or its workers are threads of this process; or an option is out of its range.
    """

    executor: concurrent.futures.Executor
    num_shards: int | None = None
    num_threads: int | None = 1
    allow_mixed: bool = False
    num_workers: int | None = None

    def __post_init__(self) -> None:
        _check_executor(self.executor)
        for name in ("num_shards", "num_threads", "num_workers"):
            if getattr(self, name) is not None:
                checks.whole(name, getattr(self, name), 1)
        if not isinstance(self.allow_mixed, bool):
            raise ValueError(f"allow_mixed must be True or False; got {checks.shown(self.allow_mixed)}.")
        if self.num_workers is None and isinstance(self.executor, concurrent.futures.ProcessPoolExecutor):
            object.__setattr__(self, "num_workers", getattr(self.executor, "_max_workers", None))

    def shards_of(self, num_students: int) -> int:
        """Into how many shards a training of `num_students` is cut."""
        if self.num_shards is not None:
            return min(self.num_shards, num_students)
        if self.num_workers is None:
            return max(1, min(_DEFAULT_SHARDS, num_students // _LEAST_STUDENTS))
        for_each = min(_SHARDS_PER_WORKER, num_students // (_FULL_SHARD * self.num_workers))
        return min(max(1, for_each) * self.num_workers, num_students)


def as_sharding(executor: Any) -> Sharding:
    """The `Sharding` of an executor with default options, or `executor` itself if it is one."""
    return executor if isinstance(executor, Sharding) else Sharding(executor)


def _check_executor(executor: Any) -> None:
    """Raises ValueError unless an executor's workers can be processes in which JAX works."""
    if hasattr(executor, "get_executor"):
        raise ValueError(f"{_EXPECTED}; got a {type(executor).__name__}: pass the result of its get_executor().")
    if isinstance(executor, str):
        raise ValueError(f"{_EXPECTED}; got {executor!r}: use it as in `with executors.using({executor!r}):`.")
    if not isinstance(executor, concurrent.futures.Executor):
        raise ValueError(f"{_EXPECTED}, such as a ProcessPoolExecutor; got {checks.shown(executor)}.")
    if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        raise ValueError(
            f"{_EXPECTED} of other processes, because a training uses all cores and devices of this process already; "
            f"got a {type(executor).__name__}: leave it out, or use a ProcessPoolExecutor."
        )
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "executor forks its processes, which JAX does not survive; make it with "
            'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")).'
        )
