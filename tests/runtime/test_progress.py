"""Progress on a terminal, in a notebook with and without ipywidgets, in a log, and to a hook."""

import contextlib
import io
import os
import pty
import re
import sys
import termios
import threading
import types
import warnings

import pytest

from jaxdistill.runtime import progress
from jaxdistill.runtime.progress import Progress

TQDM_MODULES = ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook")  # they look for ipywidgets when they are imported
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Clock:
    """Stands in for the module `time`; no test waits."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(progress, "time", clock := Clock())
    return clock


def work(clock, show=None, seconds=4.0, stop_at=None, hook=None, calls_per_second=10):
    """Work of `seconds` seconds at 1 M steps a second; KeyboardInterrupt after `stop_at` seconds."""
    with Progress("students", show, hook) as report:
        for call in range(1, round(seconds * calls_per_second) + 1):
            if stop_at is not None and clock.now >= stop_at:
                raise KeyboardInterrupt
            clock.now = call / calls_per_second
            report(clock.now / seconds, round(1e6 * clock.now))


# A log.


def test_a_log_gets_whole_lines_and_no_control_characters(clock, capfd):
    work(clock, show=True, seconds=25.0)
    text = capfd.readouterr().err
    assert text == (
        "students: 40%, 15 s left, 1.0 M steps/s\n"
        "students: 80%, 5 s left, 1.0 M steps/s\n"
        "students: done in 25 s, 1.0 M steps/s\n"
    )
    assert not CONTROL_CHARACTERS.search(text)


@pytest.mark.parametrize(
    ("show", "seconds", "num_lines"), [(None, 9.0, 0), (None, 25.0, 3), (True, 9.0, 1), (False, 25.0, 0)]
)
def test_by_default_a_log_gets_lines_for_long_work_only(show, seconds, num_lines, clock, capfd):
    work(clock, show, seconds)
    assert capfd.readouterr().err.count("\n") == num_lines


def test_a_log_gets_no_end_of_work_that_was_stopped(clock, capfd):
    with pytest.raises(KeyboardInterrupt):
        work(clock, show=True, seconds=25.0, stop_at=12.0)
    assert capfd.readouterr().err == "students: 40%, 15 s left, 1.0 M steps/s\n"


def test_a_worker_of_an_executor_says_nothing(capfd):
    with progress.silent():
        progress.say("going on")
    assert capfd.readouterr().err == ""
    progress.say("going on")
    assert capfd.readouterr().err == "going on\n"


class Written(io.StringIO):
    """A stream that tells when a line was written."""

    def __init__(self):
        super().__init__()
        self.line = threading.Event()

    def flush(self):
        self.line.set()


def test_a_wait_says_for_what(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    monkeypatch.setattr(progress, "_FIRST_WAIT_SECONDS", 0.0)
    with progress.waiting("a message"):
        assert written.line.wait(60)
    assert "waiting for a message: 0 s\n" in written.getvalue()


def test_without_stderr_nothing_is_shown_and_the_hook_is_called(clock, monkeypatch):
    """As under pythonw, or where a shell has closed it."""
    calls = []
    monkeypatch.setattr(sys, "stderr", None)
    for show in (None, True, False):
        work(clock, show=show, seconds=25.0, hook=lambda *call: calls.append(call))
    assert [fraction for fraction, *_ in calls].count(1.0) == 3


# A terminal.


def read_to_end(file):
    """What a terminal was sent, once it is closed. Linux then ends with an error, and other systems with nothing."""
    text = b""
    with contextlib.suppress(OSError):
        while part := os.read(file, 1 << 16):
            text += part
    os.close(file)
    return text.decode()


@pytest.mark.parametrize("show", [None, True])
def test_a_terminal_gets_a_bar_and_then_one_line(show, clock, monkeypatch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with open(theirs, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        work(clock, show, seconds=2.0)  # what is sent must fit into the terminal's 4 kB, since it is read afterwards
    text = read_to_end(ours)
    assert re.search(r"\rstudents:  50%\|[^|]*\| .*, 1 s left, 1\.0 M steps/s", text)
    assert text.rstrip().rsplit("\r", 1)[1] == "students: done in 2 s, 1.0 M steps/s"
    assert text.count("\n") == 1


# A hook.


@pytest.mark.parametrize("show", [None, False])
def test_a_hook_is_called_twice_a_second_and_at_the_end(show, clock):
    calls = []
    work(clock, show, seconds=4.2, hook=lambda *call: calls.append((clock.now, *call)))
    times, fractions, steps, left = zip(*calls, strict=True)
    assert times == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.2])
    assert fractions[-1] == 1.0 and steps[-1] == 4_200_000
    assert left == pytest.approx([4.2 - now for now in times])


def test_an_estimate_of_the_caller_takes_the_place_of_ours(clock):
    calls = []
    with Progress("students", False, lambda *call: calls.append(call)) as report:
        clock.now = 1.0
        report(0.5, 10, 7.0)
    assert calls == [(0.5, 10, 7.0)]


# A notebook.


class Widget:
    """A widget of ipywidgets, as far as tqdm uses one."""

    def __init__(self, **attributes):
        self.bar_style, self.is_closed = "", False
        self.layout, self.style = types.SimpleNamespace(), types.SimpleNamespace(bar_color=None)
        self.__dict__.update(attributes)

    def close(self):
        self.is_closed = True


@pytest.fixture
def notebook(monkeypatch):
    """A process in which a notebook's kernel runs; the list of what the notebook displays."""
    displayed = []
    for name in TQDM_MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    shell = types.SimpleNamespace(kernel=object(), config={"IPKernelApp": {}})
    modules = {
        "IPython": types.SimpleNamespace(get_ipython=lambda: shell),
        "IPython.display": types.SimpleNamespace(display=displayed.append),
        "ipykernel.zmqshell": types.SimpleNamespace(),
        "ipywidgets": None,  # cannot be imported
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("QT_API", raising=False)
    yield displayed
    for name in TQDM_MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def widgets(monkeypatch, notebook):
    """The same, with ipywidgets."""
    module = types.SimpleNamespace(FloatProgress=Widget, HBox=Widget, HTML=Widget)
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    return notebook


def shown_by(container):
    """(text on the left, value of the bar, its style, text on the right) of a widget of tqdm."""
    left, bar, right = container.children
    return left.value.replace("\u2007", " "), bar.value, bar.bar_style, right.value.replace("\u2007", " ")


@pytest.mark.parametrize("show", [None, True])
def test_a_notebook_with_ipywidgets_gets_a_widget_that_stays(show, clock, widgets, capfd):
    shown = []
    work(clock, show, hook=lambda *_: shown.append(shown_by(widgets[0])))
    assert len(widgets) == 1 and len(shown) == 8
    left, value, style, right = shown[3]
    assert (left, value, style) == ("students:  50%", 500, "") and right.endswith(", 2 s left, 1.0 M steps/s")
    left, value, style, right = shown_by(widgets[0])
    assert (left, value, style) == ("students: 100%", 1000, "success") and right.endswith(", done, 1.0 M steps/s")
    assert not widgets[0].is_closed
    assert capfd.readouterr() == ("", "")


def test_a_widget_says_that_work_was_stopped(clock, widgets):
    with pytest.raises(KeyboardInterrupt):
        work(clock, stop_at=1.0)
    left, value, style, right = shown_by(widgets[0])
    assert (left, value, style) == ("students:  25%", 250, "danger") and right.endswith(", stopped, 1.0 M steps/s")


@pytest.mark.parametrize("show", [None, True])
def test_a_notebook_without_ipywidgets_gets_a_bar_of_text_and_no_warning(show, clock, notebook, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work(clock, show)
    assert not caught and not notebook
    out, text = capfd.readouterr()
    assert out == ""
    assert re.search(r"\rstudents:  50%\|[^|]*\| .*, 2 s left, 1\.0 M steps/s", text)
    assert re.fullmatch(r"students: 100%\|[^|]+\| .*, done, 1\.0 M steps/s *\n", text.rsplit("\r", 1)[1])
    assert text.count("\n") == 1


def test_a_bar_of_text_says_that_work_was_stopped(clock, notebook, capfd):
    with pytest.raises(KeyboardInterrupt):
        work(clock, stop_at=1.0)
    last = capfd.readouterr().err.rsplit("\r", 1)[1]
    assert re.fullmatch(r"students:  25%\|[^|]*\| .*, stopped, 1\.0 M steps/s *\n", last)


def test_nothing_in_a_notebook_where_nothing_is_to_be_shown(clock, widgets, capfd):
    work(clock, False)
    assert widgets == [] and capfd.readouterr() == ("", "")
    assert "tqdm.auto" not in sys.modules


def test_ipython_without_a_kernel_is_no_notebook(clock, widgets, capfd):
    sys.modules["IPython"].get_ipython().kernel = None
    work(clock, True)
    assert widgets == []
    assert capfd.readouterr().err == "students: done in 4 s, 1.0 M steps/s\n"
