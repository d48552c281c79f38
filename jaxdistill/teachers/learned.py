"""Teachers trained by Q-learning or actor-critic, on the engine that trains the students (App. A.3, A.4)."""

from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill.engine import rules
from jaxdistill.executors.ambient import resolved
from jaxdistill.executors.sharding import Sharding
from jaxdistill.mdp import MDP, Teacher, validate
from jaxdistill.mdp.features import table_by_state
from jaxdistill.methods import METHODS, Method
from jaxdistill.runtime import checks, streams
from jaxdistill.runtime.progress import Progress
from jaxdistill.teachers.tabular import check_temperature, from_logits, from_q
from jaxdistill.teachers.ties import TIES
from jaxdistill.training.config import Config, ResolvedCell, check_effects, config_of, resolve_cell
from jaxdistill.training.diagnosis import largest_finite, likely_cause
from jaxdistill.training.shards import run_to_end_on

_TIES_STREAM = 2**31 - 1  # the name of the random stream of ties; those of the worlds are their ids


def q_learning(
    key: jax.Array,
    mdps: MDP,
    *,
    temperature: npt.ArrayLike = 0.0,
    ties: str = "share",
    learning_rate: float = 0.01,
    control: str = "epsilon",
    epsilon: float | None = None,
    control_temperature: float | None = None,
    discount: float = 0.99,
    num_iterations: int = 30_000,
    max_episode_steps: int = 4096,
    truncation: str = "bootstrap",
    progress: bool | None = None,
    executor: Executor | Sharding | None = None,
) -> Teacher:
    """A teacher trained by Q-learning (App. A.4), whose policy is softmax(Q / temperature).

    The paper does not state how its Q-learning explores.

    Args:
      key: random key.
      mdps: M stacked MDPs.
      temperature: >= 0, one for all worlds or one for each, [M].
      ties: how the maximisers of Q become a policy at temperature 0, as for `from_q`. "random" draws from `key`.
      learning_rate: step size, in (0, 1]; the lambda of App. A.4.
      control: the policy while learning: "epsilon", with probability epsilon a uniform action and otherwise one drawn
        among the best, or "boltzmann", softmax(Q / control_temperature).
      epsilon: in [0, 1]; None: 0.1. With control="epsilon" only.
      control_temperature: > 0; None: 1. With control="boltzmann" only.
      discount: in [0, 1].
      num_iterations: number of episodes.
      max_episode_steps: the largest number of steps of an episode, after which it is cut, as by a world's time limit.
      truncation: as in `Config`: "bootstrap", or "end" to treat a cut as an end.
      progress, executor: as in `train`.

    Raises:
      ValueError: arguments that do not fit, or training that diverged.
    """
    key, sharding = streams.as_key(key), resolved(executor)
    check_temperature(validate(mdps), temperature, ties)  # `from_q` checks it too, but only after the training.
    checks.number("discount", discount, 0, 1)
    if not 0 < checks.number("learning_rate", learning_rate) <= 1:
        raise ValueError(f"learning_rate must be in (0, 1]; got {learning_rate!r}.")
    checks.one_of("ties", ties, TIES)
    params = _exploration(control, epsilon, control_temperature)
    config = Config(
        num_iterations=num_iterations, num_checkpoints=1, learning_rate=learning_rate, discount=discount,
        max_episode_steps=max_episode_steps, truncation=truncation,
    )  # fmt: skip
    method = Method("q_learning", params=params, estimator="td", baseline=False, needs_teacher=False)
    cell = resolve_cell("teacher:q_learning", method, None, config, rules.q_learning_rule)
    q = _train(key, mdps, cell, "Q-learning", progress, sharding)
    ties_key = streams.fold_in(key, _TIES_STREAM) if ties == "random" else None
    return from_q(mdps, q, temperature=temperature, ties=ties, key=ties_key, discount=discount)


def _exploration(control: str, epsilon: float | None, temperature: float | None) -> dict[str, float]:
    """The number of the control policy of Q-learning; raises ValueError for a wrong one or that of the other policy."""
    checks.one_of("control", control, ("epsilon", "boltzmann"))
    unused = {"epsilon": ("control_temperature", temperature), "boltzmann": ("epsilon", epsilon)}[control]
    if unused[1] is not None:
        raise ValueError(f"{unused[0]} has no effect with control={control!r}; remove it.")
    if control == "epsilon":
        return {"epsilon": checks.number("epsilon", 0.1 if epsilon is None else epsilon, 0, 1)}
    temperature = checks.number("control_temperature", 1.0 if temperature is None else temperature)
    if not temperature >= 1e-6:
        raise ValueError(f"control_temperature must be at least 1e-6; got {temperature!r}.")
    return {"temperature": temperature}


def actor_critic(
    key: jax.Array,
    mdps: MDP,
    *,
    config: Config | None = None,
    progress: bool | None = None,
    executor: Executor | Sharding | None = None,
    **changes: Any,
) -> Teacher:
    """A teacher trained by the actor-critic of App. A.3 on the environment reward ("A2C", Fig. 8).

    Its policy is stochastic, and V_pi is the exact value of the final policy, not the critic. The other arguments are
    those of `train`.

    Raises:
      ValueError: arguments that do not fit, or training that diverged.
    """
    key, sharding = streams.as_key(key), resolved(executor)
    validate(mdps)
    config = config_of(config, {"num_checkpoints": 1, **changes})
    if np.ndim(config.discount):
        raise ValueError("The discount of a teacher must be one number, because it is also that of V_pi.")
    cell = resolve_cell("teacher:actor_critic", METHODS["baseline"], None, config)
    check_effects([cell], changes, mdps.num_actions, mdps.num_features)
    params = _train(key, mdps, cell, "actor-critic", progress, sharding)
    return from_logits(mdps, params[..., :-1], discount=float(config.discount), name="actor_critic")


def _train(
    key: jax.Array,
    mdps: MDP,
    cell: ResolvedCell,
    algorithm: str,
    progress: bool | None,
    sharding: Sharding | None,
) -> np.ndarray:
    """Trains one cell and returns its parameters by row of the table, [M, O, num_params]; with features, by state.

    Raises ValueError unless all are finite.
    """
    with Progress(f"{algorithm} teachers", progress) as report:
        final = run_to_end_on(sharding, key, mdps, [cell], report)
    params, faults = final.params[0], final.faults[0]
    diverged = np.flatnonzero(~np.isfinite(params).reshape(len(params), -1).all(axis=1))
    if len(diverged):
        first = diverged[0]
        iteration = int(faults[first]) or cell.config.num_iterations
        cause = likely_cause(cell, mdps, int(first), iteration, largest_finite(params[first]))
        raise ValueError(
            f"{algorithm[0].upper()}{algorithm[1:]} diverged in {len(diverged)} of {len(params)} MDPs (first: MDP "
            f"{int(mdps.id[first])} at iteration {iteration}). Likely cause: {cause}."
        )
    return params if mdps.num_features == 1 else table_by_state(mdps, params)
