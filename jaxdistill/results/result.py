"""What a training run leaves behind: arrays with named axes, their summary, and files that notice damage.

A `Result` is plain NumPy. Reading a results file needs neither JAX nor the code that wrote it, and never
unpickles.
"""

import csv
import dataclasses
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from jaxdistill import statistics
from jaxdistill.results.summary import Summary, summarise
from jaxdistill.runtime import checks
from jaxdistill.runtime.files import one_line, write_atomically

FORMAT = "jaxdistill.Result"
FORMAT_VERSION = 1
_METADATA = "metadata.json"
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the same result gives the same bytes, whenever it is saved

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
    "measurements": ("method", "mdp", "checkpoint", "measure"),
}
_OPTIONAL = ("logits", "values", "measurements")
_INTEGERS = ("mdp_ids", "iterations")
_KINDS = ("sampled", "exact")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about the numbers; absent packages are left out."""
    versions = {"python": platform.python_version()}
    for name in ("jaxdistill", "jax", "jaxlib", "numpy", "scipy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Learning curves and final students of P methods on the same M MDPs, seen at C checkpoints.

    Every array is NumPy; `Result.axes` names the axes of each. Returns are undiscounted. Averages leave out
    what is not finite (a student that diverged, see `faults`) and say so.
    """

    labels: tuple[str, ...]  # the method axis: one distinct name per row
    mdp_ids: np.ndarray  # int [M]
    iterations: np.ndarray  # int [C], last iteration of each bin, counted from 1
    returns: np.ndarray  # [P, M, C] return of the student's episodes: mean over the bin, or exact
    lengths: np.ndarray  # [P, M, C] length of the student's episodes in steps, likewise
    final_returns: np.ndarray  # [P, M] exact return of the final student
    teacher_returns: np.ndarray  # [P, M] exact return of each method's teacher, nan without one
    uniform_returns: np.ndarray  # [M] exact return of the uniform policy
    optimal_returns: np.ndarray  # [M] exact return of the optimal policy
    logits: np.ndarray | None = None  # [P, M, O, A] final students
    values: np.ndarray | None = None  # [P, M, O]
    measurements: np.ndarray | None = None  # [P, M, C, Q] what `train(..., measure=...)` found at each checkpoint
    measure_names: tuple[str, ...] = ()  # the measure axis
    # Per method: "sampled" from the training episodes, or "exact" where another policy than the student acts.
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
        # Settings may hold dataclasses, arrays or functions. They become what a file can hold now, so that
        # saving after hours of training cannot fail on them, and a loaded result equals the saved one.
        for name in ("faults", "settings", "versions"):
            changes[name] = jsonable(getattr(self, name))
        for name, value in changes.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
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
        """Position of `label` on the method axis; ValueError naming the labels if it is not one of them."""
        if not isinstance(label, str) or label not in self.labels:
            raise ValueError(f"no method {checks.shown(label)} in this result; it has {', '.join(self.labels)}")
        return self.labels.index(label)

    def measure(self, name: str) -> np.ndarray:
        """[P, M, C], what the measure of that name found at each checkpoint; ValueError naming the measures."""
        if not isinstance(name, str) or name not in self.measure_names or self.measurements is None:
            there = ", ".join(self.measure_names) or "none"
            raise ValueError(f"no measure {checks.shown(name)} in this result; it has {there}")
        return self.measurements[..., self.measure_names.index(name)]

    def select(self, labels: str | Iterable[str] | None = None, mdps: int | Iterable[int] | None = None) -> "Result":
        """The rows of some methods and MDPs, in the order asked for; None keeps all.

        Args:
          labels: one or more method names; ValueError for one that is not there.
          mdps: one or more MDP *ids*, values of `mdp_ids`; ValueError for one that is not there.
        """
        chosen = self.labels if labels is None else tuple(checks.listed(labels))
        methods = [self.method_index(label) for label in chosen]
        positions = list(range(self.num_mdps))
        if mdps is not None:
            wanted = checks.listed(mdps)
            if not all(checks.is_whole(i, -(2**63), 2**63 - 1) for i in wanted):
                raise ValueError(f"mdps must be MDP ids, whole numbers; got {checks.shown(mdps)}")
            wanted = [int(i) for i in wanted]
            unknown = sorted(set(wanted) - set(self.mdp_ids.tolist()))
            if unknown:
                raise ValueError(f"no MDP with id {unknown[0]} in this result; see mdp_ids")
            positions = [int(p) for i in wanted for p in np.flatnonzero(self.mdp_ids == i)]
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
            f for f in self.faults if f.get("method") in (None, *chosen) and f.get("mdp") in (None, *ids)
        ]
        kinds = tuple(self.curve_kind[p] for p in methods)
        return dataclasses.replace(self, labels=chosen, curve_kind=kinds, **changes)

    def summary(self, checkpoint: int | str = -1, baseline: str | None = None) -> Summary:
        """Mean and IQM over MDPs with bootstrap 95 % intervals, and paired differences, as a table to print.

        Args:
          checkpoint: position on the checkpoint axis of `returns`, or "final" for the exact returns of the
            final students, which have neither the noise nor the lag of a bin of training episodes.
          baseline: the label that the others are compared with, MDP by MDP; by default the first. `compare` says
            more: how often a method wins, how fast it learns, and several results in one table.

        Returns:
          A `Summary` of undiscounted returns. ValueError for a checkpoint or a label that is not there.
        """
        baseline = self.labels[0] if baseline is None else baseline
        self.method_index(baseline)
        returns, what = self.returns_at(checkpoint)
        return summarise(self.labels, returns, self.teacher_returns, baseline, what)

    def returns_at(self, checkpoint: int | str) -> tuple[np.ndarray, str]:
        """Returns [P, M] at a checkpoint, given as in `summary`, and what they are in words."""
        num = len(self.iterations)
        if isinstance(checkpoint, str) and checkpoint == "final":
            returns, what = self.final_returns, f"exact return after iteration {self.iterations[-1]}"
        elif not isinstance(checkpoint, str) and checks.is_whole(checkpoint, -num, num - 1):
            returns = self.returns[:, :, checkpoint]
            what = f"return at the checkpoint of iteration {self.iterations[checkpoint]}"
        else:
            raise ValueError(f"no checkpoint {checks.shown(checkpoint)}; use a position below {num} or 'final'")
        uniform = statistics.mean_interval(self.uniform_returns).estimate
        optimal = statistics.mean_interval(self.optimal_returns).estimate
        return returns, f"{what}, {self.num_mdps} MDPs (uniform policy {uniform:.3f}, optimal policy {optimal:.3f})"

    def _tidy(self) -> dict[str, np.ndarray]:
        """Columns of the tidy table: a row per method, MDP and checkpoint, the checkpoint running fastest."""
        method, mdp, checkpoint = np.indices(self.returns.shape).reshape(3, -1)
        return {
            "label": np.array(self.labels, object)[method],
            "mdp": self.mdp_ids[mdp],
            "iteration": self.iterations[checkpoint],
            "return": self.returns.reshape(-1),
            "length": self.lengths.reshape(-1),
        }

    def to_dataframe(self) -> Any:
        """Tidy pandas DataFrame with the columns label, mdp, iteration, return, length; needs pandas."""
        return statistics.import_pandas().DataFrame(self._tidy())

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table of `to_dataframe` as csv, gzipped if `path` ends in .gz; does not need pandas.

        Each number is the shortest text that reads back as the same float. OSError, one line, if it cannot be
        written.
        """
        columns = self._tidy()

        def write(file: IO[bytes]) -> None:
            for start in range(0, self.returns.size, 2**16):  # bounds the text held in memory
                text = io.StringIO(newline="")
                writer = csv.writer(text, lineterminator="\n")
                if start == 0:
                    writer.writerow(columns)
                part = (column[start : start + 2**16].astype(str).tolist() for column in columns.values())
                writer.writerows(zip(*part, strict=True))
                file.write(text.getvalue().encode())

        def write_gzipped(file: IO[bytes]) -> None:
            buffer = io.BytesIO()  # GzipFile speaks up again, when it is collected, about a disk that was full
            with gzip.GzipFile("", "wb", 4, buffer, mtime=0) as packed:
                write(packed)  # type: ignore[arg-type]
            file.write(buffer.getvalue())

        return write_atomically(path, write_gzipped if str(path).endswith(".gz") else write)

    def plot(self, *args: Any, **kwargs: Any) -> Any:
        """Learning curves with 95 % bands as a matplotlib Figure; arguments as in `plotting.plot_result`."""
        from jaxdistill import plotting

        return plotting.plot_result(self, *args, **kwargs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything to one npz file, without pickle, with the metadata as JSON inside; see `load`.

        The file appears whole or not at all, and equal results give equal bytes. OSError, one line, if it
        cannot be written.
        """
        arrays = {name: getattr(self, name) for name in AXES if getattr(self, name) is not None}
        metadata = {"format": FORMAT, "version": FORMAT_VERSION}
        metadata |= {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in AXES}
        metadata["checksum"] = _checksum(metadata, arrays)

        def write(file: IO[bytes]) -> None:
            # Most rows of the tables are of states never visited: level 1 packs them as well as level 6 does.
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr(zipfile.ZipInfo(_METADATA, _NO_DATE), json.dumps(metadata, indent=1))
                for name, array in arrays.items():
                    entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    with archive.open(entry, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

        return write_atomically(path, write)


def load(path: str | os.PathLike[str]) -> Result:
    """Reads a file written by `Result.save`.

    Raises:
      ValueError: one line, if the file is truncated, altered, of another version or not a results file.
      OSError: if it cannot be opened.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be the path of a results file, got {checks.shown(path)}")
    return read(Path(path).read_bytes(), path)


def read(data: bytes, path: str | os.PathLike[str]) -> Result:
    """The `Result` in the bytes of a file; ValueError as `load`, calling it `path`."""
    if data[:2] != b"PK":
        raise ValueError(f"{path} is not a results file: expected an npz written by Result.save")
    try:
        arrays, metadata = _read(io.BytesIO(data))
        found = _checksum(metadata, arrays) if isinstance(metadata, dict) else None
    except Exception as error:  # damage can show in any way that the zip, zlib, npy and JSON readers have
        raise ValueError(f"{path} is truncated or damaged: {one_line(error)}; recompute it") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a results file: it is an npz, but not one written by Result.save")
    if metadata.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has results format version {checks.shown(metadata.get('version'))}, this jaxdistill reads "
            f"{FORMAT_VERSION}; read it with the release that wrote it"
        )
    if metadata.get("checksum") != found:
        raise ValueError(f"{path} is damaged: its contents do not match their checksum; recompute it")
    fields = {name: value for name, value in metadata.items() if name not in ("format", "version", "checksum")}
    try:
        return Result(**fields, **arrays)
    except (TypeError, ValueError, AttributeError) as error:  # whoever wrote it knew another Result
        raise ValueError(f"{path} does not hold a result: {one_line(error)}; recompute it") from error


def _read(file: IO[bytes]) -> tuple[dict[str, Any], Any]:
    """Arrays and metadata (None where there is none) of an npz; reading a member checks its CRC."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if _METADATA not in names:
            return {}, None
        metadata, arrays = json.loads(archive.read(_METADATA)), {}
        for name in names:
            if name.endswith(".npy"):
                member = io.BytesIO(archive.read(name))
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays, metadata


def _checksum(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """sha256 over the metadata, but for the checksum, and over name, type, shape and bytes of every array."""
    metadata = {name: value for name, value in metadata.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class Stopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C.

    Attributes:
      result: the `Result` of the students that had finished; the others are NaN.
    """

    def __init__(self, result: Result):
        unfinished = result.settings["unfinished_students"]
        super().__init__(f"{unfinished} of {result.final_returns.size} students had not finished; see .result")
        self.result = result


def concatenate(results: Sequence[Result], axis: str = "mdp") -> Result:
    """Joins results of the same methods on other MDPs ("mdp") or other methods on the same MDPs ("method").

    Students with fewer observations get zero rows at the end of their tables: what an unvisited row holds.
    Settings that differ are kept side by side under "parts". ValueError, one line, if the results do not fit.
    """
    results = checks.listed(results)
    if not isinstance(axis, str) or axis not in ("mdp", "method") or not results:
        raise ValueError(f"concatenate needs results and an axis 'mdp' or 'method', got axis {checks.shown(axis)}")
    if not all(isinstance(result, Result) for result in results):
        raise ValueError(f"concatenate takes a list of Results, got {checks.shown(results)}")
    first = results[0]
    shared = {"mdp": ("labels", "curve_kind"), "method": ("mdp_ids", "uniform_returns")}[axis] + ("measure_names",)
    for other in results[1:]:
        for name in (*shared, "iterations"):
            if not np.array_equal(getattr(first, name), getattr(other, name)):
                raise ValueError(f"results do not fit along {axis!r}: their {name} differ")
    if axis == "mdp":
        ids = np.concatenate([result.mdp_ids for result in results])
        if len(np.unique(ids)) < len(ids):
            raise ValueError(
                "results share MDP ids, which would count MDPs twice; if the MDPs are different, give them "
                "different ids: dataclasses.replace(result, mdp_ids=...)"
            )
    changes: dict[str, Any] = {name: _join(results, name, axis) for name in AXES}
    if axis == "method":
        changes["labels"] = tuple(label for result in results for label in result.labels)
        changes["curve_kind"] = tuple(kind for result in results for kind in result.curve_kind)
    for name in ("settings", "versions"):
        parts = [getattr(result, name) for result in results]
        changes[name] = parts[0] if all(part == parts[0] for part in parts) else {"parts": parts}
    changes["faults"] = [fault for result in results for fault in result.faults]
    return dataclasses.replace(first, **changes)


def _join(results: Sequence[Result], name: str, axis: str) -> np.ndarray | None:
    arrays = [getattr(result, name) for result in results]
    if axis not in AXES[name] or all(array is None for array in arrays):
        return arrays[0]
    if any(array is None for array in arrays):
        raise ValueError(f"some results have {name} and some have none; drop them with dataclasses.replace")
    if "observation" in AXES[name]:
        rows = max(array.shape[2] for array in arrays)
        arrays = [np.pad(a, [(0, rows - n if i == 2 else 0) for i, n in enumerate(a.shape)]) for a in arrays]
        if len({a.shape[3:] for a in arrays}) > 1:
            raise ValueError(f"results do not fit along {axis!r}: their numbers of actions differ")
    return np.concatenate(arrays, axis=AXES[name].index(axis))


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses as dicts, arrays and tuples as lists, functions by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return getattr(value, "__qualname__", None) or str(value)


def _as_names(name: str, value: Any) -> tuple[str, ...]:
    names = (None,) if isinstance(value, str) else tuple(checks.listed(value))
    if not all(isinstance(item, str) for item in names):
        raise ValueError(f"{name} must be a list of names, got {checks.shown(value)}")
    return names


def _as_numbers(name: str, value: Any) -> np.ndarray:
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
    array = array.astype(np.float64)
    return bool((np.isfinite(array) & (array == np.round(array)) & (np.abs(array) < 2.0**63)).all())
