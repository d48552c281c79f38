"""The oscillation game of Fig. 2: on-policy distillation + R cycles in it for ever, N-distill + R converges.

Seven states (App. C, "Oscillation example"): s0 leads to s_L or s_R, each of them to two ends. The policy has two
numbers, because s_L and s_R look alike and share a row of the student's table: x, the log-odds of R in s0, and y, the
log-odds of L in s_L and s_R. The game needs nothing special: it is an MDP with aliased observations, the loss is a
function of a `Step`, and the engine and `theory` do the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import teachers
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method, Step, plus_reward
from jaxdistill.runtime import checks

STATES = ("s0", "s_L", "s_R", "s_LL", "s_LR", "s_RL", "s_RR")
L, R = 0, 1  # the two actions

_NUM_ENDS = 4
_REWARDS = {("s_L", L): -1.0, ("s_L", R): -2.0, ("s_R", R): -3.0}  # and (s_R, L): 0


def oscillation_game(num_mdps: int | None = None) -> MDP:
    """The game: 7 states in the order of `STATES`, actions L and R, 3 observations.

    Observations: 0 in s0, 1 in s_L and s_R, 2 in the ends, where nobody acts. Every episode has two steps and no noise.

    Args:
      num_mdps: M >= 1 for a stack of equal games with ids 0 to M - 1; None for a single one.

    Raises:
      ValueError: one line, for a number of games below 1.
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
    """The teacher of the game, or of a stack of games: it plays L in s_R and is indifferent everywhere else."""
    # Paper: "where the teacher pi(R|s_L) = 1". Here: pi(L|s_R) = 1, since only that makes its loss the 4 y - 4 in s_R
    # that its equations have.
    probs = np.full((len(STATES), 2), 0.5)
    probs[STATES.index("s_R")] = [1, 0]
    return teachers.from_table(mdps, probs, discount=1.0, name="oscillation")


def information_potential(step: Step) -> jax.Array:
    """l = 4 sum_a pi(a) pi_theta(a) - 4 where the teacher has decided, 0 where it is indifferent (App. C).

    With the teacher of this game that is 4 y - 4 in s_R, y = P(L), and 0 elsewhere. Teachers see the state itself,
    students only the observation: so the loss tells s_R from s_L although the student cannot.
    """
    decided = jnp.max(step.teacher_probs) - jnp.min(step.teacher_probs)  # 1 in s_R, 0 elsewhere
    return decided * (4 * jnp.sum(step.teacher_probs * jnp.exp(step.student_log_probs)) - 4)


def _negative_information_potential(step: Step) -> jax.Array:
    return -information_potential(step)


_ALL = (
    Method("on_policy_distill", loss=information_potential, description="The loss on the student's own episodes."),
    Method(
        "n_distill",
        loss=information_potential,
        next_reward=_negative_information_potential,
        description="The same, made a gradient by the reward -l(t+1) (Theorem 2).",
    ),
)

OSCILLATION_METHODS: dict[str, Method] = {method.name: method for method in map(plus_reward, _ALL)}
"""The two methods of Fig. 2, on_policy_distill_r and n_distill_r, with the loss of the game."""


def log_odds(logits: jax.Array) -> jax.Array:
    """(x, y) of tables of logits [..., 3, 2]: the log-odds of R in s0 and of L in s_L and s_R, [..., 2]."""
    return jnp.stack([logits[..., 0, R] - logits[..., 0, L], logits[..., 1, L] - logits[..., 1, R]], axis=-1)
