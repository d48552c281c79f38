"""Which toolchain makes kernels for a device of this process."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax

from jaxdistill.engine import xla
from jaxdistill.kernels.cuda import CudaToolchain
from jaxdistill.kernels.toolchain import Toolchain
from jaxdistill.runtime.files import one_line

_ON_CPU: contextvars.ContextVar[Toolchain | None] = contextvars.ContextVar("_ON_CPU", default=None)


class NoToolchain(Exception):
    """Says in one clause why there is none for a device; nothing on a CPU, where XLA's loop is the fastest."""


@contextlib.contextmanager
def on_cpu(toolchain: Toolchain) -> Iterator[None]:
    """Inside, trainings of this thread run in kernels of this toolchain on a CPU, so that tests need no GPU."""
    token = _ON_CPU.set(toolchain)
    try:
        yield
    finally:
        _ON_CPU.reset(token)


def toolchain_of(device: jax.Device) -> Toolchain:
    """The toolchain for a device; raises `NoToolchain` if there is none."""
    if device.platform == "cpu":
        toolchain = _ON_CPU.get()
        if toolchain is None:
            raise NoToolchain("")
        return toolchain
    version = str(getattr(device.client, "platform_version", ""))
    if device.platform not in ("gpu", "cuda") or "rocm" in version.lower():
        raise NoToolchain(f"kernels need an NVIDIA GPU, and this device is {device.device_kind} ({device.platform})")
    capability: Any = device  # Type stubs lack its attributes.
    return _cuda_toolchain(f"sm_{str(capability.compute_capability).replace('.', '')}")


@functools.cache
def _cuda_toolchain(architecture: str) -> CudaToolchain:
    try:
        toolchain = CudaToolchain(architecture)
    except ImportError as error:
        raise NoToolchain(
            f"the package cuda-core cannot be imported ({one_line(error)}); pip install 'jaxdistill[cuda12]' or "
            "'jaxdistill[cuda13]', as for JAX"
        ) from error
    try:
        _ = toolchain.identity  # NVRTC is loaded here.
    except Exception as error:  # of a missing or unusable library, of classes of several packages
        raise NoToolchain(f"NVRTC cannot be used ({one_line(error)})") from error
    return toolchain


def rounding() -> dict[str, Any]:
    """What `engine.xla.rounding` returns, and kernels: the identity of the toolchain in use, or "" for XLA's loop."""
    try:
        identity = toolchain_of(jax.local_devices()[0]).identity
    except NoToolchain:
        identity = ""
    return xla.rounding() | {"kernels": identity}
