"""The speed of the engine, compared with the usual design in JAX and with the most that the processor allows.

A useful step is a step of a student's training episode; padding is not counted. Panels: useful steps per second of
the engine, of a padded scan over a fixed horizon and of a scalar loop compiled by numba on all cores (the roofline), on
the methods, estimators and teachers of Fig. 8, for students that start from zeros and for trained ones; the engine by
number of students, of states and of actions; where the time of a tick goes. Bars and points: median of the repeats,
whiskers from the least to the greatest. Measure on a machine that runs nothing else. Without numba (an extra,
`pip install -e '.[benchmark]'`) there is no roofline.
"""

import dataclasses
import datetime
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common, fig8
from experiments.baselines import clock, groups, pages, scalar_loop, ticks
from experiments.baselines.problems import Mix
from jaxdistill import METHODS
from jaxdistill.results import jsonable, package_versions
from jaxdistill.runtime.files import write_atomically
from jaxdistill.runtime.progress import duration

PARTS = {  # about how long each takes at the default scale, seconds
    "mix": 260,
    "width": 540,
    "states": 75,
    "actions": 75,
    "memory": 60,
    "tick": 60,
    "compilation": 80,
}
_STEPS_PER_EPISODE = 20  # about; from it follows how many iterations a run needs
_FEWEST, _MOST = 20, 10_000  # iterations of a run


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this command."""

    only: list[str] = common.option(list(PARTS), "measurements, of " + ", ".join(PARTS))
    repeats: int = common.option(5, "repeats of every timed run, in turns")
    num_students: int = common.option(1000, "students of the comparison, about")
    num_iterations: int = common.option(10_000, "episodes of each of them")
    padded_iterations: int = common.option(10, "episodes of each, for the padded scan")
    width_iterations: int = common.option(3000, "episodes of each where the number of students varies, at most")
    width_steps: int = common.option(
        600_000_000, "environment steps of a run where the number of students varies, about"
    )
    num_steps: int = common.option(30_000_000, "environment steps of a run of the other measurements, about")
    num_rows: int = common.option(20, "height and width of the grids")
    methods: list[str] = common.option(fig8.PAPER_METHODS, "methods of the mix of Fig. 8, separated by commas")
    columns: list[str] = common.option(list(fig8.COLUMNS), "columns of Fig. 8, of mc, td, td_noise15 and td_noise25")
    widths: list[str] = common.option(
        ["1", "10", "100", "250", "1000", "5000", "20000", "100000"], "numbers of students"
    )
    grids: list[str] = common.option(["10", "20", "50", "100"], "heights and widths of square grids")
    actions: list[str] = common.option(["4", "8", "16", "40", "400", "4000"], "numbers of actions")
    memory_worlds: int = common.option(100, "worlds with the most actions whose memory is measured")
    num_ticks: int = common.option(5000, "ticks of a repeat where parts of a tick are timed")


SMOKE = {
    "repeats": 2, "num_students": 34, "num_iterations": 40, "padded_iterations": 2, "num_steps": 20_000,
    "width_steps": 20_000, "num_rows": 6, "methods": ["baseline", "on_policy_distill"], "columns": ["td"],
    "widths": ["1", "34"], "grids": ["6"], "actions": ["4"], "memory_worlds": 2, "num_ticks": 50,
}  # fmt: skip


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("measurement", settings.only, PARTS)
    common.known("method", settings.methods, METHODS)  # the scalar loop has the paper's methods only
    fig8.check(fig8.Settings(methods=settings.methods, columns=settings.columns))
    for name in ("repeats", "num_students", "num_iterations", "padded_iterations", "width_iterations", "width_steps",
                 "num_steps", "num_rows", "memory_worlds", "num_ticks"):  # fmt: skip
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name} must be at least 1; got {getattr(settings, name)}.")
    for name, least in (("widths", 1), ("grids", 2), ("actions", 4)):
        for text in getattr(settings, name):
            if not text.isdigit() or int(text) < least:
                raise ValueError(f"--{name} takes whole numbers of at least {least}, with commas; got {text!r}.")


def iterations(num_students: int, num_steps: float) -> int:
    """Episodes of each student so that a run takes about `num_steps` steps."""
    return int(np.clip(num_steps / (num_students * _STEPS_PER_EPISODE), _FEWEST, _MOST))


def mix(settings: Settings) -> dict[str, Any]:
    """The engine and the two baselines on the same students."""
    if not scalar_loop.available():
        clock.say("numba is not installed, so there is no roofline: pip install -e '.[benchmark]'")
    numbers = settings.num_iterations, settings.padded_iterations, settings.repeats
    return clock.in_child(groups.mix, mix_of(settings, settings.num_students), *numbers)


def mix_of(settings: Settings, num_students: int) -> Mix:
    """About so many students of the mix."""
    return Mix(num_students, settings.num_rows, tuple(settings.methods), tuple(settings.columns))


def width(settings: Settings) -> dict[str, Any]:
    """The engine by number of students."""

    def measure(num_students: int) -> dict[str, Any]:
        num_iterations = min(iterations(num_students, settings.width_steps), settings.width_iterations)
        return clock.in_child(groups.width, mix_of(settings, num_students), num_iterations, settings.repeats)

    return {text: measure(int(text)) for text in settings.widths}


def states(settings: Settings) -> dict[str, Any]:
    """The engine by number of states."""
    return {text: _sized(settings, int(text), 4) for text in settings.grids}


def actions(settings: Settings) -> dict[str, Any]:
    """The engine by number of actions."""
    return {text: _sized(settings, settings.num_rows, int(text)) for text in settings.actions}


def _sized(settings: Settings, rows: int, num_actions: int) -> dict[str, Any]:
    """The engine on students of grids of rows x rows."""
    num_students = 36 if settings.smoke or num_actions > 40 else 144
    num_steps = settings.num_steps * max(4 / num_actions, 1 / 100)  # a step takes longer with more actions
    num_iterations = iterations(num_students, num_steps)
    return clock.in_child(groups.size, rows, num_actions, num_students, num_iterations, settings.repeats)


def memory(settings: Settings) -> dict[str, Any]:
    """The peak memory of a run with very many actions."""
    num_actions = max(int(text) for text in settings.actions)
    return clock.in_child(groups.memory, settings.memory_worlds, num_actions, 20, settings.num_rows)


def tick(settings: Settings) -> dict[str, Any]:
    """The time of a tick and of its parts."""
    parts, wider = (("random", "rest"), ()) if settings.smoke else (tuple(ticks.PARTS), (2, 4))
    return clock.in_child(groups.tick, mix_of(settings, 1), settings.num_ticks, parts, wider, settings.repeats)


def compilation(settings: Settings) -> dict[str, Any]:
    """Seconds of compiling, with an empty cache of compiled programs (cold) and with a full one (warm)."""
    with tempfile.TemporaryDirectory() as empty:
        cold, warm = (
            clock.in_child(groups.compilation, mix_of(settings, settings.num_students), cache=empty) for _ in range(2)
        )
    return {"cold": cold, "warm": warm}


def measured(settings: Settings, name: str) -> dict[str, str]:
    """Measures one part; as JSON text, because `common.run_parts` saves arrays and text only."""
    remaining = [part for part in list(PARTS)[list(PARTS).index(name) :] if part in settings.only]
    clock.say(f"{name}: about {duration(sum(PARTS[part] for part in remaining))} left at the default scale")
    functions: dict[str, Callable[[Settings], dict[str, Any]]] = {
        "mix": mix, "width": width, "states": states, "actions": actions, "memory": memory, "tick": tick,
        "compilation": compilation,
    }  # fmt: skip
    return {"json": json.dumps(jsonable(functions[name](settings)))}


def circumstances() -> dict[str, Any]:
    """The machine, the versions of the packages, the commit, the command and the time."""
    versions = package_versions()
    if scalar_loop.available():
        import numba

        versions["numba"] = numba.__version__
    device = jax.devices()[0]
    return {
        "command": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": versions,
        "device": {
            "jax": f"{device.platform}: {device.device_kind}",
            "processor": _processor(),
            "cores": scalar_loop.cores(),
            "system": platform.platform(),
        },
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _commit() -> str | None:
    """The commit of this clone, with + if files differ from it; None outside a clone."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":", 1)[1].strip() if names else platform.machine()
    return platform.processor() or platform.machine()


def work(settings: Settings) -> None:
    """Measures and draws; parts that an earlier run of the same settings measured are read instead."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    saved = [name for name in PARTS if (outdir / f"{name}.npz").exists() and not settings.restart]
    facts = circumstances()
    parts = {name: functools.partial(measured, settings, name) for name in PARTS if name in [*settings.only, *saved]}
    results = common.run_parts(dataclasses.replace(settings, only=list(PARTS)), outdir, parts)
    data = {name: json.loads(str(part["json"])) for name, part in results.items()}
    text = json.dumps(facts | {"settings": common.what_decides(settings), "measured": data}, indent=1)
    write_atomically(outdir / "benchmark.json", lambda file: file.writelines([text.encode(), b"\n"]))
    print(outdir / "benchmark.json")
    common.deliver_table(pages.table(data), outdir, "benchmark")
    common.deliver(pages.plot(data), outdir, "benchmark")


if __name__ == "__main__":
    common.main(Settings, "benchmark", SMOKE, work)
