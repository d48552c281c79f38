"""Keeps the settings of saved work in a file beside it, so that work of other settings never replaces it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.runtime.files import write_atomically


def write(path: Path, settings: Mapping[str, Any], **more: Any) -> None:
    """Writes the settings and further entries, `more`, as JSON."""
    text = json.dumps({"settings": settings, **more}, indent=2)
    write_atomically(path, lambda file: file.writelines([text.encode(), b"\n"]))


def read(path: Path) -> dict[str, Any]:
    """Returns the settings in a file of `write`; raises ValueError if it is damaged, OSError if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged") from None


def differences(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Lists every setting that differs, with both values, such as "seed was 0, is 1"; empty if all are the same."""
    current = as_saved(settings)
    names = [name for name in {**current, **saved} if current.get(name) != saved.get(name)]
    return ", ".join(f"{name} was {saved.get(name)}, is {current.get(name)}" for name in names)


def as_saved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings as `read` would return them after `write`, with the types of JSON."""
    return dict(json.loads(json.dumps(settings)))
