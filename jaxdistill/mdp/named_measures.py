"""What can be measured of a student, by name: its return, length, entropy, agreement and divergences to its teacher.

Every measure is a sum over the steps of an episode, in expectation, or that sum divided by the expected number of
steps. So it is a sum over states of f(s) d(s), with the expected visits d of a state under the policy that acts. A name
is one of `MEASURES` with options behind colons, in any order:

  student, teacher, uniform   the policy that acts; by default the student
  sum                         the expected sum over an episode in place of the mean over steps
  floor=0.001                 the least teacher probability inside a logarithm; `floor` alone is the configured one
  discount=0.95               of `discounted_return`; by default the configured one

For example `forward_kl:teacher`, `reverse_kl:floor=0.001`, `entropy:sum`. The mean over steps is the ratio of two
expectations, sum_s d(s) f(s) / sum_s d(s): the mean over the steps of very many episodes, in which long episodes count
more than short ones.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.runtime import checks

POLICIES = ("student", "teacher", "uniform")
"""The policies along whose trajectories a measure is taken."""

TIE = 1e-6
"""Probabilities of actions that differ by at most this much are equal, when actions are compared."""

CONFIGURED = "configured"
Better = Literal["higher", "lower", ""]


@dataclasses.dataclass(frozen=True)
class Definition:
    """What a name of `MEASURES` means.

    Attributes:
      title: the measure in words.
      formula: what is summed over the steps t of an episode, or averaged over them.
      unit: of the measure as it is by default.
      better: whether "higher" or "lower" values are better; "" where neither is.
      is_mean: whether it is the mean over steps, unless the option `sum` is given; otherwise it is a sum.
      needs_teacher: whether f depends on the teacher.
      trajectories: the policies that may act; the first is the default.
      options: those of "sum", "floor" and "discount" that the name may have.
    """

    title: str
    formula: str
    unit: str
    better: Better = ""
    is_mean: bool = False
    needs_teacher: bool = False
    trajectories: tuple[str, ...] = POLICIES
    options: tuple[str, ...] = ()


_FORWARD = "KL(pi||pi_theta) = sum_a pi(a|s_t) (log pi(a|s_t) - log pi_theta(a|s_t))"
_REVERSE = "KL(pi_theta||pi) = sum_a pi_theta(a|s_t) (log pi_theta(a|s_t) - log pi(a|s_t))"

MEASURES: dict[str, Definition] = {
    "return": Definition("return", "r_t, undiscounted", "reward per episode", "higher"),
    "discounted_return": Definition(
        "discounted return", "discount^t r_t", "reward per episode", "higher", options=("discount",)
    ),
    "length": Definition("episode length", "1", "steps per episode"),
    "entropy": Definition(
        "entropy of the student",
        "H(pi_theta) = -sum_a pi_theta(a|s_t) log pi_theta(a|s_t)",
        "nats per step",
        is_mean=True,
        options=("sum",),
    ),
    "agreement": Definition(
        "agreement with the teacher",
        "1 where the student's most probable action is one of the teacher's; equal actions of the student count in "
        "equal shares",
        "share of steps",
        "higher",
        is_mean=True,
        needs_teacher=True,
    ),
    "forward_kl": Definition(
        "forward KL", _FORWARD, "nats per step", "lower", is_mean=True, needs_teacher=True, options=("sum",)
    ),
    "reverse_kl": Definition(
        "reverse KL", _REVERSE, "nats per step", "lower", is_mean=True, needs_teacher=True, options=("sum", "floor")
    ),
    "sequence_forward_kl": Definition(
        "forward KL of whole episodes", _FORWARD, "nats per episode", "lower", False, True, ("teacher",)
    ),
    "sequence_reverse_kl": Definition(
        "reverse KL of whole episodes", _REVERSE, "nats per episode", "lower", False, True, ("student",), ("floor",)
    ),
}
"""All measures by name. By the chain rule, `sequence_forward_kl`, the KL divergence of the distribution of whole
episodes of the teacher from that of the student, is `forward_kl:teacher:sum`, and `sequence_reverse_kl` is
`reverse_kl:student:sum`. A reverse divergence is infinite where the teacher never takes an action that the student may
take, as with every deterministic teacher; a floor makes it finite, and is then a part of the name."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure with its options; `parse` makes it of a name.

    Attributes:
      kind: a name of `MEASURES`.
      trajectories: the policy that acts, one of `POLICIES`.
      is_sum: whether it is a sum over an episode; otherwise it is a mean over steps.
      floor: the least teacher probability inside a logarithm; "configured" for that of the configuration; None where
        there is none.
      discount: of `discounted_return`: a number, or "configured"; None for other measures.
    """

    kind: str
    trajectories: str
    is_sum: bool
    floor: float | str | None = None
    discount: float | str | None = None

    @property
    def definition(self) -> Definition:
        """The definition of its kind."""
        return MEASURES[self.kind]

    @property
    def name(self) -> str:
        """The name with all options that matter; `parse` reads it back."""
        parts = [self.kind]
        if self.definition.is_mean or self.trajectories != self.definition.trajectories[0]:
            parts.append(self.trajectories)
        if self.is_sum and self.definition.is_mean:
            parts.append("sum")
        for option in ("floor", "discount"):
            value = getattr(self, option)
            if value is not None:
                parts.append(option if value == CONFIGURED else f"{option}={value:g}")
        return ":".join(parts)

    @property
    def better(self) -> Better:
        """Whether "higher" or "lower" values are better; "" where neither is."""
        return self.definition.better

    @property
    def unit(self) -> str:
        """The unit."""
        return "nats per episode" if self.is_sum and self.definition.is_mean else self.definition.unit

    @property
    def title(self) -> str:
        """The measure in words, with its options and without its unit."""
        text = self.definition.title
        owner = {"uniform": "uniform policy"}.get(self.trajectories, self.trajectories)
        if self.definition.is_mean:
            text += f" along the {owner}'s trajectories"
        elif self.trajectories != self.definition.trajectories[0]:
            text += f" of the {owner}"
        for option in ("floor", "discount"):
            value = getattr(self, option)
            if value is not None:
                text += f", {option} as configured" if value == CONFIGURED else f", {option} {value:g}"
        return text

    @property
    def needs_teacher(self) -> bool:
        """Whether it cannot be computed without a teacher."""
        return self.definition.needs_teacher or self.trajectories == "teacher"

    @property
    def is_of_student(self) -> bool:
        """Whether it depends on the student."""
        return self.trajectories == "student" or self.definition.is_mean or self.kind == "sequence_forward_kl"

    def with_configured(self, discount: Any, floor: Any) -> "Measure":
        """The measure with the numbers of a configuration in its name, where they are one number for all worlds."""
        changes: dict[str, Any] = {}
        for option, value in (("discount", discount), ("floor", floor)):
            if getattr(self, option) == CONFIGURED and np.ndim(value) == 0:
                changes[option] = float(value)
        return dataclasses.replace(self, **changes)

    def is_named_by(self, other: "Measure") -> bool:
        """Whether `other` names this measure: they are equal, up to numbers that `other` leaves to a configuration."""
        changes = {
            option: getattr(other, option)
            for option in ("discount", "floor")
            if getattr(other, option) == CONFIGURED and getattr(self, option) is not None
        }
        return dataclasses.replace(self, **changes) == other


def parse(name: Any) -> Measure:
    """The `Measure` of a name, such as "forward_kl:teacher"; raises ValueError, one line, for an unknown one."""
    kind, *options = name.split(":") if isinstance(name, str) else [name]
    definition = MEASURES[checks.known("measure", kind, MEASURES, "the measures are")]
    fields: dict[str, Any] = {"trajectories": definition.trajectories[0], "is_sum": not definition.is_mean}
    if "discount" in definition.options:
        fields["discount"] = CONFIGURED
    given: set[str] = set()
    for option in options:
        word, equals, number = option.partition("=")
        allowed = [*definition.trajectories, *definition.options]
        if word not in allowed:
            expected = f"its options are {', '.join(allowed)}"
            raise ValueError(f"The measure {kind} has no option {checks.shown_among(word, allowed)}; {expected}.")
        field = "trajectories" if word in POLICIES else "is_sum" if word == "sum" else word
        if field in given:
            raise ValueError(f"The measure {checks.shown(name)} gives {field.replace('is_', '')} twice.")
        given.add(field)
        if equals and field in ("trajectories", "is_sum"):
            raise ValueError(f"The option {word} of a measure takes no number; got {checks.shown(name)}.")
        fields[field] = {"trajectories": word, "is_sum": True}.get(field) or _number(word, equals, number)
    return Measure(kind, **fields)


def _number(option: str, equals: str, text: str) -> float | str:
    """The number of the option `floor` or `discount`, or "configured" if there is none."""
    if not equals:
        return CONFIGURED
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    largest = 1 if option == "discount" else math.nextafter(1, 0)
    return checks.number(f"The {option} of a measure", text if math.isnan(number) else number, 0, largest)


def per_state(measure: Measure, log_probs: jax.Array, teacher_probs: Any, floor: Any) -> jax.Array:
    """f(s) of a measure, [..., S]: what is added at each step of an episode; >= 0 without a floor, and may be inf.

    Args:
      measure: a measure of the entropy, the agreement, a divergence or the length.
      log_probs: [..., S, A], log pi_theta.
      teacher_probs: [..., S, A], or None where the measure needs none.
      floor: the least teacher probability inside a logarithm, where the measure has one.
    """
    kind, probs = measure.kind.removeprefix("sequence_"), jnp.exp(log_probs)
    if kind == "length":
        return jnp.ones(log_probs.shape[:-1], log_probs.dtype)
    if kind == "entropy":
        return -_sum(probs, log_probs)
    if kind == "agreement":
        best = (probs >= jnp.max(probs, -1, keepdims=True) - TIE).astype(probs.dtype)
        is_right = teacher_probs >= jnp.max(teacher_probs, -1, keepdims=True) - TIE
        return jnp.sum(best * is_right, -1) / jnp.sum(best, -1)
    if kind == "forward_kl":
        return jnp.maximum(_sum(teacher_probs, jnp.log(teacher_probs) - log_probs), 0)  # rounding may leave -1e-17
    teacher_log_probs = jnp.log(teacher_probs if measure.floor is None else jnp.maximum(teacher_probs, floor))
    divergence = _sum(probs, log_probs - teacher_log_probs)
    return jnp.maximum(divergence, 0) if measure.floor is None else divergence


def _sum(probs: jax.Array, terms: jax.Array) -> jax.Array:
    """sum_a probs * terms, where an action of probability 0 adds nothing."""
    return jnp.sum(jnp.where(probs > 0, probs * terms, 0), axis=-1)
