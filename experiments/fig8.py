"""Figure 8: learning curves of nine ways to distill, for two teachers with and without noise and two kinds of student.

Rows: the teacher, Q-learning or actor-critic (A2C). Columns: Monte Carlo students, TD(1) students, TD(1) students of a
teacher that errs in 15 % and in 25 % of the states (--noise_action). Curves: undiscounted return of the students,
mean over sampled grid worlds with 95 % intervals. Dotted: the teacher without noise, the teacher with the noise of the
column, and the uniform policy.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import Cell, Result, Teacher, plotting, teachers
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.runtime import checks

PAPER_METHODS = [
    "baseline", "teacher_v_reward", "on_policy_distill", "on_policy_distill_r", "on_policy_distill_r_vcond",
    "entropy_regularised", "kl_regularised", "td_v0", "td_vpi",
]  # fmt: skip
COLUMNS = {
    "mc": ("mc", 0.0, "Monte Carlo student"),
    "td": ("td", 0.0, "TD(1) student"),
    "td_noise15": ("td", 0.15, "TD(1) student, 15 % teacher noise"),
    "td_noise25": ("td", 0.25, "TD(1) student, 25 % teacher noise"),
}

NOISY_COLOR = "#e76300"  # of the line of a teacher with noise


@dataclasses.dataclass
class Settings(
    common.Adversary, common.Output, common.Noise, common.QLearning, common.Preset, common.Training, common.Worlds
):
    """The flags of this figure."""

    methods: list[str] = common.option(PAPER_METHODS, "methods, by name, separated by commas")
    teachers: list[str] = common.option(["q_learning", "actor_critic"], "teachers, one row each")
    columns: list[str] = common.option(list(COLUMNS), "columns, of mc, td, td_noise15 and td_noise25")
    first_column: str = common.preset_option(
        "first_column", "estimator of the students of column mc: mc, the sampled return, or another estimator's name"
    )


SMOKE = {"num_mdps": 8, "num_iterations": 300, "num_checkpoints": 20, "num_rows": 10, "num_cols": 10}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known_methods(settings.methods)
    common.known("teacher", settings.teachers, common.TEACHERS)
    common.known("column", settings.columns, COLUMNS)
    if settings.num_mdps < 1:
        raise ValueError(f"--num_mdps must be at least 1; got {settings.num_mdps}.")
    checks.one_of("--first_column", settings.first_column, ESTIMATORS)
    settings.grid_config(), settings.train_config(), settings.q_learning(), settings.with_noise()


def row(settings: Settings, name: str) -> Result:
    """Trains one row of the figure: the students of the teacher of that name."""
    keys = common.keys(settings.seed)
    mdps = jaxdistill.sample_mdps(keys.worlds, settings.num_mdps, settings.grid_config())
    teacher = common.make_teacher(name, keys.teacher, mdps, settings)
    row_cells = cells(name, teacher, keys.noise, mdps, settings)
    config = settings.train_config()
    return jaxdistill.train(keys.students, mdps, methods=row_cells, config=config, keep_tables=False, progress=True)


def estimator_of(settings: Settings, column: str) -> str:
    """The estimator of the students of a column."""
    return settings.first_column if column == "mc" else COLUMNS[column][0]


def cells(row: str, teacher: Teacher, noise_key: jax.Array, mdps: jaxdistill.MDP, settings: Settings) -> dict[str, Any]:
    """The cells of a row, labelled teacher/column/method; raises ValueError if there are none."""
    labelled = {}
    for column in settings.columns:
        estimator, noise = estimator_of(settings, column), COLUMNS[column][1]
        noisy = teachers.with_noise(noise_key, mdps, teacher, noise, **settings.with_noise()) if noise else teacher
        for name, method in zip(settings.methods, common.known_methods(settings.methods), strict=True):
            if method.estimator in (None, estimator):
                labelled[f"{row}/{column}/{name}"] = Cell(method, noisy, {"estimator": estimator})
    if not labelled:
        raise ValueError("None of --methods exists in any of --columns: td_v0 and td_vpi need a td column.")
    return labelled


def plot(settings: Settings, rows: dict[str, Result]) -> Any:
    """Draws the figure from the results by teacher."""
    figure, axes = plotting.new_figure(len(rows), len(settings.columns))
    with plotting.style():
        for i, (row, result) in enumerate(rows.items()):
            clean = [p for p, label in enumerate(result.labels) if "noise" not in label]
            reference = np.nanmean(result.teacher_returns[clean or slice(None)])
            for j, column in enumerate(settings.columns):
                ax = axes[i, j]
                for index, name in zip(plotting.palette_indices(settings.methods), settings.methods, strict=True):
                    label = f"{row}/{column}/{name}"
                    if label in result.labels:
                        curves = result.returns[result.method_index(label)]
                        plotting.plot_curves(ax, result.iterations, curves, name, index=index)
                plotting.reference_line(ax, reference, "teacher", "Teacher without noise")
                if COLUMNS[column][1]:
                    noisy = [p for p, label in enumerate(result.labels) if label.startswith(f"{row}/{column}/")]
                    own_return = np.nanmean(result.teacher_returns[noisy])
                    plotting.reference_line(ax, own_return, "teacher", "Teacher with this noise", NOISY_COLOR)
                plotting.reference_line(ax, float(result.uniform_returns.mean()), "uniform")
                plotting.label_axes(ax, xlabel=i == len(rows) - 1, ylabel=False)
                if i == 0:
                    ax.set_title(COLUMNS[column][2])
                if j == 0:
                    ax.set_ylabel(f"{common.TEACHERS[row]}\nReturn per episode")
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {name: functools.partial(row, settings, name) for name in settings.teachers}
    draw = functools.partial(plot, settings)
    common.deliver(draw(common.run_parts(settings, outdir, parts, draw)), outdir, "fig8")


if __name__ == "__main__":
    common.main(Settings, "fig8", SMOKE, work)
