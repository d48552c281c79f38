"""Losses and rewards of one step that the objectives of the field use: functions of a `Step`."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.methods import divergences, numerics, paper
from jaxdistill.methods.combinators import (
    Owner,
    Params,
    Weight,
    numbered,
    plain,
    product,
    rows_of_other,
    sampled,
    top_k,
    top_k_weights,
    total,
)
from jaxdistill.methods.divergences import Rows
from jaxdistill.methods.method import Step, StepFn

FORWARD_KL, REVERSE_KL = plain(divergences.forward_kl), plain(divergences.reverse_kl)
K1, K2, K3 = plain(divergences.k1), plain(divergences.k2), plain(divergences.k3)
JENSEN_SHANNON = numbered(divergences.jensen_shannon, "beta")

forward_kl, reverse_kl = total(FORWARD_KL), total(REVERSE_KL)
k1, k2, k3 = sampled(K1), sampled(K2), sampled(K3)
jensen_shannon = total(JENSEN_SHANNON)
expected_k2 = total(plain(divergences.expected_k2))
negative_entropy = total(plain(divergences.negative_entropy))


def nothing(step: Step) -> jax.Array:
    """A loss that does not depend on the student: its field is 0."""
    return jnp.zeros_like(step.student_value)


def reverse_minus_forward_kl(step: Step) -> jax.Array:
    """KL(pi_theta||pi) - KL(pi||pi_theta): unbounded below, 0 to second order about the teacher."""
    return reverse_kl(step) - forward_kl(step)


def expected_k2_minus_reverse_kl(step: Step) -> jax.Array:
    """E_pi_theta[k2] - KL(pi_theta||pi): its slope in pi_theta(a) is k2, up to a constant."""
    return expected_k2(step) - reverse_kl(step)


def negative_log_likelihood(step: Step) -> jax.Array:
    """-log pi_theta(a_t)."""
    return -step.student_log_prob


def imitation_loss(step: Step) -> jax.Array:
    """H(pi||pi_theta) - `entropy` H(pi_theta)."""
    return paper.cross_entropy(step) + step.params["entropy"] * negative_entropy(step)


def distral_reward(step: Step) -> jax.Array:
    """r + `kl` log pi(a) - (`kl` + `entropy`) log pi_theta(a): Distral's 1/beta is their sum."""
    kl, entropy = step.params["kl"], step.params["entropy"]
    return step.reward + kl * step.teacher_log_prob - (kl + entropy) * step.student_log_prob


@sampled
def proximal_reward(rows: Rows, params: Params) -> jax.Array:
    """log(alpha pi(a) / pi_theta(a) + 1 - alpha) >= log(1 - alpha)."""
    return divergences.mixture_log_probs(rows, params["alpha"]) - rows.student_log_probs


def proximal_loss(step: Step) -> jax.Array:
    """The Jensen-Shannon divergence of weight alpha, over 1 - alpha."""
    return total(numbered(divergences.jensen_shannon, "alpha"))(step) / (1 - step.params["alpha"])


def normalised_jensen_shannon(step: Step) -> jax.Array:
    """JSD_beta / (beta (1 - beta)): the forward KL as beta goes to 0, the reverse KL as it goes to 1."""
    beta = step.params["beta"]
    return jensen_shannon(step) / (beta * (1 - beta))


@sampled
def power_reward(rows: Rows, params: Params) -> jax.Array:
    """pi(a)^power - pi_theta(a)^power, in [-1, 1]."""
    return rows.teacher_probs ** params["power"] - jnp.exp(params["power"] * rows.student_log_probs)


@sampled
def power_ratio_reward(rows: Rows, params: Params) -> jax.Array:
    """((pi(a) / pi_theta(a))^power - 1) / power; -k1 as power goes to 0."""
    return jnp.expm1(-params["power"] * rows.log_ratio) / params["power"]


def extrapolated_k1(step: Step) -> jax.Array:
    """log pi_theta(a) - log ref(a) - scale (log pi(a) - log ref(a)), ref the teacher's first further policy."""
    return numerics.pick(_extrapolated(step), step.action)


def extrapolated_reverse_kl(step: Step) -> jax.Array:
    """KL(pi_theta || pi^scale ref^(1 - scale)), up to the logarithm of that product's sum."""
    return jnp.sum(jnp.exp(step.student_log_probs) * _extrapolated(step))


def _extrapolated(step: Step) -> jax.Array:
    scale, reference = step.params["scale"], rows_of_other(step, 0).teacher_log_probs
    return step.student_log_probs - reference - scale * (step.teacher_log_probs - reference)


def averaged(fn: StepFn) -> StepFn:
    """`params["weight"]` times fn with the teacher, plus the rest times fn with its first further policy."""

    def both(step: Step) -> jax.Array:
        weight, other = step.params["weight"], rows_of_other(step, 0)
        swapped = dataclasses.replace(
            step, teacher_probs=other.teacher_probs, teacher_log_probs=other.teacher_log_probs
        )
        return weight * fn(step) + (1 - weight) * fn(swapped)

    return both


def entropy_gated_forward_kl(step: Step) -> jax.Array:
    """`weight` KL(pi||pi_theta) over the teacher's top k, renormalised, where H(pi) exceeds `threshold` nats."""
    gate = numerics.entropy(step.teacher_probs) > step.params["threshold"]
    return jnp.where(gate, step.params["weight"] * total(top_k(FORWARD_KL, "teacher", "teacher"))(step), 0)


def _detached_log_ratio(rows: Rows, params: Params) -> jax.Array:
    """sg(k1) log pi_theta: the surrogate of an advantage -k1."""
    return (rows.frozen_log_probs - rows.teacher_log_probs) * rows.student_log_probs


def top_k_advantages(owner: Owner, weight: Weight, normalised: bool = True) -> StepFn:
    """Top-k distillation as implemented: an advantage -w k1 for each of the k actions; for w see `top_k_weights`."""
    return total(product(top_k_weights(owner, weight, normalised), _detached_log_ratio))


def top_k_squares(owner: Owner, weight: Weight, normalised: bool = True) -> StepFn:
    """sum w k2 over the k actions: what `top_k_advantages` descends where w does not depend on the student."""
    return total(product(top_k_weights(owner, weight, normalised), K2))
