"""How good a sampled update is: its bias, its variance and its cost, exactly."""

import dataclasses
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Control, Method
from jaxdistill.theory.exact_update import exact_options, expected_update, keywords
from jaxdistill.theory.fields import problem, table
from jaxdistill.theory.moments import update_moments
from jaxdistill.theory.precision import float64, one_by_one
from jaxdistill.theory.stated_losses import TABLE_1


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """An estimator of an update, against what it should estimate; one world, or M with a leading axis; float64.

    Attributes:
      mean, variance: [..., O, A], of the update of one episode, entry by entry.
      target: [..., O, A], the update that it should have in expectation.
      num_steps: [...], steps of an episode: the cost of an update.
    """

    mean: np.ndarray
    variance: np.ndarray
    target: np.ndarray
    num_steps: np.ndarray

    @property
    def bias(self) -> np.ndarray:
        """|mean - target|, [...]."""
        return _length(self.mean - self.target)

    @property
    def total_variance(self) -> np.ndarray:
        """E|update - mean|^2, [...]: the sum over entries."""
        return self.variance.sum((-1, -2))

    @property
    def signal_to_noise(self) -> np.ndarray:
        """|mean| / sqrt(total variance) of one episode, [...]; averaging n episodes multiplies it by sqrt(n)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _length(self.mean) / np.sqrt(self.total_variance)

    def error(self, num_episodes: float = 1) -> np.ndarray:
        """Root mean square distance of the average over episodes from the target, [...]."""
        return np.sqrt(self.bias**2 + self.total_variance / num_episodes)


def _length(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).sum((-1, -2)))


def assess(
    mdps: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: npt.ArrayLike,
    values: npt.ArrayLike | None = None,
    *,
    target: str | Method | None = None,
    control: Control | None = None,
    **options: Any,
) -> Assessment:
    """Exact bias, variance and cost of a method's update, in float64.

    Args:
      mdps, teacher: one, or stacks of M.
      method: a name of `METHODS`, or a `Method`.
      logits: [O, A] or [M, O, A].
      values: [O] or [M, O], V_theta: the baseline; zeros if None.
      target: the method whose expected update is wanted, under the same options; None: the method's own.
      control: samples with this control policy in place of the method's.
      **options: of `expected_update`, by default those of `potentials.TABLE_1`: Monte Carlo, sum, undiscounted; but a
        method's own `discount` holds.

    Returns:
      An `Assessment`.
    """
    method = methods.get(method)
    target_method = method if target is None else methods.get(target)
    method = method if control is None else dataclasses.replace(method, control=control)
    mdps, teacher = problem(mdps, teacher)
    for checked_method in (method, target_method):
        methods.check_functions(checked_method, mdps.num_actions, teacher.num_others)
    resolved = exact_options(options, TABLE_1)
    shape = (*mdps.id.shape, mdps.num_observations, mdps.num_actions)
    logits = table("logits", logits, shape)
    values = np.zeros(shape[:-1]) if values is None else table("values", values, shape[:-1])
    arrays = (mdps, teacher, logits, values)
    with float64():
        if not mdps.is_stacked:
            arrays = jax.tree.map(lambda x: np.asarray(x)[None], arrays)
        assessed = jax.device_get(_assess((method, target_method), resolved, *arrays))
    moments, target_update = assessed if mdps.is_stacked else jax.tree.map(lambda x: x[0], assessed)
    return Assessment(moments.mean, moments.variance, target_update, moments.num_steps)


@one_by_one
def _assess(static, options, mdp, teacher, logits, values):
    method, target_method = static
    options = keywords(options)
    moments = update_moments(mdp, teacher, method, logits, values, **options)
    return moments, expected_update(mdp, teacher, target_method, logits, values, **options).logits
