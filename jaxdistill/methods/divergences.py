"""Divergences between the rows of student and teacher, action by action; objectives sum them or sample from them.

Every function takes `Rows` and returns one number for each action, [A], in nats: the divergence is their sum, and k1,
k2 and k3 are read at the action taken. Teacher probabilities may be 0 and the student's may underflow to 0: all that
can be finite there is, with its gradient. Where log pi itself is needed, it is the floored one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from scipy import special


class Rows(NamedTuple):
    """What is compared in one state, each [A].

    Attributes:
      student_log_probs: log pi_theta, nats; differentiated.
      frozen_log_probs: the same numbers, never differentiated.
      teacher_probs: pi, not floored.
      teacher_log_probs: log max(pi, probability_floor), nats.
    """

    student_log_probs: jax.Array
    frozen_log_probs: jax.Array
    teacher_probs: jax.Array
    teacher_log_probs: jax.Array

    @property
    def student_probs(self) -> jax.Array:
        return jnp.exp(self.student_log_probs)

    @property
    def log_ratio(self) -> jax.Array:
        """log pi_theta - log pi, nats, the teacher floored."""
        return self.student_log_probs - self.teacher_log_probs


def forward_kl(rows: Rows) -> jax.Array:
    """KL(pi || pi_theta)."""
    return rows.teacher_probs * (_log(rows.teacher_probs) - rows.student_log_probs)


def reverse_kl(rows: Rows) -> jax.Array:
    """KL(pi_theta || pi), the teacher floored."""
    return rows.student_probs * rows.log_ratio


def jensen_shannon(rows: Rows, beta: jax.Array | float) -> jax.Array:
    """beta KL(pi || m) + (1 - beta) KL(pi_theta || m), m = beta pi + (1 - beta) pi_theta, beta in [0, 1).

    Of order beta KL(pi || pi_theta) near 0 and of order (1 - beta) KL(pi_theta || pi) near 1.
    """
    log_mixture = mixture_log_probs(rows, beta)
    forward = rows.teacher_probs * (_log(rows.teacher_probs) - log_mixture)
    return beta * forward + (1 - beta) * rows.student_probs * (rows.student_log_probs - log_mixture)


def skew_forward_kl(rows: Rows, skew: jax.Array | float) -> jax.Array:
    """KL(pi || skew pi + (1 - skew) pi_theta), skew in [0, 1)."""
    return rows.teacher_probs * (_log(rows.teacher_probs) - mixture_log_probs(rows, skew))


def skew_reverse_kl(rows: Rows, skew: jax.Array | float) -> jax.Array:
    """KL(pi_theta || (1 - skew) pi + skew pi_theta), skew in (0, 1]."""
    return rows.student_probs * (rows.student_log_probs - mixture_log_probs(rows, 1 - skew))


def density_power(rows: Rows, power: jax.Array | float) -> jax.Array:
    """a / (1 + a) times the density power divergence d_a(pi_theta, pi) of Basu et al. (1998), a = power > 0.

    sum_a pi_theta^(1 + a) / (1 + a) - pi_theta pi^a + pi^(1 + a) a / (1 + a): half the squared error for a = 1.
    """
    student, teacher = rows.student_probs, rows.teacher_probs
    own = jnp.exp((1 + power) * rows.student_log_probs) / (1 + power)
    return own - student * teacher**power + teacher ** (1 + power) * power / (1 + power)


def alpha_divergence(rows: Rows, power: jax.Array | float) -> jax.Array:
    """(pi_theta - pi_theta^(1 - a) pi^a) / (a (1 - a)), a = power in (0, 1), the teacher floored."""
    overlap = jnp.exp((1 - power) * rows.student_log_probs + power * rows.teacher_log_probs)
    return (rows.student_probs - overlap) / (power * (1 - power))


def squared_log_ratio(rows: Rows) -> jax.Array:
    """pi (log pi_theta - log pi)^2 / 2, the teacher's expectation of k2."""
    return rows.teacher_probs * k2(rows)


def expected_k2(rows: Rows) -> jax.Array:
    """pi_theta (log pi_theta - log pi)^2 / 2, the student's expectation of k2."""
    return rows.student_probs * k2(rows)


def k1(rows: Rows) -> jax.Array:
    """log pi_theta(a) - log pi(a); its mean under the student is KL(pi_theta || pi)."""
    return rows.log_ratio


def k2(rows: Rows) -> jax.Array:
    """k1^2 / 2: biased as a value, its gradient under the student is that of KL(pi_theta || pi)."""
    return rows.log_ratio**2 / 2


def k3(rows: Rows) -> jax.Array:
    """pi(a) / pi_theta(a) - 1 - log(pi(a) / pi_theta(a)) >= 0; its mean under the student is KL(pi_theta || pi)."""
    return jnp.expm1(-rows.log_ratio) + rows.log_ratio


def k3_clamped(rows: Rows, most_ratio: float = 20.0, most: float = 10.0) -> jax.Array:
    """k3 with its log ratio kept within `most_ratio` and itself below `most`: no gradient beyond either."""
    log_ratio = jnp.clip(rows.log_ratio, -most_ratio, most_ratio)
    return jnp.minimum(jnp.expm1(-log_ratio) + log_ratio, most)


def forward_kl_flat(rows: Rows, most: float = 10.0) -> jax.Array:
    """pi_theta - pi log pi_theta, constant in pi_theta where k3 exceeds `most`: what the mean of `k3_clamped` descends.

    For most = 10 that is where pi / pi_theta is above 13.6 or below 1.7e-5, the teacher floored.
    """
    ends = (-1 - most - special.lambertw(-math.exp(-1 - most), branch).real for branch in (-1, 0))
    teacher, (highest, lowest) = jnp.exp(rows.teacher_log_probs), ends
    log_probs = rows.teacher_log_probs + jnp.clip(rows.log_ratio, -highest, -lowest)
    return jnp.exp(log_probs) - teacher * log_probs


def mixture_log_probs(rows: Rows, weight: jax.Array | float) -> jax.Array:
    """log(weight pi + (1 - weight) pi_theta), weight in [0, 1]; finite wherever pi_theta or pi is positive."""
    return jnp.logaddexp(jnp.log(weight * rows.teacher_probs), jnp.log1p(-weight) + rows.student_log_probs)


def negative_entropy(rows: Rows) -> jax.Array:
    """pi_theta log pi_theta."""
    return rows.student_probs * rows.student_log_probs


def _log(probs: jax.Array) -> jax.Array:
    """log probs, and 0 where they are 0, which is their weight."""
    return jnp.log(jnp.where(probs > 0, probs, 1))
