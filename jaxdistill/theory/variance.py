"""The exact bias, variance and cost of the update that one sampled episode gives."""

import dataclasses
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Control, Method
from jaxdistill.theory.exact_update import ExactOptions, Problem, check_problem, exact_options, solve_update
from jaxdistill.theory.fields import problem, table
from jaxdistill.theory.moments import Moments, solve_moments
from jaxdistill.theory.precision import float64, one_by_one
from jaxdistill.theory.stated_losses import TABLE_1


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """A sampled update compared with its target, for one world or for M with a leading axis; float64.

    Attributes:
      mean, variance: [..., O, A], of each entry of the update by one episode.
      target: [..., O, A], the update that its expectation should equal.
      num_steps: [...], the mean number of steps of an episode, which is the cost of an update.
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
    """The norm of each table of x [..., O, A], [...]."""
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
    """The exact bias, variance and cost of a method's update, in float64.

    Args:
      mdps, teacher: single ones, or stacks of M.
      method: a name of `METHODS` or `ZOO`, or a `Method`.
      logits: [O, A] or [M, O, A].
      values: [O] or [M, O], V_theta, the baseline; zeros if None.
      target: the method whose expected update, under the same options, is the target; None: `method` itself.
      control: the control policy of the sampled episodes; None: the method's.
      **options: of `expected_update`. The default options are those of `stated_losses.TABLE_1`: Monte Carlo returns,
        sums over steps, undiscounted. If the method fixes an option, such as its discount, the method's value is used.

    Returns:
      An `Assessment`.

    Raises:
      ValueError: tables or options that do not fit.
    """
    method = methods.get(method)
    target_method = method if target is None else methods.get(target)
    method = method if control is None else dataclasses.replace(method, control=control)
    checked_options = exact_options(options, TABLE_1)
    mdps, teacher = problem(mdps, teacher, checked_options, method, target_method)
    for checked_method in (method, target_method):
        check_problem(checked_method, checked_options, mdps, teacher)
    shape = (*mdps.id.shape, mdps.num_observations, mdps.num_actions)
    logits = table("logits", logits, shape)
    values = np.zeros(shape[:-1]) if values is None else table("values", values, shape[:-1])
    arrays = (mdps, teacher, logits, values)
    with float64():
        if not mdps.is_stacked:
            arrays = jax.tree.map(lambda x: np.asarray(x)[None], arrays)
        assessed = jax.device_get(_assess((method, target_method), checked_options, *arrays))
    moments, target_update = assessed if mdps.is_stacked else jax.tree.map(lambda x: x[0], assessed)
    return Assessment(moments.mean, moments.variance, target_update, moments.num_steps)


@one_by_one
def _assess(
    static: tuple[Method, Method],
    options: ExactOptions,
    mdp: MDP,
    teacher: Teacher,
    logits: jax.Array,
    values: jax.Array,
) -> tuple[Moments, jax.Array]:
    """The moments of a method's update on one world, and the expected update of the logits of the target method."""
    method, target_method = static
    moments = solve_moments(Problem.resolved(method, options, mdp, teacher, logits, values))
    return moments, solve_update(Problem.resolved(target_method, options, mdp, teacher, logits, values)).logits
