"""How choices that the paper leaves open move the curves of Fig. 5: our variants beside the paper's points.

One panel per curve of the paper. Markers: the paper's points (reading error about 0.15). Lines: the same method under
the defaults and under alternatives to one or two unstated choices, on the same worlds, with 95 % intervals.
"""

import dataclasses
import json
from typing import Any

import jaxdistill
from experiments import common, fig8, targets
from jaxdistill import Cell, Result, plotting, teachers

_SLOW_V: dict[str, Any] = {"value_learning_rate": 0.01}
_HALF: dict[str, Any] = {"learning_rate": 0.05}
_SLOWER: dict[str, Any] = {"learning_rate": 0.02}
PANELS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mc", "baseline"): [{}, _SLOW_V, {"estimator": "td"} | _SLOW_V],
    ("mc", "teacher_v_reward"): [{}, _SLOW_V, {"estimator": "td"}, {"estimator": "td"} | _HALF],
    ("mc", "on_policy_distill"): [{}, _HALF],
    ("mc", "entropy_regularised"): [
        {},
        {"discount": 0.5},
        {"discount": 0.0},
        {"probability_floor": 0.2},
        {"probability_floor": 0.001},
        {"estimator": "td"},
    ],
    ("td", "td_v0"): [{}, _HALF],
    ("td", "td_vpi"): [{}, _HALF, _SLOWER],
    ("td_noise15", "on_policy_distill"): [{}, _HALF, _SLOWER],
    ("td_noise15", "on_policy_distill_r"): [{}, _SLOW_V, _HALF | _SLOW_V],
}
_SHORT_NAMES = {  # of the settings, in a variant's label
    "learning_rate": "rate",
    "value_learning_rate": "V rate",
    "discount": "discount",
    "probability_floor": "floor",
    "estimator": "",
}


@dataclasses.dataclass
class Settings(common.Output, common.Noise, common.QLearning, common.Training, common.Worlds):
    """The flags of this experiment."""


def describe(changes: dict[str, Any]) -> str:
    """The label of a variant, such as 'rate 0.05, V rate 0.01', or 'defaults'."""
    return ", ".join(f"{_SHORT_NAMES[name]} {value}".strip() for name, value in changes.items()) or "defaults"


def run(settings: Settings) -> Result:
    """Trains every variant of every panel on the same worlds."""
    keys = common.keys(settings.seed)
    mdps = jaxdistill.sample_mdps(keys.worlds, settings.num_mdps, settings.grid_config())
    teacher = common.make_teacher("q_learning", keys.teacher, mdps, settings)
    cells = {}
    for (column, method), variants in PANELS.items():
        estimator, noise, _ = fig8.COLUMNS[column]
        noisy = teachers.with_noise(keys.noise, mdps, teacher, noise, **settings.with_noise()) if noise else teacher
        for changes in variants:
            cell = Cell(method, noisy, {"estimator": estimator} | changes)
            cells[f"{column}/{method}/{describe(changes)}"] = cell
    config = settings.train_config()
    return jaxdistill.train(keys.students, mdps, methods=cells, config=config, keep_tables=False, progress=True)


def plot(result: Result) -> Any:
    """Draws one panel for each curve of the paper."""
    paper = json.loads(targets.POINTS.read_text())["fig5"]
    figure, axes = plotting.new_figure(2, 4, size=(14.0, 6.6))
    with plotting.style():
        for ax, ((column, method), variants) in zip(axes.flat, PANELS.items(), strict=True):
            points = {int(k): v for k, v in paper[column][method].items()}
            for i, changes in enumerate(variants):
                curves = result.returns[result.method_index(f"{column}/{method}/{describe(changes)}")]
                line = plotting.plot_curves(ax, result.iterations, curves, f"variant {i}", describe(changes), index=i)
                line.set_marker("")
            shown = {k: v for k, v in points.items() if k <= result.iterations[-1]}
            ax.plot(list(shown), list(shown.values()), "o", color="black", markersize=5, label="paper", zorder=5)
            plotting.label_axes(ax, xlabel=ax in axes[1], ylabel=ax in axes[:, 0])
            ax.set_title(f"{plotting.STYLES[method].label}: {fig8.COLUMNS[column][2]}".replace(" student", ""))
            ax.legend(loc="lower right")
    return figure


def work(settings: Settings) -> None:
    """Trains the students, unless an earlier call has, prints the table and draws the figure."""
    settings.grid_config(), settings.train_config(), settings.q_learning(), settings.with_noise()
    outdir = common.prepare_outdir(settings)
    parts = {"choices": lambda: run(settings)}
    result = common.run_parts(settings, outdir, parts, lambda results: plot(results["choices"]))["choices"]
    print("\n".join(table(result)))
    common.deliver(plot(result), outdir, "choices")


def table(result: Result) -> list[str]:
    """Lines of Markdown: the mean distance of every variant from the paper's points."""
    paper = json.loads(targets.POINTS.read_text())["fig5"]
    lines = [
        f"{result.num_mdps} worlds, teacher {result.teacher_returns[0].mean():.2f}",
        "",
        "| student | method | variant | return at the end | mean distance from the paper's points |",
        "|---|---|---|--:|--:|",
    ]
    for (column, method), variants in PANELS.items():
        points = {int(k): v for k, v in paper[column][method].items() if int(k) <= result.iterations[-1]}
        for changes in variants:
            label = f"{column}/{method}/{describe(changes)}"
            distances = [abs(targets.value_at(result, label, k)[0] - v) for k, v in points.items()]
            shown = f"{sum(distances) / len(distances):.2f}" if distances else "-"
            end = result.returns[result.method_index(label), :, -1].mean()
            lines.append(f"| {column} | {method} | {describe(changes)} | {end:.2f} | {shown} |")
    return lines


if __name__ == "__main__":
    common.main(Settings, "choices", fig8.SMOKE, work)
