"""How students are trained: the configuration, and the cells of an experiment."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.engine import rules
from jaxdistill.mdp import Teacher
from jaxdistill.methods import Method, UpdateOptions, effects, schedules
from jaxdistill.methods.options import check_number, check_options, number_fields, updated
from jaxdistill.methods.schedules import Number
from jaxdistill.runtime import checks
from jaxdistill.runtime.surroundings import default_promotion

RATES = ("learning_rate", "value_learning_rate")
RATE = 0.1
"""The rate that replaces None in a configuration without an optimizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(UpdateOptions):
    """How students are trained.

    A number marked [M] never recompiles. It is one number; one for each MDP; a `Schedule`, its values at some
    iterations; or a function of the iteration, such as `optax.linear_schedule`, which becomes a `Schedule`.

    Attributes:
      num_iterations: episodes, and so updates, of each student; App. A.4's 30 000.
      num_checkpoints: points of the learning curves; each is the mean over an equal share of the iterations.
      estimator: how returns are estimated, where the method leaves it open; a name of `estimators.ESTIMATORS`, such as
        "td" (one step, the TD(1) of App. A.3) or "mc" (the sampled return).
      reduction: an episode's update is the "mean" or the "sum" over its steps, or "fixed": the sum divided by
        `fixed_length`.
      loss_visits, return_visits: whether "every" visit of a row in an episode moves it, or the last one alone ("once"),
        for the loss, and for the return with the fit of V_theta.
      truncation: what cutting an episode at a time limit does to the returns of its steps, "bootstrap" or "end".
      feature_steps: where a state uses several rows (`MDP.with_features`), what a step adds to each: its "full"
        direction, or the direction "divided" by the number of the state's rows.
      learning_rate: of the logits, [M]; None: 0.1, or the rate of `optimizer`.
      value_learning_rate: of V_theta, [M], in the same way.
      discount: in [0, 1], [M]; for training only, reported returns are undiscounted.
      probability_floor: least teacher probability inside a logarithm, in [0, 1), [M]. `train` warns if more than 0.001
        of the teacher's probability lies below it.
      loss_weight, return_weight: factors of l and of Rhat, [M].
      trace_decay: lambda of the estimator "lambda", in [0, 1], [M].
      fixed_length: steps by which the reduction "fixed" divides, >= 1, [M].
      optimizer: an `optax.GradientTransformation` over {"logits": [O, A], "values": [O]} in place of SGD with the two
        learning rates, which must then be None; slower, because it updates whole tables. It gets only gradients and
        parameters, so an optimizer that needs the value of a loss, such as `optax.lbfgs()`, is refused.
      max_episode_steps: an episode that reaches this length is cut (`truncation`), and a warning after the training
        gives the number of cuts. The time limit of a world (`MDP.time_limit`) cuts episodes too, without a warning,
        because it is a part of the world.
    """

    num_iterations: int = 30_000
    num_checkpoints: int = 100
    learning_rate: Number | None = None
    value_learning_rate: Number | None = None
    optimizer: optax.GradientTransformation | None = None
    max_episode_steps: int = 4096

    def __post_init__(self) -> None:
        for name in ("num_iterations", "num_checkpoints", "max_episode_steps"):
            object.__setattr__(self, name, checks.whole(name, getattr(self, name), 1))
        if self.num_iterations > 2**24 or self.num_iterations * self.num_checkpoints >= 2**31:
            raise ValueError(
                f"num_iterations must be at most {2**24} and num_iterations * num_checkpoints below 2^31; got "
                f"{self.num_iterations} and {self.num_checkpoints}."
            )
        for name in RATES:
            value = getattr(self, name)
            if value is not None:
                check_number(name, schedules.sampled(name, value, self.num_iterations), 0, np.inf)
        check_options(self, num_iterations=self.num_iterations)
        if self.optimizer is not None:
            _check_optimizer(self.optimizer)
            for name in RATES:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} has no effect with an optimizer, which has rates of its own; set {name}=None, or no "
                        "optimizer."
                    )

    def with_rates(self) -> Self:
        """The configuration with a number in place of each rate that is None, unless an optimizer replaces them."""
        unset: dict[str, Any] = {name: RATE for name in RATES if getattr(self, name) is None}
        return self if self.optimizer is not None else dataclasses.replace(self, **unset)

    def resolved(self, method: Method) -> Self:
        """The configuration with what the method fixes, the rates of `with_rates`, and schedules for functions."""
        config = super().resolved(method).with_rates()
        values = {name: getattr(config, name) for name in (*RATES, *number_fields())}
        sampled = {name: schedules.sampled(name, x, self.num_iterations) for name, x in values.items() if callable(x)}
        return dataclasses.replace(config, **sampled)

    @property
    def checkpoints(self) -> np.ndarray:
        """Last iteration of each bin, int [C], counted from 1."""
        c = min(self.num_checkpoints, self.num_iterations)
        return -(-np.arange(1, c + 1) * self.num_iterations // c)


def config_of(config: Any, changes: Mapping[str, Any]) -> Config:
    """`config`, or the default if None, with `changes`; ValueError unless they are a `Config` and fields of one."""
    if not isinstance(config, Config | None):
        raise ValueError(f"config must be a Config; got {checks.shown(config)}. Give single fields by name.")
    return updated(config or Config(), changes, "a configuration has")


@default_promotion()
def _check_optimizer(optimizer: Any) -> None:
    """Raises ValueError unless an optimizer needs only gradients and parameters to update the tables."""
    expected = "an optax.GradientTransformation, such as optax.adam(0.01), or None"
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise ValueError(f"optimizer must be {expected}; got {checks.shown(optimizer)}.")
    tables = {"logits": jax.ShapeDtypeStruct((2, 3), jnp.float32), "values": jax.ShapeDtypeStruct((2,), jnp.float32)}
    try:
        updates = jax.eval_shape(lambda x: optimizer.update(x, optimizer.init(x), x)[0], tables)
    except Exception as error:
        raise ValueError(
            "optimizer must work with gradients and parameters alone, such as optax.adam(0.01), since training has no "
            f"value of a loss; this one fails: {checks.why(error)}."
        ) from error
    if jax.tree.map(lambda x: (x.shape, x.dtype), updates) != jax.tree.map(lambda x: (x.shape, x.dtype), tables):
        raise ValueError(f"optimizer must be {expected}, which keeps shapes and dtypes; got {checks.shown(updates)}.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of an experiment: a method with its teacher and configuration, trained on every MDP.

    Attributes:
      method: the method, or a name that `methods.get` knows.
      teacher: the teachers of the MDPs; None: the one that `train` was given.
      changes: fields of `Config` that differ in this cell, such as {"estimator": "mc", "learning_rate": 0.05}. A field
        that has no effect on the method is refused (`methods.effects`). The estimator and the reduction are not
        examined, so that a grid of methods and estimators may have all of its cells.
    """

    method: str | Method
    teacher: Teacher | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ResolvedCell:
    """A cell with nothing left open.

    Attributes:
      label: the label in results; it names the students' random streams.
      method: the method.
      teacher: the teachers of the MDPs, or None.
      config: the configuration, with what the method fixes in its place.
      changes: the fields of the configuration that were set for this cell alone.
      make_rule: what a row of the table means, as `rules.student_rule`.
      update_norm: the size of its first update, as `first_updates.update_norms` says it; None if it is not known.
    """

    label: str
    method: Method
    teacher: Teacher | None
    config: Config
    make_rule: Callable[..., rules.Rule] = rules.student_rule
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    update_norm: float | None = None

    def without_effect(self, name: str, num_actions: int, num_features: int = 1) -> str:
        """Why a field of the configuration has no effect on this cell, as `effects.without_effect` says it."""
        return effects.without_effect(name, self.method, self.config, num_actions, self.num_others, num_features)

    def dependencies(self, num_actions: int) -> frozenset[str]:
        """The numbers of a step on which the updates depend, as `effects.dependencies` names them."""
        return effects.dependencies(self.method, num_actions, self.num_others)

    @property
    def num_others(self) -> int:
        """The number of further policies of the teacher."""
        return 0 if self.teacher is None else self.teacher.num_others

    def mass_below_floor(self) -> float | None:
        """The share of the teacher below the floor, as `effects.mass_below_floor` says it; None without a teacher."""
        if self.teacher is None:
            return None
        floor = self.config.probability_floor
        floor = max(floor.values) if isinstance(floor, schedules.Schedule) else floor
        floor = checks.per_world("probability_floor", floor, len(self.teacher.probs))
        return effects.mass_below_floor(self.method, floor, self.teacher.probs, self.num_others)


def resolve_cell(
    label: str,
    method: Method,
    teacher: Teacher | None,
    config: Config,
    make_rule: Callable[..., rules.Rule] = rules.student_rule,
    changes: Mapping[str, Any] | None = None,
) -> ResolvedCell:
    """The cell of a method: what the method fixes takes the place of the configuration's options."""
    method = method.with_sampled_functions(config.num_iterations)
    return ResolvedCell(label, method, teacher, config.resolved(method), make_rule, changes or {})


def check_effects(
    cells: Sequence[ResolvedCell], changes: Mapping[str, Any], num_actions: int, num_features: int = 1
) -> None:
    """Raises ValueError unless the fields set for a cell have an effect on it, and `changes` on at least one cell."""
    for cell in cells:
        for name in cell.changes:
            if reason := cell.without_effect(name, num_actions, num_features):
                raise ValueError(
                    f"{name} has no effect on {cell.label}: its method is {cell.method.name}, {reason}; remove it from "
                    "the changes of the cell."
                )
    for name in changes:
        reasons = [cell.without_effect(name, num_actions, num_features) for cell in cells]
        if all(reasons):
            of_each = [f"{cell.method.name}, {reason}" for cell, reason in zip(cells, reasons, strict=True)]
            shown = "; ".join(of_each[:3]) + ("; ..." if len(cells) > 3 else "")
            raise ValueError(
                f"{name} has no effect on {shown}; remove it, or give it in a config that several trainings share."
            )
