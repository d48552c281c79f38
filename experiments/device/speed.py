"""Ticks per second of kernels by the number of lanes and of states, and steps per second of the mix of Fig. 8."""

import time
from typing import Any

from experiments import fig8
from experiments.baselines import engine, problems, ticks
from experiments.baselines.problems import Mix
from jaxdistill.scheduling.group import Group


def _mix(num_students: int, rows: int) -> Mix:
    return Mix(num_students, rows, tuple(fig8.PAPER_METHODS), tuple(fig8.COLUMNS))


def lane_ticks(estimator: str, lanes: int, rows: int, num_ticks: int, repeats: int) -> dict[str, Any]:
    """Lane ticks per second of a full block of students of the mix, after ticks that warm up: the best and the median.

    Args:
      estimator: of the students.
      lanes: their number.
      rows: height and width of the grids.
      num_ticks: of a repeat.
      repeats: >= 1.
    """
    problem, _ = problems.fig8_mix(ticks.filling(_mix(1, rows), lanes), 1)
    group = Group([ticks.full_block(problem, estimator, lanes, num_ticks)])
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        group.run_ticks(num_ticks)
        rates.append(lanes * num_ticks / (time.perf_counter() - started))
    loop = group.blocks[0].task.loop.settings["loop"]
    return {"lanes": lanes, "best": max(rates), "median": sorted(rates)[len(rates) // 2], "loop": loop}


def by_lanes(lanes: list[int], num_ticks: int, repeats: int) -> dict[str, Any]:
    """`lane_ticks` on the paper's grids, by estimator and number of lanes."""
    return {name: {str(n): lane_ticks(name, n, 20, num_ticks, repeats) for n in lanes} for name in ("td", "mc")}


def by_states(grids: list[int], lanes: int, num_ticks: int, repeats: int) -> dict[str, Any]:
    """`lane_ticks` of the one-step target, by height and width of the grids."""
    return {str(rows): lane_ticks("td", lanes, rows, num_ticks, repeats) for rows in grids}


def mix(num_students: int, num_iterations: int, repeats: int) -> dict[str, Any]:
    """Environment steps per second of students of the mix of Fig. 8, the first run, which compiles, left out."""
    problem, _ = problems.fig8_mix(_mix(num_students, 20), num_iterations)
    runs = [engine.train(problem) for _ in range(repeats + 1)][1:]
    rates = sorted(run.steps / run.seconds for run in runs)
    return {
        "students": problem.num_students,
        "iterations": num_iterations,
        "steps": runs[0].steps,
        "best": rates[-1],
        "median": rates[len(rates) // 2],
    }
