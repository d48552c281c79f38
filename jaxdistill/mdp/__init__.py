"""Worlds and teachers as arrays, and everything exact about one policy in one world.

`mdp` holds the `MDP`, one or a stack. `transitions` turns single transitions into its outcome tables. `teacher` holds
the `Teacher`, a policy and its values. `exact` computes values, visits and episode lengths of policies.
"""

from jaxdistill.mdp.mdp import MDP, stack, validate
from jaxdistill.mdp.teacher import Teacher

__all__ = ["MDP", "Teacher", "stack", "validate"]
