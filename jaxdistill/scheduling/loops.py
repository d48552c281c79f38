"""Which loop runs the ticks of a task: a kernel, with a thread for each lane, or XLA's loop, which runs all lanes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxdistill.engine.lanes import Program
from jaxdistill.engine.packing import Worlds
from jaxdistill.engine.rules import Student
from jaxdistill.kernels.choice import NoToolchain, toolchain_of
from jaxdistill.kernels.launch import Kernel, kernel_of
from jaxdistill.kernels.values import Untranslatable
from jaxdistill.runtime.files import one_line
from jaxdistill.runtime.progress import say

RINGS = (2**10, 2**15)
"""Rings of kernels: the first that holds all iterations of a student, or the last; few, because each is compiled."""

_MEMORY = 2**34  # bytes of a device that does not say how many it has
_SAID: set[str] = set()  # lines that were printed


@dataclasses.dataclass(frozen=True)
class Loop:
    """The loop of a task.

    Attributes:
      program: as the loop runs it, but for the number of lanes.
      kernel: None for XLA's loop.
      reason: why there is no kernel; "" if there is one, and on a CPU.
    """

    program: Program
    kernel: Kernel | None
    reason: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """For the settings of results: the kind of loop, and for a kernel its toolchain, else the reason."""
        if self.kernel is not None:
            return {"loop": "kernel", "toolchain": self.kernel.toolchain.name}
        return {"loop": "XLA"} | ({"reason": self.reason} if self.reason else {})


def choose(
    program: Program, worlds: Worlds, teachers: Any, schedules: Any, students: Student, num_iterations: int
) -> Loop:
    """The loop of a program on the devices of this process: a kernel wherever one can be made.

    Where it is not XLA's loop on a CPU, one line says which loop it is, and why there is no kernel.
    """
    loop = _choose(program, (worlds, teachers, schedules, students), num_iterations)
    if loop.kernel is not None:
        line = f"training runs in kernels, a thread for each student: {loop.kernel.toolchain.name}"
    else:
        line = f"training runs in XLA's loop and not in a kernel: {loop.reason}" if loop.reason else ""
    if line and line not in _SAID:
        _SAID.add(line)
        say(line)
    return loop


def _choose(program: Program, inputs: tuple[Worlds, Any, Any, Student], num_iterations: int) -> Loop:
    try:
        toolchain = toolchain_of(jax.local_devices()[0])
    except NoToolchain as error:
        return Loop(program, None, str(error))
    # A lane of a kernel needs the host when its ring of scales is full.
    ring = next((ring for ring in RINGS if num_iterations <= ring - 2), RINGS[-1])
    with_ring = dataclasses.replace(program, ring=ring)
    try:
        kernel = kernel_of(toolchain, with_ring, *inputs)
        _ = kernel.function  # It is compiled here, and not in the callback.
    except Untranslatable as error:
        return Loop(program, None, _clause(error))
    except RuntimeError as error:  # of the compiler
        return Loop(program, None, one_line(error))
    return Loop(with_ring, kernel)


def _clause(error: Exception) -> str:
    """A sentence as the end of another one."""
    text = str(error).removesuffix(".")
    return text[:1].lower() + text[1:]


def lanes_of(
    kernels: Sequence[Kernel], device: jax.Device, work: Sequence[float], students: Sequence[int], sizes: Sequence[int]
) -> list[int]:
    """The lanes of kernels that run at the same time: as many as the device's cache holds, divided by their work.

    More lanes would read their tables from memory, and would be slower together; fewer leave the device idle.

    Args:
      kernels: of one toolchain.
      device: on which they run.
      work: expected ticks of each kernel's students.
      students: how many each has; more lanes would stay empty.
      sizes: bytes of a lane of each; together they take at most half of the device's memory.
    """
    left, lanes = kernels[0].toolchain.num_lanes(ordinal_of(device)), [0] * len(kernels)
    waiting = list(range(len(kernels)))
    while waiting:
        total = sum(work[i] for i in waiting) or 1.0
        shares = {i: max(round(left * work[i] / total), 1) for i in waiting}
        # Kernels with fewer students than their share leave the rest of it to the others.
        full = [i for i in waiting if shares[i] >= students[i]] or waiting
        for i in full:
            lanes[i] = min(shares[i], students[i])
            left = max(left - lanes[i], 1)
        waiting = [i for i in waiting if i not in full]
    memory = (device.memory_stats() or {}).get("bytes_limit", _MEMORY)
    fitting = memory / 2 / sum(number * size for number, size in zip(lanes, sizes, strict=True))
    return [max(int(number * min(fitting, 1.0)), 1) for number in lanes]


def ordinal_of(device: jax.Device) -> int:
    """The number of a device among those of its kind on this machine."""
    return getattr(device, "local_hardware_id", None) or 0
