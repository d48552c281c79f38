"""Lines of C, with a fresh name for every value."""

import contextlib
from collections.abc import Iterator

import numpy as np

from jaxdistill.kernels.values import C_TYPES, Entry, dtype_name


class Writer:
    """Collects the statements of a function.

    A value is computed once in each block of statements: the same expression of the same variables has the same name.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._num_names = 0
        self._known: list[dict[tuple[str, str], str]] = [{}]  # names by type and expression, for each open block

    def statement(self, text: str) -> None:
        """Adds a line."""
        self.lines.append("  " * len(self._known) + text)

    def fresh(self, prefix: str) -> str:
        """A name that nothing else has."""
        self._num_names += 1
        return f"{prefix}{self._num_names}"

    def value(self, dtype: str, expression: str) -> str:
        """The name of the value of an expression without side effects, whose operands do not change in this block."""
        key = dtype, expression
        for names in reversed(self._known):
            if key in names:
                return names[key]
        name = self._known[-1][key] = self.load(dtype, expression)
        return name

    def load(self, dtype: str, expression: str) -> str:
        """The name of what an expression gives now; it is read again each time, because memory changes."""
        name = self.fresh("v")
        self.statement(f"const {C_TYPES[dtype_name(dtype)]} {name} = {expression};")
        return name

    def variable(self, dtype: str, entry: Entry) -> str:
        """The name of a variable that may be assigned later."""
        name = self.fresh("c")
        self.statement(f"{C_TYPES[dtype_name(dtype)]} {name} = {literal(entry)};")
        return name

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Everything that is written inside is a block after `head`."""
        self.statement(f"{head} {{")
        self._known.append({})
        yield
        self._known.pop()
        self.statement("}")


def literal(entry: Entry) -> str:
    """An entry as it stands in an expression."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, np.bool_):
        return "true" if entry else "false"
    if isinstance(entry, np.uint32):
        return f"{entry}u"
    if isinstance(entry, np.int32):
        if entry == np.iinfo(np.int32).min:
            return "(-2147483647 - 1)"
        return f"({entry})" if entry < 0 else str(entry)
    return _float_literal(np.float32(entry))


def _float_literal(number: np.float32) -> str:
    """The shortest decimal that rounds to a float32."""
    if np.isnan(number):
        return "NOT_A_NUMBER"
    if np.isinf(number):
        return "INFINITE" if number > 0 else "(-INFINITE)"
    text = f"{number}f"
    return f"({text})" if text.startswith("-") else text
