"""How an update of another library is written down: its settings, and which of them are which method here."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxdistill.methods.combinators import Objective, weighted
from jaxdistill.methods.method import STUDENT, TEACHER, Control, Method
from jaxdistill.methods.sources import Source
from jaxdistill.runtime import checks

COEFFICIENT = "coefficient"
"""The number of a method by which its whole update is multiplied."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on the value of a setting, in words and as a function."""

    text: str
    holds: Callable[[Any], bool]


def _numeric(text: str, holds: Callable[[float], bool]) -> Rule:
    """A condition on a number, which other values do not meet."""
    return Rule(text, lambda value: isinstance(value, int | float) and holds(value))


BETWEEN_0_AND_1 = _numeric("between 0 and 1", lambda value: 0 < value < 1)
NOT_1 = _numeric("not 1", lambda value: value != 1)
POSITIVE = _numeric("above 0", lambda value: value > 0)
SET = Rule("given", lambda value: value is not None)


@dataclasses.dataclass(frozen=True)
class Case:
    """Settings of a library whose update is that of a method here.

    Attributes:
      method: the method.
      when: for each setting that decides it, the value, a tuple of values, or a `Rule`.
      numbers: the settings that are numbers of the method: the name of the setting -> that of the number.
      note: where the library's update differs from its own formula in this case; may be empty.
      back_only: whether the case serves the way back from the method alone, because another method comes first.
    """

    method: Method
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""
    back_only: bool = False

    def matches(self, settings: Mapping[str, Any]) -> bool:
        """Whether all settings are those of this case."""
        return not self.back_only and _match(self.when, settings)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Settings for which no method here has the same update, and the reason."""

    when: Mapping[str, Any]
    reason: str


@dataclasses.dataclass(frozen=True)
class LibraryUpdate:
    """A trainer of another library, or a term of its loss.

    Attributes:
      key: its name here, such as "trl.gkd".
      library: the library.
      version: the version and commit that was read.
      place: the file, and the functions in it, that compute the update.
      defaults: the settings that matter, under the library's names, with its defaults.
      cases: the settings for which a method here is the same update; the first one that matches holds.
      difference: where the library's update differs from its formula, or from the method here.
      refusals: the settings without a method here.
      coefficient: the setting that multiplies the whole update; "": none.
      student_share: the setting that is the share of episodes in which the student acts; "": the student always acts.
      discount: the setting that is the discount of the rewards; "": none.
    """

    key: str
    library: Source
    version: str
    place: str
    defaults: Mapping[str, Any]
    cases: tuple[Case, ...]
    difference: str
    refusals: tuple[Refusal, ...] = ()
    coefficient: str = ""
    student_share: str = ""
    discount: str = ""

    def case_of(self, settings: Mapping[str, Any]) -> Case:
        """The case of settings, which are given with all defaults; ValueError if no method here is that update."""
        for refusal in self.refusals:
            if _match(refusal.when, settings):
                raise ValueError(f"{self.key} with {settings_text(refusal.when)} has no method here: {refusal.reason}")
        for case in self.cases:
            if case.matches(settings):
                return case
        known = "; ".join(dict.fromkeys(settings_text(case.when) for case in self.cases))
        raise ValueError(
            f"{self.key} has no method here for {settings_text(settings)}; the settings known are {known}."
        )

    def method(self, **settings: Any) -> Method:
        """The method whose update is that of the settings; the others have the library's defaults.

        Raises ValueError for an unknown setting, and for settings whose update no method here has.
        """
        for name in settings:
            checks.known("setting", name, list(self.defaults), f"the settings of {self.key} are")
        given = {**self.defaults, **settings}
        case = self.case_of(given)
        method = case.method
        if case.numbers:
            method = method.with_params(**{number: given[name] for name, number in case.numbers.items()})
        if self.student_share:
            method = _with_student_share(method, given[self.student_share])
        if self.discount and given[self.discount] != method.discount:
            method = _discounted(method, given[self.discount])
        return scaled(method, given[self.coefficient]) if self.coefficient else method

    def settings_of(self, method: Method) -> tuple[dict[str, Any], Case] | None:
        """The settings whose update is that of a method, with their case; None if there are none.

        A setting that may have several values has the first of them; one that is at its default is left out.
        """
        for case in self.cases:
            if _same_update(case.method, method, bool(self.student_share), bool(self.discount)):
                fixed = {name: value for name, value in case.when.items() if not isinstance(value, Rule)}
                settings = {name: value[0] if isinstance(value, tuple) else value for name, value in fixed.items()}
                settings |= {name: method.params[number] for name, number in case.numbers.items()}
                if self.student_share:
                    settings[self.student_share] = method.control.student
                if self.discount:
                    settings[self.discount] = method.discount
                if self.coefficient and self.defaults[self.coefficient] == 0:
                    settings[self.coefficient] = 1.0
                changed = {name: value for name, value in settings.items() if value != self.defaults[name]}
                return changed, self.case_of({**self.defaults, **settings})
        return None


def scaled(method: Method, coefficient: float) -> Method:
    """The method whose update is multiplied by a coefficient, which becomes one of its numbers."""
    if coefficient == 1:
        return method
    functions = ["loss", "reward", "next_reward"] + ["state_loss", "total_loss"] * isinstance(method, Objective)
    changed: dict[str, Any] = {
        name: weighted(getattr(method, name), COEFFICIENT) for name in functions if getattr(method, name) is not None
    }
    if isinstance(method, Objective) and (method.state_loss or method.total_loss):
        changed |= {"gradient_of": "", "description": ""}
    params = {**method.params, COEFFICIENT: 1.0}
    return dataclasses.replace(method, params=params, **changed).with_params(coefficient=coefficient)


def _with_student_share(method: Method, share: float) -> Method:
    """The method in which the student acts in this share of episodes, and the teacher in the others."""
    checks.number("the student's share of episodes", share, 0, 1)
    alone: dict[float, Control] = {1.0: STUDENT, 0.0: TEACHER}
    control = alone[share] if share in alone else Control(student=share, teacher=1 - share, per="episode")
    if control == method.control:
        return method
    name = f"{method.name}:student={share:g}"
    if isinstance(method, Objective) and method.total_loss is not None:
        return dataclasses.replace(method, name=name, control=control, gradient_of="", description="", total_loss=None)
    return dataclasses.replace(method, name=name, control=control)


def _discounted(method: Method, discount: float) -> Method:
    """The method with another discount and Monte Carlo returns; its claim of a loss does not hold any more."""
    checks.number("the discount", discount, 0, 1)
    claims: dict[str, Any] = dict(gradient_of="", description="", state_loss=None, total_loss=None)
    lost = claims if isinstance(method, Objective) else {}
    name = f"{method.name}:discount={discount:g}"
    return dataclasses.replace(method, name=name, discount=discount, estimator="mc", **lost)


def _same_update(case: Method, method: Method, any_share: bool, any_discount: bool) -> bool:
    """Whether a method has the functions of a case and uses them in the same way; their numbers may differ.

    Args:
      case: the method of the case.
      method: the method; where it leaves the estimator open, it can be that of the case.
      any_share: whether the student may act in any share of episodes, and the teacher in the others.
      any_discount: whether the discount may differ.
    """
    names = ["loss", "reward", "next_reward", "bootstrap", "baseline"] + ["discount"] * (not any_discount)
    control, weights = method.control, method.control.weights
    is_share = not control.is_scheduled and control.uniform == 0 and (control.per == "episode" or 1 in weights)
    has_control = is_share if any_share else control == case.control
    has_estimator = method.estimator in (case.estimator, None) or (any_discount and method.estimator == "mc")
    return has_control and has_estimator and all(getattr(case, name) == getattr(method, name) for name in names)


def _match(when: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(_holds(expected, settings[name]) for name, expected in when.items())


def _holds(expected: Any, value: Any) -> bool:
    if isinstance(expected, Rule):
        return expected.holds(value)
    return value in expected if isinstance(expected, tuple) else value == expected


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in words, such as "beta = 1, lmbda = 0.5"."""
    return ", ".join(_setting_text(name, value) for name, value in settings.items())


def _setting_text(name: str, value: Any) -> str:
    """A setting with its value, its values, or its condition in words."""
    if isinstance(value, Rule):
        return f"{name} {value.text}"
    values = value if isinstance(value, tuple) else (value,)
    return f"{name} = {' or '.join(map(str, values))}"
