"""The size of the first update of every method, by which learning rates of different methods can be compared.

The gradients of objectives differ in scale: that of the Jensen-Shannon divergence vanishes as beta goes to 0, and so a
method with this loss loses at equal rates to anything. `train` notes the sizes, `compare` warns where they differ, and
`train(equal_steps=True)` divides the learning rates by them.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.methods.schedules import Schedule
from jaxdistill.runtime import checks
from jaxdistill.runtime.checkpoints import Outputs
from jaxdistill.scheduling.block import Block
from jaxdistill.scheduling.group import Group
from jaxdistill.scheduling.pool import workers
from jaxdistill.scheduling.task import Task
from jaxdistill.training.config import ResolvedCell
from jaxdistill.training.tasks import make_tasks

_MOST_WORLDS = 32  # students of a cell whose first update is sampled


def with_update_norms(
    key: jax.Array, mdps: MDP, cells: list[ResolvedCell], initial: np.ndarray | None, equal_steps: bool
) -> list[ResolvedCell]:
    """The cells with the sizes of their first updates, and with the learning rates of `equal_steps` if it is true.

    A single cell has nothing to be compared with, and is returned as it is.
    """
    if not isinstance(equal_steps, bool):
        raise ValueError(f"equal_steps must be True or False; got {checks.shown(equal_steps)}.")
    if len(cells) == 1:
        return cells
    norms = update_norms(key, mdps, cells, initial)
    cells = with_equal_steps(cells, norms) if equal_steps else cells
    return [
        dataclasses.replace(cell, update_norm=float(x) if np.isfinite(x) else None)
        for cell, x in zip(cells, norms, strict=True)
    ]


def update_norms(
    key: jax.Array, mdps: MDP, cells: Sequence[ResolvedCell], initial: np.ndarray | None = None
) -> np.ndarray:
    """The size of the first update of each cell, [P]: the root mean square over worlds of the norm of an update.

    The update is the first one that a student samples, of its logits and per unit of learning rate. It is sampled on at
    most 32 worlds, with the programs of the training and from its initial tables. A cell with an optimizer is nan,
    because its steps are not the gradient.

    Args:
      key: random key of the training.
      mdps: M stacked MDPs.
      cells: P cells.
      initial: float32 [P, M, O, A + 1], the tables to start from, or None for zeros.
    """
    squares: list[list[float]] = [[] for _ in cells]

    def add(cell: np.ndarray, mdp: np.ndarray, pauses: np.ndarray, outputs: Outputs) -> None:
        before = 0.0 if initial is None else initial[cell, mdp, :, :-1]
        updates = np.asarray(outputs.params[..., :-1], np.float64) - before
        for index, update in zip(cell.tolist(), updates, strict=True):
            squares[index].append(float((update**2).sum()))

    for task in make_tasks(key, mdps, cells, np.ones(mdps.num_mdps), add, initial=initial):
        if task.program.optimizer is None:
            _run_first_iteration(task, mdps.num_mdps)
    return np.array([np.sqrt(np.mean(of_cell)) if of_cell else np.nan for of_cell in squares])


def _run_first_iteration(task: Task, num_mdps: int) -> None:
    """Trains the students of a task on some of the worlds for one iteration, at a learning rate of 1."""
    ones = np.ones_like(task.students.learning_rate)
    task.num_iterations, task.students = 1, dataclasses.replace(task.students, learning_rate=ones)
    if task.schedules is not None and "learning_rate" in task.program.scheduled:
        task.schedules = task.schedules.copy()
        task.schedules[:, task.program.scheduled.index("learning_rate")] = 1  # Rates come first, of one column each.
    step = -(-num_mdps // _MOST_WORLDS)
    task.queue = collections.deque(i for i in range(len(task.cost)) if i % num_mdps % step == 0)
    device = workers()[0]
    with jax.default_device(device):  # as in the pool; JAX would compile anew for another default
        group = Group([Block(task, device, share=len(task.queue))])
        while task.queue or group.is_busy():
            group.run_round(contextlib.nullcontext())


def with_equal_steps(cells: Sequence[ResolvedCell], norms: np.ndarray) -> list[ResolvedCell]:
    """The cells with learning rates by which the first updates of all are as large as that of the first cell.

    Raises ValueError for a cell with an optimizer, or whose first update is 0 or not finite.
    """
    scaled = []
    for cell, norm in zip(cells, norms, strict=True):
        if not (np.isfinite(norm) and norm > 0):
            reason = "it has an optimizer" if cell.config.optimizer is not None else f"its first update is {norm:g}"
            raise ValueError(f"equal_steps cannot scale the learning rate of {cell.label}, because {reason}.")
        rate = _scaled(cell.config.learning_rate, norms[0] / norm)
        scaled.append(dataclasses.replace(cell, config=dataclasses.replace(cell.config, learning_rate=rate)))
    return scaled


def _scaled(rate: Any, factor: float) -> Any:
    if isinstance(rate, Schedule):
        return Schedule(rate.iterations, tuple(factor * value for value in rate.values))
    return np.asarray(rate, np.float64) * factor if np.ndim(rate) else float(rate) * factor
