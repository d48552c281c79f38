"""The table and the figure of `experiments.benchmark`, from its measurements."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.baselines import ticks
from jaxdistill import plotting
from jaxdistill.estimators import ESTIMATORS

CONTENDERS = {  # label and colour
    "scalar_loop": ("Scalar loop, all cores (roofline)", "0.25"),
    "engine": ("Engine", plotting.PALETTE[0]),
    "train": ("Engine, whole call of train", plotting.PALETTE[5]),
    "padded_scan": ("Padded scan of 500 steps", plotting.PALETTE[1]),
}
STARTS = {"zeros": "From zeros", "trained": "Trained students"}
Measured = Mapping[str, Any]
"""The measurements of a part, of a run or of a block, as `groups` returns them."""


def ratio(measured: Measured, reference: Measured) -> list[float]:
    """Steps per second of one run divided by those of another, turn by turn: min, median, max."""
    rates, reference_rates = (np.array(run["steps"]) / np.array(run["seconds"]) for run in (measured, reference))
    ratios = rates / reference_rates
    return [float(ratios.min()), float(np.median(ratios)), float(ratios.max())]


# --- Table ----------------------------------------------------------------------------------------------------------


def table(data: Mapping[str, Measured]) -> list[str]:
    """Lines of markdown: one table for each measurement in `data`."""
    writers = {"mix": _mix, "width": _points, "states": _points, "actions": _points, "memory": _memory}
    writers |= {"tick": _tick, "compilation": _compilation}
    lines = []
    for name, measured in data.items():
        lines += ["", *writers[name](name, measured)]
    return lines[1:]


def _millions(rates: Mapping[str, float], digits: int = 2) -> str:
    return " | ".join(f"{rates[key] / 1e6:.{digits}f}" for key in ("min", "median", "max"))


def _used(run: Measured) -> str:
    """The share of the lanes' ticks that advanced a student, by estimator."""
    return ", ".join(f"{estimator} {share:.0%}" for estimator, share in run["used"].items())


def _mix(name: str, measured: Measured) -> list[str]:
    head = [
        "| start | | M steps/s: min | median | max | updates/s | cores busy | of the roofline |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines = [
        f"Mix of Fig. 8: {measured['students']} students, {measured['cells']} cells x {measured['worlds']} worlds.",
    ]
    for start, title in STARTS.items():
        runs = measured[start]
        rows = [_mix_row(title, key, runs) for key in CONTENDERS if key in runs]
        least, median, most = ratio(runs["engine"], runs["padded_scan"])
        over = f"{median:.0f} ({least:.0f} to {most:.0f})"
        summary = f"{title}: engine over padded scan {over}; lanes used: {_used(runs['engine'])}."
        lines += ["", *head, *rows, "", summary]
    return lines


def _mix_row(title: str, key: str, runs: Mapping[str, Measured]) -> str:
    run, roofline = runs[key], runs.get("scalar_loop")
    of_roofline = f"{ratio(run, roofline)[1]:.3g}" if roofline else "-"
    updates, busy = f"{run['updates_per_second']['median']:,.0f}", f"{np.median(run['cores_busy']):.2f}"
    rates = _millions(run["steps_per_second"], 3 if key == "padded_scan" else 2)
    return f"| {title} | {CONTENDERS[key][0]} | {rates} | {updates} | {busy} | {of_roofline} |"


def _points(name: str, measured: Measured) -> list[str]:
    size = {"width": "about", "states": "grid", "actions": "actions"}[name]
    lines = [
        f"| {size} | students | iterations | M steps/s: min | median | max | lanes used | cores busy | peak memory |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for text, run in measured.items():
        title = f"{text} x {text}" if name == "states" else text
        facts = f"{_used(run)} | {np.median(run['cores_busy']):.2f} | {run['peak_memory'] / 1e9:.2f} GB"
        rates = _millions(run["steps_per_second"], 3)
        lines.append(f"| {title} | {run['students']} | {run['iterations']} | {rates} | {facts} |")
    return lines


def _memory(name: str, measured: Measured) -> list[str]:
    return [
        f"{measured['actions']} actions, {measured['worlds']} worlds, two methods: "
        f"{measured['peak_memory'] / 1e9:.2f} GB, {measured['steps']} steps in {measured['seconds']:.1f} s, "
        "compilation included."
    ]


def _tick(name: str, measured: Measured) -> list[str]:
    lines = ["| tick of a full block | us | ns per lane | " + " | ".join(ticks.PARTS.values()) + " |"]
    lines.append("|---|" + "--:|" * (2 + len(ticks.PARTS)))
    blocks = measured["blocks"].items()
    for title, block in blocks:
        shares, scale = block["shares"], 1e9 / block["lanes"]
        whole = sum(shares.values())
        cells = [f"{shares[part] * scale:.1f}" if part in shares else "" for part in ticks.PARTS]
        lines.append(f"| {title} | {whole * 1e6:.1f} | {whole * scale:.1f} | {' | '.join(cells)} |")
    copies = "; ".join(f"{title}: {block['copies_of_tables']} of {block['kernels']}" for title, block in blocks)
    return [*lines, "", f"Copies of whole tables among the kernels of the compiled loop: {copies}."]


def _compilation(name: str, measured: Measured) -> list[str]:
    cold, warm = measured["cold"], measured["warm"]
    return [
        f"Compiling the mix of Fig. 8: {cold['seconds']:.1f} s, and {warm['seconds']:.1f} s with the programs in the "
        f"cache; programs compiled because of other numbers: {warm['by_other_numbers']}."
    ]


# --- Figure ---------------------------------------------------------------------------------------------------------


def plot(data: Mapping[str, Measured]) -> Any:
    """The figure, with a panel for each measurement in `data`."""
    figure, axes = plotting.new_figure(2, 3, size=(13.0, 7.0), share_y=False)
    panels = {
        "mix": _draw_mix,
        "width": _draw_width,
        "tick": _draw_tick,
        "states": _draw_step_time,
        "actions": _draw_step_time,
    }
    with plotting.style():
        for ax, (name, draw) in zip(axes.flat, panels.items(), strict=False):
            if name in data:
                draw(ax, data[name], name)
            else:
                ax.set_axis_off()
        if "width" in data:
            _draw_used(axes[1, 2], data["width"])
        else:
            axes[1, 2].set_axis_off()
    return figure


def _whiskers(points: Sequence[Mapping[str, float]], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The medians, and the distances from them to the least and the greatest values, [2, N]."""
    median, low, high = (np.array([point[key] * scale for point in points]) for key in ("median", "min", "max"))
    return median, np.stack([median - low, high - median])


def _draw_mix(ax: Any, measured: Measured, name: str) -> None:
    keys, starts = [key for key in CONTENDERS if key in measured["zeros"]], list(STARTS)
    for i, key in enumerate(keys):
        label, color = CONTENDERS[key]
        positions = [j for j, start in enumerate(starts) if key in measured[start]]
        medians, errors = _whiskers([measured[starts[j]][key]["steps_per_second"] for j in positions], 1e-6)
        xs = np.array(positions) + (i - (len(keys) - 1) / 2) * 0.2
        ax.bar(xs, medians, 0.19, yerr=errors, color=color, label=label, capsize=2, error_kw={"linewidth": 1})
        for x, median, most in zip(xs, medians, medians + errors[1], strict=True):
            ax.annotate(f"{median:.2g}", (x, most), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yscale("log")
    ax.set_ylim(top=ax.get_ylim()[1] * 40)
    ax.set_xticks(range(len(STARTS)), list(STARTS.values()))
    ax.set_ylabel("Useful steps per second (millions)")
    ax.set_title(f"Mix of Fig. 8, {measured['students']} students")
    ax.legend(loc="upper right")
    ax.grid(axis="x", visible=False)


def _draw_width(ax: Any, measured: Measured, name: str) -> None:
    medians, errors = _whiskers([run["steps_per_second"] for run in measured.values()], 1e-6)
    ax.errorbar([run["students"] for run in measured.values()], medians, errors, marker="o", capsize=2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("Students")
    ax.set_ylabel("Useful steps per second (millions)")
    ax.set_title("Engine, by number of students")


def _draw_tick(ax: Any, measured: Measured, name: str) -> None:
    hatches = ["", "///", "", "...", "", "xxx", "", "\\\\\\", "", ""]
    blocks = list(measured["blocks"].values())
    shares_of_blocks = [_drawn_shares(block["shares"]) for block in blocks]
    bottoms = np.zeros(len(blocks))
    for i, (part, label) in enumerate(ticks.PARTS.items()):
        per_lane = [
            shares.get(part, 0.0) / block["lanes"] for shares, block in zip(shares_of_blocks, blocks, strict=True)
        ]
        heights = np.array(per_lane) * 1e9
        color = plotting.PALETTE[i % len(plotting.PALETTE)]
        bar_style = {"color": color, "hatch": hatches[i], "edgecolor": "white", "label": label}
        ax.bar(range(len(blocks)), heights, 0.55, bottoms, **bar_style)
        bottoms += heights
    titles = [f"{ESTIMATORS[block['estimator']].title}\n{block['lanes']} lanes" for block in blocks]
    ax.set_xticks(range(len(blocks)), titles)
    ax.set_ylabel("Time of a tick per lane (ns, one core)")
    ax.set_title("Where a tick's time goes")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    ax.grid(axis="x", visible=False)


def _drawn_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares with those below 0, which are noise, at 0, and the others scaled so that the sum stays the same."""
    positive = {part: max(share, 0.0) for part, share in shares.items()}
    scale = sum(shares.values()) / sum(positive.values())
    return {part: share * scale for part, share in positive.items()}


def _draw_step_time(ax: Any, measured: Measured, name: str) -> None:
    times = [{key: 1e9 / rate for key, rate in run["steps_per_second"].items()} for run in measured.values()]
    # The greatest rate is the least time.
    medians, errors = _whiskers([{"median": t["median"], "min": t["max"], "max": t["min"]} for t in times])
    sizes = np.array([int(text) for text in measured], float)
    ax.errorbar(sizes**2 if name == "states" else sizes, medians, errors, marker="o", capsize=2)
    ax.set_xscale("log")
    ax.set_ylabel("Time per step (ns, all cores)")
    if name == "actions":
        ax.plot(sizes, medians[-1] * sizes / sizes[-1], color="0.4", linestyle=":", label="In proportion to |A|")
        ax.set_yscale("log")
        ax.legend(loc="upper left")
    else:
        ax.set_ylim(0, 1.25 * float((medians + errors[1]).max()))
    ax.set_xlabel("States" if name == "states" else "Actions")
    ax.set_title("Engine, by number of " + name)


def _draw_used(ax: Any, measured: Measured) -> None:
    for estimator, marker in zip(ESTIMATORS.values(), itertools.cycle("os^"), strict=False):
        runs = [run for run in measured.values() if estimator.name in run["used"]]
        if runs:
            shares = [run["used"][estimator.name] for run in runs]
            ax.plot([run["students"] for run in runs], shares, marker=marker, label=estimator.title)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("Students")
    ax.set_ylabel("Share of the lanes' ticks")
    ax.set_title("Ticks of a lane that advanced a student")
    ax.legend(loc="lower right")
