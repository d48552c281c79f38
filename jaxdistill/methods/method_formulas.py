"""The formula of a whole method: its expected update, loss, reward and return, with the definitions that they need.

Every method descends g = E_q sum_t (grad l_t - Rhat_t grad log pi_theta(a_t)), from which `method_formula` leaves out
what the method does not have.
"""

import dataclasses
import inspect

from jaxdistill.methods.expressions import (
    DISCOUNT,
    NEXT_TEACHER_VALUE,
    STUDENT_VALUE,
    Expression,
    Later,
    Number,
    Place,
    Sum,
    Symbol,
)
from jaxdistill.methods.formulas import WithoutFormula, expected_sum, formula_of
from jaxdistill.methods.method import Method, StepFn
from jaxdistill.methods.policy_sums import definitions

GRADIENT, LOSS, REWARD_SUM, RETURN = (
    Symbol("g"), Symbol("l_t", "l_t"), Symbol("rhat_t", "r'_t"), Symbol("Rhat_t", "R_t")
)  # fmt: skip
"""The left sides of a method's formula; rhat_t and Rhat_t are r'_t and R_t in LaTeX, as in the documentation."""

_LOSS_GRADIENT = Symbol("grad l_t", r"\nabla_\theta l_t")
_SCORE = Symbol("grad log pi_theta(a_t)", r"\nabla_\theta \log \pi_\theta(a_t)")
_NEXT_STUDENT_VALUE = Symbol("V_theta(s_{t+1})", r"V_\theta(s_{t+1})")

SYMBOLS = (
    "pi is the teacher and pi_theta the student, in the state s_t where the student took the action a_t; r_t is the "
    "environment's reward, V_pi and V_theta are the values of teacher and student, and gamma is the discount. sg[x] is "
    "x, not differentiated. In a logarithm, pi is at least probability_floor, 1e-6 unless it is configured."
)
"""What the symbols of formulas mean."""

FURTHER = " ref and pi_2 are the teacher's first further policy (Teacher.others), in a logarithm at least floor."
"""What the symbols of formulas with a further policy mean."""


@dataclasses.dataclass(frozen=True)
class MethodFormula:
    """The formula of a method.

    Attributes:
      equations: the pairs (left, right) of g, l_t, rhat_t and Rhat_t; those that the method does not have are left out.
    """

    equations: tuple[tuple[Symbol, Expression], ...]

    def __getitem__(self, left: str) -> Expression:
        """The right side of an equation by the text of its left side, such as "l_t"; KeyError if there is none."""
        return {symbol.text: right for symbol, right in self.equations}[left]

    def lines(self, latex: bool = False) -> list[tuple[str, str]]:
        """The equations as plain text or as LaTeX."""
        place = Place(latex)
        return [(left.written(place), right.written(place)) for left, right in self.equations]

    def definitions(self, latex: bool = False) -> list[str]:
        """What the names in the equations mean, a line for each."""
        return definitions(*(right for _, right in self.equations), latex=latex)


def method_formula(method: Method) -> MethodFormula:
    """The formula of a method.

    A function of which no formula is known, such as one of the user, is written as its docstring or its name. Where the
    method leaves the estimator open, Rhat_t is the Monte Carlo return; where it leaves the reduction open, g is the sum
    over steps.
    """
    equations: list[tuple[Symbol, Expression]] = []
    loss, reward = _step_formula(method.loss), _step_formula(method.reward)
    next_reward = _step_formula(method.next_reward)
    terms = [_LOSS_GRADIENT] * (loss is not None) + [-RETURN * _SCORE] * method.has_return
    equations.append((GRADIENT, expected_sum(Sum.of(*terms), method.control, method.reduction)))
    if loss is not None:
        equations.append((LOSS, loss))
    if method.has_return:
        parts = [x for x in (reward, None if next_reward is None else Later(next_reward)) if x is not None]
        equations += [(REWARD_SUM, Sum.of(*parts)), (RETURN, _return(method))]
    return MethodFormula(tuple(equations))


def _return(method: Method) -> Expression:
    """Rhat_t by the estimator of the method, or by Monte Carlo."""
    gamma = DISCOUNT if method.discount is None else Number(float(method.discount))
    baseline = -STUDENT_VALUE if method.baseline else Number(0)
    if method.discount == 0:
        return REWARD_SUM + baseline
    if method.estimator not in (None, "mc"):
        next_values = {"student": _NEXT_STUDENT_VALUE, "teacher": NEXT_TEACHER_VALUE, "zero": Number(0)}
        value = next_values[method.bootstrap]
        return REWARD_SUM + (value if value == Number(0) else gamma * value) + baseline
    factor = ("", "") if gamma == Number(1) else (f" {gamma.text}^(i-t)", f" {gamma.latex}^{{i-t}}")
    later_rewards = Symbol(f"sum_{{i>=t}}{factor[0]} rhat_i", rf"\sum_{{i \geq t}}{factor[1]} \, r'_i")
    return later_rewards + baseline


def _step_formula(function: StepFn | None) -> Expression | None:
    """The formula of a loss or reward, or its description as a symbol; None for None."""
    if function is None:
        return None
    try:
        return formula_of(function)
    except WithoutFormula as missing:
        text = inspect.getdoc(function) if inspect.isfunction(function) else None
        words = " ".join((text or str(missing)).split("\n\n")[0].split()).rstrip(".")
        return Symbol(words, rf"\text{{{words}}}")
