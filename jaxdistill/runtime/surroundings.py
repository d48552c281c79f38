"""What decides the numbers of a run besides its arguments: the versions of packages, the device, and JAX's settings."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import jax

_PACKAGES = ("jaxdistill", "jax", "jaxlib", "numpy", "scipy", "optax", "gymnasium")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def surroundings() -> dict[str, str | bool]:
    """The properties of this process that, besides `package_versions`, decide how its numbers are rounded.

    Returns:
      platform: the kind of the devices that train, such as "cpu" or "gpu".
      device_kind: the name of their model, such as "NVIDIA H200"; XLA calls every processor "cpu".
      processor: the architecture of the processor, such as "x86_64".
      float64: whether JAX computes in float64 by default (JAX_ENABLE_X64).
    """
    device = jax.local_devices()[0]
    config: Any = jax.config  # Older type stubs lack its settings.
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "processor": platform.machine(),
        "float64": bool(config.jax_enable_x64),
    }


@contextlib.contextmanager
def default_promotion() -> Iterator[None]:
    """Restores JAX's default promotion of shapes and types within the block, or within the function that it decorates.

    Optimizers of optax multiply floats with a count of iterations, which jax_numpy_dtype_promotion="strict" forbids.
    Exact sums multiply probabilities by masks.
    """
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def xla_flags() -> str:
    """The XLA_FLAGS of this process, which may change how numbers are rounded and how many devices there are."""
    return os.environ.get("XLA_FLAGS", "")
