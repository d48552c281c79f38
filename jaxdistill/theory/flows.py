"""The flow of a method: where its expected update leads a student, where it stops, and whether its path is periodic.

The flow solves d theta / d tau = expected update, so that a unit of tau is one iteration at learning rate 1. V_theta
follows the same equation, because the path of the student depends on V_theta where targets bootstrap from it or a loss
depends on it. All computations are in float64, as in `fields`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.features import table_by_state
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method
from jaxdistill.runtime import checks
from jaxdistill.theory.exact_update import (
    ExactOptions,
    Problem,
    check_method_functions,
    check_size,
    exact_options,
    solve_update,
)
from jaxdistill.theory.fields import check_jacobian, jacobian, problem
from jaxdistill.theory.precision import float64, one_by_one
from jaxdistill.theory.quality import Quality, quality
from jaxdistill.theory.stated_losses import TABLE_1

_LARGEST_GROWTH = 2.0  # The largest ratio of the lengths of two consecutive implicit steps.
_LARGEST_CHANGE = 2.0  # The largest change of a logit in an implicit step.
_LARGEST_STEP = 1e12  # The largest length of an implicit step, in units of tau.
_RETURN_TOLERANCE = 0.01  # Distance that counts as a return to an earlier point, relative to the extent of the loop.


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """A path of the flow, or M of them with a leading axis; float64.

    Attributes:
      times: [C], tau of each record, from 0.
      logits: [..., C, O, A].
      values: [..., C, O], V_theta.
      speed: [..., C], the norm of the expected update of the logits.
      quality: `Quality` of [..., C].
    """

    times: np.ndarray
    logits: np.ndarray
    values: np.ndarray
    speed: np.ndarray
    quality: Quality

    def periods(self, tolerance: float = _RETURN_TOLERANCE) -> np.ndarray:
        """The period of each path, [...]: the time since it was last at its end point; nan if it is not periodic.

        A path is periodic if it left the neighbourhood of its last point and came back, to a distance of at most
        `tolerance` times the extent of that loop, and if its speed on the way stayed above `tolerance` times the
        largest speed. So a spiral that shrinks by less than `tolerance` in a turn counts as periodic. Logits are
        compared up to a constant in each row.
        """
        lead, num_entries = self.speed.shape[:-1], self.logits.shape[-1] * self.logits.shape[-2]
        paths = (self.logits - self.logits.mean(-1, keepdims=True)).reshape(-1, len(self.times), num_entries)
        speeds = self.speed.reshape(-1, len(self.times))
        periods = [_period(self.times, path, speed, tolerance) for path, speed in zip(paths, speeds, strict=True)]
        return np.array(periods).reshape(lead)


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPoint:
    """A fixed point of the flow, where the expected update is 0, or M of them with a leading axis; float64.

    Attributes:
      logits, values: [..., O, A] and [..., O].
      speed: [...], the largest entry of the expected update at this point.
      converged: [...], whether `speed` is below the tolerance and no probability of the student has underflowed to 0.
        An action whose probability has underflowed counts as never played, so a small update proves nothing then.
      stable: [...], whether small disturbances do not grow: no eigenvalue of the Jacobian has a positive real part.
      quality: `Quality` of [...].
    """

    logits: np.ndarray
    values: np.ndarray
    speed: np.ndarray
    converged: np.ndarray
    stable: np.ndarray
    quality: Quality


def flow(
    mdps: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: npt.ArrayLike | None = None,
    values: npt.ArrayLike | None = None,
    *,
    num_steps: int = 1000,
    step_size: float = 0.1,
    num_records: int = 200,
    **options: Any,
) -> Flow:
    """Integrates the expected update from a start, by the classical Runge-Kutta method of order 4.

    Args:
      mdps, teacher: single ones, or stacks of M.
      method: a name of `METHODS` or `ZOO`, or a `Method`.
      logits: [O, A] or [M, O, A], where the path starts; zeros if None.
      values: [O] or [M, O], V_theta at the start; zeros if None.
      num_steps: Runge-Kutta steps, rounded up to a multiple of `num_records`.
      step_size: length of a step, in units of tau.
      num_records: C - 1, the number of records after the first, evenly spaced in tau.
      **options: of `expected_update`. The default options are those of `stated_losses.TABLE_1`.

    Returns:
      A `Flow`.

    Raises:
      ValueError: tables or options that do not fit.
    """
    step_size = checks.number("step_size", step_size)
    if not (checks.is_whole(num_records, 1) and checks.is_whole(num_steps, 1) and step_size > 0):
        given = checks.shown((num_steps, num_records, step_size))
        raise ValueError(f"num_steps and num_records must be >= 1 and step_size > 0; got {given}.")
    num_records = int(num_records)
    steps_per_record = -(-int(num_steps) // num_records)
    start = _Start(mdps, teacher, method, logits, values, options)
    check_size(start.mdps, "the exact update", num_nodes=start.options.nodes_needed(start.method))
    if num_records * start.arrays[2].size > checks.MOST:
        raise ValueError(f"num_records = {num_records} of these tables are more than fit; record less often.")
    static, numbers = (start.method, num_records, steps_per_record), (start.options, step_size)
    with float64():
        path, speed = start.unstacked(jax.device_get(_integrate(static, numbers, *start.arrays)))
    times = np.arange(num_records + 1) * steps_per_record * step_size
    return Flow(times, path[..., :-1], path[..., -1], speed, start.quality(path[..., :-1]))


def fixed_point(
    mdps: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: npt.ArrayLike | None = None,
    values: npt.ArrayLike | None = None,
    *,
    step_size: float = 1.0,
    tolerance: float = 1e-10,
    max_steps: int = 2000,
    **options: Any,
) -> FixedPoint:
    """Follows the flow from a start to the fixed point where it ends.

    It takes linearly implicit Euler steps, x + (1 / h - J)^-1 update. The length h grows as the update vanishes, but
    stays below the time in which disturbances grow. So the first steps follow the flow, and the last ones are Newton's
    method, which by itself would not end where the flow ends. If the flow has no fixed point and drives logits to
    infinity, the search stops where the update is below the tolerance, or at the last point where it is finite.

    Args:
      step_size: the first h, in units of tau.
      tolerance: the search ends where the largest entry of the expected update is at most this.
      max_steps: the largest number of steps; `converged` is False if they do not suffice.
      mdps, teacher, method, logits, values, **options: as in `flow`.

    Returns:
      A `FixedPoint`.

    Raises:
      ValueError: tables or options that do not fit.
    """
    tolerance, max_steps = checks.number("tolerance", tolerance, 0), checks.whole("max_steps", max_steps, 0)
    step_size = checks.number("step_size", step_size)
    if not step_size > 0:
        raise ValueError(f"step_size must be > 0; got {step_size!r}.")
    start = _Start(mdps, teacher, method, logits, values, options)
    check_jacobian(start.mdps, start.method, start.options)
    with float64():
        end = _follow(start.method, (start.options, (step_size, tolerance, max_steps)), *start.arrays)
        tables, speed, slopes = start.unstacked(jax.device_get(end))
    growth = np.linalg.eigvals(slopes).real.max(-1)
    stable = growth <= 1e-6 * np.maximum(1, np.abs(slopes).max((-1, -2)))
    end_logits, end_values = tables[..., :-1], tables[..., -1]
    state_logits = table_by_state(start.given[0], end_logits)
    gaps = state_logits.max(-1) - state_logits.min(-1)
    converged = (speed <= tolerance) & (gaps.max(-1) < -np.log(np.finfo(np.float64).tiny))
    return FixedPoint(end_logits, end_values, speed, converged, stable, start.quality(end_logits))


class _Start:
    """The arguments of `flow` and `fixed_point`, checked and in float64.

    Attributes:
      given: the worlds and their teachers, as they were given.
      mdps, teacher: single ones or stacks, as `problem` returns them.
      method: the method.
      options: options that the method may override.
      arrays: these worlds, teachers and the student's tables [M, O, A + 1], always with a leading axis [M].
    """

    def __init__(
        self, mdps: MDP, teacher: Teacher, method: str | Method, logits: Any, values: Any, options: Mapping[str, Any]
    ) -> None:
        checks.on_host((mdps, teacher, logits, values, options))
        self.options, self.method = exact_options(options, TABLE_1), methods.get(method)
        self.given = (mdps, teacher)
        self.mdps, self.teacher = problem(mdps, teacher, self.options, self.method)
        check_method_functions(self.method, self.options, self.mdps, self.teacher)
        lead = self.mdps.id.shape
        shape = (*lead, self.mdps.num_observations, self.mdps.num_actions)
        logits = np.zeros(shape) if logits is None else checks.numbers("logits", logits)
        values = np.zeros(shape[:-1]) if values is None else checks.numbers("values", values)
        if logits.shape != shape or values.shape != shape[:-1]:
            got = f"{list(logits.shape)} and {list(values.shape)}"
            raise ValueError(f"logits must be {list(shape)} and values {list(shape[:-1])}; got {got}.")
        if not np.isfinite(logits).all() or not np.isfinite(values).all():
            raise ValueError("logits and values must be finite; they hold NaN or infinity.")
        tables = np.concatenate([logits, values[..., None]], axis=-1)
        arrays = (self.mdps, self.teacher, tables)
        self.arrays = arrays if lead else jax.tree.map(lambda x: np.asarray(x)[None], arrays)

    def unstacked(self, arrays: Any) -> Any:
        """Arrays [M, ...] in the shape of the result: without M for a single world."""
        return arrays if self.mdps.is_stacked else jax.tree.map(lambda x: x[0], arrays)

    def quality(self, logits: np.ndarray) -> Quality:
        """The quality of students on these worlds."""
        return quality(*self.given, logits)


def _velocity(method: Method, options: ExactOptions, mdp: MDP, teacher: Teacher, tables: jax.Array) -> jax.Array:
    """The expected update of both tables, [O, A + 1]."""
    update = solve_update(Problem.resolved(method, options, mdp, teacher, tables[:, :-1], tables[:, -1]))
    return jnp.concatenate([update.logits, update.values[:, None]], axis=-1)


@one_by_one
def _integrate(
    static: tuple[Method, int, int],
    numbers: tuple[ExactOptions, jax.Array],
    mdp: MDP,
    teacher: Teacher,
    tables: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The tables [C, O, A + 1] along the path, and the speed of the logits [C]."""
    method, num_records, steps_per_record = static
    options, step_size = numbers
    velocity = functools.partial(_velocity, method, options, mdp, teacher)
    stages = jnp.asarray([(0, 1 / 6), (1 / 2, 1 / 3), (1 / 2, 1 / 3), (1, 1 / 6)], tables.dtype)

    def step(tables: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
        def stage(slope: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            position, weight = coefficients
            slope = velocity(tables + step_size * position * slope)
            return slope, (weight * slope, jnp.linalg.norm(slope[:, :-1]))

        _, (slopes, speeds) = jax.lax.scan(stage, jnp.zeros_like(tables), stages)
        return tables + step_size * jnp.sum(slopes, 0), speeds[0]

    def record(tables: jax.Array, _: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        next_tables, speeds = jax.lax.scan(step, tables, length=steps_per_record)
        return next_tables, (tables, speeds[0])

    return jax.lax.scan(record, tables, length=num_records + 1)[1]


@one_by_one
def _follow(
    method: Method,
    numbers: tuple[ExactOptions, tuple[jax.Array, jax.Array, jax.Array]],
    mdp: MDP,
    teacher: Teacher,
    tables: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """At the end of the implicit Euler steps: the tables, the largest entry of the update there, and its Jacobian."""
    options, (first_step, tolerance, max_steps) = numbers
    velocity = functools.partial(_velocity, method, options, mdp, teacher)

    def unfinished(state: tuple) -> jax.Array:
        _, v, _, _, steps = state
        return (steps == 0) | (jnp.max(jnp.abs(v)) > tolerance) & (steps <= max_steps)

    def step(state: tuple) -> tuple:
        tables, v, slopes, h, steps = state
        # Where disturbances grow, a step longer than 1 / growth would reverse its direction, towards a saddle point
        # that the flow leaves.
        growth = jnp.max(jnp.linalg.eigvals(slopes).real)
        h = jnp.minimum(h, 0.5 / jnp.maximum(growth, 1e-12))
        move = _implicit_move(v, slopes, h)
        next_tables = tables + jnp.where(steps == 0, 0, move)  # The first round only evaluates the start.
        next_v, next_slopes = velocity(next_tables), jacobian(velocity, next_tables)
        ratio = jnp.linalg.norm(v) / jnp.maximum(jnp.linalg.norm(next_v), 1e-30)
        h = jnp.where(steps == 0, h, h * jnp.clip(ratio, 1 / _LARGEST_GROWTH, _LARGEST_GROWTH))
        is_finite = jnp.all(jnp.isfinite(next_v)) & jnp.all(jnp.isfinite(next_slopes))
        next_state = (next_tables, next_v, next_slopes, jnp.minimum(h, _LARGEST_STEP), steps + 1)
        stopped_state = (tables, v, slopes, h, max_steps + 1)
        return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), next_state, stopped_state)

    zero_slopes = jnp.zeros((tables.size, tables.size), tables.dtype)
    start = (tables, jnp.zeros_like(tables), zero_slopes, jnp.asarray(first_step, tables.dtype), 0)
    tables, v, slopes, _, _ = jax.lax.while_loop(unfinished, step, start)
    return tables, jnp.max(jnp.abs(v)), slopes


def _implicit_move(v: jax.Array, slopes: jax.Array, h: jax.Array) -> jax.Array:
    """The change of the tables in a linearly implicit Euler step of length h, shortened to `_LARGEST_CHANGE`."""
    move = jnp.linalg.solve(jnp.eye(v.size, dtype=v.dtype) / h - slopes, v.ravel()).reshape(v.shape)
    return move * jnp.minimum(1, _LARGEST_CHANGE / jnp.maximum(jnp.max(jnp.abs(move[:, :-1])), 1e-30))


def _period(times: np.ndarray, path: np.ndarray, speeds: np.ndarray, tolerance: float) -> float:
    """The period of one path [C, n] with speeds [C], as `Flow.periods` defines it."""
    end = path[-1]
    # A chord joins two neighbouring records. The path passes closer to its end on a chord than at the records.
    chords, to_end = np.diff(path, axis=0), end - path[:-1]
    squared_lengths = np.maximum((chords**2).sum(-1), 1e-300)
    position = np.clip((chords * to_end).sum(-1) / squared_lengths, 0, 1)
    distance = np.linalg.norm(to_end - position[:, None] * chords, axis=-1)  # from each chord to the end, [C - 1]
    distance_after = np.linalg.norm(path - end, axis=-1)[1:]
    extent = np.maximum.accumulate(distance_after[::-1])[::-1]
    slowest = np.minimum.accumulate(speeds[::-1])[::-1][:-1]
    is_return = (distance <= tolerance * extent) & (extent > 1e-9) & (slowest > tolerance * speeds.max())
    return float(times[-1] - times[:-1][is_return][-1]) if is_return.any() else float("nan")
