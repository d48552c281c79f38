"""The formulas of functions and of methods: stated where a function is defined, and derived where it is composed.

`states` gives a function its formula, and `derives` a combinator the rule that makes the formula of its result from
those of its arguments. So a formula is written once, and every objective that is composed of such functions has one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxdistill.methods import policy_sums
from jaxdistill.methods.expressions import (
    PI,
    STUDENT,
    Expression,
    Frozen,
    Number,
    Product,
    Symbol,
    greatest_of,
    least_of,
    sqrt,
)
from jaxdistill.methods.policy_sums import Actions, Inside, Size, given, joined, total


class WithoutFormula(LookupError):
    """A function states no formula, and none follows from how it is composed."""


def states(formula: Any) -> Callable[[Any], Any]:
    """A decorator that states the formula of a function.

    Args:
      formula: an `Expression`; another function, whose formula this is as well; or, for a function of a number such as
        `divergences.jensen_shannon`, a function from the symbol of the number to the formula.
    """

    def stated(function: Any) -> Any:
        function.formula = formula
        return function

    return stated


def derives(rule: Callable[..., Expression]) -> Callable[[Any], Any]:
    """A decorator that says how the formula of what a combinator returns follows from the combinator's arguments.

    The rule takes these arguments, in which each function is replaced by its formula. The decorator stands below
    `composes`.
    """

    def derived(combinator: Any) -> Any:
        combinator.formula_rule = rule
        return combinator

    return derived


def formula_of(function: Any) -> Any:
    """The formula of a function: an `Expression`, or for a divergence of a number a function from its symbol to one.

    Raises WithoutFormula if there is none.
    """
    formula = getattr(function, "formula", None)
    if formula is None:
        raise WithoutFormula(getattr(function, "__name__", repr(function)))
    return formula_of(formula) if hasattr(formula, "formula") else formula


def text_of(function: Any) -> str:
    """The formula of a function as plain text, or the function's name if it has none."""
    try:
        return formula_of(function).text
    except WithoutFormula as missing:
        return str(missing)


def expected_sum(cost: Expression, control: Any, reduction: str | None = None) -> Expression:
    """The expectation E_q sum_t of a cost of each step.

    Args:
      cost: the cost of step t.
      control: the `Control` q of the method.
      reduction: "mean" for the mean over the steps of an episode, "fixed" for the sum divided by `fixed_length`.
    """
    weights = {STUDENT: control.student, PI: control.teacher, Symbol("uniform"): control.uniform}
    alone = [policy for policy, weight in weights.items() if not control.is_scheduled and weight == 1]
    policy = alone[0] if alone else Symbol("q")
    expectation = Symbol(f"E_{policy.text}", rf"\mathbb{{E}}_{{{policy.latex}}}")
    divisors = {"mean": Symbol("T"), "fixed": Symbol("L")}
    share = 1 / divisors[reduction] if reduction in divisors else Number(1)
    return Product.of(expectation, share, Symbol("sum_t", r"\sum_t"), cost)


# --- How the formulas of combined functions are made ------------------------------------------------------------------


def restricted(terms: Expression, owner: str, renormalise: str = "none", tail: bool = False) -> Expression:
    """The formula of `top_k`."""
    actions = Actions({"student": STUDENT, "teacher": PI}[owner])
    if tail:
        joint: dict[Expression, Expression] = {policy: joined(actions, policy) for policy in (PI, STUDENT)}
        return Inside(terms.replaced(joint), dataclasses.replace(actions, has_rest=True))
    divided = {"none": (), "teacher": (PI,), "both": (PI, STUDENT)}[renormalise]
    by: dict[Expression, Expression] = {policy: given(actions, policy) for policy in divided}
    return Inside(terms.replaced(by), actions)


def softened(terms: Expression, scaled: bool = False) -> Expression:
    """The formula of `tempered`."""
    temperature = Symbol("temperature")
    by: dict[Expression, Expression] = {p: policy_sums.softened(p, temperature) for p in (PI, STUDENT)}
    soft = terms.replaced(by)
    return temperature**2 * soft if scaled else soft


def standardised(terms: Expression) -> Expression:
    """The formula of `whitened`."""
    centred = terms - total(STUDENT * terms)
    return Frozen(centred / sqrt(total(STUDENT * centred**2) + Symbol("epsilon")))


def weights(owner: str, weight: str, normalised: bool = True) -> Expression:
    """The formula of `top_k_weights`."""
    actions = Actions({"student": STUDENT, "teacher": PI}[owner])
    if weight == "one":
        return Inside(1 / Size(actions) if normalised else Number(1), actions)
    policy = {"student": STUDENT, "teacher": PI}[weight]
    row = given(actions, policy) if normalised else policy
    return Inside(Frozen(row) if weight == "student" else row, actions)


def bounded(fn: Expression, least: float | None = None, most: float | None = None) -> Expression:
    """The formula of `clamped`."""
    above = fn if least is None else greatest_of(fn, least)
    return above if most is None else least_of(above, most)
