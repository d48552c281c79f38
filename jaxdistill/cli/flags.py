"""How flags are read from a command line, by the command `jaxdistill` and by every experiment.

An error is one line, which names the nearest flag or word. A flag of a number, a word, a list or a switch has the type
of its default value.
"""

import argparse
import re
from typing import Any, NoReturn

from jaxdistill.runtime import checks, command


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage, and suggests the nearest flag or word."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:  # Python 3.11 and 3.13 differ in whether they quote the words
            word, valid = choice[1], re.findall(r"[\w-]+", choice[2])
            message = message.replace(repr(word), checks.shown_among(word, valid), 1)
        command.fail(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as the base class does, but refuses an unknown flag with the nearest flag of this command.

        The main parser would refuse it too, but it does not know the flags of the command.
        """
        namespace, unknown = super().parse_known_args(args, namespace)
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in unknown:
            flag, equals, value = word.partition("=")
            if flag.startswith("--"):
                near = checks.shown_among(flag, flags).removeprefix(repr(flag))
                self.error(f"unrecognized arguments: {flag}{equals}{value}{near}")
        return namespace, unknown


def add(parser: argparse.ArgumentParser, name: str, default: Any, help: str) -> None:
    """Adds the flag --name of the type of its default value: bool, int, float, str or list.

    The parsed arguments hold the flag only where it is given. A switch is written --name, --noname or --name=true; the
    items of a list are separated by commas.
    """
    options: dict[str, Any] = dict(dest=name, default=argparse.SUPPRESS, help=f"{help} (default: {_shown(default)})")
    if isinstance(default, bool):
        parser.add_argument(f"--{name}", nargs="?", const=True, type=_switch, metavar="true|false", **options)
        options["help"] = argparse.SUPPRESS
        parser.add_argument(f"--no{name}", action="store_const", const=False, **options)
    elif isinstance(default, list):
        parser.add_argument(f"--{name}", type=_items, metavar="A,B", **options)
    else:
        parser.add_argument(f"--{name}", type=type(default), metavar=type(default).__name__.upper(), **options)


def check_values(arguments: argparse.Namespace, lists: tuple[str, ...] = ()) -> None:
    """Ends the process with one line if a flag has the value "--", which Python 3.11 parses as an empty list.

    `lists` are the names of flags whose value may be an empty list.
    """
    for name, value in vars(arguments).items():
        if value == [] and name not in lists:
            command.fail(f"--{name} must have a value; '--' is not a value.")


def _shown(default: Any) -> str:
    """A default value as it is written on the command line."""
    if isinstance(default, list):
        return ",".join(map(str, default)) or "none"
    # argparse would take a percent sign for a format.
    return str(default).replace("%", "%%") if not isinstance(default, str) or default else "none"


def _switch(text: str) -> bool:
    """The value of a switch."""
    values = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false; got {checks.shown(text)}")
    return values[text.lower()]


def _items(text: str) -> list[str]:
    """The items of a list."""
    return [item.strip() for item in text.split(",")] if text.strip() else []
