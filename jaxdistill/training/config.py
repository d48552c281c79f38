"""How students are trained: the configuration, and the cells of an experiment."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.engine import rules
from jaxdistill.mdp import Teacher
from jaxdistill.methods import Method, UpdateOptions
from jaxdistill.methods.options import check_number, check_options, updated
from jaxdistill.runtime import checks

Rate = float | Callable[[jax.Array], jax.Array] | np.ndarray | Sequence[float]
RATES = ("learning_rate", "value_learning_rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(UpdateOptions):
    """How students are trained. Numbers marked [M] may be one value or one for each MDP, and never recompile.

    Attributes:
      num_iterations: episodes, and so updates, of each student; App. A.4's 30 000.
      num_checkpoints: points of the learning curves; each is the mean over an equal share of the iterations.
      estimator: how returns are estimated, where the method leaves it open; a name of `estimators.ESTIMATORS`, such as
        "td" (one step, the TD(1) of App. A.3) or "mc" (the sampled return).
      reduction: an episode's update is the "mean" or the "sum" over its steps.
      learning_rate: of the logits, [M], or a schedule (iteration -> rate), such as `optax.linear_schedule`.
      value_learning_rate: of V_theta, [M], or a schedule.
      discount: in [0, 1], [M]; for training only, reported returns are undiscounted.
      probability_floor: least teacher probability inside a logarithm, in [0, 1), [M].
      loss_weight, return_weight: factors of l and of Rhat, [M].
      trace_decay: lambda of the estimator "lambda", in [0, 1], [M].
      optimizer: an `optax.GradientTransformation` over {"logits": [O, A], "values": [O]} in place of SGD with the two
        learning rates; slower, because it updates whole tables.
      max_episode_steps: an episode that reaches this length is treated as ended, and counted as truncated.
    """

    num_iterations: int = 30_000
    num_checkpoints: int = 100
    learning_rate: Rate = 0.1
    value_learning_rate: Rate = 0.1
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
            _check_schedule(name, value) if callable(value) else check_number(name, value, 0, np.inf)
        check_options(self, per_world=True)
        functions = (getattr(self.optimizer, name, None) for name in ("init", "update"))
        if self.optimizer is not None and not all(map(callable, functions)):
            expected = "an optax.GradientTransformation, such as optax.adam(0.01), or None"
            raise ValueError(f"optimizer must be {expected}; got {checks.shown(self.optimizer)}.")

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


def _check_schedule(name: str, schedule: Any) -> None:
    """ValueError unless a schedule returns one number for an iteration."""
    try:
        rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception as error:
        raise ValueError(f"{name} fails on an iteration, int32 []: {checks.why(error)}.") from error
    if getattr(rate, "shape", None) != () or rate.dtype.kind not in "iuf":
        raise ValueError(f"{name} must return one number for an iteration; got {checks.shown(rate)}.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of an experiment: a method with its teacher and configuration, trained on every MDP.

    Attributes:
      method: the method, or a name that `methods.get` knows.
      teacher: the teachers of the MDPs; None: the one that `train` was given.
      changes: fields of `Config` that differ in this cell, such as {"estimator": "mc", "learning_rate": 0.05}.
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
      make_rule: what a row of the table means, as `rules.student_rule`.
    """

    label: str
    method: Method
    teacher: Teacher | None
    config: Config
    make_rule: Callable[..., rules.Rule] = rules.student_rule


def resolve_cell(
    label: str,
    method: Method,
    teacher: Teacher | None,
    config: Config,
    make_rule: Callable[..., rules.Rule] = rules.student_rule,
) -> ResolvedCell:
    """The cell of a method: what the method fixes takes the place of the configuration's options."""
    return ResolvedCell(label, method, teacher, config.resolved(method), make_rule)
