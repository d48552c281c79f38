"""The measurements of `experiments.benchmark`, a function for each process; the results can be saved as JSON."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jaxdistill
from experiments import fig8
from experiments.baselines import Problem, Trained, clock, engine, padded_scan, problems, scalar_loop, ticks
from experiments.baselines.problems import Mix
from jaxdistill.estimators import ESTIMATORS, OneStep
from jaxdistill.runtime import streams
from jaxdistill.scheduling.block import Block


def mix(mix: Mix, num_iterations: int, padded_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine, the whole call of `train`, the padded scan and the scalar loop; students from zeros and trained ones.

    The padded scan plays `padded_iterations` episodes, the others `num_iterations`.
    """
    untrained, cells = problems.fig8_mix(mix, num_iterations)
    trained = dataclasses.replace(untrained, initial=engine.train(untrained).params)
    num_students = untrained.num_students
    results: dict[str, Any] = {"students": num_students, "worlds": untrained.mdps.num_mdps, "cells": len(cells)}
    for start, problem in (("zeros", untrained), ("trained", trained)):
        padded = dataclasses.replace(problem, num_iterations=padded_iterations)
        runs: dict[str, Callable[[], Trained]] = {"engine": functools.partial(engine.train, problem)}
        episodes = dict.fromkeys(("engine", "train", "scalar_loop"), num_students * num_iterations)
        if start == "zeros":
            runs["train"] = functools.partial(whole_call, problem, cells)
        if scalar_loop.available():
            runs["scalar_loop"] = functools.partial(scalar_loop.train, problem)
        runs["padded_scan"] = functools.partial(padded_scan.train, padded)
        episodes["padded_scan"] = num_students * padded_iterations
        measured = clock.in_turns(runs, repeats, f"mix, {start}")
        results[start] = {label: clock.with_rates(measured[label], episodes[label]) for label in runs}
    return results


def whole_call(problem: Problem, cells: dict[str, Any]) -> Trained:
    """`jaxdistill.train` as users call it, with the packing of worlds and the exact evaluation of every student."""
    started = time.perf_counter()
    key = streams.from_seed(problem.seed)
    options: dict[str, Any] = {"keep_tables": False, "progress": False}
    result = jaxdistill.train(key, problem.mdps, methods=cells, num_iterations=problem.num_iterations, **options)
    not_kept = np.empty(0)
    return Trained(result.settings["steps"], time.perf_counter() - started, not_kept, not_kept, not_kept)


def width(mix: Mix, num_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine on the mix of Fig. 8."""
    problem, _ = problems.fig8_mix(mix, num_iterations)
    return _engine_rates(problem, repeats, f"width {problem.num_students}")


def size(rows: int, num_actions: int, num_students: int, num_iterations: int, repeats: int) -> dict[str, Any]:
    """The engine on TD(1) students, on grids of rows x rows."""
    problem = problems.td_column(num_students, num_iterations, rows, num_actions)
    return _engine_rates(problem, repeats, f"{rows} x {rows}, {num_actions} actions")


def _engine_rates(problem: Problem, repeats: int, name: str) -> dict[str, Any]:
    """Repeats of the engine on a problem; a run of a tenth of the iterations compiles before."""
    engine.train(dataclasses.replace(problem, num_iterations=-(-problem.num_iterations // 10)))
    measured = clock.in_turns({"engine": functools.partial(engine.train, problem)}, repeats, name)["engine"]
    facts = {"students": problem.num_students, "iterations": problem.num_iterations}
    return facts | clock.with_rates(measured, problem.num_students * problem.num_iterations)


def memory(num_mdps: int, num_actions: int, num_iterations: int, rows: int) -> dict[str, Any]:
    """A whole call of `train` with very many actions, to measure the memory of its process."""
    problem = problems.td_column(len(fig8.PAPER_METHODS) * num_mdps, num_iterations, rows, num_actions)
    started = time.perf_counter()
    methods, teacher = ["on_policy_distill", "baseline"], problem.cells[0].teacher
    options: dict[str, Any] = {"num_iterations": num_iterations, "keep_tables": False, "progress": False}
    result = jaxdistill.train(streams.from_seed(0), problem.mdps, teacher, methods, **options)
    seconds = time.perf_counter() - started
    return {"worlds": num_mdps, "actions": num_actions, "steps": result.settings["steps"], "seconds": seconds}


def compilation(mix: Mix) -> dict[str, Any]:
    """The seconds that compiling adds to a first call of `train`, and how many programs other numbers compile."""
    problem, cells = problems.fig8_mix(mix, 200)  # more iterations than checkpoints, whose number is compiled in
    jaxdistill.teachers.uniform(problem.mdps)  # the start of JAX itself is not measured
    first, second = (whole_call(problem, cells).seconds for _ in range(2))
    compilations = clock.Compilations()
    changes = {"learning_rate": 0.05, "discount": 0.9, "probability_floor": 0.02, "loss_weight": 0.5}
    changed = {label: dataclasses.replace(cell, changes=cell.changes | changes) for label, cell in cells.items()}
    whole_call(dataclasses.replace(problem, seed=1, num_iterations=150), changed)
    return {"first": first, "again": second, "seconds": first - second, "by_other_numbers": compilations.count}


def tick(mix: Mix, num_ticks: int, parts: Sequence[str], wider: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds per tick of a full block, and of its parts; copies of whole tables in the compiled loop.

    `wider`: further blocks, of TD(1) students; each number is the factor by which it has more lanes than usual.
    """
    usual = ticks.usual_width(mix.rows)
    problem, _ = problems.fig8_mix(ticks.filling(mix, max([1, *wider]) * usual), 1)
    estimators = list(dict.fromkeys(cell.config.estimator for cell in problem.cells))
    sizes = [(name, usual) for name in estimators]
    if OneStep.name in estimators:
        sizes += [(OneStep.name, factor * usual) for factor in wider]
    blocks = {}
    for name, num_lanes in sizes:
        block = ticks.full_block(problem, name, num_lanes)
        block_parts = [part for part in ticks.parts_of(ESTIMATORS[name]) if part in parts]
        blocks[f"{name}, {num_lanes} lanes"] = measured = _tick_of(block, num_ticks, block_parts, repeats)
        whole = np.median(measured["seconds"][block_parts[0]])
        clock.say(f"tick of {num_lanes} lanes, {name}: {whole * 1e6:.1f} us")
    return {"blocks": blocks}


def _tick_of(block: Block, num_ticks: int, parts: Sequence[str], repeats: int) -> dict[str, Any]:
    """The tick of one block; the first of `parts` must be the first of `ticks.PARTS`."""
    lanes = block.lanes
    assert lanes is not None
    programs = ticks.variants(block, parts)
    seconds = ticks.measure(lanes, programs, num_ticks, repeats)
    tables = [lanes.tables.rows[0].size, lanes.tables.scales.size, block.teachers.size, block.worlds.arrivals.size]
    whole_tick = programs[parts[0]].text
    return {
        "estimator": block.program.estimator.name,
        "lanes": block.program.num_lanes,
        "seconds": {part: repeated.tolist() for part, repeated in seconds.items()},
        "shares": ticks.shares(seconds),
        "copies_of_tables": len(ticks.table_copies(whole_tick, tables)),
        "kernels": ticks.kernels(whole_tick),
    }
