"""The launches on a GPU, on a model of CUDA's streams that runs what it may in any order."""

import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from jaxdistill.kernels.cuda import CudaToolchain
from jaxdistill.kernels.toolchain import Call


class Event:
    """Is done once the stream has come to where it was recorded."""

    done = False


class Stream:
    """Work that runs in order."""

    all: ClassVar = {}

    def __init__(self):
        self.queue = []

    @classmethod
    def from_handle(cls, handle):
        return cls.all.setdefault(handle, cls())

    def record(self):
        event = Event()
        self.queue.append(("record", event))
        return event

    def wait(self, event_or_stream):
        is_event = isinstance(event_or_stream, Event)
        self.queue.append(("wait", event_or_stream if is_event else event_or_stream.record()))


class Device:
    def __init__(self, device_id):
        self.device_id, self.properties = device_id, types.SimpleNamespace(l2_cache_size=50 * 2**20)

    def set_current(self):
        Device.current = self.device_id

    def create_stream(self):
        assert Device.current == self.device_id
        return Stream.all.setdefault(f"side {len(Stream.all)}", Stream())


class ObjectCode:
    def __init__(self, code):
        self.code = code

    @staticmethod
    def from_cubin(code):
        return ObjectCode(code)

    def get_kernel(self, name):
        return name, self.code


def program(source, kind, options):
    assert kind == "c++" and options == {"arch": "sm_90", "std": "c++17", "fma": False}

    def compile(target):
        assert target == "cubin"
        if "error" in source:
            raise ValueError("NVRTC_ERROR_COMPILATION")
        return types.SimpleNamespace(code=source.encode())

    return types.SimpleNamespace(compile=compile)


@pytest.fixture
def toolchain(monkeypatch):
    Stream.all = {}
    core = types.SimpleNamespace(
        Device=Device, Stream=Stream, ObjectCode=ObjectCode, Program=program, ProgramOptions=dict, LaunchConfig=dict,
        launch=lambda stream, config, kernel, *arguments: stream.queue.append(("launch", (config, kernel, arguments))),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    nvrtc = types.SimpleNamespace(nvrtcVersion=lambda: (0, 13, 1))
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", nvrtc)
    return CudaToolchain("sm_90")


def buffer(pointer):
    return types.SimpleNamespace(__cuda_array_interface__={"data": (pointer, False)})


def ran(rng):
    """Runs all streams, each in its order, and at random among streams; the launches in the order in which they ran."""
    order = []
    while any(stream.queue for stream in Stream.all.values()):
        ready = [s for s in Stream.all.values() if s.queue and not (s.queue[0][0] == "wait" and not s.queue[0][1].done)]
        kind, what = ready[rng.integers(len(ready))].queue.pop(0)
        if kind == "record":
            what.done = True
        elif kind == "launch":
            order.append(what)
    return order


def test_all_kernels_run_between_what_comes_before_and_after(toolchain):
    """Kernels of one call run in any order, on streams of their own, and never before or beside XLA's other work."""
    orders = set()
    context, names = types.SimpleNamespace(stream=7), "abc"
    for seed in range(60):
        xla = Stream.from_handle(7)
        xla.queue.append(("launch", "before"))
        toolchain.run(context, 1, [Call(("advance", name), [buffer(5), buffer(6)], 70) for name in names])
        xla.queue.append(("launch", "after"))
        first, *kernels, last = ran(np.random.default_rng(seed))
        assert (first, last) == ("before", "after")
        assert all(config == {"grid": 3, "block": 32} for config, _, _ in kernels)
        assert all(arguments == (5, 6, np.int32(70)) for _, _, arguments in kernels)
        orders.add("".join(kernel[1] for _, kernel, _ in kernels))
    assert len(orders) == 6
    assert Device.current == 1 and len(Stream.all) == 3  # streams are made once


def test_a_single_kernel_runs_on_the_stream_of_xla(toolchain):
    toolchain.run(types.SimpleNamespace(stream=7), 0, [Call("kernel", [buffer(5)], 32)])
    assert list(Stream.all) == [7]


def test_code(toolchain):
    assert toolchain.load(toolchain.compile("text")) == ("advance", b"text")
    with pytest.raises(RuntimeError, match="NVRTC refuses the kernel: NVRTC_ERROR_COMPILATION"):
        toolchain.compile("error")
    assert "sm_90" in toolchain.identity and "13, 1" in toolchain.identity and "'fma': False" in toolchain.identity


def test_lanes_follow_the_cache(toolchain, monkeypatch):
    assert toolchain.num_lanes(0) == 28_320
    monkeypatch.setattr(
        Device, "__init__", lambda s, i: setattr(s, "properties", types.SimpleNamespace(l2_cache_size=1))
    )
    assert toolchain.num_lanes(0) == 2048
