"""How an experiment reports an error: a list of the valid names, and one line on stderr."""

import sys
from collections.abc import Collection, Mapping
from typing import NoReturn

from jaxdistill import methods
from jaxdistill.methods import METHODS, Method
from jaxdistill.runtime import checks, processes

_MAX_LENGTH = 1000  # characters of a message, which may quote a flag's value of any length


def known(kind: str, names: list[str], valid: Collection[str]) -> None:
    """Raises ValueError with the valid names if `names` is empty or holds another name; `kind` is what they name."""
    for name in names:
        checks.known(kind, name, valid)
    if not names:
        raise ValueError(f"No {kind} given; choose from {', '.join(valid)}.")


def known_methods(names: list[str], further: Mapping[str, Method] | None = None) -> list[Method]:
    """The methods of these names, as `methods.get` finds them, and before it `further`, methods of the experiment.

    Raises ValueError if there is no name, or an unknown one.
    """
    if not names:
        raise ValueError(f"No method given; choose from {', '.join(further or METHODS)}.")
    return [(further or {}).get(name) or methods.get(name) for name in names]


def fail(message: str) -> NoReturn:
    """Prints the message as one line on stderr and ends the process with exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line if len(line) <= _MAX_LENGTH else line[:_MAX_LENGTH] + '...'}", file=sys.stderr)
    processes.leave(2)
