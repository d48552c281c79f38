"""Divergences between the policies of student and teacher in one state, as one term for each action.

Every function takes `Rows` and returns one number for each action, [A], in nats. A divergence is the sum of its terms;
of k1, k2 and k3 the term of the action taken is used. Teacher probabilities may be 0, and the student's may underflow
to 0: every value that can be finite there is finite, and so is its gradient. Where a term needs log pi by itself, the
teacher's probability is floored.

A divergence that takes a number states its domain (`takes`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from scipy import special

from jaxdistill.methods.domains import POSITIVE, Domain
from jaxdistill.methods.expressions import PI, STUDENT, Cases, Expression, Indicator, Number, clip, exp, least_of, log
from jaxdistill.methods.formulas import states
from jaxdistill.methods.numerics import capped, kl_terms, log_positive
from jaxdistill.methods.policy_sums import Definition, kl, mixture

_Divergence = TypeVar("_Divergence", bound=Callable[..., Any])

SMALL = 1e-6
"""The least distance of a weight from an end of its domain where the gradient vanishes, so that float32 is enough."""

ALPHA_POWER = Domain(0, 1, "both", note="It tends to the reverse KL at 0 and to the forward KL at 1.")
"""The domain of the power of an alpha divergence."""


class Rows(NamedTuple):
    """The policies of student and teacher in one state, each [A].

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
        """pi_theta; differentiated."""
        return jnp.exp(self.student_log_probs)

    @property
    def log_ratio(self) -> jax.Array:
        """log pi_theta - log pi, nats, the teacher floored."""
        return self.student_log_probs - self.teacher_log_probs


def _formula_of_jensen_shannon(beta: Expression) -> Expression:
    m = mixture(beta, PI, STUDENT)
    return beta * kl(PI, m) + (1 - beta) * kl(STUDENT, m)


def _formula_of_normalised_jensen_shannon(beta: Expression) -> Expression:
    m = mixture(beta, PI, STUDENT)
    return kl(PI, m) / (1 - beta) + kl(STUDENT, m) / beta


def _formula_of_jensen_shannon_or_kl(beta: Expression) -> Expression:
    ends = tuple(Indicator(beta, "=", Number(end)) for end in (0, 1))
    return Cases(ends, (kl(PI, STUDENT), kl(STUDENT, PI), _formula_of_jensen_shannon(beta)))


def takes(domain: Domain) -> Callable[[_Divergence], _Divergence]:
    """A decorator that states the domain of the number that a divergence takes; `numbered` gives the number a name."""

    def stated(divergence: _Divergence) -> _Divergence:
        divergence.domain = domain  # type: ignore[attr-defined]
        return divergence

    return stated


@states(kl(PI, STUDENT))
def forward_kl(rows: Rows) -> jax.Array:
    """The forward KL divergence KL(pi || pi_theta)."""
    pi = rows.teacher_probs
    return kl_terms(p=pi, log_p=log_positive(pi), log_q=rows.student_log_probs)


@states(kl(STUDENT, PI))
def reverse_kl(rows: Rows) -> jax.Array:
    """The reverse KL divergence KL(pi_theta || pi), the teacher floored."""
    return kl_terms(p=rows.student_probs, log_p=rows.student_log_probs, log_q=rows.teacher_log_probs)


@states(_formula_of_jensen_shannon)
@takes(
    Domain(
        SMALL,
        1 - SMALL,
        note="At 0 and 1 the gradient vanishes; use gkd or jsd_normalised, whose limits are the KLs.",
    )
)
def jensen_shannon(rows: Rows, beta: jax.Array | float) -> jax.Array:
    """The generalised Jensen-Shannon divergence beta KL(pi || m) + (1 - beta) KL(pi_theta || m), 0 < beta < 1.

    The mixture m is beta pi + (1 - beta) pi_theta. The divergence is of order beta KL(pi || pi_theta) near beta = 0 and
    of order (1 - beta) KL(pi_theta || pi) near beta = 1, so at both ends it is 0 for all policies.
    """
    pi, log_mixture = rows.teacher_probs, mixture_log_probs(rows, beta)
    from_teacher = kl_terms(p=pi, log_p=log_positive(pi), log_q=log_mixture)
    from_student = kl_terms(p=rows.student_probs, log_p=rows.student_log_probs, log_q=log_mixture)
    return beta * from_teacher + (1 - beta) * from_student


@states(_formula_of_jensen_shannon_or_kl)
@takes(Domain(0, 1, note="At 0 it is KL(pi||pi_theta), at 1 KL(pi_theta||pi), and the scale jumps there.", gap=SMALL))
def jensen_shannon_or_kl(rows: Rows, beta: jax.Array | float) -> jax.Array:
    """`jensen_shannon` for beta in (0, 1), the forward KL divergence at beta = 0 and the reverse one at beta = 1.

    This is the divergence of GKD as TRL computes it (`generalized_jsd_loss`). Its scale jumps at the ends: it is about
    beta KL(pi || pi_theta) near 0 and (1 - beta) KL(pi_theta || pi) near 1, and the whole KL at 0 and 1.
    """
    is_forward, is_reverse = beta == 0, beta == 1
    # A term that is not selected must still be finite in value and gradient, whatever beta and the floor are.
    inner = jensen_shannon(rows, jnp.where(is_forward | is_reverse, 0.5, beta))
    return jnp.where(is_forward, forward_kl(rows), jnp.where(is_reverse, _reverse_kl_where(is_reverse, rows), inner))


@states(_formula_of_normalised_jensen_shannon)
@takes(Domain(0, 1, note="At 0 it is KL(pi||pi_theta), at 1 KL(pi_theta||pi)."))
def normalised_jensen_shannon(rows: Rows, beta: jax.Array | float) -> jax.Array:
    """`jensen_shannon` divided by beta (1 - beta), which is KL(pi || m) / (1 - beta) + KL(pi_theta || m) / beta.

    It has no jump of scale: beta = 0 gives the forward KL divergence and beta = 1 the reverse one, with the teacher
    floored. It is computed without a difference of nearly equal numbers, so it is precise for every beta.
    """
    is_reverse = beta == 1
    inner_beta = jnp.where(is_reverse, 0.5, beta)
    pi, log_probs = rows.teacher_probs, rows.student_log_probs
    from_student = rows.student_probs * _log_mixture_ratio(inner_beta, 1 - inner_beta, jnp.log(pi) - log_probs)
    from_teacher = pi * _log_mixture_ratio(1 - inner_beta, inner_beta, log_probs - log_positive(pi))
    return jnp.where(is_reverse, _reverse_kl_where(is_reverse, rows), -from_student - from_teacher)


def _reverse_kl_where(is_used: jax.Array | bool, rows: Rows) -> jax.Array:
    """The terms of `reverse_kl` if they are used; otherwise finite numbers, even if the teacher's logarithm is not."""
    return reverse_kl(rows._replace(teacher_log_probs=jnp.where(is_used, rows.teacher_log_probs, 0)))


def _log_mixture_ratio(weight: jax.Array, rest: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """log(rest + weight x) / weight for x = exp(log_ratio), and its limit x - 1 at weight 0; weight in [0, 1].

    It is precise for a small weight, where a difference of logarithms is not. `rest` is 1 - weight, given by itself
    because subtraction would lose it where it is small.
    """
    is_limit = weight < jnp.finfo(log_ratio.dtype).tiny
    weight = jnp.where(is_limit, 0.5, weight)
    excess = jnp.expm1(capped(log_ratio))
    is_moderate = weight * excess > -0.5
    moderate = jnp.log1p(jnp.where(is_moderate, weight * excess, 0))
    # rest + weight x is near 0: its two positive parts are added as logarithms.
    small = jnp.logaddexp(jnp.log(rest), jnp.log(weight) + log_ratio)
    return jnp.where(is_limit, excess, jnp.where(is_moderate, moderate, small) / weight)


@states(lambda skew: kl(PI, mixture(skew, PI, STUDENT)))
@takes(Domain(0, 1 - SMALL, note="At 1 the gradient vanishes."))
def skew_forward_kl(rows: Rows, skew: jax.Array | float) -> jax.Array:
    """The skew forward KL divergence KL(pi || skew pi + (1 - skew) pi_theta), 0 <= skew < 1."""
    pi = rows.teacher_probs
    return kl_terms(p=pi, log_p=log_positive(pi), log_q=mixture_log_probs(rows, skew))


@states(lambda skew: kl(STUDENT, mixture(skew, STUDENT, PI)))
@takes(Domain(SMALL, 1 - SMALL, note="At 0 it is the objective reverse_kl; at 1 the gradient vanishes."))
def skew_reverse_kl(rows: Rows, skew: jax.Array | float) -> jax.Array:
    """The skew reverse KL divergence KL(pi_theta || (1 - skew) pi + skew pi_theta), 0 < skew < 1."""
    probs, log_probs = rows.student_probs, rows.student_log_probs
    return kl_terms(p=probs, log_p=log_probs, log_q=mixture_log_probs(rows, 1 - skew))


@states(lambda a: 1 / (1 + a) * STUDENT ** (1 + a) - STUDENT * PI**a + a / (1 + a) * PI ** (1 + a))
@takes(POSITIVE)
def density_power(rows: Rows, power: jax.Array | float) -> jax.Array:
    """a / (1 + a) times the density power divergence d_a(pi_theta, pi) of Basu et al. (1998), a = power > 0.

    sum_a pi_theta^(1 + a) / (1 + a) - pi_theta pi^a + pi^(1 + a) a / (1 + a): half the squared error for a = 1.
    """
    student, teacher = rows.student_probs, rows.teacher_probs
    student_part = jnp.exp((1 + power) * rows.student_log_probs) / (1 + power)
    return student_part - student * teacher**power + teacher ** (1 + power) * power / (1 + power)


@states(lambda a: 1 / (a * (1 - a)) * (STUDENT - STUDENT ** (1 - a) * PI**a))
@takes(ALPHA_POWER)
def alpha_divergence(rows: Rows, power: jax.Array | float) -> jax.Array:
    """The alpha divergence (pi_theta - pi_theta^(1 - a) pi^a) / (a (1 - a)), a = power in (0, 1).

    The teacher is floored.
    """
    overlap = jnp.exp((1 - power) * rows.student_log_probs + power * rows.teacher_log_probs)
    return (rows.student_probs - overlap) / (power * (1 - power))


@states(PI * (log(STUDENT / PI) ** 2 / 2))
def squared_log_ratio(rows: Rows) -> jax.Array:
    """The teacher's expectation of k2, pi (log pi_theta - log pi)^2 / 2."""
    return rows.teacher_probs * k2(rows)


@states(STUDENT * (log(STUDENT / PI) ** 2 / 2))
def expected_k2(rows: Rows) -> jax.Array:
    """The student's expectation of k2, pi_theta (log pi_theta - log pi)^2 / 2."""
    return rows.student_probs * k2(rows)


@states(log(STUDENT / PI))
def k1(rows: Rows) -> jax.Array:
    """The log ratio k1 = log pi_theta(a) - log pi(a); its mean under the student is KL(pi_theta || pi)."""
    return rows.log_ratio


@states(log(STUDENT / PI) ** 2 / 2)
def k2(rows: Rows) -> jax.Array:
    """Half the squared log ratio, k2 = k1^2 / 2.

    Its mean under the student is a biased estimate of KL(pi_theta || pi), but the mean of its gradient is the gradient
    of KL(pi_theta || pi).
    """
    return rows.log_ratio**2 / 2


@states(PI / STUDENT - 1 + log(STUDENT / PI))
def k3(rows: Rows) -> jax.Array:
    """The estimate k3 = x - 1 - log x >= 0, x = pi(a) / pi_theta(a).

    Its mean under the student is KL(pi_theta || pi).
    """
    return jnp.expm1(capped(-rows.log_ratio)) + rows.log_ratio


_CLIPPED = Definition("x", "x", clip(log(STUDENT / PI), -20, 20))


@states(least_of(exp(-_CLIPPED) - 1 + _CLIPPED, 10))
def k3_clamped(rows: Rows, most_ratio: float = 20.0, most: float = 10.0) -> jax.Array:
    """k3 with its log ratio clipped to +-`most_ratio` and its value to at most `most`.

    Where either is clipped, the gradient is 0.
    """
    log_ratio = jnp.clip(rows.log_ratio, -most_ratio, most_ratio)
    return jnp.minimum(jnp.expm1(capped(-log_ratio)) + log_ratio, most)


def _ratios_where_k3_is(most: float) -> tuple[float, float]:
    """The two solutions of k3 = most in log(pi / pi_theta), the greater one first."""
    # They are given by the two real branches of the Lambert W function.
    highest, lowest = (-1 - most - special.lambertw(-math.exp(-1 - most), branch).real for branch in (-1, 0))
    return float(highest), float(lowest)


def _formula_of_forward_kl_flat(most: float = 10.0) -> Expression:
    highest, lowest = _ratios_where_k3_is(most)
    x = Definition("x", "x", clip(log(STUDENT / PI), -highest, -lowest))
    return PI * exp(x) - PI * (log(PI) + x)


@states(_formula_of_forward_kl_flat())
def forward_kl_flat(rows: Rows, most: float = 10.0) -> jax.Array:
    """The divergence that the mean of `k3_clamped` descends: pi_theta - pi log pi_theta, flat where k3 exceeds `most`.

    Flat means constant in pi_theta. For most = 10 this is where pi / pi_theta, the teacher floored, is above 13.6 or
    below 1.7e-5.
    """
    highest, lowest = _ratios_where_k3_is(most)
    teacher = jnp.exp(rows.teacher_log_probs)
    log_probs = rows.teacher_log_probs + jnp.clip(rows.log_ratio, -highest, -lowest)
    return jnp.exp(log_probs) - teacher * log_probs


def mixture_log_probs(rows: Rows, weight: jax.Array | float) -> jax.Array:
    """The log-probabilities of the mixture weight pi + (1 - weight) pi_theta, weight in [0, 1].

    They are finite wherever pi_theta or pi is positive.
    """
    return jnp.logaddexp(jnp.log(weight * rows.teacher_probs), jnp.log1p(-weight) + rows.student_log_probs)


@states(STUDENT * log(STUDENT))
def negative_entropy(rows: Rows) -> jax.Array:
    """The negative entropy of the student, pi_theta log pi_theta."""
    return rows.student_probs * rows.student_log_probs
