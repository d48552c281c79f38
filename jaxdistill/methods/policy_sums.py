"""Formulas of policies: sums over actions, sets of actions, and policies with a name of their own.

`total` simplifies a sum over the actions, so that the sum of p log(p / q) is KL(p||q) wherever it arises. A
`Definition` is written as a name; `definitions` are the lines that say what the names of a formula mean.
"""

import dataclasses
from typing import Any

from jaxdistill.methods.expressions import (
    PREFIX,
    PRODUCT,
    SUM,
    Call,
    Cases,
    Expression,
    Negative,
    Place,
    Product,
    Quotient,
    Sum,
    Symbol,
    as_expression,
    log,
)

_ONE, _IN, _SUM, _OR = ("1", r"\mathbb{1}"), ("in", r"\in"), ("sum", r"\sum"), ("||", r" \| ")  # as text, as LaTeX
_TEXT = r"\text"


@dataclasses.dataclass(frozen=True)
class Actions(Expression):
    """S, the k most probable actions of a policy; or R, these and all others together as one more action.

    Attributes:
      owner: the policy.
      has_rest: whether all other actions count as one more.
    """

    owner: Expression
    has_rest: bool = False

    @property
    def is_row(self) -> bool:
        return False

    def written(self, place: Place) -> str:
        return "R" if self.has_rest else "S"

    def member(self, place: Place) -> str:
        """The text "a in S" for the action of a place."""
        return place.timed(f"{place.action} {place.spelled(*_IN)} {self.written(place)}")

    def line(self, place: Place) -> str:
        """The definition."""
        words = ("the k most probable actions of ", ", held fixed")
        if self.has_rest:
            words = ("S, and all other actions together as one", "")
        before, after = (place.spelled(text, f"{_TEXT}{{{text}}}" if text else "") for text in words)
        return f"{self.written(place)} = {before}{'' if self.has_rest else self.owner.written(place)}{after}"


@dataclasses.dataclass(frozen=True)
class Size(Expression):
    """The number of actions in a set, |S|."""

    actions: Actions

    def written(self, place: Place) -> str:
        return f"|{self.actions.written(place)}|"


@dataclasses.dataclass(frozen=True)
class Inside(Expression):
    """A row that is 0 outside a set of actions."""

    row: Expression
    actions: Actions
    level = PRODUCT

    def written(self, place: Place) -> str:
        return f"{place.spelled(*_ONE)}[{self.actions.member(place)}] {self.row.enclosed(place, PREFIX)}"


@dataclasses.dataclass(frozen=True)
class Taken(Expression):
    """The entry of a row at the action taken, a_t."""

    row: Expression

    @property
    def is_row(self) -> bool:
        return False

    @property
    def binding(self) -> int:
        return self.row.binding

    def written(self, place: Place) -> str:
        return self.row.written(place._replace(action="a_t"))


@dataclasses.dataclass(frozen=True)
class Total(Expression):
    """The sum of a row over all actions, or over a set of them."""

    row: Expression
    actions: Actions | None = None
    level = PRODUCT
    is_open = True

    @property
    def is_row(self) -> bool:
        return False

    def written(self, place: Place) -> str:
        inner = Place(place.latex, "b" if place.action == "a" else "a")
        below = inner.action if self.actions is None else f"{{{self.actions.member(inner)}}}"
        text = f"{place.spelled(*_SUM)}_{below} {self.row.enclosed(inner, PRODUCT)}"
        return f"[{text}]_{{t+1}}" if place.later else text


@dataclasses.dataclass(frozen=True)
class Divergence(Expression):
    """A sum over the actions that has a name: KL(p||q), H(p||q) or H(p)."""

    name: str
    policies: tuple[Expression, ...]

    @property
    def is_row(self) -> bool:
        return False

    def written(self, place: Place) -> str:
        whole = Place(place.latex)  # policies without an index
        policies = place.spelled(*_OR).join(policy.written(whole) for policy in self.policies)
        name = rf"\text{{{self.name}}}" if place.latex and len(self.name) > 1 else self.name
        return f"{name}({policies}){'_{t+1}' if place.later else ''}"


@dataclasses.dataclass(frozen=True)
class Definition(Expression):
    """A part of a formula that is written as a name.

    Attributes:
      name, tex: as plain text and as LaTeX.
      body: what the name stands for.
      actions: the actions outside which it is 0; None: all actions.
      suffix: the ending of the name, which tells definitions apart.
    """

    name: str
    tex: str
    body: Expression
    actions: Actions | None = None
    suffix: str = ""
    is_name = True

    def replaced(self, by: Any, suffix: str = "") -> Expression:
        new = super().replaced(by, suffix)
        return dataclasses.replace(new, suffix=suffix) if isinstance(new, Definition) and new != self else new

    def written(self, place: Place) -> str:
        return place.indexed((self.tex if place.latex else self.name) + self.suffix, self.is_row)

    def line(self, latex: bool) -> str:
        """The definition, such as "m(a) = beta pi(a) + (1 - beta) pi_theta(a)"."""
        place = Place(latex, "a" if self.is_row else "")
        return f"{self.written(place)} = {self.body.written(place)}"


@dataclasses.dataclass(frozen=True)
class Rest(Expression):
    """A policy on a set of actions, and its mass on all other actions as a last entry."""

    policy: Expression
    actions: Actions
    level = SUM

    def written(self, place: Place) -> str:
        member, mass = self.actions.member(place), Total(self.policy, self.actions).written(place)
        words = f"for {member}, and 1 - {mass} for all other actions together"
        if place.latex:
            words = rf"\text{{ for }} {member} \text{{, and }} 1 - {mass} \text{{ for all other actions together}}"
        return f"{self.policy.written(place)} {words}"


# --- From rows to numbers -----------------------------------------------------------------------------------------


def taken(row: Any) -> Expression:
    """The entry of a row at the action taken; the parts of it that are numbers stay as they are."""
    row = as_expression(row)
    if isinstance(row, Sum):
        return Sum.of(*map(taken, row.terms))
    if isinstance(row, Product):
        return Product.of(*map(taken, row.factors))
    if isinstance(row, Negative):
        return -taken(row.operand)
    if isinstance(row, Quotient):
        return taken(row.numerator) / taken(row.denominator)
    return Taken(row) if row.is_row else row


def total(row: Any) -> Expression:
    """The sum of a row over the actions, simplified.

    Sums are taken apart, numbers go before the sum, the actions outside a set are left out, and KL divergences and
    entropies get their names.
    """
    row = as_expression(row)
    if isinstance(row, Sum):
        return Sum.of(*map(total, row.terms))
    if isinstance(row, Cases):
        return Cases(row.relations, tuple(map(total, row.values)))
    if isinstance(row, Negative):
        return -total(row.operand)
    if isinstance(row, Quotient) and not row.denominator.is_row:
        return _divided(total(row.numerator), row.denominator)
    factors = row.factors if isinstance(row, Product) else (row,)
    actions = next((factor.actions for factor in factors if isinstance(factor, Inside)), None)
    inner = (factor.row if isinstance(factor, Inside) else factor for factor in factors)
    return _sum_over(actions, Product.of(*inner))


def _divided(numerator: Expression, denominator: Expression) -> Expression:
    """A fraction, whose denominator goes into the numerator's sum over actions if there is one."""
    if isinstance(numerator, Total):
        return Total(numerator.row / denominator, numerator.actions)
    if isinstance(numerator, Product) and isinstance(numerator.factors[-1], Total):
        return Product.of(*numerator.factors[:-1], _divided(numerator.factors[-1], denominator))
    return numerator / denominator


def _sum_over(actions: Actions | None, row: Expression) -> Expression:
    """The sum of a row over a set, in which signs and numbers go before the sum."""
    if isinstance(row, Negative):
        return -_sum_over(actions, row.operand)
    if isinstance(row, Sum):
        return Sum.of(*(_sum_over(actions, term) for term in row.terms))
    factors = row.factors if isinstance(row, Product) else (row,)
    numbers, rows = ([x for x in factors if x.is_row is is_row] for is_row in (False, True))
    return Product.of(*numbers, _named(actions, Product.of(*rows)))


def _named(actions: Actions | None, row: Expression) -> Expression:
    """The sum of a row over a set, under its name if it is a KL divergence or an entropy."""
    if isinstance(row, Product) and len(row.factors) == 2:
        p, logarithm = row.factors
        is_whole = actions is None or (isinstance(p, Definition) and p.actions == actions)
        if is_whole and isinstance(logarithm, Call) and logarithm.name == "log":
            (x,) = logarithm.arguments
            if isinstance(x, Quotient):
                return Divergence("KL", (p, x.denominator)) if x.numerator == p else Total(row, actions)
            return -Divergence("H", (p,) if x == p else (p, x))
    return Total(row, actions)


def kl(p: Expression, q: Expression) -> Expression:
    """The terms p(a) log(p(a) / q(a)) of KL(p||q), a row."""
    return p * log(p / q)


# --- Policies with a name -----------------------------------------------------------------------------------------


def mixture(weight: Any, p: Expression, q: Expression) -> Expression:
    """The mixture m = weight p + (1 - weight) q of two policies."""
    return Definition("m", "m", weight * p + (1 - weight) * q)


def given(actions: Actions, policy: Expression) -> Expression:
    """A policy divided by its mass on a set of actions, such as pi_S."""
    return Definition(*_marked(policy, "S", "S"), policy / Total(policy, actions), actions)


def joined(actions: Actions, policy: Expression) -> Expression:
    """A policy in which all actions outside a set are one action, such as pi_R."""
    outside = dataclasses.replace(actions, has_rest=True)
    return Definition(*_marked(policy, "R", "R"), Rest(policy, actions), outside)


def softened(policy: Expression, temperature: Any) -> Expression:
    """A policy raised to the power 1 / temperature and normalised, such as pi_soft."""
    power = policy ** (1 / as_expression(temperature))
    return Definition(*_marked(policy, "soft", r"\text{soft}"), power / Total(power))


def _marked(policy: Expression, mark: str, tex: str) -> tuple[str, str]:
    """The name of a policy with a mark at its end, as plain text and as LaTeX."""
    base, _, index = policy.latex.partition("_")
    inner = index.removeprefix("{").removesuffix("}")
    return f"{policy.text}_{mark}", f"{base}_{{{inner}{',' if inner else ''}{tex}}}"


_P, _Q = Symbol("p", "p", True), Symbol("q", "q", True)
_NAMED = {"KL": ((_P, _Q), Total(_P * log(_P / _Q))), "H": ((_P, _Q), -Total(_P * log(_Q)))}
_ENTROPY = ((_P,), -Total(_P * log(_P)))


def definitions(*expressions: Expression, latex: bool = False) -> list[str]:
    """The definitions that formulas need, a line for each, those first on which others depend."""
    lines: dict[str, None] = {}
    for part in (part for expression in expressions for part in expression.walk()):
        if isinstance(part, Definition):
            lines[part.line(latex)] = None
        elif isinstance(part, Divergence):
            policies, body = _NAMED[part.name] if len(part.policies) == 2 else _ENTROPY
            name = Divergence(part.name, policies).written(Place(latex))
            lines[f"{name} = {body.written(Place(latex))}"] = None
        elif isinstance(part, Actions):
            lines[part.line(Place(latex))] = None
    return list(lines)
