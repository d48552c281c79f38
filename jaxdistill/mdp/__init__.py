"""What an MDP is, and everything exact about policies in it.

`mdp` defines the `MDP`, a single one or a stack of them. `transitions` converts a list of transitions into the outcome
tables of an MDP. `features` sums the rows of a student's tables that a state uses. `teacher` defines the `Teacher`, a
policy and its values. `exact` computes values, visits and episode lengths of policies without sampling, and `endings`
finds states from which an episode cannot end. `sums`, `chains`, `optimum` and `elimination` solve the systems behind
`exact`, and `precision` provides float64.

`measures` computes named quantities of policies, such as divergences to a teacher. `named_measures` defines them,
`evaluation` computes them for many students, and `straight_line` solves the systems of all students of a world.
"""

from jaxdistill.mdp.mdp import MDP, NO_TIME_LIMIT, stack, validate
from jaxdistill.mdp.teacher import Teacher

__all__ = ["MDP", "NO_TIME_LIMIT", "Teacher", "stack", "validate"]
