"""The primitives that only put entries into other places; they need no C."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdistill.kernels.values import Registers, constants


def _iota(params: Mapping[str, Any], shape: tuple[int, ...], operands: list[np.ndarray]) -> np.ndarray:
    numbers = np.arange(params["shape"][params["dimension"]], dtype=params["dtype"])
    lead = (-1,) + (1,) * (len(params["shape"]) - params["dimension"] - 1)
    return constants(np.broadcast_to(numbers.reshape(lead), params["shape"])).entries


def _broadcast(params: Mapping[str, Any], shape: tuple[int, ...], operands: list[np.ndarray]) -> np.ndarray:
    sizes = [1] * len(shape)
    for size, dimension in zip(operands[0].shape, params["broadcast_dimensions"], strict=True):
        sizes[dimension] = size
    return np.broadcast_to(operands[0].reshape(sizes), shape)


def _slice(params: Mapping[str, Any], shape: tuple[int, ...], operands: list[np.ndarray]) -> np.ndarray:
    steps = params["strides"] or (1,) * len(shape)
    limits = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return operands[0][tuple(slice(*limit) for limit in limits)]


def _pad(params: Mapping[str, Any], shape: tuple[int, ...], operands: list[np.ndarray]) -> np.ndarray:
    operand, padding = operands
    padded = np.full(shape, padding.item(), object)
    for index in np.ndindex(operand.shape):
        place = tuple(
            low + i * (1 + interior) for i, (low, _, interior) in zip(index, params["padding_config"], strict=True)
        )
        if all(0 <= i < size for i, size in zip(place, shape, strict=True)):
            padded[place] = operand[index]
    return padded


REARRANGING: dict[str, Callable[[Mapping[str, Any], tuple[int, ...], list[np.ndarray]], np.ndarray]] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "reshape": lambda params, shape, operands: operands[0].reshape(shape),
    "squeeze": lambda params, shape, operands: operands[0].reshape(shape),
    "transpose": lambda params, shape, operands: operands[0].transpose(params["permutation"]),
    "rev": lambda params, shape, operands: np.flip(operands[0], params["dimensions"]),
    "concatenate": lambda params, shape, operands: np.concatenate(operands, axis=params["dimension"]),
    "stack": lambda params, shape, operands: np.stack(operands, axis=params["axis"]),
}
"""Functions of (parameters, shape of the result, entries of the operands) that give the entries of the result."""


def split(params: Mapping[str, Any], operand: Registers) -> list[Registers]:
    """The primitive `split`, which has several results."""
    ends = np.cumsum(params["sizes"])[:-1]
    return [Registers(part, operand.dtype) for part in np.split(operand.entries, ends, axis=params["axis"])]


def flat(entries: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Entries with the axes `axes` moved to the front and joined into one."""
    moved = np.moveaxis(entries, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), *moved.shape[len(axes) :])
