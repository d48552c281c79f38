"""The students that the benchmark trains: the mix of Fig. 8, and TD(1) students of worlds of any size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common, fig8
from experiments.baselines import Problem
from jaxdistill import Cell, Config, Teacher, teachers
from jaxdistill.mdp import exact
from jaxdistill.training.config import ResolvedCell, resolve_cell


def resolved(cells: Mapping[str, Cell]) -> tuple[ResolvedCell, ...]:
    """Cells with nothing left open, as `jaxdistill.train` makes them."""
    return tuple(
        resolve_cell(label, jaxdistill.methods.get(cell.method), cell.teacher, Config(**cell.changes))
        for label, cell in cells.items()
    )


class Mix(NamedTuple):
    """Which students of one row of Fig. 8: about so many, on grids of rows x rows, of these methods and columns."""

    num_students: int
    rows: int
    methods: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def num_cells(self) -> int:
        """P, the methods of every column that exist for its estimator."""
        return sum(
            jaxdistill.METHODS[name].estimator in (None, fig8.COLUMNS[column][0])
            for column in self.columns
            for name in self.methods
        )


def fig8_mix(mix: Mix, num_iterations: int, seed: int = 0) -> tuple[Problem, dict[str, Cell]]:
    """The students of the mix, and its cells by label.

    They are spread evenly over the cells (methods, estimators and noise of the teacher) and over worlds; where they are
    fewer than the cells there is one world, and some cells. Teachers are optimal and not learned, which changes nothing
    in what a step costs.
    """
    keys = common.keys(seed)
    num_mdps = max(1, round(mix.num_students / mix.num_cells))
    mdps = jaxdistill.sample_mdps(keys.worlds, num_mdps, num_rows=mix.rows, num_cols=mix.rows)
    settings = fig8.Settings(methods=list(mix.methods), columns=list(mix.columns))
    cells = fig8.cells("optimal", teachers.optimal(mdps), keys.noise, mdps, settings)
    if mix.num_students < len(cells):
        chosen = np.linspace(0, len(cells) - 1, mix.num_students + 2).astype(int)[1:-1]
        cells = {label: cell for i, (label, cell) in enumerate(cells.items()) if i in chosen}
    policy = exact.greedy(exact.optimal_action_values(mdps, 1.0), exact.TIE)
    cost = np.asarray(exact.start_value(mdps, exact.expected_length(mdps, policy)))  # as `jaxdistill.train` has it
    return Problem(mdps, resolved(cells), num_iterations, cost=cost, seed=seed), cells


def td_column(num_students: int, num_iterations: int, rows: int = 20, num_actions: int = 4, seed: int = 0) -> Problem:
    """About `num_students` TD(1) students of the methods of Fig. 8, of a teacher that is uniform."""
    num_mdps = max(1, round(num_students / len(fig8.PAPER_METHODS)))
    sizes: dict[str, Any] = {"num_rows": rows, "num_cols": rows, "num_actions": num_actions}
    mdps = jaxdistill.sample_mdps(common.keys(seed).worlds, num_mdps, **sizes)
    probs = jnp.full((num_mdps, mdps.num_states, num_actions), 1 / num_actions)
    teacher = Teacher(probs=probs, values=jnp.zeros(probs.shape[:2]), scores=probs)
    cells = {name: Cell(name, teacher) for name in fig8.PAPER_METHODS}
    return Problem(mdps, resolved(cells), num_iterations, seed=seed)
