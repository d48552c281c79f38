"""Figure 1: the decision guide, which way to distill for which purpose, as a chart or on the command line.

Without answers the command draws the guide: questions in rounded boxes, and at the end of each path the preferred
method in bold above the feasible ones. With answers, such as --evaluated_outside_teacher_states=no, it prints the
recommendation, its reason, the experiments that show it and how to get the methods in Python; it draws and writes
nothing.
"""

import dataclasses
import itertools
import textwrap
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from jaxdistill import plotting
from jaxdistill.methods import guide
from jaxdistill.methods.guide import Recommendation

_ANSWERS = {"yes": True, "no": False, "": None}


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this figure: the questions of the guide."""

    evaluated_outside_teacher_states: str = common.option("", "evaluated outside the teacher's states? yes or no")
    convergence_guarantees: str = common.option("", "convergence guarantees needed? yes or no")
    improvement_over_speed: str = common.option("", "improvement over the teacher more important than speed? yes or no")
    strong_teacher: str = common.option("", "strong teacher? yes or no")
    teacher_has_values: str = common.option("", "does the teacher have a value function? yes or no")


SMOKE: dict[str, Any] = {}


def answers(settings: Settings) -> dict[str, bool | None]:
    """The answer to each question, None without one; raises ValueError for a word other than yes and no."""
    by_question = {}
    for question in guide.QUESTIONS:
        word = getattr(settings, question)
        if word not in _ANSWERS:
            raise ValueError(f"--{question} must be yes or no; got {word!r}.")
        by_question[question] = _ANSWERS[word]
    return by_question


def explain(recommendation: Recommendation) -> list[str]:
    """The recommendation as lines of text."""
    lines = [f"{guide.QUESTIONS[question]} {'Yes' if answer else 'No'}." for question, answer in recommendation.path]
    lines += ["", f"Preferred: {label(recommendation.preferred)}"]
    if recommendation.feasible:
        lines.append(f"Feasible:  {', '.join(map(label, recommendation.feasible))}")
    lines += ["", *textwrap.wrap(recommendation.reason, 100), f"Shown by: {', '.join(recommendation.evidence)}", ""]
    names = (recommendation.preferred, *recommendation.feasible)
    return lines + [f"{guide.how_to_get(name)}  # {label(name)}" for name in names]


def label(name: str) -> str:
    """The name of a method in figures."""
    if name in plotting.STYLES:
        return plotting.STYLES[name].label
    return f"{plotting.STYLES[name.removesuffix('_r')].label} + R"


def run() -> dict[str, np.ndarray]:
    """The guide as a table of 32 rows: the answers, which of them it needs, preferred and feasible methods."""
    all_answers = list(itertools.product([False, True], repeat=len(guide.QUESTIONS)))
    recommendations = [guide.recommend(*row) for row in all_answers]
    asked = [[question in dict(row.path) for question in guide.QUESTIONS] for row in recommendations]
    return {
        "questions": np.array(list(guide.QUESTIONS)),
        "answers": np.array(all_answers),
        "asked": np.array(asked),
        "preferred": np.array([row.preferred for row in recommendations]),
        "feasible": np.array([" ".join(row.feasible) for row in recommendations]),
    }


class Box(NamedTuple):
    """A box of the chart: its centre in inches, and the answers that lead to it, in the order of the questions."""

    x: float
    y: float
    path: tuple[bool, ...]


_WIDTH, _QUESTION, _LEAF = 11.8, (2.3, 0.62), (2.5, 0.94)  # inches: the chart; width and height of its boxes
_MIDDLE = _WIDTH / 2


def boxes() -> tuple[list[Box], list[Box]]:
    """The boxes of the chart: the questions, and the leaves at the ends of the paths."""
    questions = [Box(_MIDDLE, 6.9, ()), Box(_MIDDLE, 5.75, (True,))]
    leaves = [Box(_WIDTH - 1.3, 6.9, (False,))]
    for guarantees, side in ((False, -1), (True, 1)):
        inner, outer = _MIDDLE + side * 1.6, _MIDDLE + side * (_MIDDLE - 1.3)
        start = (True, guarantees)
        questions += [Box(inner, 4.5, start), Box(inner, 3.3, (*start, True)), Box(inner, 2.1, (*start, True, False))]
        leaves += [Box(outer, 4.5, (*start, False)), Box(outer, 3.3, (*start, True, True))]
        leaves += [Box(outer, 2.1, (*start, True, False, True)), Box(inner, 0.75, (*start, True, False, False))]
    return questions, leaves


def plot() -> Any:
    """Draws the chart."""
    figure, axes = plotting.new_figure(size=(_WIDTH, 7.4))
    ax = axes[0, 0]
    questions, leaves = boxes()
    by_path = {box.path: box for box in questions}
    with plotting.style():
        ax.set(xlim=(0, _WIDTH), ylim=(0.15, 7.4), aspect="equal")
        ax.axis("off")
        names = list(guide.QUESTIONS)
        for box in questions:
            _draw_box(ax, box, _QUESTION, facecolor="#e3eef9", boxstyle="round,pad=0,rounding_size=0.2")
            text = textwrap.fill(guide.QUESTIONS[names[len(box.path)]], 31)
            ax.text(box.x, box.y, text, ha="center", va="center", fontsize=8.5, linespacing=1.15, gid="in box")
        for box in leaves:
            _draw_box(ax, box, _LEAF, facecolor="white", boxstyle="square,pad=0")
            _draw_leaf(ax, box, guide.recommend(*box.path))
        for box in (*questions[1:], *leaves):
            _draw_arrow(ax, by_path[box.path[:-1]], box, _LEAF if box in leaves else _QUESTION)
        ax.text(0.05, 0.75, "Bold: the preferred method.\nBelow it: feasible as well.\nR: environment reward.",
                va="center", fontsize=8.5, linespacing=1.3)  # fmt: skip
    return figure


def _draw_box(ax: Any, box: Box, size: tuple[float, float], **style: Any) -> None:
    corner = (box.x - size[0] / 2, box.y - size[1] / 2)
    ax.add_patch(plotting.patches.FancyBboxPatch(corner, *size, edgecolor="0.25", linewidth=1.0, zorder=2, **style))


def _draw_leaf(ax: Any, box: Box, recommendation: Recommendation) -> None:
    """Writes the preferred method in bold, the feasible ones below it, and the figures that show it."""
    lines = [(label(recommendation.preferred), dict(fontsize=9, fontweight="bold"))]
    lines += [(label(name), dict(fontsize=8.5)) for name in recommendation.feasible]
    numbers = [name.removeprefix("fig") for name in recommendation.evidence]
    figures = f"see Fig{'s' * (len(numbers) > 1)}. {', '.join(numbers)}"
    lines.append((figures, dict(fontsize=7.5, color="0.35")))
    for i, (text, font) in enumerate(lines):
        y = box.y + 0.2 * ((len(lines) - 1) / 2 - i)
        ax.text(box.x, y, text, ha="center", va="center", gid="in box", **font)


def _draw_arrow(ax: Any, start: Box, end: Box, size: tuple[float, float]) -> None:
    """Draws an arrow from a question to the next box, with the answer beside it.

    To a box that is neither below nor beside the question the arrow goes sideways and then down.
    """
    side = 1 if end.x > start.x else -1
    if end.x == start.x:
        tail, head = (start.x, start.y - _QUESTION[1] / 2), (end.x, end.y + size[1] / 2)
        at, align = (start.x + 0.08, tail[1] - 0.16), "left"
    else:
        tail, head = (start.x + side * _QUESTION[0] / 2, start.y), (end.x - side * size[0] / 2, end.y)
        at, align = (tail[0] + side * 0.1, start.y + 0.13), "left" if side > 0 else "right"
    bend = "arc3"
    if end.x != start.x and end.y != start.y:
        head, bend = (end.x, end.y + size[1] / 2), "angle,angleA=0,angleB=90,rad=0"
    style: dict[str, Any] = dict(arrowstyle="-|>", linewidth=1.0, color="0.25", shrinkA=0, shrinkB=0)
    ax.annotate("", xy=head, xytext=tail, arrowprops=style | dict(connectionstyle=bend))
    ax.text(*at, "yes" if end.path[-1] else "no", ha=align, va="center", fontsize=8.5, fontstyle="italic", gid="answer")


def work(settings: Settings) -> None:
    """Prints the recommendation if there are answers, and else draws the guide."""
    given = answers(settings)
    if any(answer is not None for answer in given.values()):
        print("\n".join(explain(guide.recommend(**given))))
        return
    outdir = common.prepare_outdir(settings)
    common.run_parts(settings, outdir, {"guide": run})
    common.deliver(plot(), outdir, "fig1")


if __name__ == "__main__":
    common.main(Settings, "fig1", SMOKE, work)
