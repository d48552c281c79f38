"""The exact mean and variance of the update that one episode gives, from the same `Method` that the engine samples.

An update is a sum over the steps of an episode of products (score times return), so its second moment is linear
algebra on the chain of states, as its mean is in `theory`: backwards in time, the joint moments up to order two of X,
what a step hands back to the return of the step before it, and of B, the part of the update that is made from this step
on. The factor 1/T^2 of the mean over steps is an integral again, 1/T^2 = int_0^1 -log(z) z^(T-1) dz.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import Method
from jaxdistill.theory import exact_update
from jaxdistill.theory.elimination import resolve


class Moments(NamedTuple):
    """Of the update of the logits that one episode gives, per unit of learning rate.

    Attributes:
      mean: [O, A], as `expected_update(...).logits`.
      variance: [O, A], of each entry.
      num_steps: [], mean length of the episodes that it takes.
    """

    mean: jax.Array
    variance: jax.Array
    num_steps: jax.Array


def update_moments(
    mdp: MDP,
    teacher: Teacher,
    method: str | Method,
    logits: jax.Array,
    values: jax.Array | None = None,
    *,
    estimator: Literal["mc", "td"] = "td",
    reduction: Literal["mean", "sum"] = "mean",
    discount: float = 0.99,
    probability_floor: float = 0.01,
    loss_weight: float = 1.0,
    return_weight: float = 1.0,
    num_nodes: int = 64,
) -> Moments:
    """Mean and variance of the update of the logits by one episode, exactly; of one MDP, may be traced.

    Arguments, limits and errors are those of `expected_update`. In float32 a variance is good to some 1e-6 of the
    second moment: use `precision.float64`, or `assess`.
    """
    method = methods.get(method)
    values = jnp.zeros(logits.shape[:1], logits.dtype) if values is None else jnp.asarray(values, logits.dtype)
    reduction = method.reduction or reduction
    exact_update._check(mdp, teacher, logits, values, reduction, estimator, num_nodes)
    discount = discount if method.discount is None else method.discount
    numbers = (discount, probability_floor, loss_weight, return_weight)
    nodes, firsts, seconds = _nodes(reduction, num_nodes)
    static = (method, (method.estimator or estimator) == "mc")
    first, second, num_steps = (jnp.zeros((), logits.dtype) for _ in range(3))
    for weight, q in exact_update._components(method, mdp, teacher, logits):
        at = functools.partial(_raw_moments, static, mdp, teacher, logits, values, numbers, q)
        means, squares = jax.lax.map(at, jnp.asarray(nodes, logits.dtype))
        first += weight * jnp.tensordot(jnp.asarray(firsts, logits.dtype), means, 1)
        second += weight * jnp.tensordot(jnp.asarray(seconds, logits.dtype), squares, 1)
        num_steps += weight * _mean_length(mdp, q)
    return Moments(first, jnp.maximum(second - first**2, 0), num_steps)


def _nodes(reduction: str, num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, and the weights of the integrals for 1/T and 1/T^2; the sum over steps is the node z = 1."""
    if reduction == "sum":
        return np.ones(1), np.ones(1), np.ones(1)
    x, weights = np.polynomial.legendre.leggauss(num_nodes)
    # -log(z) by its expansion in shifted Legendre polynomials, 1 + sum_k (2k + 1) (-1)^k / (k (k + 1)) P_k(2z - 1).
    k = np.arange(1, num_nodes)
    coefficients = np.concatenate([[1.0], (2 * k + 1) * (-1.0) ** k / (k * (k + 1))])
    log_factor = np.polynomial.legendre.legval(x, coefficients)
    return (x + 1) / 2, weights / 2, weights / 2 * log_factor


def _mean_length(mdp: MDP, q: jax.Array) -> jax.Array:
    onward = jnp.where(mdp.terminal, 0, jnp.asarray(mdp.continue_prob, q.dtype))
    outcomes = jnp.broadcast_to(jnp.asarray(mdp.outcome_probs, q.dtype), (*q.shape, mdp.num_outcomes))
    transition = jnp.einsum("sa,sak,sk,skn->sn", q, outcomes, onward, _hot(mdp, q.dtype))
    lengths = resolve(transition, jnp.ones(mdp.num_states, q.dtype))
    return jnp.sum(_start(mdp, q.dtype) * lengths)


def _hot(mdp: MDP, dtype: Any) -> jax.Array:
    return jax.nn.one_hot(mdp.successor, mdp.num_states, dtype=dtype)  # [S, K, S']


def _start(mdp: MDP, dtype: Any) -> jax.Array:
    return jnp.zeros(mdp.num_states, dtype).at[mdp.start].add(jnp.asarray(mdp.start_probs, dtype))


class _Chances(NamedTuple):
    """The chain of states under q, every transition with a factor z."""

    on: jax.Array  # [S, A, K], P(branch goes on | s) z
    matrix: jax.Array  # [S, S'], the sum of these by successor
    weight: jax.Array  # [S, A, K, E], E[1(branch) z^(steps still to come) | s]


def _chances(mdp, branches, q, z) -> _Chances:
    taken = q[:, :, None, None] * branches.probs
    on = z * taken[..., 0]
    matrix = jnp.einsum("sak,skn->sn", on, _hot(mdp, q.dtype))
    to_come = resolve(matrix, jnp.sum(taken[..., 1], axis=(1, 2)))
    ends = jnp.ones(mdp.successor.shape, q.dtype)
    weight = taken * jnp.stack([z * to_come[mdp.successor], ends], axis=-1)[:, None]
    return _Chances(on, matrix, weight)


def _raw_moments(static, mdp, teacher, logits, values, numbers, q, z):
    """E[z^(T-1) G] and E[z^(T-1) G^2], [O, A] each, of the sum G over steps.

    X_t = n_t + discount * (return or bootstrap from t) with n the `next_reward`, Rhat_t = reward_t + X_{t+1}, and
    B_t = u_t + B_{t+1}, with u_t = score * (Rhat_t - V_theta(t)) - grad l_t. So X_t = xi + slope * X_{t+1} and
    u_t = alpha + beta * X_{t+1}, where the branch that is taken decides xi, alpha and beta.
    """
    method, monte_carlo = static
    discount, floor, loss_weight, return_weight = (jnp.asarray(x, logits.dtype) for x in numbers)
    step_of = functools.partial(exact_update._step, mdp, teacher, logits, values, discount, floor, method)
    branches = exact_update._branches(mdp, method, step_of, values)
    chances = _chances(mdp, branches, q, z)
    xi = _handed_back(mdp, teacher, method, step_of, branches, values, discount, monte_carlo)
    slope = discount if monte_carlo else jnp.zeros_like(discount)
    factor = return_weight if method.has_return else jnp.zeros_like(return_weight)
    probs = jax.nn.softmax(logits)[mdp.observation]
    beta = factor * (jnp.eye(mdp.num_actions, dtype=q.dtype) - probs[:, None])  # [S, A, B]
    baseline = values[mdp.observation][:, None, None, None] if method.baseline else 0
    alpha = (branches.reward - baseline)[..., None] * beta[:, :, None, None] - loss_weight * branches.loss_gradient
    first, second = _backwards(mdp, logits.shape, chances, xi, slope, alpha, beta)
    start = _start(mdp, q.dtype)
    return jnp.tensordot(start, first, 1), jnp.tensordot(start, second, 1)


def _handed_back(mdp, teacher, method, step_of, branches, values, discount, monte_carlo):
    """xi [S, A, K, E]: what a step adds to the return of the step before it, but for its own X_{t+1}."""
    dtype = values.dtype

    def chosen(s, a):
        zero = jnp.zeros((), dtype)
        step = dataclasses.replace(step_of(s, a, 0, 0.0), reward=zero, next_teacher_value=zero)
        return jnp.asarray(method.next_reward(step) if method.next_reward else 0, dtype)

    states, actions = jnp.arange(mdp.num_states, dtype=jnp.int32), jnp.arange(mdp.num_actions, dtype=jnp.int32)
    xi = jax.vmap(jax.vmap(chosen, (None, 0)), (0, None))(states, actions)[:, :, None, None]
    if monte_carlo:
        return xi + discount * branches.reward
    bootstrap = {
        "student": values[mdp.observation],
        "teacher": jnp.asarray(teacher.values, dtype),
        "zero": jnp.zeros(mdp.num_states, dtype),
    }[method.bootstrap]
    return jnp.broadcast_to(xi + discount * bootstrap[:, None, None, None], branches.reward.shape)


def _backwards(mdp, shape, chances, xi, slope, alpha, beta):
    """E[B | s] and E[B^2 | s], [S, O, A] each; by way of E[X | s], E[X^2 | s] and E[X B | s]."""
    on, matrix, weight = chances
    states, row, following = jnp.arange(mdp.num_states), mdp.observation, mdp.successor
    xi_on, alpha_on = xi[..., 0], alpha[..., 0, :]  # of branches that go on

    def solve(factor, source):
        return resolve(factor * matrix, source.reshape(len(source), -1)).reshape(source.shape)

    def by_row(local):
        """[S, B] into [S, O, B]: a step touches the row of its own state alone."""
        return jnp.zeros((len(local), *shape), local.dtype).at[states, row].add(local)

    x = solve(slope, jnp.sum(weight * xi, (1, 2, 3)))
    on_x = on * x[following][:, None]
    square = jnp.sum(weight * xi**2, (1, 2, 3)) + 2 * slope * jnp.sum(on_x * xi_on, (1, 2))
    on_x2 = on * solve(slope**2, square)[following][:, None]

    local = jnp.einsum("sake,sakeb->sb", weight, alpha) + jnp.einsum("sak,sab->sb", on_x, beta)
    b = solve(1, by_row(local))

    local = jnp.einsum("sake,sakeb->sb", weight * xi, alpha) + slope * jnp.einsum("sak,sakb->sb", on_x, alpha_on)
    local += jnp.einsum("sak,sab->sb", on_x * xi_on + slope * on_x2, beta)
    carried = jnp.einsum("sak,skn->sn", on * xi_on, _hot(mdp, on.dtype))
    xb = solve(slope, by_row(local) + jnp.einsum("sn,nob->sob", carried, b))

    b_next, xb_next = b[following, row[:, None]], xb[following, row[:, None]]  # [S, K, B], own row
    local = jnp.einsum("sake,sakeb->sb", weight, alpha**2) + jnp.einsum("sak,sab->sb", on_x2, beta**2)
    local += 2 * jnp.einsum("sak,sakb,sab->sb", on_x, alpha_on, beta)
    local += 2 * jnp.einsum("sak,sakb,skb->sb", on, alpha_on, b_next)
    local += 2 * jnp.einsum("sak,sab,skb->sb", on, beta, xb_next)
    return b, solve(1, by_row(local))
