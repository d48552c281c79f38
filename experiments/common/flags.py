"""Command-line flags made from a settings class, and settings read from them."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from experiments.common.presets import DEFAULTS, preset_flags
from jaxdistill import presets
from jaxdistill.cli import flags
from jaxdistill.cli.flags import Parser, check_values
from jaxdistill.runtime.checks import shown
from jaxdistill.runtime.command import fail
from jaxdistill.runtime.files import from_command_line

_NARROWEST = 40  # columns of a terminal
_PATHS = ("out", "shared", "results")  # flags that are paths


def parse(settings_type: type, name: str, smoke: dict[str, Any], argv: list[str]) -> Any:
    """Reads the settings of an experiment from its command line.

    Exits with code 2 and one line on stderr for a wrong flag, and with code 0 after printing the help.

    Args:
      settings_type: a dataclass whose fields are made by `option`.
      name: the experiment's name, which the default output folder has too.
      smoke: values that --smoke gives to settings without a flag on the command line.
      argv: the command line, the program's name first.
    """
    arguments = argv[1:]
    asks_for_help = [word for word in arguments if word in ("--help", "-h", "-help", "--helpfull")]
    given = _given(settings_type, {}, [word for word in arguments if word not in asks_for_help])
    try:
        preset = _preset_defaults(settings_type, given)
    except ValueError as error:
        fail(str(error))
    if asks_for_help:
        # A narrower terminal would leave no column for the text.
        os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, _NARROWEST))
        print(f"{sys.modules['__main__'].__doc__}\n{_parser(settings_type, preset).format_help()}")
        sys.exit(0)
    settings = dataclasses.asdict(settings_type()) | preset | given
    if settings["smoke"]:
        settings |= {key: value for key, value in smoke.items() if key not in given}
    try:
        settings |= {key: from_command_line(settings[key]) for key in _PATHS if key in settings}
    except ValueError as error:
        fail(str(error))
    settings["out"] = settings["out"] or settings.get("results") or default_outdir(name, settings["smoke"])
    return settings_type(**settings)


def _given(settings_type: type, preset: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The settings that are on the command line; exits with one line for a wrong flag."""
    values, unknown = _parser(settings_type, preset).parse_known_args(arguments)
    if unknown:
        fail(f"Unknown argument {shown(unknown[0])}; options start with --, see --help.")
    lists = tuple(name for name, default in vars(settings_type()).items() if isinstance(default, list))
    check_values(values, lists)
    return vars(values)


def _parser(settings_type: type, preset: dict[str, Any]) -> Parser:
    """A parser with one flag for each field, of the type of its default value; `preset` replaces defaults by name."""
    parser = Parser(usage="python -m experiments.NAME [flags]", add_help=False, allow_abbrev=False)
    for field in dataclasses.fields(settings_type):
        default = preset.get(field.name, getattr(settings_type(), field.name))
        flags.add(parser, field.name, default, field.metadata["help"].replace("%", "%%"))
    return parser


def _preset_defaults(settings_type: type, given: dict[str, Any]) -> dict[str, Any]:
    """The defaults of an experiment's flags under the preset on the command line, if it has presets.

    Raises:
      ValueError: an unknown preset.
    """
    names = {field.name for field in dataclasses.fields(settings_type)}
    if "preset" not in names:
        return {}
    preset = presets.get(given.get("preset", DEFAULTS["preset"]))
    of_preset = {name: x for name, x in preset_flags(preset).items() if name in names}
    # A figure that departs from the preset as_written keeps its own defaults there.
    of_figure = {name for name, value in DEFAULTS.items() if name in names and getattr(settings_type(), name) != value}
    return {name: value for name, value in of_preset.items() if name not in of_figure}


def default_outdir(name: str, smoke: bool) -> str:
    """results/fig8, or results/fig8-smoke, so that a trial never replaces the real results."""
    return str(Path("results", name + ("-smoke" if smoke else "")))
