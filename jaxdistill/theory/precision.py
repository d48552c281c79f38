"""Worlds and teachers in double precision, and programs that compute one world at a time."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.mdp.precision import float64 as float64
from jaxdistill.mdp.teacher import Teacher


def one_by_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles fn(static, options, *arrays) and maps it over the leading axis [M] of `arrays`, one world at a time.

    `static` must be hashable, and `options` are shared by all worlds. `jax.lax.map` is used in place of `jax.vmap`, so
    that a loop ends for each world by itself and memory does not grow with M.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def mapped(static: Any, options: Any, *arrays: Any) -> Any:
        return jax.lax.map(lambda world: fn(static, options, *world), arrays)

    return functools.wraps(fn)(mapped)


def precise(mdps: MDP, teacher: Teacher) -> tuple[MDP, Teacher]:
    """The worlds and teachers, single ones or stacks, in float64 NumPy, with probabilities that sum to 1.

    float32 probabilities sum to 1 only within 1e-7, which would cause an asymmetry of that size. The start states
    become one distribution over all S states, so that worlds differ in numbers and not in shapes. Grids are dropped.
    """

    def as_float64(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    def normalised(x: Any) -> np.ndarray:
        return x / x.sum(-1, keepdims=True)

    mdps, teacher = jax.tree.map(as_float64, (dataclasses.replace(mdps, grid=None), teacher))
    shape = mdps.successor.shape[:-1]
    starts = np.zeros(shape)
    np.add.at(starts, (*np.indices(mdps.start.shape)[:-1], mdps.start), mdps.start_probs)
    world: dict[str, Any] = {
        "outcome_probs": normalised(mdps.outcome_probs),
        "start": np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape),
        "start_probs": normalised(starts),
    }
    policies: dict[str, Any] = {
        "probs": normalised(teacher.probs),
        "others": None if teacher.others is None else normalised(teacher.others),
    }
    return dataclasses.replace(mdps, **world), dataclasses.replace(teacher, **policies)
