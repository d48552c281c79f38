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
      others: float32 [N, S, A], further policies that a method may look at, such as a reference policy or a second
        teacher (`teachers.with_others`); None for none.
      name: for labels.
      discount: of `values`.
    """

    probs: jax.Array
    values: jax.Array
    scores: jax.Array
    others: jax.Array | None = None
    name: str = dataclasses.field(default="teacher", metadata={"static": True})
    discount: float = dataclasses.field(default=0.99, metadata={"static": True})

    def __getitem__(self, index: Any) -> "Teacher":
        """The teacher of one MDP of the stack, or of a slice of it."""
        return jax.tree.map(lambda table: table[index], self)

    @property
    def num_others(self) -> int:
        """N, the number of further policies."""
        return 0 if self.others is None else self.others.shape[-3]
