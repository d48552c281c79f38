"""The exact mean and variance of the update that one episode gives, from the same `Method` that the engine samples.

An update is a sum over the steps of an episode of products (score times return). So its second moment is linear algebra
on the chain of states, as its mean is in `exact_update`. The recursion runs backward in time over the joint moments up
to order two of two quantities: X, the part of the previous step's return that comes from this step on, and B, the part
of the update that comes from this step on. For the mean over steps, the factor 1/T^2 is again an integral:
1/T^2 = int_0^1 -log(z) z^(T-1) dz.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, Teacher
from jaxdistill.methods import Method
from jaxdistill.runtime.products import einsum, tensordot
from jaxdistill.theory.chains import Chain
from jaxdistill.theory.exact_update import Branches, Problem, make_problem


class Moments(NamedTuple):
    """Mean and variance of the update of the logits by one episode, per unit of learning rate.

    Attributes:
      mean: [O, A], equal to `expected_update(...).logits`.
      variance: [O, A], of each entry.
      num_steps: [], the mean length of the episodes, which is the cost of an update.
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
    """The exact mean and variance of the update of the logits by one episode, for a single MDP; may be traced.

    Arguments, limits and errors are those of `expected_update`. In float32 the error of a variance is about 1e-6 of the
    second moment. For a smaller error use `precision.float64`, or `variance.assess`.
    """
    return solve_moments(make_problem(mdp, teacher, method, logits, values, options))


def solve_moments(problem: Problem) -> Moments:
    """The moments of a problem whose parts have been checked."""
    if "once" in (problem.options.loss_visits, problem.options.return_visits):
        raise ValueError(
            "The variance of an update is computed for visits that count every time; set loss_visits and return_visits "
            "to 'every'."
        )
    branches, dtype = problem.branches(), problem.dtype
    nodes, mean_weights, square_weights = _nodes(problem.options.reduction, problem.options.num_nodes)
    mean, square, num_steps = (jnp.zeros((), dtype) for _ in range(3))
    for weight, control in problem.components():
        moments_at_node = functools.partial(_raw_moments, problem, branches, control)
        means, squares = jax.lax.map(moments_at_node, jnp.asarray(nodes, dtype))
        mean += weight * tensordot(jnp.asarray(mean_weights, dtype), means, 1)
        square += weight * tensordot(jnp.asarray(square_weights, dtype), squares, 1)
        num_steps += weight * _mean_length(problem, branches, control)
    if problem.options.reduction == "fixed":
        mean, square = mean / problem.options.fixed_length, square / problem.options.fixed_length**2
    return Moments(mean, jnp.maximum(square - mean**2, 0), num_steps)


def _nodes(reduction: str, num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z, their weights in the integral for 1/T and those for 1/T^2; the sum over steps is the node z = 1."""
    if reduction != "mean":
        return np.ones(1), np.ones(1), np.ones(1)
    x, weights = np.polynomial.legendre.leggauss(num_nodes)
    # -log(z) by its expansion in shifted Legendre polynomials, 1 + sum_k (2k + 1) (-1)^k / (k (k + 1)) P_k(2z - 1).
    k = np.arange(1, num_nodes)
    coefficients = np.concatenate([[1.0], (2 * k + 1) * (-1.0) ** k / (k * (k + 1))])
    log_factor = np.polynomial.legendre.legval(x, coefficients)
    return (x + 1) / 2, weights / 2, weights / 2 * log_factor


def _mean_length(problem: Problem, branches: Branches, control: jax.Array) -> jax.Array:
    """The mean number of steps of an episode under a control policy, []."""
    chain = problem.chain(branches, control, jnp.ones((), problem.dtype))
    return jnp.sum(chain.start * chain.transitions.sum_ahead(jnp.sum(chain.taken, (1, 2, 3))))


def _raw_moments(problem: Problem, branches: Branches, control: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E[z^(T-1) G] and E[z^(T-1) G^2], [O, A] each, of the sum G over the steps of an episode.

    X_t is the part of Rhat_{t-1} that comes from step t on, so Rhat_t = reward_t + X_{t+1}. B_t is the part of G that
    comes from step t on: B_t = u_t + B_{t+1}, where u_t = score * (Rhat_t - V_theta(t)) - grad l_t. Hence
    X_t = xi + slope * X_{t+1} and u_t = alpha + beta * X_{t+1}, where xi, alpha and beta depend on the branch.
    """
    mdp, method, options = problem.mdp, problem.method, problem.options
    chain = problem.chain(branches, control, z)
    xi, slope = problem.previous_return(branches)
    factor = options.return_weight if method.has_return else jnp.zeros_like(options.return_weight)
    beta = factor * problem.scores()
    baseline = problem.state_values[:, None, None, None] if method.baseline else 0
    advantage = (branches.reward - baseline)[..., None] * beta[:, :, None, None]
    alpha = advantage - options.loss_weight * branches.loss_gradient
    at_cut = problem.returns_at_cut()
    x_at_cut = jnp.sum(control * at_cut, 1), jnp.sum(control * at_cut**2, 1)
    first, second = _backward(mdp, problem.logits.shape, chain, xi, slope, alpha, beta, x_at_cut, problem.shares)
    return tensordot(chain.start, first, 1), tensordot(chain.start, second, 1)


def _backward(
    mdp: MDP,
    shape: tuple[int, ...],
    chain: Chain,
    xi: jax.Array,
    slope: jax.Array | float,
    alpha: jax.Array,
    beta: jax.Array,
    x_at_cut: tuple[jax.Array, jax.Array],
    shares: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """E[B | s] and E[B^2 | s], [S, O, A] each; they need E[X | s], E[X^2 | s] and E[X B | s], which come first.

    `shape` is [O, A], and `x_at_cut` is E[X | s] and E[X^2 | s] where the episode is cut in s, [S] each. `shares` is
    [S, F], as in `Problem`. All other arguments are as in `_raw_moments`.
    """
    onward, weight = chain.onward, chain.weight
    # Padding has the share 0, so that it adds nothing to the row 0, in whose place it stands.
    states, rows, successor = jnp.arange(mdp.num_states)[:, None], jnp.maximum(mdp.features, 0), mdp.successor
    xi_on, alpha_on = xi[..., 0], alpha[..., 0, :]  # of the branches in which the episode goes on

    def by_row(local: jax.Array) -> jax.Array:
        """[S, F, A] as [S, O, A]: a step changes only the rows of its own state."""
        return jnp.zeros((len(local), *shape), local.dtype).at[states, rows].add(local)

    def shared(local: jax.Array) -> jax.Array:
        """What each row gets, [S, F, A], of [S, A]."""
        return shares[..., None] * local[:, None]

    sum_ahead = chain.transitions.sum_ahead
    x = sum_ahead(jnp.sum(weight * xi, (1, 2, 3)) + x_at_cut[0], slope)
    next_x = onward * x[successor][:, None]
    square = jnp.sum(weight * xi**2, (1, 2, 3)) + 2 * slope * jnp.sum(next_x * xi_on, (1, 2))
    next_x2 = onward * sum_ahead(square + x_at_cut[1], slope * slope)[successor][:, None]

    local = einsum("sake,sakeb->sb", weight, alpha) + einsum("sak,sab->sb", next_x, beta)
    b = sum_ahead(by_row(shared(local)))

    local = einsum("sake,sakeb->sb", weight * xi, alpha) + slope * einsum("sak,sakb->sb", next_x, alpha_on)
    local += einsum("sak,sab->sb", next_x * xi_on + slope * next_x2, beta)
    carried = einsum("sk,skob->sob", jnp.sum(onward * xi_on, 1), b[successor])
    xb = sum_ahead(by_row(shared(local)) + carried, slope)

    local = einsum("sake,sakeb->sb", weight, alpha**2) + einsum("sak,sab->sb", next_x2, beta**2)
    local += 2 * einsum("sak,sakb,sab->sb", next_x, alpha_on, beta)
    # Of the later updates, those of each row of s, [S, K, F, A].
    next_b, next_xb = (x[successor[:, :, None], rows[:, None]] for x in (b, xb))
    later = einsum("sak,sakb,skfb->sfb", onward, alpha_on, next_b) + einsum("sak,sab,skfb->sfb", onward, beta, next_xb)
    return b, sum_ahead(by_row(shares[..., None] * (shared(local) + 2 * later)))
