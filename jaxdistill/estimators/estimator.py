"""What a return estimator is, on the sampled side and on the exact side.

All estimators estimate the return Rhat_t of step t as

  Rhat_t = rhat_t + discount * H_{t+1},   H_t = continuation(Rhat_t, V_t),

where V_t is the bootstrap value of the method (V_theta, V_pi or 0), and H is 0 after the end of the episode.
`continuation` is linear in both arguments. The exact side computes with nothing else of an estimator. The engine also
needs `tick`, the work of one lane that samples this return, and `work`, what a lane carries from one tick to the next.

Estimators import neither the engine nor the theory. The engine passes itself to `tick` as a `Machine`.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Row = tuple[jax.Array, ...]
"""The parts of a row of a student's table, each [width]; with features, of the F rows of a state, each [F, width]."""


class Visit(NamedTuple):
    """What a lane reads at its current state; every array but `scales` has a leading axis [W] of lanes.

    Attributes:
      row_index: int32, the row's position in the table of all lanes.
      row: the student's row, as stored.
      teacher_row: the teacher's row of the state.
      pending_scale: [2], by which the row's stored direction must be multiplied.
      scales: [W * ring, 2], the table of scales, with the last iteration's scale of every lane written.
      features: int32 [W, F], the rows of the student's table that the state uses; None where each state uses one. With
        features, `row_index` is [W, F] and `pending_scale` [W, F, 2].
    """

    row_index: jax.Array
    row: Row
    teacher_row: jax.Array
    pending_scale: jax.Array
    scales: jax.Array
    features: jax.Array | None


class Machine(Protocol):
    """The parts of a tick that all estimators share. The engine implements them; every array has a leading axis [W]."""

    @property
    def rule(self) -> Any:
        """What a row of the student's table means: `engine.rules.Rule`."""

    def record_index(self, time: jax.Array) -> jax.Array:
        """The position of each lane's record of step `time`."""

    def read_record(self, lanes: Any, index: jax.Array) -> Any:
        """The `StepRecord` at `index`."""

    def visit(self, lanes: Any, mdp_state: jax.Array, observation: jax.Array) -> Visit:
        """Reads the rows of a state."""

    def share(self, features: jax.Array | None) -> jax.Array | None:
        """The share of a step's direction that each of its rows gets, [W, F]; None where a state uses one row."""

    def refresh_iteration(self, state: Any) -> jax.Array:
        """The iteration to which rows are brought up to date."""

    def refresh(self, state: Any, visit: Visit) -> tuple[Row, jax.Array]:
        """The student's rows, brought up to date, and whether they are finite."""

    def start_acting(self, state: Any, is_finite: jax.Array, may_act: Any = True) -> tuple[jax.Array, jax.Array, Any]:
        """Which lanes act in this tick, and in which the episode is cut; lanes with a row that is not finite stop."""

    def act(self, state: Any, row: Row, teacher_row: jax.Array, replay: Any = None) -> tuple[jax.Array, Any]:
        """Draws an action and its outcome, or repeats those of a record."""

    def arrive(self, state: Any, active: jax.Array, arrival: Any) -> Any:
        """Moves the active lanes to the state in which they arrived."""

    def scheduled_numbers(self, student: Any) -> jax.Array | None:
        """The numbers of the students that change with the iteration, [W, columns]; None if none does."""

    def with_numbers(self, student: Any, numbers: jax.Array | None) -> Any:
        """The students with these numbers, which are those of an earlier tick."""

    def write(self, lanes: Any, visit: Visit, row_index: jax.Array, row: Row) -> Any:
        """Writes rows and scales."""

    def write_record(self, lanes: Any, index: jax.Array, record: Any) -> Any:
        """Writes the `StepRecord` at `index`."""

    def end_iteration(self, lanes: Any, ended: jax.Array) -> Any:
        """Ends the iteration of the lanes where `ended`, and starts their next episode."""


class StepRecord(NamedTuple):
    """One step of an episode as it is recorded, each int32 [W]."""

    mdp_state: jax.Array
    observation: jax.Array
    action: jax.Array
    outcome: jax.Array


@dataclasses.dataclass(frozen=True)
class Estimator(abc.ABC):
    """One way to estimate returns. It has no state, so that equal estimators share a compiled program.

    Attributes:
      name: the value of `estimator` in a configuration.
      title: the name in words, for labels.
      ticks_per_step: how many ticks of a lane one environment step costs.
      records_episode: whether the engine must allocate a table for the records of an episode.
      numbers: names of the numbers of `methods.UpdateOptions` that this estimator alone reads.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ticks_per_step: ClassVar[int]
    records_episode: ClassVar[bool]
    numbers: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def continuation(self, options: Any, target: Any, value: Any) -> Any:
        """H_t, which the return of step t - 1 adds, discounted, to its own reward: linear in Rhat_t and V_t.

        Args:
          options: `methods.UpdateOptions`, for estimators that have a number of their own.
          target: Rhat_t.
          value: V_t.
        """

    @abc.abstractmethod
    def empty_work(self, num_lanes: int, rule: Any, num_scheduled: int) -> Any:
        """The work state of lanes at the start of an episode.

        Args:
          num_lanes: W.
          rule: what a row means, `engine.rules.Rule`.
          num_scheduled: columns of `Machine.scheduled_numbers`; 0 if it is None.
        """

    @abc.abstractmethod
    def all_credited(self, work: Any) -> jax.Array:
        """True in lanes, [W], that are at an episode boundary and have no uncredited step."""

    @abc.abstractmethod
    def tick(self, machine: Machine, lanes: Any) -> Any:
        """Advances every lane by one unit of its own work."""


def select(condition: jax.Array, new: Row, old: Row) -> Row:
    """`new` where `condition` holds, else `old`, in every part of a row; the axes of `condition` are the first ones."""
    num_axes = new[0].ndim
    if 0 < condition.ndim < num_axes:
        condition = jnp.expand_dims(condition, tuple(range(condition.ndim, num_axes)))
    return jax.tree.map(functools.partial(jnp.where, condition), new, old)
