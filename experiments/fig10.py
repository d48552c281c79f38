"""Figure 10: the extended version of Figure 4, with four more methods.

There are 4, 40, 400 and 4000 actions, four of which move; see `python -m experiments.fig4 --help` for the teacher, the
sizes and the dotted lines. The paper does not name the methods that it adds. Here: N-distill, teacher distill, KL
regularised and teacher V reward. Methods that a folder of fig4 holds for the same settings are read from it.
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
    shared: str = common.option(
        "", "folder of fig4 whose results are used where the settings agree; default results/fig4"
    )


SMOKE = fig4.SMOKE


def from_fig4(settings: Any, name: str) -> Any:
    """The part of that name in the folder of fig4 if it was made with the same settings, else None.

    The caller compares the sizes, which differ between panels.
    """
    folder = settings.shared or common.default_outdir("fig4", settings.smoke)
    sizes = ("num_actions", "num_mdps", "num_iterations")
    return common.shared_part(settings, folder, name, ignored=("methods", "memory_gib", *sizes))


def moves(settings: Any) -> dict[str, np.ndarray]:
    """As `fig4.moves`, read from the folder of fig4 or computed."""
    shared, num_mdps = from_fig4(settings, "moves"), max(settings.num_mdps)
    if shared is None or len(shared["uniform_returns"]) < num_mdps:
        return fig4.moves(settings)
    return {name: array[:num_mdps] for name, array in shared.items()}


def run_panel(panel: Any, probs: np.ndarray) -> Result:
    """The students of a panel: methods that fig4 has are read from its folder, the others are trained."""
    shared, shared_methods = from_fig4(panel, f"actions{panel.num_actions}"), []
    if shared is not None and (shared.num_mdps, shared.iterations[-1]) == (panel.num_mdps, panel.num_iterations):
        shared_methods = [name for name in panel.methods if name in shared.labels]
    results = [shared.select(shared_methods)] if shared_methods else []
    missing = [name for name in panel.methods if name not in shared_methods]
    if missing:
        results.append(fig4.run_panel(dataclasses.replace(panel, methods=missing), probs))
    return jaxdistill.concatenate(results, axis="method").select(panel.methods)


def work(settings: Any) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    settings = fig4.resolve(settings)
    fig4.check(settings)
    outdir = common.prepare_outdir(settings)
    parts = fig4.run(settings, outdir, moves, run_panel)
    print("\n".join(fig4.table(settings, parts)))
    common.deliver(fig4.plot(settings, parts), outdir, "fig10")


if __name__ == "__main__":
    common.main(Settings, "fig10", SMOKE, work)
