"""Figure 8 in a process of its own, with where the time goes."""

import contextlib
import dataclasses
import importlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax

import jaxdistill
from experiments import common, fig8
from experiments.baselines import clock
from jaxdistill.kernels import choice, code_files
from jaxdistill.kernels.native import NativeToolchain

PARTS = {
    "start": "from the start of the process to the first device",
    "worlds": "sampling worlds",
    "teachers": "training teachers",
    "students": "training students, and what is exact about them meanwhile",
    "exact": "what else is exact, before the first student and after the last one",
    "drawing": "drawing",
    "rest": "all else",
}


def timed(settings: dict[str, Any], started: float, on_cpu: bool) -> dict[str, Any]:
    """Runs Fig. 8 in this process, which must be new.

    Args:
      settings: of `fig8.Settings`.
      started: `time.time()` when the process was started.
      on_cpu: whether kernels run on the processor, in place of XLA's loop.

    Returns:
      seconds: by part.
      total: seconds of the whole command.
      compiling: seconds of it in which XLA compiled programs, and kernels were compiled or loaded.
      programs: how many programs XLA compiled.
      students, steps: of both rows.
    """
    jax.local_devices()
    parts = _Clock(time.time() - started)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory())
        if on_cpu:
            stack.enter_context(choice.on_cpu(NativeToolchain()))
        stack.enter_context(parts.watching())
        fig8.work(fig8.Settings(**settings, out=out, restart=True))
    total = time.time() - started
    seconds = parts.seconds | {"rest": total - sum(parts.seconds.values())}
    return {"seconds": seconds, "total": total, **dataclasses.asdict(parts.counts)}


@dataclasses.dataclass
class _Counts:
    compiling: float = 0.0
    programs: int = 0
    students: int = 0
    steps: int = 0


class _Clock:
    """Adds up the seconds in the functions of each part; those of a function inside another count once."""

    def __init__(self, start_seconds: float):
        self.seconds = {part: 0.0 for part in PARTS if part != "rest"} | {"start": start_seconds}
        self.counts = _Counts()
        self._inner = [0.0]  # seconds of timed functions inside each timed function that runs
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == clock.COMPILED:
            self.counts.compiling += duration_secs
            self.counts.programs += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the functions are timed."""
        train = importlib.import_module("jaxdistill.training.train")
        functions = {
            "worlds": (jaxdistill, "sample_mdps"),
            "teachers": (common, "make_teacher"),
            "students": (train, "run_students"),
            "exact": (jaxdistill, "train"),
            "drawing": (common, "deliver"),
        }
        with contextlib.ExitStack() as stack:
            for part, (owner, name) in functions.items():
                stack.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            stack.enter_context(mock.patch.object(fig8, "plot", self._timed("drawing", fig8.plot)))
            stack.enter_context(mock.patch.object(code_files, "loaded", self._compiling(code_files.loaded)))
            yield

    def _timed(self, part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - started
            self.seconds[part] += seconds - self._inner.pop()
            self._inner[-1] += seconds
            if part == "exact":
                self.counts.students += result.final_returns.size
                self.counts.steps += result.settings["steps"]
            return result

        return call

    def _compiling(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            started = time.perf_counter()
            result = function(*args)
            self.counts.compiling += time.perf_counter() - started
            return result

        return call
