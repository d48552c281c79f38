"""The table and the figure of `experiments.benchmark`, from what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.baselines import ticks
from jaxdistill import plotting

CONTENDERS = {
    "scalar_loop": ("Scalar loop, all cores (roofline)", "0.25"),
    "engine": ("Engine", plotting.PALETTE[0]),
    "train": ("Engine, whole call of train", plotting.PALETTE[5]),
    "padded_scan": ("Padded scan of 500 steps", plotting.PALETTE[1]),
}
STARTS = {"zeros": "From zeros", "trained": "Trained students"}


def median(rates: Mapping[str, float]) -> float:
    """The median of a spread."""
    return rates["median"]


def ratio(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """Steps per second of one over the other, turn by turn: min, median, max."""
    rates = [np.array(x["steps"]) / np.array(x["seconds"]) for x in (one, other)]
    found = rates[0] / rates[1]
    return [float(found.min()), float(np.median(found)), float(found.max())]


# --- Table ----------------------------------------------------------------------------------------------------------


def table(data: Mapping[str, Any]) -> list[str]:
    """Lines of markdown: one table for each measurement that is there."""
    writers = {"mix": _mix, "width": _points, "states": _points, "actions": _points, "memory": _memory}
    writers |= {"tick": _tick, "compilation": _compilation}
    lines = []
    for name, found in data.items():
        lines += ["", *writers[name](name, found)]
    return lines[1:]


def _millions(rates: Mapping[str, float], digits: int = 2) -> str:
    shown = [f"{rates[key] / 1e6:.{digits}f}" for key in ("min", "median", "max")]
    return " | ".join(shown)


def _mix(name: str, found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Mix of Fig. 8: {found['students']} students, {found['cells']} cells x {found['worlds']} worlds.",
        "",
        "| start | | M steps/s: min | median | max | updates/s | cores busy | of the roofline |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for start, title in STARTS.items():
        for key, (label, _) in CONTENDERS.items():
            if key in found[start]:
                one = found[start][key]
                roof = found[start].get("scalar_loop")
                part = f"{ratio(one, roof)[1]:.3g}" if roof else "-"
                updates = f"{median(one['updates_per_second']):,.0f}"
                busy = f"{np.median(one['cores_busy']):.2f}"
                digits = 3 if key == "padded_scan" else 2
                rates = _millions(one["steps_per_second"], digits)
                lines.append(f"| {title} | {label} | {rates} | {updates} | {busy} | {part} |")
        least, middle, most = ratio(found[start]["engine"], found[start]["padded_scan"])
        used = ", ".join(f"{estimator} {part:.0%}" for estimator, part in found[start]["engine"]["used"].items())
        over = f"{middle:.0f} ({least:.0f} to {most:.0f})"
        lines += ["", f"{title}: engine over padded scan {over}; lanes used: {used}.", ""]
        if start == "zeros":
            lines += lines[2:4]
    return lines[:-1]


def _points(name: str, found: Mapping[str, Any]) -> list[str]:
    what = {"width": "about", "states": "grid", "actions": "actions"}[name]
    lines = [
        f"| {what} | students | iterations | M steps/s: min | median | max | lanes used | cores busy | peak memory |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for text, one in found.items():
        title = f"{text} x {text}" if name == "states" else text
        used = ", ".join(f"{estimator} {part:.0%}" for estimator, part in one["used"].items())
        facts = f"{used} | {np.median(one['cores_busy']):.2f} | {one['peak_memory'] / 1e9:.2f} GB"
        rates = _millions(one["steps_per_second"], 3)
        lines.append(f"| {title} | {one['students']} | {one['iterations']} | {rates} | {facts} |")
    return lines


def _memory(name: str, found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found['actions']} actions, {found['worlds']} worlds, two methods: {found['peak_memory'] / 1e9:.2f} GB, "
        f"{found['steps']} steps in {found['seconds']:.1f} s, compilation included."
    ]


def _tick(name: str, found: Mapping[str, Any]) -> list[str]:
    lines = ["| tick of a full block | us | ns per lane | " + " | ".join(_part(p) for p in ticks.PARTS) + " |"]
    lines.append("|---|" + "--:|" * (2 + len(ticks.PARTS)))
    blocks = found["blocks"].items()
    for title, one in blocks:
        scale, whole = 1e9 / one["lanes"], sum(one["shares"].values())
        parts = [f"{one['shares'][p] * scale:.1f}" if p in one["shares"] else "" for p in ticks.PARTS]
        lines.append(f"| {title} | {whole * 1e6:.1f} | {whole * scale:.1f} | {' | '.join(parts)} |")
    copies = "; ".join(f"{title}: {one['copies_of_tables']} of {one['kernels']}" for title, one in blocks)
    return [*lines, "", f"Copies of whole tables among the kernels of the compiled loop: {copies}."]


def _part(name: str) -> str:
    return ticks.PARTS[name].replace("\n", " ")


def _compilation(name: str, found: Mapping[str, Any]) -> list[str]:
    cold, warm = found["cold"], found["warm"]
    return [
        f"Compiling the mix of Fig. 8: {cold['seconds']:.1f} s, and {warm['seconds']:.1f} s with the programs in the "
        f"cache; compiled by other numbers: {warm['by_other_numbers']}."
    ]


# --- Figure ---------------------------------------------------------------------------------------------------------


def plot(data: Mapping[str, Any]) -> Any:
    """One panel for each measurement."""
    figure, axes = plotting.new_figure(2, 3, size=(13.0, 7.0), share_y=False)
    panels = {"mix": _draw_mix, "width": _draw_width, "tick": _draw_tick, "states": _draw_cost, "actions": _draw_cost}
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
    middle, low, high = (np.array([point[key] * scale for point in points]) for key in ("median", "min", "max"))
    return middle, np.stack([middle - low, high - middle])


def _draw_mix(ax: Any, found: Mapping[str, Any], name: str) -> None:
    names = [key for key in CONTENDERS if key in found["zeros"]]
    for i, key in enumerate(names):
        label, color = CONTENDERS[key]
        there = [j for j, start in enumerate(STARTS) if key in found[start]]
        rates = [found[list(STARTS)[j]][key]["steps_per_second"] for j in there]
        middle, error = _whiskers(rates, 1e-6)
        places = np.array(there) + (i - (len(names) - 1) / 2) * 0.2
        ax.bar(places, middle, 0.19, yerr=error, color=color, label=label, capsize=2, error_kw={"linewidth": 1})
        for x, y in zip(places, middle, strict=True):
            ax.annotate(f"{y:.2g}", (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yscale("log")
    ax.set_ylim(top=ax.get_ylim()[1] * 40)
    ax.set_xticks(range(len(STARTS)), list(STARTS.values()))
    ax.set_ylabel("Useful steps per second (millions)")
    ax.set_title(f"Mix of Fig. 8, {found['students']} students")
    ax.legend(loc="upper right")
    ax.grid(axis="x", visible=False)


def _draw_width(ax: Any, found: Mapping[str, Any], name: str) -> None:
    middle, error = _whiskers([one["steps_per_second"] for one in found.values()], 1e-6)
    ax.errorbar([one["students"] for one in found.values()], middle, error, marker="o", capsize=2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("Students")
    ax.set_ylabel("Useful steps per second (millions)")
    ax.set_title("Engine, by number of students")


def _draw_tick(ax: Any, found: Mapping[str, Any], name: str) -> None:
    hatches = ["", "///", "", "...", "", "xxx", "", "\\\\\\", "", ""]
    blocks = list(found["blocks"].values())
    # A part within the noise may come out below 0; the others are drawn in proportion, so that a bar is a whole tick.
    heights = [_heights(one["shares"]) for one in blocks]
    below = np.zeros(len(blocks))
    for i, part in enumerate(ticks.PARTS):
        shown = (
            np.array([parts.get(part, 0.0) / one["lanes"] for parts, one in zip(heights, blocks, strict=True)]) * 1e9
        )
        color = plotting.PALETTE[i % len(plotting.PALETTE)]
        look = {"color": color, "hatch": hatches[i], "edgecolor": "white", "label": _part(part)}
        ax.bar(range(len(blocks)), shown, 0.55, below, **look)
        below += shown
    titles = {"td": "TD(1)", "mc": "Monte Carlo"}
    ax.set_xticks(range(len(blocks)), [f"{titles[one['estimator']]}\n{one['lanes']} lanes" for one in blocks])
    ax.set_ylabel("Time of a tick per lane (ns, one core)")
    ax.set_title("Where a tick's time goes")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    ax.grid(axis="x", visible=False)


def _heights(shares: Mapping[str, float]) -> dict[str, float]:
    whole, positive = sum(shares.values()), {part: max(share, 0.0) for part, share in shares.items()}
    return {part: share * whole / sum(positive.values()) for part, share in positive.items()}


def _draw_cost(ax: Any, found: Mapping[str, Any], name: str) -> None:
    cost = [{key: 1e9 / rate for key, rate in one["steps_per_second"].items()} for one in found.values()]
    swapped = [{"median": c["median"], "min": c["max"], "max": c["min"]} for c in cost]
    middle, error = _whiskers(swapped)
    sizes = np.array([int(text) for text in found], float)
    ax.errorbar(sizes**2 if name == "states" else sizes, middle, error, marker="o", capsize=2)
    ax.set_xscale("log")
    ax.set_ylabel("Time per step (ns, all cores)")
    if name == "actions":
        ax.plot(sizes, middle[-1] * sizes / sizes[-1], color="0.4", linestyle=":", label="In proportion to |A|")
        ax.set_yscale("log")
        ax.legend(loc="upper left")
    else:
        ax.set_ylim(0, 1.25 * float((middle + error[1]).max()))
    ax.set_xlabel("States" if name == "states" else "Actions")
    ax.set_title("Engine, by number of " + name)


def _draw_used(ax: Any, found: Mapping[str, Any]) -> None:
    for estimator, label, marker in (("td", "TD(1)", "o"), ("mc", "Monte Carlo", "s")):
        there = [one for one in found.values() if estimator in one["used"]]
        parts = [one["used"][estimator] for one in there]
        ax.plot([one["students"] for one in there], parts, marker=marker, label=label)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("Students")
    ax.set_ylabel("Part of the lanes' ticks")
    ax.set_title("Ticks of a lane that moved a student")
    ax.legend(loc="lower right")
