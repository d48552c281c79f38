"""Numbers of a training while it runs, for logs such as TensorBoard and Weights & Biases.

Students run asynchronously, the most expensive first. A mean over those that have passed a checkpoint so far would
therefore be that of expensive worlds. So the numbers of a checkpoint are given once, when all students of a method have
passed it; until then, only the share of finished students and the speed are known.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdistill.runtime import checks
from jaxdistill.statistics import mean_interval
from jaxdistill.training.recorder import Recorder

Metrics = dict[str, float | int | str]
OnMetrics = Callable[[Metrics], None]


class LiveMetrics:
    """Calls a function with the metrics of a training, a dict of named numbers; the hook of its `Progress`.

    About twice a second: seconds, progress, finished (the share of students), steps, steps_per_second, seconds_left.

    Once all students of a method have passed a checkpoint, in the order of the checkpoints: method, iteration,
    num_students, and the means over students of return (with return_low and return_high, the ends of its interval),
    length and measures. Students that diverged are left out. So that their curves are known, all students pause at
    every checkpoint. With an executor, students arrive shard by shard.

    Args:
      recorder: of the training.
      on_metrics: called in the main thread. If it raises an exception, a warning says so, and it is not called again.
    """

    def __init__(self, recorder: Recorder, on_metrics: OnMetrics):
        self.recorder, self._on_metrics = recorder, on_metrics
        self._has_failed_once = False
        self.started = time.perf_counter()
        self.num_given = np.zeros(len(recorder.cells), int)  # checkpoints of each method that have been given

    def _give(self, metrics: Metrics) -> None:
        """Calls the function; if it fails, warns once and does not call it any more, so that the training goes on."""
        if self._has_failed_once:
            return
        try:
            self._on_metrics(metrics)
        except Exception as error:
            self._has_failed_once = True
            warnings.warn(f"on_metrics failed and is not called any more: {checks.why(error)}.", stacklevel=2)

    def __call__(self, fraction: float, steps: int, seconds_left: float) -> None:
        """Gives the metrics by time, and those of the checkpoints that all students have passed since the last call."""
        recorder, seconds = self.recorder, time.perf_counter() - self.started
        self._give(
            {
                "seconds": seconds,
                "progress": float(fraction),
                "finished": float(recorder.finished.mean()),
                "steps": int(steps),
                "steps_per_second": steps / max(seconds, 1e-9),
                "seconds_left": float(seconds_left),
            }
        )
        self.give_checkpoints()

    def give_checkpoints(self) -> None:
        """Gives the metrics of each checkpoint that all students of a method have passed, once and in order."""
        for cell in range(len(self.num_given)):
            has_failed = self._has_failed(cell)
            known = ~np.isnan(self._values(cell)).any(axis=-1)  # [M, C]
            passed = (known | has_failed[:, None]).all(axis=0)
            number = len(passed) if passed.all() else int(np.argmin(passed))
            for checkpoint in range(self.num_given[cell], number):
                self._give(self._metrics(cell, checkpoint, ~has_failed))
            self.num_given[cell] = max(number, self.num_given[cell])

    def _has_failed(self, cell: int) -> np.ndarray:
        """Whether the student in each MDP has diverged, bool [M]; it has passed all checkpoints then."""
        has_failed = np.zeros(self.recorder.mdps.num_mdps, bool)
        has_failed[[mdp for index, mdp in list(self.recorder.faults) if index == cell]] = True
        return has_failed

    def _values(self, cell: int) -> np.ndarray:
        """Return, length and measures of a method, [M, C, numbers]."""
        recorder = self.recorder
        values = np.stack([recorder.returns[cell], recorder.lengths[cell]], axis=-1)
        measurements = recorder.measurements
        return values if measurements is None else np.concatenate([values, measurements[cell]], axis=-1)

    def _metrics(self, cell: int, checkpoint: int, counts: np.ndarray) -> Metrics:
        """The means over the students that count, bool [M], of a method at a checkpoint."""
        recorder = self.recorder
        values = self._values(cell)[counts, checkpoint]
        metrics: Metrics = {
            "method": recorder.cells[cell].label,
            "iteration": int(recorder.config.checkpoints[checkpoint]),
            "num_students": int(counts.sum()),
        }
        for name, numbers in zip(("return", "length", *recorder.measures.names), values.T, strict=True):
            metrics[name] = float(numbers.mean()) if len(numbers) else float("nan")
        mean = mean_interval(values[:, 0])
        return metrics | {"return_low": float(mean.low), "return_high": float(mean.high)}


def both(first: Callable[..., Any] | None, second: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A function that calls both functions with its arguments; a function that is None is left out."""
    if first is None or second is None:
        return first or second

    def call(*args: Any) -> None:
        first(*args)
        second(*args)

    return call
