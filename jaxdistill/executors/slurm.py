"""Jobs of SLURM, or of any other executor of the package submitit, as an executor of `concurrent.futures`."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from jaxdistill.executors.sharding import Sharding
from jaxdistill.runtime import checks
from jaxdistill.runtime.files import one_line
from jaxdistill.runtime.progress import say

_POLL_SECONDS = 1.0  # between two checks of the files that jobs write when they end


@dataclasses.dataclass(frozen=True)
class Jobs:
    """What each job of SLURM needs, and how many there are at a time.

    Attributes:
      jobs: at a time; each trains one shard.
      partition, account, qos, constraint: as for sbatch; "": the default of the cluster.
      gpus: of each job; a shard uses all of them.
      cpus: cores of each job.
      memory: of each job, GB; 0: the default of the cluster.
      time: limit of each job, minutes. A job that reaches it is queued again and goes on from its last save.
      folder: where submitit keeps the files of the jobs; all machines must see it.
    """

    jobs: int = 16
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpus: int = 0
    cpus: int = 4
    memory: int = 0
    time: int = 240
    folder: str = "slurm_jobs"

    def parameters(self) -> dict[str, Any]:
        """The parameters of `submitit.AutoExecutor`."""
        texts = {f"slurm_{name}": getattr(self, name) for name in ("partition", "account", "qos", "constraint")}
        numbers = {"gpus_per_node": self.gpus, "mem_gb": self.memory}
        required = {"timeout_min": self.time, "cpus_per_task": self.cpus, "name": "jaxdistill"}
        return required | {name: value for name, value in (texts | numbers).items() if value}


OPTIONS = tuple(field.name for field in dataclasses.fields(Jobs))
"""The options of a job, by name."""


@contextlib.contextmanager
def jobs(settings: Jobs, num_shards: int | None, allow_mixed: bool) -> Iterator[Sharding]:
    """Jobs of SLURM, one for each shard."""
    import submitit

    executor = submitit.AutoExecutor(folder=settings.folder, cluster="slurm")
    executor.update_parameters(**settings.parameters())
    say(f"the files of the jobs are in {settings.folder}")
    with SubmititExecutor(executor, settings.jobs) as pool:
        yield Sharding(pool, num_shards, None, allow_mixed, settings.jobs)


class _Restartable:
    """A function that submitit queues again when its job is preempted or reaches its time limit."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """The call to queue; submitit asks for it before the job ends."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *args, **kwargs)


class SubmititExecutor(concurrent.futures.Executor):
    """Runs functions as jobs of an executor of submitit, such as `submitit.AutoExecutor(folder="jobs")`.

    A thread submits what is waiting and looks every second which jobs have ended.

    Args:
      executor: of submitit, with its parameters.
      num_jobs: the most jobs that are queued or running at a time, >= 1.
    """

    def __init__(self, executor: Any, num_jobs: int = 16):
        if not all(hasattr(executor, name) for name in ("submit", "batch")):
            raise ValueError(f"executor must be one of submitit, such as AutoExecutor; got {checks.shown(executor)}.")
        self._executor, self._num_jobs = executor, checks.whole("num_jobs", num_jobs, 1)
        self._waiting: collections.deque[tuple[Future, Callable[[], Any]]] = collections.deque()
        self._running: dict[Future, Any] = {}  # the job of each
        self._changed, self._is_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._watch, name="jaxdistill-jobs", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """A future of ``fn(*args, **kwargs)``, which a job will call."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("no job can be submitted after shutdown")
            future: Future = Future()
            self._waiting.append((future, lambda: self._executor.submit(_Restartable(fn), *args, **kwargs)))
            self._changed.notify_all()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accepts no more functions; the jobs of futures that were cancelled, or all with `cancel_futures`, end."""
        with self._changed:
            self._is_closed = True
            if cancel_futures:
                for future in [*(future for future, _ in self._waiting), *self._running]:
                    future.cancel()
            self._changed.notify_all()
        if wait:
            self._thread.join()

    def _watch(self) -> None:
        """Submits and collects jobs until the executor is closed and nothing is left."""
        with self._changed:
            while self._waiting or self._running or not self._is_closed:
                self._collect_ended()
                self._submit_waiting()
                self._changed.wait(_POLL_SECONDS if self._waiting or self._running else None)

    def _submit_waiting(self) -> None:
        """Submits as many of the waiting functions as may run, as one array of jobs."""
        batch: list[tuple[Future, Callable[[], Any]]] = []
        while self._waiting and len(self._running) + len(batch) < self._num_jobs:
            future, start = self._waiting.popleft()
            if not future.cancelled():
                batch.append((future, start))
        if not batch:
            return
        try:
            with self._executor.batch():
                started = [(future, start()) for future, start in batch]
        except Exception as error:
            for future, _ in batch:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            return
        self._running.update(started)

    def _collect_ended(self) -> None:
        """Gives the results of the jobs that have ended to their futures, and ends those that were cancelled."""
        for future, job in list(self._running.items()):
            if future.cancelled():
                job.cancel(check=False)
            elif job.done():
                _hand_over(future, job)
            else:
                continue
            del self._running[future]


def _hand_over(future: Future, job: Any) -> None:
    """Gives the result or the error of a job that has ended to its future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        error = job.exception()
        result = None if error else job.result()
    except Exception as failure:
        error, result = failure, None
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(RuntimeError(f"job {job.job_id} failed, see {job.paths.stderr} ({one_line(error)})"))
