"""A result in the formats of other packages: a tidy table, a csv file and an xarray Dataset."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jaxdistill.runtime.files import write_atomically
from jaxdistill.runtime.optional import import_xarray

if TYPE_CHECKING:
    from jaxdistill.results.result import Result

_ROWS_AT_ONCE = 2**16  # bounds the csv text that is held in memory


def tidy_columns(result: "Result") -> dict[str, np.ndarray]:
    """Columns of a table with one row per method, MDP and checkpoint; the checkpoint changes fastest.

    A column for each measure comes last. A measure that is called like another column becomes "measured NAME".
    """
    method, mdp, checkpoint = np.indices(result.returns.shape).reshape(3, -1)
    columns = {
        "label": np.array(result.labels, object)[method],
        "mdp": result.mdp_ids[mdp],
        "iteration": result.iterations[checkpoint],
        "return": result.returns.reshape(-1),
        "length": result.lengths.reshape(-1),
    }
    for i, name in enumerate(result.measure_names):
        assert result.measurements is not None
        columns[f"measured {name}" if name in columns else name] = result.measurements[..., i].reshape(-1)
    return columns


def write_csv(columns: dict[str, np.ndarray], path: str | os.PathLike[str]) -> Path:
    """Writes columns of equal length as csv, compressed by gzip if `path` ends in .gz; returns the path."""
    num_rows = len(next(iter(columns.values())))

    def write(file: IO[bytes]) -> None:
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            if start == 0:
                writer.writerow(columns)
            part = (column[start : start + _ROWS_AT_ONCE].astype(str).tolist() for column in columns.values())
            writer.writerows(zip(*part, strict=True))
            file.write(text.getvalue().encode())

    def write_gzipped(file: IO[bytes]) -> None:
        # Into memory first: a GzipFile on a full disk would raise a second error when it is garbage-collected.
        buffer = io.BytesIO()
        with gzip.GzipFile("", "wb", 4, buffer, mtime=0) as compressed:
            write(compressed)  # type: ignore[arg-type]
        file.write(buffer.getvalue())

    return write_atomically(path, write_gzipped if str(path).endswith(".gz") else write)


def to_dataset(result: "Result") -> Any:
    """The `xarray.Dataset` that `Result.to_xarray` returns."""
    xarray = import_xarray()
    coordinates: dict[str, Any] = {
        "method": np.array(result.labels),
        "curve_kind": ("method", np.array(result.curve_kind)),
        "mdp": result.mdp_ids,
        "checkpoint": result.iterations,
    }
    if result.measurements is not None:
        coordinates["measure"] = np.array(result.measure_names)
    variables = {
        name: (axes, getattr(result, name))
        for name, axes in result.axes.items()
        if name not in ("mdp_ids", "iterations") and getattr(result, name) is not None
    }
    attributes = {name: json.dumps(getattr(result, name)) for name in ("settings", "versions", "faults")}
    return xarray.Dataset(variables, coords=coordinates, attrs=attributes)
