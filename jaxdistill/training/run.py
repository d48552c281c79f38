"""Trains the students of some cells in this process, and collects their learning curves or their final tables."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.methods import check_episodes_end
from jaxdistill.runtime.checkpoints import Outputs
from jaxdistill.scheduling import pool
from jaxdistill.scheduling.task import Task
from jaxdistill.training.config import ResolvedCell
from jaxdistill.training.recorder import Recorder
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
    """Trains every cell on every MDP in this process, and collects the final tables.

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
    faults = np.zeros(shape, int)

    def keep(cell: np.ndarray, mdp: np.ndarray, pauses: np.ndarray, outputs: Outputs) -> None:
        params[cell, mdp], faults[cell, mdp] = outputs.params, outputs.fault

    tasks = make_tasks(key, mdps, cells, np.ones(mdps.num_mdps), keep, initial=initial)
    params = np.zeros((*shape, mdps.num_observations, tasks[0].program.rule.num_params), np.float32)
    pool.run(tasks, on_progress)
    return FinalStudents(params, faults)


def run_students(
    key: jax.Array,
    recorder: Recorder,
    cost: np.ndarray,
    initial: np.ndarray | None = None,
    on_progress: Callable[[float, int, float], None] | None = None,
) -> None:
    """Trains the students of the recorder's cells on its MDPs in this process, and records them.

    Args:
      key, initial, on_progress: as for `run_to_end`.
      recorder: takes what the students hand out.
      cost: [M], expected episode length; the students with the longest episodes start first.
    """
    tasks = student_tasks(key, recorder, cost, initial)
    recorder.note_loops([{"estimator": task.program.estimator.name, **task.loop.settings} for task in tasks])
    pool.run(tasks, on_progress)


def student_tasks(key: jax.Array, recorder: Recorder, cost: np.ndarray, initial: np.ndarray | None) -> list[Task]:
    """The tasks that `run_students` runs."""
    config = recorder.config

    def pauses(cell: ResolvedCell) -> list[int]:
        """Iterations at which parameters or curves are needed; the curves of a student that does not act are exact."""
        needs_params = bool(recorder.measures.names) or recorder.is_live or not cell.method.control.is_student
        return config.checkpoints[:-1].tolist() if needs_params else []

    return make_tasks(key, recorder.mdps, recorder.cells, cost, recorder.add, pauses=pauses, initial=initial)
