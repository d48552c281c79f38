"""Checks that the episodes of a method end or are cut, without which it cannot be trained or computed exactly."""

import numpy as np

from jaxdistill.mdp import MDP, Teacher
from jaxdistill.mdp.endings import never_ending_state
from jaxdistill.methods.method import Control, Method

_REMEDIES = "give the world a time limit (mdps.with_time_limit(100)), a continue_prob below 1, or an end"


def check_episodes_end(method: Method, mdps: MDP, teacher: Teacher | None) -> None:
    """Raises ValueError if an episode of a method's control policy can get into a state from which it never ends.

    Episodes of a world with a time limit are cut, so such a world is accepted. A student and the uniform policy take
    every action with a positive probability, so they reach an end if any policy does. Only if the teacher acts alone,
    in all episodes or in some of them, can it happen that an end exists and is never reached.
    """
    state = never_ending_state(mdps)
    if state is not None:
        raise ValueError(
            f"Episodes of MDP {_identity(mdps, state[0])} never end once they are in state {state[1]}, under any "
            f"policy; {_REMEDIES}."
        )
    if teacher is None or not any(_teacher_is_alone(method.control.at(i)) for i in method.control.knots):
        return
    state = never_ending_state(mdps, np.asarray(teacher.probs))
    if state is not None:
        raise ValueError(
            f"{method.name} follows the teacher, whose episodes of MDP {_identity(mdps, state[0])} never end once they "
            f"are in state {state[1]}; {_REMEDIES}, or use a teacher that ends every episode."
        )


def _teacher_is_alone(control: Control) -> bool:
    """Whether the teacher acts alone, in all episodes or in some of them."""
    student, teacher, uniform = control.weights
    return bool(teacher > 0 and (control.per == "episode" or student == uniform == 0))


def _identity(mdps: MDP, world: int) -> int:
    """The id of a world of the stack, or of the single one."""
    return int(np.ravel(np.asarray(mdps.id))[world])
