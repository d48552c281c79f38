"""Schedules: numbers of a method or a configuration that change over the iterations of a training, as data."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.runtime import checks
from jaxdistill.runtime.surroundings import default_promotion

_MOST_SAMPLES = 2**16  # iterations at which a function is evaluated


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number that changes with the iteration: values at some iterations, linear between and constant beyond them.

    A number that jumps has values at two iterations that follow each other: Schedule((0, 99, 100), (1, 1, 0)) is 1 in
    the first 100 iterations, and 0 in the others.

    Attributes:
      iterations: whole numbers >= 0, increasing; the first iteration is 0.
      values: finite numbers, one for each of them.
    """

    iterations: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        iterations, values = checks.listed(self.iterations), checks.listed(self.values)
        if not iterations or len(iterations) != len(values):
            raise ValueError(
                "A Schedule needs values at one iteration or more, and as many iterations; got "
                f"{len(iterations)} iterations and {len(values)} values."
            )
        numbers = [checks.whole("an iteration of a Schedule", iteration, 0) for iteration in iterations]
        if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
            raise ValueError(f"The iterations of a Schedule must increase; got {checks.shown(self.iterations)}.")
        array = checks.numbers("values of a Schedule", values)
        if array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(f"The values of a Schedule must be finite numbers; got {checks.shown(self.values)}.")
        object.__setattr__(self, "iterations", tuple(numbers))
        object.__setattr__(self, "values", tuple(array.tolist()))

    def at(self, iteration: Any) -> Any:
        """The number in an iteration, a float; for an array of iterations, float64 of its shape."""
        value = np.interp(iteration, self.iterations, self.values)
        return float(value) if np.ndim(value) == 0 else value

    @property
    def settings(self) -> dict[str, list[float]]:
        """The iterations and values as lists, at most 101 of each, to be saved with a result."""
        number = len(self.iterations)
        kept = np.linspace(0, number - 1, min(number, 101)).round().astype(int)
        iterations, values = np.asarray(self.iterations)[kept], np.asarray(self.values)[kept]
        return {"iterations": iterations.tolist(), "values": values.tolist()}


Number = float | np.ndarray | Schedule | Callable[[jax.Array], jax.Array]
"""A number of a method or a configuration: one number, one for each MDP, a `Schedule`, or iteration -> number."""


def is_schedule(value: Any) -> bool:
    """Whether a number is a `Schedule` or a function of the iteration."""
    return isinstance(value, Schedule) or callable(value)


def number_at(value: Any, iteration: Any) -> Any:
    """A number in one iteration or an array of them; a number that is no `Schedule` is returned as it is."""
    return value.at(iteration) if isinstance(value, Schedule) else value


def numbers_of(value: Any) -> Any:
    """The values of a `Schedule` as an array, between which it is linear; other numbers as they are."""
    return np.asarray(value.values) if isinstance(value, Schedule) else value


def shown(value: Any, is_valid: np.ndarray) -> str:
    """The end of an error message about a number: what it is, or at which iteration its schedule is wrong.

    Args:
      value: the number.
      is_valid: for a `Schedule`, whether each of its values is valid, bool [number of values].
    """
    if not isinstance(value, Schedule):
        return f"got {checks.shown(value)}"
    first = int(np.argmin(is_valid))
    return f"its schedule is {value.values[first]:g} at iteration {value.iterations[first]}"


def parse(text: str) -> float | Schedule:
    """The number that a text means: "0.1", or a schedule of iteration:value pairs such as "0:1,1000:0"."""
    try:
        if ":" not in text:
            return float(text)
        pairs = [pair.split(":") for pair in text.split(",")]
        return Schedule(tuple(int(iteration) for iteration, _ in pairs), tuple(float(value) for _, value in pairs))
    except ValueError as error:
        reason = f" ({error})" if "Schedule" in str(error) else ""
        raise ValueError(
            f"A number is written as 0.1, or as iteration:value pairs such as 0:1,1000:0; got {text!r}{reason}."
        ) from None


@default_promotion()
def check_function(name: str, function: Any) -> None:
    """Raises ValueError unless a function returns one real number for an iteration; nothing is computed."""
    try:
        number = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception as error:
        raise ValueError(f"{name} fails on an iteration, int32 []: {checks.why(error)}.") from error
    if getattr(number, "shape", None) != () or number.dtype.kind not in "iuf":
        raise ValueError(f"{name} must return one number for an iteration; got {checks.shown(number)}.")


def sampled(name: str, value: Any, num_iterations: int) -> Any:
    """A function of the iteration as a `Schedule`; other numbers as they are.

    The function is evaluated at every iteration, in float32. For more than 65 536 iterations it is evaluated at that
    many evenly spaced ones, and the schedule is linear between them.

    Args:
      name: the number's name, for messages.
      value: the number.
      num_iterations: of the training.

    Raises:
      ValueError: the function does not return one finite number.
    """
    return _sampled(name, value, num_iterations) if callable(value) else value


@functools.lru_cache(maxsize=64)  # because a configuration is made several times on its way to a training
@default_promotion()
def _sampled(name: str, function: Callable[[jax.Array], jax.Array], num_iterations: int) -> Schedule:
    check_function(name, function)
    iterations = np.linspace(0, num_iterations - 1, min(num_iterations, _MOST_SAMPLES)).round().astype(np.int32)
    values = np.asarray(jax.vmap(function)(jnp.asarray(iterations)), np.float32).astype(np.float64)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{name} must be finite; its schedule is {values[first]:g} at iteration {iterations[first]}.")
    inner = (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])  # Constant stretches need only their ends.
    kept = np.concatenate([[True], ~inner, [True]]) if len(values) > 1 else np.ones(1, bool)
    return Schedule(tuple(iterations[kept].tolist()), tuple(values[kept].tolist()))
