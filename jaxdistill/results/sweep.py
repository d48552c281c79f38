"""`Sweep`, the result of training every combination of some numbers, and the best combination of each method."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.results import measured
from jaxdistill.results.export import tidy_columns, write_csv
from jaxdistill.results.result import Result, load
from jaxdistill.runtime import checks
from jaxdistill.runtime.optional import import_pandas, import_xarray
from jaxdistill.statistics import LEAST_MDPS, Interval, average_height, mean_interval

AREA = "area"
Value = float | str
"""A value of a parameter; a schedule is a text."""


class Setting(NamedTuple):
    """One row of a sweep.

    Attributes:
      label: its label in the result.
      method: the label of its method.
      parameters: the values of the parameters that the method has.
    """

    label: str
    method: str
    parameters: dict[str, Value]

    @property
    def text(self) -> str:
        """The parameters as text, such as "learning_rate=0.1, beta=0.5"."""
        return ", ".join(f"{name}={value_text(value)}" for name, value in self.parameters.items())


class BestRow(NamedTuple):
    """The best setting of a method.

    Attributes:
      setting: the setting.
      estimate: the mean over worlds of the measure, with its interval.
      num_settings: how many settings of the method were compared.
      left_out: how many of them were left out, by the reason, such as "because a student diverged".
      at_edge: names of the parameters whose best value is the first or last of the grid.
    """

    setting: Setting
    estimate: Interval
    num_settings: int
    left_out: dict[str, int]
    at_edge: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Best:
    """The best setting of each method by a measure; prints as a table, and `best[method]` is one row of it.

    The estimate is for the worlds on which the setting was chosen, and so it is too good on average: of several equal
    settings, the luckiest is chosen. `compare(sweep, tuned=...)` judges the best settings on other worlds.
    """

    rows: tuple[BestRow, ...]
    quantity: str

    def __getitem__(self, method: str) -> BestRow:
        for row in self.rows:
            if row.setting.method == method:
                return row
        names = [row.setting.method for row in self.rows]
        raise KeyError(f"no method {checks.shown_among(method, names)} in this sweep; it has {', '.join(names)}")

    @property
    def labels(self) -> list[str]:
        """The labels of the best settings, by which `Result.select` finds them."""
        return [row.setting.label for row in self.rows]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on best values at the edge of the grid, and on settings that were left out."""
        notes = []
        for row in self.rows:
            if row.at_edge:
                edge = f"{' and '.join(row.at_edge)} at the edge of the grid"
                notes.append(f"note: {row.setting.method}: {edge}; a wider one may be better")
            for reason, number in row.left_out.items():
                missing = f"{number} setting{'s were' if number > 1 else ' was'} left out, {reason}"
                notes.append(f"note: {row.setting.method}: {missing}")
        return tuple(notes)

    def __str__(self) -> str:
        cells = [("method", "best setting", "mean [95 %]", "settings tried")]
        cells += [
            (row.setting.method, row.setting.text or "(none to tune)", f"{row.estimate:.3f}", str(row.num_settings))
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([self.quantity, *(line.rstrip() for line in lines), *self.notes])

    __repr__ = __str__


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The students of every combination of some parameters, on the same worlds.

    A sweep is a `Result` with a row for each combination, whose settings say which row is which. So `sweep.save(path)`
    writes a results file, and `Sweep.load(path)` reads it.

    Attributes:
      result: the `Result`; `result.settings["sweep"]` holds the grid and the rows.
    """

    result: Result

    def __post_init__(self) -> None:
        sweep = self.result.settings.get("sweep")
        if not isinstance(sweep, dict) or [row["label"] for row in sweep["rows"]] != list(self.result.labels):
            raise ValueError("This result is not that of a sweep with all of its rows; make one with jaxdistill.sweep.")

    @property
    def grid(self) -> dict[str, tuple[Value, ...]]:
        """The values of each parameter, in the order in which they were given."""
        return {name: tuple(values) for name, values in self.result.settings["sweep"]["grid"].items()}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What each row of the result is."""
        return tuple(Setting(**row) for row in self.result.settings["sweep"]["rows"])

    @property
    def methods(self) -> tuple[str, ...]:
        """The labels of the methods, in the order in which they were given."""
        return tuple(dict.fromkeys(setting.method for setting in self.settings))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}: {', '.join(map(value_text, values))}" for name, values in self.grid.items())
        return (
            f"Sweep(methods: {', '.join(self.methods)}; {values}; {len(self.settings)} settings; "
            f"{self.result.num_mdps} MDPs; iteration {self.result.iterations[-1]}; {len(self.result.faults)} faults)"
        )

    def values(self, measure: str = "return") -> np.ndarray:
        """A measure of the final students, [P, M] in the order of `settings`.

        Args:
          measure: "area", the mean return over training, or what `Result.final` takes, such as "return".
        """
        return final_values(self.result, measure)

    def title(self, measure: str) -> str:
        """A measure of `values` in words, with its unit."""
        if measure == AREA:
            return "mean return over training"
        title, unit, *_ = self.result.describe(measure)
        return f"{title} ({unit}) of the final students" if unit else f"{title} of the final students"

    def sign(self, measure: str) -> int:
        """1 if larger values of a measure are better, -1 if smaller ones are; ValueError if neither is, or unknown."""
        if measure == AREA:
            return 1
        better = self.result.describe(measure).better
        if better:
            return -1 if better == "lower" else 1
        if measured.definition(self.result, measured.stored_name(self.result, measure) or measure):
            raise ValueError(
                f"Neither higher nor lower values of {measure} are better; choose settings by another measure."
            )
        raise ValueError(
            f"It is not known whether higher or lower values of {measure} are better; say so before the training, such "
            'as my_measure.better = "lower".'
        )

    def tuned(self, measure: str = "return") -> tuple[Result, Best, str]:
        """The best setting of each method, chosen on one half of the worlds, with its students on the other half.

        The best of many settings looks better than it is on the worlds on which it was chosen. The halves are drawn at
        random, the same for the same ids of worlds.

        Returns:
          The result of the best settings on the worlds that judge them, what `best` said on the others, and a note.

        Raises:
          ValueError: fewer than 16 worlds, which are too few for an interval on half of them.
        """
        num_mdps = self.result.num_mdps
        if num_mdps < 2 * LEAST_MDPS:
            raise ValueError(
                f"tuned needs at least {2 * LEAST_MDPS} worlds, half of them to choose the settings and half to judge "
                f"them; this sweep has {num_mdps}."
            )
        ids = np.random.default_rng(0).permutation(np.sort(self.result.mdp_ids))
        choosing, judging = ids[: num_mdps // 2], ids[num_mdps // 2 :]
        best = self.best(measure, mdps=choosing)
        result = self.result.select(best.labels, mdps=[i for i in self.result.mdp_ids if i in judging])
        numbers = f"{len(choosing)} worlds, and are judged on {len(judging)} others"
        return result, best, f"note: the settings were chosen by {measure} on {numbers}"

    def best(self, measure: str = "return", mdps: int | Iterable[int] | None = None) -> Best:
        """The setting of each method with the best mean of a measure over worlds.

        A setting is left out if a student diverged or has not finished, or if its value is infinite; a note says so.

        Args:
          measure: as in `values`.
          mdps: ids of the worlds that count; None: all.

        Raises:
          ValueError: all settings of a method would be left out, or it is not known which values are better.
        """
        if isinstance(mdps, Iterable) and not (mdps := list(mdps)):
            raise ValueError("mdps is empty; give ids of worlds, or None for all.")
        result = self.result if mdps is None else self.result.select(mdps=mdps)
        values, sign = final_values(result, measure), self.sign(measure)
        rows = []
        for method in self.methods:
            indices = [p for p, setting in enumerate(self.settings) if setting.method == method]
            reasons = [reason_to_leave_out(result, p, values[p], measure) for p in indices]
            left_out = dict(collections.Counter(reason for reason in reasons if reason))
            if sum(left_out.values()) == len(indices):
                raise ValueError(f"No setting of {method} can be the best by {measure}, {'; or '.join(left_out)}.")
            first = best_row(sign * values, indices)
            setting = self.settings[first]
            rows.append(
                BestRow(
                    setting, mean_interval(values[first]), len(indices), left_out,
                    tuple(name for name in setting.parameters if self._is_at_edge(setting, name)),
                )
            )  # fmt: skip
        quantity = f"best settings by {measure}, on {values.shape[1]} worlds"
        return Best(tuple(rows), quantity)

    def best_estimate(self, method: str, parameters: Mapping[str, Value], measure: str = "return") -> Interval:
        """The mean over worlds of the best setting of a method with these parameters, with its interval.

        Settings that lack a parameter count only if all settings of the method lack it. The mean is nan where all
        settings have a value that is not finite.
        """
        values = self.values(measure)
        of_method = [(p, setting.parameters) for p, setting in enumerate(self.settings) if setting.method == method]
        for name, value in parameters.items():
            if any(name in having for _, having in of_method):
                of_method = [(p, having) for p, having in of_method if having.get(name) == value]
        best = values[best_row(self.sign(measure) * values, [p for p, _ in of_method])]
        return mean_interval(best if np.isfinite(best).all() else np.full_like(best, np.nan))

    def _is_at_edge(self, setting: Setting, name: str) -> bool:
        """Whether a number is the smallest or the largest of three or more of the grid."""
        values = self.grid[name]
        is_ordered = len(values) > 2 and not any(isinstance(value, str) for value in values)
        return is_ordered and setting.parameters[name] in (min(values), max(values))

    def to_dataframe(self) -> Any:
        """Tidy pandas DataFrame: method, a column for each parameter, mdp, iteration, return, length, and each measure.

        A parameter that a method does not have is NaN in its rows. Needs pandas.
        """
        return import_pandas().DataFrame(self._columns())

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table of `to_dataframe` as csv, as `Result.to_csv` does."""
        return write_csv(self._columns(), path)

    def _columns(self) -> dict[str, np.ndarray]:
        columns = tidy_columns(self.result)
        row = np.repeat(np.arange(len(self.settings)), len(columns["mdp"]) // len(self.settings))
        del columns["label"]
        named: dict[str, np.ndarray] = {"method": np.array([x.method for x in self.settings], object)[row]}
        for name, values in self.grid.items():
            kind = object if any(isinstance(value, str) for value in values) else float
            named[name] = np.array([x.parameters.get(name, np.nan) for x in self.settings], kind)[row]
        return named | columns

    def to_xarray(self) -> Any:
        """The returns, lengths and measures as an `xarray.Dataset` with an axis for each parameter; needs xarray.

        The axes are method, the parameters in the order of the grid, mdp and checkpoint. A method that lacks a
        parameter has the same numbers for all of its values::

            ds = sweep.to_xarray()
            ds.final_returns.sel({"method": "jsd", "beta": 0.5}).mean("mdp")  # by learning rate
        """
        xarray = import_xarray()
        grid, result, settings = self.grid, self.result, self.settings
        shape = (len(self.methods), *map(len, grid.values()))
        index = np.full(shape, -1)
        for p, setting in enumerate(settings):
            place = [
                values.index(setting.parameters[name]) if name in setting.parameters else slice(None)
                for name, values in grid.items()
            ]
            index[(self.methods.index(setting.method), *place)] = p
        names = ("method", *grid)
        arrays = {"returns": result.returns, "lengths": result.lengths, "final_returns": result.final_returns}
        axes = {"returns": ("mdp", "checkpoint"), "lengths": ("mdp", "checkpoint"), "final_returns": ("mdp",)}
        variables = {name: ((*names, *axes[name]), array[index]) for name, array in arrays.items()}
        for i, name in enumerate(result.measure_names):
            assert result.measurements is not None
            variables[name] = ((*names, "mdp", "checkpoint"), result.measurements[..., i][index])
        coordinates: dict[str, Any] = {"method": list(self.methods), "mdp": result.mdp_ids}
        coordinates |= {"checkpoint": result.iterations} | {name: list(values) for name, values in grid.items()}
        return xarray.Dataset(variables, coords=coordinates)

    def lines(self, x: str, measure: str = "return") -> Any:
        """A matplotlib Figure of a measure by a parameter, a line for each method; see `plotting.sweeps`."""
        from jaxdistill.plotting import sweeps

        return sweeps.plot_lines(self, x, measure)

    def heatmap(self, x: str, y: str, measure: str = "return") -> Any:
        """A matplotlib Figure of a measure by two parameters, a panel for each method; see `plotting.sweeps`."""
        from jaxdistill.plotting import sweeps

        return sweeps.plot_heatmap(self, x, y, measure)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the result with the grid and the rows to a results file, as `Result.save` does."""
        return self.result.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Sweep":
        """Reads a file of `save`; raises as `jaxdistill.load` does, and ValueError for a result that is no sweep."""
        return cls(load(path))


def final_values(result: Result, measure: str) -> np.ndarray:
    """A measure of the final students of a result, [P, M], as `Sweep.values` gives it."""
    return average_height(result.iterations, result.returns) if measure == AREA else result.final(measure)


def best_row(values: np.ndarray, rows: Sequence[int]) -> int:
    """Which of some rows of `values` [P, M] has the largest mean; one that is not finite only if all are not."""
    eligible = [p for p in rows if np.isfinite(values[p]).all()]
    return max(eligible, key=lambda p: float(values[p].mean())) if eligible else rows[0]


def reason_to_leave_out(result: Result, row: int, values: np.ndarray, measure: str) -> str:
    """Why a setting cannot be the best one, as the end of a sentence; "" if it can.

    Args:
      result: of the sweep.
      row: of the setting in the result.
      values: [M], the measure of its final students.
      measure: its name.
    """
    if np.isfinite(values).all():
        return ""
    if any(fault["method"] == result.labels[row] and fault["mdp"] in result.mdp_ids for fault in result.faults):
        return "because a student diverged"
    if (np.isnan(values) & np.isnan(result.final_returns[row])).any():
        return "because its students have not all finished; run the same command again to go on"
    reason = f"because {measure} is not finite"
    if measured.needs_floor(result, measure):
        reason += f": the teacher never takes some actions; measure it with a floor, such as {measure}:floor=0.001"
    return reason


def value_text(value: Value) -> str:
    """A value of a parameter in a label."""
    return value if isinstance(value, str) else f"{value:g}"


def as_sweep(result: Result, grid: Mapping[str, Sequence[Value]], settings: Sequence[Setting]) -> Sweep:
    """The sweep of a result whose rows are `settings`, in this order."""
    rows = [setting._asdict() for setting in settings]
    sweep = {"grid": {name: list(values) for name, values in grid.items()}, "rows": rows}
    return Sweep(dataclasses.replace(result, settings={**result.settings, "sweep": sweep}))
