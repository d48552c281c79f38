"""The teacher: a policy and its values, as tables over states."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxdistill.runtime import checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher of one MDP, or of a stack of them with a leading axis [M].

    Attributes:
      probs: float32 [S, A], the policy pi(.|s), rows sum to 1.
      values: float32 [S], V_pi(s), the discounted return of pi itself, in a world without time limit.
      scores: float32 [S, A], the ranking of the actions (Q, or pi); the smallest entry of a row is the teacher's worst
        action.
      others: float32 [N, S, A], further policies that a method may use, such as a reference policy or a second teacher
        (`teachers.with_others`); None if there are none.
      name: the teacher's name in labels.
      discount: the discount of `values`.
    """

    probs: jax.Array
    values: jax.Array
    scores: jax.Array
    others: jax.Array | None = None
    name: str = dataclasses.field(default="teacher", metadata={"static": True})
    discount: float = dataclasses.field(default=0.99, metadata={"static": True})

    def __getitem__(self, index: Any) -> "Teacher":
        """The teacher of one MDP of the stack, or of a slice of it; [None] makes a stack of one of a single teacher.

        Raises:
          ValueError: the teacher is a single one and `index` is not None.
          IndexError: outside the stack, where JAX would silently clamp.
        """
        if index is not None:
            if self.values.ndim != 2:
                raise ValueError("this is a single teacher, not a stack: teacher[None] makes a stack of one")
            index = checks.positions(index, len(self.values), "teachers")
        return jax.tree.map(lambda table: table[index], self)

    @property
    def num_others(self) -> int:
        """N, the number of further policies."""
        return 0 if self.others is None else self.others.shape[-3]


def check_policy(teacher: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `teacher` has a policy and values for MDPs of `shape` [M, S, A], or [S, A]."""
    if not isinstance(teacher, Teacher):
        raise ValueError(f"teacher must be a Teacher, such as teachers.optimal(mdps); got {type(teacher).__name__}.")
    for name in ("probs", "values", "others"):
        if not isinstance(getattr(teacher, name), np.ndarray | jax.Array | None):
            raise ValueError(f"The teacher's {name} must be an array; teachers.from_table makes a teacher of lists.")
    probs, values = checks.reals("The teacher's probs", teacher.probs), np.shape(teacher.values)
    if probs.shape != shape or values != shape[:-1]:
        stacked = "M, " * (len(shape) == 3)
        raise ValueError(
            f"The teacher's tables do not fit the worlds: probs [{stacked}S, A] must be {list(shape)} and values "
            f"[{stacked}S] {list(shape[:-1])}; got {list(probs.shape)} and {list(values)}."
        )
    if not are_distributions(probs):
        raise ValueError("The teacher's probs must be finite, >= 0 and sum to 1 over actions; normalise the table.")


def check(teacher: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `check_policy` passes, the values are finite and the further policies fit."""
    check_policy(teacher, shape)
    if not np.isfinite(checks.numbers("The teacher's values", teacher.values)).all():
        raise ValueError("The teacher's values must be finite; check the discount with which they were computed.")
    if teacher.others is not None:
        others = checks.reals("The teacher's others", teacher.others)
        if others.ndim != len(shape) + 1 or (*others.shape[:-3], *others.shape[-2:]) != shape:
            stacked, expected = "M, " * (len(shape) == 3), ", ".join(map(str, (*shape[:-2], "N", *shape[-2:])))
            raise ValueError(
                f"The teacher's others must be [{stacked}N, S, A] = [{expected}]; got {list(others.shape)}."
            )
        if not are_distributions(others):
            raise ValueError(
                "The teacher's others must be finite, >= 0 and sum to 1 over actions; normalise the tables."
            )


def are_distributions(table: np.ndarray) -> bool:
    """Whether every row of a table [..., A] is a distribution, with a sum within 1e-4 of 1."""
    if not np.isfinite(table).all() or (table < 0).any():
        return False
    return bool(np.abs(table.sum(-1, dtype=np.float64) - 1).max(initial=0) <= 1e-4)
