"""The methods of the paper: the rows of Table 1 and the further methods of Figs. 5, 6, 8 and 9, as data."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.methods import losses
from jaxdistill.methods.method import TEACHER, Method, Step
from jaxdistill.runtime import checks


def cross_entropy(step: Step) -> jax.Array:
    """l = H(pi || pi_theta)."""
    return losses.cross_entropy(teacher_probs=step.teacher_probs, student_logits=step.student_logits)


def reverse_cross_entropy(step: Step) -> jax.Array:
    """l = H(pi_theta || pi)."""
    return losses.reverse_cross_entropy(student_logits=step.student_logits, teacher_log_probs=step.teacher_log_probs)


def value_conditioned_cross_entropy(step: Step) -> jax.Array:
    """l = H(pi || pi_theta) where V_pi(t) > V_theta(t), else 0 ("+ V cond", Proposition 2)."""
    return jnp.where(step.teacher_value > step.student_value, cross_entropy(step), 0)


def negative_cross_entropy(step: Step) -> jax.Array:
    """rhat = -H(pi(t+1) || pi_theta(t+1)), the correction of Theorem 2."""
    return -cross_entropy(step)


def environment_reward(step: Step) -> jax.Array:
    """rhat = r_t."""
    return step.reward


def teacher_log_prob(step: Step) -> jax.Array:
    """rhat = log pi(a_t), floored."""
    return step.teacher_log_prob


def log_ratio(step: Step) -> jax.Array:
    """rhat = log pi(a_t) - log pi_theta(a_t)."""
    return step.teacher_log_prob - step.student_log_prob


def teacher_value_reward(step: Step) -> jax.Array:
    """rhat = r_t + discount V_pi(t+1) - V_pi(t) (Proposition 4)."""
    # Paper: V_pi(t+1) without a discount. Here: discount * V_pi(t+1), because V_pi is a discounted value and only so
    # does the sum telescope to return - V_pi(t), on which its beating an adversarial teacher (Fig. 6) rests.
    return step.reward + step.discount * step.next_teacher_value - step.teacher_value


def plus_reward(method: str | Method, name: str | None = None) -> Method:
    """`method` + R: its update plus the actor-critic update on the environment reward (Figs. 5 and 8)."""
    method = method if isinstance(method, Method) else get(method)
    own = method.reward
    reward = environment_reward if own is None else lambda step: own(step) + step.reward
    return dataclasses.replace(
        method,
        name=f"{method.name}_r" if name is None else name,
        reward=reward,
        description=f"{method.description} Plus the environment reward.".strip(),
    )


_ON_POLICY = Method(
    "on_policy_distill",
    loss=cross_entropy,
    description="H(pi||pi_theta) on the student's own trajectories; not a gradient field (Theorem 1).",
)
_V_COND = Method("", loss=value_conditioned_cross_entropy, description="H(pi||pi_theta) where V_pi > V_theta.")
_TD_V = Method("", reward=environment_reward, estimator="td", baseline=False)

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
    plus_reward(_ON_POLICY),
    plus_reward(_V_COND, "on_policy_distill_r_vcond"),
    Method("entropy_regularised", reward=teacher_log_prob, description="Reward log pi(a_t), no loss."),
    Method(
        "n_distill",
        loss=cross_entropy,
        next_reward=negative_cross_entropy,
        description="On-policy distillation made a gradient by the reward -H(pi||pi_theta) at t+1 (Theorem 2).",
    ),
    Method(
        "exp_entropy_regularised",
        loss=reverse_cross_entropy,
        next_reward=teacher_log_prob,
        description="H(pi_theta||pi) and the reward log pi(a_{t+1}): entropy regularised, one step in expectation.",
    ),
    Method("kl_regularised", reward=log_ratio, description="Reward log pi(a_t) - log pi_theta(a_t), no loss."),
    Method(
        "teacher_v_reward",
        reward=teacher_value_reward,
        description="Reward r_t + discount V_pi(t+1) - V_pi(t): the return, shaped by the teacher's value.",
    ),
    # Proposition 3 has no V_theta baseline, and the published curves fit best without one.
    dataclasses.replace(
        _TD_V,
        name="td_v0",
        bootstrap="zero",
        needs_teacher=False,
        description="Actor-critic with the bootstrap value removed.",
    ),
    dataclasses.replace(
        _TD_V, name="td_vpi", bootstrap="teacher", description="Actor-critic bootstrapped by V_pi (Proposition 3)."
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""The six rows of Table 1 and the further methods of Figs. 5, 6, 8 and 9, by name."""


def get(method: str | Method) -> Method:
    """The method of that name, or the method itself; ValueError naming the valid names."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"Unknown method {checks.shown(method)}; the methods are {', '.join(METHODS)}.")
    return METHODS[method]
