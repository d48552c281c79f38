"""The entry point of an experiment's command."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from experiments.common.flags import parse
from experiments.common.settings import Processes
from jaxdistill.cli.main import keep_compiled_programs
from jaxdistill.runtime import command, processes
from jaxdistill.runtime.files import one_line


def main(settings_type: type, name: str, smoke: dict[str, Any], work: Callable[[Any], None]) -> None:
    """Runs an experiment as a command, whose errors and exit codes are those of `runtime.command.run`.

    Reads the settings from the flags, keeps compiled programs for the next call, and calls `work`.

    Args:
      settings_type, name, smoke: as for `parse`.
      work: the experiment, a function of its settings.
    """

    def run() -> None:
        logging.set_verbosity(logging.WARNING)  # without the log messages of the libraries
        settings = parse(settings_type, name, smoke, sys.argv)
        keep_compiled_programs()
        try:
            with _as_one_of_several(settings):
                work(settings)
        except KeyboardInterrupt:
            flag = " without --restart" if getattr(settings, "restart", False) else ""
            raise KeyboardInterrupt(f"the same command{flag} goes on from here") from None

    command.run(run)


@contextlib.contextmanager
def _as_one_of_several(settings: Any) -> Iterator[None]:
    """Connects this process with the others of its run, if there are any.

    Only the first process prints. An error in this process is sent to the others, so that they do not wait for it.
    """
    if isinstance(settings, Processes):
        processes.connect(settings.coordinator, settings.num_processes, settings.process_id)
    with contextlib.ExitStack() as stack:
        if not processes.is_writer():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        except BaseException as error:
            processes.check()  # raises `Lost` instead if another process failed first
            processes.failed(one_line(error))
            raise
