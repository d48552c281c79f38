"""Distillation losses of one step: functions of one row of the student's logits and one row of the teacher, in nats.

Every function takes rows [A] and returns a scalar; callers vmap. The student is given by logits, the teacher by
probabilities or by (floored) log-probabilities. The sum over steps, and what is differentiated, are choices of the
method and not of the loss. H(p||q) = -sum_a p(a) log q(a), as in "Notation" of the paper.
"""

import jax
import jax.numpy as jnp

from jaxdistill.methods import numerics


def cross_entropy(*, teacher_probs: jax.Array, student_logits: jax.Array) -> jax.Array:
    """The cross-entropy H(pi || pi_theta), whose gradient is that of KL(pi || pi_theta).

    It is the loss of teacher distillation, on-policy distillation and N-distill in Table 1.
    """
    return numerics.cross_entropy(p=teacher_probs, log_q=jax.nn.log_softmax(student_logits))


def reverse_cross_entropy(*, student_logits: jax.Array, teacher_log_probs: jax.Array) -> jax.Array:
    """The cross-entropy H(pi_theta || pi), whose minimum is a Dirac (App. C).

    It is the loss of expected entropy regularised distillation in Table 1.
    """
    return -jnp.sum(jax.nn.softmax(student_logits) * teacher_log_probs)


def forward_kl(*, teacher_probs: jax.Array, student_logits: jax.Array) -> jax.Array:
    """The forward KL divergence KL(pi || pi_theta) >= 0, which is mean seeking (App. C, Fig. 12)."""
    return cross_entropy(teacher_probs=teacher_probs, student_logits=student_logits) - numerics.entropy(teacher_probs)


def reverse_kl(*, student_logits: jax.Array, teacher_log_probs: jax.Array) -> jax.Array:
    """The reverse KL divergence KL(pi_theta || pi), which is mode seeking (App. C, Fig. 12).

    It is >= 0 where the teacher's probabilities sum to 1, which floored ones do not.
    """
    log_probs = jax.nn.log_softmax(student_logits)
    return jnp.sum(numerics.kl_terms(p=jnp.exp(log_probs), log_p=log_probs, log_q=teacher_log_probs))
