"""The oscillation game of Fig. 2, in which on-policy distillation + R cycles for ever and N-distill + R converges.

It has seven states (App. C, "Oscillation example"): s0 leads to s_L or s_R, and each of these to two final states.
s_L and s_R have the same observation and so share a row of the student's table. The student's policy therefore has two
parameters: x, the log-odds of R in s0, and y, the log-odds of L in s_L and s_R. The game is an MDP with aliased
observations and its loss is a function of a `Step`, so that `train` and `expected_update` apply to it unchanged.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import teachers
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method, Step, plus_reward
from jaxdistill.methods.combinators import negated
from jaxdistill.runtime import checks

STATES = ("s0", "s_L", "s_R", "s_LL", "s_LR", "s_RL", "s_RR")
L, R = 0, 1  # the two actions

_NUM_ENDS = 4
_REWARDS = {("s_L", L): -1.0, ("s_L", R): -2.0, ("s_R", R): -3.0}  # and (s_R, L): 0


def oscillation_game(num_mdps: int | None = None) -> MDP:
    """The game, with 7 states in the order of `STATES`, actions L and R, and 3 observations.

    The observation is 0 in s0, 1 in s_L and s_R, and 2 in the final states, where the episode is over. Every episode
    has two steps, without noise.

    Args:
      num_mdps: M >= 1 for a stack of equal games with ids 0 to M - 1; None for a single one.

    Raises:
      ValueError: num_mdps is not a whole number of at least 1.
    """
    if num_mdps is not None and not checks.is_whole(num_mdps, 1, 2**26):
        raise ValueError(
            f"num_mdps must be at least 1, a whole number of at most {2**26}, got {checks.shown(num_mdps)}"
        )
    successor = np.tile(np.arange(len(STATES))[:, None], 2)
    successor[:3] = [[1, 2], [3, 4], [5, 6]]
    reward = np.zeros((len(STATES), 2))
    for (state, action), value in _REWARDS.items():
        reward[STATES.index(state), action] = value
    terminal = np.ones_like(successor, bool)
    terminal[0] = False
    shape = successor.shape if num_mdps is None else (num_mdps, *successor.shape)
    return MDP.from_arrays(
        np.broadcast_to(successor, shape), reward, terminal, np.eye(2), observation=[0, 1, 1] + [2] * _NUM_ENDS
    )


def oscillation_teacher(mdps: MDP) -> Teacher:
    """The teacher of the game, or of a stack of games: it plays L in s_R and is uniform in all other states."""
    # Paper: "where the teacher pi(R|s_L) = 1". Here: pi(L|s_R) = 1, since only that makes its loss the 4 y - 4 in s_R
    # that its equations have.
    probs = np.full((len(STATES), 2), 0.5)
    probs[STATES.index("s_R")] = [1, 0]
    return teachers.from_table(mdps, probs, discount=1.0, name="oscillation")


def information_potential(step: Step) -> jax.Array:
    """l = 4 sum_a pi(a) pi_theta(a) - 4 where the teacher is deterministic, 0 where it is uniform (App. C).

    With the teacher of this game that is 4 y - 4 in s_R, with y = P(L), and 0 elsewhere. The teacher has a row for each
    state and the student one for each observation, so the loss differs between s_L and s_R and the student does not.
    """
    is_deterministic = jnp.max(step.teacher_probs) - jnp.min(step.teacher_probs)  # 1 in s_R, 0 elsewhere
    return is_deterministic * (4 * jnp.sum(step.teacher_probs * jnp.exp(step.student_log_probs)) - 4)


_WITHOUT_REWARD = (
    Method(
        "on_policy_distill", loss=information_potential, description="The loss in the states of the student's episodes."
    ),
    Method(
        "n_distill",
        loss=information_potential,
        next_reward=negated(information_potential),
        description="The same loss, whose update the reward -l(t+1) makes a gradient (Theorem 2).",
    ),
)

OSCILLATION_METHODS: dict[str, Method] = {method.name: method for method in map(plus_reward, _WITHOUT_REWARD)}
"""The two methods of Fig. 2, on_policy_distill_r and n_distill_r, with the loss of the game."""


def log_odds(logits: jax.Array) -> jax.Array:
    """(x, y) of tables of logits [..., 3, 2]: the log-odds of R in s0 and of L in s_L and s_R, [..., 2]."""
    return jnp.stack([logits[..., 0, R] - logits[..., 0, L], logits[..., 1, L] - logits[..., 1, R]], axis=-1)
