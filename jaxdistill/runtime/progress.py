"""Progress of long work: a bar on a terminal or in a notebook, lines in a log, and calls of a hook."""

import contextlib
import contextvars
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType

from tqdm import TqdmWarning, tqdm

Hook = Callable[[float, int, float], None]
_LINE_SECONDS = 10.0  # between lines of a log
_HOOK_SECONDS = 0.5
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
_BAR_PARTS = 1000
_FIRST_WAIT_SECONDS, _WAIT_SECONDS = 5.0, 60.0  # until a wait is reported for the first time, and then again
_IS_SILENT: contextvars.ContextVar[bool] = contextvars.ContextVar("_IS_SILENT", default=False)


def duration(seconds: float) -> str:
    """3723.4 -> '1 h 02 min', 95 -> '1 min 35 s', 8.2 -> '8 s'."""
    if not seconds < 1e7:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def say(text: str) -> None:
    """Prints a line to stderr, above the progress bar if there is a bar; nothing inside `silent`."""
    if sys.stderr is not None and not _IS_SILENT.get():
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, `say` prints nothing: the caller of a shard reports its progress, and not its worker."""
    token = _IS_SILENT.set(True)
    try:
        yield
    finally:
        _IS_SILENT.reset(token)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Prints to stderr, within the block, what is waited for: after five seconds, and then every minute."""
    is_over, is_silent = threading.Event(), _IS_SILENT.get()

    def report() -> None:
        seconds, started = _FIRST_WAIT_SECONDS, time.monotonic()
        while not is_over.wait(seconds):
            if sys.stderr is not None and not is_silent:
                print(f"waiting for {what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            seconds = _WAIT_SECONDS

    thread = threading.Thread(target=report, name="jaxdistill-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Progress:
    """Shows the progress of one piece of work; a context manager, called with what has been done so far.

    A call takes the fraction done, the environment steps so far, and the seconds left where a better estimate than the
    one from these two exists. Bars and lines go to stderr. A notebook shows tqdm's widget where ipywidgets is
    installed, else a bar of text. A log is sent whole lines without control characters.

    Args:
      label: what is being done.
      show: True: a bar on a terminal or in a notebook, a line every ten seconds elsewhere; None: the same, but
        elsewhere nothing for work that ends within ten seconds; False: nothing.
      hook: called about twice a second with (fraction, steps, seconds left), and once at the end.
    """

    def __init__(self, label: str, show: bool | None = None, hook: Hook | None = None):
        if sys.stderr is None:
            show = False
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.in_notebook = not on_terminal and _in_notebook()
        self.label, self.hook, self.steps = label, hook, 0
        self.writes_lines = show is not False and not (on_terminal or self.in_notebook)
        self.writes_end = not self.in_notebook and (on_terminal if show is None else show)
        self.started = time.perf_counter()
        self.last_line = self.last_hook = self.started
        bar_type = _notebook_bar() if self.in_notebook and show is not False else tqdm
        self.bar = bar_type(
            total=_BAR_PARTS, desc=label, bar_format=_BAR_FORMAT,
            disable=show is False or self.writes_lines,
            leave=self.in_notebook,  # a notebook keeps the bar, and a terminal one line in its place
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self.in_notebook:
            self._draw(self.bar.n if kind else _BAR_PARTS, f"{'stopped' if kind else 'done'}, {self._rate()}")
        self.bar.close()
        if kind is None and self.writes_end:
            self._write_line(f"done in {duration(self._seconds())}, {self._rate()}")

    def __call__(self, fraction: float, steps: int, left: float | None = None) -> None:
        now = time.perf_counter()
        self.steps = steps
        if fraction < 1 and now - self.last_hook < _HOOK_SECONDS:
            return
        self.last_hook = now
        if left is None:
            left = self._seconds() * (1 - fraction) / fraction if fraction > 0 else float("inf")
        outlook = f"{duration(left)} left, {self._rate()}"
        self._draw(int(_BAR_PARTS * fraction), outlook)
        if self.writes_lines and fraction < 1 and now - self.last_line >= _LINE_SECONDS:
            self.last_line, self.writes_end = now, True
            self._write_line(f"{fraction:.0%}, {outlook}")
        if self.hook is not None:
            self.hook(fraction, steps, left)

    def rename(self, label: str) -> None:
        """Changes the label, from the next report on."""
        self.label = label
        self.bar.set_description_str(label, refresh=False)

    def _draw(self, num_parts: int, text: str) -> None:
        self.bar.n = num_parts
        self.bar.set_postfix_str(text)  # draws, unless the bar is disabled

    def _write_line(self, text: str) -> None:
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _rate(self) -> str:
        return f"{self.steps / max(self._seconds(), 1e-9) / 1e6:.1f} M steps/s"


def _in_notebook() -> bool:
    """True where IPython runs as the kernel of a notebook. IPython is not imported for the answer."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def _notebook_bar() -> type[tqdm]:
    """tqdm's bar for the notebook that runs: a widget, or text where ipywidgets is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", TqdmWarning
        )  # tqdm's advice to install ipywidgets; its bar of text does as well
        from tqdm.auto import tqdm as auto_tqdm
    return auto_tqdm
