"""Converts MDPs with a time limit to MDPs without a limit, in which the number of the step is part of the state.

In a world that cuts its episodes after L steps, the states under a stationary policy are not a stationary Markov chain,
because what follows a step depends on how many steps are left. They are one if the number of the step is a part of the
state. A step then leads from one block of S states to the next, so linear systems of this chain are solved by a
recursion over the L + 1 blocks, backward or forward in time, at L times the cost of one block. The agent does not act
in the last block, because there episodes are cut.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, NO_TIME_LIMIT, Teacher
from jaxdistill.methods.method import TRUNCATIONS
from jaxdistill.runtime import checks

_LARGEST_TABLE = 2**26  # entries of the successors of all blocks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class UnrolledMDP(MDP):
    """An MDP of L + 1 blocks of S states: state t * S + s is state s before step t, counted from 0.

    An MDP of the stack whose limit is smaller than L begins in a later block. State and observation tables have L + 1
    copies of the original rows, so that a student's tables keep their shape.

    Attributes:
      horizon: L, the largest time limit of the stack, in steps (static).
      bootstraps: whether the value of the state follows a cut (static); if not, all arrivals in the last block are
        terminal.
    """

    horizon: int = dataclasses.field(default=0, metadata={"static": True})
    bootstraps: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def block_size(self) -> int:
        """Number of states S of the original MDP."""
        return self.num_states // (self.horizon + 1)

    @property
    def is_cut(self) -> jax.Array:
        """Whether the episode is cut in each state, bool [S (L + 1)]: in those of the last block."""
        return jnp.arange(self.num_states) >= self.num_states - self.block_size


def unrolled(mdps: MDP, teacher: Teacher, truncation: str) -> tuple[MDP, Teacher]:
    """The MDPs and teachers with the number of the step in the state; unchanged if no MDP has a time limit.

    Args:
      mdps, teacher: single ones or stacks, of concrete arrays.
      truncation: "bootstrap" or "end", the option of `UpdateOptions`.

    Raises:
      ValueError: some MDPs of a stack have a limit and others have none, or the tables would be too large.
    """
    checks.one_of("truncation", truncation, TRUNCATIONS)
    if not mdps.has_time_limit:
        return mdps, teacher
    limits, num_states = np.asarray(mdps.time_limit), mdps.num_states
    horizon = int(limits.max())
    if horizon == NO_TIME_LIMIT:
        raise ValueError("Either all MDPs of an exact computation have a time limit or none; compute them separately.")
    if (horizon + 1) * num_states * mdps.num_outcomes > _LARGEST_TABLE:
        raise ValueError(
            f"{num_states} states with a time limit of {horizon} steps are too many for an exact expected update; use "
            "a smaller limit (MDP.with_time_limit), or train students instead."
        )

    def repeat(table: Any, axis: int) -> np.ndarray:
        """Copies of a table for all blocks, along the axis of the states."""
        return np.concatenate([np.asarray(table)] * (horizon + 1), axis=axis)

    block = np.repeat(np.arange(horizon + 1, dtype=np.int32), num_states)[:, None]
    successor = repeat(mdps.successor, -2) + num_states * np.minimum(block + 1, horizon)
    terminal = repeat(mdps.terminal, -2) | ((truncation == "end") & (block == horizon - 1))
    first_block = (horizon - limits)[..., None]
    changes: dict[str, Any] = {
        "successor": successor.astype(np.int32),
        "reward": repeat(mdps.reward, -2),
        "terminal": terminal,
        "outcome_probs": mdps.outcome_probs if _is_shared(mdps) else repeat(mdps.outcome_probs, -3),
        "start": (np.asarray(mdps.start) + num_states * first_block).astype(np.int32),
        "observation": repeat(mdps.observation, mdps.id.ndim),
        "time_limit": np.full_like(limits, NO_TIME_LIMIT),
        "grid": None,
    }
    fields = {field.name: getattr(mdps, field.name) for field in dataclasses.fields(MDP)}
    policies: dict[str, Any] = {
        "probs": repeat(teacher.probs, -2),
        "values": repeat(teacher.values, -1),
        "scores": repeat(teacher.scores, -2),
        "others": None if teacher.others is None else repeat(teacher.others, -2),
    }
    teacher = dataclasses.replace(teacher, **policies)
    return UnrolledMDP(**{**fields, **changes}, horizon=horizon, bootstraps=truncation == "bootstrap"), teacher


def _is_shared(mdps: MDP) -> bool:
    """Whether all states of an MDP share the outcome probabilities of its actions."""
    return mdps.outcome_probs.ndim == (3 if mdps.is_stacked else 2)
