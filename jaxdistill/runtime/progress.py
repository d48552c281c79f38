"""Progress of long work, from the host: a bar on a terminal, a line in a notebook, lines in a log, or a hook."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from jaxdistill.runtime import processes

Hook = Callable[[float, int, float], None]
_LINE_SECONDS = 10.0  # between lines of a log
_HOOK_SECONDS = 0.5


def duration(seconds: float) -> str:
    """3723.4 -> '1 h 02 min', 95 -> '1 min 35 s', 8.2 -> '8 s'."""
    if not seconds < 1e7:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Progress:
    """Called with (fraction done, environment steps, seconds left if known better than from these); a context manager.

    Writes to stderr, or below a notebook's cell. Only a terminal is sent control characters: a notebook's line is
    replaced, and a log gets whole lines.

    Args:
      label: what is being done.
      show: True: a bar on a terminal, a line in a notebook, a line every ten seconds elsewhere; None: the same, but
        elsewhere nothing of what ends within ten seconds; False: nothing.
      hook: called about twice a second with (fraction, steps, seconds left), and once at the end.
    """

    def __init__(self, label: str, show: bool | None = None, hook: Hook | None = None):
        show = show if processes.is_writer() else False  # one voice is enough
        terminal = sys.stderr.isatty()
        display = None if terminal or show is False else _notebook()
        self.label, self.hook, self.steps = label, hook, 0
        self.lines = show is not False and not terminal and display is None
        self.says_done = terminal if show is None else show
        self.cell = display({"text/plain": label}, raw=True, display_id=True) if display else None
        self.started = time.perf_counter()
        self.last_line = self.last_hook = self.started
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self.bar = tqdm(total=1000, disable=show is False or not terminal, bar_format=form, desc=label, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.bar.close()
        end = "done in" if kind is None else "stopped after"
        text = f"{self.label}: {end} {duration(self._seconds())}, {self._rate()}"
        if self.cell is not None:
            self.cell.update({"text/plain": text}, raw=True)
        elif kind is None and self.says_done:
            print(text, file=sys.stderr, flush=True)

    def __call__(self, fraction: float, steps: int, left: float | None = None) -> None:
        now = time.perf_counter()
        self.steps = steps
        if fraction < 1 and now - self.last_hook < _HOOK_SECONDS:
            return
        self.last_hook = now
        if left is None:
            left = self._seconds() * (1 - fraction) / fraction if fraction > 0 else float("inf")
        ahead = f"{duration(left)} left, {self._rate()}"
        self.bar.set_postfix_str(ahead, refresh=False)
        self.bar.update(int(1000 * fraction) - self.bar.n)
        if self.cell is not None:
            text = f"{self.label}: {fraction:.0%}, {ahead}"
            html = f'<progress value="{fraction:.3f}"></progress> {text}'
            self.cell.update({"text/plain": text, "text/html": html}, raw=True)
        if self.lines and fraction < 1 and now - self.last_line >= _LINE_SECONDS:
            self.last_line, self.says_done = now, True
            print(f"{self.label}: {fraction:.0%}, {ahead}", file=sys.stderr, flush=True)
        if self.hook is not None:
            self.hook(fraction, steps, left)

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _rate(self) -> str:
        return f"{self.steps / max(self._seconds(), 1e-9) / 1e6:.1f} M steps/s"


def _notebook() -> Any:
    """IPython's `display` where code runs in a notebook, else None; IPython is never imported for it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None or "IPython.display" not in sys.modules:
        return None
    return sys.modules["IPython.display"].display
