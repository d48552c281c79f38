"""Formulas as data: one tree for each, which is written as plain text and as LaTeX.

A tree has no indices; they appear where it is written. The policy PI is a row, one number for each action, and
arithmetic with rows is meant action by action: PI / STUDENT is written "pi(a) / pi_theta(a)" in a sum over actions, and
"pi(a_t) / pi_theta(a_t)" where the action taken is meant. Sums over actions and named policies are in `policy_sums`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

SUM, PRODUCT, PREFIX, ATOM = range(4)
"""How tightly a part of a formula binds; it gets parentheses where its place asks for more."""

_ONE, _STOP, _IF, _OTHERWISE = r"\mathbb{1}", r"\text{sg}", r"\text{ if }", r"\text{ otherwise}"
_GREEK = ("alpha", "beta", "gamma", "epsilon")


class Place(NamedTuple):
    """Where a part of a formula is written.

    Attributes:
      latex: whether as LaTeX; otherwise as plain text.
      action: the action at which a row is meant, "a", "b" or "a_t"; "" where a policy is meant as a whole.
      later: whether all is meant one step later, at t + 1.
    """

    latex: bool = False
    action: str = ""
    later: bool = False

    def spelled(self, text: str, latex: str) -> str:
        """The spelling for this place."""
        return latex if self.latex else text

    def timed(self, text: str) -> str:
        """A symbol such as r_t or V_pi(s_t), in its step."""
        return re.sub(r"_t\b", "_{t+1}", text) if self.later else text

    def indexed(self, name: str, is_row: bool) -> str:
        """A name, with the action behind it where the place has one."""
        return self.timed(f"{name}({self.action})" if is_row and self.action else name)


@dataclasses.dataclass(frozen=True)
class Expression:
    """A part of a formula; arithmetic gives further expressions, and two are equal if they have the same parts.

    Attributes:
      level: how tightly it binds, unless `binding` says otherwise.
      is_name: whether it is written as a single name.
      is_open: whether it extends to the end of a product, as a sum over actions does.
    """

    level: ClassVar[int] = ATOM
    is_name: ClassVar[bool] = False
    is_open: ClassVar[bool] = False

    def __add__(self, other: Any) -> "Expression":
        return Sum.of(self, as_expression(other))

    def __radd__(self, other: Any) -> "Expression":
        return Sum.of(as_expression(other), self)

    def __sub__(self, other: Any) -> "Expression":
        return Sum.of(self, -as_expression(other))

    def __rsub__(self, other: Any) -> "Expression":
        return Sum.of(as_expression(other), -self)

    def __mul__(self, other: Any) -> "Expression":
        return Product.of(self, as_expression(other))

    def __rmul__(self, other: Any) -> "Expression":
        return Product.of(as_expression(other), self)

    def __truediv__(self, other: Any) -> "Expression":
        return Quotient(self, as_expression(other))

    def __rtruediv__(self, other: Any) -> "Expression":
        return Quotient(as_expression(other), self)

    def __pow__(self, other: Any) -> "Expression":
        return Power(self, as_expression(other))

    def __neg__(self) -> "Expression":
        return Negative(self)

    @property
    def text(self) -> str:
        """The formula as plain text."""
        return self.written(Place())

    @property
    def latex(self) -> str:
        """The formula as LaTeX."""
        return self.written(Place(latex=True))

    @property
    def parts(self) -> tuple["Expression", ...]:
        """The expressions of which it is made."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        groups = (value if isinstance(value, tuple) else (value,) for value in values)
        return tuple(part for group in groups for part in group if isinstance(part, Expression))

    @property
    def is_row(self) -> bool:
        """Whether it has an entry for each action."""
        return any(part.is_row for part in self.parts)

    @property
    def binding(self) -> int:
        """How tightly it binds when it is written as plain text."""
        return self.level

    def written(self, place: Place) -> str:
        """The formula as it is written in a place."""
        raise NotImplementedError

    def enclosed(self, place: Place, least: int) -> str:
        """The formula, in parentheses if it binds less tightly than `least`."""
        text = self.written(place)
        is_fraction = place.latex and isinstance(self, Quotient) and least < ATOM
        return text if self.binding >= least or is_fraction else f"({text})"

    def replaced(self, by: Mapping["Expression", "Expression"], suffix: str = "") -> "Expression":
        """The formula with some of its parts replaced; the names of definitions that change get the ending `suffix`."""

        def new(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(new, value))
            return value.replaced(by, suffix) if isinstance(value, Expression) else value

        if self in by:
            return by[self]
        return dataclasses.replace(self, **{f.name: new(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def walk(self) -> Iterator["Expression"]:
        """All parts, each after those that it is made of, and then the formula itself."""
        for part in self.parts:
            yield from part.walk()
        yield self


def as_expression(value: Any) -> Expression:
    """A number as an `Expression`, and an expression as it is."""
    return value if isinstance(value, Expression) else Number(value)


# --- Symbols and numbers ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Symbol(Expression):
    """A number or a policy with a name, such as beta, r_t or pi.

    Attributes:
      name: as plain text.
      tex: as LaTeX; "" makes it of the name: a letter, a Greek letter, or a word in upright letters.
      has_actions: whether it has an entry for each action, as a policy has.
    """

    name: str
    tex: str = ""
    has_actions: bool = False
    is_name = True

    @property
    def is_row(self) -> bool:
        return self.has_actions

    def written(self, place: Place) -> str:
        return place.indexed(self._latex_name if place.latex else self.name, self.has_actions)

    @property
    def _latex_name(self) -> str:
        word = f"\\{self.name}" if self.name in _GREEK else rf"\text{{{self.name}}}"
        return self.tex or (self.name if len(self.name) == 1 else word)


@dataclasses.dataclass(frozen=True)
class Number(Expression):
    """A number, which is written with at most seven digits."""

    value: float

    @property
    def binding(self) -> int:
        return ATOM if self.value >= 0 else SUM

    def written(self, place: Place) -> str:
        return f"{self.value:.7g}"


PI, STUDENT = Symbol("pi", r"\pi", True), Symbol("pi_theta", r"\pi_\theta", True)
"""The policies of the teacher and of the student in the state of the step."""

REFERENCE, SECOND = Symbol("ref", r"\text{ref}", True), Symbol("pi_2", r"\pi_2", True)
"""The teacher's first further policy (`Teacher.others`), as a reference policy and as a second teacher."""

REWARD, DISCOUNT = Symbol("r_t", "r_t"), Symbol("gamma")
STUDENT_VALUE, TEACHER_VALUE = Symbol("V_theta(s_t)", r"V_\theta(s_t)"), Symbol("V_pi(s_t)", r"V_\pi(s_t)")
NEXT_TEACHER_VALUE = Symbol("V_pi(s_{t+1})", r"V_\pi(s_{t+1})")


# --- Arithmetic ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Negative(Expression):
    """Minus an expression."""

    operand: Expression
    level = SUM

    def __neg__(self) -> Expression:
        return self.operand

    def written(self, place: Place) -> str:
        return "-" + self.operand.enclosed(place, PRODUCT)


@dataclasses.dataclass(frozen=True)
class Sum(Expression):
    """The sum of several expressions."""

    terms: tuple[Expression, ...]
    level = SUM

    @staticmethod
    def of(*terms: Expression) -> Expression:
        """The sum, in which sums among the terms are dissolved and zeros are left out."""
        flat = [part for term in terms for part in (term.terms if isinstance(term, Sum) else (term,))]
        counts = {part: flat.count(part) for part in flat if part != Number(0)}
        kept = tuple(count * part if count > 1 else part for part, count in counts.items())
        return Sum(kept) if len(kept) > 1 else (*kept, Number(0))[0]

    def __neg__(self) -> Expression:
        """Minus each term, those first that are then positive; minus the whole sum where none is."""
        signed = sorted((-term for term in self.terms), key=lambda term: isinstance(term, Negative))
        return Negative(self) if isinstance(signed[0], Negative) else Sum(tuple(signed))

    def written(self, place: Place) -> str:
        text = self.terms[0].written(place)
        for term in self.terms[1:]:
            sign, operand = ("-", term.operand) if isinstance(term, Negative) else ("+", term)
            text += f" {sign} {operand.enclosed(place, PRODUCT)}"
        return text


@dataclasses.dataclass(frozen=True)
class Product(Expression):
    """The product of several expressions."""

    factors: tuple[Expression, ...]
    level = PRODUCT

    @staticmethod
    def of(*factors: Expression) -> Expression:
        """The product, in which products among the factors are dissolved, ones left out, and the sign comes first."""
        is_negative = sum(isinstance(factor, Negative) for factor in factors) % 2 == 1
        unsigned = [factor.operand if isinstance(factor, Negative) else factor for factor in factors]
        *_, last = unsigned
        if isinstance(last, Quotient) and isinstance(last.denominator, Number):
            unsigned[-1] = last.numerator
        flat = [part for factor in unsigned for part in (factor.factors if isinstance(factor, Product) else (factor,))]
        kept = tuple(part for part in flat if part != Number(1))
        product = Product(kept) if len(kept) > 1 else (*kept, Number(1))[0]
        if last is not unsigned[-1] and isinstance(last, Quotient):  # x (y / 2) is x y / 2
            product = product / last.denominator
        return -product if is_negative else product

    def written(self, place: Place) -> str:
        *first, last = self.factors
        texts = [factor.enclosed(place, PREFIX) for factor in first]
        return place.spelled(" ", r" \, ").join([*texts, last.enclosed(place, PRODUCT if last.is_open else PREFIX)])


@dataclasses.dataclass(frozen=True)
class Quotient(Expression):
    """A fraction."""

    numerator: Expression
    denominator: Expression
    level = PRODUCT

    def written(self, place: Place) -> str:
        if place.latex:
            return rf"\frac{{{self.numerator.written(place)}}}{{{self.denominator.written(place)}}}"
        needs_parentheses = self.numerator.is_open or isinstance(self.numerator, Quotient)
        numerator = self.numerator.enclosed(place, ATOM if needs_parentheses else PRODUCT)
        return f"{numerator} / {self.denominator.enclosed(place, ATOM)}"


@dataclasses.dataclass(frozen=True)
class Power(Expression):
    """An expression raised to a power."""

    base: Expression
    exponent: Expression
    level = PREFIX

    def written(self, place: Place) -> str:
        base = self.base.enclosed(place, ATOM)
        if place.latex:
            return f"{base}^{{{self.exponent.written(place)}}}"
        return f"{base}^{self.exponent.enclosed(place, ATOM)}"


@dataclasses.dataclass(frozen=True)
class Call(Expression):
    """A function of one number or of several: log, exp, sqrt, min or max."""

    name: str
    arguments: tuple[Expression, ...]

    @property
    def binding(self) -> int:
        return PREFIX if self.name == "log" else ATOM

    def written(self, place: Place) -> str:
        arguments = ", ".join(argument.written(place) for argument in self.arguments)
        name = place.spelled(self.name, f"\\{self.name}")
        if place.latex and self.name == "sqrt":
            return f"{name}{{{arguments}}}"
        is_fraction = place.latex and isinstance(self.arguments[0], Quotient)
        is_bare = self.name == "log" and (self.arguments[0].is_name or is_fraction)
        return f"{name} {arguments}" if is_bare else f"{name}({arguments})"


def log(x: Any) -> Expression:
    """The natural logarithm."""
    return Call("log", (as_expression(x),))


def exp(x: Any) -> Expression:
    """The exponential function."""
    return Call("exp", (as_expression(x),))


def sqrt(x: Any) -> Expression:
    """The square root."""
    return Call("sqrt", (as_expression(x),))


def least_of(*xs: Any) -> Expression:
    """The least of several numbers."""
    return Call("min", tuple(map(as_expression, xs)))


def greatest_of(*xs: Any) -> Expression:
    """The greatest of several numbers."""
    return Call("max", tuple(map(as_expression, xs)))


def clip(x: Any, least: Any, most: Any) -> Expression:
    """The number in [least, most] that is nearest to x."""
    return least_of(greatest_of(x, least), most)


@dataclasses.dataclass(frozen=True)
class Indicator(Expression):
    """1 where a relation "=", "<" or ">" holds between two numbers, and 0 elsewhere."""

    left: Expression
    relation: str
    right: Expression

    def written(self, place: Place) -> str:
        return f"{place.spelled('1', _ONE)}[{self.relation_text(place)}]"

    def relation_text(self, place: Place) -> str:
        """The relation alone."""
        return f"{self.left.written(place)} {self.relation} {self.right.written(place)}"


@dataclasses.dataclass(frozen=True)
class Cases(Expression):
    """The value whose relation holds, or the last one where none holds.

    Attributes:
      relations: the relations, one fewer than values.
      values: the values.
    """

    relations: tuple[Indicator, ...]
    values: tuple[Expression, ...]
    level = SUM

    def written(self, place: Place) -> str:
        texts = [value.written(place) for value in self.values]
        cases = [
            f"{text} {place.spelled('if', _IF)} {relation.relation_text(place)}"
            for text, relation in zip(texts[:-1], self.relations, strict=True)
        ]
        return place.spelled(", ", r", \quad ").join([*cases, f"{texts[-1]} {place.spelled('otherwise', _OTHERWISE)}"])


@dataclasses.dataclass(frozen=True)
class Later(Expression):
    """An expression one step later, at t + 1."""

    operand: Expression

    @property
    def binding(self) -> int:
        return self.operand.binding

    def written(self, place: Place) -> str:
        return self.operand.written(place._replace(later=True))


@dataclasses.dataclass(frozen=True)
class Frozen(Expression):
    """An expression that is not differentiated, written sg[...]."""

    operand: Expression

    def written(self, place: Place) -> str:
        return f"{place.spelled('sg', _STOP)}[{self.operand.written(place)}]"
