"""Distillation losses of one step: pure functions over one row of logits or probabilities, in nats.

Every function takes rows [A] and returns a scalar; callers vmap. The student enters as logits, the teacher as
probabilities or as (floored) log-probabilities. Reductions over steps and the choice of what is differentiated
belong to the method, not to the loss. H(p||q) = -sum_a p(a) log q(a), "Notation" of the paper.
"""

import jax
import jax.numpy as jnp

from jaxdistill.methods import numerics


def cross_entropy(*, teacher_probs: jax.Array, student_logits: jax.Array) -> jax.Array:
    """H(pi || pi_theta) (Table 1, teacher, on-policy and N-distill); its gradient is that of KL(pi || pi_theta)."""
    return numerics.cross_entropy(p=teacher_probs, log_q=jax.nn.log_softmax(student_logits))


def reverse_cross_entropy(*, student_logits: jax.Array, teacher_log_probs: jax.Array) -> jax.Array:
    """H(pi_theta || pi) (Table 1, expected entropy regularised); its minimum is a Dirac, App. C."""
    return -jnp.sum(jax.nn.softmax(student_logits) * teacher_log_probs)


def forward_kl(*, teacher_probs: jax.Array, student_logits: jax.Array) -> jax.Array:
    """KL(pi || pi_theta) >= 0, mean seeking (App. C, Fig. 12)."""
    return numerics.kl_divergence(p=teacher_probs, log_q=jax.nn.log_softmax(student_logits))


def reverse_kl(*, student_logits: jax.Array, teacher_log_probs: jax.Array) -> jax.Array:
    """KL(pi_theta || pi) >= 0 where the teacher's rows are normalised, mode seeking (App. C, Fig. 12)."""
    log_probs = jax.nn.log_softmax(student_logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - teacher_log_probs))
