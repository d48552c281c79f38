"""Code blocks of a page, run as its reader would run them: from top to bottom, in one session."""

import re
from pathlib import Path
from typing import Any


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of a Markdown page in a language, each with the number of lines above it."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def run(page: Path) -> dict[str, Any]:
    """Runs the Python blocks of a page; the names that they leave. An error shows the line of the page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, block in blocks(page, "python"):
        exec(compile("\n" * line + block, str(page), "exec"), names)
    return names
