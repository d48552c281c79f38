"""What exact curves cost beside their training: python -m experiments.baselines.exact_curves [iterations] [repeats].

Each method is trained with a single point of its curve and with 100 points, in turns, on 64 worlds of 20 x 20. The
difference is the cost of the curve: the pauses of the lanes, and the exact evaluation of every student at every point.
Measure on a machine that runs nothing else. The first turn, which compiles, does not count.
"""

import statistics
import sys
import time
from typing import Any

import jaxdistill
from jaxdistill import teachers
from jaxdistill.cli.main import keep_compiled_programs
from jaxdistill.runtime import streams

METHODS = ("uniform_distill", "teacher_distill")
NUM_MDPS, NUM_POINTS = 64, 100


def measure(
    mdps: jaxdistill.MDP, teacher: jaxdistill.Teacher, method: str, num_points: int, num_iterations: int
) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of one training with so many exact points."""
    wall, processor = time.perf_counter(), time.process_time()
    options: dict[str, Any] = {"num_iterations": num_iterations, "num_checkpoints": num_points, "keep_tables": False}
    jaxdistill.train(streams.from_seed(1), mdps, teacher, [method], **options)
    return time.perf_counter() - wall, time.process_time() - processor


def main(num_iterations: int = 30_000, repeats: int = 5) -> None:
    """Prints the least, the median and the greatest of every measurement."""
    keep_compiled_programs()
    mdps = jaxdistill.sample_mdps(streams.from_seed(0), NUM_MDPS)
    teacher = teachers.optimal(mdps)
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(repeats + 1):
        for method in METHODS:
            for num_points in (1, NUM_POINTS):
                seconds = measure(mdps, teacher, method, num_points, num_iterations)
                if turn:
                    times.setdefault((method, num_points), []).append(seconds)
    for method in METHODS:
        pairs = list(zip(times[method, 1], times[method, NUM_POINTS], strict=True))
        for kind, clock in enumerate(("wall clock", "processor time")):
            training = [one_point[kind] for one_point, _ in pairs]
            shares = [(many[kind] - one_point[kind]) / one_point[kind] for one_point, many in pairs]
            print(f"{method}, {clock}: training {_spread(training)} s, curve / training {_spread(shares)}", flush=True)


def _spread(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
