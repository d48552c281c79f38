"""The README's Python runs as it stands, and its table of methods is the package's."""

import re
from pathlib import Path

import jaxdistill
from tests import snippets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = snippets.run(ROOT / "README.md")
    assert "on_policy_distill_r" in capsys.readouterr().out  # the summary was printed
    assert (tmp_path / "distill.png").stat().st_size > 10_000
    result = names["result"]
    assert (result.final_returns.mean(axis=1) > result.uniform_returns.mean() + 2).all()
    assert names["exact"].logits.shape == (400, 4)


def test_table_of_methods_is_complete():
    table = README.split("## Methods are data")[1].split("\n\n")[2]
    named = re.findall(r"`([a-z0-9_]+)`", table)
    assert sorted(named) == sorted(jaxdistill.METHODS)


def test_picture_exists():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size < 1_000_000 for picture in pictures)
