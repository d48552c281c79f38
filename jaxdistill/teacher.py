"""The teacher: a policy and its value, as tables over states."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher of one MDP, or of a stack of them with a leading axis [M].

    Attributes:
      probs: float32 [S, A], pi(.|s), rows sum to 1.
      values: float32 [S], V_pi(s), discounted return of pi itself.
      scores: float32 [S, A], by which actions are ranked (Q, or pi); its smallest entry is the teacher's worst action.
      name: for labels.
      discount: of `values`.
    """

    probs: jax.Array
    values: jax.Array
    scores: jax.Array
    name: str = dataclasses.field(default="teacher", metadata={"static": True})
    discount: float = dataclasses.field(default=0.99, metadata={"static": True})

    def __getitem__(self, index: Any) -> "Teacher":
        """The teacher of one MDP of the stack, or of a slice of it."""
        return dataclasses.replace(self, probs=self.probs[index], values=self.values[index], scores=self.scores[index])
