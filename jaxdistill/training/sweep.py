"""`sweep`: every combination of some numbers of methods and configurations, in one training."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill.mdp import MDP, Teacher, exact
from jaxdistill.methods import Method
from jaxdistill.methods.options import word_fields
from jaxdistill.methods.schedules import Schedule, is_schedule
from jaxdistill.results import Stopped
from jaxdistill.results.sweep import Setting, Sweep, Value, as_sweep, value_text
from jaxdistill.runtime import checks
from jaxdistill.runtime.errors import ExecutorFailed
from jaxdistill.training.config import Cell, Config, ResolvedCell, config_of
from jaxdistill.training.train import MethodLike, resolve, stacked, train

MAX_STUDENTS = 200_000
"""The students that `sweep` trains without being told that more are meant."""

_SHARED = ("num_iterations", "num_checkpoints", "optimizer", "max_episode_steps")  # fields that are not swept


def sweep(
    key: jax.Array,
    mdps: MDP,
    teacher: Teacher | None,
    methods: MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike],
    grid: Mapping[str, Sequence[Any]],
    config: Config | None = None,
    *,
    max_students: int = MAX_STUDENTS,
    **options: Any,
) -> Sweep:
    """Trains every method with every combination of the values in `grid`, all in one training.

    A parameter that a method lacks, or that has no effect on it, is not crossed with it: of
    {"learning_rate": [0.1, 1], "beta": [0.1, 0.5, 0.9]}, a method without `beta` has two settings and one with it six.
    Numbers do not recompile, so hundreds of settings run as fast as one method with as many students.

    Args:
      key, mdps, teacher, methods, config: as in `train`.
      grid: for each name of a field of `Config` or of a number of a method, its values: numbers, `Schedule`s,
        functions of the iteration, or words such as "td". The numbers of iterations and of checkpoints, the optimizer
        and `max_episode_steps` are the same in all settings.
      max_students: the largest number of students, settings times worlds. A larger training is refused, with an
        estimate of what it would cost, because a grid grows quickly.
      **options: further arguments of `train`, such as `measure`, and fields of `Config` for all settings.

    Returns:
      A `Sweep`: `best()`, `lines("learning_rate")`, `heatmap("learning_rate", "beta")`, `to_dataframe()`,
      `to_xarray()`; `compare(sweep, tuned="return")` compares the methods, each at its best setting.

    Raises:
      ValueError: an empty grid, a parameter that no method has, too many students, or what `train` refuses.
      Stopped, ExecutorFailed: as `train`; their `result` can be given to `Sweep`.
    """
    names = {field.name for field in dataclasses.fields(Config)}
    changes = {name: value for name, value in options.items() if name in names}
    check_steps(grid, options.get("equal_steps", False))
    plan = planned(mdps, teacher, methods, grid, config_of(config, changes), changes, max_students)
    try:
        result = train(key, mdps, teacher, plan.cells, config, **options)
    except (Stopped, ExecutorFailed) as stop:
        if stop.result is not None:
            stop.result = as_sweep(stop.result, plan.grid, plan.settings).result
        raise
    return as_sweep(result, plan.grid, plan.settings)


def check_steps(grid: Any, equal_steps: Any) -> None:
    """ValueError if the learning rates are in the grid and are to be scaled as well."""
    if equal_steps is True and isinstance(grid, Mapping) and "learning_rate" in grid:
        raise ValueError("equal_steps sets the learning rates; remove it, or learning_rate from the grid.")


class Plan(NamedTuple):
    """What a sweep trains.

    Attributes:
      cells: the cells, by the labels of their settings.
      settings: the settings, in the same order.
      grid: the values of each parameter, as numbers and texts.
    """

    cells: dict[str, Cell]
    settings: list[Setting]
    grid: dict[str, list[Value]]


def planned(
    mdps: MDP,
    teacher: Teacher | None,
    methods: MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike],
    grid: Mapping[str, Sequence[Any]],
    config: Config,
    changes: Mapping[str, Any],
    max_students: int = MAX_STUDENTS,
) -> Plan:
    """What `sweep` trains with these arguments; raises ValueError as `sweep` does, before any training.

    `changes` are the fields of the configuration that are set for this sweep and cannot be in the grid too.
    """
    mdps, teacher = stacked(mdps, teacher)
    cells = resolve(methods, teacher, config)
    values = _checked_grid(grid, cells, changes)
    combinations = [(cell, _combinations(cell, values, mdps)) for cell in cells]
    _check_used(values, combinations)
    _check_size(sum(len(group) for _, group in combinations), mdps, config, max_students)
    settings: list[Setting] = []
    lines: dict[str, Cell] = {}
    for cell, group in combinations:
        for parameters in group:
            setting = _setting(cell.label, parameters)
            settings.append(setting)
            lines[setting.label] = _cell(cell, parameters)
    return Plan(lines, settings, {name: [_shown(name, value) for value in given] for name, given in values.items()})


def _checked_grid(grid: Any, cells: Sequence[ResolvedCell], changes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each parameter, the words first, because they decide which numbers have an effect."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            "grid must map at least one parameter to its values, such as {'learning_rate': [0.1, 1.0]}; got "
            f"{checks.shown(grid)}."
        )
    fields = [field.name for field in dataclasses.fields(Config)]
    swept = [name for name in fields if name not in _SHARED]
    numbers = [name for cell in cells for name in cell.method.params]
    values = {}
    for name, given in grid.items():
        if name in _SHARED:
            raise ValueError(f"{name} must be the same in all settings of a sweep; give it as an option.")
        checks.known("parameter", name, list(dict.fromkeys([*swept, *numbers])), "a sweep of these methods can have")
        _check_given_once(name, cells, changes)
        values[name] = checks.listed(given)
        if not values[name]:
            raise ValueError(f"grid has no value of {name}; give at least one, or leave {name} out.")
        texts = [value_text(_shown(name, value)) for value in values[name]]
        for text in texts:
            if texts.count(text) > 1:
                raise ValueError(
                    f"grid has the value {text} of {name} twice; remove one, or give functions as jaxdistill.Schedule, "
                    "whose values tell them apart."
                )
    words = word_fields()
    return dict(sorted(values.items(), key=lambda item: item[0] not in words))


def _check_given_once(name: str, cells: Sequence[ResolvedCell], changes: Mapping[str, Any]) -> None:
    """ValueError if a parameter of the grid is also set as an option, in a cell or in the name of a method."""
    if name in changes:
        raise ValueError(f"{name} is given twice, in the grid and as an option; remove one.")
    for cell in cells:
        if name in cell.changes or f"{name}=" in cell.method.name:
            raise ValueError(f"{name} is given twice, in the grid and for {cell.label}; remove one.")


def _combinations(cell: ResolvedCell, values: Mapping[str, list[Any]], mdps: MDP) -> list[dict[str, Any]]:
    """The combinations of the parameters that have an effect on a method.

    It depends on the words of a combination whether a number has an effect: `trace_decay` has one with the estimator
    "lambda" only.
    """
    combinations: list[dict[str, Any]] = [{}]
    words = word_fields()
    for name, of_name in values.items():
        larger: list[dict[str, Any]] = []
        applies: dict[tuple[Any, ...], bool] = {}
        for combination in combinations:
            setting = tuple(combination.get(word) for word in words)
            if setting not in applies:
                applies[setting] = _applies(cell, name, combination, mdps)
            larger += [{**combination, name: value} for value in of_name] if applies[setting] else [combination]
        combinations = larger
        if len(combinations) > 10**7:  # enough to know that it is too many
            break
    return combinations


def _applies(cell: ResolvedCell, name: str, combination: Mapping[str, Any], mdps: MDP) -> bool:
    """Whether a parameter has an effect on a method with the words of a combination."""
    if name in cell.method.params:
        return True
    fields = {field.name for field in dataclasses.fields(Config)}
    if name not in fields:
        return False
    if name in ("estimator", "reduction", "discount") and getattr(cell.method, name) is not None:
        return False
    if name in ("estimator", "truncation") and not cell.method.has_return:
        return False
    given = {word: combination[word] for word in word_fields() if word in combination}
    config = dataclasses.replace(cell.config, **given)
    resolved = ResolvedCell(cell.label, cell.method, cell.teacher, config.resolved(cell.method))
    return not resolved.without_effect(name, mdps.num_actions, mdps.num_features)


def _check_used(names: Iterable[str], combinations: Sequence[tuple[ResolvedCell, list[dict[str, Any]]]]) -> None:
    """ValueError if a parameter of the grid has no effect on any method."""
    for name in names:
        if not any(name in combination for _, group in combinations for combination in group):
            labels = ", ".join(cell.label for cell, _ in combinations)
            raise ValueError(f"{name} has no effect on any of {labels}; remove it from the grid.")


def _check_size(num_settings: int, mdps: MDP, config: Config, max_students: int) -> None:
    """ValueError if there are more students than `max_students`, with what their training would cost."""
    checks.whole("max_students", max_students, 1)
    num_students = num_settings * mdps.num_mdps
    if num_students <= max_students:
        return
    lengths = exact.start_value(mdps, exact.expected_length(mdps, exact.uniform_policy(mdps)))
    finite = lengths[np.isfinite(lengths)]
    length = float(np.mean(finite)) if len(finite) else float(config.max_episode_steps)
    steps = num_students * config.num_iterations * min(length, config.max_episode_steps)
    numbers = 16 * len(config.checkpoints) + 4 * mdps.num_observations * (mdps.num_actions + 1)
    raise ValueError(
        f"The grid has {num_settings:,} settings, which are {num_students:,} students on {mdps.num_mdps} worlds: about "
        f"{steps:.1e} environment steps and {numbers * num_students / 1e9:.1f} GB of results. That is more than "
        f"max_students, {max_students:,}; use fewer values, or raise max_students."
    )


def _cell(cell: ResolvedCell, parameters: Mapping[str, Any]) -> Cell:
    """The cell of a method with the parameters of a setting."""
    numbers = {name: value for name, value in parameters.items() if name in cell.method.params}
    method: Method = cell.method
    if numbers:
        method = dataclasses.replace(method.with_params(**numbers), name=method.name)
    changes = {name: value for name, value in parameters.items() if name not in numbers}
    return Cell(method, cell.teacher, {**cell.changes, **changes})


def _setting(method: str, parameters: Mapping[str, Any]) -> Setting:
    shown = {name: _shown(name, value) for name, value in parameters.items()}
    setting = Setting(method, method, shown)
    return setting._replace(label=f"{method} [{setting.text}]") if shown else setting


def _shown(name: str, value: Any) -> Value:
    """A value of a parameter as a number or a text that a file can hold."""
    if isinstance(value, Schedule):
        return ",".join(f"{i}:{x:g}" for i, x in zip(value.iterations, value.values, strict=True))
    if is_schedule(value):
        return str(getattr(value, "__name__", None) or type(value).__name__)
    if isinstance(value, str):
        return value
    return checks.number(f"a value of {name} in the grid", value)
