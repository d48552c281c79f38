"""Progress of long work, from the host: a bar on a terminal, plain lines in a log, a hook for programs."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

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
    """Called with (fraction done, environment steps); a context manager.

    Args:
      label: what is being done.
      show: True: a bar on a terminal, lines elsewhere; False: nothing; None: a bar on a terminal only.
      hook: called about twice a second with (fraction, steps, seconds left), and once at the end.
    """

    def __init__(self, label: str, show: bool | None = None, hook: Hook | None = None):
        terminal = sys.stderr.isatty()
        self.label, self.hook, self.steps = label, hook, 0
        self.lines = bool(show) and not terminal
        self.started = time.perf_counter()
        self.last_line = self.last_hook = self.started
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        hidden = show is False or not terminal
        self.bar = tqdm(total=1000, disable=hidden, bar_format=form, desc=label, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.bar.close()
        if kind is None and (self.lines or not self.bar.disable):
            print(f"{self.label}: done in {duration(self._seconds())}, {self._rate()}", file=sys.stderr, flush=True)

    def __call__(self, fraction: float, steps: int) -> None:
        now = time.perf_counter()
        self.steps = steps
        if fraction < 1 and now - self.last_hook < _HOOK_SECONDS:
            return
        self.last_hook = now
        left = self._seconds() * (1 - fraction) / fraction if fraction > 0 else float("inf")
        self.bar.set_postfix_str(f"{duration(left)} left, {self._rate()}", refresh=False)
        self.bar.update(int(1000 * fraction) - self.bar.n)
        if self.lines and fraction < 1 and now - self.last_line >= _LINE_SECONDS:
            self.last_line = now
            text = f"{self.label}: {fraction:.0%}, {duration(left)} left, {self._rate()}"
            print(text, file=sys.stderr, flush=True)
        if self.hook is not None:
            self.hook(fraction, steps, left)

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _rate(self) -> str:
        return f"{self.steps / max(self._seconds(), 1e-9) / 1e6:.1f} M steps/s"
