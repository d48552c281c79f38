"""Figure 5: learning curves of nine ways to distill from a Q-learning teacher, the first row of Figure 8.

Columns: Monte Carlo students, TD(1) students, TD(1) students of a teacher that errs in 15 % and in 25 % of the states
(--noise_action). If a folder of fig8 holds the row for the same settings, the row is read from it.
"""

import dataclasses
import functools

from experiments import common, fig8
from jaxdistill import Result


@dataclasses.dataclass
class Settings(fig8.Settings):
    """The flags of this figure."""

    teachers: list[str] = common.option(["q_learning"], "teachers, one row each; the paper's figure has q_learning")
    shared: str = common.option("", "folder of fig8 whose rows are used where the settings agree; default results/fig8")


def row(settings: Settings, name: str) -> Result:
    """The row of that teacher, read from the folder of fig8 or trained."""
    folder = settings.shared or common.default_outdir("fig8", settings.smoke)
    shared = common.shared_part(settings, folder, name, ignored=("teachers",))
    return fig8.row(settings, name) if shared is None else shared


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    fig8.check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {name: lambda name=name: row(settings, name) for name in settings.teachers}
    draw = functools.partial(fig8.plot, settings)
    common.deliver(draw(common.run_parts(settings, outdir, parts, draw)), outdir, "fig5")


if __name__ == "__main__":
    common.main(Settings, "fig5", fig8.SMOKE, work)
