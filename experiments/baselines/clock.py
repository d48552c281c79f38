"""How the benchmark measures: repeats in turns, a fresh process for each measurement, and the memory of a process."""

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

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's own event, also where a program came from the cache
_MOST_DISCARDED = 3  # runs of a turn that are repeated because something was compiled


class Compilations:
    """Counts the programs that this process compiles, or reads from the cache of compiled programs."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == COMPILED


def in_turns(runs: Mapping[str, Callable[[], Trained]], repeats: int, name: str) -> dict[str, Any]:
    """Runs each once uncounted, then all in turns, A B C A B C; a run that compiled something is repeated.

    Returns, by label, the seconds, steps and busy cores of every repeat, and facts about the last one.
    """
    compilations = Compilations()
    measured: dict[str, dict[str, Any]] = {label: {"seconds": [], "steps": [], "cores_busy": []} for label in runs}
    for run in runs.values():
        run()
    for turn in range(repeats):
        for label, run in runs.items():
            _measure_run(run, measured[label], compilations)
        rates = [f"{label} {data['steps'][-1] / data['seconds'][-1] / 1e6:.2f} M/s" for label, data in measured.items()]
        say(f"{name}, {turn + 1} of {repeats}: " + ", ".join(rates))
    return measured


def _measure_run(run: Callable[[], Trained], data: dict[str, Any], compilations: Compilations) -> None:
    """Appends one run to the measurements of its label."""
    for _ in range(1 + _MOST_DISCARDED):
        count_before, wall_start, busy_start = compilations.count, time.perf_counter(), time.process_time()
        trained = run()
        cores_busy = (time.process_time() - busy_start) / (time.perf_counter() - wall_start)
        num_compiled = compilations.count - count_before
        if num_compiled == 0:
            break
    data["seconds"].append(trained.seconds)
    data["steps"].append(trained.steps)
    data["cores_busy"].append(cores_busy)
    data["used"] = dict(trained.used)
    data["compiled_meanwhile"] = data.get("compiled_meanwhile", 0) + num_compiled


def with_rates(measured: Mapping[str, Any], episodes: int) -> dict[str, Any]:
    """The measurements of one label with steps/s and, for `episodes` in a repeat, updates/s: min, median and max."""
    seconds = np.array(measured["seconds"])
    rates = {
        "steps_per_second": spread(np.array(measured["steps"]) / seconds),
        "updates_per_second": spread(episodes / seconds),
    }
    return {**measured, "episodes": episodes, **rates}


def spread(values: Any) -> dict[str, float]:
    """Least, median and greatest."""
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}


def in_child(fn: Callable[..., dict[str, Any]], *arguments: Any, cache: str | None = None) -> dict[str, Any]:
    """Runs fn(*arguments) in a fresh process; adds its peak memory, in bytes, and the load of the machine before.

    Args:
      fn: a function that the fresh process can import.
      arguments: its arguments.
      cache: folder of compiled programs; None: that of this process.
    """
    spawn = multiprocessing.get_context("spawn")
    folder = jax.config.values["jax_compilation_cache_dir"] if cache is None else cache
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with concurrent.futures.ProcessPoolExecutor(1, spawn, initializer=_use_cache, initargs=(folder,)) as executor:
        return executor.submit(_with_peak_memory, fn, *arguments).result() | {"load_before": load}


def _use_cache(folder: str | None) -> None:
    """Makes this process keep every compiled program in a folder; None: it keeps none."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _with_peak_memory(fn: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    result = fn(*arguments)
    return result | {"peak_memory": peak_memory()}


def peak_memory() -> int:
    """The most main memory that this process has held so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def say(text: str) -> None:
    """Prints a line of progress."""
    print(text, file=sys.stderr, flush=True)
