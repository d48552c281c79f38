"""Named measures of policies: `MEASURES` says what they are, and `evaluate` computes them, exactly.

`train(measure=...)` computes them at every checkpoint, `Result.with_measures` after the training, and `compare`,
`Result.summary` and `Result.plot` take their names.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import exact
from jaxdistill.mdp.endings import reached_states
from jaxdistill.mdp.evaluation import Evaluator
from jaxdistill.mdp.mdp import MDP, stack
from jaxdistill.mdp.named_measures import MEASURES, POLICIES, Definition, Measure, parse
from jaxdistill.mdp.teacher import Teacher, are_distributions, check_policy
from jaxdistill.runtime import checks

__all__ = ["MEASURES", "POLICIES", "Definition", "Evaluator", "Measure", "evaluate", "parse"]

DISCOUNT, FLOOR = 0.99, 1e-6  # the defaults of a configuration


def evaluate(
    names: str | Sequence[str],
    mdps: MDP,
    policies: Any,
    teacher: Teacher | None = None,
    *,
    discount: Any = DISCOUNT,
    probability_floor: Any = FLOOR,
) -> dict[str, np.ndarray]:
    """Measures of policies, by name, float64 [M] each, or [] for a single MDP; computed on the host.

    Args:
      names: one name of a measure or several, such as "return" or "forward_kl:teacher".
      mdps: M stacked MDPs, or one.
      policies: [M, S, A] or [S, A] action probabilities, such as `exact.policy_from_table(mdps, softmax(logits))`.
      teacher: that of the MDPs; None where no measure needs one.
      discount, probability_floor: what the names leave open, one number or one for each MDP.

    Returns:
      The values by canonical name, in which a number that was left open is filled in. A divergence may be inf, and a
      value is nan where it does not exist, with a warning if it is a return.

    Raises:
      ValueError: one line, for an unknown name, a missing teacher, or arrays that do not fit the MDPs.
    """
    measures = [parse(name).with_configured(discount, probability_floor) for name in checks.listed(names)]
    checks.on_host((policies, discount, probability_floor))
    is_single = not mdps.is_stacked
    if is_single:
        mdps, teacher = stack([mdps]), None if teacher is None else teacher[None]
    shape = (mdps.num_mdps, mdps.num_states, mdps.num_actions)
    table = checks.reals("policies", policies).astype(np.float64)
    if table.shape not in (shape, shape[1:]) or not are_distributions(table):
        raise ValueError(f"policies must be distributions over actions, {list(shape)} or {list(shape[1:])}.")
    table = np.broadcast_to(table, shape)
    if teacher is not None:
        check_policy(teacher, shape)
    elif lacking := [measure.name for measure in measures if measure.needs_teacher]:
        raise ValueError(f"The measure {lacking[0]} needs a teacher; pass one, such as teachers.optimal(mdps).")
    discounts = checks.per_world("discount", discount, shape[0])
    evaluator = Evaluator(
        mdps, [teacher], measures, discounts, checks.per_world("probability_floor", probability_floor, shape[0])
    )
    table = table / table.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_probs = np.log(table)
    cells = np.zeros(shape[0], int)
    values = evaluator.of_policies(cells, np.arange(shape[0]), log_probs, reached_states(mdps, table))
    if np.isnan(values[:, [measure.kind == "return" for measure in measures]]).any():
        exact.episode_return(mdps, jnp.asarray(table))  # It warns, with the state and the reason.
    return {measure.name: values[0, q] if is_single else values[:, q] for q, measure in enumerate(measures)}
