"""Where a method leads: its expected update as a flow, the fixed points of that flow, and whether it goes round.

d theta / d tau = expected update; a unit of tau is an iteration at learning rate 1. V_theta flows along, since with
TD(1) targets, or a condition on V_theta, the student's path depends on it. Computed in float64, as in `fields`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method
from jaxdistill.runtime import checks
from jaxdistill.theory.exact_update import exact_options, expected_update, keywords
from jaxdistill.theory.fields import check_jacobian, jacobian
from jaxdistill.theory.fields import problem as checked
from jaxdistill.theory.precision import float64, one_by_one
from jaxdistill.theory.quality import Quality, quality
from jaxdistill.theory.stated_losses import TABLE_1

_GROWTH = 2.0  # most by which an implicit step may grow from one to the next
_FARTHEST = 2.0  # most by which an implicit step may change a logit
_SAME_PLACE = 0.01  # distance to an earlier place, in parts of the path's extent, that counts as a return


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """A path of the flow, or M of them with a leading axis; float64.

    Attributes:
      times: [C], tau of each record, from 0.
      logits: [..., C, O, A].
      values: [..., C, O], V_theta.
      speed: [..., C], length of the expected update of the logits.
      quality: `Quality` of [..., C].
    """

    times: np.ndarray
    logits: np.ndarray
    values: np.ndarray
    speed: np.ndarray
    quality: Quality

    def periods(self, tolerance: float = _SAME_PLACE) -> np.ndarray:
        """How long ago the path was where it ends, [...]; nan where it does not go round.

        It goes round if it left the neighbourhood of its last point, came back within `tolerance` of the extent of
        that loop, and never slowed down to `tolerance` of its fastest on the way. A spiral that shrinks by less than
        `tolerance` in a turn counts as going round. Logits are compared up to a constant in each row.
        """
        lead = self.speed.shape[:-1]
        paths = (self.logits - self.logits.mean(-1, keepdims=True)).reshape(-1, len(self.times), self._num_entries)
        speeds = self.speed.reshape(-1, len(self.times))
        found = [_period(self.times, x, v, tolerance) for x, v in zip(paths, speeds, strict=True)]
        return np.array(found).reshape(lead)

    @property
    def _num_entries(self) -> int:
        return self.logits.shape[-1] * self.logits.shape[-2]


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPoint:
    """Where a flow comes to rest, or M such places with a leading axis; float64.

    Attributes:
      logits, values: [..., O, A] and [..., O].
      speed: [...], largest entry of the expected update that is left.
      converged: [...], whether it is below the tolerance.
      stable: [...], whether small disturbances do not grow: no eigenvalue of the Jacobian drives away from it.
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
      mdps, teacher: one, or stacks of M.
      method: a name of `METHODS`, or a `Method`.
      logits: [O, A] or [M, O, A], where to start; zeros if None.
      values: [O] or [M, O], V_theta there; zeros if None.
      num_steps: Runge-Kutta steps, rounded up to a multiple of `num_records`.
      step_size: of tau.
      num_records: C - 1, records after the first, evenly in tau.
      **options: of `expected_update`, by default those of `potentials.TABLE_1`.

    Returns:
      A `Flow`. ValueError for tables or options that do not fit.
    """
    step_size = checks.number("step_size", step_size)
    if not (checks.is_whole(num_records, 1) and checks.is_whole(num_steps, 1) and step_size > 0):
        given = checks.shown((num_steps, num_records, step_size))
        raise ValueError(f"num_steps and num_records must be >= 1 and step_size > 0; got {given}.")
    num_records = int(num_records)
    per_record = -(-int(num_steps) // num_records)
    problem = _Problem(mdps, teacher, method, logits, values, options)
    if num_records * problem.arrays[2].size > checks.MOST:
        raise ValueError(f"num_records = {num_records} of these tables are more than fit; record less often.")
    with float64():
        path, speed = jax.device_get(
            _integrate((problem.method, num_records, per_record), (problem.options, step_size), *problem.arrays)
        )
    path, speed = problem.unstacked((path, speed))
    times = np.arange(num_records + 1) * per_record * step_size
    return Flow(times, path[..., :-1], path[..., -1], speed, problem.quality(path[..., :-1]))


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
    """Follows the flow from a start to the place where it rests.

    Linearly implicit Euler steps, x + (1 / h - J)^-1 update, whose length h grows as the update vanishes, but stays
    below the time in which disturbances grow: at first the flow, in the end Newton's method, which alone would not go
    where the flow goes. Where the flow has no resting place but drives logits to infinity, it stops when what is left
    of the update is below the tolerance, or at the last place where the update is a finite number.

    Args:
      step_size: first h, in units of tau.
      tolerance: largest entry of the expected update that counts as rest.
      max_steps: gives up there: `converged` is False.
      mdps, teacher, method, logits, values, **options: as in `flow`.

    Returns:
      A `FixedPoint`. ValueError for tables or options that do not fit.
    """
    tolerance, max_steps = checks.number("tolerance", tolerance, 0), checks.whole("max_steps", max_steps, 0)
    step_size = checks.number("step_size", step_size)
    if not step_size > 0:
        raise ValueError(f"step_size must be > 0; got {step_size!r}.")
    problem = _Problem(mdps, teacher, method, logits, values, options)
    check_jacobian(problem.mdps, problem.method, problem.options)
    with float64():
        end = _settle(problem.method, (problem.options, (step_size, tolerance, max_steps)), *problem.arrays)
        tables, speed, slopes = problem.unstacked(jax.device_get(end))
    growth = np.linalg.eigvals(slopes).real.max(-1)
    stable = growth <= 1e-6 * np.maximum(1, np.abs(slopes).max((-1, -2)))
    where = tables[..., :-1]
    return FixedPoint(where, tables[..., -1], speed, speed <= tolerance, stable, problem.quality(where))


class _Problem:
    """The arguments of `flow` and `fixed_point`, checked, in float64, with a leading axis [M]."""

    def __init__(self, mdps: MDP, teacher: Teacher, method: Any, logits: Any, values: Any, options: dict[str, Any]):
        self.mdps, self.teacher = checked(mdps, teacher)
        self.options = exact_options(options, TABLE_1)
        method = methods.get(method)
        methods.check_functions(method, self.mdps.num_actions, self.teacher.num_others)
        self.method = method
        lead, rows = self.mdps.id.shape, self.mdps.num_observations
        shape = (*lead, rows, self.mdps.num_actions)
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

    def unstacked(self, found: Any) -> Any:
        """Arrays [M, ...] as the caller wants them: without M for a single world."""
        return found if self.mdps.is_stacked else jax.tree.map(lambda x: x[0], found)

    def quality(self, logits: np.ndarray) -> Quality:
        return quality(self.mdps, self.teacher, logits)


def _velocity(method, options, mdp, teacher, tables):
    """The expected update of both tables, [O, A + 1]."""
    update = expected_update(mdp, teacher, method, tables[:, :-1], tables[:, -1], **keywords(options))
    return jnp.concatenate([update.logits, update.values[:, None]], axis=-1)


@one_by_one
def _integrate(static, options, mdp, teacher, tables):
    """Tables [C, O, A + 1] and the speed of the logits [C]."""
    method, num_records, per_record = static
    options, step_size = options
    velocity = functools.partial(_velocity, method, options, mdp, teacher)
    stages = jnp.asarray([(0, 1 / 6), (1 / 2, 1 / 3), (1 / 2, 1 / 3), (1, 1 / 6)], tables.dtype)

    def step(tables, _):
        def stage(slope, coefficients):
            reach, weight = coefficients
            slope = velocity(tables + step_size * reach * slope)
            return slope, (weight * slope, jnp.linalg.norm(slope[:, :-1]))

        _, (slopes, speeds) = jax.lax.scan(stage, jnp.zeros_like(tables), stages)
        return tables + step_size * jnp.sum(slopes, 0), speeds[0]

    def record(tables, _):
        after, speeds = jax.lax.scan(step, tables, length=per_record)
        return after, (tables, speeds[0])

    return jax.lax.scan(record, tables, length=num_records + 1)[1]


@one_by_one
def _settle(method, options, mdp, teacher, tables):
    """At the end of implicit Euler steps: the tables, the largest entry of the update there, and its Jacobian."""
    options, (first_step, tolerance, max_steps) = options
    velocity = functools.partial(_velocity, method, options, mdp, teacher)
    n = tables.size

    def unfinished(state):
        _, v, _, _, steps = state
        return (steps == 0) | (jnp.max(jnp.abs(v)) > tolerance) & (steps <= max_steps)

    def body(state):
        tables, v, slopes, h, steps = state
        # Where disturbances grow, a step longer than 1 / growth would turn round: to a saddle, which the flow leaves.
        growth = jnp.max(jnp.linalg.eigvals(slopes).real)
        h = jnp.minimum(h, 0.5 / jnp.maximum(growth, 1e-12))
        move = jnp.linalg.solve(jnp.eye(n, dtype=v.dtype) / h - slopes, v.ravel()).reshape(v.shape)
        move *= jnp.minimum(1, _FARTHEST / jnp.maximum(jnp.max(jnp.abs(move[:, :-1])), 1e-30))
        there = tables + jnp.where(steps == 0, 0, move)  # the first round only looks where it starts
        new, slopes_there = velocity(there), jacobian(velocity, there)
        ratio = jnp.linalg.norm(v) / jnp.maximum(jnp.linalg.norm(new), 1e-30)
        h = jnp.where(steps == 0, h, h * jnp.clip(ratio, 1 / _GROWTH, _GROWTH))
        finite = jnp.all(jnp.isfinite(new)) & jnp.all(jnp.isfinite(slopes_there))
        after = (there, new, slopes_there, jnp.minimum(h, 1e12), steps + 1)
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, (tables, v, slopes, h, max_steps + 1))

    start = (tables, jnp.zeros_like(tables), jnp.zeros((n, n), tables.dtype), jnp.asarray(first_step, tables.dtype), 0)
    tables, v, slopes, _, _ = jax.lax.while_loop(unfinished, body, start)
    return tables, jnp.max(jnp.abs(v)), slopes


def _period(times: np.ndarray, path: np.ndarray, speeds: np.ndarray, tolerance: float) -> float:
    """See `Flow.periods`; path [C, n], speeds [C]."""
    end = path[-1]
    # Distance of the end to the chords between neighbouring records, which are closer to it than the records are.
    chords, to_end = np.diff(path, axis=0), end - path[:-1]
    length = np.maximum((chords**2).sum(-1), 1e-300)
    along = np.clip((chords * to_end).sum(-1) / length, 0, 1)
    near = np.linalg.norm(to_end - along[:, None] * chords, axis=-1)  # [C - 1]
    away = np.linalg.norm(path - end, axis=-1)[1:]  # after each chord
    extent = np.maximum.accumulate(away[::-1])[::-1]
    slowest = np.minimum.accumulate(speeds[::-1])[::-1][:-1]
    back = (near <= tolerance * extent) & (extent > 1e-9) & (slowest > tolerance * speeds.max())
    return float(times[-1] - times[:-1][back][-1]) if back.any() else float("nan")
