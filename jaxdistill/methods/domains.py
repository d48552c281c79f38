"""The numbers that a function accepts: stated where the function is defined, and checked where a number is given.

`reads` states the domains of the numbers that a function of a step reads by name from `step.params`. The function that
a combinator returns has the domains of the functions that it is composed of. So a `Method` has the domains of all
numbers that its functions read.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdistill.methods import schedules
from jaxdistill.runtime import checks

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FLOAT32 = np.finfo(np.float32)


@dataclasses.dataclass(frozen=True)
class Domain:
    """An interval of finite numbers, or the whole numbers in it.

    Attributes:
      least, most: its ends; an infinite end is no bound.
      open: which ends the interval leaves out: "", "least", "most" or "both".
      whole: whether it holds whole numbers only.
      gap: the numbers that are nearer than this to an end, without being the end, are left out.
      note: a sentence about the ends for error messages, such as which objective to use there instead; may be empty.
    """

    least: float = -math.inf
    most: float = math.inf
    open: str = ""
    whole: bool = False
    note: str = ""
    gap: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of("open of a Domain", self.open, ("", "least", "most", "both"))
        ends = checks.numbers("least and most of a Domain", (self.least, self.most))
        if not ends[0] <= ends[1]:
            raise ValueError(f"A Domain needs least <= most; got {self.least!r} and {self.most!r}.")

    def __str__(self) -> str:
        prefix = "a whole number " if self.whole else ""
        if math.isinf(self.least) and math.isinf(self.most):
            return prefix.strip() or "finite"
        if math.isinf(self.most):
            return f"{prefix}{'>' if self._is_open('least') else '>='} {self.least:g}"
        if math.isinf(self.least):
            return f"{prefix}{'<' if self._is_open('most') else '<='} {self.most:g}"
        if self.gap:
            inner = Domain(self.least + self.gap, self.most - self.gap)
            return f"{prefix}{self.least:g}, {self.most:g} or {inner}"
        left, right = "(" if self._is_open("least") else "[", ")" if self._is_open("most") else "]"
        return f"{prefix}in {left}{self.least:g}, {self.most:g}{right}"

    def __and__(self, other: "Domain") -> "Domain":
        """The numbers that both domains hold."""
        least, most = max(self.least, other.least), min(self.most, other.most)
        opens = {
            end
            for end, value in (("least", least), ("most", most))
            for domain in (self, other)
            if getattr(domain, end) == value and domain._is_open(end)
        }
        return Domain(
            least,
            most,
            "both" if len(opens) == 2 else "".join(opens),
            self.whole or other.whole,
            self.note or other.note,
            max(self.gap, other.gap),
        )

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError unless a number, or each entry of an array or a `Schedule`, is in the domain.

        A traced number is not checked, nor is a function of the iteration, which becomes a `Schedule` in training.

        Students hold numbers in float32, so a number must be in the domain before and after it is rounded to float32.
        A number below 1.2e-38 counts as 0, as it does in compiled programs.
        """
        if isinstance(value, jax.core.Tracer) or callable(value):
            return
        given = checks.numbers(name, schedules.numbers_of(value))
        rounded = given.astype(np.float32).astype(np.float64)
        rounded = np.where(np.abs(rounded) < _FLOAT32.tiny, 0, rounded)
        is_inside = self._holds(given, self.least, self.most)
        fits = self._holds(rounded, float(np.float32(self.least)), float(np.float32(self.most)))
        if is_inside.all() and fits.all():
            return
        reason = ", which is outside in float32" if is_inside.all() else ""
        note = f" {self.note}" if self.note else ""
        raise ValueError(f"{name} must be {self}; {schedules.shown(value, is_inside & fits)}{reason}.{note}")

    def _holds(self, numbers: np.ndarray, least: float, most: float) -> np.ndarray:
        above = numbers > least if self._is_open("least") else numbers >= least
        below = numbers < most if self._is_open("most") else numbers <= most
        is_kind = (numbers == np.round(numbers)) if self.whole else np.isfinite(numbers)
        if self.gap:
            low, high = least + self.gap, most - self.gap
            low, high = min(low, float(np.float32(low))), max(high, float(np.float32(high)))
            is_kind &= (numbers == least) | (numbers == most) | ((numbers >= low) & (numbers <= high))
        return above & below & is_kind & np.isfinite(numbers)

    def _is_open(self, end: str) -> bool:
        return self.open in (end, "both")


FINITE, POSITIVE, SHARE = Domain(), Domain(0, open="least"), Domain(0, 1)
FLOOR = Domain(0, 1, open="most")
TEMPERATURE = Domain(1e-3, 1e3)  # beyond, policies are deterministic or uniform up to rounding, and gradients vanish
NUM_ACTIONS = Domain(1, whole=True, note="A k above the number of actions means all of them.")


def reads(**domains: Domain) -> Callable[[_Function], _Function]:
    """A decorator that states the domains of numbers, by the names under which a function reads them."""

    def stated(function: _Function) -> _Function:
        function.domains = {**domains_of(function), **domains}  # type: ignore[attr-defined]
        return function

    return stated


def domains_of(*functions: Any) -> dict[str, Domain]:
    """The domains that functions state, by name; if several state the same name, the intersection of their domains."""
    joined: dict[str, Domain] = {}
    for function in functions:
        stated: Mapping[str, Domain] = getattr(function, "domains", {})
        for name, domain in stated.items():
            joined[name] = joined[name] & domain if name in joined else domain
    return joined
