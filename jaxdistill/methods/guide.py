"""The decision guide of Fig. 1 as a function: it recommends a method from the answers to five questions.

A question that the guide does not reach needs no answer. The reasons are the paper's, and the evidence names the
experiments that show them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxdistill.methods.method import Method
from jaxdistill.methods.paper import METHODS
from jaxdistill.methods.registry import REWARD_ENDING, get
from jaxdistill.methods.zoo import ZOO
from jaxdistill.runtime import checks

QUESTIONS: dict[str, str] = {
    "evaluated_outside_teacher_states": "Will the student be evaluated outside the teacher's states?",
    "convergence_guarantees": "Are convergence guarantees needed?",
    "improvement_over_speed": "Is improvement over the teacher more important than speed?",
    "strong_teacher": "Is the teacher strong?",
    "teacher_has_values": "Does the teacher have a value function V?",
}
"""The questions in the order of the guide, by the name of the argument of `recommend`."""

_NOT_A_GRADIENT = (
    " On-policy distillation is not among the feasible methods: its update is not a gradient field and can cycle."
)


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The method that the guide recommends, with reasons.

    Attributes:
      preferred: the name of the method to use.
      feasible: the names of the methods that are feasible as well; may be empty.
      reason: why this method is preferred, in words.
      evidence: the names of the experiments that show it, such as "fig3".
      path: the questions that were needed, each with its answer.
    """

    preferred: str
    feasible: tuple[str, ...]
    reason: str
    evidence: tuple[str, ...]
    path: tuple[tuple[str, bool], ...] = ()

    @property
    def methods(self) -> dict[str, Method]:
        """The methods by name, the preferred one first, as `train(..., methods=...)` takes them."""
        return {name: get(name) for name in (self.preferred, *self.feasible)}


def how_to_get(name: str) -> str:
    """The Python expression of the method of a name, after `import jaxdistill as jd`.

    Raises:
      ValueError: an unknown name, as in `get`.
    """
    get(name)
    for group_name, group in (("METHODS", METHODS), ("ZOO", ZOO)):
        if name in group:
            return f'jd.{group_name}["{name}"]'
    return f'jd.plus_reward(jd.METHODS["{name.removesuffix(REWARD_ENDING)}"])'


def recommend(
    evaluated_outside_teacher_states: bool | None = None,
    convergence_guarantees: bool | None = None,
    improvement_over_speed: bool | None = None,
    strong_teacher: bool | None = None,
    teacher_has_values: bool | None = None,
) -> Recommendation:
    """The method that Fig. 1 recommends.

    Args:
      evaluated_outside_teacher_states: whether the student will be evaluated in states that the teacher rarely visits.
        It is when the student itself acts and may leave the teacher's trajectories.
      convergence_guarantees: whether the update has to be one that provably converges.
      improvement_over_speed: whether becoming better than the teacher is more important than learning fast.
      strong_teacher: whether the teacher is good at the task.
      teacher_has_values: whether the teacher's value function is available.

    Returns:
      The recommendation. Answers that the guide does not reach are ignored, and may be None.

    Raises:
      ValueError: with the question, if an answer that is needed is neither True nor False.
    """
    answers = dict(
        evaluated_outside_teacher_states=evaluated_outside_teacher_states,
        convergence_guarantees=convergence_guarantees,
        improvement_over_speed=improvement_over_speed,
        strong_teacher=strong_teacher,
        teacher_has_values=teacher_has_values,
    )
    path: list[tuple[str, bool]] = []

    def ask(question: str) -> bool:
        answer = answers[question]
        if not isinstance(answer, bool | np.bool_ | int) or answer not in (True, False):
            raise ValueError(
                f"{QUESTIONS[question]} The guide needs {question}, True or False (yes or no on the command line); "
                f"got {checks.shown(answer)}."
            )
        path.append((question, bool(answer)))
        return bool(answer)

    if not ask("evaluated_outside_teacher_states"):
        return dataclasses.replace(_TEACHER_DISTILL, path=tuple(path))
    guarantees = ask("convergence_guarantees")
    recommendation = _outside_teacher_states(ask)
    if guarantees:
        recommendation = _with_guarantees(recommendation)
    return dataclasses.replace(recommendation, path=tuple(path))


def _outside_teacher_states(ask: Callable[[str], bool]) -> Recommendation:
    """The recommendation for a student that is evaluated outside the teacher's states, without guarantees."""
    if not ask("improvement_over_speed"):
        return _IMITATE
    if ask("strong_teacher"):
        return _IMPROVE_ON_A_STRONG_TEACHER
    return _VALUES_AS_REWARD if ask("teacher_has_values") else _IMPROVE_ON_A_WEAK_TEACHER


def _with_guarantees(recommendation: Recommendation) -> Recommendation:
    """The recommendation without on-policy distillation, whose update is not a gradient field."""
    feasible = tuple(name for name in recommendation.feasible if not name.startswith("on_policy_distill"))
    if feasible == recommendation.feasible:
        return recommendation
    return dataclasses.replace(
        recommendation,
        feasible=feasible,
        reason=recommendation.reason + _NOT_A_GRADIENT,
        evidence=("fig2", *recommendation.evidence),
    )


_TEACHER_DISTILL = Recommendation(
    preferred="teacher_distill",
    feasible=(),
    reason="Only the teacher's states count, and supervised learning on the teacher's own trajectories learns them "
    "fastest.",
    evidence=("fig3",),
)
_IMITATE = Recommendation(
    preferred="exp_entropy_regularised",
    feasible=("on_policy_distill", "n_distill"),
    reason="The student has to be right in the states that it visits itself, so its own trajectories are needed. "
    "Expected entropy regularisation is the gradient of a loss, and the expectation over actions keeps it fast where "
    "they are many.",
    evidence=("fig3", "fig4"),
)
_IMPROVE_ON_A_STRONG_TEACHER = Recommendation(
    preferred="exp_entropy_regularised_r",
    feasible=("on_policy_distill_r", "n_distill_r"),
    reason="The environment reward lets the student surpass the teacher, and a strong teacher's policy guides the "
    "student on its own trajectories.",
    evidence=("fig4", "fig5"),
)
_IMPROVE_ON_A_WEAK_TEACHER = dataclasses.replace(
    _IMPROVE_ON_A_STRONG_TEACHER,
    reason="The environment reward lets the student surpass the teacher. Without the teacher's values only its policy "
    "remains to learn from, although imitation also limits the student where the teacher errs.",
    evidence=("fig5", "fig6"),
)
_VALUES_AS_REWARD = Recommendation(
    preferred="teacher_v_reward",
    feasible=(),
    reason="The teacher's values shape the environment reward without changing its optimum. So a weak teacher cannot "
    "mislead the student, as imitation of its policy would.",
    evidence=("fig5", "fig6"),
)
