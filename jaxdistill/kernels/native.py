"""The system's C compiler as a toolchain, for tests: kernels that run on the processor, one lane after another."""

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.engine.lanes import Lanes
from jaxdistill.kernels.source import KERNEL_NAME, c_source
from jaxdistill.kernels.toolchain import Call, Toolchain
from jaxdistill.kernels.translation import Translation, padded

# Products and sums are rounded one by one, and a vector of a row is read through a pointer to its entries.
_OPTIONS = ("-O2", "-std=c11", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno", "-shared", "-fPIC")


def find_compiler() -> str | None:
    """The path of the system's C compiler, or None."""
    return shutil.which("cc")


def compile_code(source: str) -> bytes:
    """The library that the system's C compiler makes of a source.

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
        return library.read_bytes()


def load_library(code: bytes) -> ctypes.CDLL:
    """Loads a compiled library; raises OSError if it is damaged."""
    with tempfile.TemporaryDirectory(prefix="jaxdistill-kernel-") as folder:
        library = Path(folder, "kernel.so")
        library.write_bytes(code)
        return ctypes.CDLL(str(library))


@functools.cache
def _compiler_version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


class NativeToolchain(Toolchain):
    """Kernels in C on JAX's CPU.

    Args:
      lanes: the result of `num_lanes`.
    """

    name, suffix = "C on the processor", ".so"

    def __init__(self, lanes: int = 64) -> None:
        self._lanes = lanes

    def num_lanes(self, ordinal: int) -> int:
        return self._lanes

    @property
    def identity(self) -> str:
        return repr((_compiler_version(find_compiler() or ""), _OPTIONS, platform.machine()))

    def source(self, translation: Translation) -> str:
        return c_source(translation)

    def compile(self, source: str) -> bytes:
        return compile_code(source)

    def load(self, code: bytes) -> Any:
        function = load_library(code)[KERNEL_NAME]
        function.restype = None
        return function

    def run(self, context: Any, ordinal: int, calls: Sequence[Call]) -> None:
        for call in calls:
            run_native(call.function, [np.asarray(buffer) for buffer in call.buffers], call.num_lanes)


def run_native(function: Any, arrays: Sequence[np.ndarray], num_lanes: int) -> None:
    """Calls a compiled kernel with the memory of contiguous arrays."""
    assert all(array.flags.c_contiguous for array in arrays)
    function(*(ctypes.c_void_p(array.ctypes.data) for array in arrays), ctypes.c_int(num_lanes))


class NativeKernel:
    """A kernel compiled by the C compiler, which runs on NumPy arrays without JAX.

    Args:
      translation: what to compile.

    Raises:
      RuntimeError: there is no compiler, or it refuses the source.
    """

    def __init__(self, translation: Translation) -> None:
        toolchain, self._translation = NativeToolchain(), translation
        self._function = toolchain.load(toolchain.compile(toolchain.source(translation)))

    def __call__(
        self,
        lanes: Lanes,
        worlds: Any,
        teachers: Any,
        schedules: Any,
        num_iterations: int,
        until: np.ndarray,
        num_ticks: int,
    ) -> tuple[Lanes, np.ndarray]:
        """Does what `engine.tick.advance` does, on copies of the lanes; returns NumPy arrays."""
        leaves, structure = jax.tree.flatten(lanes)
        leaves = [np.array(leaf, order="C") for leaf in leaves]
        shared = padded(
            self._translation, [np.asarray(leaf) for leaf in jax.tree.leaves((worlds, teachers, schedules))]
        )
        status = np.zeros((4, len(until)), np.int32)
        numbers = (np.asarray(x, np.int32).reshape(-1) for x in (num_iterations, until, num_ticks))
        arrays = [*leaves, *shared, *numbers, status]
        parameters = [*self._translation.lane_parameters, *self._translation.shared_parameters]
        for array, parameter in zip(arrays, parameters, strict=False):
            assert array.dtype == parameter.dtype, parameter.name
        run_native(self._function, arrays, len(until))
        return jax.tree.unflatten(structure, leaves), status
