"""Runs the parts of an experiment: each is saved when it is finished, and a run that was stopped can be continued."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.common.delivery import deliver_unfinished
from experiments.common.outdir import owned, what_decides
from experiments.common.part_files import read_part, save_part
from jaxdistill.runtime import checkpoints, saved_settings
from jaxdistill.runtime.errors import ExecutorFailed
from jaxdistill.runtime.progress import duration, say


def run_parts(
    settings: Any,
    outdir: Path,
    parts: Mapping[str, Callable[[], Any]],
    draw: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Runs the parts that are not finished yet, and returns the results of all parts by name.

    The result of a part is a `Result` or a dictionary of arrays. It is saved as `<name>.npz` (a `Result` also as
    `<name>.csv.gz`); where an earlier run of the same settings has saved it, it is read instead. A part that was
    stopped in the middle of a training continues from the folder `<name>.unfinished`.

    Args:
      settings: the settings of the experiment.
      outdir: its output folder.
      parts: the functions that compute the parts, by name.
      draw: makes a figure of the results so far, of which the last may hold some of its students only. When the run
        is stopped, this figure is saved as `unfinished.png` and `unfinished.pdf`. None: no such figure.

    Raises:
      ValueError: the folder holds results of other settings, a file in it is damaged, or another process uses it.
    """
    results: dict[str, Any] = {}
    with owned(settings, outdir):
        try:
            _run_or_read(outdir, parts, results)
        except (KeyboardInterrupt, ExecutorFailed) as stop:
            unfinished = getattr(stop, "result", None)
            if unfinished is not None:
                stopped_part = list(parts)[len(results)]
                results[stopped_part] = unfinished
            if draw is not None and results:
                deliver_unfinished(draw(results), outdir)
            raise
        for path in outdir.glob("unfinished.*"):
            path.unlink()
    return results


def _run_or_read(outdir: Path, parts: Mapping[str, Callable[[], Any]], results: dict[str, Any]) -> None:
    """Adds the result of one part after the other to `results`, which keeps them if the run is stopped."""
    files = {name: outdir / f"{name}.npz" for name in parts}
    started = time.perf_counter()
    num_read = sum(path.exists() for path in files.values())
    if 0 < num_read < len(files):
        say(f"{outdir}: {num_read} of {len(files)} parts are finished; the others go on")
    for name, path in files.items():
        if path.exists():
            results[name] = read_part(path.read_bytes(), path)
            continue
        with checkpoints.resumable(outdir / f"{name}.unfinished"):
            part = parts[name]()
            save_part(part, path)
        results[name] = part
    print(f"{len(files)} parts, {num_read} of them from {outdir}, in {duration(time.perf_counter() - started)}")


def shared_part(settings: Any, folder: str, name: str, ignored: tuple[str, ...]) -> Any:
    """The part `name` in the folder of another experiment if it was made with the same settings, else None.

    The settings that both experiments have are compared, except for those in `ignored`.
    """
    path = Path(folder, f"{name}.npz")
    try:
        saved = saved_settings.read(Path(folder, "settings.json"))
    except (OSError, ValueError):
        return None
    current = saved_settings.as_saved(what_decides(settings))
    compared = (saved.keys() & current.keys()) - set(ignored)
    if not path.exists() or any(saved[key] != current[key] for key in compared):
        return None
    print(f"{name}: from {path}")
    return read_part(path.read_bytes(), path)
