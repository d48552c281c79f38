"""Compares the Q-learning row of Fig. 8 with points read off the paper's Fig. 5, in a Markdown table."""

import dataclasses
import json
from pathlib import Path

import numpy as np

import jaxdistill
from experiments import common, fig8
from jaxdistill import Result
from jaxdistill.statistics import Interval, mean_interval

POINTS = Path(__file__).with_name("paper_points.json")


@dataclasses.dataclass
class Settings:
    """The flags of this comparison."""

    results: str = common.option("results/fig8", "output folder of experiments.fig8, with q_learning.npz")
    out: str = common.option("", "folder for targets.md; default: the folder of the results")
    smoke: bool = common.option(False, "has no effect: the comparison is always quick")


def bin_centres(iterations: np.ndarray) -> np.ndarray:
    """The iterations in the middle of the bins of a learning curve, whose last iterations are `iterations` [C]."""
    return iterations - np.diff(iterations, prepend=0) / 2


def value_at(result: Result, label: str, iteration: int) -> Interval:
    """Mean over MDPs of the return at `iteration`, with its 95 % interval; interpolated between the bins' centres."""
    curves = result.returns[result.method_index(label)]
    centres = bin_centres(result.iterations)
    return mean_interval([np.interp(iteration, centres, curve) for curve in curves])


def table(result: Result) -> list[str]:
    """Lines of Markdown: the paper's points, ours with 95 % intervals, and the differences."""
    paper = json.loads(POINTS.read_text())["fig5"]
    teacher = mean_interval(result.teacher_returns[0]).estimate
    lines = [
        f"{result.num_mdps} worlds; teacher {teacher:.2f}, paper {paper['teacher_return']:.2f}.",
        "",
        "| student | method | iteration | paper | ours | difference |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for column in fig8.COLUMNS:
        for method, points in paper[column].items():
            label = f"q_learning/{column}/{method}"
            if label not in result.labels:
                continue
            for iteration, target in points.items():
                if int(iteration) <= result.iterations[-1]:
                    ours = value_at(result, label, int(iteration))
                    lines.append(
                        f"| {column} | {method} | {int(iteration):,} | {target:.2f} | {ours:.2f} "
                        f"| {ours.estimate - target:+.2f} |"
                    )
    return lines


def work(settings: Settings) -> None:
    """Prints the table and writes it beside the results."""
    result = jaxdistill.load(Path(settings.results) / "q_learning.npz")
    lines = table(result)
    common.deliver_table(lines, common.prepare_outdir(settings), "targets")


if __name__ == "__main__":
    common.main(Settings, "targets", {}, work)
