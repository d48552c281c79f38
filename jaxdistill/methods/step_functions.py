"""Losses and rewards of one step that the objectives of the field use: functions of a `Step`."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.methods import divergences, numerics, paper, policy_sums
from jaxdistill.methods.combinators import (
    Owner,
    Params,
    Weight,
    numbered,
    plain,
    product,
    rows,
    rows_of_other,
    sampled,
    top_k,
    top_k_weights,
    total,
)
from jaxdistill.methods.composed import composes
from jaxdistill.methods.divergences import Rows
from jaxdistill.methods.domains import FINITE, FLOOR, POSITIVE, SHARE, Domain, domains_of, reads
from jaxdistill.methods.expressions import (
    PI,
    REFERENCE,
    REWARD,
    SECOND,
    STUDENT,
    Frozen,
    Indicator,
    Number,
    Symbol,
    log,
)
from jaxdistill.methods.formulas import derives, formula_of, states
from jaxdistill.methods.method import Step, StepFn
from jaxdistill.methods.policy_sums import kl

FORWARD_KL, REVERSE_KL = plain(divergences.forward_kl), plain(divergences.reverse_kl)
K1, K2, K3 = plain(divergences.k1), plain(divergences.k2), plain(divergences.k3)
TOP_K_FORWARD_KL = top_k(FORWARD_KL, "teacher", "teacher")
JENSEN_SHANNON = numbered(divergences.jensen_shannon, "beta")
JENSEN_SHANNON_OR_KL = numbered(divergences.jensen_shannon_or_kl, "beta")
NORMALISED_JENSEN_SHANNON = numbered(divergences.normalised_jensen_shannon, "beta")
PROXIMAL = numbered(divergences.jensen_shannon, "alpha")
_ALPHA = Domain(
    divergences.SMALL, 1 - divergences.SMALL, note="At 0 the reward vanishes; 1 is the objective k1_reward."
)


# --- Divergences, exact and sampled -------------------------------------------------------------------------------


@states(total(FORWARD_KL))
def forward_kl(step: Step) -> jax.Array:
    """The forward KL divergence KL(pi||pi_theta) in this state."""
    return total(FORWARD_KL)(step)


@states(total(REVERSE_KL))
def reverse_kl(step: Step) -> jax.Array:
    """The reverse KL divergence KL(pi_theta||pi) in this state."""
    return total(REVERSE_KL)(step)


@states(total(JENSEN_SHANNON))
@reads(**domains_of(JENSEN_SHANNON))
def jensen_shannon(step: Step) -> jax.Array:
    """The Jensen-Shannon divergence JSD_beta in this state, `beta` being the weight of the teacher in the mixture."""
    return total(JENSEN_SHANNON)(step)


@states(total(JENSEN_SHANNON_OR_KL))
@reads(**domains_of(JENSEN_SHANNON_OR_KL))
def jensen_shannon_or_kl(step: Step) -> jax.Array:
    """JSD_beta for beta in (0, 1), the forward KL divergence at beta = 0 and the reverse KL at beta = 1, as in GKD."""
    return total(JENSEN_SHANNON_OR_KL)(step)


@states(total(NORMALISED_JENSEN_SHANNON))
@reads(**domains_of(NORMALISED_JENSEN_SHANNON))
def normalised_jensen_shannon(step: Step) -> jax.Array:
    """JSD_beta / (beta (1 - beta)), whose limits are the forward KL divergence at beta = 0 and the reverse one at 1."""
    return total(NORMALISED_JENSEN_SHANNON)(step)


@states(sampled(K1))
def k1(step: Step) -> jax.Array:
    """The log ratio k1 = log pi_theta(a_t) - log pi(a_t) of the action taken."""
    return sampled(K1)(step)


@states(sampled(K2))
def k2(step: Step) -> jax.Array:
    """Half the squared log ratio of the action taken, k2 = k1^2 / 2."""
    return sampled(K2)(step)


@states(sampled(K3))
def k3(step: Step) -> jax.Array:
    """The non-negative estimate k3 = x - 1 - log x of KL(pi_theta||pi), x = pi(a_t) / pi_theta(a_t)."""
    return sampled(K3)(step)


@states(total(plain(divergences.expected_k2)))
def expected_k2(step: Step) -> jax.Array:
    """The expectation of k2 under the student, E_pi_theta[k2]."""
    return total(plain(divergences.expected_k2))(step)


@states(formula_of(expected_k2) - formula_of(reverse_kl))
def expected_k2_minus_reverse_kl(step: Step) -> jax.Array:
    """The loss E_pi_theta[k2] - KL(pi_theta||pi), whose derivative by pi_theta(a) is k2, up to a constant."""
    return expected_k2(step) - reverse_kl(step)


@states(formula_of(reverse_kl) - formula_of(forward_kl))
def reverse_minus_forward_kl(step: Step) -> jax.Array:
    """The loss KL(pi_theta||pi) - KL(pi||pi_theta), which is unbounded below.

    Near the teacher it is 0 to second order.
    """
    return reverse_kl(step) - forward_kl(step)


@states(total(plain(divergences.negative_entropy)))
def negative_entropy(step: Step) -> jax.Array:
    """The negative entropy of the student, -H(pi_theta)."""
    return total(plain(divergences.negative_entropy))(step)


@states(
    Indicator(-policy_sums.total(PI * log(PI)), ">", Symbol("threshold"))
    * Symbol("weight")
    * formula_of(total(TOP_K_FORWARD_KL))
)
@reads(weight=FINITE, threshold=FINITE, **domains_of(TOP_K_FORWARD_KL))
def entropy_gated_forward_kl(step: Step) -> jax.Array:
    """`weight` KL(pi||pi_theta) over the teacher's top k where H(pi) exceeds `threshold` nats, and 0 elsewhere.

    The teacher's probabilities are renormalised over the top k.
    """
    gate = numerics.entropy(step.teacher_probs) > step.params["threshold"]
    return jnp.where(gate, step.params["weight"] * total(TOP_K_FORWARD_KL)(step), 0)


# --- Further losses and rewards -----------------------------------------------------------------------------------


@states(Number(0))
def nothing(step: Step) -> jax.Array:
    """The loss 0, whose gradient is 0."""
    return jnp.zeros_like(step.student_value)


@states(-policy_sums.taken(log(STUDENT)))
def negative_log_likelihood(step: Step) -> jax.Array:
    """The negative log-likelihood -log pi_theta(a_t) of the action taken."""
    return -step.student_log_prob


@states(formula_of(paper.cross_entropy) + Symbol("entropy") * formula_of(negative_entropy))
@reads(entropy=FINITE)
def imitation_loss(step: Step) -> jax.Array:
    """The cross-entropy minus an entropy bonus, H(pi||pi_theta) - `entropy` H(pi_theta)."""
    return paper.cross_entropy(step) + step.params["entropy"] * negative_entropy(step)


@states(
    REWARD
    + Symbol("kl") * policy_sums.taken(log(PI))
    - (Symbol("kl") + Symbol("entropy")) * policy_sums.taken(log(STUDENT))
)
@reads(kl=FINITE, entropy=FINITE)
def distral_reward(step: Step) -> jax.Array:
    """The reward r_t + `kl` log pi(a_t) - (`kl` + `entropy`) log pi_theta(a_t).

    Distral's 1 / beta is `kl` + `entropy`.
    """
    kl, entropy = step.params["kl"], step.params["entropy"]
    return step.reward + kl * step.teacher_log_prob - (kl + entropy) * step.student_log_prob


@states(policy_sums.taken(log(Symbol("alpha") * (PI / STUDENT) + 1 - Symbol("alpha"))))
@reads(alpha=_ALPHA)
def proximal_reward(step: Step) -> jax.Array:
    """The reward log(alpha pi(a_t) / pi_theta(a_t) + 1 - alpha), which is at least log(1 - alpha)."""
    policies = rows(step)
    log_mixture = divergences.mixture_log_probs(policies, step.params["alpha"])
    return numerics.pick(log_mixture - policies.student_log_probs, step.action)


@states(formula_of(total(PROXIMAL)) / (1 - Symbol("alpha")))
@reads(alpha=_ALPHA)
def proximal_loss(step: Step) -> jax.Array:
    """The loss JSD_alpha / (1 - alpha)."""
    return total(PROXIMAL)(step) / (1 - step.params["alpha"])


@states(policy_sums.taken(PI ** Symbol("power") - STUDENT ** Symbol("power")))
@reads(power=POSITIVE)
def power_reward(step: Step) -> jax.Array:
    """The reward pi(a_t)^power - pi_theta(a_t)^power, in [-1, 1]."""
    policies, power = rows(step), step.params["power"]
    return numerics.pick(policies.teacher_probs**power - jnp.exp(power * policies.student_log_probs), step.action)


@states(policy_sums.taken((PI / STUDENT) ** Symbol("power") - 1) / Symbol("power"))
@reads(power=divergences.ALPHA_POWER)
def power_ratio_reward(step: Step) -> jax.Array:
    """The reward ((pi(a_t) / pi_theta(a_t))^power - 1) / power, which tends to -k1 as power goes to 0."""
    power = step.params["power"]
    return numerics.pick(jnp.expm1(numerics.capped(-power * rows(step).log_ratio)) / power, step.action)


# --- A further policy beside the teacher --------------------------------------------------------------------------


@states(policy_sums.taken(log(STUDENT / REFERENCE) - Symbol("scale") * log(PI / REFERENCE)))
@reads(scale=FINITE, floor=FLOOR)
def extrapolated_k1(step: Step) -> jax.Array:
    """The log ratio log pi_theta(a_t) - log ref(a_t) - `scale` (log pi(a_t) - log ref(a_t)).

    The reference ref is the teacher's first further policy.
    """
    return numerics.pick(_extrapolated_log_ratio(step), step.action)


@states(policy_sums.total(kl(STUDENT, PI ** Symbol("scale") * REFERENCE ** (1 - Symbol("scale")))))
@reads(scale=FINITE, floor=FLOOR)
def extrapolated_reverse_kl(step: Step) -> jax.Array:
    """The divergence KL(pi_theta || pi^scale ref^(1 - scale)), up to a constant.

    The constant is the logarithm of the sum of pi^scale ref^(1 - scale) over the actions.
    """
    return jnp.sum(jnp.exp(step.student_log_probs) * _extrapolated_log_ratio(step))


def _extrapolated_log_ratio(step: Step) -> jax.Array:
    scale, reference = step.params["scale"], rows_of_other(step, 0).teacher_log_probs
    return step.student_log_probs - reference - scale * (step.teacher_log_probs - reference)


@composes
@reads(weight=SHARE, floor=FLOOR)
@derives(lambda fn: Symbol("weight") * fn + (1 - Symbol("weight")) * fn.replaced({PI: SECOND}, "_2"))
def averaged(fn: StepFn) -> StepFn:
    """The mean of fn with the teacher and fn with its first further policy, weighted by `weight` and 1 - `weight`."""

    def mean(step: Step) -> jax.Array:
        weight, other = step.params["weight"], rows_of_other(step, 0)
        with_other = dataclasses.replace(
            step, teacher_probs=other.teacher_probs, teacher_log_probs=other.teacher_log_probs
        )
        return weight * fn(step) + (1 - weight) * fn(with_other)

    return mean


# --- Top-k distillation as implemented ----------------------------------------------------------------------------


@composes
def top_k_advantages(owner: Owner, weight: Weight, normalised: bool = True) -> StepFn:
    """Top-k distillation as implemented: an advantage -w k1 for each of the k actions; for w see `top_k_weights`."""
    return total(product(top_k_weights(owner, weight, normalised), _frozen_k1_times_log_prob))


@composes
def top_k_squares(owner: Owner, weight: Weight, normalised: bool = True) -> StepFn:
    """The sum of w k2 over the k actions, which `top_k_advantages` descends if w does not depend on the student."""
    return total(product(top_k_weights(owner, weight, normalised), K2))


@states(Frozen(log(STUDENT / PI)) * log(STUDENT))
def _frozen_k1_times_log_prob(rows: Rows, params: Params) -> jax.Array:
    """The surrogate of an advantage -k1: k1, not differentiated, times log pi_theta."""
    return (rows.frozen_log_probs - rows.teacher_log_probs) * rows.student_log_probs
