"""Figure 3: which policy should collect the trajectories, for teachers from deterministic to soft.

Rows: the Q-learning teacher at three temperatures. Columns: the expected KL(pi || pi_theta) summed along trajectories
of the student, of the teacher and of the uniform policy, computed exactly, and the exact return of the student. Lines:
the policy that collects the trajectories that students are trained on. Mean over sampled grid worlds with 95 %
intervals.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import MDP, METHODS, Cell, Control, Method, Teacher, plotting, teachers
from jaxdistill.mdp import exact

_CLONE = METHODS["on_policy_distill"]


def _driven_by(name: str, control: Control) -> Method:
    return dataclasses.replace(_CLONE, name=name, control=control, description="")


CONTROLS = {
    "on_policy_distill": (_CLONE, "Student-driven"),
    "teacher_distill": (METHODS["teacher_distill"], "Teacher-driven"),
    "uniform_distill": (_driven_by("uniform_distill", Control(uniform=1.0)), "Uniform-driven"),
    "mixture_distill": (_driven_by("mixture_distill", Control(student=0.5, teacher=0.5)), "Half student, half teacher"),
}
STYLES: dict[str, dict[str, Any]] = {  # of the two methods that no other figure has
    "uniform_distill": {"color": "#717581", "linestyle": "--", "marker": "<"},
    "mixture_distill": {"color": "#ffa90e", "linestyle": "-", "marker": "P"},
}
COLUMNS = {
    "kl_student": "KL over the student's trajectories",
    "kl_teacher": "KL over the teacher's trajectories",
    "kl_uniform": "KL over uniform trajectories",
    "return": "Return of the student",
}
_LEAST = 1e-4  # nats; smaller values are drawn as this on the logarithmic axes


@dataclasses.dataclass
class Settings(common.Output, common.QLearning, common.Preset, common.Training, common.Worlds):
    """The flags of this figure."""

    num_checkpoints: int = common.option(20, "points of each curve, and so exact evaluations of each student")
    temperatures: list[str] = common.option(["0", "0.01", "0.1"], "temperatures of the teacher, one row each")
    controls: list[str] = common.option(
        list(CONTROLS), "policies that collect the trajectories: names of this figure's methods"
    )


SMOKE = {"num_mdps": 4, "num_iterations": 200, "num_checkpoints": 4, "num_rows": 8, "num_cols": 8, "p_plus10": 0.05}


def check(settings: Settings) -> list[float]:
    """Validates the settings and returns the temperatures; raises ValueError with one line."""
    common.known("control", settings.controls, CONTROLS)
    try:
        temperatures = [float(text) for text in settings.temperatures]
    except ValueError:
        temperatures = [-1.0]
    if not temperatures or min(temperatures) < 0 or not np.isfinite(temperatures).all():
        raise ValueError(f"--temperatures must be numbers >= 0 such as 0,0.1; got {','.join(settings.temperatures)}.")
    if settings.num_mdps < 1:
        raise ValueError(f"--num_mdps must be at least 1; got {settings.num_mdps}.")
    settings.grid_config(), settings.train_config(), settings.q_learning()
    return temperatures


def measure(mdps: MDP, teacher: Teacher, policies: jax.Array) -> dict[str, jax.Array]:
    """The exact quantities of `COLUMNS`, [B] each, for B worlds, teachers and students' policies [B, S, A].

    The expected sum along trajectories of q is the sum over states of the occupancy under q times the KL.
    """
    log_student = jnp.log(jnp.maximum(policies, jnp.finfo(policies.dtype).tiny))
    log_teacher = jnp.log(jnp.maximum(teacher.probs, jnp.finfo(policies.dtype).tiny))
    kl = jnp.sum(jnp.where(teacher.probs > 0, teacher.probs * (log_teacher - log_student), 0), axis=-1)
    uniform = jnp.broadcast_to(exact.uniform_policy(mdps), policies.shape)
    measured = {}
    for name, q in (("student", policies), ("teacher", teacher.probs), ("uniform", uniform)):
        visits = exact.occupancy(mdps, q)
        measured[f"kl_{name}"] = jnp.sum(visits * kl, axis=-1)
        if name == "student":
            reward = jnp.sum(exact.outcome_weights(mdps, q) * mdps.reward, axis=-1)
            measured["return"] = jnp.sum(visits * reward, axis=-1)
    return measured


def problem(settings: Settings) -> tuple[MDP, Teacher]:
    """Samples the worlds and trains their Q-learning teachers."""
    keys = common.keys(settings.seed)
    mdps = jaxdistill.sample_mdps(keys.worlds, settings.num_mdps, settings.grid_config())
    return mdps, common.make_teacher("q_learning", keys.teacher, mdps, settings)


def row(settings: Settings, temperature: float, mdps: MDP, learned: Teacher) -> dict[str, np.ndarray]:
    """One row of the figure: `iterations` [C], `teacher_return` [M], and [P, M, C] for each of `COLUMNS`."""
    keys = common.keys(settings.seed)
    ties = settings.ties if temperature == 0 else "share"
    ties_key = keys.noise if ties == "random" else None
    teacher = teachers.from_q(
        mdps, learned.scores, temperature=temperature, ties=ties, key=ties_key, discount=settings.discount
    )
    cells = {f"{temperature:g}/{name}": Cell(CONTROLS[name][0], teacher) for name in settings.controls}
    result = jaxdistill.train(
        keys.students, mdps, methods=cells, config=settings.train_config(), keep_tables=False, measure=measure,
        progress=True,
    )  # fmt: skip
    untrained = measure(mdps, teacher, jnp.full(teacher.probs.shape, 1 / mdps.num_actions))
    arrays = {"iterations": np.concatenate([[0], result.iterations]), "teacher_return": result.teacher_returns[0]}
    for name in COLUMNS:
        start = np.broadcast_to(np.asarray(untrained[name])[None, :, None], (len(cells), settings.num_mdps, 1))
        arrays[name] = np.concatenate([start, result.measure(name)], axis=-1)
    return arrays


def rows(settings: Settings, outdir: Path, temperatures: list[float]) -> dict[str, dict[str, np.ndarray]]:
    """The rows of the figure by temperature; those that an earlier run finished are read."""
    once = functools.cache(functools.partial(problem, settings))
    parts = {f"temperature_{t:g}": lambda t=t: row(settings, t, *once()) for t in temperatures}
    return common.run_parts(settings, outdir, parts, functools.partial(plot, settings))


def plot(settings: Settings, parts: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the parts of `rows`."""
    figure, axes = plotting.new_figure(len(parts), len(COLUMNS), share_y="col")
    with plotting.style():
        for i, (name, part) in enumerate(parts.items()):
            for ax, (column, title) in zip(axes[i], COLUMNS.items(), strict=True):
                logarithmic = column != "return"
                for p, control in enumerate(settings.controls):
                    curves = np.maximum(part[column][p], _LEAST) if logarithmic else part[column][p]
                    style = STYLES.get(control, {})
                    plotting.plot_curves(ax, part["iterations"], curves, control, CONTROLS[control][1], p, **style)
                if logarithmic:
                    ax.set_yscale("log")
                    least = part[column].mean(axis=1).min()
                    ax.set_ylim(bottom=max(_LEAST, least / 2))  # an interval of few worlds may reach below 0
                else:
                    plotting.reference_line(ax, float(part["teacher_return"].mean()), "teacher")
                plotting.label_axes(ax, xlabel=i == len(parts) - 1, ylabel=False)
                if i == 0:
                    ax.set_title(title)
            axes[i, 0].set_ylabel(f"Temperature {name.split('_')[1]}\nKL per episode (nats)")
            axes[i, -1].set_ylabel("Return per episode")
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    temperatures = check(settings)
    outdir = common.prepare_outdir(settings)
    common.deliver(plot(settings, rows(settings, outdir, temperatures)), outdir, "fig3")


if __name__ == "__main__":
    common.main(Settings, "fig3", SMOKE, work)
