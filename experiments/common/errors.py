"""How an experiment reports an error: a list of the valid names, and one line on stderr."""

import sys
from collections.abc import Collection
from typing import NoReturn

from jaxdistill.runtime import processes

_MAX_LENGTH = 1000  # characters of a message, which may quote a flag's value of any length


def known(kind: str, names: list[str], valid: Collection[str]) -> None:
    """Raises ValueError with the valid names if `names` is empty or holds another name; `kind` is what they name."""
    for name in names:
        if name not in valid:
            raise ValueError(f"Unknown {kind} {name!r}; choose from {', '.join(valid)}.")
    if not names:
        raise ValueError(f"No {kind} given; choose from {', '.join(valid)}.")


def fail(message: str) -> NoReturn:
    """Prints the message as one line on stderr and ends the process with exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line if len(line) <= _MAX_LENGTH else line[:_MAX_LENGTH] + '...'}", file=sys.stderr)
    processes.leave(2)
