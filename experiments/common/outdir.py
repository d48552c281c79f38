"""The output folder of an experiment: it is created, and it belongs to the settings in its settings.json."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from experiments.common.settings import Output, Processes
from jaxdistill.results import package_versions
from jaxdistill.runtime import processes
from jaxdistill.runtime.files import write_atomically


def prepare_outdir(settings: Any) -> Path:
    """Creates the output folder, before any work; raises ValueError if files cannot be written to it."""
    outdir = Path(settings.outdir)
    if not processes.is_writer():
        return outdir
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outdir):
            pass
    except OSError as error:
        raise ValueError(f"--outdir {outdir} cannot be written: {error.strerror}; choose another folder.") from None
    return outdir


def what_decides(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers: all but those of `Output` and `Processes`, and the folder `shared`."""
    ignored = {field.name for group in (Output, Processes) for field in dataclasses.fields(group)} | {"shared"}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in ignored}


def as_saved(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers as settings.json holds them, with the types of JSON."""
    return dict(json.loads(json.dumps(what_decides(settings))))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a settings.json; raises ValueError if the file is damaged, OSError if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged; use --restart to run again, or another --outdir.") from None


def save_settings(settings: Any, outdir: Path, files: list[str]) -> None:
    """Gives the folder to these settings: deletes `files`, results of other settings, and writes settings.json."""
    for name in files:
        for path in (outdir / name, (outdir / name).with_suffix(".csv.gz")):
            path.unlink(missing_ok=True)
    text = json.dumps({"settings": what_decides(settings), "versions": package_versions()}, indent=2)
    write_atomically(outdir / "settings.json", lambda file: file.writelines([text.encode(), b"\n"]))


def same_settings(settings: Any, outdir: Path) -> bool:
    """Whether the folder holds results of exactly these settings; raises ValueError if it holds those of others.

    With --restart, and where there is no settings.json, the answer is False.
    """
    path = outdir / "settings.json"
    if settings.restart or not path.exists():
        return False
    saved, current = read_settings(path), as_saved(settings)
    different = [name for name in current | saved if current.get(name) != saved.get(name)]
    if different:
        changes = ", ".join(f"{name} was {saved.get(name)}, is {current.get(name)}" for name in different)
        raise ValueError(f"{outdir} holds results of other settings ({changes}); use another --outdir, or --restart.")
    return True
