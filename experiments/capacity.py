"""Which objective wins where the student cannot represent the teacher: grid worlds, by the features of the student.

Students that distill a soft teacher are tables, tile coding, the cells around the agent, or the sum of a row and a
column. Each objective is trained with several learning rates. For each measure, its rate is chosen on one half of the
worlds and judged on the other. Panels: KL of whole episodes from the teacher, KL(pi||pi_theta), and from the student,
KL(pi_theta||pi), in nats; return as a share of the way from the uniform policy to the teacher. Bars: 95 % intervals of
the mean over worlds, drawn down to a tenth of the mean.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import common
from jaxdistill import MDP, Cell, Teacher, exact, features, plotting, sample_mdps, teachers, train
from jaxdistill.statistics import mean_interval

KINDS: dict[str, tuple[str, Callable[[MDP], Any]]] = {
    "table": ("Table", lambda mdps: None),
    "tiles": ("4 tilings\nof 4 x 4 cells", lambda mdps: features.tiles(mdps, 4, [(0, 0), (1, 1), (2, 2), (3, 3)])),
    "window": ("3 x 3 cells\naround", lambda mdps: features.window_cells(mdps, 1)),
    "row_and_column": ("Row +\ncolumn", features.row_and_column),
}
METHODS = ["teacher_distill", "on_policy_distill", "n_distill", "reverse_kl", "k1_reward", "jsd"]
MEASURES = {
    "sequence_forward_kl": r"KL($\pi\Vert\pi_\theta$) of episodes (nats)",
    "sequence_reverse_kl": r"KL($\pi_\theta\Vert\pi$) of episodes (nats)",
    "return": "Return: 0 uniform, 1 teacher",
}


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this experiment."""

    kinds: list[str] = common.option(list(KINDS), "kinds of students, separated by commas")
    methods: list[str] = common.option(METHODS, "objectives, separated by commas")
    rates: list[str] = common.option(["0.03", "0.1", "0.3", "1"], "learning rates, separated by commas")
    num_mdps: int = common.option(60, "sampled worlds")
    num_rows: int = common.option(10, "height and width of the grid, cells")
    num_iterations: int = common.option(10_000, "episodes of each student")
    temperature: float = common.option(0.5, "of the teacher, softmax(Q* / temperature)")
    seed: int = common.option(0, "seed of worlds and students")


SMOKE = {"kinds": ["table", "row_and_column"], "methods": ["on_policy_distill", "reverse_kl"], "rates": ["0.1", "0.5"],
         "num_mdps": 8, "num_rows": 4, "num_iterations": 200}  # fmt: skip


def learning_rates(settings: Settings) -> list[float]:
    """The learning rates; raises ValueError for an invalid one."""
    try:
        rates = [float(rate) for rate in settings.rates]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < np.inf for rate in rates) or len(set(rates)) < len(rates):
        raise ValueError(f"--rates must be different positive numbers; got {','.join(settings.rates)!r}.")
    return rates


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("kind", settings.kinds, KINDS)
    common.known_methods(settings.methods)
    for name, least in (("num_mdps", 4), ("num_rows", 2), ("num_iterations", 1)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}; got {getattr(settings, name)}.")
    if not 0 < settings.temperature < np.inf:
        raise ValueError(f"--temperature must be positive; got {settings.temperature}.")
    learning_rates(settings)


def problem(settings: Settings, kind: str) -> tuple[MDP, Teacher]:
    """The worlds with the features of a kind of student, and the soft teachers."""
    key, size = common.keys(settings.seed).worlds, settings.num_rows
    mdps = sample_mdps(key, settings.num_mdps, num_rows=size, num_cols=size)
    q = exact.optimal_action_values(mdps, 0.99)
    table = KINDS[kind][1](mdps)
    worlds = mdps if table is None else mdps.with_features(table)
    return worlds, teachers.from_q(worlds, q, temperature=settings.temperature)


def run(settings: Settings, kind: str) -> dict[str, np.ndarray]:
    """The final students of a kind: each measure by its name, [P, R, M] of P methods and R rates."""
    mdps, teacher = problem(settings, kind)
    rates = learning_rates(settings)
    cells = {
        f"{name} {rate:g}": Cell(name, changes={"learning_rate": rate}) for name in settings.methods for rate in rates
    }
    named = [name for name in MEASURES if name != "return"]
    result = train(
        common.keys(settings.seed).students, mdps, teacher, cells, num_iterations=settings.num_iterations,
        num_checkpoints=1, measure=named, probability_floor=1e-12,
    )  # fmt: skip
    span = result.teacher_returns - result.uniform_returns
    shares = (result.final_returns - result.uniform_returns) / np.where(span > 1e-6, span, np.nan)
    values = {name: result.final(name) for name in named} | {"return": shares}
    shape = (len(settings.methods), len(rates), settings.num_mdps)
    return {name: array.reshape(shape) for name, array in values.items()} | {
        "num_parameters": np.array(mdps.num_observations)
    }


def judged(values: np.ndarray, is_higher_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """The measure [P, M'] of each method at its best rate, on the worlds that did not choose it, and the rates [P].

    A rate at which a student diverged is the worst. Worlds without any number, in which no policy earns more than
    another, are left out.
    """
    is_choosing = np.arange(values.shape[-1]) % 2 == 0
    has_numbers = ~np.isnan(values).all(axis=(0, 1))
    means = values[..., is_choosing & has_numbers].mean(axis=-1)
    means = np.where(np.isnan(means), -np.inf if is_higher_better else np.inf, means)
    best = means.argmax(1) if is_higher_better else means.argmin(1)
    return values[np.arange(len(values)), best][:, ~is_choosing & has_numbers], best


def table(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: each measure of each method at its best rate, with 95 % intervals."""
    columns = " | ".join(MEASURES)
    lines = [
        f"{settings.num_mdps} worlds of {settings.num_rows} x {settings.num_rows} cells, half of them judged; "
        f"{settings.num_iterations} episodes; rate in brackets.",
        "",
        f"| student | rows | objective | {columns} |",
        "|---|--:|---|" + "--:|" * len(MEASURES),
    ]
    rates = learning_rates(settings)
    for kind, arrays in data.items():
        of_measure = {name: judged(arrays[name], name == "return") for name in MEASURES}
        for p, method in enumerate(settings.methods):
            entries = [f"{mean_interval(values[p]):.3g} ({rates[best[p]]:g})" for values, best in of_measure.values()]
            lines.append(f"| {kind} | {int(arrays['num_parameters'])} | {method} | {' | '.join(entries)} |")
    return lines


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the arrays of `run` by kind of student."""
    figure, axes = plotting.new_figure(1, len(MEASURES), size=(10.5, 3.6), share_y=False)
    places, indices = np.arange(len(data)), plotting.palette_indices(settings.methods)
    with plotting.style():
        for ax, (name, title) in zip(np.ravel(axes), MEASURES.items(), strict=True):
            of_kind = [judged(arrays[name], name == "return")[0] for arrays in data.values()]
            for p, method in enumerate(settings.methods):
                middle, low, high = np.array([tuple(mean_interval(values[p]))[:3] for values in of_kind]).T
                style = plotting.method_style(method, indices[p])
                offset = 0.7 * ((p + 0.5) / len(settings.methods) - 0.5)
                ax.errorbar(
                    places + offset, middle, [middle - np.maximum(low, 0.1 * middle), high - middle], linestyle="none",
                    color=style.color, marker=style.marker or "o", label=style.label,
                )  # fmt: skip
            ax.set_xticks(places, [KINDS[kind][0] for kind in data])
            ax.set_ylabel(title)
            if name != "return":
                ax.set_yscale("log")
            ax.grid(axis="x", visible=False)
    plotting.add_legend(figure, num_cols=len(settings.methods))
    return figure


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {kind: functools.partial(run, settings, kind) for kind in settings.kinds}
    data = common.run_parts(settings, outdir, parts)
    common.deliver_table(table(settings, data), outdir, "capacity")
    common.deliver(plot(settings, data), outdir, "capacity")


if __name__ == "__main__":
    common.main(Settings, "capacity", SMOKE, work)
