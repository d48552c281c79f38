"""Every experiment, one after the other, and an index page with all pictures.

Each runs in a process of its own and writes to <outdir>/<experiment>; what it printed is in <outdir>/logs. Cheap ones
come first. An experiment that was finished before with the same arguments is left alone; one that fails does not stop
the others. The page <outdir>/index.html opens in any browser, from the disk, and shows the pictures with their
captions, settings, versions and run times (also in <outdir>/runs.json). Ctrl-C leaves a page of what is there; the same
command goes on from it. --num_mdps=1000 is the paper's scale.
"""

import dataclasses
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from experiments import common
from jaxdistill.results.result import package_versions
from jaxdistill.runtime.files import locked, write_atomically
from jaxdistill.runtime.progress import duration

FOLDER = Path(__file__).resolve().parent
_GRACE_SECONDS = 20  # for an experiment to end by itself when it is stopped


class Experiment(NamedTuple):
    """One row of the table.

    Attributes:
      name: the module experiments.<name>.
      smoke_seconds: how long --smoke takes where nothing is compiled yet, on 2 cores.
      seconds: how long its default scale takes.
      worlds: the --num_mdps that `seconds` are for, to which they are in proportion; 0 if it has no such flag.
      arguments: further arguments, from the folder of all experiments; asked for when its turn comes.
    """

    name: str
    smoke_seconds: float
    seconds: float
    worlds: int = 0
    arguments: Callable[[Path], list[str]] = lambda outdir: []


def sharing(name: str) -> Callable[[Path], list[str]]:
    """--shared=<folder of another experiment>: what fits is taken from there instead of being trained again."""
    return lambda outdir: [f"--shared={outdir / name}"]


TABLE = [  # cheap first, but none before one whose results it shares
    Experiment("fig1", 3, 3),
    Experiment("fig11", 5, 3),
    Experiment("fig7", 10, 8),
    Experiment("fig2", 15, 25),
    Experiment("fig13", 8, 8),
    Experiment("discount", 15, 15),
    Experiment("proximal", 15, 9),
    Experiment("table1", 15, 25),
    Experiment("fig12", 15, 20),
    Experiment("propositions", 15, 25),
    Experiment("estimators", 20, 45),
    Experiment("topk", 15, 60),
    Experiment("fig6", 10, 20),
    Experiment("fig9", 15, 90),
    Experiment("fig3", 25, 215, worlds=100),
    Experiment("choices", 20, 155, worlds=100),
    Experiment("fig8", 40, 335, worlds=100),
    Experiment("fig5", 15, 4, worlds=100, arguments=sharing("fig8")),
    Experiment("fig4", 55, 770, worlds=8),
    Experiment("fig10", 30, 570, worlds=8, arguments=sharing("fig4")),
]


@dataclasses.dataclass(frozen=True)
class Run:
    """What is recorded about the last run of an experiment."""

    status: str  # done, failed or stopped
    arguments: list[str]
    seconds: float
    ended: str
    files: list[str]
    message: str  # the last line of a run that failed

    def __str__(self) -> str:
        return f"{self.status} after {duration(self.seconds)}, {self.ended} {self.message}".rstrip()


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this command."""

    num_mdps: int = common.option(0, "sampled worlds of every experiment that samples; 0: each its own default")
    only: list[str] = common.option([], "experiments to run, separated by commas; default all")


def available() -> list[Experiment]:
    """The experiments of the table that this clone holds."""
    return [experiment for experiment in TABLE if (FOLDER / f"{experiment.name}.py").exists()]


def arguments(experiment: Experiment, settings: Settings, outdir: Path) -> list[str]:
    """The arguments that decide an experiment's numbers."""
    scale = ["--smoke"] if settings.smoke else []
    if settings.num_mdps and experiment.worlds:
        scale.append(f"--num_mdps={settings.num_mdps}")
    return scale + experiment.arguments(outdir)


def read_runs(outdir: Path) -> dict[str, Run]:
    """The runs recorded in runs.json by name; none if the file is not there or damaged, since runs can be repeated."""
    try:
        records = json.loads((outdir / "runs.json").read_text(encoding="utf-8"))
        runs = {name: Run(**run) for name, run in records.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: run for name, run in runs.items() if _is_record(run)}


def _is_record(run: Run) -> bool:
    texts = [run.status, run.ended, run.message]
    lists = [run.arguments, run.files]
    if not all(isinstance(items, list) for items in lists) or not isinstance(run.seconds, int | float):
        return False
    return all(isinstance(text, str) for text in [*texts, *run.arguments, *run.files]) and 0 <= run.seconds < 1e9


def finished(run: Run | None, given: list[str], folder: Path) -> bool:
    """Whether a run with these arguments ended well, and all that it wrote is still there."""
    if run is None or run.status != "done" or run.arguments != given:
        return False
    return all((folder / name).exists() for name in run.files)


def expected_seconds(experiment: Experiment, settings: Settings, run: Run | None, given: list[str]) -> float:
    """How long it took with these arguments before, else the table's figure for this scale."""
    if run and run.status == "done" and run.arguments == given:
        return run.seconds
    in_proportion = settings.num_mdps / experiment.worlds if settings.num_mdps and experiment.worlds else 1
    return experiment.smoke_seconds if settings.smoke else experiment.seconds * in_proportion


def execute(line: list[str], log: Path) -> tuple[int, str]:
    """Runs a command, showing and logging what it prints: its exit code and its last line.

    KeyboardInterrupt is passed on to the command, once; it is raised again when the command has ended.
    """
    last, environment = "", {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            line, cwd=FOLDER.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace", process_group=0,
        ) as child,
    ):  # fmt: skip
        try:
            assert child.stdout is not None
            for text in child.stdout:
                file.write(text)
                print("    " + text.rstrip(), flush=True)
                last = text.strip() or last
        except KeyboardInterrupt:  # Ctrl-C, or the SIGTERM that `common.main` makes one
            child.send_signal(signal.SIGINT)
            try:
                file.write(child.communicate(timeout=_GRACE_SECONDS)[0])
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    return child.returncode, last


def run(experiment: Experiment, given: list[str], settings: Settings, outdir: Path) -> Run:
    """Runs one experiment; what is to be recorded about it. A KeyboardInterrupt stops it and is returned as well."""
    folder, started = outdir / experiment.name, time.perf_counter()
    line = [sys.executable, "-m", f"experiments.{experiment.name}", f"--outdir={folder}", *given]
    line += ["--restart"] * settings.restart
    try:
        code, last = execute(line, outdir / "logs" / f"{experiment.name}.txt")
        status = "failed" if code else "done"
    except KeyboardInterrupt:
        code, last, status = 130, "", "stopped"
    files = sorted(path.name for path in folder.glob("*") if path.is_file())
    if status == "done" and "settings.json" not in files:
        status, last = "failed", f"it ended well but left no settings.json in {folder}"
    ended, message = time.strftime("%Y-%m-%d %H:%M"), "" if status == "done" else last or f"exit code {code}"
    return Run(status, given, round(time.perf_counter() - started, 1), ended, files, message)


def work(settings: Settings) -> None:
    """Runs what is not there yet, and writes the index after each; exits with code 1 if anything failed."""
    experiments = available()
    if settings.only:
        common.known("experiment", settings.only, [experiment.name for experiment in experiments])
    if settings.num_mdps < 0:
        raise ValueError(f"--num_mdps must be at least 1, or 0 for each experiment's own; got {settings.num_mdps}.")
    outdir = common.prepare_outdir(settings).resolve()
    with locked(outdir):
        run_all(settings, [e for e in experiments if e.name in settings.only or not settings.only], outdir)


def run_all(settings: Settings, chosen: list[Experiment], outdir: Path) -> None:
    """As `work`, once the settings are known to be right."""
    (outdir / "logs").mkdir(exist_ok=True)
    runs, started = read_runs(outdir), time.perf_counter()
    write_index(outdir, runs)  # so that there is a page to look at, and to reload, from the start
    for i, experiment in enumerate(chosen):
        given, name = arguments(experiment, settings, outdir), experiment.name
        head = f"[{i + 1}/{len(chosen)}] {name}:"
        if not settings.restart and finished(runs.get(name), given, outdir / name):
            print(f"{head} there already", flush=True)
            continue
        print(f"{head} about {time_left(chosen[i:], settings, runs, outdir)} left for everything", flush=True)
        runs[name] = run(experiment, given, settings, outdir)
        write_index(outdir, runs)
        print(f"{head} {runs[name]}", flush=True)
        if runs[name].status == "stopped":
            raise KeyboardInterrupt
    failed = [e.name for e in chosen if runs[e.name].status != "done"]
    done = f"{len(chosen) - len(failed)} of {len(chosen)} experiments"
    print(f"{done} in {duration(time.perf_counter() - started)}: {outdir / 'index.html'}")
    if failed:
        print(f"failed: {', '.join(failed)}; what they printed is in {outdir / 'logs'}", file=sys.stderr)
        sys.exit(1)


def time_left(waiting: list[Experiment], settings: Settings, runs: dict[str, Run], outdir: Path) -> str:
    """How long the waiting experiments take, without those that are there already."""
    seconds = 0.0
    for experiment in waiting:
        given, last = arguments(experiment, settings, outdir), runs.get(experiment.name)
        if settings.restart or not finished(last, given, outdir / experiment.name):
            seconds += expected_seconds(experiment, settings, last, given)
    return duration(seconds)


def write_index(outdir: Path, runs: dict[str, Run]) -> None:
    """Writes runs.json and index.html, each whole or not at all."""
    records = json.dumps({name: dataclasses.asdict(run) for name, run in runs.items()}, indent=1)
    for name, text in (("runs.json", records + "\n"), ("index.html", page(outdir, runs))):
        write_atomically(outdir / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --quiet: light-dark(#5c5c5c, #a8a8a8); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #16181c); color: light-dark(#222, #ddd); overflow-wrap: anywhere; }
a { color: light-dark(#0b57d0, #8ab4f8); } h2 { line-height: 1.25; font-size: 1.3rem; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff; }
pre { overflow-x: auto; overflow-wrap: normal; background: light-dark(#f6f6f6, #22252b); padding: .6rem;
  font-size: .8rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
th, td:first-child { overflow-wrap: normal; } summary { cursor: pointer; }
section { margin-top: 3rem; scroll-margin-top: 1rem; } .failed { color: light-dark(#a00, #ff8a80); }
.run { color: var(--quiet); font-size: .9rem; }
"""


def page(outdir: Path, runs: dict[str, Run]) -> str:
    """The index page: one HTML file without scripts, whose links are relative."""
    names = sorted((e.name for e in available()), key=_reading_order)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    rows = "\n".join(f'<tr><td><a href="#{name}">{name}</a></td><td>{_status(runs, name)}</td></tr>' for name in names)
    sections = "\n".join(section(outdir, name, runs) for name in names)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxdistill: all experiments</title><style>{_STYLE}</style></head><body>
<h1>jaxdistill: all experiments</h1>
<p class="run">{html.escape(versions)}</p>
<table><tr><th>Experiment</th><th>Run</th></tr>
{rows}
</table>
{sections}
</body></html>
"""


def _reading_order(name: str) -> tuple[bool, int, str]:
    """Figures by number, then the rest by name."""
    number = re.fullmatch(r"fig(\d+)", name)
    return (number is None, int(number[1]) if number else 0, name)


def _status(runs: dict[str, Run], name: str) -> str:
    run = runs.get(name, "not run")
    return f'<span class="{getattr(run, "status", "")}">{html.escape(str(run))}</span>'


def section(outdir: Path, name: str, runs: dict[str, Run]) -> str:
    """One experiment: its pictures, caption, run time, files, settings and versions."""
    folder, (title, text, *_) = outdir / name, (*caption(name).split("\n\n"), "")
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and not path.name.startswith(".")]
    parts = [f'<section id="{name}"><h2>{html.escape(title)}</h2>']
    for path in files:
        link = quote(f"{name}/{path.name}")
        if path.suffix == ".png":
            parts.append(f'<p><a href="{link}"><img src="{link}" alt="{html.escape(path.stem)}"></a></p>')
        elif path.suffix == ".md":
            parts.append(f"<pre>{html.escape(path.read_text(encoding='utf-8', errors='replace'))}</pre>")
    parts.append(f"<p>{html.escape(text)}</p>")
    links = " ".join(f'<a href="{quote(f"{name}/{path.name}")}">{html.escape(path.name)}</a>' for path in files)
    parts.append(f'<p class="run">{_status(runs, name)} {links}</p>')
    if (settings := folder / "settings.json") in files:
        saved = html.escape(settings.read_text(encoding="utf-8", errors="replace"))
        parts.append(f"<details><summary>Settings and versions</summary><pre>{saved}</pre></details>")
    return "\n".join([*parts, "</section>"])


def caption(name: str) -> str:
    """The docstring at the top of an experiment, read without running it: one that is broken has its place as well."""
    found = re.match(r'"""(.+?)"""', (FOLDER / f"{name}.py").read_text(encoding="utf-8"), re.DOTALL)
    return found[1].strip() if found else name


if __name__ == "__main__":
    common.main(Settings, "all", {}, work)
