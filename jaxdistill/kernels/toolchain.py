"""What turns the source of a kernel into code, and runs it on buffers of JAX."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxdistill.kernels.translation import Translation


@dataclasses.dataclass(frozen=True)
class Call:
    """A kernel that is to run on some lanes.

    Attributes:
      function: as `Toolchain.load` returns it.
      buffers: the buffers that it takes, in its order; their sizes fit `num_lanes`.
      num_lanes: W.
    """

    function: Any
    buffers: Sequence[Any]
    num_lanes: int


class Toolchain(abc.ABC):
    """Compiles kernels for one kind of device, and runs them.

    Attributes:
      name: in words, for messages and for the settings of results.
      suffix: of files with its code.
    """

    name: str
    suffix: str

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """All that, besides the source, decides what the code computes: versions, architecture and options."""

    @abc.abstractmethod
    def num_lanes(self, ordinal: int) -> int:
        """The number of lanes with which a device is fastest; `ordinal` as in `run`."""

    @abc.abstractmethod
    def source(self, translation: Translation) -> str:
        """The source of a kernel."""

    @abc.abstractmethod
    def compile(self, source: str) -> bytes:
        """The code of a source; raises RuntimeError with the compiler's message if it is refused."""

    @abc.abstractmethod
    def load(self, code: bytes) -> Any:
        """The function in some code, for `Call`; raises an exception if the code is damaged."""

    @abc.abstractmethod
    def run(self, context: Any, ordinal: int, calls: Sequence[Call]) -> None:
        """Runs calls at the same time, after all earlier and before all later work of the context's stream.

        Args:
          context: of `jax.experimental.buffer_callback`.
          ordinal: the device's number among those of its kind on this machine.
          calls: they write to different buffers.
        """
