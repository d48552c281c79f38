"""Trains students to the end and collects their final tables; `train` does the same with learning curves."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.methods import check_episodes_end
from jaxdistill.runtime import processes
from jaxdistill.runtime.checkpoints import Output
from jaxdistill.scheduling import pool
from jaxdistill.training.config import ResolvedCell
from jaxdistill.training.tasks import make_tasks


@dataclasses.dataclass(frozen=True)
class FinalStudents:
    """Students at the end of their training, P cells on M MDPs.

    Attributes:
      params: float32 [P, M, O, num_params], the rows of their tables: logits and value, or Q.
      faults: int [P, M], iteration, counted from 1, at which a parameter was not finite; 0: none.
    """

    params: np.ndarray
    faults: np.ndarray


def run_to_end(
    key: jax.Array,
    mdps: MDP,
    cells: Sequence[ResolvedCell],
    initial: np.ndarray | None = None,
    on_progress: Callable[[float, int, float], None] | None = None,
) -> FinalStudents:
    """Trains every cell on every MDP, in all processes together, and collects the final tables.

    Args:
      key: random key of the students.
      mdps: M stacked MDPs.
      cells: P cells whose rules have equally many parameters in a row.
      initial: float32 [P, M, O, num_params] to start from, or None for zeros.
      on_progress: as in `pool.run`.

    Raises:
      ValueError: an episode may never end (`methods.check_episodes_end`).
    """
    for cell in cells:
        check_episodes_end(cell.method, mdps, cell.teacher)
    shape = (len(cells), mdps.num_mdps)
    faults, is_trained_here = np.zeros(shape, int), np.zeros(shape, bool)

    def keep(cell: int, mdp: int, pause: int, output: Output) -> None:
        params[cell, mdp], faults[cell, mdp], is_trained_here[cell, mdp] = output.params, output.fault, True

    tasks = make_tasks(key, mdps, cells, np.ones(mdps.num_mdps), keep, initial=initial)
    params = np.zeros((*shape, mdps.num_observations, tasks[0].program.rule.num_params), np.float32)
    pool.run(tasks, on_progress)
    return FinalStudents(**processes.combined(is_trained_here, {"params": params, "faults": faults}))
