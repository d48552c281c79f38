"""The page and the figure of `experiments.calibration`."""

import textwrap
from typing import Any

import numpy as np

from experiments import fig8
from experiments.readings import curves, factors, scores
from jaxdistill import plotting
from jaxdistill.statistics import mean_interval

TITLES = {"published": "Best reading", "written": "Best reading of the text"}
NEAR = 0.4
"""A curve is explained by a reading that comes so near to its points, on average."""


def page(
    rounds: list[dict[str, np.ndarray]], parts: dict[str, Any], candidates: np.ndarray, expected: np.ndarray
) -> list[str]:
    """Lines of Markdown: what the calibration found.

    Args:
      rounds: the rounds, with `levels` [R, F], `worlds` [M] and `values` [R, M, N].
      parts: all parts by name; `final` has the two best readings.
      candidates: every reading [C, F].
      expected: their predicted values at the paper's points [C, N].
    """
    final = parts["final"]
    values = curves.at_points(final["iterations"], final["returns"])
    sizes = ", ".join(f"{len(r['levels'])} readings on {len(r['worlds'])} worlds" for r in rounds)
    lines = [
        "# Which reading of the paper its curves follow",
        "",
        f"Written by `python -m experiments.calibration`: {sizes}, then two on {len(final['worlds'])} worlds. The "
        f"distance is the mean of |ours - paper| over the {len(curves.targets())} points of Figs. 4 and 5. The points "
        "were read off the figures with an error of about 0.15.",
        "",
        "![The paper's points over our curves, with 95 % intervals over worlds](calibration.png)",
        "",
        *_choices(final, candidates, expected),
        *_distances(values),
        *_rivals(rounds[-1]),
        *_unexplained(expected),
        *_predictions(parts),
        *_points(values),
    ]
    return [part for line in lines for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    """A paragraph in lines of at most 120 characters; a row of a table or a picture as it is."""
    return [line] if line[:1] in ("", "|", "!") else textwrap.wrap(line, 120, break_on_hyphens=False)


def _choices(final: dict[str, np.ndarray], candidates: np.ndarray, expected: np.ndarray) -> list[str]:
    """The two readings, and the least predicted distance that every level allows."""
    distance = scores.distances(expected)
    literal = factors.is_literal(candidates)
    names = [list(factor.levels) for factor in factors.FACTORS.values()]
    lines = [
        "## The choices",
        "",
        "The last two columns: by how much the least distance that is predicted for any reading grows if the level is "
        "fixed, among all readings and among those that agree with the text (a dash: the level contradicts it).",
        "",
        "| choice | level | best reading | best of the text | cost, all | cost, text |",
        "|---|---|:-:|:-:|--:|--:|",
    ]
    for f, factor in enumerate(factors.FACTORS.values()):
        for level, name in enumerate(names[f]):
            has = candidates[:, f] == level
            marks = ["x" if row[f] == level else "" for row in final["levels"]]
            cost = f"{distance[has].min() - distance.min():.2f}"
            of_text = f"{distance[has & literal].min() - distance[literal].min():.2f}" if (has & literal).any() else "-"
            question = factor.question if level == 0 else ""
            lines.append(f"| {question} | {name} | {marks[0]} | {marks[1]} | {cost} | {of_text} |")
    return [*lines, ""]


def _distances(values: np.ndarray) -> list[str]:
    """The distances of the two readings [2, M, N] by panel and by curve."""
    means = values.mean(axis=1)
    groups = [scores.by_group(row) for row in means]
    total, right = scores.distances(means), [scores.orderings(row) for row in means]
    lines = [
        "## Distances from the paper's points",
        "",
        "| points | best reading | best of the text |",
        "|---|--:|--:|",
        f"| **all** | {total[0]:.2f} | {total[1]:.2f} |",
        *(f"| {name} | {groups[0][name]:.2f} | {groups[1][name]:.2f} |" for name in sorted(groups[0], key=_group_key)),
        "",
        "Orderings of Fig. 5 at 30 000 iterations, of pairs that differ by 0.2 at least: "
        + ", ".join(f"{r[0]} of {r[1]} ({TITLES[kind].lower()})" for kind, r in zip(TITLES, right, strict=True))
        + f". Best reading minus best of the text: {scores.difference(values[0], values[1]):.2f}, paired over worlds.",
        "",
    ]
    return lines


def _group_key(name: str) -> tuple[bool, str]:
    """Panels before curves."""
    return name.count("/") > 1, name


def _rivals(last: dict[str, np.ndarray]) -> list[str]:
    """The readings of the last round, compared with its best."""
    means = last["values"].mean(axis=1)
    distance = scores.distances(means)
    best = int(distance.argmin())
    readings = factors.from_levels(last["levels"])
    lines = [
        "## Readings that the worlds cannot tell apart",
        "",
        f"The readings of the last round ({len(last['worlds'])} worlds), by what they have instead of the best one's "
        "levels. The interval is that of the distance minus the best one's, paired over worlds; where it contains 0, "
        "nothing here separates the two.",
        "",
        "| instead | distance | minus the best | separated |",
        "|---|--:|--:|:-:|",
    ]
    for r in np.argsort(distance, kind="stable"):
        other = [f"{name} {level}" for name, level in readings[r].items() if level != readings[best][name]]
        gap = scores.difference(last["values"][r], last["values"][best])
        separated = "" if r == best else "yes" if gap.low > 0 else "no"
        shown = "" if r == best else f"{gap:.2f}"
        lines.append(f"| {'; '.join(other) or 'the best reading'} | {distance[r]:.2f} | {shown} | {separated} |")
    return [*lines, ""]


def _unexplained(expected: np.ndarray) -> list[str]:
    """The curves to which no reading comes near."""
    nearest = {}
    absolute = np.abs(expected - curves.targets())
    start = 0
    for curve in curves.curves():
        nearest[curve.name] = float(absolute[:, start : start + len(curve.points)].mean(axis=1).min())
        start += len(curve.points)
    far = {name: x for name, x in nearest.items() if x > NEAR}
    listed = [f"- {name}: {x:.2f}" for name, x in sorted(far.items(), key=lambda item: -item[1])]
    return [
        "## What no reading explains",
        "",
        f"Curves whose least predicted distance under any reading is above {NEAR}, each at the reading that is best "
        "for it alone:" if listed else f"Every curve is nearer than {NEAR} to its points under some reading.",
        "",
        *listed,
        *([""] if listed else []),
    ]  # fmt: skip


def _predictions(parts: dict[str, Any]) -> list[str]:
    """What the two readings predict at the end of the curves of other figures."""
    ends: dict[str, dict[str, str]] = {}
    for kind in TITLES:
        for name, curve in _predicted_curves(parts, kind):
            ends.setdefault(name, {})[kind] = f"{mean_interval(curve[..., -1]):.2f}"
    if not ends:
        return []
    return [
        "## Predictions",
        "",
        "The ends of curves of figures to which no reading was fitted: returns, and for Fig. 3 the KL summed along "
        "trajectories, in nats, with 95 % intervals over worlds or students. Whole curves are in the files "
        "`published_*.npz` and `written_*.npz`.",
        "",
        "| curve | best reading | best of the text |",
        "|---|--:|--:|",
        *(f"| {name} | {row.get('published', '')} | {row.get('written', '')} |" for name, row in ends.items()),
        "",
    ]


def _predicted_curves(parts: dict[str, Any], kind: str) -> list[tuple[str, np.ndarray]]:
    """The curves [M, C] that a reading predicts, with their names."""
    named = []
    if fig3 := parts.get(f"{kind}_fig3"):
        for t, temperature in enumerate(fig3["temperatures"]):
            for c, control in enumerate(fig3["controls"]):
                for column in ("kl_student", "kl_teacher", "kl_uniform", "return"):
                    named.append((f"fig3/{temperature}/{control}/{column}", fig3[column][t, c]))
    for figure in ("fig4", "fig6"):
        arrays = parts.get(f"{kind}_{figure}", {})
        for key in (key for key in arrays if key.startswith("returns_")):
            panel = key.removeprefix("returns_")
            named += [(f"{figure}/{panel}/{m}", arrays[key][p]) for p, m in enumerate(arrays["methods"])]
    return named


def _points(values: np.ndarray) -> list[str]:
    """The paper's points beside those of the two readings [2, M, N]."""
    lines = [
        "## The points",
        "",
        "Returns with 95 % intervals over worlds.",
        "",
        "| curve | iteration | paper | best reading | best of the text |",
        "|---|--:|--:|--:|--:|",
    ]
    index = 0
    for curve in curves.curves():
        for iteration, target in curve.points.items():
            ours = [f"{mean_interval(values[r, :, index]):.2f}" for r in range(2)]
            lines.append(f"| {curve.name} | {iteration:,} | {target:.2f} | {ours[0]} | {ours[1]} |")
            index += 1
    return lines


def plot(final: dict[str, np.ndarray]) -> Any:
    """Draws the paper's points over the curves of the two readings, a row of panels for each."""
    panels = {(curve.figure, curve.panel): None for curve in curves.curves()}
    figure, axes = plotting.new_figure(len(TITLES), len(panels), size=(2.8 * len(panels), 6.6))
    with plotting.style():
        for r, title in enumerate(TITLES.values()):
            for ax, (name, panel) in zip(axes[r], panels, strict=True):
                for k, curve in enumerate(curves.curves()):
                    if (curve.figure, curve.panel) == (name, panel):
                        line = plotting.plot_curves(ax, final["iterations"], final["returns"][r, :, k], curve.method)
                        line.set_marker("")
                        ax.plot(
                            list(curve.points),
                            list(curve.points.values()),
                            "o",
                            color=line.get_color(),
                            ms=5,
                            mec="black",
                            zorder=5,
                        )
                plotting.label_axes(ax, xlabel=r == len(TITLES) - 1, ylabel=False)
                if r == 0:
                    text = fig8.COLUMNS[panel][2] if name == "fig5" else f"|A| = {panel}"
                    ax.set_title(f"Fig. {name[3:]}: {text}".replace(" student", "").replace("teacher ", ""))
            axes[r, 0].set_ylabel(f"{title}\nReturn per episode")
    plotting.add_legend(figure)
    return figure
