"""The file format of results: one npz archive with the arrays, the metadata as JSON, and a checksum of both.

The functions here work on plain dicts. `numpy.load` reads the arrays of such a file without this package, and nothing
in it is ever unpickled.
"""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxdistill.runtime import checks
from jaxdistill.runtime.files import one_line, write_atomically

FORMAT = "jaxdistill.Result"
FORMAT_VERSION = 1
_METADATA = "metadata.json"
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # equal results give equal bytes, whenever they are saved


def write_archive(path: str | os.PathLike[str], metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """Writes metadata and arrays to one npz file and returns its path; equal contents give equal bytes.

    The metadata must be JSON, see `jsonable`. The file appears as a whole or not at all. OSError, in one line, if it
    cannot be written.
    """
    metadata = {"format": FORMAT, "version": FORMAT_VERSION} | metadata
    metadata["checksum"] = checksum(metadata, arrays)

    def write(file: IO[bytes]) -> None:
        # Most rows of the tables belong to states that were never visited, so level 1 compresses as well as level 6.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(zipfile.ZipInfo(_METADATA, _NO_DATE), json.dumps(metadata, indent=1))
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

    return write_atomically(path, write)


def read_archive(data: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and arrays from the bytes of a file that `write_archive` wrote.

    Raises:
      ValueError: one line that names `path`, if the bytes are truncated, altered, of another version of the format or
        not a results file.
    """
    if data[:2] != b"PK":
        raise ValueError(f"{path} is not a results file: expected an npz written by Result.save")
    try:
        metadata, arrays = _unpack(io.BytesIO(data))
        actual_checksum = checksum(metadata, arrays) if isinstance(metadata, dict) else None
    except Exception as error:  # damage can raise any exception of the zip, zlib, npy and JSON readers
        raise ValueError(f"{path} is truncated or damaged: {one_line(error)}; recompute it") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a results file: it is an npz, but not one written by Result.save")
    if metadata.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has results format version {checks.shown(metadata.get('version'))}, this jaxdistill reads "
            f"{FORMAT_VERSION}; read it with the release that wrote it"
        )
    if metadata.get("checksum") != actual_checksum:
        raise ValueError(f"{path} is damaged: its contents do not match their checksum; recompute it")
    return {name: value for name, value in metadata.items() if name not in ("format", "version", "checksum")}, arrays


def checksum(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the metadata, without its checksum, and of the name, type, shape and bytes of every array."""
    metadata = {name: value for name, value in metadata.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def jsonable(value: Any) -> Any:
    """Converts `value` to JSON types: dataclasses to dicts, collections and arrays to lists, functions to names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):  # The order of a set differs between processes.
        return [jsonable(item) for item in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return getattr(value, "__qualname__", None) or str(value)


def _unpack(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    """Metadata (None if the archive has none) and arrays of an npz; reading a member checks its CRC."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if _METADATA not in names:
            return None, {}
        metadata, arrays = json.loads(archive.read(_METADATA)), {}
        for name in names:
            if name.endswith(".npy"):
                member = io.BytesIO(archive.read(name))
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return metadata, arrays
