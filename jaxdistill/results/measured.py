"""The values of a measure in a result: as curves, of the final students, and computed after the training.

In place of a name, None means the returns that every result has, `returns` and `final_returns`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdistill.mdp import MDP, Teacher, exact, stack, validate
from jaxdistill.mdp.evaluation import Evaluator
from jaxdistill.mdp.features import log_policy
from jaxdistill.mdp.measures import DISCOUNT, FLOOR
from jaxdistill.mdp.named_measures import MEASURES, Measure, parse
from jaxdistill.mdp.teacher import check_policy
from jaxdistill.runtime import checks
from jaxdistill.statistics import mean_interval

if TYPE_CHECKING:
    from jaxdistill.results.result import Result

_CURVES = {"return": "returns", "length": "lengths"}  # measures that every result has


def definition(result: "Result", name: str) -> Measure | None:
    """The measure that is stored as `name`; None for a number of the user's own, whose meaning is not known."""
    parts = result.settings.get("parts", [result.settings])
    for settings in parts:
        text = settings.get("measures", {}).get(name) if isinstance(settings, dict) else None
        if text is not None:
            return parse(text)
    return None


def stored_name(result: "Result", name: Any) -> str | None:
    """The name under which a measure is stored; None for the return or the length that every result has.

    ValueError, one line, if the result has no such measure.
    """
    if name is None:
        return None
    names = result.measure_names if result.measurements is not None else ()
    if isinstance(name, str) and name in names:
        return name
    wanted = _parsed(name)
    if wanted is not None:
        definitions = {stored: definition(result, stored) for stored in names}
        fitting = [stored for stored, measure in definitions.items() if measure and measure.is_named_by(wanted)]
        if len(fitting) > 1:
            raise ValueError(f"The measure {name!r} could be {' or '.join(fitting)}; name one of them.")
        if fitting:
            return fitting[0]
        if wanted.name in _CURVES:
            return None
    given = checks.shown_among(name, [*names, *MEASURES]) if wanted is None else repr(name)
    way = "" if wanted is None else f"; train with measure={name!r}, or use result.with_measures({name!r}, ...)"
    raise ValueError(f"no measure {given} in this result; it has {', '.join(names) or 'none'}{way}")


def _kind(name: str | None) -> str:
    """The kind of a measure that every result has."""
    return "return" if name is None else parse(name).kind


def _parsed(name: Any) -> Measure | None:
    try:
        return parse(name)
    except ValueError:
        return None


def curves(result: "Result", name: str | None) -> np.ndarray:
    """The values of a measure at all checkpoints, [P, M, C]."""
    stored = stored_name(result, name)
    if stored is None:
        return getattr(result, _CURVES[_kind(name)])
    assert result.measurements is not None
    return result.measurements[..., result.measure_names.index(stored)]


class Description(NamedTuple):
    """What a measure of a result is.

    Attributes:
      title: in words; the name itself for a number of the user's own.
      unit: "" for a number of the user's own.
      better: whether "higher" or "lower" values are better; "" where neither is, or where a function of the user does
        not say it.
      kinds: for each method, whether the curve is "exact" or "sampled"; "" for a number of the user's own.
    """

    title: str
    unit: str
    better: str
    kinds: tuple[str, ...]


def describe(result: "Result", name: str | None) -> Description:
    """What a measure of a result is; ValueError if the result does not have it."""
    stored = stored_name(result, name)
    measure = parse(_kind(name)) if stored is None else definition(result, stored)
    if measure is None:
        return Description(str(stored), "", _better_of_own(result, str(stored)), ("",) * len(result.labels))
    kinds = result.curve_kind if stored is None else ("exact",) * len(result.labels)
    return Description(measure.title, measure.unit, measure.better, kinds)


def _better_of_own(result: "Result", name: str) -> str:
    """Which values of a number of the user's own are better, as its function says it; "" if it does not."""
    for settings in result.settings.get("parts", [result.settings]):
        if isinstance(settings, dict) and name in settings.get("better", {}):
            return str(settings["better"][name])
    return ""


def needs_floor(result: "Result", name: str) -> bool:
    """Whether a measure can be infinite, because it divides by the teacher's probabilities without a floor."""
    stored = stored_name(result, name) if name in result.measure_names or _parsed(name) else None
    measure = definition(result, stored) if stored is not None else None
    return measure is not None and measure.kind.endswith("reverse_kl") and not measure.floor


def final_values(result: "Result", name: str | None) -> np.ndarray:
    """The exact values of a measure of the final students, [P, M]."""
    if stored_name(result, name) is not None:
        return curves(result, name)[..., -1]
    if _kind(name) == "return":
        return result.final_returns
    if "sampled" in result.curve_kind:
        raise ValueError(
            "this result has no exact length of the final students; train with measure='length', or use "
            "result.with_measures('length', mdps)"
        )
    return result.lengths[..., -1]


def values_at(
    result: "Result", name: str | None, checkpoint: int | str, with_iteration: bool = True
) -> tuple[Any, str]:
    """The values [P, M] of a measure at a checkpoint, given as in `Result.summary`, and their description.

    With `with_iteration` False, the description of final values leaves out the number of iterations.
    """
    num = len(result.iterations)
    is_final = isinstance(checkpoint, str) and checkpoint == "final"
    if not is_final and (isinstance(checkpoint, str) or not checks.is_whole(checkpoint, -num, num - 1)):
        raise ValueError(f"no checkpoint {checks.shown(checkpoint)}; use a position below {num} or 'final'")
    text, unit, *_ = describe(result, name)
    is_return = text == "return"
    text = f"{text} ({unit})" if unit and not is_return else text
    text = f"exact {text}" if unit and (is_final or (is_return and stored_name(result, name))) else text
    if is_final:
        values = final_values(result, name)
        text += f" after iteration {result.iterations[-1]}" if with_iteration else " of the final students"
    else:
        values = np.take(curves(result, name), int(checkpoint), axis=-1)
        text += f" at the checkpoint of iteration {result.iterations[checkpoint]}"
    text += f", {result.num_mdps} MDPs"
    if is_return:
        uniform = mean_interval(result.uniform_returns).estimate
        optimal = mean_interval(result.optimal_returns).estimate
        text += f" (uniform policy {uniform:.3f}, optimal policy {optimal:.3f})"
    return values, text


def teacher_values(result: "Result", name: str | None) -> np.ndarray:
    """The measure of each method's teacher, [P, M], for the return; nan for all other measures."""
    is_return = describe(result, name).title == "return"
    return result.teacher_returns if is_return else np.full_like(result.teacher_returns, np.nan)


def with_measures(
    result: "Result", names: Any, mdps: MDP | None, teacher: Any, discount: Any, probability_floor: Any
) -> "Result":
    """The result with measures of its final students; see `Result.with_measures`."""
    measures = [parse(name) for name in checks.listed(names)]
    numbers = {
        "discount": _configured(result, "discount", DISCOUNT) if discount is None else discount,
        "probability_floor": (
            _configured(result, "probability_floor", FLOOR) if probability_floor is None else probability_floor
        ),
    }
    measures = list(dict.fromkeys(measure.with_configured(*numbers.values()) for measure in measures))
    if result.logits is None:
        raise ValueError("this result has no tables of its students; train with keep_tables=True")
    if not isinstance(mdps, MDP):
        raise ValueError("a result does not hold its worlds; pass them, result.with_measures(names, mdps, teacher)")
    mdps = mdps if mdps.is_stacked else stack([mdps])
    _check_worlds(result, mdps)
    needs_teacher = [measure.name for measure in measures if measure.needs_teacher]
    teachers = _teachers(result, mdps, teacher, needs_teacher)
    discounts, floors = (checks.per_world(name, value, mdps.num_mdps) for name, value in numbers.items())
    evaluator = Evaluator(mdps, teachers, measures, discounts, floors)
    values = np.full((*result.final_returns.shape, len(measures)), np.nan)
    is_finished = np.isfinite(result.logits).all(axis=(2, 3))
    cells, worlds = np.nonzero(is_finished)
    if len(cells):
        values[is_finished] = evaluator(cells, worlds, result.logits[is_finished])
    return _joined(result, measures, values)


def _configured(result: "Result", name: str, default: float) -> Any:
    """A number of the configuration that is saved with a result."""
    config = result.settings.get("config", {})
    return config.get(name, default) if isinstance(config, dict) else default


def policies(result: "Result", method: int, mdps: MDP | None) -> np.ndarray:
    """The policies [M, S, A] of the final students of a method, as `Result.policy` gives them."""
    if result.logits is None:
        raise ValueError("this result has no tables of students (keep_tables=False), from which policies are computed")
    if mdps is not None:
        mdps = mdps if validate(mdps).is_stacked else stack([mdps])
        _check_worlds(result, mdps)
    if result.features is None and mdps is None:
        raise ValueError("a result does not hold its MDPs, which say which row each state uses; pass mdps")
    features = result.features
    if features is None:
        assert mdps is not None
        features = np.asarray(mdps.features).reshape(result.num_mdps, -1, 1)
    tables = result.logits[method].astype(np.float64)
    return np.exp(np.stack([log_policy(*pair) for pair in zip(tables, features, strict=True)]))


def _check_worlds(result: "Result", mdps: MDP) -> None:
    """ValueError unless these are the worlds of the result, by ids, sizes and the return of the uniform policy."""
    if not np.array_equal(result.mdp_ids, np.asarray(mdps.id)):
        raise ValueError(f"the {mdps.num_mdps} MDPs are not those of this result: their ids differ")
    assert result.logits is not None
    sizes = (mdps.num_observations, mdps.num_actions)
    uniform = exact.episode_return(mdps, exact.uniform_policy(mdps))
    is_same = np.allclose(result.uniform_returns, uniform, rtol=1e-3, atol=1e-3, equal_nan=True)
    features: Any = np.asarray(mdps.features) if mdps.num_features > 1 else None
    saved: Any = result.features
    is_same &= np.array_equal(saved, features)
    if result.logits.shape[2:] != sizes or not is_same:
        raise ValueError("the MDPs are not those of this result: their ids are equal and the worlds are not")


def _teachers(result: "Result", mdps: MDP, teacher: Any, needed_by: Sequence[str]) -> list[Teacher | None]:
    """The teacher of each method: a single one for all, or one for each label."""
    if not needed_by:
        return [None] * len(result.labels)
    by_label = dict(teacher) if isinstance(teacher, Mapping) else dict.fromkeys(result.labels, teacher)
    teachers: list[Teacher | None] = []
    for label, returns in zip(result.labels, result.teacher_returns, strict=True):
        own_teacher = by_label.get(label)
        if own_teacher is None:
            raise ValueError(
                f"the measure {needed_by[0]} needs the teacher of {label}, and a result does not hold its teachers; "
                "pass teacher=..., or {label: teacher}"
            )
        if isinstance(own_teacher, Teacher) and np.ndim(own_teacher.values) == 1:
            own_teacher = own_teacher[None]
        check_policy(own_teacher, (mdps.num_mdps, mdps.num_states, mdps.num_actions))
        expected = exact.episode_return(mdps, own_teacher.probs)
        if np.isfinite(returns).any() and not np.allclose(returns, expected, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(f"the teacher is not that of {label} in this result: its returns differ")
        teachers.append(own_teacher)
    return teachers


def _joined(result: "Result", measures: Sequence[Measure], values: np.ndarray) -> "Result":
    """The result with `values` [P, M, Q] of its final students; earlier checkpoints stay unknown, which is nan."""
    is_new = [measure.name not in result.measure_names for measure in measures]
    names = [measure.name for measure, new in zip(measures, is_new, strict=True) if new]
    added = np.full((*result.returns.shape, len(names)), np.nan)
    added[:, :, -1] = values[..., is_new]
    old = result.measurements if result.measurements is not None else added[..., :0]
    known = result.settings.get("measures", {}) | dict(zip(names, names, strict=True))
    return dataclasses.replace(
        result,
        measurements=np.concatenate([old, added], axis=-1),
        measure_names=(*result.measure_names, *names),
        settings=result.settings | {"measures": known},
    )
