"""What a reading predicts for the figures that it was not fitted to: Fig. 3, Fig. 4 with many actions, and Fig. 6."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import fig3, fig4, fig6
from experiments.readings import factors
from experiments.readings.factors import Reading

NUM_WORLDS = 30
"""Worlds of Fig. 3."""
MANY_ACTIONS = {"num_actions": ["400", "4000"], "num_mdps": ["8", "2"], "num_iterations": ["10000", "1000"]}
"""The panels of Fig. 4, with fewer worlds and iterations than the figure has."""


def settings_of(figure: Any, calibration: Any, reading: Reading, **sizes: Any) -> Any:
    """The settings of a figure with the flags of a reading; --smoke and the seed are those of the calibration."""
    names = {field.name for field in dataclasses.fields(figure.Settings)}
    flags = {name: value for name, value in factors.flags(reading).items() if name in names}
    if calibration.smoke:
        sizes = sizes | figure.SMOKE
    return figure.Settings(**flags | sizes | {"seed": calibration.seed})


def predict_fig3(calibration: Any, reading: Reading) -> dict[str, np.ndarray]:
    """The curves of Fig. 3: `iterations` [C], and [T, P, M, C] for each column, by teacher and controlling policy."""
    settings = settings_of(fig3, calibration, reading, num_mdps=NUM_WORLDS)
    problem = fig3.problem(settings)
    rows = [fig3.row(settings, temperature, *problem) for temperature in fig3.check(settings)]
    columns = {name: np.stack([row[name] for row in rows]) for name in fig3.COLUMNS}
    names = {"temperatures": settings.temperatures, "controls": settings.controls}
    return columns | {"iterations": rows[0]["iterations"]} | {name: np.array(x) for name, x in names.items()}


def predict_fig4(calibration: Any, reading: Reading) -> dict[str, np.ndarray]:
    """The curves of Fig. 4 with many actions, A of them: `iterations_A` [C] and `returns_A` [P, M, C]."""
    settings = fig4.resolve(settings_of(fig4, calibration, reading, **MANY_ACTIONS))
    fig4.check(settings)
    probs, arrays = fig4.moves(settings)["probs"], {"methods": np.array(settings.methods)}
    for panel in fig4.panels(settings).values():
        result = fig4.run_panel(panel, probs[: panel.num_mdps])
        arrays |= {
            f"iterations_{panel.num_actions}": result.iterations,
            f"returns_{panel.num_actions}": result.returns,
            f"teacher_{panel.num_actions}": result.teacher_returns,
        }
    return arrays


def predict_fig6(calibration: Any, reading: Reading) -> dict[str, np.ndarray]:
    """The curves of Fig. 6: `iterations` [C], and `returns_T` [P, students, C] for each teacher T."""
    settings = settings_of(fig6, calibration, reading)
    fig6.check(settings)
    results = {teacher: fig6.train(settings, teacher, settings.length) for teacher in settings.teachers}
    returns = {f"returns_{teacher}": result.returns for teacher, result in results.items()}
    iterations = results[settings.teachers[0]].iterations
    return {"methods": np.array(settings.methods), "iterations": iterations} | returns


FIGURES: dict[str, Callable[[Any, Reading], dict[str, np.ndarray]]] = {
    "fig3": predict_fig3,
    "fig4": predict_fig4,
    "fig6": predict_fig6,
}
