"""Sends the shards of a training to an executor, and collects their results as they come."""

import concurrent.futures
import contextlib
import dataclasses
import json
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from jaxdistill.executors import portable, saves, worker
from jaxdistill.executors.saves import Finished, Place
from jaxdistill.executors.sharding import Sharding
from jaxdistill.executors.worker import Job, Outcome
from jaxdistill.runtime.errors import ExecutorFailed, RemoteError
from jaxdistill.runtime.files import one_line
from jaxdistill.runtime.progress import Progress, say, waiting
from jaxdistill.runtime.surroundings import package_versions

_POLL_SECONDS = 0.1
_STOP_SECONDS = 30.0  # for running shards to save and stop
_AHEAD = 2  # shards per worker that are sent before one of them is done, so that no worker waits


@dataclasses.dataclass(frozen=True)
class Work:
    """A training that can be cut into shards.

    Attributes:
      shared: "function" and what else all shards need, by name, as in `worker.Job`.
      cut: returns the shards of the training for a number of shards: a function that makes the part of each, to be
        pickled when it is sent, and the share of the work in each.
      num_students: number of students of the training.
      identity: yields what distinguishes this training from others.
      keep: called with the index of a shard and its arrays.
    """

    shared: Mapping[str, Any]
    cut: Callable[[int], tuple[Sequence[Callable[[], Any]], Sequence[float]]]
    num_students: int
    identity: Callable[[], Iterable[bytes]]
    keep: Callable[[int, Mapping[str, Any]], None]


def run(sharding: Sharding, work: Work, progress: Progress) -> dict[str, Any]:
    """Trains all shards on the executor; returns the surroundings of the workers, as `xla.rounding` does.

    If several kinds of workers are allowed and there were several, they are listed under "workers".

    Args:
      sharding: the executor and how the training is cut.
      work: the training.
      progress: told what part of the work is in finished shards, and how many these are.

    Raises:
      ValueError: something cannot be sent, workers differ, or a shard has raised it.
      ExecutorFailed: shards were lost. All others have been trained and kept.
      KeyboardInterrupt: all students that had finished have been kept.
    """
    shared = portable.dumps(work.shared)
    with saves.place(work.identity) as place:
        num_shards = saves.number_of_shards(place, sharding.shards_of(work.num_students))
        dispatch = _Dispatch(sharding, work, place, progress, num_shards)
        dispatch.read_finished()
        with dispatch.stopping():
            dispatch.train(shared)
            dispatch.report()
        return dispatch.surroundings()


class _Dispatch:
    """The shards of a training that is running."""

    def __init__(self, sharding: Sharding, work: Work, place: Place, progress: Progress, num_shards: int):
        self.sharding, self.work, self.place, self.progress = sharding, work, place, progress
        self.parts, shares = work.cut(num_shards)
        self.shares = [float(share) / (sum(shares) or 1.0) for share in shares]
        self.label = progress.label
        self.waiting = list(range(len(self.parts)))  # those that have not been sent
        self.running: dict[Future, int] = {}
        self.done, self.steps = 0.0, 0  # the share of the finished shards, and the steps of all
        self.num_finished = 0
        self.lost: list[str] = []  # the reason for each shard that the executor has lost
        self.kinds: list[dict[str, Any]] = []  # the different surroundings of the workers
        self.told: set[tuple[type[Warning], str]] = set()
        self.report()

    def read_finished(self) -> None:
        """Takes over the shards that an earlier run has finished."""
        for index in list(self.waiting):
            finished = self.place.read(index)
            if finished is not None:
                self._check_kind(finished.surroundings, f"the run before, whose shards are in {self.place.folder}")
                self.waiting.remove(index)
                self._keep(index, finished)
        if self.num_finished:
            say(f"going on from {self.place.folder}: {self.num_finished} of {len(self.parts)} shards are finished")

    def train(self, shared: bytes) -> None:
        """Sends the shards, and returns when all of them are finished; errors as `run` says."""
        window = len(self.parts)
        if self.sharding.num_workers is not None:
            window = _AHEAD * self.sharding.num_workers
        self.send(shared, window)
        while self.running:
            done, _ = concurrent.futures.wait(self.running, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in sorted(done, key=self.running.__getitem__):
                self._collect(self.running.pop(future), future)
            self.send(shared, window)
            self.report()
        if self.lost or self.waiting:
            raise ExecutorFailed(self._failure())

    def send(self, shared: bytes, window: int) -> None:
        """Sends shards until so many are on their way, unless the executor has failed."""
        versions = {} if self.sharding.allow_mixed else package_versions()
        while self.waiting and len(self.running) < window and not self.lost:
            index = self.waiting[0]
            part = pickle.dumps(self.parts[index](), pickle.HIGHEST_PROTOCOL)
            job = Job(index, shared, part, self.place, versions, worker.cache_settings())
            try:
                self.running[self.sharding.executor.submit(worker.run_job, job)] = index
            except Exception as error:  # the executor is broken, or has been shut down
                self.lost.append(one_line(error))
                return
            self.waiting.remove(index)

    def report(self) -> None:
        """Reports the progress."""
        self.progress.rename(f"{self.label}, {self.num_finished} of {len(self.parts)} shards")
        self.progress(min(self.done, 1.0), self.steps)

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """If the block raises an exception, stops all shards and keeps what they have finished."""
        try:
            yield
        except BaseException:
            saves.withdraw(self.place)
            for future, index in self.running.items():
                if not self.place.is_begun(index):  # The others see the folder, and return what they have finished.
                    future.cancel()
            with waiting("running shards to save and stop"):
                done, late = concurrent.futures.wait(self.running, _STOP_SECONDS)
            for future in done:
                with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                    self._collect(self.running[future], future)
            for future in late:
                future.cancel()
            self.progress.steps = self.steps
            raise

    def surroundings(self) -> dict[str, Any]:
        """The surroundings of the workers."""
        return self.kinds[0] if len(self.kinds) == 1 else {"workers": self.kinds}

    def _collect(self, index: int, future: Future) -> None:
        """Takes the outcome of a shard; raises its error."""
        try:
            outcome: Outcome = future.result()
        except (Exception, concurrent.futures.CancelledError) as error:
            self.lost.append(_reason(error))
            return
        for category, text in outcome.warnings:
            if (category, text) not in self.told:
                self.told.add((category, text))
                warnings.warn(text, category, stacklevel=6)
        if outcome.error:
            remote = RemoteError(f"in a worker on {outcome.worker}:\n{outcome.trace}", outcome.is_of_surroundings)
            raise pickle.loads(outcome.error) from remote
        if outcome.is_stopped:
            self.lost.append(f"a worker on {outcome.worker} was interrupted")
            if outcome.finished is not None:
                self._keep(index, outcome.finished, is_whole=False)
            return
        assert outcome.finished is not None
        self._check_kind(outcome.finished.surroundings, f"the worker on {outcome.worker}")
        self.place.write(index, outcome.finished)
        self._keep(index, outcome.finished)

    def _keep(self, index: int, finished: Finished, is_whole: bool = True) -> None:
        self.work.keep(index, finished.arrays)
        self.steps += finished.steps
        if is_whole:
            self.num_finished += 1
            self.done += self.shares[index]

    def _check_kind(self, surroundings: dict[str, Any], which: str) -> None:
        """Notes the surroundings of a worker; ValueError if they differ from those of the others and must not."""
        if surroundings in self.kinds:
            return
        if self.kinds and not self.sharding.allow_mixed:
            first = self.kinds[0]
            different = ", ".join(
                f"{name} {json.dumps(surroundings.get(name))} and not {json.dumps(first.get(name))}"
                for name in sorted(first.keys() | surroundings.keys())
                if first.get(name) != surroundings.get(name)
            )
            raise ValueError(
                f"{which} has {different}, so that its numbers are rounded differently from those of the others; use "
                "workers of one kind, or allow it with allow_mixed (--allow_mixed)."
            )
        self.kinds.append(surroundings)

    def _failure(self) -> str:
        """What was lost, why, and what to do, in one line."""
        num = len(self.parts)
        text = f"{num - self.num_finished} of {num} shards were lost: {self.lost[0].rstrip('.')}. "
        if self.place.seconds is not None:
            return (
                text + f"The finished ones are saved in {self.place.folder}, and the same program goes on from there."
            )
        return text + "The finished ones are in the error's .result; inside jaxdistill.resumable they would be saved."


def _reason(error: BaseException) -> str:
    """Why the executor has lost a shard, in one line."""
    if isinstance(error, BrokenProcessPool):
        return (
            "a process of the pool ended (it was killed, memory ran out, or the main program lacks the line "
            "if __name__ == '__main__':)"
        )
    return one_line(error)
