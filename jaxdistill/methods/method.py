"""A method as data: its control policy, its loss and reward for each step, and how it estimates the return.

Every method is the one formula of Table 1, E_q sum_t [ -grad log pi_theta(a_t) Rhat_t + grad l_t ]. The engine samples
it, `theory` computes it exactly, and both take what differs between methods from the `Method` defined here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods import numerics, schedules
from jaxdistill.methods.composed import content
from jaxdistill.methods.domains import Domain, domains_of
from jaxdistill.runtime import checks

VISITS = ("every", "once")
REDUCTIONS = ("mean", "sum", "fixed")
"""How the updates of an episode's steps become one."""

FEATURE_STEPS = ("full", "divided")
"""The step that each row of a state with several features gets: all of it, or divided by their number."""

TRUNCATIONS = ("bootstrap", "end")
"""What cutting an episode at a time limit does to the returns of its steps."""

CONTROLS = ("student", "teacher", "uniform")
"""The policies of which a control policy is a mixture."""

BOOTSTRAPS = ("student", "teacher", "zero")
"""Whose value V(t+1) continues a return that is not sampled to its end."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
    """One step of one student: all that a loss or a reward can look at. A = number of actions.

    Attributes:
      student_logits: [A], the row of theta; a loss is differentiated with respect to this and nothing else.
      frozen_logits: [A], the same numbers, never differentiated; use it where you would stop a gradient.
      student_value: [], V_theta(o_t), return.
      teacher_probs: [A], pi(.|s_t).
      teacher_log_probs: [A], log max(pi(.|s_t), probability_floor), nats.
      teacher_value: [], V_pi(s_t), discounted return.
      next_teacher_value: [], V_pi(s_{t+1}), 0 when the episode ended with this step.
      action: int32 [], a_t.
      reward: [], r_t, the environment's.
      discount: [], the student's discount in [0, 1].
      params: the method's own numbers, by name.
      other_probs: [N, A], the further policies of `Teacher.others`, N = 0 where it has none.
    """

    student_logits: jax.Array
    frozen_logits: jax.Array
    student_value: jax.Array
    teacher_probs: jax.Array
    teacher_log_probs: jax.Array
    teacher_value: jax.Array
    next_teacher_value: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    params: Mapping[str, jax.Array]
    other_probs: jax.Array

    @property
    def student_log_probs(self) -> jax.Array:
        """log pi_theta(.|o_t), [A], nats."""
        return jax.nn.log_softmax(self.student_logits)

    @property
    def student_log_prob(self) -> jax.Array:
        """log pi_theta(a_t|o_t), nats."""
        return numerics.pick(self.student_log_probs, self.action)

    @property
    def teacher_log_prob(self) -> jax.Array:
        """log max(pi(a_t|s_t), probability_floor), nats."""
        return numerics.pick(self.teacher_log_probs, self.action)


StepFn = Callable[[Step], jax.Array]


def make_step(
    student_logits: jax.Array,
    teacher_probs: jax.Array,
    *,
    action: jax.Array,
    probability_floor: jax.Array | float,
    student_value: jax.Array | None = None,
    teacher_value: jax.Array | None = None,
    next_teacher_value: jax.Array | None = None,
    reward: jax.Array | None = None,
    discount: jax.Array | None = None,
    params: Mapping[str, jax.Array] | None = None,
    other_probs: jax.Array | None = None,
) -> Step:
    """The `Step` of a row of the student and a row of the teacher, [A] each; numbers that are not given are 0.

    `probability_floor` is the least teacher probability inside a logarithm. The other arguments are the fields of
    `Step`.
    """
    zero = jnp.zeros((), student_logits.dtype)
    return Step(
        student_logits=student_logits,
        frozen_logits=student_logits,
        student_value=zero if student_value is None else student_value,
        teacher_probs=teacher_probs,
        teacher_log_probs=numerics.log_floored(teacher_probs, probability_floor),
        teacher_value=zero if teacher_value is None else teacher_value,
        next_teacher_value=zero if next_teacher_value is None else next_teacher_value,
        action=action,
        reward=zero if reward is None else reward,
        discount=zero if discount is None else discount,
        params={} if params is None else params,
        other_probs=jnp.zeros((0, *teacher_probs.shape), teacher_probs.dtype) if other_probs is None else other_probs,
    )


@dataclasses.dataclass(frozen=True)
class Control:
    """The control policy q: a mixture of the student's, the teacher's and the uniform policy.

    Attributes:
      student, teacher, uniform: weights >= 0 that sum to 1; each a number, a `Schedule` or a function of the iteration.
      per: whether the component is drawn anew for every "step" or once for an "episode"; the two differ in the
        states that they visit.
    """

    student: schedules.Number = 0.0
    teacher: schedules.Number = 0.0
    uniform: schedules.Number = 0.0
    per: Literal["step", "episode"] = "step"

    def __post_init__(self) -> None:
        checks.one_of("Control.per", self.per, ("step", "episode"))
        functions = {name: weight for name, weight in vars(self).items() if callable(weight)}
        for name, function in functions.items():
            schedules.check_function(f"Control weight {name}", function)
        if functions:
            return  # The weights are checked once a training says how many iterations there are.
        for iteration in self.knots:
            given = [schedules.number_at(weight, iteration) for weight in self.weights]
            weights = checks.numbers("Control weights", given)
            if weights.shape != (3,) or not (weights >= 0).all() or not abs(weights.sum() - 1) <= 1e-6:
                where = f" at iteration {iteration}" if self.is_scheduled else ""
                raise ValueError(
                    "Control weights must be >= 0 and sum to 1; got student, teacher, uniform = "
                    f"{checks.shown(tuple(given))}{where}."
                )

    @property
    def weights(self) -> tuple[Any, Any, Any]:
        return (self.student, self.teacher, self.uniform)

    @property
    def is_scheduled(self) -> bool:
        """Whether a weight changes with the iteration."""
        return any(schedules.is_schedule(weight) for weight in self.weights)

    @property
    def knots(self) -> list[int]:
        """The iterations between which all weights are linear; the first iteration alone if they are constant."""
        given = [weight.iterations for weight in self.weights if isinstance(weight, schedules.Schedule)]
        return sorted({0}.union(*given))

    def at(self, iteration: int) -> "Control":
        """The control policy in an iteration."""
        student, teacher, uniform = (schedules.number_at(weight, iteration) for weight in self.weights)
        return Control(student, teacher, uniform, self.per)

    @property
    def is_student(self) -> bool:
        """Whether the student always acts itself."""
        return not self.is_scheduled and self.student == 1


STUDENT = Control(student=1.0)
TEACHER = Control(teacher=1.0)
UNIFORM = Control(uniform=1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """One way to distill, as data.

    The episode's update is theta <- theta + learning_rate * mean_t [ grad log pi_theta(a_t) Rhat_t - grad l_t ], with
    Rhat_t the return by the estimator, such as sum_{i>=t} discount^{i-t} rhat_i or rhat_t + discount V(t+1), minus
    V_theta(t) where `baseline`, and rhat_t = reward(step t) + next_reward(step t+1).

    Attributes:
      name: the label in results and on the command line.
      loss: l_t, differentiated with respect to `step.student_logits` only. None: 0.
      reward: the part of rhat_t that step t alone decides; never differentiated. None: 0.
      next_reward: the part of rhat_t that step t+1 decides when its action is chosen (it sees no reward and no next
        value), such as -l(t+1) of Theorem 2; 0 when the episode ended. None: 0.
      control: q.
      estimator: a name of `estimators.ESTIMATORS` where the method fixes it (TD + V_pi); None: the configuration's.
      reduction: "mean" (normalised by the episode's length), "sum" over steps or "fixed" (the sum divided by the option
        `fixed_length`) where the method fixes it; None: the configuration's.
      bootstrap: the V(t+1) of estimators that bootstrap: "student" V_theta, "teacher" V_pi, or "zero".
      baseline: whether V_theta(t) is subtracted from Rhat_t.
      discount: in [0, 1] where the method fixes it, such as 0 for a reward that stays with its own step; None: the
        configuration's.
      params: numbers that the functions read as `step.params[name]`; each is a single number, an array with an entry
        for each MDP, a `Schedule`, or a function of the iteration. They may change without recompiling, and must be in
        their `domains`.
      needs_teacher: whether it looks at the teacher at all.
      description: one line for people.
    """

    name: str
    loss: StepFn | None = None
    reward: StepFn | None = None
    next_reward: StepFn | None = None
    control: Control = STUDENT
    estimator: str | None = None
    reduction: Literal["mean", "sum", "fixed"] | None = None
    bootstrap: Literal["student", "teacher", "zero"] = "student"
    baseline: bool = True
    discount: float | None = None
    params: Mapping[str, schedules.Number] = dataclasses.field(default_factory=dict)
    needs_teacher: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable():
            raise ValueError(f"name of a Method must be one line, the label in results; got {checks.shown(self.name)}.")
        for field, (fits, wanted) in _FIELDS.items():
            value = getattr(self, field)
            if not fits(value):
                raise ValueError(
                    f"Method {checks.shown(self.name)}: {field} must be {wanted}; got {checks.shown(value)}."
                )
        self.check_params()

    def __eq__(self, other: object) -> bool:
        """True if all fields are equal, names and descriptions included, as those of a method and its copy are."""
        return isinstance(other, Method) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[Any, ...]:
        fields = (getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "params")
        return type(self), *map(content, fields), *((name, content(x)) for name, x in self.params.items())

    @property
    def domains(self) -> dict[str, Domain]:
        """The domains of the numbers, by name, that the functions state."""
        return domains_of(self.loss, self.reward, self.next_reward)

    def check_params(self) -> None:
        """Raises ValueError if a number is outside its stated domain; traced numbers are not checked."""
        for name, value in self.params.items():
            if callable(value):
                schedules.check_function(f"Method {checks.shown(self.name)}: {name}", value)
        for name, domain in self.domains.items():
            if name in self.params:
                domain.check(f"Method {checks.shown(self.name)}: {name}", self.params[name])

    def with_params(self, **params: Any) -> Self:
        """This method with other numbers, named after them: jsd with beta = 0.1 is "jsd:beta=0.1".

        Args:
          **params: numbers of `params` by name, each a single number; an array with an entry for each MDP, which is
            named "beta=array"; or a schedule, which is named "beta=schedule".

        Raises:
          ValueError: no number, a name that the method does not have, or a number outside its domain.
        """
        if not self.params:
            raise ValueError(f"Method {checks.shown(self.name)} has no numbers; got {', '.join(params) or 'none'}.")
        if not params:
            raise ValueError(f"with_params takes numbers of the method, of {', '.join(self.params)}; got none.")
        for name in params:
            checks.known("number", name, list(self.params), f"the numbers of {self.name} are")
        parts = self.name.split(":")
        earlier = [part for part in parts[1:] if part.partition("=")[0] in self.params]  # of earlier calls
        base = ":".join(part for part in parts if part not in earlier)
        changed = [*dict.fromkeys([*(part.partition("=")[0] for part in earlier), *params])]
        numbers = {**self.params, **params}
        named = dataclasses.replace(self, params=numbers)  # before the name is made: this checks the numbers
        text = [f"{name}={_text(numbers[name])}" for name in changed]
        return dataclasses.replace(named, name=":".join([base, *text]))

    @property
    def scheduled(self) -> tuple[str, ...]:
        """The names of the numbers that change with the iteration, of `params`, and "control"."""
        names = [name for name, value in self.params.items() if schedules.is_schedule(value)]
        return (*names, "control") if self.control.is_scheduled else tuple(names)

    def at(self, iteration: int) -> Self:
        """The method in an iteration: each `Schedule` is replaced by its number there, for the exact side."""
        if not self.scheduled:
            return self
        params = {name: schedules.number_at(value, iteration) for name, value in self.params.items()}
        return dataclasses.replace(self, params=params, control=self.control.at(iteration))

    def with_sampled_functions(self, num_iterations: int) -> Self:
        """The method with a `Schedule` in place of each function of the iteration; ValueError for one that fails."""
        if not self.scheduled:
            return self

        def sampled(name: str, value: Any) -> Any:
            return schedules.sampled(f"{self.name}: {name}", value, num_iterations)

        params = {name: sampled(name, value) for name, value in self.params.items()}
        weights = {name: sampled(f"control {name}", getattr(self.control, name)) for name in CONTROLS}
        return dataclasses.replace(self, params=params, control=Control(**weights, per=self.control.per))

    @property
    def has_return(self) -> bool:
        """Whether Rhat_t can differ from 0; where it cannot, V_theta is not trained either."""
        return self.reward is not None or self.next_reward is not None


def _text(number: Any) -> str:
    """A number of a method as a part of the method's name."""
    if schedules.is_schedule(number):
        return "schedule"
    return f"{number:g}" if np.ndim(number) == 0 else "array"


def _is_function(value: Any) -> bool:
    return value is None or callable(value)


def _is_one_of(*valid: str | None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str | None) and value in valid


def _is_estimator(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in ESTIMATORS)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_discount(value: Any) -> bool:
    if value is None:
        return True
    try:
        checks.number("discount", value, 0, 1)
    except ValueError:
        return False
    return True


def _are_params(value: Any) -> bool:
    try:
        given = [(key, schedules.numbers_of(x)) for key, x in value.items() if not isinstance(x, jax.core.Tracer)]
        is_valid = (callable(x) or not np.isnan(checks.numbers(key, x)).any() for key, x in given)
        return all(isinstance(key, str) for key in value) and all(is_valid)
    except (AttributeError, ValueError):
        return False


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "loss": (_is_function, "a function of a Step or None"),
    "reward": (_is_function, "a function of a Step or None"),
    "next_reward": (_is_function, "a function of a Step or None"),
    "control": (lambda value: isinstance(value, Control), "a Control such as STUDENT"),
    "estimator": (_is_estimator, f"{', '.join(map(repr, ESTIMATORS))} or None"),
    "reduction": (_is_one_of(*REDUCTIONS, None), "'mean', 'sum', 'fixed' or None"),
    "bootstrap": (_is_one_of(*BOOTSTRAPS), "'student', 'teacher' or 'zero'"),
    "baseline": (_is_bool, "True or False"),
    "discount": (_is_discount, "in [0, 1] or None"),
    "params": (_are_params, "a mapping from names to numbers"),
    "needs_teacher": (_is_bool, "True or False"),
    "description": (lambda value: isinstance(value, str), "a string"),
}


def loss_gradient(loss: StepFn, step: Step) -> jax.Array:
    """grad l_t with respect to the row of logits, [A]."""
    return jax.grad(lambda logits: loss(dataclasses.replace(step, student_logits=logits)))(step.student_logits)


def score(step: Step) -> jax.Array:
    """grad log pi_theta(a_t) with respect to the row of logits, [A]: one_hot(a_t) - pi_theta."""
    probs = jax.nn.softmax(step.student_logits)
    return jax.nn.one_hot(step.action, probs.shape[-1], dtype=probs.dtype) - probs
