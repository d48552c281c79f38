"""The exact mean and variance of the update that one episode gives, from the same `Method` that the engine samples.

An update is a sum over the steps of an episode of products (score times return), so its second moment is linear
algebra on the chain of states, as its mean is in `theory`: backwards in time, the joint moments up to order two of X,
what a step hands back to the return of the step before it, and of B, the part of the update that is made from this step
on. The factor 1/T^2 of the mean over steps is an integral again, 1/T^2 = int_0^1 -log(z) z^(T-1) dz.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, Teacher
from jaxdistill.methods import Method
from jaxdistill.theory.elimination import resolve
from jaxdistill.theory.exact_update import Branches, Problem, make_problem, solve_backward


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
    **options: Any,
) -> Moments:
    """Mean and variance of the update of the logits by one episode, exactly; of one MDP, may be traced.

    Arguments, limits and errors are those of `expected_update`. In float32 a variance is good to some 1e-6 of the
    second moment: use `precision.float64`, or `assess`.
    """
    problem = make_problem(mdp, teacher, method, logits, values, options)
    branches, dtype = problem.branches(), problem.dtype
    nodes, firsts, seconds = _nodes(problem.options.reduction, problem.options.num_nodes)
    first, second, num_steps = (jnp.zeros((), dtype) for _ in range(3))
    for weight, control in problem.components():
        at_node = functools.partial(_raw_moments, problem, branches, control)
        means, squares = jax.lax.map(at_node, jnp.asarray(nodes, dtype))
        first += weight * jnp.tensordot(jnp.asarray(firsts, dtype), means, 1)
        second += weight * jnp.tensordot(jnp.asarray(seconds, dtype), squares, 1)
        num_steps += weight * _mean_length(problem, branches, control)
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


def _mean_length(problem: Problem, branches: Branches, control: jax.Array) -> jax.Array:
    chain = problem.chain(branches, control, jnp.ones((), problem.dtype))
    return jnp.sum(chain.start * resolve(chain.transition, jnp.ones_like(chain.start)))


def _raw_moments(problem: Problem, branches: Branches, control: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E[z^(T-1) G] and E[z^(T-1) G^2], [O, A] each, of the sum G over steps.

    With X_t what step t hands back to the return of the step before it, Rhat_t = reward_t + X_{t+1} and
    B_t = u_t + B_{t+1}, where u_t = score * (Rhat_t - V_theta(t)) - grad l_t. So X_t = xi + slope * X_{t+1} and
    u_t = alpha + beta * X_{t+1}; the branch that is taken decides xi, alpha and beta.
    """
    mdp, method, options = problem.mdp, problem.method, problem.options
    chain = problem.chain(branches, control, z)
    xi, slope = problem.handed_back(branches)
    factor = options.return_weight if method.has_return else jnp.zeros_like(options.return_weight)
    beta = factor * problem.scores()
    baseline = problem.values[mdp.observation][:, None, None, None] if method.baseline else 0
    advantage = (branches.reward - baseline)[..., None] * beta[:, :, None, None]
    alpha = advantage - options.loss_weight * branches.loss_gradient
    first, second = _backwards(mdp, problem.logits.shape, chain, xi, slope, alpha, beta)
    return jnp.tensordot(chain.start, first, 1), jnp.tensordot(chain.start, second, 1)


def _backwards(mdp, shape, chain, xi, slope, alpha, beta):
    """E[B | s] and E[B^2 | s], [S, O, A] each; by way of E[X | s], E[X^2 | s] and E[X B | s]."""
    on, weight = chain.onward, chain.weight
    states, row, following = jnp.arange(mdp.num_states), mdp.observation, mdp.successor
    xi_on, alpha_on = xi[..., 0], alpha[..., 0, :]  # of branches that go on

    def by_row(local):
        """[S, B] into [S, O, B]: a step touches the row of its own state alone."""
        return jnp.zeros((len(local), *shape), local.dtype).at[states, row].add(local)

    x = solve_backward(chain, slope, jnp.sum(weight * xi, (1, 2, 3)))
    on_x = on * x[following][:, None]
    square = jnp.sum(weight * xi**2, (1, 2, 3)) + 2 * slope * jnp.sum(on_x * xi_on, (1, 2))
    on_x2 = on * solve_backward(chain, slope * slope, square)[following][:, None]

    local = jnp.einsum("sake,sakeb->sb", weight, alpha) + jnp.einsum("sak,sab->sb", on_x, beta)
    b = solve_backward(chain, 1.0, by_row(local))

    local = jnp.einsum("sake,sakeb->sb", weight * xi, alpha) + slope * jnp.einsum("sak,sakb->sb", on_x, alpha_on)
    local += jnp.einsum("sak,sab->sb", on_x * xi_on + slope * on_x2, beta)
    carried = jnp.einsum("sak,skn->sn", on * xi_on, jax.nn.one_hot(following, mdp.num_states, dtype=on.dtype))
    xb = solve_backward(chain, slope, by_row(local) + jnp.einsum("sn,nob->sob", carried, b))

    b_next, xb_next = b[following, row[:, None]], xb[following, row[:, None]]  # [S, K, B], the row of s
    local = jnp.einsum("sake,sakeb->sb", weight, alpha**2) + jnp.einsum("sak,sab->sb", on_x2, beta**2)
    local += 2 * jnp.einsum("sak,sakb,sab->sb", on_x, alpha_on, beta)
    local += 2 * jnp.einsum("sak,sakb,skb->sb", on, alpha_on, b_next)
    local += 2 * jnp.einsum("sak,sab,skb->sb", on, beta, xb_next)
    return b, solve_backward(chain, 1.0, by_row(local))
