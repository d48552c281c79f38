"""Progress where people read it: on a terminal, in a notebook and in a log."""

import os
import pty
import re
import subprocess
import sys
import termios
import types
from pathlib import Path

import pytest

from jaxdistill.runtime import progress
from jaxdistill.runtime.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import time
from jaxdistill import progress
progress._HOOK_SECONDS = progress._LINE_SECONDS = 0.0
with progress.Progress("students", SHOW) as report:
    for done in range(1, 5):
        time.sleep(0.15)  # a bar is drawn ten times a second at most
        report(done / 4, 1000 * done)
"""


@pytest.fixture
def eager(monkeypatch):
    """Every call is shown, not only those that come half a second later."""
    monkeypatch.setattr(progress, "_HOOK_SECONDS", 0.0)


def count(show):
    with Progress("students", show) as report:
        for done in range(1, 5):
            report(done / 4, 1000 * done)


def test_a_log_gets_whole_lines_and_no_control_characters(tmp_path):
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        command = [sys.executable, "-c", PROGRAM.replace("SHOW", "True")]
        subprocess.run(command, cwd=ROOT, stderr=file, check=True)
    text = log.read_text()
    assert re.fullmatch(r"(students: \d+%, .* left, .* steps/s\n){3}students: done in \d s, .* steps/s\n", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_a_terminal_gets_a_bar_and_then_one_line():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-c", PROGRAM.replace("SHOW", "None")]
    subprocess.run(command, cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert re.search(r"\rstudents:  50%\|", text)
    last = text.rstrip().rsplit("\r", 1)[1]
    assert re.fullmatch(r"students: done in \d s, .* steps/s", last)


@pytest.mark.parametrize(("show", "seconds", "lines"), [(None, 1e9, 0), (None, 0.0, 4), (True, 1e9, 1), (False, 0, 0)])
def test_unasked_a_log_is_told_of_long_work_only(show, seconds, lines, eager, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_SECONDS", seconds)
    count(show)
    assert capsys.readouterr().err.count("\n") == lines


class Cell:
    """What a notebook shows below a cell: one piece of data, replaced by the next."""

    def __init__(self):
        self.shown = []

    def display(self, data, raw, display_id):
        assert raw and display_id
        return self.update(data, raw)

    def update(self, data, raw):
        self.shown.append(data)
        return self


@pytest.fixture
def notebook(monkeypatch):
    """A process in which a notebook's kernel runs."""
    cell = Cell()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=cell.display))
    return cell, shell


def test_a_notebook_gets_a_line_that_is_replaced(eager, notebook, capsys):
    cell, _ = notebook
    count(None)
    assert '<progress value="0.500"></progress> students: 50%' in cell.shown[2]["text/html"]
    assert list(cell.shown[-1]) == ["text/plain"]  # the bar is gone
    assert cell.shown[-1]["text/plain"].startswith("students: done in")
    assert not re.search(r"[\x00-\x1f]", "".join(text for data in cell.shown for text in data.values()))
    assert capsys.readouterr().err == ""


def test_a_notebook_says_that_work_was_stopped(notebook):
    cell, _ = notebook
    with pytest.raises(KeyboardInterrupt), Progress("students"):
        raise KeyboardInterrupt
    assert cell.shown[-1]["text/plain"].startswith("students: stopped after")


def test_nothing_in_a_notebook_that_asked_for_nothing(notebook):
    cell, _ = notebook
    count(False)
    assert cell.shown == []


def test_ipython_without_a_notebook_is_no_notebook(eager, notebook, capsys):
    cell, shell = notebook
    shell.kernel = None
    count(True)
    assert cell.shown == []
    assert "done in" in capsys.readouterr().err
