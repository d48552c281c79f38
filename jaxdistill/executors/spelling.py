"""Reads an executor from a text, such as the value of the flag --executor."""

import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from jaxdistill.executors import local, slurm
from jaxdistill.executors.sharding import Sharding
from jaxdistill.runtime import checks

KINDS = "processes:4, dask-local:4, dask:tcp://host:8786 or slurm:partition=gpu,gpus=1,jobs=16"
"""The texts that `parse` reads, by example."""

_EXPECTED = f"--executor must be {KINDS}"
_MOST_WORKERS = 1024
_NEEDS = {"dask": "distributed", "dask-local": "distributed", "slurm": "submitit"}  # the packages, by kind
_EXTRAS = {"distributed": "dask", "submitit": "slurm"}
_DURATION = re.compile(r"(\d+):([0-5]\d)")


def parse(text: str, allow_mixed: bool = False) -> Callable[[], AbstractContextManager[Sharding]]:
    """A function that starts the executor that a text describes, for a block; nothing is started before.

    Args:
      text: a kind and what it needs, after a colon; further options follow after commas. `shards=N` is an option of
        every kind.
      allow_mixed: as in `Sharding`.

    Raises:
      ValueError: a text of another form, an unknown option, or a number out of range.
      ImportError: the package that the kind needs is not installed.
    """
    kind, colon, rest = text.partition(":")
    if kind not in ("processes", *_NEEDS):
        shown = checks.shown_among(kind, ("processes", *_NEEDS)) if colon else checks.shown(text)
        raise ValueError(f"{_EXPECTED}; got {shown}.")
    head, options = _options(text, rest, has_head=kind != "slurm")
    num_shards = _whole(text, "shards", options.pop("shards")) if "shards" in options else None
    if kind == "slurm":
        job = _slurm_options(text, options)
    elif options:
        raise ValueError(f"{_EXPECTED}; the only option of {kind} is shards=N; got {checks.shown(text)}.")
    elif kind == "dask" and not re.fullmatch(r"[a-z]+://\S+:\d+", head):
        raise ValueError(f"--executor=dask needs the address of a scheduler, dask:tcp://host:8786; got {text!r}.")
    is_here = kind in ("processes", "dask-local")
    num_workers = _whole(text, f"the number of {kind}", head, _MOST_WORKERS) if is_here else 0
    package = _NEEDS.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(f"--executor={kind} needs {package}: pip install 'jaxdistill[{_EXTRAS[package]}]'")
    if kind == "processes":
        return lambda: local.processes(num_workers, num_shards, allow_mixed)
    if kind == "dask-local":
        return lambda: local.dask_cluster(num_workers, num_shards, allow_mixed)
    if kind == "dask":
        return lambda: local.dask_client(head, num_shards, allow_mixed)
    if shutil.which("sbatch") is None:
        raise ValueError(
            "--executor=slurm needs the command sbatch, which is not here; use it on a machine of the cluster."
        )
    return lambda: slurm.jobs(job, num_shards, allow_mixed)


def _options(text: str, rest: str, has_head: bool) -> tuple[str, dict[str, str]]:
    """What stands before the first comma, if the kind needs it, and the options key=value."""
    words = rest.split(",") if rest else []
    head = words.pop(0) if has_head and words else ""
    options = dict[str, str]()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value or key in options:
            raise ValueError(
                f"the options of --executor must be key=value, each once, such as shards=32; got {word!r} in {text!r}."
            )
        options[key] = value
    return head, options


def _slurm_options(text: str, options: Mapping[str, str]) -> slurm.Jobs:
    """The options of a job of SLURM."""
    readers: dict[str, Callable[[str, str, str], int]] = {"time": _minutes}
    readers |= dict.fromkeys(("jobs", "gpus", "cpus", "memory"), _whole)
    values: dict[str, Any] = {}
    for name, value in options.items():
        checks.known("option of --executor=slurm", name, slurm.OPTIONS)
        values[name] = readers[name](text, name, value) if name in readers else value
    return slurm.Jobs(**values)


def _whole(text: str, name: str, value: str, most: int = 10**6) -> int:
    """A whole number in [1, most] in a text; ValueError for another value."""
    if not re.fullmatch(r"[0-9]{1,7}", value) or not 1 <= int(value) <= most:
        raise ValueError(
            f"{name} must be a whole number in [1, {most}]; got {checks.shown(value)} in --executor={text}."
        )
    return int(value)


def _minutes(text: str, name: str, value: str) -> int:
    """The minutes of hours:minutes."""
    match = _DURATION.fullmatch(value)
    minutes = int(match[1]) * 60 + int(match[2]) if match else 0
    if not minutes:
        raise ValueError(f"{name} must be hours:minutes, such as 4:00; got {checks.shown(value)} in --executor={text}.")
    return minutes
