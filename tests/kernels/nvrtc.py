"""NVIDIA's compiler of CUDA C++, without a GPU: the library of the package `nvidia-cuda-nvrtc`, through ctypes."""

import ctypes
import importlib.util
from pathlib import Path

OPTIONS = ("--std=c++17", "--fmad=false")


def find_library():
    """The path of the library, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations]
    found = sorted(path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*"))
    return found[-1] if found else None


class Compiler:
    """Compiles CUDA C++ to machine code."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def _call(self, name, *arguments):
        code = self._library[name](*arguments)
        if code:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {self._library.nvrtcGetErrorString(code).decode()}")

    def _read(self, program, name):
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{name}", program, buffer)
        return buffer.raw

    def cubin(self, source, architecture):
        """The machine code of a source for an architecture such as "sm_90"; raises RuntimeError with NVRTC's log."""
        program = ctypes.c_void_p()
        options = [option.encode() for option in (*OPTIONS, f"-arch={architecture}")]
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        try:
            self._call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
            return self._read(program, "CUBIN")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self._read(program, 'ProgramLog').decode()}") from None
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))
