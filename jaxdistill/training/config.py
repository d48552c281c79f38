"""How students are trained: the configuration, and the cells of an experiment."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method
from jaxdistill.runtime import checks

_MAX_RECORD = 2**17  # steps that a Monte Carlo student records: 2 MiB each

Rate = float | Callable[[jax.Array], jax.Array] | np.ndarray | Sequence[float]


@dataclasses.dataclass(frozen=True)
class Config:
    """How students are trained. Numbers marked [M] may be one value or one per MDP, and never recompile.

    Attributes:
      num_iterations: episodes, and so updates, of each student; App. A.4's 30 000.
      num_checkpoints: points of the learning curves; each is the mean over an equal share of the iterations.
      estimator: "mc" (the sampled return) or "td" (TD(1), App. A.3), for methods that do not fix it.
      reduction: an episode's update is the "mean" or the "sum" over its steps.
      learning_rate: of the logits, [M], or a schedule (iteration -> rate), such as `optax.linear_schedule`.
      value_learning_rate: of V_theta, [M], or a schedule.
      discount: in [0, 1], [M]; for training only, reported returns are undiscounted.
      probability_floor: least teacher probability inside a logarithm, in [0, 1), [M].
      loss_weight, return_weight: factors of l and of Rhat, [M].
      optimizer: an `optax.GradientTransformation` over {"logits": [O, A], "values": [O]} in place of SGD with the two
        learning rates; slower, because it touches whole tables.
      max_episode_steps: an episode is cut there as if it had ended, and counted.
    """

    num_iterations: int = 30_000
    num_checkpoints: int = 100
    estimator: Literal["mc", "td"] = "td"
    reduction: Literal["mean", "sum"] = "mean"
    learning_rate: Rate = 0.1
    value_learning_rate: Rate = 0.1
    discount: Any = 0.99
    probability_floor: Any = 0.01
    loss_weight: Any = 1.0
    return_weight: Any = 1.0
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
        for name, valid in (("estimator", ("mc", "td")), ("reduction", ("mean", "sum"))):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}; got {checks.shown(value)}.")
        for name in ("learning_rate", "value_learning_rate"):
            value = getattr(self, name)
            _schedule(name, value) if callable(value) else _number(name, value, 0, np.inf)
        _number("discount", self.discount, 0, 1)
        _number("probability_floor", self.probability_floor, 0, np.nextafter(1, 0))
        _number("loss_weight", self.loss_weight, -np.inf, np.inf)
        _number("return_weight", self.return_weight, -np.inf, np.inf)
        both = (getattr(self.optimizer, name, None) for name in ("init", "update"))
        if self.optimizer is not None and not all(map(callable, both)):
            wanted = "an optax.GradientTransformation, such as optax.adam(0.01), or None"
            raise ValueError(f"optimizer must be {wanted}; got {checks.shown(self.optimizer)}.")

    @property
    def checkpoints(self) -> np.ndarray:
        """Last iteration of each bin, int [C], counted from 1."""
        c = min(self.num_checkpoints, self.num_iterations)
        return -(-np.arange(1, c + 1) * self.num_iterations // c)


def known(changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` if all are fields of `Config`, else ValueError naming the fields."""
    fields = [field.name for field in dataclasses.fields(Config)]
    for name in changes:
        if name not in fields:
            raise ValueError(f"Unknown option {name!r}; a configuration has {', '.join(fields)}.")
    return changes


def _number(name: str, value: Any, least: float, most: float) -> np.ndarray:
    try:
        array = checks.numbers(name, value)
    except ValueError:
        array = np.zeros(0)
    if array.size == 0:
        wanted = "a number or an array of numbers that float32 can hold"
        raise ValueError(f"{name} must be {wanted}; got {checks.shown(value)}.")
    if not (np.isfinite(array).all() and (array >= least).all() and (array <= most).all()):
        wanted = "finite" if np.isinf(least) else f"finite and >= {least:g}" if np.isinf(most) else f"in [{least:g}, 1"
        wanted += "" if np.isinf(most) else "]" if most == 1 else ")"
        raise ValueError(f"{name} must be {wanted}; got {checks.shown(value)}.")
    return array


def _schedule(name: str, schedule: Any) -> None:
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
      method: the method, or its name.
      teacher: the teachers of the MDPs; None: the one that `train` was given.
      changes: fields of `Config` that differ in this cell, such as {"estimator": "mc", "learning_rate": 0.05}.
    """

    method: str | Method
    teacher: Teacher | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A cell with nothing left open."""

    label: str
    method: Method
    teacher: Teacher | None
    config: Config

    @property
    def estimator(self) -> str:
        return self.method.estimator or self.config.estimator
