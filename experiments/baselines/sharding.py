"""What training in shards costs: python -m experiments.baselines.sharding [iterations] [repeats].

Prints the bytes and the times of a shard, and then the time of one training on two threads of this process and on two
processes with one thread each, in turns, with the start of the processes. The students are those of Fig. 8 with
one-step targets, on 100 grids. Measure on a machine that runs nothing else. Compiled programs come from the cache, so
the second call is the one that counts.
"""

import concurrent.futures
import multiprocessing
import pickle
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import jaxdistill
from experiments import fig8
from jaxdistill import teachers
from jaxdistill.cli.main import keep_compiled_programs
from jaxdistill.executors import Sharding
from jaxdistill.executors.saves import Place
from jaxdistill.executors.worker import Outcome
from jaxdistill.runtime import streams
from jaxdistill.scheduling import pool
from jaxdistill.training import shards
from jaxdistill.training.config import Config, resolve_cell

NUM_MDPS, NUM_WORKERS, NUM_CHECKPOINTS = 100, 2, 100


class Measured(concurrent.futures.Executor):
    """A pool of processes that records the bytes and the times of what goes through it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = concurrent.futures.ProcessPoolExecutor(NUM_WORKERS, mp_context=context)
        self.sent: list[int] = []
        self.outcomes: list[Outcome] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future:
        """Submits to the pool."""
        self.sent.append(len(pickle.dumps(args)))
        future = self.pool.submit(fn, *args, **kwargs)
        future.add_done_callback(lambda done: self.outcomes.append(done.result()))
        return future


def _problem() -> tuple[jaxdistill.MDP, jaxdistill.Teacher]:
    mdps = jaxdistill.sample_mdps(streams.from_seed(0), NUM_MDPS)
    return mdps, teachers.optimal(mdps)


def _train(num_iterations: int, executor: Any) -> None:
    """The training that is measured."""
    options: dict[str, Any] = dict(num_iterations=num_iterations, num_checkpoints=min(NUM_CHECKPOINTS, num_iterations))
    jaxdistill.train(streams.from_seed(1), *_problem(), fig8.PAPER_METHODS, executor=executor, progress=True, **options)


def _costs_of_a_shard() -> None:
    """Prints what a shard costs that trains for two iterations: hardly anything but sending, starting, collecting."""
    started = time.perf_counter()
    with Measured() as executor:
        executor.pool.submit(_import).result()
        print(f"a worker: {time.perf_counter() - started:.2f} s to start a process and import jaxdistill")
        _train(2, Sharding(executor, 20, num_workers=NUM_WORKERS))
        outcomes = executor.outcomes
        executor.pool.shutdown()
    seconds = [outcome.seconds for outcome in outcomes]
    num_students = len(fig8.PAPER_METHODS) * NUM_MDPS / len(outcomes)
    results = [len(pickle.dumps(outcome)) for outcome in outcomes]
    print(f"{len(outcomes)} shards of {num_students:.0f} students each, of 20 x 20 cells")
    print(f"sent: {statistics.median(executor.sent) / 1e6:.2f} MB; returned: {statistics.median(results) / 1e6:.2f} MB")
    print(
        f"in a worker: first {max(seconds[:NUM_WORKERS]):.2f} s, later {statistics.median(seconds[NUM_WORKERS:]):.2f} s"
    )
    _costs_for_the_caller(outcomes[0])


def _costs_for_the_caller(outcome: Outcome) -> None:
    """Prints the time that the calling process needs for a shard."""
    mdps, teacher = _problem()
    cells = [resolve_cell(name, jaxdistill.methods.get(name), teacher, Config()) for name in fig8.PAPER_METHODS]
    tables = shards._Tables(mdps, cells, np.ones(NUM_MDPS), None, 1)
    parts = shards.cut(len(cells), np.ones(NUM_MDPS), 20)
    started = time.perf_counter()
    for part in parts:
        pickle.dumps(tables.part(part), pickle.HIGHEST_PROTOCOL)
    print(f"caller: {(time.perf_counter() - started) / len(parts) * 1e3:.2f} ms to make and pickle a part", end="; ")
    data, started = pickle.dumps(outcome), time.perf_counter()
    loaded = pickle.loads(data)
    print(f"{(time.perf_counter() - started) * 1e3:.2f} ms to read an outcome", end="; ")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        assert loaded.finished is not None
        Place(folder, "", 1.0).write(0, loaded.finished)
        print(f"{(time.perf_counter() - started) * 1e3:.2f} ms to save it")


def _import() -> None:
    import jaxdistill  # noqa: F401


def main(num_iterations: int = 2000, repeats: int = 3) -> None:
    """Prints all measurements."""
    keep_compiled_programs()
    _costs_of_a_shard()
    runs: dict[str, Callable[[int], None]] = {"threads": _on_threads, "processes": _on_processes}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), _processor_seconds()
            run(num_iterations)
            times[name].append((time.perf_counter() - wall, _processor_seconds() - processor))
    for i, kind in enumerate(("wall clock", "processor time")):
        seconds = {name: [pair[i] for pair in pairs] for name, pairs in times.items()}
        for name, values in seconds.items():
            shown = ", ".join(f"{value:.1f}" for value in (min(values), statistics.median(values), max(values)))
            print(f"two {name}, {kind}: {shown} s (min, median, max)")
        ratio = statistics.median(seconds["processes"]) / statistics.median(seconds["threads"])
        print(f"processes / threads, {kind}: {ratio:.3f}", flush=True)


def _on_threads(num_iterations: int) -> None:
    with pool.limited(NUM_WORKERS):
        _train(num_iterations, None)


def _on_processes(num_iterations: int) -> None:
    """Starts the processes, trains, and ends them."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(NUM_WORKERS, mp_context=context) as executor:
        _train(num_iterations, executor)


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
