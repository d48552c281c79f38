"""The output folder of an experiment, and the settings to which the work in it belongs.

The settings are saved in settings.json before the first part begins. Finished parts and the states of interrupted
trainings are not deleted: a run with other settings is refused, and --restart moves them into the folder `replaced`,
whose earlier content is deleted.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.settings import Output
from jaxdistill.results.result import package_versions
from jaxdistill.runtime import saved_settings
from jaxdistill.runtime.files import check_writable, locked


def prepare_outdir(settings: Any) -> Path:
    """Creates the output folder, before any work; raises ValueError if files cannot be written to it."""
    outdir = Path(settings.out)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        check_writable(outdir / "settings.json")
    except OSError as error:
        reason = (error.strerror or "").removeprefix("cannot write: ")
        raise ValueError(f"--out {outdir} cannot be written: {reason}; choose another folder.") from None
    return outdir


def what_decides(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers: all but those of `Output`, and the folder `shared`."""
    ignored = {field.name for field in dataclasses.fields(Output)} | {"shared"}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in ignored}


@contextlib.contextmanager
def owned(settings: Any, outdir: Path) -> Iterator[None]:
    """Locks the folder within the block, and saves these settings in its settings.json as those of the work in it.

    If the folder holds work of other settings, the block is refused. With --restart, all work is moved into the folder
    `replaced`, whose earlier content is deleted. If the block raises an error before anything is saved, the folder is
    restored.

    Raises:
      ValueError: the folder holds work of other or of unknown settings, or another process uses it.
    """
    with locked(outdir):
        try:
            _claim(settings, outdir)
            yield
            if not (outdir / "settings.json").exists():  # it was deleted during the block
                _write_settings(settings, outdir)
        except BaseException:
            _release_if_empty(outdir)
            raise


def _claim(settings: Any, outdir: Path) -> None:
    """Saves these settings as those of the folder; raises ValueError if it holds work of others."""
    path = outdir / "settings.json"
    if settings.restart:
        _release_if_empty(outdir)  # an earlier --restart may have been killed before it saved anything
        _set_aside(outdir)
    elif path.exists() or _work(outdir):
        different = _difference(settings, path)
        if different and _work(outdir):
            raise ValueError(f"{outdir} holds results of {different}; use another --out, or --restart.")
        if not different:
            return
    _write_settings(settings, outdir)


def _write_settings(settings: Any, outdir: Path) -> None:
    saved_settings.write(outdir / "settings.json", what_decides(settings), versions=package_versions())


def _difference(settings: Any, path: Path) -> str:
    """How the settings in settings.json differ from these, in words; empty if they are the same."""
    if not path.exists():
        return f"unknown settings, because {path.name} is missing"
    try:
        different = saved_settings.differences(saved_settings.read(path), what_decides(settings))
    except ValueError as error:
        return f"unknown settings, because {error}"
    return f"other settings ({different})" if different else ""


def _work(outdir: Path) -> list[Path]:
    """The finished parts and the states of interrupted trainings in the folder."""
    return [*outdir.glob("*.npz"), *outdir.glob("*.unfinished/**/*.save")]


def _set_aside(outdir: Path) -> None:
    """Moves all work and its settings into the folder `replaced`, whose earlier content is deleted."""
    if not _work(outdir):
        return
    folder = outdir / "replaced"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for pattern in ("settings.json", "*.npz", "*.csv.gz", "*.unfinished"):
        for path in outdir.glob(pattern):
            path.rename(folder / path.name)


def _release_if_empty(outdir: Path) -> None:
    """If nothing has been saved, removes settings.json, and moves back what --restart had set aside."""
    if _work(outdir) or not outdir.exists():
        return
    (outdir / "settings.json").unlink(missing_ok=True)
    replaced = outdir / "replaced"
    if replaced.exists():
        for path in replaced.iterdir():
            path.rename(outdir / path.name)
        replaced.rmdir()
