"""The entry point of an experiment's command."""

import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from experiments.common.flags import parse
from jaxdistill import executors
from jaxdistill.cli.main import keep_compiled_programs
from jaxdistill.runtime import command


def main(settings_type: type, name: str, smoke: dict[str, Any], work: Callable[[Any], None]) -> None:
    """Runs an experiment as a command, whose errors and exit codes are those of `runtime.command.run`.

    Reads the settings from the flags, keeps compiled programs for the next call, and calls `work`, whose trainings run
    on the executor of the settings.

    Args:
      settings_type, name, smoke: as for `parse`; the settings are an `Output`.
      work: the experiment, a function of its settings.
    """

    def run() -> None:
        logging.set_verbosity(logging.WARNING)  # without the log messages of the libraries
        settings = parse(settings_type, name, smoke, sys.argv)
        keep_compiled_programs()
        try:
            with executors.using(settings.executor, allow_mixed=settings.allow_mixed):
                work(settings)
        except KeyboardInterrupt:
            flag = " without --restart" if settings.restart else ""
            raise KeyboardInterrupt(f"the same command{flag} goes on from here") from None

    command.run(run)
