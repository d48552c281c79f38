"""The output folder of an experiment: it is created, and it belongs to the settings in its settings.json."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from experiments.common.settings import Output, Processes
from jaxdistill.results.result import package_versions
from jaxdistill.runtime import processes
from jaxdistill.runtime.files import check_writable
from jaxdistill.runtime.saved_settings import claim, read_settings

_REPLACED = "replaced"  # the folder of what --restart has replaced


def prepare_outdir(settings: Any) -> Path:
    """Creates the output folder, before any work; raises ValueError if files cannot be written to it."""
    outdir = Path(settings.outdir)
    if not processes.is_writer():
        return outdir
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        check_writable(outdir / "settings.json")
    except OSError as error:
        reason = (error.strerror or "").removeprefix("cannot write: ")
        raise ValueError(f"--outdir {outdir} cannot be written: {reason}; choose another folder.") from None
    return outdir
