"""The losses that methods state (Table 1), exactly: what an expected update may be the gradient of."""

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
from jaxdistill.methods.combinators import Objective, negated
from jaxdistill.theory.exact_update import expected_update

TABLE_1: Mapping[str, Any] = {
    "estimator": "mc", "reduction": "sum", "discount": 1.0, "probability_floor": 1e-12,
}  # fmt: skip
"""The options of `expected_update` for which Table 1 states its losses. The floor keeps log 0 finite and no more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss as a method states it: E_q sum_t cost(t), exact and differentiable.

    Attributes:
      cost: c_t, a function of a `Step`, as for methods; unlike there all of it is differentiated.
      text: for people, such as "E_pi_theta sum_t H(pi||pi_theta)".
      control: q; its dependence on theta counts.
      reduction: "mean" for E_q (1/T) sum_t cost(t), T the steps of the episode; None: the option.
      discount, params: what `step.discount` (None: the option) and `step.params` are.
    """

    cost: StepFn
    text: str
    control: Control = STUDENT
    reduction: Literal["mean", "sum"] | None = None
    discount: float | None = None
    params: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _method(self) -> Method:
        """A method whose update of V_theta = 0, towards targets without a bootstrap, is E_q sum_t c_t, row by row."""
        return Method(
            self.text, reward=self.cost, control=self.control, estimator="td", reduction=self.reduction,
            bootstrap="zero", baseline=False, discount=self.discount, params=self.params,
        )  # fmt: skip

    def __call__(self, mdp: MDP, teacher: Teacher, logits: jax.Array, **options: Any) -> jax.Array:
        """The loss at `logits` [O, A] of one MDP, []; options as in `TABLE_1`."""
        return jnp.sum(expected_update(mdp, teacher, self._method, logits, **(dict(TABLE_1) | options)).values)


_RETURN = Loss(negated(methods.environment_reward), "-E_pi_theta sum_t r_t")
_REVERSE = Loss(negated(methods.teacher_log_prob), "E_pi_theta sum_t -log pi(a_t)")
LOSSES: Mapping[str, Loss] = {
    "teacher_distill": Loss(methods.cross_entropy, "E_pi sum_t H(pi||pi_theta)", TEACHER),
    "entropy_regularised": _REVERSE,
    "n_distill": Loss(methods.cross_entropy, "E_pi_theta sum_t H(pi||pi_theta)"),
    "exp_entropy_regularised": _REVERSE,
    "teacher_v_reward": _RETURN,
    "baseline": _RETURN,
    "kl_regularised": Loss(negated(methods.log_ratio), "E_pi_theta sum_t log pi_theta(a_t) - log pi(a_t)"),
}
"""The losses of Table 1, by method (on-policy distillation has none), and of two relatives. The return is descended."""


def own_loss(method: str | Method, *, loss_weight: float = 1.0, return_weight: float = 1.0) -> Loss | None:
    """What a reader of the method's formula may take for its loss, E_q sum_t (l_t - reward_t); None if it has neither.

    `next_reward` is left out: it stands for later losses, as in Theorem 2.
    """
    method = methods.get(method)
    loss, reward = method.loss, method.reward
    if loss is None and reward is None:
        return None

    def cost(step: Step) -> jax.Array:
        total = jnp.zeros((), step.student_logits.dtype)
        total += loss_weight * loss(step) if loss else 0
        return total - return_weight * reward(step) if reward else total

    q = {STUDENT: "pi_theta", TEACHER: "pi", UNIFORM: "uniform"}.get(method.control, "q")
    costs = "(l_t - reward_t)" if loss and reward else "l_t" if loss else "-reward_t"
    over = "mean_t" if method.reduction == "mean" else "sum_t"
    return Loss(cost, f"E_{q} {over} {costs}", method.control, method.reduction, method.discount, method.params)


def stated_losses(method: Method, **weights: float) -> tuple[Loss | None, Loss | None]:
    """What a method is believed to descend: over whole episodes, and over episodes of one step.

    Table 1's loss (`LOSSES`), or what an `Objective` of the zoo claims; else, and wherever `weights` (options of
    `own_loss`) are given, under which a claim may not hold, `own_loss`.
    """
    read_off = own_loss(method, **weights)
    if weights:
        return read_off, read_off
    if not isinstance(method, Objective):
        is_in_table = methods.METHODS.get(method.name) is method
        stated = LOSSES.get(method.name, read_off) if is_in_table else read_off
        return stated, stated

    def claimed(cost: StepFn) -> Loss:
        text = method.gradient_of.rpartition("in each state visited: ")[2]
        return Loss(cost, text, method.control, method.reduction, method.discount, method.params)

    whole = claimed(method.total_loss) if method.total_loss else read_off
    return whole, claimed(method.state_loss) if method.state_loss else whole
