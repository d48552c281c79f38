"""Kernels compiled by the system's C compiler, which run on NumPy arrays; tests compare them with XLA's engine."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.engine.lanes import Lanes
from jaxdistill.engine.packing import Worlds
from jaxdistill.kernels.source import KERNEL_NAME, c_source
from jaxdistill.kernels.translation import Parameter, Translation

# Products and sums are rounded one by one, and a vector of a row is read through a pointer to its entries.
_OPTIONS = ("-O2", "-std=c11", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno", "-shared", "-fPIC")


def find_compiler() -> str | None:
    """The path of the system's C compiler, or None."""
    return shutil.which("cc")


def compile_library(source: str) -> tuple[ctypes.CDLL, int]:
    """Compiles C and loads it; the library, and its size in bytes.

    Raises:
      RuntimeError: there is no compiler, or it refuses the source.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("There is no C compiler: the command cc is not on the path.")
    with tempfile.TemporaryDirectory(prefix="jaxdistill-kernel-") as folder:
        text, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        text.write_text(source)
        command = [compiler, *_OPTIONS, str(text), "-lm", "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"The C compiler refuses the kernel: {done.stderr.strip()}")
        return ctypes.CDLL(str(library)), library.stat().st_size


class NativeKernel:
    """A kernel that is compiled and loaded.

    Args:
      translation: what to compile.

    Attributes:
      code_size: bytes of the compiled library.

    Raises:
      RuntimeError: there is no compiler, or it refuses the source.
    """

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        library, self.code_size = compile_library(c_source(translation))
        self._function = library[KERNEL_NAME]
        self._function.restype = None

    def __call__(
        self,
        lanes: Lanes,
        worlds: Worlds,
        teachers: Any,
        schedules: Any,
        num_iterations: int,
        until: np.ndarray,
        num_ticks: int,
    ) -> tuple[Lanes, np.ndarray]:
        """Does what `engine.tick.advance` does, on copies of the lanes; returns NumPy arrays."""
        leaves, structure = jax.tree.flatten(lanes)
        leaves = [np.array(leaf, order="C") for leaf in leaves]
        shared = [np.asarray(leaf) for leaf in jax.tree.leaves((worlds, teachers, schedules))]
        shared = [padded(p, x) for p, x in zip(self._translation.shared_parameters, shared, strict=True)]
        self.update(leaves, shared, num_iterations, until, num_ticks, status := np.zeros((4, len(until)), np.int32))
        return jax.tree.unflatten(structure, leaves), status

    def update(
        self,
        leaves: Sequence[np.ndarray],
        shared: Sequence[np.ndarray],
        num_iterations: int,
        until: np.ndarray,
        num_ticks: int,
        status: np.ndarray,
    ) -> None:
        """Updates the leaves of lanes in place, and writes their status.

        Args:
          leaves: of `Lanes`, contiguous.
          shared: the leaves of worlds, teachers and schedules, `padded`.
          num_iterations, num_ticks: as in `engine.tick.advance`.
          until: int32 [W].
          status: int32 [4, W].
        """
        arrays = [*leaves, *shared]
        for array, parameter in zip(arrays, self._parameters(), strict=True):
            assert array.flags.c_contiguous and array.dtype == parameter.dtype, parameter.name
        until = np.ascontiguousarray(until, np.int32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, until, status)]
        numbers = ctypes.c_int(num_iterations), ctypes.c_int(num_ticks), ctypes.c_int(len(until))
        self._function(*pointers[:-2], numbers[0], pointers[-2], numbers[1], pointers[-1], numbers[2])

    def _parameters(self) -> tuple[Parameter, ...]:
        return self._translation.lane_parameters + self._translation.shared_parameters


def padded(parameter: Parameter, table: np.ndarray) -> np.ndarray:
    """A shared table with rows as far apart as the kernel expects."""
    return np.pad(table, ((0, 0), (0, parameter.stride - parameter.num_columns)))
