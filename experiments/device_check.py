"""Checks and measures training on the GPU of this machine, in less than eight minutes on an H100.

Parts: whether kernels agree with XLA's engine on the processor, for every program of the paper and of the zoo; whether
other numbers of lanes, other chunks, and a stop in the middle change no bit; lane ticks per second by number of lanes
and of states; steps per second of the mix of Fig. 8; and where the time of fig8 goes, with --smoke and at the paper's
scale, in a process of its own and with nothing compiled before. The table compares with the goals. --smoke runs all
parts in kernels on the processor, at a tiny scale, to check this command itself.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments import common, fig8
from experiments.baselines import clock
from experiments.benchmark import circumstances
from experiments.device import agreement, figure, pages, promises, speed
from jaxdistill.kernels import choice
from jaxdistill.kernels.native import NativeToolchain
from jaxdistill.results import jsonable
from jaxdistill.runtime.files import write_atomically
from jaxdistill.runtime.progress import duration

PARTS = ("agreement", "promises", "smoke", "figure", "mix", "lanes", "states")


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this command."""

    only: list[str] = common.option(list(PARTS), "parts, of " + ", ".join(PARTS))
    num_programs: int = common.option(0, "programs whose agreement is checked; 0: all")
    num_mdps: int = common.option(1000, "worlds of Fig. 8")
    num_iterations: int = common.option(30_000, "episodes of its students")
    lanes: list[str] = common.option(
        ["8192", "16384", "27648", "35840", "68608"],
        "numbers of lanes whose ticks are timed; those that do not fit the memory are left out",
    )
    grids: list[str] = common.option(["10", "20", "50"], "heights and widths of square grids whose ticks are timed")
    num_ticks: int = common.option(20_000, "ticks of a repeat")
    repeats: int = common.option(3, "repeats of every timed run")
    mix_students: int = common.option(20_000, "students of the mix, about")
    mix_iterations: int = common.option(3000, "episodes of each of them")
    trained_mdps: int = common.option(500, "worlds of the trainings whose bits are compared")
    trained_iterations: int = common.option(10_000, "episodes of their students")


SMOKE = {
    "num_programs": 2, "num_mdps": 2, "num_iterations": 20, "lanes": ["8"], "grids": ["6"], "num_ticks": 50,
    "repeats": 1, "mix_students": 34, "mix_iterations": 20, "trained_mdps": 4, "trained_iterations": 2000,
}  # fmt: skip


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("part", settings.only, PARTS)
    for name in ("num_mdps", "num_iterations", "num_ticks", "repeats", "mix_students", "mix_iterations",
                 "trained_mdps", "trained_iterations"):  # fmt: skip
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name} must be at least 1; got {getattr(settings, name)}.")
    if settings.num_programs < 0:
        raise ValueError(f"--num_programs must be at least 0; got {settings.num_programs}.")
    for name in ("lanes", "grids"):
        for text in getattr(settings, name):
            if not text.isdigit() or int(text) < 2:
                raise ValueError(f"--{name} takes whole numbers of at least 2, with commas; got {text!r}.")


def check_device(settings: Settings) -> None:
    """Raises ValueError with one line unless kernels can run here, or --smoke is given."""
    device = jax.local_devices()[0]
    try:
        choice.toolchain_of(device)
    except choice.NoToolchain as error:
        reason = str(error) or f"this process has no GPU ({device.device_kind})"
        raise ValueError(
            f"device_check measures kernels on an NVIDIA GPU, but {reason}; --smoke runs it at a tiny scale on the "
            "processor."
        ) from None


def fig8_settings(settings: Settings, part: str) -> dict[str, Any]:
    """The settings of `fig8` for the parts smoke and figure."""
    flags: dict[str, Any] = dict(fig8.SMOKE)
    if part == "figure":
        flags = {"num_mdps": settings.num_mdps, "num_iterations": settings.num_iterations}
    if settings.smoke:
        flags |= {"methods": ["baseline"], "columns": ["td"], "teachers": ["q_learning"], "num_iterations": 20}
    return flags


def run_figure(settings: Settings, part: str) -> dict[str, Any]:
    """Fig. 8 in a process of its own, whose folder of compiled programs is empty."""
    with tempfile.TemporaryDirectory() as empty:
        arguments = fig8_settings(settings, part), time.time(), settings.smoke
        return clock.in_child(figure.timed, *arguments, cache=empty)


def run_promises(settings: Settings) -> dict[str, Any]:
    """The trainings whose bits are compared."""
    lanes = [3, 17] if settings.smoke else [1000, 5003]
    with tempfile.TemporaryDirectory() as folder:
        return promises.measured(settings.trained_mdps, settings.trained_iterations, lanes, Path(folder, "run"))


def measured(settings: Settings, part: str) -> dict[str, Any]:
    """Measures a part."""
    started = time.perf_counter()
    lanes, grids = ([int(text) for text in texts] for texts in (settings.lanes, settings.grids))
    functions: dict[str, Callable[[], dict[str, Any]]] = {
        "agreement": lambda: agreement.measured(settings.num_programs or None),
        "promises": lambda: run_promises(settings),
        "lanes": lambda: speed.by_lanes(speed.fitting(lanes), settings.num_ticks, settings.repeats),
        "states": lambda: speed.by_states(grids, min(lanes), settings.num_ticks, settings.repeats),
        "mix": lambda: speed.mix(settings.mix_students, settings.mix_iterations, settings.repeats),
        "smoke": lambda: run_figure(settings, "smoke"),
        "figure": lambda: run_figure(settings, "figure"),
    }
    result = functions[part]()
    clock.say(f"{part}: {duration(time.perf_counter() - started)}")
    return result


def write(outdir: Path, settings: Settings, facts: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes what has been measured so far as device_check.json."""
    text = json.dumps(jsonable(facts | {"settings": common.what_decides(settings), "measured": data}), indent=1)
    write_atomically(outdir / "device_check.json", lambda file: file.writelines([text.encode(), b"\n"]))


def work(settings: Settings) -> None:
    """Measures the parts, and writes the table; raises ValueError if a check fails."""
    check(settings)
    # Fig. 8 runs in a process of its own, which needs memory of the GPU too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    data: dict[str, Any] = {}
    with choice.on_cpu(NativeToolchain()) if settings.smoke else contextlib.nullcontext():
        check_device(settings)
        outdir = common.prepare_outdir(settings)
        facts = circumstances() | {"loop": choice.toolchain_of(jax.local_devices()[0]).name}
        for part in PARTS:
            if part in settings.only:
                data[part] = measured(settings, part)
                write(outdir, settings, facts, data)
    print(outdir / "device_check.json")
    common.deliver_table(pages.table(data, facts), outdir, "device_check")
    failures = pages.failures(data)
    if failures:
        raise ValueError(f"{len(failures)} checks failed: {'; '.join(failures[:5])}.")


if __name__ == "__main__":
    common.main(Settings, "device_check", SMOKE, work)
