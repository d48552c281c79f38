"""One row of student and teacher: the exact update of a method in a world of one state, and where its flow rests."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import Method, Step
from jaxdistill.methods import UpdateOptions, loss_gradient, make_step, score
from jaxdistill.runtime.products import matmul
from jaxdistill.theory.precision import float64

TOLERANCE = 1e-10  # a flow is at rest if no entry of the update is larger
STEP = 0.03  # length of an Euler step, in iterations of learning rate 1
NEWTON_STEPS, FARTHEST = 500, 0.25  # limits of the implicit steps: their number, and how far one moves a logit


def update(method: Method, k: Any, teacher_row: jax.Array, logits: jax.Array) -> jax.Array:
    """The exact expected update [A] of a method in a world of one state, whose episodes have one step.

    It is the mean over the actions, equal to `expected_update` without the linear algebra that many states need.
    """

    def step_with(action: jax.Array) -> Step:
        return make_step(
            logits, teacher_row, action=action, probability_floor=UpdateOptions.probability_floor, params={"k": k}
        )

    total = jnp.zeros_like(logits)
    if method.loss is not None:
        total -= loss_gradient(method.loss, step_with(jnp.int32(0)))  # a sum over actions, equal for all taken
    if method.reward is not None:
        reward = method.reward
        directions = jax.vmap(lambda action: reward(step_with(action)) * score(step_with(action)))
        total += matmul(jax.nn.softmax(logits), directions(jnp.arange(logits.shape[-1], dtype=jnp.int32)))
    return total


def rest(method: Method, ks: list[int], probs: Any, logits: Any, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the flow of the expected update comes to rest in a world of one state, for every k and row.

    The flow is followed in short Euler steps first, because the student's k most probable actions change on the way.
    Linearly implicit steps follow, which grow as the update vanishes and so become Newton's method.

    Args:
      method: a method that reads `params["k"]` and whose loss is a sum over actions.
      ks: K numbers of actions.
      probs, logits: teacher rows and the student's logits at the start, [N, A] each.
      num_steps: the number of Euler steps.

    Returns:
      The student's probabilities [K, N, A] and the largest entry of the update at rest [K, N], float64.
    """
    with float64():
        return jax.device_get(_rest(method, num_steps, *map(np.asarray, (np.array(ks, float), probs, logits))))


@functools.partial(jax.jit, static_argnums=0)
def _rest(method: Method, num_steps: Any, ks: Any, probs: Any, logits: Any) -> Any:
    def rest_of_row(k: jax.Array, teacher_row: jax.Array, start: jax.Array) -> Any:
        velocity = functools.partial(update, method, k, teacher_row)

        def moving(state: Any) -> jax.Array:
            _, v, steps = state
            return (steps < NEWTON_STEPS) & (jnp.max(jnp.abs(v)) > TOLERANCE)

        def move(state: Any) -> Any:
            x, v, steps = state
            slopes = jax.jacfwd(velocity)(x)
            growth = jnp.max(jnp.linalg.eigvals(slopes).real)  # of disturbances; a longer step would return to a saddle
            inverse_length = jnp.maximum(jnp.linalg.norm(v) / first_speed + 1e-12, 2 * growth)
            change = jnp.linalg.solve(inverse_length * jnp.eye(len(x), dtype=x.dtype) - slopes, v)
            x = x + change * jnp.minimum(1, FARTHEST / jnp.max(jnp.abs(change)))
            return x, velocity(x), steps + 1

        first_speed = jnp.maximum(jnp.linalg.norm(velocity(start)), TOLERANCE)
        x = jax.lax.fori_loop(0, num_steps, lambda _, x: x + STEP * velocity(x), start)
        x, v, _ = jax.lax.while_loop(moving, move, (x, velocity(x), 0))
        return jax.nn.softmax(x), jnp.max(jnp.abs(v))

    return jax.vmap(jax.vmap(rest_of_row, (None, 0, 0)), (0, None, None))(ks, probs, logits)
