"""The decision guide of Fig. 1 as a function: five questions, and the method to use.

A question that the guide does not reach need not be answered. The reasons are the paper's; the evidence names the
experiments that show them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxdistill.methods import paper
from jaxdistill.methods.method import Method
from jaxdistill.runtime import checks

QUESTIONS: dict[str, str] = {
    "evaluated_outside_teacher_states": "Will the student be evaluated outside the teacher's states?",
    "convergence_guarantees": "Are convergence guarantees needed?",
    "improvement_over_speed": "Is improvement over the teacher more important than speed?",
    "strong_teacher": "Is the teacher strong?",
    "teacher_has_values": "Does the teacher have a value function V?",
}
"""The questions in the order of asking, by the name of `recommend`'s argument."""

_NOT_A_GRADIENT = (
    " On-policy distillation is not among the feasible methods: its update is not a gradient field and can cycle."
)


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Where the guide leads.

    Attributes:
      preferred: name of the method to use.
      feasible: names of the methods that are feasible as well; may be empty.
      reason: why, in words.
      evidence: names of the experiments that show it, such as "fig3".
      path: the questions asked on the way, each with its answer.
    """

    preferred: str
    feasible: tuple[str, ...]
    reason: str
    evidence: tuple[str, ...]
    path: tuple[tuple[str, bool], ...] = ()

    @property
    def methods(self) -> dict[str, Method]:
        """The methods themselves by name, the preferred one first: `train(..., methods=[...])` takes them."""
        return {name: method(name) for name in (self.preferred, *self.feasible)}


def method(name: str) -> Method:
    """The method of a name that the guide uses: one of METHODS, or one of METHODS plus the reward ("..._r").

    ValueError naming the valid names.
    """
    if isinstance(name, str) and name not in paper.METHODS and name.removesuffix("_r") in paper.METHODS:
        return paper.plus_reward(paper.METHODS[name.removesuffix("_r")])
    return paper.get(name)


def how_to_get(name: str) -> str:
    """The Python expression of the method of a name, after `import jaxdistill as jd`; ValueError as `method`."""
    method(name)
    if name in paper.METHODS:
        return f'jd.METHODS["{name}"]'
    return f'jd.plus_reward(jd.METHODS["{name.removesuffix("_r")}"])'


def recommend(
    evaluated_outside_teacher_states: bool | None = None,
    convergence_guarantees: bool | None = None,
    improvement_over_speed: bool | None = None,
    strong_teacher: bool | None = None,
    teacher_has_values: bool | None = None,
) -> Recommendation:
    """The method that Fig. 1 recommends.

    Args:
      evaluated_outside_teacher_states: whether the student will be judged in states that the teacher rarely visits,
        as it is when the student itself acts and may leave the teacher's way.
      convergence_guarantees: whether the update has to be one that provably converges.
      improvement_over_speed: whether getting better than the teacher counts more than learning fast.
      strong_teacher: whether the teacher is good at the task.
      teacher_has_values: whether the teacher's value function is available.

    Returns:
      The recommendation. Answers that the guide does not reach are ignored, and may be None.

    Raises:
      ValueError: naming the question, if an answer that is needed is None, or is neither True nor False.
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
    found = _outside_the_teachers_states(ask)
    if guarantees:
        found = _with_guarantees(found)
    return dataclasses.replace(found, path=tuple(path))


def _outside_the_teachers_states(ask: Callable[[str], bool]) -> Recommendation:
    if not ask("improvement_over_speed"):
        return _IMITATE
    if ask("strong_teacher"):
        return _IMPROVE_ON_A_STRONG_TEACHER
    return _VALUES_AS_REWARD if ask("teacher_has_values") else _IMPROVE_ON_A_WEAK_TEACHER


def _with_guarantees(found: Recommendation) -> Recommendation:
    feasible = tuple(name for name in found.feasible if not name.startswith("on_policy_distill"))
    if feasible == found.feasible:
        return found
    evidence = ("fig2", *found.evidence)
    return dataclasses.replace(found, feasible=feasible, reason=found.reason + _NOT_A_GRADIENT, evidence=evidence)


_TEACHER_DISTILL = Recommendation(
    preferred="teacher_distill",
    feasible=(),
    reason="Only the teacher's states count, and on the teacher's own trajectories they are learned fastest, by "
    "supervised learning.",
    evidence=("fig3",),
)
_IMITATE = Recommendation(
    preferred="exp_entropy_regularised",
    feasible=("on_policy_distill", "n_distill"),
    reason="The student has to be right where it goes itself, so its own trajectories are needed. Expected entropy "
    "regularisation is the gradient of a loss, and the expectation over actions keeps it fast with many of them.",
    evidence=("fig3", "fig4"),
)
_IMPROVE_ON_A_STRONG_TEACHER = Recommendation(
    preferred="exp_entropy_regularised_r",
    feasible=("on_policy_distill_r", "n_distill_r"),
    reason="The environment reward lets the student pass the teacher, and a strong teacher's policy shows it the way "
    "on its own trajectories.",
    evidence=("fig4", "fig5"),
)
_IMPROVE_ON_A_WEAK_TEACHER = dataclasses.replace(
    _IMPROVE_ON_A_STRONG_TEACHER,
    reason="The environment reward lets the student pass the teacher; without the teacher's values, its policy is all "
    "there is to learn from, although it also holds the student back where the teacher errs.",
    evidence=("fig5", "fig6"),
)
_VALUES_AS_REWARD = Recommendation(
    preferred="teacher_v_reward",
    feasible=(),
    reason="The teacher's values shape the environment reward and leave its optimum where it is, so that a weak "
    "teacher cannot mislead the student as its policy would.",
    evidence=("fig5", "fig6"),
)
