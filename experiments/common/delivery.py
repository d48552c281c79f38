"""The figures and tables that an experiment writes."""

from pathlib import Path
from typing import Any

from jaxdistill import plotting
from jaxdistill.runtime.files import write_atomically
from jaxdistill.statistics import NO_INTERVAL


def deliver(figure: Any, outdir: Path, name: str) -> None:
    """Writes the figure as `<name>.png` and `<name>.pdf` and prints their paths."""
    for path in plotting.save_figure(figure, outdir / name):
        print(path)


def deliver_unfinished(figure: Any, outdir: Path) -> None:
    """Writes the figure of a run that was stopped as `unfinished.png` and `unfinished.pdf`."""
    with plotting.style():
        figure.suptitle("Unfinished: the worlds with the longest episodes come first", fontsize=9)  # `Task.queue`
    deliver(figure, outdir, "unfinished")


def deliver_table(lines: list[str], outdir: Path, name: str) -> None:
    """Writes a table as `<name>.md` and prints it; if an interval is missing, a last line says why."""
    if any("[n/a]" in line for line in lines):
        lines = [*lines, "", f"{NO_INTERVAL}."]
    write_atomically(outdir / f"{name}.md", lambda file: file.writelines(f"{line}\n".encode() for line in lines))
    print("\n".join(lines))
