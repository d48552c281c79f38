"""Compiled kernels on disk, beside JAX's compiled programs, so that a second run need not compile them."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxdistill.kernels.toolchain import Toolchain
from jaxdistill.runtime.files import write_atomically


def folder() -> Path | None:
    """The folder `kernels` in that of JAX's compiled programs; None if JAX keeps none in a folder."""
    config: Any = jax.config  # Older type stubs lack its settings.
    cache = config.jax_compilation_cache_dir
    is_folder = bool(cache) and config.jax_enable_compilation_cache and "://" not in cache
    return Path(cache, "kernels") if is_folder else None


def loaded(toolchain: Toolchain, source: str) -> Any:
    """The function of a kernel's source, compiled unless a file holds its code.

    A file is the SHA-256 of some code and the code. Its name is made of the source and the toolchain's identity. A
    damaged file is replaced. Where no file can be written, one warning says so.

    Raises:
      RuntimeError: the compiler refuses the source.
    """
    directory = folder()
    if directory is None:
        return toolchain.load(toolchain.compile(source))
    digest = hashlib.sha256(repr((toolchain.identity, source)).encode()).hexdigest()
    path = directory / f"{digest[:32]}{toolchain.suffix}"
    code = _read(path)
    if code is not None:
        try:
            return toolchain.load(code)
        except Exception:  # whatever it is: the code is of no use here, and compiling tells why if it must fail
            pass
    code = toolchain.compile(source)
    _write(path, code)
    return toolchain.load(code)


def _read(path: Path) -> bytes | None:
    """The code in a file; None if there is no such file, or if it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def _write(path: Path, code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.writelines([hashlib.sha256(code).digest(), code]))
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept for the next run: {error}", stacklevel=2)
