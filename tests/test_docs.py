"""The documentation is true: its Python runs page by page, and its commands, files and numbers of methods exist."""

import dataclasses
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import jaxdistill
from jaxdistill import methods
from jaxdistill.cli import main
from tests import snippets

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
IDS = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]
WITH_CODE = [page for page in PAGES if snippets.blocks(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    if page.stem == "gymnasium":
        pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    snippets.run(page)


def command_lines():
    """(page, words) of every command line that the documentation and CONTRIBUTING.md show."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for _, block in snippets.blocks(page, "bash"):
            for line in block.splitlines():
                yield from ((page, shlex.split(part, comments=True)) for part in line.split("&&"))


def test_commands_name_what_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    seen = set()
    for page, words in command_lines():
        if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
            module = importlib.import_module(words[2])
            flags = {field.name for field in dataclasses.fields(module.Settings)}
            asked = {word[2:].split("=")[0] for word in words[3:]} - {"help"}
            assert asked <= flags, f"{page.name}: {' '.join(words)}"
        elif words[:3] == ["python", "-m", "jaxdistill"]:
            main._parser().parse_args(words[3:])  # exits where a command or a flag is unknown
            names = [word for word in words[4:] if not word.startswith("--")]
            assert words[3] not in ("methods", "check") or all(methods.get(name) for name in names)
        elif words[:2] == ["pip", "install"] and "-e" in words:
            named = re.fullmatch(r"\.(?:\[(.+)\])?", words[words.index("-e") + 1])
            assert named and set(filter(None, (named[1] or "").split(","))) <= set(extras), f"{page.name}: {words}"
        elif words and words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), f"{page.name}: {words}"
        seen.update(words[:1])
    assert {"python", "pip"} <= seen  # the pages have been read


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_pages_name_methods_that_exist(page):
    text = page.read_text()
    for registry, name in re.findall(r"jd\.(METHODS|ZOO)\[\"(\w+)\"\]", text):
        assert name in getattr(jaxdistill, registry), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_pages_are_plain(page):
    """No address that a reader cannot open, and no line that scrolls for ever in an editor."""
    text = page.read_text()
    assert not re.search(r"OWNER|YOUR[-_ ]|example\.com|<url>", text)
    assert max(map(len, text.splitlines()), default=0) <= 200


def test_every_group_of_objectives_has_its_table():
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"^```\{catalogue\} objectives (\S+)$", text, re.MULTILINE))
    assert named == {"controls", "returns", "estimators", "divergences", "policies", "top-k"}
