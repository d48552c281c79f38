"""Adapts docstrings and signatures, which are written for `help()`, to the pages of the site."""

import re
from typing import Any

import numpy.typing as npt
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation


def _readable(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes bars, allows a plural such as "`Method`s", and marks up lists and examples, which have no markup."""
    text = "\n".join(lines).replace("|", "\\|")
    text = re.sub(r"(`\w+`)(?=\w)", r"\1\\ ", text)
    text = re.sub(r"^(\w.*[^:]):\n\n(?=  \S)", r"\1::\n\n", text, flags=re.MULTILINE)  # indented: an example
    lines[:] = "\n\n".join(map(_as_list, text.split("\n\n"))).split("\n")


def _as_list(paragraph: str) -> str:
    """Makes a list of a paragraph of lines "name: text", whose longer texts go on in lines indented by two."""
    lines = paragraph.split("\n")
    items = [line for line in lines if re.match(r"[a-z_]+(, [a-z_]+)*: ", line)]
    if len(items) < 2 or any(line not in items and not re.match(r"  \S", line) for line in lines):
        return paragraph
    return re.sub(r"^(?=[a-z_])", "- ", paragraph, flags=re.MULTILINE)


def _short(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> Any:
    """Writes ArrayLike in place of its definition, which Python 3.11 shows."""
    spelt_out = stringify_annotation(npt.ArrayLike, "smart")
    return None if signature is None else (signature.replace(spelt_out, "ArrayLike"), returns)


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a named tuple, which its docstring describes."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the functions to autodoc's events."""
    app.connect("autodoc-process-docstring", _readable, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", _short)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
