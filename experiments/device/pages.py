"""The table of `experiments.device_check`."""

from collections.abc import Mapping
from typing import Any

from experiments.device import figure
from experiments.device.agreement import LEAST_EQUAL, MOST_DIFFERENT

Measured = Mapping[str, Any]


def table(data: Mapping[str, Measured], facts: Mapping[str, Any]) -> list[str]:
    """Lines of markdown: what was checked and measured, by part."""
    writers = {
        "agreement": _agreement, "promises": _promises, "lanes": _lanes, "states": _states, "mix": _mix,
        "smoke": _figure, "figure": _figure,
    }  # fmt: skip
    device = facts["device"]["jax"]
    lines = [f"Device: {device}. JAX {facts['versions']['jax']}. Loop: {facts['loop']}."]
    for name, measured in data.items():
        lines += ["", *writers[name](name, measured)]
    return [*lines, "", *_goals(data)]


def failures(data: Mapping[str, Measured]) -> list[str]:
    """What was checked and is not so, a line for each."""
    lines = []
    for name, compared in data.get("agreement", {}).items():
        if not compared["agrees"]:
            reason = compared["reason"] or (
                f"integers are equal in {compared['equal']:.0%} of the lanes (at least {LEAST_EQUAL:.0%} must be), and "
                f"tables differ by {compared['different']:.1e} (at most {MOST_DIFFERENT:.0e})"
            )
            lines.append(f"{name}: {reason}")
    same = data.get("promises", {}).get("same", {})
    return lines + [f"other bits: {way}" for way, is_same in same.items() if not is_same]


def _agreement(name: str, measured: Measured) -> list[str]:
    num_agreeing = sum(compared["agrees"] for compared in measured.values())
    least = min(compared["equal"] for compared in measured.values())
    most = max(compared["different"] for compared in measured.values())
    return [
        f"Agreement with XLA's engine on the processor: {num_agreeing} of {len(measured)} programs; all integers are "
        f"equal in at least {least:.0%} of the lanes, and their tables differ by at most {most:.1e} of the largest "
        "number.",
    ]


def _promises(name: str, measured: Measured) -> list[str]:
    same = [f"| {way} | {'yes' if is_same else 'NO'} |" for way, is_same in measured["same"].items()]
    return [f"{measured['students']} students in {measured['seconds']:.1f} s.", "", "| trained with | same bits |",
            "|---|---|", *same]  # fmt: skip


def _lanes(name: str, measured: Measured) -> list[str]:
    numbers = list(next(iter(measured.values())))
    lines = ["| G lane ticks/s, lanes: | " + " | ".join(numbers) + " |", "|---|" + "--:|" * len(numbers)]
    for estimator, by_number in measured.items():
        rates = " | ".join(f"{by_number[number]['best'] / 1e9:.2f}" for number in numbers)
        lines.append(f"| {estimator} | {rates} |")
    return lines


def _states(name: str, measured: Measured) -> list[str]:
    lines = ["| grid | lanes | G lane ticks/s |", "|---|--:|--:|"]
    return lines + [f"| {n} x {n} | {x['lanes']} | {x['best'] / 1e9:.2f} |" for n, x in measured.items()]


def _mix(name: str, measured: Measured) -> list[str]:
    return [
        f"Mix of Fig. 8: {measured['students']} students of {measured['iterations']} iterations: "
        f"{measured['median'] / 1e6:,.0f} M steps/s (best {measured['best'] / 1e6:,.0f})."
    ]


def _figure(name: str, measured: Measured) -> list[str]:
    title = "fig8 --smoke" if name == "smoke" else "Fig. 8"
    head = (
        f"{title}: {measured['students']} students, {measured['steps']:.3g} steps, {measured['total']:.1f} s in all; "
    )
    head += f"{measured['compiling']:.1f} s of it compiling, {measured['programs']} programs of JAX."
    rows = [f"| {figure.PARTS[part]} | {seconds:.1f} |" for part, seconds in measured["seconds"].items()]
    return [head, "", "| | s |", "|---|--:|", *rows]


def _goals(data: Mapping[str, Measured]) -> list[str]:
    """The goals of an H100, beside what was measured."""
    values: dict[str, tuple[float | None, float, float, bool]] = {
        "students of Fig. 8, both rows, s": (_of(data, "figure", "seconds", "students"), 30, 12, False),
        "the whole command, nothing compiled before, s": (_of(data, "figure", "total"), 90, 40, False),
        "G lane ticks/s, TD, best number of lanes": (_best(data), 5, 7.5, True),
        "fig8 --smoke, s": (_of(data, "smoke", "total"), 25, 15, False),
    }
    lines = ["| goal, on an H100 at the default scale | measured | must reach | aim |", "|---|--:|--:|--:|"]
    for name, (value, least, aim, _) in values.items():
        lines.append(f"| {name} | {'not measured' if value is None else f'{value:.2f}'} | {least} | {aim} |")
    return lines


def _of(data: Mapping[str, Measured], *names: str) -> float | None:
    value: Any = data
    for name in names:
        if name not in value:
            return None
        value = value[name]
    return float(value)


def _best(data: Mapping[str, Measured]) -> float | None:
    rates = [x["best"] / 1e9 for x in data["lanes"]["td"].values()] if "lanes" in data else []
    return max(rates, default=None)
