"""A step with four actions, whose losses and rewards can be computed by hand."""

import jax.numpy as jnp
import numpy as np

from jaxdistill import Step

PI, P = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
"""The probabilities of the teacher and of the student."""


def example_step(action=0, **params):
    """The step in which `action` is taken; all values and rewards are 0."""
    logits, zero = jnp.log(jnp.float32(P)) + 1, jnp.float32(0)
    return Step(
        student_logits=logits, frozen_logits=logits, student_value=zero, teacher_probs=jnp.float32(PI),
        teacher_log_probs=jnp.log(jnp.float32(PI)), teacher_value=zero, next_teacher_value=zero,
        action=jnp.int32(action), reward=zero, discount=zero,
        params={name: jnp.float32(x) for name, x in params.items()}, other_probs=jnp.zeros((0, 4)),
    )  # fmt: skip


def kl(p, q):
    """KL(p||q) of two rows of positive probabilities."""
    return np.sum(p * np.log(np.asarray(p) / q))
