"""The methods of the paper as data: the rows of Table 1 and the further methods of Figs. 5, 6, 8 and 9."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.methods import losses
from jaxdistill.methods.combinators import with_reward
from jaxdistill.methods.expressions import (
    DISCOUNT,
    NEXT_TEACHER_VALUE,
    PI,
    REWARD,
    STUDENT,
    STUDENT_VALUE,
    TEACHER_VALUE,
    Indicator,
    log,
)
from jaxdistill.methods.formulas import formula_of, states
from jaxdistill.methods.method import TEACHER, Method, Step
from jaxdistill.methods.policy_sums import taken, total


@states(-total(PI * log(STUDENT)))
def cross_entropy(step: Step) -> jax.Array:
    """The loss l = H(pi || pi_theta)."""
    return losses.cross_entropy(teacher_probs=step.teacher_probs, student_logits=step.student_logits)


@states(-total(STUDENT * log(PI)))
def reverse_cross_entropy(step: Step) -> jax.Array:
    """The loss l = H(pi_theta || pi)."""
    return losses.reverse_cross_entropy(student_logits=step.student_logits, teacher_log_probs=step.teacher_log_probs)


@states(Indicator(TEACHER_VALUE, ">", STUDENT_VALUE) * formula_of(cross_entropy))
def value_conditioned_cross_entropy(step: Step) -> jax.Array:
    """The loss l = H(pi || pi_theta) where V_pi(t) > V_theta(t), and 0 elsewhere ("+ V cond", Proposition 2)."""
    return jnp.where(step.teacher_value > step.student_value, cross_entropy(step), 0)


@states(-formula_of(cross_entropy))
def negative_cross_entropy(step: Step) -> jax.Array:
    """The reward rhat = -H(pi(t+1) || pi_theta(t+1)), the correction of Theorem 2."""
    return -cross_entropy(step)


@states(REWARD)
def environment_reward(step: Step) -> jax.Array:
    """The environment's reward, rhat = r_t."""
    return step.reward


@states(taken(log(PI)))
def teacher_log_prob(step: Step) -> jax.Array:
    """The reward rhat = log pi(a_t), floored."""
    return step.teacher_log_prob


@states(taken(log(PI / STUDENT)))
def log_ratio(step: Step) -> jax.Array:
    """The reward rhat = log pi(a_t) - log pi_theta(a_t)."""
    return step.teacher_log_prob - step.student_log_prob


@states(REWARD + DISCOUNT * NEXT_TEACHER_VALUE - TEACHER_VALUE)
def teacher_value_reward(step: Step) -> jax.Array:
    """The reward rhat = r_t + discount V_pi(t+1) - V_pi(t) (Proposition 4)."""
    # Paper: V_pi(t+1) without a discount. Here: discount * V_pi(t+1), because V_pi is a discounted value. Only then the
    # sum telescopes to return - V_pi(t), which is why the student can surpass an adversarial teacher (Fig. 6).
    return step.reward + step.discount * step.next_teacher_value - step.teacher_value


def with_environment_reward(method: Method, name: str) -> Method:
    """The method "+ R" with this name: its update plus the actor-critic update on the environment reward."""
    description = f"{method.description} Plus the environment reward.".strip()
    return with_reward(method, environment_reward, name=name, description=description)


_ON_POLICY = Method(
    "on_policy_distill",
    loss=cross_entropy,
    description="H(pi||pi_theta) on the student's own trajectories; not a gradient field (Theorem 1).",
)
_VALUE_CONDITIONED = Method(
    "", loss=value_conditioned_cross_entropy, description="H(pi||pi_theta) where V_pi > V_theta."
)
_ONE_STEP = Method("", reward=environment_reward, estimator="td", baseline=False)

_ALL = (
    Method(
        "baseline",
        reward=environment_reward,
        needs_teacher=False,
        description="Actor-critic on the environment reward, no teacher.",
    ),
    Method(
        "teacher_distill",
        loss=cross_entropy,
        control=TEACHER,
        description="H(pi||pi_theta) on the teacher's trajectories.",
    ),
    _ON_POLICY,
    with_environment_reward(_ON_POLICY, "on_policy_distill_r"),
    with_environment_reward(_VALUE_CONDITIONED, "on_policy_distill_r_vcond"),
    Method("entropy_regularised", reward=teacher_log_prob, description="Reward log pi(a_t), no loss."),
    Method(
        "n_distill",
        loss=cross_entropy,
        next_reward=negative_cross_entropy,
        description="On-policy distillation plus the reward -H(pi||pi_theta) at t+1, a gradient field (Theorem 2).",
    ),
    Method(
        "exp_entropy_regularised",
        loss=reverse_cross_entropy,
        next_reward=teacher_log_prob,
        description="H(pi_theta||pi) and the reward log pi(a_{t+1}): the expectation of entropy_regularised over a_t.",
    ),
    Method("kl_regularised", reward=log_ratio, description="Reward log pi(a_t) - log pi_theta(a_t), no loss."),
    Method(
        "teacher_v_reward",
        reward=teacher_value_reward,
        description="Reward r_t + discount V_pi(t+1) - V_pi(t): the return, shaped by the teacher's value.",
    ),
    # Proposition 3 has no V_theta baseline, and the published curves fit best without one.
    dataclasses.replace(
        _ONE_STEP,
        name="td_v0",
        bootstrap="zero",
        needs_teacher=False,
        description="Actor-critic with the bootstrap value removed.",
    ),
    dataclasses.replace(
        _ONE_STEP, name="td_vpi", bootstrap="teacher", description="Actor-critic bootstrapped by V_pi (Proposition 3)."
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""The six rows of Table 1 and the further methods of Figs. 5, 6, 8 and 9, by name."""
