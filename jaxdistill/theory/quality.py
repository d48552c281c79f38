"""The exact quality of students: their return, their distance to the teacher, and the KL of their trajectories."""

import dataclasses

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, exact
from jaxdistill.mdp.features import log_policy
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.theory.precision import float64, precise


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
    """Exact measures of students, in float64, with the leading axes of their logits [..., O, A].

    Attributes:
      returns: undiscounted return per episode; nan where an episode may never end and collects rewards for ever.
      distance: max |pi_theta - pi| over actions and over the states that can be reached from the start.
      trajectory_kl: KL(pi_theta(tau)||pi(tau)) = E_pi_theta sum_t KL(pi_theta||pi), nats; inf where the student may
        take an action that the teacher never takes.
    """

    returns: np.ndarray
    distance: np.ndarray
    trajectory_kl: np.ndarray


def quality(mdps: MDP, teacher: Teacher, logits: npt.ArrayLike) -> Quality:
    """Return, distance to the teacher and trajectory KL of students, in float64 and NumPy.

    Args:
      mdps, teacher: single ones, or stacks of M.
      logits: [..., O, A], or [M, ..., O, A]: several students of each world.

    Returns:
      `Quality` of [...] or [M, ...].
    """
    mdps, teacher = precise(mdps, teacher)
    logits = np.asarray(logits, np.float64)
    if not mdps.is_stacked:
        return Quality(*_quality(mdps, teacher, logits))
    worlds = [jax.tree.map(lambda x, i=i: x[i], (mdps, teacher)) for i in range(mdps.num_mdps)]
    measures = [_quality(mdp, world_teacher, x) for (mdp, world_teacher), x in zip(worlds, logits, strict=True)]
    return Quality(*map(np.stack, zip(*measures, strict=True)))


def _quality(mdp: MDP, teacher: Teacher, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, distance and trajectory KL of students [..., O, A] on one MDP, each [...]."""
    num_states = mdp.num_states
    log_p = log_policy(logits, np.asarray(mdp.features))
    p = np.exp(log_p)
    outcome_probs = np.broadcast_to(mdp.outcome_probs, (num_states, *mdp.outcome_probs.shape[-2:]))
    continue_prob = np.where(mdp.terminal, 0, mdp.continue_prob)
    weights = np.einsum("...sa,sak->...sk", p, outcome_probs)
    is_successor = np.eye(num_states)[mdp.successor]  # [S, K, S']
    with float64():
        visits = jax.device_get(_visits(mdp, p.reshape(-1, *p.shape[-2:]))).reshape(p.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(p > 0, p * (log_p - np.log(teacher.probs)), 0).sum(-1)
        trajectory_kl = np.where((visits > 0) & (kl != 0), visits * kl, 0).sum(-1)
        rewards = (weights * mdp.reward).sum(-1)
        returns = np.where(rewards != 0, visits * rewards, 0).sum(-1)
        returns = np.where(np.isfinite(returns), returns, np.nan)
    is_edge = np.einsum("sak,skn->sn", outcome_probs * continue_prob[:, None], is_successor) > 0
    is_reachable = mdp.start_probs > 0
    for _ in range(num_states):
        is_reachable = is_reachable | (is_reachable @ is_edge)
    distance = np.abs(p - teacher.probs)[..., is_reachable, :].max((-1, -2))
    return returns, distance, trajectory_kl


@jax.jit
def _visits(mdp: MDP, policies: jax.Array) -> jax.Array:
    """The expected visits of the states under policies [N, S, A], [N, S]; a time limit is honoured."""
    return jax.lax.map(lambda policy: exact.occupancy(mdp, policy), policies)
