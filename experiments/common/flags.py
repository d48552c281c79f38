"""Command-line flags made from a settings class, and settings read from them."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.common.presets import DEFAULTS, preset_flags
from jaxdistill import presets
from jaxdistill.runtime.command import fail
from jaxdistill.runtime.files import from_command_line

_NARROWEST = 20  # columns of a terminal; absl raises an error if a terminal is narrower
_PATHS = ("out", "shared", "results")  # flags that are paths

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}


def parse(settings_type: type, name: str, smoke: dict[str, Any], argv: list[str]) -> Any:
    """Reads the settings of an experiment from its command line.

    Exits with code 2 and one line on stderr for a wrong flag, and with code 0 after printing the help.

    Args:
      settings_type: a dataclass whose fields are made by `option`.
      name: the experiment's name, which the default output folder has too.
      smoke: values that --smoke gives to settings without a flag on the command line.
      argv: the command line, the program's name first.
    """
    try:
        values = _flag_values(settings_type, _preset_defaults(settings_type, argv))
    except ValueError as error:
        fail(str(error))
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, _NARROWEST))
        print(f"{sys.modules['__main__'].__doc__}\nFlags:{values.get_help()}")
        sys.exit(0)
    try:
        positional = values(argv)[1:]
    except flags.Error as error:
        fail(str(error))
    if positional:
        fail(f"Unknown argument {positional[0]!r}; options start with --, see --help.")
    settings = {field.name: getattr(values, field.name) for field in dataclasses.fields(settings_type)}
    if settings["smoke"]:
        settings |= {key: value for key, value in smoke.items() if not values[key].present}
    try:
        settings |= {key: from_command_line(settings[key]) for key in _PATHS if key in settings}
    except ValueError as error:
        fail(str(error))
    settings["out"] = settings["out"] or settings.get("results") or default_outdir(name, settings["smoke"])
    return settings_type(**settings)


def _preset_defaults(settings_type: type, argv: list[str]) -> dict[str, Any]:
    """The defaults of an experiment's flags under the preset that the command line names, if it has presets.

    Raises:
      ValueError: an unknown preset.
    """
    names = {field.name for field in dataclasses.fields(settings_type)}
    if "preset" not in names:
        return {}
    values = flags.FlagValues()
    flags.DEFINE_string("preset", DEFAULTS["preset"], "", flag_values=values)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ValueError(str(error)) from None
    of_preset = {name: x for name, x in preset_flags(presets.get(values.preset)).items() if name in names}
    # A figure that departs from the preset as_written keeps its own defaults there.
    of_figure = {name for name, value in DEFAULTS.items() if name in names and getattr(settings_type(), name) != value}
    return {name: value for name, value in of_preset.items() if name not in of_figure}


def _flag_values(settings_type: type, preset: dict[str, Any]) -> flags.FlagValues:
    """One flag for each field, of the type of its default value; `preset` replaces defaults by name."""
    values, defaults = flags.FlagValues(), settings_type()
    for field in dataclasses.fields(settings_type):
        default = preset.get(field.name, getattr(defaults, field.name))
        _DEFINE[type(default)](field.name, default, field.metadata["help"], flag_values=values)
    return values


def default_outdir(name: str, smoke: bool) -> str:
    """results/fig8, or results/fig8-smoke, so that a trial never replaces the real results."""
    return str(Path("results", name + ("-smoke" if smoke else "")))
