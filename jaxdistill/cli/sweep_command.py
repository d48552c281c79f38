"""The command `sweep`: trains all combinations of some numbers, and shows the best of each method."""

import argparse
from pathlib import Path
from typing import Any

from jaxdistill.cli import commands
from jaxdistill.methods import get
from jaxdistill.results import Result
from jaxdistill.results.comparison import compare
from jaxdistill.results.sweep import AREA, Sweep
from jaxdistill.runtime import checks
from jaxdistill.statistics import LEAST_MDPS
from jaxdistill.training.measuring import configured
from jaxdistill.training.sweep import check_steps, planned, sweep


def run_sweep(args: argparse.Namespace) -> None:
    """Trains, saves the result and its figures, and prints the best settings and their comparison."""
    methods = {name: get(name) for name in args.methods.split(",")}
    grid, measure_names = _grid(args.grid), commands.named_measures(args)
    tuned = _tuned(args, measure_names)
    check_steps(grid, args.equal_steps)
    if args.baseline is not None:
        checks.one_of("--baseline", args.baseline, methods)
    path = commands.checked_path(args, measure_names)
    _check_figures(args, path, grid)
    config, keys, mdps = commands.prepared(args, methods)
    changes = {name: getattr(config, name) for name in grid if name in commands.given_settings(args)}
    planned(mdps, None, methods, grid, config, changes, args.max_students)  # refuses a wrong grid before any training

    def run() -> Result:
        teacher = commands.made_teacher(args, keys, mdps, config)
        options = dict(max_students=args.max_students, equal_steps=args.equal_steps, measure=measure_names or None)
        return sweep(keys[2], mdps, teacher, methods, grid, config, progress=True, **options).result

    others = [name for name in measure_names if name != tuned]
    _deliver(Sweep(commands.trained(args, path, run)), tuned, others, args.baseline, path)


def _tuned(args: argparse.Namespace, measure_names: list[str]) -> str:
    """The measure of --tuned, which is added to those that are computed; ValueError for one that has no best value."""
    if args.tuned in ("return", AREA):
        return str(args.tuned)
    measure = configured(args.tuned, args.discount, args.probability_floor)
    if not measure.better:
        raise ValueError(f"--tuned needs a measure with better and worse values, such as return; got {args.tuned}.")
    if measure.name not in measure_names:
        measure_names.append(measure.name)
    return measure.name


def _grid(texts: list[str]) -> dict[str, list[Any]]:
    """The grid of the flags --grid=NAME=VALUE,VALUE; ValueError for a text of another form."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--grid must be a name and values, such as --grid=learning_rate=0.1,0.3; got {text!r}.")
        if name in grid:
            raise ValueError(f"--grid gives {name} twice; put all of its values into one.")
        grid[name] = [_value(value) for value in values.split(",")]
    return grid


def _value(text: str) -> float | str:
    """A value of a parameter: a number, or a word such as "td"."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_figures(args: argparse.Namespace, path: Path, grid: dict[str, list[Any]]) -> None:
    """ValueError if a figure exists that must not be replaced."""
    stem = path.with_suffix("")
    for name in [*grid, "heatmap"]:
        figure = stem.with_name(f"{stem.name}_{name}.png")
        if figure.exists() and not path.exists() and not args.overwrite:
            raise ValueError(f"{figure} exists; use another --out, or --overwrite.")


def _deliver(result: Sweep, tuned: str, others: list[str], baseline: str | None, path: Path) -> None:
    """Draws the figures and prints the tables and the paths of all files, even if a figure cannot be drawn.

    The comparison of the best settings is by the measure that chose them, and then by each of the `others`.
    """
    stem, paths = path.with_suffix(""), [path]
    tables = [str(result.best(tuned))]
    if result.result.num_mdps < 2 * LEAST_MDPS:
        reason = "which would judge the settings on other worlds than those that chose them"
        tables.append(f"note: no comparison, {reason}: it needs at least {2 * LEAST_MDPS} worlds")
    elif len(result.methods) > 1:
        tables += [str(compare(result, baseline, tuned=tuned, measure=name)) for name in [None, *others]]
    try:
        for name in result.grid:
            paths += commands.save(result.lines(name, tuned), stem.with_name(f"{stem.name}_{name}"))
        pair = _pair(result)
        if pair:
            paths += commands.save(result.heatmap(*pair, tuned), stem.with_name(f"{stem.name}_heatmap"))
    finally:
        print("\n\n".join(tables), *paths, sep="\n")


def _pair(result: Sweep) -> tuple[str, str] | None:
    """The first two parameters that some method has both; None if there are none."""
    for setting in result.settings:
        if len(setting.parameters) > 1:
            first, second, *_ = setting.parameters
            return first, second
    return None
