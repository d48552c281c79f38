"""Figure 8: how nine ways to distill learn, from two teachers that get worse, with two kinds of student.

Rows: the teacher, Q-learning or actor-critic (A2C). Columns: Monte Carlo students, TD(1) students, TD(1) students of a
teacher that plays its worst action in 15 % and in 25 % of the states. Curves: undiscounted return of the students,
mean over sampled grid worlds with 95 % intervals. Dotted: the teacher without noise, and the uniform policy.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import Cell, Result, Teacher, plotting, teachers
from jaxdistill.progress import duration

PAPER_METHODS = [
    "baseline", "teacher_v_reward", "on_policy_distill", "on_policy_distill_r", "on_policy_distill_r_vcond",
    "entropy_regularised", "kl_regularised", "td_v0", "td_vpi",
]  # fmt: skip
TEACHERS = {
    "q_learning": "Q-learning teacher",
    "actor_critic": "A2C teacher",
    "optimal": "Optimal teacher",
    "adversarial": "Adversarial teacher",
}
COLUMNS = {
    "mc": ("mc", 0.0, "Monte Carlo student"),
    "td": ("td", 0.0, "TD(1) student"),
    "td_noise15": ("td", 0.15, "TD(1) student, 15 % teacher noise"),
    "td_noise25": ("td", 0.25, "TD(1) student, 25 % teacher noise"),
}


@dataclasses.dataclass
class Settings(common.Output, common.Training, common.Worlds):
    """The flags of this figure."""

    methods: list[str] = common.option(PAPER_METHODS, "methods, by name, separated by commas")
    teachers: list[str] = common.option(["q_learning", "actor_critic"], "teachers, one row each")
    columns: list[str] = common.option(list(COLUMNS), "columns, of mc, td, td_noise15 and td_noise25")


SMOKE = {"num_mdps": 8, "num_iterations": 300, "num_checkpoints": 20, "num_rows": 10, "num_cols": 10}


def check(settings: Settings) -> None:
    """Finds what is wrong with the settings before any work."""
    common.known("method", settings.methods, jaxdistill.METHODS)
    common.known("teacher", settings.teachers, TEACHERS)
    common.known("column", settings.columns, COLUMNS)
    if settings.num_mdps < 1:
        raise ValueError(f"--num_mdps must be at least 1; got {settings.num_mdps}.")
    settings.grid_config(), settings.train_config()


def run(settings: Settings, outdir: Path, reuse: bool) -> dict[str, Result]:
    """Trains every cell, a row of the figure at a time, saving each row as it is finished.

    With `reuse`, rows that an earlier run of the same settings left in `outdir` are read instead.
    """
    files = {name: outdir / f"{name}.npz" for name in settings.teachers}
    rows = {name: jaxdistill.load(path) for name, path in files.items() if reuse and path.exists()}
    if len(rows) == len(files):
        print(f"drawing from the curves in {outdir}")
        return rows
    world_key, teacher_key, noise_key, student_key = jax.random.split(jax.random.key(settings.seed), 4)
    mdps = jaxdistill.sample_mdps(world_key, settings.num_mdps, settings.grid_config())
    if not reuse:
        common.save_settings(settings, outdir, files=[path.name for path in files.values()])
    for name in [name for name in files if name not in rows]:
        teacher = make_teacher(name, teacher_key, mdps, settings)
        result = jaxdistill.train(
            student_key,
            mdps,
            methods=cells(name, teacher, noise_key, mdps, settings),
            config=settings.train_config(),
            keep_tables=False,
            progress=True,
        )
        result.to_csv(outdir / f"{name}.csv.gz")
        result.save(files[name])  # last: its presence says that the row is complete
        rows[name] = result
    return {name: rows[name] for name in files}


def make_teacher(name: str, key: jax.Array, mdps: jaxdistill.MDP, settings: Settings) -> Teacher:
    """The teacher of a row, without noise."""
    if name == "q_learning":
        return teachers.q_learning(
            key, mdps, num_iterations=settings.num_iterations, discount=settings.discount, progress=True
        )
    if name == "actor_critic":
        return teachers.actor_critic(key, mdps, config=settings.train_config(), progress=True)
    exact = {"optimal": teachers.optimal, "adversarial": teachers.adversarial}[name]
    return exact(mdps, discount=settings.discount)


def cells(row: str, teacher: Teacher, noise_key: jax.Array, mdps: jaxdistill.MDP, settings: Settings) -> dict[str, Any]:
    """The cells of a row, labelled teacher/column/method."""
    made = {}
    for column in settings.columns:
        estimator, noise, _ = COLUMNS[column]
        noisy = teachers.with_noise(noise_key, mdps, teacher, noise) if noise else teacher
        for name in settings.methods:
            if jaxdistill.METHODS[name].estimator in (None, estimator):
                made[f"{row}/{column}/{name}"] = Cell(name, noisy, {"estimator": estimator})
    if not made:
        raise ValueError("None of --methods exists in any of --columns: td_v0 and td_vpi need a td column.")
    return made


def plot(settings: Settings, rows: dict[str, Result]) -> Any:
    """The figure, from results."""
    figure, axes = plotting.new_figure(len(rows), len(settings.columns))
    with plotting.style():
        for i, (row, result) in enumerate(rows.items()):
            clean = [p for p, label in enumerate(result.labels) if "noise" not in label]
            reference = np.nanmean(result.teacher_returns[clean or slice(None)])
            for j, column in enumerate(settings.columns):
                ax = axes[i, j]
                for name in settings.methods:
                    label = f"{row}/{column}/{name}"
                    if label in result.labels:
                        curves = result.returns[result.method_index(label)]
                        plotting.plot_curves(ax, result.iterations, curves, name)
                plotting.reference_line(ax, reference, "teacher", "Teacher without noise")
                plotting.reference_line(ax, float(result.uniform_returns.mean()), "uniform")
                plotting.label_axes(ax, xlabel=i == len(rows) - 1, ylabel=False)
                if i == 0:
                    ax.set_title(COLUMNS[column][2])
                if j == 0:
                    ax.set_ylabel(f"{TEACHERS[row]}\nReturn per episode")
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Runs, or finds what was run before, and draws."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    started = time.perf_counter()
    rows = run(settings, outdir, reuse=common.same_settings(settings, outdir))
    cells = sum(len(result.labels) for result in rows.values())
    print(f"{cells} cells x {settings.num_mdps} worlds in {duration(time.perf_counter() - started)}")
    for path in plotting.save_figure(plot(settings, rows), outdir / "fig8"):
        print(path)


if __name__ == "__main__":
    common.main(Settings, "fig8", SMOKE, work)
