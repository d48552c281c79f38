"""How the benchmark measures: repeats in turns, processes of their own, and the memory that each took at most."""

import concurrent.futures
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.baselines import Trained

_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's own event, also where a program came from the cache
_MOST_DISCARDED = 3  # turns in which something was compiled


class Compilations:
    """Counts the programs that this process compiles, or reads from the cache of compiled programs."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == _COMPILED


def in_turns(runs: Mapping[str, Callable[[], Trained]], repeats: int, name: str) -> dict[str, Any]:
    """Runs each once uncounted, then all in turns, A B C A B C; what compiled something in its turn runs again.

    Returns, by label, the seconds, steps, episodes and busy cores of every repeat.
    """
    compilations = Compilations()
    found: dict[str, dict[str, Any]] = {label: {"seconds": [], "steps": [], "cores_busy": []} for label in runs}
    for run in runs.values():
        run()
    for turn in range(repeats):
        for label, run in runs.items():
            for _ in range(1 + _MOST_DISCARDED):
                before, wall, busy = compilations.count, time.perf_counter(), time.process_time()
                trained = run()
                cores = (time.process_time() - busy) / (time.perf_counter() - wall)
                if compilations.count == before:
                    break
            one = found[label]
            one["seconds"].append(trained.seconds)
            one["steps"].append(trained.steps)
            one["cores_busy"].append(cores)
            one["used"] = dict(trained.used)
            one["compiled_meanwhile"] = one.get("compiled_meanwhile", 0) + compilations.count - before
        say(f"{name}, {turn + 1} of {repeats}: " + ", ".join(f"{k} {_last(one):.2f} M/s" for k, one in found.items()))
    return found


def _last(one: Mapping[str, Any]) -> float:
    return one["steps"][-1] / one["seconds"][-1] / 1e6


def with_rates(found: Mapping[str, Any], episodes: int) -> dict[str, Any]:
    """`found` of one label with steps/s and, of `episodes` a repeat, updates/s: min, median and max."""
    seconds = np.array(found["seconds"])
    steps, updates = np.array(found["steps"]) / seconds, episodes / seconds
    return {**found, "episodes": episodes, "steps_per_second": spread(steps), "updates_per_second": spread(updates)}


def spread(values: Any) -> dict[str, float]:
    """Least, median and greatest."""
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}


def in_child(fn: Callable[..., dict[str, Any]], *arguments: Any, cache: str | None = None) -> dict[str, Any]:
    """fn(*arguments) in a fresh process; adds the most memory it held, in bytes, and the load of the machine before.

    `cache`: folder of compiled programs; None: that of this process.
    """
    spawn = multiprocessing.get_context("spawn")
    folder = jax.config.values["jax_compilation_cache_dir"] if cache is None else cache
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with concurrent.futures.ProcessPoolExecutor(1, spawn, initializer=_begin, initargs=(folder,)) as executor:
        return executor.submit(_measured, fn, *arguments).result() | {"load_before": load}


def _begin(cache: str | None) -> None:
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _measured(fn: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    found = fn(*arguments)
    return found | {"peak_memory": peak_memory()}


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
