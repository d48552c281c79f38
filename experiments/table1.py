"""Table 1 from scratch: which methods follow the gradient of a loss, and whether it is the loss that the paper states.

On random MDPs (Garnets) with random teachers, at random logits, in float64: the asymmetry of the Jacobian of every
method's exact expected update, ||J - J^T||_F / ||J||_F, which is 0 for a gradient; and the difference between that
update and the gradient of the stated loss, once point by point and once along a line integral. As in the paper's table,
updates are undiscounted, by Monte Carlo and summed over steps. The results are printed beside the paper's columns. The
figure shows both measures of each method on every MDP, the median as a bar. A method for which the paper states no loss
is compared with E_q sum (l - reward).
"""

import dataclasses
from typing import Any

import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import plotting
from jaxdistill.theory import fields, stated_losses

PAPER: dict[str, tuple[bool, str]] = {
    "teacher_distill": (True, "E_pi sum H(pi‖pi_theta)"),
    "on_policy_distill": (False, "none exists"),
    "entropy_regularised": (True, "E_pi_theta sum −log pi(a_t)"),
    "n_distill": (True, "E_pi_theta sum H(pi‖pi_theta)"),
    "exp_entropy_regularised": (True, "E_pi_theta sum −log pi(a_t)"),
    "teacher_v_reward": (True, "E_pi_theta sum r_t"),
}
FURTHER = ["on_policy_distill_r", "kl_regularised", "td_vpi"]
SYMMETRIC, ASYMMETRIC = 1e-8, 1e-3  # asymmetries of a gradient lie below, those of another field above


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this table."""

    methods: list[str] = common.option([*PAPER, *FURTHER], "methods, by name, separated by commas")
    num_mdps: int = common.option(100, "random MDPs, each with a random teacher and random logits")
    num_states: int = common.option(5, "states of an MDP")
    num_actions: int = common.option(3, "actions")
    num_observations: int = common.option(
        0, "rows of the student's table, which states share if there are fewer rows; 0: a row for each state"
    )
    concentration: float = common.option(1.0, "Dirichlet parameter of the teachers; near 0: almost deterministic")
    seed: int = common.option(0, "seed of MDPs, teachers and logits")


SMOKE = {"num_mdps": 10, "methods": list(PAPER)}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known_methods(settings.methods)
    problems(dataclasses.replace(settings, num_mdps=min(settings.num_mdps, 1)))


def problems(settings: Settings) -> tuple[jaxdistill.MDP, jaxdistill.Teacher]:
    """The random worlds and teachers; raises ValueError for impossible sizes."""
    return fields.random_problems(
        common.keys(settings.seed).worlds,
        settings.num_mdps,
        num_states=settings.num_states,
        num_actions=settings.num_actions,
        num_observations=settings.num_observations or None,
        concentration=settings.concentration,
    )


def compute(settings: Settings) -> dict[str, Any]:
    """The measures [P, M] by method and MDP, and the reports as text [P]."""
    mdps, teacher = problems(settings)
    key = common.keys(settings.seed).students
    reports = [fields.check_method(name, key=key, mdps=mdps, teacher=teacher) for name in settings.methods]
    measures = ("asymmetry", "gradient_error", "potential_error")
    data = {name: np.stack([getattr(r.whole, name) for r in reports]) for name in measures}
    return {
        **data,
        "one_step_asymmetry": np.stack([r.one_step.asymmetry for r in reports]),
        "reports": np.array([str(r) for r in reports]),
    }


def verdict(asymmetry: np.ndarray) -> bool | None:
    """Whether a method's field is a gradient, from its asymmetries [M]; None if they do not decide it."""
    if asymmetry.max() < SYMMETRIC:
        return True
    return False if asymmetry.min() > ASYMMETRIC else None


def table(settings: Settings, data: dict[str, np.ndarray]) -> list[str]:
    """Lines of Markdown: the paper's columns and ours."""
    lines = [
        "| method | gradient? paper | ours | median asymmetry | least | greatest | loss, paper | potential agrees to |",
        "|---|---|---|--:|--:|--:|---|--:|",
    ]
    words = {True: "yes", False: "no", None: "in doubt"}
    for p, name in enumerate(settings.methods):
        paper, loss = PAPER.get(name, (None, ""))
        a, ours = data["asymmetry"][p], verdict(data["asymmetry"][p])
        known = "-" if name not in PAPER else words[paper]
        loss = loss or (
            stated_losses.LOSSES[name].text.replace("||", "‖") + " (ours)" if name in stated_losses.LOSSES else ""
        )
        agrees = f"{data['potential_error'][p].max():.0e}" if ours else "-"
        numbers = f"{np.median(a):.2g} | {a.min():.2g} | {a.max():.2g}"
        lines.append(
            f"| {plotting.method_style(name).label} | {known} | {words[ours]} | {numbers} | {loss} | {agrees} |"
        )
    return lines


def disagreements(settings: Settings, data: dict[str, np.ndarray]) -> list[str]:
    """Sentences about the methods that contradict the two columns of the paper."""
    contradictions = []
    for p, name in enumerate(settings.methods):
        if name not in PAPER:
            continue
        ours = verdict(data["asymmetry"][p])
        if ours is not PAPER[name][0]:
            contradictions.append(f"{name}: gradient? {ours}, the paper says {PAPER[name][0]}")
        elif ours and max(data["gradient_error"][p].max(), data["potential_error"][p].max()) > SYMMETRIC:
            contradictions.append(f"{name}: its potential is not the stated loss")
    return contradictions


def plot(settings: Settings, data: dict[str, np.ndarray]) -> Any:
    """Draws two panels: the asymmetries, and the distances from the gradient of the stated loss."""
    rows = len(settings.methods)
    figure, axes = plotting.new_figure(1, 2, size=(8.4, 0.36 * rows + 1.5))
    titles = {
        "asymmetry": "Asymmetry of the Jacobian, $\\|J-J^T\\|/\\|J\\|$",
        "gradient_error": "Distance from the gradient of the loss, relative",
    }
    styles = {True: ("gradient", plotting.PALETTE[0], "o"), False: ("no gradient", plotting.PALETTE[2], "X")}
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, settings.num_mdps)
    with plotting.style():
        for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
            for p in range(rows):
                values = np.maximum(data[name][p], 1e-18)  # so that an exact 0 is drawn too
                is_gradient = data["asymmetry"][p].max() < SYMMETRIC
                label, color, marker = styles[is_gradient]
                ax.hlines(p, values.min(), values.max(), color=color, linewidth=1.2, zorder=1)
                ax.plot(values, p + jitter[: len(values)], marker, color=color, markersize=3.5, alpha=0.6, label=label)
                ax.plot(np.median(values), p, "|", color="black", markersize=11, markeredgewidth=1.6, zorder=3)
            ax.set(xscale="log", xlim=(1e-19, 10), xlabel=title, ylim=(rows - 0.5, -0.5))
            ax.set_xticks([1e-15, 1e-10, 1e-5, 1])
            for edge in (SYMMETRIC, ASYMMETRIC):
                ax.axvline(edge, color="0.45", linestyle=":", linewidth=1)
            ax.grid(axis="y", visible=False)
        axes[0, 0].set_yticks(range(rows), [plotting.method_style(name).label for name in settings.methods])
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Computes the measures, unless an earlier call has, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    data = common.run_parts(settings, outdir, {"table1": lambda: compute(settings)})["table1"]
    print("\n".join([*data["reports"], "", *table(settings, data), ""]))
    contradictions = disagreements(settings, data)
    print(
        "\n".join(contradictions) if contradictions else f"Nothing contradicts the paper on {settings.num_mdps} MDPs."
    )
    common.deliver(plot(settings, data), outdir, "table1")


if __name__ == "__main__":
    common.main(Settings, "table1", SMOKE, work)
