"""The options of an update that a method may leave open, in one record for the sampled and the exact side."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np

from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods import schedules
from jaxdistill.methods.method import FEATURE_STEPS, REDUCTIONS, TRUNCATIONS, VISITS, Method
from jaxdistill.runtime import checks


def _words(default: str, help: str) -> Any:
    """A field on which a compiled program depends."""
    return dataclasses.field(default=default, metadata={"static": True, "help": help})


def _number(default: float, least: float, most: float, help: str) -> Any:
    """A field that may differ between students of one compiled program, with its domain."""
    return dataclasses.field(default=default, metadata={"domain": (least, most), "help": help})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """How an update is estimated and weighted, where the method leaves it open.

    The numbers may be Python numbers, arrays with one entry for each MDP, or traced. In a configuration they may also
    be a `Schedule`, or a function of the iteration.

    Attributes:
      estimator: a name of `estimators.ESTIMATORS`.
      reduction: how the updates of an episode's steps become one: their "mean"; their "sum"; or "fixed", their sum
        divided by `fixed_length`, whatever the length of the episode.
      loss_visits, return_visits: which visits of a row of the student in an episode count, for the loss, and for the
        return with the fit of V_theta. "every": all of them. "once": the last one, as in `table[rows] += updates` of
        NumPy where `rows` holds a number several times. The divisor of the reduction still counts all steps.
      truncation: what cutting an episode at its time limit does to the returns of its steps. "bootstrap": the value of
        the state where it was cut takes the place of the return from there (in the terms of Gymnasium, the episode is
        truncated and not terminated). "end": the return from there is 0, as after an end.
      feature_steps: what a step adds to each row of a state whose logits are a sum of rows (`MDP.with_features`): its
        "full" direction; or the direction "divided" by the number of the state's rows, so that a step changes the
        logits of its own state as much as in a plain table.
      discount: in [0, 1].
      probability_floor: the least teacher probability inside a logarithm, in [0, 1). The default, 1e-6, changes nothing
        where the teacher's probabilities are larger, and replaces log 0 by -13.8.
      loss_weight: factor of l.
      return_weight: factor of Rhat.
      trace_decay: lambda of the lambda-return, in [0, 1].
      fixed_length: the number of steps by which the reduction "fixed" divides, >= 1.
    """

    estimator: str = _words(
        "td", f"how returns are estimated, where the method leaves it open: {', '.join(ESTIMATORS)}"
    )
    reduction: str = _words(
        "mean", "an episode's update: the mean or the sum over its steps, or fixed, the sum / fixed_length"
    )
    loss_visits: str = _words(
        "every", "visits of a row in an episode that count for the loss: every, or once, the last"
    )
    return_visits: str = _words("every", "visits of a row in an episode that count for the return and the fit of V")
    truncation: str = _words("bootstrap", "an episode cut by a time limit: bootstrap from its last state, or end")
    feature_steps: str = _words(
        "full", "the step of each of a state's features: full, or divided by the number of these features"
    )
    discount: Any = _number(0.99, 0, 1, "discount of the returns in training, in [0, 1]")
    probability_floor: Any = _number(1e-6, 0, np.nextafter(1, 0), "least teacher probability inside a log, in [0, 1)")
    loss_weight: Any = _number(1.0, -np.inf, np.inf, "factor of the loss")
    return_weight: Any = _number(1.0, -np.inf, np.inf, "factor of the return")
    trace_decay: Any = _number(0.95, 0, 1, "lambda of the lambda-return, in [0, 1]; for the estimator lambda")
    fixed_length: Any = _number(60.0, 1, np.inf, "steps by which the reduction fixed divides, >= 1")

    def resolved(self, method: Method) -> Self:
        """These options, with those that the method fixes replaced by the method's values."""
        fixed = {name: getattr(method, name) for name in ("estimator", "reduction", "discount")}
        changes: dict[str, Any] = {name: value for name, value in fixed.items() if value is not None}
        words = {name: changes.get(name, getattr(self, name)) for name in ("estimator", "reduction")}
        changes |= unused_numbers(**words)
        return dataclasses.replace(self, **changes)


def number_fields() -> dict[str, tuple[float, float]]:
    """The names of the numbers of `UpdateOptions`, with their domains."""
    fields = dataclasses.fields(UpdateOptions)
    return {field.name: field.metadata["domain"] for field in fields if "domain" in field.metadata}


def word_fields() -> tuple[str, ...]:
    """The names of the options on which a compiled program depends."""
    return tuple(field.name for field in dataclasses.fields(UpdateOptions) if field.metadata.get("static"))


def unused_numbers(estimator: str, reduction: str) -> dict[str, float]:
    """The numbers that have no meaning with an estimator and a reduction, by name, with their defaults."""
    names = {name for other in ESTIMATORS.values() for name in other.numbers} - set(ESTIMATORS[estimator].numbers)
    if reduction != "fixed":
        names.add("fixed_length")
    return {name: getattr(UpdateOptions, name) for name in sorted(names)}


def check_options(options: UpdateOptions, *, num_iterations: int | None = None) -> None:
    """ValueError unless every option is in its domain and would have an effect; traced numbers are not checked.

    Args:
      options: the options.
      num_iterations: of a training, whose numbers may be an array with one entry for each world, or a schedule; None
        for a single update, which needs single numbers.
    """
    words = {"estimator": ESTIMATORS, "reduction": REDUCTIONS, "truncation": TRUNCATIONS}
    words["feature_steps"] = FEATURE_STEPS
    words |= dict.fromkeys(("loss_visits", "return_visits"), VISITS)
    for name, valid in words.items():
        checks.one_of(name, getattr(options, name), valid)
    unused = unused_numbers(options.estimator, options.reduction)
    for name, (least, most) in number_fields().items():
        value = getattr(options, name)
        if isinstance(value, jax.core.Tracer):
            continue
        if num_iterations is not None:
            check_number(name, schedules.sampled(name, value, num_iterations), least, most)
        elif schedules.is_schedule(value):
            raise ValueError(f"{name} must be one number here, such as that of one iteration, schedule.at(0).")
        else:
            checks.number(name, value, least, most)
        if name in unused and np.any(np.asarray(value) != unused[name]):
            word = "reduction" if name == "fixed_length" else "estimator"
            owner = next((other.name for other in ESTIMATORS.values() if name in other.numbers), "fixed")
            raise ValueError(
                f"{name} has an effect with {word} {owner!r} only; got {word} {getattr(options, word)!r}. Set both."
            )


def check_number(name: str, value: Any, least: float, most: float) -> np.ndarray:
    """The entries of `value`, one number, an array or a `Schedule`; ValueError unless all are in [least, most]."""
    try:
        array = checks.numbers(name, schedules.numbers_of(value))
    except ValueError:
        array = np.zeros(0)
    if array.size == 0:
        expected = "a number or an array of numbers that float32 can hold"
        raise ValueError(f"{name} must be {expected}; got {checks.shown(value)}.")
    is_inside = np.isfinite(array) & (array >= least) & (array <= most)
    if not is_inside.all():
        expected = (
            "finite" if np.isinf(least) else f"finite and >= {least:g}" if np.isinf(most) else f"in [{least:g}, 1"
        )
        expected += "" if np.isinf(most) else "]" if most == 1 else ")"
        raise ValueError(f"{name} must be {expected}; {schedules.shown(value, is_inside)}.")
    return array


def updated(options: Any, changes: Mapping[str, Any], introduction: str = "the options are") -> Any:
    """`options` with some fields changed; ValueError naming the fields, after `introduction`, for an unknown one."""
    names = [field.name for field in dataclasses.fields(options)]
    for name in changes:
        checks.known("option", name, names, introduction)
    return dataclasses.replace(options, **changes)
