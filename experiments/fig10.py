"""Figure 10: the extended version of Figure 4, with four more methods.

4, 40, 400 and 4000 actions, four of which move; see `python -m experiments.fig4 --help` for the teacher, the sizes and
the dotted lines. The paper's text does not name the agents it adds. Here: N-distill, teacher distill, KL regularised
and teacher V reward. Methods that a folder of fig4 holds for the same settings are taken from there.
"""

import dataclasses
from typing import Any

import numpy as np

import jaxdistill
from experiments import common, fig4
from jaxdistill import Result

METHODS = [*fig4.METHODS, "n_distill", "teacher_distill", "kl_regularised", "teacher_v_reward"]


@dataclasses.dataclass
class Settings(fig4.Settings):
    """The flags of this figure."""

    methods: list[str] = common.option(METHODS, "methods, by name, separated by commas")
    shared: str = common.option("", "folder of fig4 whose results are used where they fit; default results/fig4")


SMOKE = fig4.SMOKE


def from_fig4(settings: Any, name: str) -> Any:
    """The part of that name in fig4's folder, if its worlds, teachers and students were made in the same way."""
    folder = settings.shared or common.default_outdir("fig4", settings.smoke)
    sizes = ("num_actions", "num_mdps", "num_iterations")  # differ between panels: compared by the callers
    return common.shared_part(settings, folder, name, ignored=("methods", "memory_gib", *sizes))


def moves(settings: Any) -> dict[str, np.ndarray]:
    """The teachers and the uniform policy with the four moves alone: fig4's, or made anew."""
    found, wanted = from_fig4(settings, "moves"), max(settings.num_mdps)
    if found is None or len(found["uniform_returns"]) < wanted:
        return fig4.moves(settings)
    return {name: array[:wanted] for name, array in found.items()}


def run_panel(panel: Any, probs: np.ndarray) -> Result:
    """The students of a panel: fig4's, and the others trained."""
    found, have = from_fig4(panel, f"actions{panel.num_actions}"), []
    if found is not None and (found.num_mdps, found.iterations[-1]) == (panel.num_mdps, panel.num_iterations):
        have = [name for name in panel.methods if name in found.labels]
    results = [found.select(have)] if have else []
    missing = [name for name in panel.methods if name not in have]
    if missing:
        results.append(fig4.run_panel(dataclasses.replace(panel, methods=missing), probs))
    return jaxdistill.concatenate(results, axis="method").select(panel.methods)


def work(settings: Any) -> None:
    """Runs, or finds what was run before, and draws."""
    settings = fig4.resolve(settings)
    fig4.check(settings)
    outdir = common.prepare_outdir(settings)
    parts = fig4.run(settings, outdir, moves, run_panel)
    print("\n".join(fig4.table(settings, parts)))
    common.deliver(fig4.plot(settings, parts), outdir, "fig10")


if __name__ == "__main__":
    common.main(Settings, "fig10", SMOKE, work)
