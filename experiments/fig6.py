"""Figure 6: distilling an optimal and an adversarial teacher in a corridor.

+1 at one end, -1 at the other, the start in the middle. Panels: the teacher, optimal or adversarial (optimal for the
negated reward). Curves: undiscounted return of the students, mean over independent students with 95 % intervals.
Dotted: the teacher, the optimal policy and the uniform policy, computed exactly.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

import jaxdistill
from experiments import common, fig8
from jaxdistill import Result, plotting
from jaxdistill.worlds.corridor import chain

TEACHERS = {name: common.TEACHERS[name] for name in ("optimal", "adversarial")}


@dataclasses.dataclass
class Corridor(common.Adversary, common.Estimation):
    """The settings that Figs. 6 and 9 share."""

    # Paper: no estimator of returns is stated for these figures. Here: the one-step target, TD(1), which exists for
    # all nine methods.

    num_students: int = common.option(50, "independent students of each method")
    methods: list[str] = common.option(fig8.PAPER_METHODS, "methods, by name, separated by commas")
    teachers: list[str] = common.option(list(TEACHERS), "teachers, of optimal and adversarial")
    noise: float = common.preset_option("noise", "probability that a move goes in a random direction")
    termination_prob: float = common.option(0.01, "probability that a step ends the episode")
    num_iterations: int = common.option(15_000, "episodes, and so updates, of each student")


@dataclasses.dataclass
class Settings(Corridor, common.Output, common.Preset, common.Training):
    """The flags of this figure."""

    length: int = common.option(5, "moves from the start to either end; the paper gives no number")


SMOKE = {"num_students": 16, "num_iterations": 300, "num_checkpoints": 20}


def check(settings: Any) -> None:
    """Validates the settings of this figure or of Fig. 9; raises ValueError with one line."""
    common.known_methods(settings.methods)
    common.known("teacher", settings.teachers, TEACHERS)
    if settings.num_students < 1:
        raise ValueError(f"--num_students must be at least 1; got {settings.num_students}.")
    settings.train_config()


def train(settings: Any, teacher: str, length: int) -> Result:
    """Trains every method with one teacher in corridors of one length."""
    corridors = corridor(settings, length, settings.num_students)
    key = common.keys(settings.seed)
    return jaxdistill.train(
        key.students,
        corridors,
        common.make_teacher(teacher, key.teacher, corridors, settings),
        settings.methods,
        settings.train_config(),
        keep_tables=False,
        progress=True,
    )


def corridor(settings: Any, length: int, num_mdps: int | None = None) -> jaxdistill.MDP:
    """A corridor of these settings, or a stack of `num_mdps` equal ones; raises ValueError for impossible settings."""
    return chain(length, num_mdps, noise=settings.noise, termination_prob=settings.termination_prob)


def draw(ax: Any, result: Result, methods: list[str]) -> None:
    """Draws the curves and the reference lines of one panel."""
    for index, name in zip(plotting.palette_indices(methods), methods, strict=True):
        plotting.plot_curves(ax, result.iterations, result.returns[result.method_index(name)], name, index=index)
    optimal, teacher = float(result.optimal_returns[0]), float(np.nanmean(result.teacher_returns))
    plotting.reference_line(ax, teacher, "teacher")
    if abs(optimal - teacher) > 1e-3:  # otherwise the two lines would cover each other
        plotting.reference_line(ax, optimal, "optimal")
    plotting.reference_line(ax, float(result.uniform_returns[0]), "uniform")


def plot(settings: Settings, results: dict[str, Result]) -> Any:
    """Draws the figure from the results by teacher."""
    figure, axes = plotting.new_figure(1, len(results), size=(max(4.0 * len(results), 4.6), 4.0))
    with plotting.style():
        for i, (teacher, result) in enumerate(results.items()):
            draw(axes[0, i], result, settings.methods)
            plotting.label_axes(axes[0, i], ylabel=i == 0)
            axes[0, i].set_title(TEACHERS[teacher])
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    check(settings)
    corridor(settings, settings.length)
    outdir = common.prepare_outdir(settings)
    parts = {name: functools.partial(train, settings, name, settings.length) for name in settings.teachers}
    draw = functools.partial(plot, settings)
    common.deliver(draw(common.run_parts(settings, outdir, parts, draw)), outdir, "fig6")


if __name__ == "__main__":
    common.main(Settings, "fig6", SMOKE, work)
