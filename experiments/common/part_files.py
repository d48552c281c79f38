"""The file of a part of an experiment: <name>.npz, and for a `Result` also <name>.csv.gz."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill import Result, results
from jaxdistill.runtime.files import write_atomically


def save_part(part: Any, path: Path) -> None:
    """Saves a `Result` or a dictionary of arrays as `path`, a .npz file."""
    if isinstance(part, Result):
        part.to_csv(path.with_suffix(".csv.gz"))
        part.save(path)  # last, because a part whose .npz is there counts as complete
        return
    arrays = {name: np.asarray(value) for name, value in part.items()}

    def write(file: Any) -> None:
        np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_part(data: bytes, path: Path) -> Any:
    """The part whose file holds `data`; `path` is named in the ValueError for a damaged file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if "metadata.json" not in file.files:  # arrays; a saved `Result` has metadata
                return {name: file[name] for name in file.files}
    except Exception:  # damage can show in any way that the zip, zlib and npy readers have
        raise ValueError(f"{path} is damaged; delete it, or use --restart to run everything again.") from None
    return results.read(data, path)
