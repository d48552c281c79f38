"""`Result`, the outcome of a training run: NumPy arrays with named axes, which can be saved, selected and joined."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.results import measured
from jaxdistill.results.export import tidy_columns, to_dataset, write_csv
from jaxdistill.results.storage import jsonable, read_archive, write_archive
from jaxdistill.results.summary import Summary, summarise
from jaxdistill.runtime import checks
from jaxdistill.runtime.files import as_path, one_line
from jaxdistill.runtime.optional import import_pandas
from jaxdistill.runtime.surroundings import package_versions

AXES: dict[str, tuple[str, ...]] = {
    "mdp_ids": ("mdp",),
    "iterations": ("checkpoint",),
    "returns": ("method", "mdp", "checkpoint"),
    "lengths": ("method", "mdp", "checkpoint"),
    "final_returns": ("method", "mdp"),
    "teacher_returns": ("method", "mdp"),
    "uniform_returns": ("mdp",),
    "optimal_returns": ("mdp",),
    "logits": ("method", "mdp", "observation", "action"),
    "values": ("method", "mdp", "observation"),
    "features": ("mdp", "state", "feature"),
    "measurements": ("method", "mdp", "checkpoint", "measure"),
}
_OPTIONAL = ("logits", "values", "features", "measurements")
_INTEGERS = ("mdp_ids", "iterations", "features")
_KINDS = ("sampled", "exact")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Learning curves and final students of P methods on the same M MDPs, recorded at C checkpoints.

    Every array is a NumPy array; `Result.axes` names the axes of each. Returns are undiscounted. Averages leave out
    values that are not finite, such as those of a student that diverged (see `faults`), and report how many.
    """

    labels: tuple[str, ...]  # the method axis: one distinct name per row
    mdp_ids: np.ndarray  # int [M]
    iterations: np.ndarray  # int [C], last iteration of each bin, counted from 1
    returns: np.ndarray  # [P, M, C] return of the student's episodes: mean over the bin, or exact
    lengths: np.ndarray  # [P, M, C] length of the student's episodes in steps, likewise
    final_returns: np.ndarray  # [P, M] exact return of the final student
    teacher_returns: np.ndarray  # [P, M] exact return of each method's teacher, nan without one
    uniform_returns: np.ndarray  # [M] exact return of the uniform policy
    optimal_returns: np.ndarray  # [M] exact return of the best policy, within the time limit if there is one
    logits: np.ndarray | None = None  # [P, M, O, A] final students
    values: np.ndarray | None = None  # [P, M, O]
    features: np.ndarray | None = None  # int [M, S, F] rows whose sum a state uses, padded with -1; None: one row each
    measurements: np.ndarray | None = None  # [P, M, C, Q] values of `train(..., measure=...)`
    measure_names: tuple[str, ...] = ()  # the measure axis
    # Per method: "sampled" from the training episodes, or "exact" if another policy than the student acts in these.
    curve_kind: tuple[str, ...] = ()  # () means that all are sampled
    faults: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, Any] = dataclasses.field(default_factory=package_versions)

    axes: ClassVar[dict[str, tuple[str, ...]]] = AXES

    def __post_init__(self) -> None:
        changes: dict[str, Any] = {}
        for name in ("labels", "curve_kind", "measure_names"):
            changes[name] = _as_names(name, getattr(self, name))
        changes["curve_kind"] = changes["curve_kind"] or ("sampled",) * len(changes["labels"])
        for name in AXES:
            if name not in _OPTIONAL or getattr(self, name) is not None:
                changes[name] = _as_numbers(name, getattr(self, name))
        # Settings may hold dataclasses, arrays or functions. They are converted to JSON types here, so that saving
        # after hours of training cannot fail on them and a loaded result equals the saved one.
        for name in ("faults", "settings", "versions"):
            changes[name] = jsonable(getattr(self, name))
        for name, value in changes.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Raises a ValueError unless the fields fit together."""
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must be distinct and at least one, got {checks.shown(self.labels)}")
        if len(self.curve_kind) != len(self.labels) or not set(self.curve_kind) <= set(_KINDS):
            raise ValueError(f"curve_kind must be sampled or exact for each label, got {checks.shown(self.curve_kind)}")
        for name, kind in (("faults", list), ("settings", dict), ("versions", dict)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {checks.shown(getattr(self, name))}")
        if not all(isinstance(fault, dict) for fault in self.faults):
            raise ValueError(f"faults must be a list of dicts, got {checks.shown(self.faults)}")
        sizes = {"method": len(self.labels), "measure": len(self.measure_names)}
        for name, axes in AXES.items():
            array = getattr(self, name)
            if array is None:
                continue
            expected = ", ".join(f"{sizes[axis]} {axis}s" if axis in sizes else f"{axis}s" for axis in axes)
            named = list(zip(axes, array.shape, strict=False))
            if array.ndim != len(axes) or any(sizes.get(axis, size) != size for axis, size in named):
                raise ValueError(f"{name} has shape {array.shape}, expected ({expected})")
            sizes |= named
        rows = sizes.get("observation", 2**31)
        extremes = (0, 0) if self.features is None else (self.features.min(initial=0), self.features.max(initial=0))
        if not -1 <= extremes[0] <= extremes[1] < rows:
            raise ValueError(f"features must be rows of the tables, in [0, {rows}), or -1")
        if 0 in (sizes["mdp"], sizes["checkpoint"]):
            raise ValueError("a result needs at least one MDP and one checkpoint")
        if self.iterations[0] < 1 or np.any(np.diff(self.iterations) <= 0):
            raise ValueError("iterations must be at least 1 and increase from checkpoint to checkpoint")

    @property
    def num_mdps(self) -> int:
        """M, the number of MDPs."""
        return len(self.mdp_ids)

    def __repr__(self) -> str:
        return (
            f"Result(methods: {', '.join(self.labels)}; {self.num_mdps} MDPs; {len(self.iterations)} "
            f"checkpoints up to iteration {self.iterations[-1]}; {len(self.faults)} faults)"
        )

    def method_index(self, label: str) -> int:
        """Position of `label` on the method axis; ValueError, which lists the labels, if it is not one of them."""
        if not isinstance(label, str) or label not in self.labels:
            raise ValueError(
                f"no method {checks.shown_among(label, self.labels)} in this result; it has {', '.join(self.labels)}"
            )
        return self.labels.index(label)

    def measure(self, name: str) -> np.ndarray:
        """Values [P, M, C] of the measure `name` at all checkpoints.

        Args:
          name: one of `measure_names`, or another spelling of it, such as "forward_kl" for "forward_kl:student".
            "return" and "length" are the curves `returns` and `lengths` where the training did not measure them.

        Returns:
          The values, nan where they are not known: those of `with_measures` are known for the final students alone.
          ValueError, which lists the measures, if the result does not have it.
        """
        return measured.curves(self, name)

    def final(self, name: str = "return") -> np.ndarray:
        """Exact values [P, M] of a measure of the final students; arguments and errors as in `measure`."""
        return measured.final_values(self, name)

    def describe(self, name: str = "return") -> measured.Description:
        """Title, unit and better direction of a measure, and whether each method's curve of it is exact or sampled."""
        return measured.describe(self, name)

    def policy(self, label: str, mdps: MDP | None = None) -> np.ndarray:
        """The policies of a method's final students in every state, float64 [M, S, A].

        Args:
          label: the method.
          mdps: the MDPs of the training, which say which row each state uses. If states use several rows
            (`MDP.with_features`), the result holds them, and no MDPs are needed.

        Returns:
          The policies; nan for students that diverged. ValueError, one line, if something is missing or does not belong
          to this result.
        """
        return measured.policies(self, self.method_index(label), mdps)

    def with_measures(
        self,
        names: str | Iterable[str],
        mdps: MDP | None = None,
        teacher: Any = None,
        *,
        discount: Any = None,
        probability_floor: Any = None,
    ) -> "Result":
        """The result with further measures of its final students, computed from their tables.

        Args:
          names: one or more names of `measures.MEASURES` with their options.
          mdps: the MDPs of the training; a result does not hold them.
          teacher: their teacher, where a measure needs it: one for all methods, or a mapping from labels.
          discount, probability_floor: what the names leave open; by default as in the configuration of the training.

        Returns:
          A result whose `final(name)` is known; the curves of these measures are nan at all checkpoints but the last.
          ValueError, one line, if something is missing or does not belong to this result.
        """
        return measured.with_measures(self, names, mdps, teacher, discount, probability_floor)

    def select(self, labels: str | Iterable[str] | None = None, mdps: int | Iterable[int] | None = None) -> "Result":
        """The result of some methods and MDPs only, in the given order; None keeps all.

        Args:
          labels: one or more method names; ValueError for a name that is not in the result.
          mdps: one or more MDP *ids*, values of `mdp_ids`; ValueError for an id that is not in the result.
        """
        selected_labels = self.labels if labels is None else tuple(checks.listed(labels))
        methods = [self.method_index(label) for label in selected_labels]
        positions = list(range(self.num_mdps)) if mdps is None else self._mdp_positions(mdps)
        changes: dict[str, Any] = {}
        for name, axes in AXES.items():
            array = getattr(self, name)
            if array is not None and "method" in axes:
                array = array[methods]
            if array is not None and "mdp" in axes:
                array = np.take(array, positions, axis=axes.index("mdp"))
            changes[name] = array
        ids = set(changes["mdp_ids"].tolist())
        changes["faults"] = [
            f for f in self.faults if f.get("method") in (None, *selected_labels) and f.get("mdp") in (None, *ids)
        ]
        kinds = tuple(self.curve_kind[p] for p in methods)
        return dataclasses.replace(self, labels=selected_labels, curve_kind=kinds, **changes)

    def _mdp_positions(self, mdps: int | Iterable[int]) -> list[int]:
        """Positions of the given MDP ids on the MDP axis."""
        ids = checks.listed(mdps)
        if not all(checks.is_whole(i, -(2**63), 2**63 - 1) for i in ids):
            raise ValueError(f"mdps must be MDP ids, whole numbers; got {checks.shown(mdps)}")
        ids = [int(i) for i in ids]
        unknown = sorted(set(ids) - set(self.mdp_ids.tolist()))
        if unknown:
            raise ValueError(f"no MDP with id {unknown[0]} in this result; see mdp_ids")
        return [int(p) for i in ids for p in np.flatnonzero(self.mdp_ids == i)]

    def summary(self, checkpoint: int | str = -1, baseline: str | None = None, measure: str | None = None) -> Summary:
        """Mean and IQM over MDPs with 95 % intervals, and paired differences, as a table to print.

        `compare` also reports how often a method wins and how fast it learns, and takes several results.

        Args:
          checkpoint: position on the checkpoint axis of `returns`, or "final" for the exact returns of the
            final students, which have neither the noise nor the lag of a bin of training episodes.
          baseline: the label that the others are compared with, MDP by MDP; by default the first.
          measure: the measure in the table, as in `measure`; by default the undiscounted return.

        Returns:
          A `Summary`. ValueError for a checkpoint, a label or a measure that the result does not have.
        """
        baseline = self.labels[0] if baseline is None else baseline
        self.method_index(baseline)
        values, quantity = measured.values_at(self, measure, checkpoint)
        return summarise(self.labels, values, measured.teacher_values(self, measure), baseline, quantity)

    def normalised_scores(self, checkpoint: int | str = "final") -> np.ndarray:
        """Returns at a checkpoint as scores [P, M]: 0 is the uniform policy's return in a world, 1 the optimal one's.

        A world in which all policies have the same return has no score, and is nan. `checkpoint` is as in `summary`.
        """
        returns, _ = measured.values_at(self, None, checkpoint)
        span = self.optimal_returns - self.uniform_returns
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(span > 0, (returns - self.uniform_returns) / span, np.nan)

    def profiles(self, checkpoint: int | str = "final", labels: Sequence[str] | None = None) -> Any:
        """Performance profiles as a matplotlib Figure: for each method, the share of worlds above each score.

        Arguments as in `plotting.plot_profiles`.
        """
        from jaxdistill import plotting

        return plotting.plot_profiles(self, checkpoint, labels)

    def to_dataframe(self) -> Any:
        """Tidy pandas DataFrame: label, mdp, iteration, return, length and a column for each measure; needs pandas."""
        return import_pandas().DataFrame(tidy_columns(self))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table of `to_dataframe` as csv, gzipped if `path` ends in .gz; does not need pandas.

        Each number is the shortest text that reads back as the same float. OSError, one line, if it cannot be
        written.
        """
        return write_csv(tidy_columns(self), path)

    def to_xarray(self) -> Any:
        """All arrays as an `xarray.Dataset` whose dimensions are the named axes of `Result.axes`; needs xarray.

        The coordinates `method`, `mdp`, `checkpoint` and `measure` hold the labels, the MDP ids, the iterations and the
        names of the measures, and select students by name::

            ds = result.to_xarray()
            ds.returns.sel({"method": "n_distill"}).mean("mdp")  # a learning curve
            ds.returns.sel(checkpoint=2000)  # [method, mdp]

        Give the method in a dict: xarray would take `method` in `sel(method="n_distill")` for the rule of inexact
        matches, and select nothing. Likewise, `ds["values"]` is the array and `ds.values` a method of every Dataset.

        `curve_kind` is a second coordinate of the method axis. Settings, versions and faults are JSON strings in
        `ds.attrs`, so that `ds.to_netcdf(path)` writes the whole dataset. Optional arrays that the result lacks are
        left out. The dataset shares the memory of the result's arrays; `ds.copy(deep=True)` is independent of them.
        """
        return to_dataset(self)

    def plot(self, *args: Any, **kwargs: Any) -> Any:
        """Learning curves with 95 % bands as a matplotlib Figure; arguments as in `plotting.plot_result`."""
        from jaxdistill import plotting

        return plotting.plot_result(self, *args, **kwargs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything to one npz file, without pickle, with the metadata as JSON inside; see `load`.

        The file appears as a whole or not at all, and equal results give equal bytes. OSError, one line, if it cannot
        be written.
        """
        arrays = {name: getattr(self, name) for name in AXES if getattr(self, name) is not None}
        metadata = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in AXES}
        return write_archive(path, metadata, arrays)


def load(path: str | os.PathLike[str]) -> Result:
    """Reads a file written by `Result.save`.

    Raises:
      ValueError: one line, if the file is truncated, altered, of another version or not a results file.
      OSError: if it cannot be opened.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be the path of a results file, got {checks.shown(path)}")
    return read(as_path(path).read_bytes(), path)


def read(data: bytes, path: str | os.PathLike[str]) -> Result:
    """The `Result` in the bytes of a file; raises a ValueError as `load` does, with `path` as the file's name."""
    metadata, arrays = read_archive(data, path)
    try:
        return Result(**metadata, **arrays)
    except (TypeError, ValueError, AttributeError) as error:  # the file was written with other fields than these
        raise ValueError(f"{path} does not hold a result: {one_line(error)}; recompute it") from error


class Stopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C.

    Attributes:
      result: the `Result` of the students that had finished; the others are NaN.
    """

    def __init__(self, result: Result):
        unfinished = result.settings["unfinished_students"]
        super().__init__(f"{unfinished} of {result.final_returns.size} students had not finished; see .result")
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result,)  # by default an exception is unpickled from its message


def concatenate(results: Sequence[Result], axis: str = "mdp") -> Result:
    """Joins results of the same methods on other MDPs ("mdp") or other methods on the same MDPs ("method").

    Students with fewer observations get zero rows at the end of their tables, which is the content of a row that was
    never visited. Settings that differ are kept side by side under "parts". ValueError, one line, if the results do not
    fit.
    """
    results = checks.listed(results)
    _check_joinable(results, axis)
    changes: dict[str, Any] = {name: _join(results, name, axis) for name in AXES}
    if axis == "method":
        changes["labels"] = tuple(label for result in results for label in result.labels)
        changes["curve_kind"] = tuple(kind for result in results for kind in result.curve_kind)
    for name in ("settings", "versions"):
        parts = [getattr(result, name) for result in results]
        changes[name] = parts[0] if all(part == parts[0] for part in parts) else {"parts": parts}
    changes["faults"] = [fault for result in results for fault in result.faults]
    return dataclasses.replace(results[0], **changes)


def _check_joinable(results: list[Any], axis: str) -> None:
    """Raises a ValueError unless the results agree on what they share when they are joined along `axis`."""
    if not isinstance(axis, str) or axis not in ("mdp", "method") or not results:
        raise ValueError(f"concatenate needs results and an axis 'mdp' or 'method', got axis {checks.shown(axis)}")
    if not all(isinstance(result, Result) for result in results):
        raise ValueError(f"concatenate takes a list of Results, got {checks.shown(results)}")
    of_axis = {"mdp": ("labels", "curve_kind"), "method": ("mdp_ids", "uniform_returns", "features")}
    shared = (*of_axis[axis], "measure_names")
    for other in results[1:]:
        for name in (*shared, "iterations"):
            if not np.array_equal(getattr(results[0], name), getattr(other, name)):
                raise ValueError(f"results do not fit along {axis!r}: their {name} differ")
    if axis == "mdp":
        ids = np.concatenate([result.mdp_ids for result in results])
        if len(np.unique(ids)) < len(ids):
            raise ValueError(
                "results share MDP ids, which would count MDPs twice; if the MDPs are different, give them "
                "different ids: dataclasses.replace(result, mdp_ids=...)"
            )


def _join(results: Sequence[Result], name: str, axis: str) -> np.ndarray | None:
    """The array `name` of all results in one; that of the first if the array does not have `axis`."""
    arrays = [getattr(result, name) for result in results]
    if axis not in AXES[name] or all(array is None for array in arrays):
        return arrays[0]
    if any(array is None for array in arrays):
        raise ValueError(f"some results have {name} and some have none; drop them with dataclasses.replace")
    if name == "features" and len({array.shape[1:] for array in arrays}) > 1:
        raise ValueError(f"results do not fit along {axis!r}: their numbers of states or of features differ")
    if "observation" in AXES[name]:
        rows = max(array.shape[2] for array in arrays)
        arrays = [np.pad(a, [(0, rows - n if i == 2 else 0) for i, n in enumerate(a.shape)]) for a in arrays]
        if len({a.shape[3:] for a in arrays}) > 1:
            raise ValueError(f"results do not fit along {axis!r}: their numbers of actions differ")
    return np.concatenate(arrays, axis=AXES[name].index(axis))


def _as_names(name: str, value: Any) -> tuple[str, ...]:
    """`value` as a tuple of strings; ValueError, with the field's `name`, unless it is a list of strings."""
    names = (None,) if isinstance(value, str) else tuple(checks.listed(value))
    if not all(isinstance(item, str) for item in names):
        raise ValueError(f"{name} must be a list of names, got {checks.shown(value)}")
    return names


def _as_numbers(name: str, value: Any) -> np.ndarray:
    """`value` as an array of the kind that the field `name` has: integers or floats."""
    checks.concrete(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths, or a random key
        array = np.asarray(None)
    kinds, expected = ("iu", "integers") if name in _INTEGERS else ("f", "floats")
    if array.dtype.kind not in kinds:
        if array.dtype.kind not in "iuf" or (name in _INTEGERS and not _are_whole(array)):
            raise ValueError(f"{name} must be an array of {expected}, got dtype {array.dtype}")
        array = array.astype(np.int64 if name in _INTEGERS else np.float64)
    return array


def _are_whole(array: np.ndarray) -> bool:
    """True if all numbers are whole and fit into 64 bits."""
    array = array.astype(np.float64)
    return bool((np.isfinite(array) & (array == np.round(array)) & (np.abs(array) < 2.0**63)).all())
