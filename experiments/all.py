"""Every experiment, one after the other, and an index page with all pictures.

Each experiment runs in its own process and writes to <outdir>/<experiment>; its output is logged in <outdir>/logs. The
cheapest experiments run first. An experiment that an earlier call finished with the same arguments is skipped; one that
fails does not stop the others. The page <outdir>/index.html opens in any browser, from the disk, and shows the pictures
with their captions, settings, versions and run times (also in <outdir>/runs.json). After Ctrl-C the page shows what is
finished, and the same command continues. --num_mdps=1000 is the paper's scale.
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
from jaxdistill.results import package_versions
from jaxdistill.runtime.files import locked, write_atomically
from jaxdistill.runtime.progress import duration

FOLDER = Path(__file__).resolve().parent
_GRACE_SECONDS = 20  # from the signal that stops an experiment until it is killed


class Experiment(NamedTuple):
    """One row of the table of experiments.

    Attributes:
      name: the name of its module in `experiments`.
      smoke_seconds: run time with --smoke and no compiled programs, on 2 cores.
      seconds: run time at the default scale.
      worlds: the --num_mdps at which `seconds` was measured; run time is proportional to it. 0: there is no such flag.
      arguments: a function from the output folder of all experiments to further arguments of this one.
    """

    name: str
    smoke_seconds: float
    seconds: float
    worlds: int = 0
    arguments: Callable[[Path], list[str]] = lambda outdir: []


def sharing(name: str) -> Callable[[Path], list[str]]:
    """The flag --shared with the folder of another experiment, whose results are used where the settings agree."""
    return lambda outdir: [f"--shared={outdir / name}"]


TABLE = [  # the cheapest first, but each after the experiment whose results it uses
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
    Experiment("capacity", 60, 1200, worlds=60),
    Experiment("fig6", 10, 30),
    Experiment("fig9", 15, 150),
    Experiment("fig3", 25, 215, worlds=100),
    Experiment("fig8", 40, 335, worlds=100),
    Experiment("fig5", 15, 4, worlds=100, arguments=sharing("fig8")),
    Experiment("fig4", 55, 770, worlds=8),
    Experiment("fig10", 30, 570, worlds=8, arguments=sharing("fig4")),
]


@dataclasses.dataclass(frozen=True)
class Run:
    """The record of the last run of an experiment."""

    status: str  # done, failed or stopped
    arguments: list[str]
    seconds: float
    ended: str
    files: list[str]
    message: str  # the last line that a failed run printed

    def __str__(self) -> str:
        return f"{self.status} after {duration(self.seconds)}, {self.ended} {self.message}".rstrip()


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this command."""

    num_mdps: int = common.option(0, "sampled worlds of the experiments that have this flag; 0: their defaults")
    only: list[str] = common.option([], "experiments to run, separated by commas; default all")


def available() -> list[Experiment]:
    """The experiments of the table whose modules exist in this clone."""
    return [experiment for experiment in TABLE if (FOLDER / f"{experiment.name}.py").exists()]


def arguments(experiment: Experiment, settings: Settings, outdir: Path) -> list[str]:
    """The arguments that decide an experiment's numbers."""
    scale = ["--smoke"] if settings.smoke else []
    if settings.num_mdps and experiment.worlds:
        scale.append(f"--num_mdps={settings.num_mdps}")
    return scale + experiment.arguments(outdir)


def read_runs(outdir: Path) -> dict[str, Run]:
    """The records in runs.json by name; none if the file is missing or damaged, because runs can be repeated."""
    try:
        records = json.loads((outdir / "runs.json").read_text(encoding="utf-8"))
        runs = {name: Run(**run) for name, run in records.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: run for name, run in runs.items() if _is_record(run)}


def _is_record(run: Run) -> bool:
    """Whether every field has its type."""
    texts = [run.status, run.ended, run.message]
    lists = [run.arguments, run.files]
    if not all(isinstance(items, list) for items in lists) or not isinstance(run.seconds, int | float):
        return False
    return all(isinstance(text, str) for text in [*texts, *run.arguments, *run.files]) and 0 <= run.seconds < 1e9


def finished(run: Run | None, given: list[str], folder: Path) -> bool:
    """Whether a run with these arguments succeeded and all files that it wrote still exist."""
    if run is None or run.status != "done" or run.arguments != given:
        return False
    return all((folder / name).exists() for name in run.files)


def expected_seconds(experiment: Experiment, settings: Settings, run: Run | None, given: list[str]) -> float:
    """The run time of an earlier run with these arguments, or else that of the table, scaled to --num_mdps."""
    if run and run.status == "done" and run.arguments == given:
        return run.seconds
    scale = settings.num_mdps / experiment.worlds if settings.num_mdps and experiment.worlds else 1
    return experiment.smoke_seconds if settings.smoke else experiment.seconds * scale


def execute(line: list[str], log: Path) -> tuple[int, str]:
    """Runs a command, prints and logs its output, and returns its exit code and the last line of its output.

    A KeyboardInterrupt is passed on to the command once, and raised again when the command has ended.
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
        except KeyboardInterrupt:  # Ctrl-C, or SIGTERM, which `common.main` turns into one
            child.send_signal(signal.SIGINT)
            try:
                file.write(child.communicate(timeout=_GRACE_SECONDS)[0])
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    return child.returncode, last


def run(experiment: Experiment, given: list[str], settings: Settings, outdir: Path) -> Run:
    """Runs one experiment and returns its record, also after a KeyboardInterrupt, which stops the experiment."""
    folder, started = outdir / experiment.name, time.perf_counter()
    line = [sys.executable, "-m", f"experiments.{experiment.name}", f"--out={folder}", *given]
    line += ["--restart"] * settings.restart + ["--allow_mixed"] * settings.allow_mixed
    line += [f"--executor={settings.executor}"] if settings.executor else []
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
    """Runs the experiments that are not finished yet and writes the index; exits with code 1 if any of them failed."""
    experiments = available()
    if settings.only:
        common.known("experiment", settings.only, [experiment.name for experiment in experiments])
    if settings.num_mdps < 0:
        raise ValueError(f"--num_mdps must be at least 1, or 0 for each experiment's own; got {settings.num_mdps}.")
    outdir = common.prepare_outdir(settings).resolve()
    with locked(outdir):
        run_all(settings, [e for e in experiments if e.name in settings.only or not settings.only], outdir)


def run_all(settings: Settings, selected: list[Experiment], outdir: Path) -> None:
    """Runs the selected experiments in a folder that this process has locked, and writes the index after each."""
    (outdir / "logs").mkdir(exist_ok=True)
    runs, started = read_runs(outdir), time.perf_counter()
    write_index(outdir, runs)  # so that the page can be opened, and reloaded, from the start
    for i, experiment in enumerate(selected):
        given, name = arguments(experiment, settings, outdir), experiment.name
        head = f"[{i + 1}/{len(selected)}] {name}:"
        if not settings.restart and finished(runs.get(name), given, outdir / name):
            print(f"{head} already finished", flush=True)
            continue
        print(f"{head} about {time_left(selected[i:], settings, runs, outdir)} left for everything", flush=True)
        runs[name] = run(experiment, given, settings, outdir)
        write_index(outdir, runs)
        print(f"{head} {runs[name]}", flush=True)
        if runs[name].status == "stopped":
            raise KeyboardInterrupt
    failed = [e.name for e in selected if runs[e.name].status != "done"]
    done = f"{len(selected) - len(failed)} of {len(selected)} experiments"
    print(f"{done} in {duration(time.perf_counter() - started)}: {outdir / 'index.html'}")
    if failed:
        print(f"failed: {', '.join(failed)}; their output is in {outdir / 'logs'}", file=sys.stderr)
        sys.exit(1)


def time_left(waiting: list[Experiment], settings: Settings, runs: dict[str, Run], outdir: Path) -> str:
    """The expected run time of those of the waiting experiments that are not finished yet."""
    seconds = 0.0
    for experiment in waiting:
        given, last = arguments(experiment, settings, outdir), runs.get(experiment.name)
        if settings.restart or not finished(last, given, outdir / experiment.name):
            seconds += expected_seconds(experiment, settings, last, given)
    return duration(seconds)


def write_index(outdir: Path, runs: dict[str, Run]) -> None:
    """Writes runs.json and index.html; neither is ever half written."""
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
    """The index page as HTML, without scripts and with relative links."""
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
    """A key to sort names by: figures by number, then the other experiments by name."""
    number = re.fullmatch(r"fig(\d+)", name)
    return (number is None, int(number[1]) if number else 0, name)


def _status(runs: dict[str, Run], name: str) -> str:
    """The last run of an experiment as HTML."""
    run = runs.get(name, "not run")
    return f'<span class="{getattr(run, "status", "")}">{html.escape(str(run))}</span>'


def section(outdir: Path, name: str, runs: dict[str, Run]) -> str:
    """One experiment as HTML: its pictures, caption, run time, files, settings and versions."""
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
    """The module docstring of an experiment, or its name without one.

    It is read without an import, so that a module with an error has a caption too.
    """
    docstring = re.match(r'"""(.+?)"""', (FOLDER / f"{name}.py").read_text(encoding="utf-8"), re.DOTALL)
    return docstring[1].strip() if docstring else name


if __name__ == "__main__":
    common.main(Settings, "all", {}, work)
