"""Runs the kernels of several programs at the same time, from inside `jax.jit`, on the lanes' own memory."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from jaxdistill.engine.lanes import Lanes, Program
from jaxdistill.engine.packing import Worlds
from jaxdistill.engine.rules import Student
from jaxdistill.kernels import code_files
from jaxdistill.kernels.lane import trace
from jaxdistill.kernels.toolchain import Call, Toolchain
from jaxdistill.kernels.translation import Translation, padded, translate


@dataclasses.dataclass(frozen=True, eq=False)  # `jit` compares kernels by identity
class Kernel:
    """The kernel of a program.

    Attributes:
      toolchain: by which it is compiled and run.
      translation: of the program.
      source: what the toolchain compiles.
    """

    toolchain: Toolchain
    translation: Translation
    source: str

    @functools.cached_property
    def function(self) -> Any:
        """The compiled kernel, as the toolchain runs it."""
        return code_files.loaded(self.toolchain, self.source)

    @property
    def identity(self) -> str:
        """All that decides what the kernel computes."""
        return repr(("kernel", self.toolchain.identity, self.source))

    def tables(self, worlds: Worlds, teachers: Any, schedules: Any) -> list[np.ndarray]:
        """The tables that all lanes share, as the kernel takes them."""
        return padded(self.translation, [np.asarray(leaf) for leaf in jax.tree.leaves((worlds, teachers, schedules))])


_KERNELS: dict[Any, Kernel] = {}  # by the toolchain's identity, the program and the shapes


def kernel_of(
    toolchain: Toolchain, program: Program, worlds: Worlds, teachers: Any, schedules: Any, students: Student
) -> Kernel:
    """The kernel of a program, for any number of lanes; the arguments after the toolchain are those of `lane.trace`.

    Raises:
      Untranslatable: the program cannot be written as a kernel.
    """
    leaves, structure = jax.tree.flatten((worlds, teachers, schedules, students))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    key = toolchain.identity, dataclasses.replace(program, num_lanes=1), structure, shapes
    if key not in _KERNELS:
        translation = translate(trace(program, worlds, teachers, schedules, students))
        _KERNELS[key] = Kernel(toolchain, translation, toolchain.source(translation))
    return _KERNELS[key]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a kernel is to do; a pytree with a static part.

    Attributes:
      lanes: the lanes, whose memory is given away.
      tables: `Kernel.tables` on the device.
      num_iterations: int32 [1], episodes of each student.
      until: int32 [W], iteration at which each lane stops.
    """

    lanes: Lanes
    tables: Sequence[jax.Array]
    num_iterations: np.ndarray
    until: np.ndarray


def advance(
    kernels: Sequence[Kernel], ordinal: int, works: Sequence[Work], num_ticks: int
) -> list[tuple[Lanes, jax.Array]]:
    """At most `num_ticks` ticks of the lanes of several programs, whose kernels run at the same time.

    Lanes that stop, and all lanes if `num_ticks` is 0, have settled rows (`engine.lanes.settle`).

    Args:
      kernels: of one toolchain.
      ordinal: the device's number among those of its kind on this machine; its arrays are in `works`.
      works: what each of them is to do.
      num_ticks: >= 0.

    Returns:
      For each kernel the lanes, and their status as `engine.tick.advance` returns it.
    """
    lanes = [work.lanes for work in works]
    others = [(work.tables, work.num_iterations, work.until) for work in works]
    return _advance(_Batch(tuple(kernels), ordinal), lanes, others, np.full(1, num_ticks, np.int32))


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Kernels that run at the same time on a device."""

    kernels: tuple[Kernel, ...]
    ordinal: int

    def run(self, context: Any, outputs: Any, others: Any, num_ticks: Any) -> None:
        """The callback: `outputs` are the buffers of (lanes, status) of every kernel, which begin as the lanes were."""
        calls = []
        for kernel, (leaves, status), (tables, num_iterations, until) in zip(
            self.kernels, outputs, others, strict=True
        ):
            buffers = [*leaves, *tables, num_iterations, until, num_ticks, status]
            calls.append(Call(kernel.function, buffers, until.shape[0]))
        self.kernels[0].toolchain.run(context, self.ordinal, calls)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _advance(batch: _Batch, lanes: list[Lanes], others: Any, num_ticks: jax.Array) -> list[tuple[Lanes, jax.Array]]:
    leaves = [jax.tree.leaves(x) for x in lanes]
    widths = [x.state.iteration.shape[0] for x in lanes]
    results = [
        (
            [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in of_lanes],
            jax.ShapeDtypeStruct((4, width), np.int32),
        )
        for of_lanes, width in zip(leaves, widths, strict=True)
    ]
    # Every leaf is updated in its place: the inputs come first, and each kernel's status follows its leaves.
    aliases, num_inputs, num_outputs = {}, 0, 0
    for of_lanes in leaves:
        for _ in of_lanes:
            aliases[num_inputs] = num_outputs
            num_inputs, num_outputs = num_inputs + 1, num_outputs + 1
        num_outputs += 1

    flat_others, structure = jax.tree.flatten((others, num_ticks))

    def callback(context: Any, outputs: Any, *inputs: Any) -> None:
        batch.run(context, outputs, *jax.tree.unflatten(structure, inputs[num_inputs:]))

    call = buffer_callback(callback, results, input_output_aliases=aliases)
    outputs = call(*(leaf for of_lanes in leaves for leaf in of_lanes), *flat_others)
    structures = [jax.tree.structure(x) for x in lanes]
    return [(jax.tree.unflatten(s, new), status) for s, (new, status) in zip(structures, outputs, strict=True)]
