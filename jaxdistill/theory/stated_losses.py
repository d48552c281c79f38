"""The losses that methods claim to descend (Table 1), as exact and differentiable functions of the logits."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import STUDENT, TEACHER, UNIFORM, Control, Method, Step, StepFn
from jaxdistill.methods.combinators import IN_EACH_STATE, Objective, negated
from jaxdistill.methods.composed import composes
from jaxdistill.methods.expressions import Expression
from jaxdistill.methods.formulas import expected_sum, formula_of
from jaxdistill.methods.schedules import Number
from jaxdistill.theory.exact_update import ExactOptions, Problem, make_problem, solve_update

TABLE_1: Mapping[str, Any] = {"estimator": "mc", "reduction": "sum", "discount": 1.0}
"""The options of `expected_update` under which Table 1 states its losses."""


_COUNTED_ONCE: dict[str, Any] = {"feature_steps": "divided"}
"""The option by which the updates of V_theta of a state's rows add up to one, however many rows the state has."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss E_q sum_t cost(t) as a method states it, exact and differentiable.

    Attributes:
      cost: the cost of a step, a function of a `Step` as in methods; all of it is differentiated, unlike there.
      text: the loss in words, such as "E_pi_theta sum_t H(pi||pi_theta)"; "": the text of its `formula`.
      control: the control policy q, whose dependence on theta is differentiated too.
      reduction: "mean" for E_q (1/T) sum_t cost(t), where T is the number of steps of the episode, or "fixed" for
        E_q (1/L) sum_t cost(t), where L is the option `fixed_length`; None: the option.
      discount: the value of `step.discount`; None: the option.
      params: the value of `step.params`.
    """

    cost: StepFn
    text: str = ""
    control: Control = STUDENT
    reduction: Literal["mean", "sum", "fixed"] | None = None
    discount: float | None = None
    params: Mapping[str, Number] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text:
            object.__setattr__(self, "text", self.formula.text)

    @property
    def formula(self) -> Expression:
        """The loss as a formula; raises WithoutFormula if the cost has none."""
        return expected_sum(formula_of(self.cost), self.control, self.reduction)

    @functools.cached_property
    def method(self) -> Method:
        """A method whose expected update of V_theta, summed over rows, is the loss.

        Its reward is the cost. V_theta is 0, and the targets have no bootstrap.
        """
        return Method(
            self.text, reward=self.cost, control=self.control, estimator="td", reduction=self.reduction,
            bootstrap="zero", baseline=False, discount=self.discount, params=self.params,
        )  # fmt: skip

    def __call__(self, mdp: MDP, teacher: Teacher, logits: jax.Array, **options: Any) -> jax.Array:
        """The loss at `logits` [O, A] of one MDP, []; the default options are those of `TABLE_1`."""
        options = dict(TABLE_1) | options | _COUNTED_ONCE
        return jnp.sum(solve_update(make_problem(mdp, teacher, self.method, logits, None, options)).values)

    def value(self, options: ExactOptions, mdp: MDP, teacher: Teacher, logits: jax.Array) -> jax.Array:
        """The loss, [], of arguments that have been checked."""
        options = dataclasses.replace(options, **_COUNTED_ONCE)
        return jnp.sum(solve_update(Problem.resolved(self.method, options, mdp, teacher, logits)).values)


_NEGATIVE_RETURN = Loss(negated(methods.environment_reward))
_REVERSE_CROSS_ENTROPY = Loss(negated(methods.teacher_log_prob))
LOSSES: Mapping[str, Loss] = {
    "teacher_distill": Loss(methods.cross_entropy, control=TEACHER),
    "entropy_regularised": _REVERSE_CROSS_ENTROPY,
    "n_distill": Loss(methods.cross_entropy),
    "exp_entropy_regularised": _REVERSE_CROSS_ENTROPY,
    "teacher_v_reward": _NEGATIVE_RETURN,
    "baseline": _NEGATIVE_RETURN,
    "kl_regularised": Loss(negated(methods.log_ratio)),
}
"""The losses of Table 1 by method, and of two related methods; on-policy distillation has none.

The return is maximised, so the loss is minus the return.
"""


@composes
def _weighted_cost(loss: StepFn | None, reward: StepFn | None, loss_weight: float, return_weight: float) -> StepFn:
    """The cost loss_weight l_t - return_weight reward_t of a step; a loss or reward that is None counts as 0."""

    def cost(step: Step) -> jax.Array:
        total = jnp.zeros((), step.student_logits.dtype)
        total += loss_weight * loss(step) if loss else 0
        return total - return_weight * reward(step) if reward else total

    return cost


def own_loss(method: str | Method, *, loss_weight: float = 1.0, return_weight: float = 1.0) -> Loss | None:
    """The loss that a method's formula suggests, E_q sum_t (l_t - reward_t); None if it has neither.

    `next_reward` is left out, because it stands for the losses of later steps, as in Theorem 2.
    """
    method = methods.get(method)
    loss, reward = method.loss, method.reward
    if loss is None and reward is None:
        return None

    cost = _weighted_cost(loss, reward, loss_weight, return_weight)
    control_text = {STUDENT: "pi_theta", TEACHER: "pi", UNIFORM: "uniform"}.get(method.control, "q")
    cost_text = "(l_t - reward_t)" if loss and reward else "l_t" if loss else "-reward_t"
    reduction_text = {"mean": "mean_t", "fixed": "(1/L) sum_t"}.get(method.reduction or "sum", "sum_t")
    text = f"E_{control_text} {reduction_text} {cost_text}"
    return Loss(cost, text, method.control, method.reduction, method.discount, method.params)


def stated_losses(method: Method, **weights: float) -> tuple[Loss | None, Loss | None]:
    """The losses that a method is believed to descend: over whole episodes, and over episodes of one step.

    They are Table 1's loss (`LOSSES`) or what an `Objective` of the zoo claims, and `own_loss` for all other methods.
    With `weights`, the options of `own_loss`, it is always `own_loss`, because a claim may not hold under weights.
    """
    suggested = own_loss(method, **weights)
    if weights:
        return suggested, suggested
    if not isinstance(method, Objective):
        is_in_table = methods.METHODS.get(method.name) == method
        stated = LOSSES.get(method.name, suggested) if is_in_table else suggested
        return stated, stated

    def claimed(cost: StepFn) -> Loss:
        text = method.gradient_of.removeprefix(IN_EACH_STATE)
        return Loss(cost, text, method.control, method.reduction, method.discount, method.params)

    whole = claimed(method.total_loss) if method.total_loss else suggested
    return whole, claimed(method.state_loss) if method.state_loss else whole
