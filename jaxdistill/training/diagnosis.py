"""Finds the likely cause of a divergence from the method's functions, the tables, the rates and the rewards."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods.schedules import Schedule
from jaxdistill.theory.exact_update import ExactOptions, Problem, check_size
from jaxdistill.training.config import RATES, ResolvedCell

_LARGE = 1e6  # if all finite parameters are smaller, the cause is not that they have grown
_EXTREME = 1e3  # a factor of the update above this is named as the cause
_REMEDIES = {"rewards": "scale them down"}
_RECENT = 1000  # iterations before the divergence at which a schedule is evaluated


def largest_finite(params: np.ndarray) -> float:
    """The size of the largest finite entry of a table; 0 if none is finite."""
    return float(np.max(np.abs(params), initial=0.0, where=np.isfinite(params)))


def likely_cause(cell: ResolvedCell, mdps: MDP, index: int, iteration: int, largest: float) -> str:
    """The likely cause of a divergence and what to do, in words, without a full stop.

    Args:
      cell: the cell of the student.
      mdps: the M stacked MDPs.
      index: the position of the student's MDP among them.
      iteration: the iteration at which a parameter was not finite, counted from 1.
      largest: the size of the largest finite parameter at that iteration, from `largest_finite`.
    """
    config, method = cell.config, cell.method
    number = functools.partial(_number, index=index, iteration=iteration)
    rates = {} if config.optimizer is not None else {name: number(getattr(config, name)) for name in RATES}
    functions_name = f"a function of the method {method.name}"
    if not _functions_are_finite(cell, mdps, index, iteration):
        return f"{functions_name} is NaN or infinite for an untrained student; look for log 0 and 0/0 in it"
    if config.optimizer is not None:
        return "the optimizer takes too large steps; lower its rate"
    factors = _factors(cell, mdps, index, rates, number)
    size = float(np.prod([max(1.0, factor) for factor in factors.values()]))
    if largest < _LARGE and size < _LARGE and (method.loss is not None or method.has_return):
        return f"{functions_name} became NaN or infinite while the parameters were small; look for log 0 and 0/0 in it"
    name = max(factors, key=lambda name: factors[name])
    if factors[name] > _EXTREME:
        return f"the updates are too large because of {name} up to {factors[name]:g}; {_REMEDIES.get(name, 'lower it')}"
    if config.reduction == "sum":
        return "an update is the sum over the steps of an episode; lower the learning rate or take reduction='mean'"
    return "lower the learning rate"


def _factors(
    cell: ResolvedCell, mdps: MDP, index: int, rates: dict[str, float], number: Callable[[Any], float]
) -> dict[str, float]:
    """The sizes of the numbers that multiply an update, by name; `number` gives the size of an option."""
    config, method = cell.config, cell.method
    has_functions = method.loss is not None or method.has_return
    factors = {"learning_rate": rates["learning_rate"]}
    if method.loss is not None:
        factors["loss_weight"] = number(config.loss_weight)
    if method.has_return:
        factors["value_learning_rate"] = rates["value_learning_rate"]
        factors["return_weight"] = number(config.return_weight)
    # The method of Q-learning has no functions, but it learns from the rewards too.
    if not has_functions or "reward" in cell.dependencies(mdps.num_actions):
        factors["rewards"] = float(np.abs(np.asarray(mdps.reward[index])).max())
    return factors


def _functions_are_finite(cell: ResolvedCell, mdps: MDP, index: int, iteration: int) -> bool:
    """Whether the method's functions are finite in every step that an untrained student can take in one MDP.

    Also True if the MDP is too large to try all of them.
    """
    mdp = mdps[index]
    try:
        check_size(mdp, "the steps of an episode")
    except ValueError:
        return True
    uniform = jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions, jnp.float32)
    no_teacher = Teacher(probs=uniform, values=uniform[:, 0], scores=uniform)
    teacher = no_teacher if cell.teacher is None else cell.teacher[index]
    config = cell.config
    options = ExactOptions(
        estimator=config.estimator,
        discount=_number(config.discount, index, iteration),
        probability_floor=_number(config.probability_floor, index, iteration),
    )
    logits = jnp.zeros((mdp.num_observations, mdp.num_actions), jnp.float32)
    problem = Problem.resolved(cell.method.at(max(iteration - 1, 0)), options, mdp, teacher, logits)
    branches = problem.branches()
    finite = jnp.isfinite(branches.reward) & jnp.isfinite(branches.loss_gradient).all(-1)
    return bool((finite | (branches.probs == 0)).all() and jnp.isfinite(problem.next_rewards()).all())


def _number(value: Any, index: int, iteration: int) -> float:
    """The size of an option for one MDP: of a schedule, the largest in the last iterations before `iteration`."""
    if isinstance(value, Schedule):
        return float(np.abs(value.at(np.arange(max(0, iteration - _RECENT), max(iteration, 1)))).max())
    return abs(float(value if np.ndim(value) == 0 else value[index]))
