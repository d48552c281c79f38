"""The students that the benchmark trains: the mix of Fig. 8, and TD(1) students of worlds of any size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common, fig8
from experiments.baselines import Problem
from jaxdistill import Cell, Config, Teacher, teachers
from jaxdistill.estimators import OneStep
from jaxdistill.mdp import exact
from jaxdistill.training.config import ResolvedCell, config_of, resolve_cell


def resolved(cells: Mapping[str, Cell]) -> tuple[ResolvedCell, ...]:
    """Cells with nothing left open, as `jaxdistill.train` makes them."""
    config = Config(probability_floor=0.01)
    return tuple(
        resolve_cell(label, jaxdistill.methods.get(cell.method), cell.teacher, config_of(config, cell.changes))
        for label, cell in cells.items()
    )


class Mix(NamedTuple):
    """A share of the students of one row of Fig. 8.

    Attributes:
      num_students: about how many.
      rows: height and width of their grids.
      methods: names of their methods.
      columns: columns of the figure.
    """

    num_students: int
    rows: int
    methods: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(method, column) of every cell: the methods that exist for the column's estimator."""
        return [
            (name, column)
            for column in self.columns
            for name in self.methods
            if jaxdistill.METHODS[name].estimator in (None, fig8.COLUMNS[column][0])
        ]

    @property
    def num_cells(self) -> int:
        """The number of cells, P."""
        return len(self.pairs)


def fig8_mix(mix: Mix, num_iterations: int, seed: int = 0) -> tuple[Problem, dict[str, Cell]]:
    """The students of the mix, and its cells by label.

    They are spread evenly over the cells (method, estimator and noise of the teacher) and over worlds. If there are
    fewer students than cells, there is one world, and only some of the cells. Teachers are optimal and not learned,
    which does not change the cost of a step.
    """
    keys = common.keys(seed)
    num_mdps = max(1, round(mix.num_students / mix.num_cells))
    mdps = jaxdistill.sample_mdps(keys.worlds, num_mdps, num_rows=mix.rows, num_cols=mix.rows)
    settings = fig8.Settings(methods=list(mix.methods), columns=list(mix.columns))
    cells = fig8.cells("optimal", teachers.optimal(mdps), keys.noise, mdps, settings)
    if mix.num_students < len(cells):
        indices = np.linspace(0, len(cells) - 1, mix.num_students + 2).astype(int)[1:-1]
        cells = {label: cell for i, (label, cell) in enumerate(cells.items()) if i in indices}
    policy = exact.greedy(exact.optimal_action_values(mdps, 1.0), exact.TIE)
    cost = np.asarray(exact.start_value(mdps, exact.expected_length(mdps, policy)))  # as in `jaxdistill.train`
    return Problem(mdps, resolved(cells), num_iterations, cost=cost, seed=seed), cells


def td_column(num_students: int, num_iterations: int, rows: int = 20, num_actions: int = 4, seed: int = 0) -> Problem:
    """About `num_students` TD(1) students of the methods of Fig. 8, with a uniform teacher."""
    num_mdps = max(1, round(num_students / len(fig8.PAPER_METHODS)))
    sizes: dict[str, Any] = {"num_rows": rows, "num_cols": rows, "num_actions": num_actions}
    mdps = jaxdistill.sample_mdps(common.keys(seed).worlds, num_mdps, **sizes)
    probs = jnp.full((num_mdps, mdps.num_states, num_actions), 1 / num_actions)
    teacher = Teacher(probs=probs, values=jnp.zeros(probs.shape[:2]), scores=probs)
    cells = {name: Cell(name, teacher, {"estimator": OneStep.name}) for name in fig8.PAPER_METHODS}
    return Problem(mdps, resolved(cells), num_iterations, seed=seed)
