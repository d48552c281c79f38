"""What the argument `measure` of `train` asks for: named measures, functions of the user, or both."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.mdp import MDP, Teacher, exact
from jaxdistill.mdp.named_measures import CONFIGURED, Measure, parse
from jaxdistill.mdp.precision import as_float64, float64, placed
from jaxdistill.methods.schedules import is_schedule
from jaxdistill.runtime import checks
from jaxdistill.training.config import Config

MeasureFunction = Callable[[MDP, Teacher, jax.Array], Any]
MeasureLike = str | MeasureFunction | Sequence[str | MeasureFunction] | Mapping[str, str | MeasureFunction]


class FunctionOfUser(NamedTuple):
    """A function of the user and the names of its numbers.

    Attributes:
      function: takes MDPs, teachers and policies and returns numbers [B] by name, or numbers [B].
      names: their names in the result.
    """

    function: MeasureFunction
    names: tuple[str, ...]

    @property
    def better(self) -> dict[str, str]:
        """Whether "higher" or "lower" values of each number are better, where the attribute `better` says it."""
        better = getattr(self.function, "better", None)
        return {} if better is None else dict.fromkeys(self.names, better)


class Requested(NamedTuple):
    """What is measured at every checkpoint.

    Attributes:
      named: measures by their names in the result.
      functions: functions of the user.
      names: all names, in the order in which they were requested.
    """

    named: dict[str, Measure]
    functions: tuple[FunctionOfUser, ...]
    names: tuple[str, ...]

    @property
    def needs_teachers(self) -> bool:
        """Whether every cell must have a teacher."""
        return bool(self.functions) or any(measure.needs_teacher for measure in self.named.values())

    def unused(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a configuration among `changes` on which no measure depends."""
        fields = {"discount": "discount", "probability_floor": "floor"}
        used = {name for name, o in fields.items() if any(getattr(m, o) is not None for m in self.named.values())}
        return {name: value for name, value in changes.items() if name not in used}


NOTHING = Requested({}, (), ())


def requested(measure: Any, mdps: MDP, teacher: Teacher | None, config: Config) -> Requested:
    """What the argument `measure` asks for; ValueError, one line, for anything that is not a measure.

    Args:
      measure: the argument of `train`.
      mdps, teacher: M stacked ones, by which functions are tried; nothing is computed.
      config: the configuration, whose numbers the names may leave open.
    """
    if measure is None:
        return NOTHING
    pairs = list(measure.items()) if isinstance(measure, Mapping) else [(None, item) for item in _items(measure)]
    named: dict[str, Measure] = {}
    functions: list[FunctionOfUser] = []
    names: list[str] = []
    for label, item in pairs:
        if label is not None and not (isinstance(label, str) and label.isprintable() and label):
            raise ValueError(f"measure must map names of one line to measures; got the name {checks.shown(label)}.")
        if isinstance(item, str):
            _check_label(label, item)
            parsed = configured(item, config.discount, config.probability_floor)
            named[label or parsed.name] = parsed
            names.append(label or parsed.name)
        elif callable(item):
            _check_better(item)
            if teacher is None:
                raise ValueError("A function as a measure needs a teacher; pass one, such as teachers.uniform(mdps).")
            functions.append(FunctionOfUser(item, _names_of(item, label, mdps, teacher)))
            names += functions[-1].names
        else:
            raise ValueError(
                f"measure must be names of measures, such as 'forward_kl', functions or None; got {checks.shown(item)}."
            )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two measures are called {name!r}; name them with a mapping, {{'a': ..., 'b': ...}}.")
    return Requested(named, tuple(functions), tuple(names))


def _check_label(label: str | None, item: str) -> None:
    """ValueError if a label is the name of another measure than `item`, or of a curve that every result has."""
    if label is None:
        return
    try:
        meaning = parse(label)
    except ValueError:
        meaning = None
    if label == "area" or (meaning is not None and parse(item) != meaning):
        raise ValueError(f"{label!r} is the name of another measure; give this one a name of its own.")


def _check_better(function: Any) -> None:
    """ValueError unless the attribute `better` of a function, if it has one, says which values are better."""
    better = getattr(function, "better", None)
    if better is not None:
        checks.one_of(f"{getattr(function, '__name__', 'the measure')}.better", better, ("higher", "lower"))


def configured(name: str, discount: Any, probability_floor: Any) -> Measure:
    """The measure of a name, with the numbers of a configuration; ValueError if one that it takes is a schedule."""
    measure, numbers = parse(name), {"discount": discount, "floor": probability_floor}
    for option, number in numbers.items():
        if is_schedule(number):
            if getattr(measure, option) == CONFIGURED:
                raise ValueError(
                    f"The measure {name} takes its {option} from the configuration, where it changes with the "
                    f"iteration; give it a number, such as {name}:{option}=0.5."
                )
            numbers[option] = 0.0  # not used
    return measure.with_configured(numbers["discount"], numbers["floor"])


def _items(measure: Any) -> list[Any]:
    """The items of a list; a single name or function is a list of one."""
    items = [measure] if isinstance(measure, str) or callable(measure) else checks.listed(measure)
    if not items:
        raise ValueError("measure is empty; give names of measures, functions or None.")
    return items


def _names_of(function: MeasureFunction, label: str | None, mdps: MDP, teacher: Teacher | None) -> tuple[str, ...]:
    """The names of the numbers that `function` returns; ValueError unless it returns named numbers [M]."""
    try:
        with float64():
            policies = jax.ShapeDtypeStruct((mdps.num_mdps, mdps.num_states, mdps.num_actions), jnp.float64)
            output = jax.eval_shape(lambda *world: function(*as_float64(world)), mdps, teacher, policies)
    except Exception as error:
        raise failure(function, error) from error
    if label is not None and not isinstance(output, Mapping):
        output = {label: output}
    if not isinstance(output, Mapping) or any(
        not isinstance(name, str) or getattr(x, "shape", None) != (mdps.num_mdps,) for name, x in output.items()
    ):
        raise ValueError(f"measure must return {{name: numbers [M]}}, M = {mdps.num_mdps}; got {checks.shown(output)}.")
    if not output:
        raise ValueError("measure must return at least one number for each MDP; it returned none.")
    if label is not None and len(output) != 1:
        raise ValueError(f"The measure {label!r} must return one number for each MDP; got {checks.shown(output)}.")
    return tuple(output) if label is None else (label,)


def failure(function: MeasureFunction, error: Exception) -> ValueError:
    """The error of one line for a function of the user that has failed."""
    return ValueError(f"The measure {getattr(function, '__name__', 'function')} fails: {checks.why(error)}.")


@functools.lru_cache(maxsize=8)  # so that a second run with the same measure does not compile again
def compiled(function: MeasureFunction) -> Callable[..., Mapping[str, Any]]:
    """A function that calls `function` in float64 for students with tables `logits` [B, O, A]; its numbers [B] by name.

    The name of a number that `function` returns without one is "".
    """

    @jax.jit
    def measured(mdps: MDP, teacher: Teacher, logits: jax.Array) -> Mapping[str, jax.Array]:
        mdps, teacher = as_float64((mdps, teacher))
        policies = exact.policy_from_logits(mdps, as_float64(logits))
        output = function(mdps, teacher, policies)
        return dict(output) if isinstance(output, Mapping) else {"": output}

    def in_float64(mdps: MDP, teacher: Teacher, logits: Any) -> Mapping[str, Any]:
        try:
            with float64():
                return jax.device_get(measured(*placed((mdps, teacher)), logits))
        except Exception as error:
            raise failure(function, error) from error

    return in_float64
