"""What `experiments.benchmark` measures, one function for each process; each returns what JSON can hold."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jaxdistill
from experiments.baselines import Problem, Trained, clock, engine, padded_scan, problems, scalar_loop, ticks
from experiments.baselines.problems import Mix


def mix(mix: Mix, num_iterations: int, padded_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine, the whole call of `train`, the padded scan and the scalar loop, from zeros and trained further."""
    problem, cells = problems.fig8_mix(mix, num_iterations)
    trained = dataclasses.replace(problem, initial=engine.train(problem).params)
    found: dict[str, Any] = {"students": problem.num_students, "worlds": problem.mdps.num_mdps, "cells": len(cells)}
    for start, one in (("zeros", problem), ("trained", trained)):
        padded = dataclasses.replace(one, num_iterations=padded_iterations)
        runs: dict[str, Callable[[], Trained]] = {"engine": functools.partial(engine.train, one)}
        episodes = dict.fromkeys(("engine", "train", "scalar_loop"), problem.num_students * num_iterations)
        if start == "zeros":
            runs["train"] = functools.partial(whole_call, one, cells)
        if scalar_loop.available():
            runs["scalar_loop"] = functools.partial(scalar_loop.train, one)
        runs["padded_scan"] = functools.partial(padded_scan.train, padded)
        episodes["padded_scan"] = problem.num_students * padded_iterations
        timed = clock.in_turns(runs, repeats, f"mix, {start}")
        found[start] = {label: clock.with_rates(timed[label], episodes[label]) for label in runs}
    return found


def whole_call(problem: Problem, cells: dict[str, Any]) -> Trained:
    """`jaxdistill.train` as users call it, with the packing of worlds and the exact evaluation of every student."""
    started = time.perf_counter()
    key = jax.random.key(problem.seed)
    options: dict[str, Any] = {"keep_tables": False, "progress": False}
    result = jaxdistill.train(key, problem.mdps, methods=cells, num_iterations=problem.num_iterations, **options)
    none = np.empty(0)
    return Trained(result.settings["steps"], time.perf_counter() - started, none, none, none)


def width(mix: Mix, num_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine on the mix of Fig. 8."""
    problem, _ = problems.fig8_mix(mix, num_iterations)
    return one_point(problem, repeats, f"width {problem.num_students}")


def size(rows: int, num_actions: int, num_students: int, num_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine on TD(1) students, as many as fill its lanes."""
    problem = problems.td_column(num_students, num_iterations, rows, num_actions)
    return one_point(problem, repeats, f"{rows} x {rows}, {num_actions} actions")


def one_point(problem: Problem, repeats: int, name: str) -> dict[str, Any]:
    """Repeats of the engine on a problem; compiled before by a tenth of the iterations."""
    engine.train(dataclasses.replace(problem, num_iterations=-(-problem.num_iterations // 10)))
    found = clock.in_turns({"engine": functools.partial(engine.train, problem)}, repeats, name)["engine"]
    facts = {"students": problem.num_students, "iterations": problem.num_iterations}
    return facts | clock.with_rates(found, problem.num_students * problem.num_iterations)


def memory(num_mdps: int, num_actions: int, num_iterations: int, rows: int) -> dict[str, Any]:
    """A whole call of `train` with very many actions; its process's memory is what counts."""
    problem = problems.td_column(9 * num_mdps, num_iterations, rows, num_actions)
    started = time.perf_counter()
    methods, teacher = ["on_policy_distill", "baseline"], problem.cells[0].teacher
    options: dict[str, Any] = {"num_iterations": num_iterations, "keep_tables": False, "progress": False}
    result = jaxdistill.train(jax.random.key(0), problem.mdps, teacher, methods, **options)
    seconds = time.perf_counter() - started
    return {"worlds": num_mdps, "actions": num_actions, "steps": result.settings["steps"], "seconds": seconds}


def compilation(mix: Mix) -> dict[str, Any]:
    """What compiling the mix of Fig. 8 adds to a first call of `train`, and whether other numbers compile anything."""
    problem, cells = problems.fig8_mix(mix, 200)  # more than checkpoints, whose number is compiled in
    jaxdistill.teachers.uniform(problem.mdps)  # JAX itself has started
    first, second = (whole_call(problem, cells).seconds for _ in range(2))
    compilations = clock.Compilations()
    changes = {"learning_rate": 0.05, "discount": 0.9, "probability_floor": 0.02, "loss_weight": 0.5}
    other = {label: dataclasses.replace(cell, changes=cell.changes | changes) for label, cell in cells.items()}
    whole_call(dataclasses.replace(problem, seed=1, num_iterations=150), other)
    return {"first": first, "again": second, "seconds": first - second, "by_other_numbers": compilations.count}


def tick(mix: Mix, num_ticks: int, parts: Sequence[str], wider: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds per tick of a full block, and of its parts; copies of whole tables in the compiled loop.

    `wider`: further blocks, of TD(1) students, by how many times the lanes they have.
    """
    usual, found = ticks.usual_width(mix.rows), {}
    problem, _ = problems.fig8_mix(ticks.filling(mix, max([1, *wider]) * usual), 1)
    estimators = dict.fromkeys(cell.config.estimator for cell in problem.cells)
    for estimator, num_lanes in [(e, usual) for e in estimators] + [("td", usual * n) for n in wider]:
        block = ticks.full_block(problem, estimator, num_lanes)
        lanes = block.lanes
        assert lanes is not None
        text = ticks.variant(block, []).text
        seconds = ticks.measure(block, num_ticks, parts, repeats)
        tables = [lanes.tables.rows[0].size, lanes.tables.scales.size, block.teachers.size, block.worlds.arrivals.size]
        found[f"{estimator}, {num_lanes} lanes"] = {
            "estimator": estimator,
            "lanes": num_lanes,
            "seconds": {part: one.tolist() for part, one in seconds.items()},
            "shares": ticks.shares(seconds),
            "copies_of_tables": len(ticks.table_copies(text, tables)),
            "kernels": ticks.kernels(text),
        }
        clock.say(f"tick of {num_lanes} lanes, {estimator}: {np.median(seconds[parts[0]]) * 1e6:.1f} us")
    return {"blocks": found}
