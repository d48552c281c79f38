"""Figure 9: Figure 6 in corridors of several lengths.

Rows: the teacher, optimal or adversarial. Columns: the moves from the start to either end. Curves and dotted lines as
in Figure 6. The paper gives no lengths; the longer the corridor, the rarer is a reward before the episode ends.
"""

import dataclasses
import functools
from typing import Any

from experiments import common, fig6
from jaxdistill import Result, plotting


@dataclasses.dataclass
class Settings(fig6.Corridor, common.Output, common.Preset, common.Training):
    """The flags of this figure."""

    lengths: list[str] = common.option(
        ["2", "5", "10", "20"], "moves from the start to either end, separated by commas"
    )


SMOKE = fig6.SMOKE | {"lengths": ["2", "5"]}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    fig6.check(settings)
    for length in lengths(settings):
        fig6.corridor(settings, length)


def lengths(settings: Settings) -> list[int]:
    """The lengths as numbers; raises ValueError if one is not a whole number or is given twice."""
    try:
        numbers = [int(text) for text in settings.lengths]
    except ValueError:
        raise ValueError(f"--lengths must be whole numbers such as 2,5,10; got {','.join(settings.lengths)}.") from None
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"--lengths must be distinct and at least one; got {','.join(settings.lengths)!r}.")
    return numbers


def plot(settings: Settings, results: dict[str, Result]) -> Any:
    """Draws the figure from the results, which are named teacher_length."""
    columns = lengths(settings)
    figure, axes = plotting.new_figure(len(settings.teachers), len(columns))
    with plotting.style():
        for i, teacher in enumerate(settings.teachers):
            for j, length in enumerate(columns):
                ax = axes[i, j]
                if f"{teacher}_{length}" in results:  # missing in a figure of an unfinished run
                    fig6.draw(ax, results[f"{teacher}_{length}"], settings.methods)
                plotting.label_axes(ax, xlabel=i == len(settings.teachers) - 1, ylabel=False)
                if i == 0:
                    ax.set_title(f"{length} moves to either end")
                if j == 0:
                    ax.set_ylabel(f"{fig6.TEACHERS[teacher]}\nReturn per episode")
    plotting.add_legend(figure)
    return figure


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    pairs = [(teacher, length) for length in lengths(settings) for teacher in settings.teachers]
    parts = {f"{name}_{length}": functools.partial(fig6.train, settings, name, length) for name, length in pairs}
    draw = functools.partial(plot, settings)
    common.deliver(draw(common.run_parts(settings, outdir, parts, draw)), outdir, "fig9")


if __name__ == "__main__":
    common.main(Settings, "fig9", SMOKE, work)
