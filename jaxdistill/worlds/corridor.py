"""Corridors (the chain MDPs of Figs. 6 and 9): +1 at one end, -1 at the other, the start in the middle.

A corridor is a grid world of a single row, with the moves, the noise and the termination of App. A.1; up and down
leave the agent where it is.
"""

from typing import Any

import jax
import numpy as np

from jaxdistill.mdp import MDP
from jaxdistill.runtime import checks
from jaxdistill.worlds.grid import Grid, GridConfig
from jaxdistill.worlds.grid_mdp import grid_to_mdp


def chain(
    length: int = 5,
    num_mdps: int | None = None,
    *,
    goal_reward: float = 1.0,
    trap_reward: float = -1.0,
    noise: float = 0.1,
    termination_prob: float = 0.01,
    num_actions: int = 4,
) -> MDP:
    """Builds a corridor of 2 * length + 1 cells: the trap at the left end, the start, and the goal at the right end.

    The paper does not state the length. With 5, the undiscounted return of the optimal policy is the 0.95 of Fig. 6.

    Args:
      length: number of moves from the start to either end, >= 1.
      num_mdps: M >= 1 for a stack of equal corridors with ids 0 to M - 1, so that M independent students train at the
        same time; None for a single MDP.
      goal_reward: reward of an arrival in the right end, which ends the episode; units of return.
      trap_reward: reward of an arrival in the left end, which ends the episode.
      noise: probability that a move goes in a random one of the four directions, the intended one included.
      termination_prob: probability that a step ends the episode, whatever cell it leads to.
      num_actions: >= 4: left, right, up, down, then actions that stay.

    Returns:
      The MDP, its states numbered from left to right, with a `grid` to draw.

    Raises:
      ValueError: one line, for a size that is too small, a reward that is not finite or a probability outside [0, 1].
    """
    for name, value in (("length", length), ("num_mdps", 1 if num_mdps is None else num_mdps)):
        if not checks.is_whole(value, 1, 2**28):
            raise ValueError(
                f"{name} must be a whole number, at least 1 and at most {2**28}, got {checks.shown(value)}"
            )
    rewards = [checks.number("trap_reward", trap_reward), checks.number("goal_reward", goal_reward)]
    num_cols = 2 * int(length) + 1
    config = GridConfig(
        num_rows=1, num_cols=num_cols, num_actions=num_actions, noise=noise, termination_prob=termination_prob
    )
    reward, terminal = np.zeros((1, num_cols), np.float32), np.zeros((1, num_cols), bool)
    reward[0, [0, -1]] = rewards
    terminal[0, [0, -1]] = True
    leaves: Any = (np.zeros_like(terminal), reward, terminal, np.array([0, length], np.int32))
    if num_mdps is not None:
        leaves = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (num_mdps, *leaf.shape)), leaves)
    return grid_to_mdp(Grid(*leaves), config)
