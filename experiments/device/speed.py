"""Ticks per second of kernels by the number of lanes and of states, and steps per second of the mix of Fig. 8."""

import time
from typing import Any

import jax

import jaxdistill
from experiments import fig8
from experiments.baselines import Problem, engine, problems, ticks
from experiments.baselines.problems import Mix
from jaxdistill import METHODS, Cell, teachers
from jaxdistill.runtime import streams
from jaxdistill.scheduling.group import Group
from jaxdistill.training.tasks import methods_in_program

_NUM_WORLDS = 1000
_LANE_BYTES = 360_000  # of a Monte Carlo student on a 20 x 20 grid, about; the ring of scales takes most of it


def fitting(lanes: list[int]) -> list[int]:
    """The numbers of lanes that fit half of the device's memory."""
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 2**34)
    return [number for number in lanes if number * _LANE_BYTES <= memory / 2]


def _problem(estimator: str, num_students: int, rows: int) -> Problem:
    """So many students or a few more, of the methods of Fig. 8 that share a program, with several learning rates."""
    num_mdps = min(_NUM_WORLDS, num_students)
    mdps = jaxdistill.sample_mdps(streams.from_seed(0), num_mdps, num_rows=rows, num_cols=rows)
    teacher = teachers.optimal(mdps)
    program = methods_in_program(METHODS[fig8.PAPER_METHODS[0]])
    methods = [m.name for m in program if m.name in fig8.PAPER_METHODS and m.estimator in (None, estimator)]
    cells = {}
    for k in range(-(-num_students // num_mdps)):
        changes = {"estimator": estimator, "learning_rate": 0.1 / (1 + k)}
        cells[f"student {k}"] = Cell(methods[k % len(methods)], teacher, changes)
    return Problem(mdps, problems.resolved(cells), 1)


def lane_ticks(estimator: str, lanes: int, rows: int, num_ticks: int, repeats: int) -> dict[str, Any]:
    """Lane ticks per second of a full block of students, after ticks that warm up: the best and the median.

    Args:
      estimator: of the students.
      lanes: their number.
      rows: height and width of the grids.
      num_ticks: of a repeat.
      repeats: >= 1.
    """
    group = Group([ticks.full_block(_problem(estimator, lanes, rows), estimator, lanes, num_ticks)])
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
    mix_of_figure = Mix(num_students, 20, tuple(fig8.PAPER_METHODS), tuple(fig8.COLUMNS))
    problem, _ = problems.fig8_mix(mix_of_figure, num_iterations)
    runs = [engine.train(problem) for _ in range(repeats + 1)][1:]
    rates = sorted(run.steps / run.seconds for run in runs)
    return {
        "students": problem.num_students,
        "iterations": num_iterations,
        "steps": runs[0].steps,
        "best": rates[-1],
        "median": rates[len(rates) // 2],
    }
