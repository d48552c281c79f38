"""The commands of the command line: a function for each, which takes the parsed arguments."""

import argparse
import dataclasses
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill import results, teachers
from jaxdistill.cli import describing
from jaxdistill.mdp import MDP, stack
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import METHODS, ZOO, Method, UpdateOptions, get
from jaxdistill.methods.schedules import Schedule
from jaxdistill.results import Result
from jaxdistill.results.comparison import Comparison, compare
from jaxdistill.runtime import checkpoints, checks, saved_settings, streams
from jaxdistill.runtime.errors import ExecutorFailed
from jaxdistill.runtime.files import check_writable
from jaxdistill.theory.fields import check_method
from jaxdistill.training.config import RATE, RATES, Config, check_effects, resolve_cell
from jaxdistill.training.measuring import configured
from jaxdistill.training.train import train
from jaxdistill.worlds import garnet
from jaxdistill.worlds.gridworld import GridConfig, sample_mdps
from jaxdistill.worlds.gymnasium import from_gymnasium

TEACHERS = ("q_learning", "actor_critic", "optimal", "adversarial", "uniform")
TRAINING: dict[str, tuple[type, str]] = {
    "num_checkpoints": (int, "points of each learning curve"),
    **{field.name: (type(field.default), field.metadata["help"]) for field in dataclasses.fields(UpdateOptions)},
    "learning_rate": (float, "step size of the student's logits"),
    "value_learning_rate": (float, "step size of the student's value table"),
    "max_episode_steps": (int, "steps after which a training episode is cut off"),
}
DEFAULTS = {"num_checkpoints": 20} | dict.fromkeys(RATES, RATE)  # these replace the defaults of `Config`


def run_methods(args: argparse.Namespace) -> None:
    """Lists METHODS and ZOO, or prints the formula of a method, or the settings of other libraries."""
    if args.library is not None:
        if args.name:
            raise ValueError(f"Give a method or --library, not both; 'methods {args.name}' names libraries too.")
        print(describing.library_text(args.library))
        return
    if args.name:
        print(describing.details(get(args.name), args.latex))
        return
    for title, group in (("METHODS, the methods of the paper", METHODS), ("ZOO, further objectives", ZOO)):
        lines = [(name, describing.control_text(item), describing.gradient_of(item)) for name, item in group.items()]
        header = ("name", "control q", "expected update is the gradient of")
        widths = [max(len(line[i]) for line in [header, *lines]) for i in range(2)]
        print(f"{title}: {len(lines)}")
        for name, q, text in [header, *lines]:
            print(f"  {name:{widths[0]}}  {q:{widths[1]}}  {text}")
        print()
    print("The sums over steps are undiscounted. 'jaxdistill methods NAME' prints the formula of a method.")
    print("A name of METHODS with the ending _r adds the reward of the environment to the method.")
    print("'jaxdistill methods --library' lists the settings of other libraries with the methods of the same update.")


def run_check(args: argparse.Namespace) -> None:
    """Prints the outcome of `check_method`."""
    print(check_method(get(args.name), num_mdps=args.num_mdps, key=_key(args)))


def _key(args: argparse.Namespace) -> jax.Array:
    """The random key of the seed on the command line."""
    return streams.from_seed(args.seed)


def run_compare(args: argparse.Namespace) -> None:
    """Trains, saves the result and its figures, and then prints the comparison.

    Ctrl-C saves the result of the students that have finished; the same command resumes the training of the others.
    """
    methods = {name: get(name) for name in args.methods.split(",")}
    measure_names = named_measures(args)
    results_path = checked_path(args, measure_names)
    baseline = args.baseline or next(iter(methods))
    checks.one_of("--baseline", baseline, methods)
    if args.reach is not None:  # `compare` would refuse it only after the training
        checks.number("--reach", args.reach)
    config, keys, mdps = prepared(args, methods)

    def run() -> Result:
        teacher = made_teacher(args, keys, mdps, config)
        options = dict(equal_steps=args.equal_steps, measure=measure_names or None, progress=True)
        return train(keys[2], mdps, teacher, methods, config, **options)

    result = trained(args, results_path, run)
    comparisons = {"": compare(result, baseline, reach=args.reach)}
    comparisons |= {name: compare(result, baseline, measure=name) for name in measure_names}
    _deliver(result, comparisons, results_path)


def named_measures(args: argparse.Namespace) -> list[str]:
    """The canonical names of the measures of --measure; ValueError for an unknown one."""
    names = [name for text in args.measure or () for name in text.split(",")]
    return list(dict.fromkeys(configured(name, args.discount, args.probability_floor).name for name in names))


def _check_flags(args: argparse.Namespace, methods: dict[str, Method], config: Config, num_actions: int) -> None:
    """Raises ValueError unless each option of an update that is not at its default has an effect on some method.

    The discount is not examined, because the teacher has it too, and nor is any option of an actor-critic teacher.
    """
    if args.teacher != "actor_critic":
        changed = [f.name for f in dataclasses.fields(UpdateOptions) if getattr(config, f.name) != f.default]
        cells = [resolve_cell(name, method, None, config) for name, method in methods.items()]
        check_effects(cells, dict.fromkeys(set(changed) - {"discount"}), num_actions)


def prepared(args: argparse.Namespace, methods: dict[str, Method]) -> tuple[Config, list[jax.Array], MDP]:
    """The configuration, the keys of teacher, noise and students, and the worlds of a command that trains."""
    checks.number("--teacher_noise", args.teacher_noise, 0, 1)
    config = Config(num_iterations=args.num_iterations, **{name: getattr(args, name) for name in TRAINING})
    if isinstance(args.discount, Schedule):
        raise ValueError("--discount must be one number, because the teacher has it too.")
    worlds_key, *keys = streams.split(_key(args), 4)
    mdps = _worlds(args, worlds_key)
    _check_flags(args, methods, config, mdps.num_actions)
    return config, keys, mdps


def made_teacher(args: argparse.Namespace, keys: list[jax.Array], mdps: MDP, config: Config) -> Teacher:
    """The teacher of a command that trains, with its noise."""
    if args.teacher == "uniform" and args.teacher_noise:
        raise ValueError("--teacher_noise has no effect on the uniform teacher, which has no worst action; remove it.")
    teacher = _teacher(args, keys[0], mdps, config)
    return teachers.with_noise(keys[1], mdps, teacher, args.teacher_noise) if args.teacher_noise else teacher


def trained(args: argparse.Namespace, path: Path, run: Callable[[], Result]) -> Result:
    """The result of `run`, saved in `path`; after Ctrl-C, the students that have finished are saved there.

    The same command resumes the training of the others.
    """
    state = _state(path)
    with checkpoints.resumable(state):
        _claim(args, state)
        try:
            result = run()
        except (KeyboardInterrupt, ExecutorFailed) as stop:
            saved, unfinished = "", getattr(stop, "result", None)
            if unfinished is not None:
                saved = f"{_finished(unfinished)}, saved in {unfinished.save(path)}; "
            if isinstance(stop, ExecutorFailed):
                raise ExecutorFailed(f"{saved}{stop}") from stop
            has_saves = any(path.is_dir() for path in state.iterdir())  # Each training saves into a folder of its own.
            way_on = f"goes on from {state}" if has_saves else "begins anew, because no student had begun"
            raise KeyboardInterrupt(f"{saved}the same command {way_on}") from None
        result.save(path)
    return result


def given_settings(args: argparse.Namespace) -> set[str]:
    """The settings of the training whose flags are not at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(Config)} | DEFAULTS
    return {name for name in TRAINING if getattr(args, name) != defaults[name]}


def _finished(result: Result) -> str:
    """How many students of each method have finished, in words."""
    counts = np.isfinite(result.final_returns).sum(axis=1)
    if len(counts) > 12:
        return f"{counts.sum()} of {result.final_returns.size} students have finished"
    return f"of {result.num_mdps} students each have finished: " + ", ".join(
        f"{label} {count}" for label, count in zip(result.labels, counts, strict=True)
    )


def _deliver(result: Result, comparisons: dict[str, Comparison], results_path: Path) -> None:
    """Draws the figures of comparisons and prints them with the paths of all files, even if a figure cannot be drawn.

    The comparisons are those of the return, whose name is "", and of measures by their names.
    """
    stem, paths = results_path.with_suffix(""), [results_path]
    try:
        for name, comparison in comparisons.items():
            measure_stem = _measure_stem(stem, name)
            paths += draw(result, measure_stem, measure=name or None)
            if len(result.labels) > 1:
                paths += draw(comparison, measure_stem.with_name(measure_stem.name + "_intervals"))
    finally:
        print("\n\n".join(map(str, comparisons.values())), *paths, sep="\n")


def _measure_stem(stem: Path, measure: str) -> Path:
    """The path, without a suffix, of the figure of a measure; that of the return, "", is `stem`."""
    return stem.with_name("_".join(filter(None, [stem.name, re.sub(r"[:=]", "_", measure)])))


def _claim(args: argparse.Namespace, state: Path) -> None:
    """Marks the folder of the unfinished training as that of these settings; raises ValueError if it has others."""
    path = state / ".settings.json"
    # These flags do not change the result.
    others = {"run", "out", "overwrite", "baseline", "reach", "tuned", "max_students", "executor", "allow_mixed"}
    given = {name: value for name, value in vars(args).items() if name not in others}
    settings = {name: x.settings if isinstance(x, Schedule) else x for name, x in given.items()}
    if (
        path.exists()
        and not args.overwrite
        and (different := saved_settings.differences(saved_settings.read(path), settings))
    ):
        raise ValueError(
            f"{state} holds an unfinished training of other settings ({different}); use another --out, or --overwrite."
        )
    saved_settings.write(path, settings)


def _state(results_path: Path) -> Path:
    """The folder of the unfinished training; while it exists, the results file beside it is incomplete."""
    return results_path.with_suffix(".unfinished")


def checked_path(args: argparse.Namespace, measure_names: list[str]) -> Path:
    """The path of the results file.

    Raises ValueError if it exists and must not be replaced or its folder is missing, OSError if it is not writable.
    """
    stem = Path(args.out)
    if not stem.name:
        raise ValueError(f"--out must name a file, without .npz; got {args.out!r}.")
    path = stem.with_name(stem.name + ".npz")
    if path.exists() and not args.overwrite and not _state(path).exists():
        raise ValueError(f"{path} exists; use another --out, or --overwrite.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent}; make it, or use another --out.")
    check_writable(path)
    for figure in (_measure_stem(stem, name) for name in ("", *measure_names)):
        for suffix in (".png", ".pdf", "_intervals.png", "_intervals.pdf"):
            check_writable(figure.with_name(figure.name + suffix))
    importlib.import_module("jaxdistill.plotting")  # so that a fault of matplotlib's settings shows before the training
    return path


def _worlds(args: argparse.Namespace, key: jax.Array) -> MDP:
    """The MDPs of --worlds."""
    kind, _, name = args.worlds.partition(":")
    sizes = [flag for flag in ("num_rows", "num_cols") if getattr(args, flag) != getattr(GridConfig, flag)]
    if kind != "grid" and sizes:
        raise ValueError(f"--{sizes[0]} has an effect with --worlds=grid only; remove it.")
    if args.num_mdps < 1:
        raise ValueError(f"--num_mdps must be at least 1; got {args.num_mdps}.")
    if kind == "grid" and not name:
        return sample_mdps(key, args.num_mdps, num_rows=args.num_rows, num_cols=args.num_cols)
    if kind == "garnet" and not name:
        return garnet.garnet(key, args.num_mdps)
    if kind == "gymnasium" and name:
        return stack([from_gymnasium(name)] * args.num_mdps)
    raise ValueError(
        f"--worlds must be grid, garnet or gymnasium:ID, such as gymnasium:FrozenLake-v1; got {args.worlds}."
    )


def _teacher(args: argparse.Namespace, key: jax.Array, mdps: MDP, config: Config) -> Teacher:
    """The teacher of --teacher."""
    if args.teacher == "q_learning":
        options = dict(discount=config.discount, max_episode_steps=config.max_episode_steps)
        return teachers.q_learning(key, mdps, num_iterations=config.num_iterations, progress=True, **options)
    if args.teacher == "actor_critic":
        return teachers.actor_critic(key, mdps, config=config, progress=True, num_checkpoints=1)
    return getattr(teachers, args.teacher)(mdps, discount=config.discount)


def draw(drawable: Any, stem: Path, **options: Any) -> list[Path]:
    """Saves the figure of a result or a comparison as PNG and PDF, and returns their paths."""
    return save(drawable.plot(**options), stem)


def save(figure: Any, stem: Path) -> list[Path]:
    """Saves a figure as PNG and PDF, and returns their paths."""
    from jaxdistill import plotting

    return plotting.save_figure(figure, stem)


def run_show(args: argparse.Namespace) -> None:
    """Prints the contents of a results file."""
    result = results.load(args.file)
    print(result)
    print("\nmethod: mean exact return of the final students, of the teacher")
    for p, label in enumerate(result.labels):
        student_return, teacher_return = result.final_returns[p].mean(), result.teacher_returns[p].mean()
        print(f"  {label}: {student_return:.4g}, {teacher_return:.4g} (curve {result.curve_kind[p]})")
    for name in result.measure_names:
        title, unit, *_ = result.describe(name)
        print(f"\n{name}: {title}{f' ({unit})' if unit else ''}, mean of the final students")
        for label, values in zip(result.labels, result.final(name), strict=True):
            print(f"  {label}: {values.mean():.4g}")
    print("\narrays: shape (axes)")
    for name, axes in result.axes.items():
        array = getattr(result, name)
        if array is not None:
            print(f"  {name}: {array.shape} ({', '.join(axes)})")
    sections = {"settings": _without_repetition(result.settings), "versions": result.versions, "faults": result.faults}
    for name, content in sections.items():
        print(f"\n{name}:{'' if content else ' none'}")
        for line in json.dumps(content, indent=2).splitlines()[1:-1]:
            print(line)


def _without_repetition(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, in which the configuration of a cell is reduced to its differences from the common one."""
    cells, common = settings.get("cells"), settings.get("config", {})
    if not isinstance(cells, dict):
        return settings
    reduced_cells = {}
    for label, cell in cells.items():
        differences = {name: value for name, value in cell.get("config", {}).items() if common.get(name, ...) != value}
        reduced_cells[label] = {name: value for name, value in cell.items() if name != "config"} | differences
    return settings | {"cells": reduced_cells}


def run_plot(args: argparse.Namespace) -> None:
    """Draws the learning curves of a results file."""
    labels = args.methods.split(",") if args.methods else None
    stem = Path(args.out) if args.out else _measure_stem(Path(args.file).with_suffix(""), args.measure or "")
    for path in (stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf")):
        if path.exists() and not args.overwrite:
            raise ValueError(f"{path} exists; use another --out, or --overwrite.")
    options = dict(labels=labels, quantity=args.quantity, measure=args.measure)
    print(*draw(results.load(args.file), stem, **options), sep="\n")


def run_table(args: argparse.Namespace) -> None:
    """Prints the comparison of results files."""
    by_path = {file: results.load(file) for file in args.files}
    labels = [label for result in by_path.values() for label in result.labels]
    if len(set(labels)) == len(labels):
        table = compare(list(by_path.values()), args.baseline, reach=args.reach, measure=args.measure)
    else:  # the files' names, or their paths if the names are equal too, distinguish methods with equal labels
        by_name = {Path(file).stem: result for file, result in by_path.items()}
        named = by_name if len(by_name) == len(by_path) else by_path
        table = compare(named, args.baseline, reach=args.reach, measure=args.measure)
    columns = args.columns.split(",") if args.columns else None
    if args.format == "text" and columns:
        raise ValueError("--columns is for --format=markdown and --format=latex.")
    forms = {
        "text": lambda: str(table),
        "markdown": lambda: table.to_markdown(columns),
        "latex": lambda: table.to_latex(columns),
    }
    print(forms[args.format]())
