"""NVIDIA's compiler and driver as a toolchain, by the package `cuda.core`: a thread of the GPU for each lane."""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.kernels.source import KERNEL_NAME, cuda_source
from jaxdistill.kernels.toolchain import Call, Toolchain
from jaxdistill.kernels.translation import Translation

_BLOCK = 32  # threads of a block: one warp, so that few students spread over many multiprocessors
# A lane is fastest while what it reads and writes stays in the L2 cache. On an H100, whose cache has 50 MB, 27 000
# lanes were fastest (TD and Monte Carlo students of 20 x 20 grids).
_LANE_BYTES, _FEWEST_LANES = 1850, 2048
_OPTIONS: dict[str, Any] = {"std": "c++17", "fma": False}  # products and sums are rounded one by one


class CudaToolchain(Toolchain):
    """Kernels in CUDA C++, compiled by NVRTC.

    Args:
      architecture: of the GPU, such as "sm_90".

    Raises:
      ImportError: the package cuda-core, or its bindings, are not installed.
    """

    suffix = ".cubin"

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.name = f"CUDA C++ for {architecture}"
        self._core = importlib.import_module("cuda.core")
        self._nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        self._streams: dict[int, list[Any]] = {}  # by device: those that run beside XLA's

    @functools.cached_property
    def identity(self) -> str:
        code, *version = self._nvrtc.nvrtcVersion()
        if int(code) != 0:
            raise RuntimeError(f"NVRTC does not say its version: error {int(code)}")
        return repr(("NVRTC", version, self.architecture, _OPTIONS))

    def num_lanes(self, ordinal: int) -> int:
        cache_bytes = int(self._core.Device(ordinal).properties.l2_cache_size)
        return max(cache_bytes // _LANE_BYTES, _FEWEST_LANES) // _BLOCK * _BLOCK

    def source(self, translation: Translation) -> str:
        return cuda_source(translation)

    def compile(self, source: str) -> bytes:
        options = self._core.ProgramOptions(arch=self.architecture, **_OPTIONS)
        try:
            code = self._core.Program(source, "c++", options).compile("cubin").code
        except Exception as error:  # its own class, which is not public
            raise RuntimeError(f"NVRTC refuses the kernel: {error}") from error
        return bytes(code)

    def load(self, code: bytes) -> Any:
        return self._core.ObjectCode.from_cubin(code).get_kernel(KERNEL_NAME)

    def run(self, context: Any, ordinal: int, calls: Sequence[Call]) -> None:
        device = self._core.Device(ordinal)
        device.set_current()  # the context that XLA uses too
        main = self._core.Stream.from_handle(context.stream)
        begin, sides = main.record(), self._side_streams(device, len(calls) - 1)
        for call, stream in zip(calls, [main, *sides], strict=True):
            if stream is not main:
                stream.wait(begin)
            self._launch(stream, call)
        for stream in sides:
            main.wait(stream)

    def _side_streams(self, device: Any, number: int) -> list[Any]:
        streams = self._streams.setdefault(device.device_id, [])
        while len(streams) < number:
            streams.append(device.create_stream())
        return streams[:number]

    def _launch(self, stream: Any, call: Call) -> None:
        grid = -(-call.num_lanes // _BLOCK)
        pointers = [buffer.__cuda_array_interface__["data"][0] for buffer in call.buffers]
        config = self._core.LaunchConfig(grid=grid, block=_BLOCK)
        self._core.launch(stream, config, call.function, *pointers, np.int32(call.num_lanes))
