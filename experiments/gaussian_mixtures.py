"""Mixtures of Gaussians in one dimension: densities, KL by quadrature, fits in both directions (App. C, Figs. 12, 13).

KL(p||q) is integrated over the components of p, each on the same nodes in units of its own scale. A fixed grid would
miss the mass of a fit that moves outside it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.runtime import checks, streams
from jaxdistill.runtime.products import matmul
from jaxdistill.runtime.surroundings import default_promotion

DIRECTIONS = {"forward": "KL(p||q), mean seeking", "reverse": "KL(q||p), mode seeking"}
PARAMETERS = ("means", "scales", "weights")
_REACH = 7  # standard deviations covered by nodes on each side; 3e-12 of the mass lies beyond
_NODES_PER_SCALE = 64  # enough for a wide Gaussian over ten times narrower ones, whose log density has sharp bends


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians on the line, as `mixture` makes it; leading axes stack mixtures.

    Attributes:
      means: [..., K].
      scales: [..., K], standard deviations, > 0.
      weights: [..., K], > 0, sum to 1.
    """

    means: jax.Array
    scales: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Fits:
    """Fits of a mixture from several starts; the components of a fit are sorted by their means.

    Attributes:
      best: the fit of the lowest KL, K components.
      kl: [], its KL, nats.
      all: the fits from all R starts, [R, K].
      kls: [R], their KL, nats.
    """

    best: Mixture
    kl: jax.Array
    all: Mixture
    kls: jax.Array

    def num_reached(self, tolerance: float = 1e-3) -> int:
        """The number of starts that ended within `tolerance` nats of the best; the others ended in local minima."""
        return int(np.sum(np.asarray(self.kls) <= float(self.kl) + tolerance))


def mixture(means: Any, scales: Any = 1.0, weights: Any = None) -> Mixture:
    """Makes one mixture from means [K], scales [K] or one scale for all, and weights [K].

    Weights are divided by their sum, and equal by default.

    Raises:
      ValueError: if the lengths differ, or a scale or weight is not positive, or a number is not finite.
    """
    means = np.atleast_1d(checks.numbers("means", means))
    scales = checks.numbers("scales", scales)
    weights = np.ones(means.shape) if weights is None else checks.numbers("weights", weights)
    if means.ndim != 1 or not means.size or weights.shape != means.shape or scales.shape not in ((), means.shape):
        raise ValueError(
            f"A mixture needs means [K], weights [K] and scales [K] or one scale; got shapes {means.shape}, "
            f"{weights.shape} and {scales.shape}."
        )
    for name, numbers in (("means", means), ("scales", scales), ("weights", weights)):
        if not np.isfinite(numbers).all() or (name != "means" and numbers.min() <= 0):
            raise ValueError(
                f"A mixture's {name} must be finite{' and positive' * (name != 'means')}; got {checks.shown(numbers)}."
            )
    arrays = (means, np.broadcast_to(scales, means.shape), weights / weights.sum())
    return Mixture(*(jnp.asarray(array, float) for array in arrays))


@jax.jit
def log_density(of: Mixture, x: jax.Array) -> jax.Array:
    """The log density of one mixture at the points x [...], nats; it has the shape of x."""
    of = jax.tree.map(lambda parameter: jnp.expand_dims(parameter, range(x.ndim)), of)  # [..., K]
    components = jax.scipy.stats.norm.logpdf(x[..., None], of.means, of.scales)
    return jax.nn.logsumexp(components + jnp.log(of.weights), axis=-1)


@functools.partial(jax.jit, static_argnames="nodes_per_scale")
def kl_divergence(*, p: Mixture, q: Mixture, nodes_per_scale: int = _NODES_PER_SCALE) -> jax.Array:
    """KL(p||q) >= 0 of two mixtures, [], nats, differentiable in both.

    It is a trapezoidal sum over each component of p, within 7 standard deviations, with `nodes_per_scale` nodes in
    each of these.
    """
    z = np.linspace(-_REACH, _REACH, 2 * _REACH * nodes_per_scale + 1)
    probs = np.exp(-(z**2) / 2)
    probs /= probs.sum()  # so that a constant is integrated exactly
    x = p.means[:, None] + p.scales[:, None] * jnp.asarray(z, p.means.dtype)[None]
    ratio = log_density(p, x) - log_density(q, x)
    return matmul(p.weights, matmul(ratio, jnp.asarray(probs, x.dtype)))


def divergence(direction: str, target: Mixture, fit: Mixture, nodes_per_scale: int = _NODES_PER_SCALE) -> jax.Array:
    """KL(target||fit) ("forward") or KL(fit||target) ("reverse"), [], nats; raises ValueError for another direction."""
    _check_direction(direction)
    p, q = (target, fit) if direction == "forward" else (fit, target)
    return kl_divergence(p=p, q=q, nodes_per_scale=nodes_per_scale)


def fit(
    key: jax.Array,
    target: Mixture,
    num_components: int,
    direction: str,
    *,
    free: tuple[str, ...] = PARAMETERS,
    scale: float | None = None,
    num_restarts: int = 32,
    num_steps: int = 1000,
    learning_rate: float = 0.05,
) -> Fits:
    """Fits mixtures of `num_components` Gaussians to `target` by descent on a KL, from `num_restarts` random starts.

    Adam changes means, log scales and logits of the weights; its step size decays to 0 along a cosine. At a start the
    means are uniform over the range of the target's, the scales log-uniform between the target's least scale and its
    standard deviation, and the weights equal.

    Args:
      key: random key of the starts.
      target: one mixture.
      num_components: K >= 1.
      direction: "forward", KL(target||fit), or "reverse", KL(fit||target).
      free: the parameters to fit, of "means", "scales" and "weights"; weights that are not fitted stay equal.
      scale: the scale of every component if "scales" are not fitted, else None.
      num_restarts: R >= 1 starts.
      num_steps: steps of Adam, >= 1.
      learning_rate: its first step size.

    Returns:
      The fits.

    Raises:
      ValueError: an argument is out of range.
    """
    _check_direction(direction)
    _check_mixture("target", target)
    free = tuple(name for name in PARAMETERS if name in _known_parameters(free))
    for name, number in (("num_components", num_components), ("num_restarts", num_restarts), ("num_steps", num_steps)):
        checks.whole(name, number, 1)
    checks.number("learning_rate", learning_rate, 0)
    if scale is not None:
        scale = checks.number("scale", scale)
    if ("scales" in free) == (scale is not None) or (scale is not None and not 0 < scale < np.inf):
        raise ValueError(f"fit needs a positive scale exactly where 'scales' are not free; got {free} and {scale}.")
    start = _starts(streams.as_key(key), target, (num_restarts, num_components))
    if scale is not None:
        start["scales"] = jnp.full_like(start["scales"], np.log(scale))
    best, kl, fits, kls = _fit(start, target, jnp.asarray(learning_rate, float), direction, free, num_steps)
    return Fits(best=best, kl=kl, all=fits, kls=kls)


def _check_mixture(name: str, value: Any) -> None:
    if not isinstance(value, Mixture):
        raise ValueError(f"{name} must be a Mixture, as mixture(means, scales) makes it; got {checks.shown(value)}.")


def _check_direction(direction: str) -> None:
    checks.known("direction", direction, DIRECTIONS)


def _known_parameters(free: tuple[str, ...]) -> tuple[str, ...]:
    for name in checks.listed(free):
        checks.known("parameter", name, PARAMETERS, "free parameters are among")
    if not checks.listed(free):
        raise ValueError(f"Nothing is free to be fitted; choose from {', '.join(PARAMETERS)}.")
    return tuple(checks.listed(free))


@functools.partial(jax.jit, static_argnames="shape")  # not part of `_fit`, because both directions have the same starts
def _starts(key: jax.Array, target: Mixture, shape: tuple[int, int]) -> dict[str, jax.Array]:
    """Random unconstrained parameters: means, log scales, logits of the weights, each [R, K]."""
    means_key, scales_key = streams.split(key)
    mean = matmul(target.weights, target.means)
    deviation = jnp.sqrt(matmul(target.weights, target.scales**2 + (target.means - mean) ** 2))
    low, high = target.means.min() - target.scales.min(), target.means.max() + target.scales.min()
    means = streams.uniform(means_key, shape, low=low, high=high)
    log_scales = streams.uniform(scales_key, shape, low=jnp.log(target.scales.min()), high=jnp.log(deviation))
    return {"means": means.astype(float), "scales": log_scales.astype(float), "weights": jnp.zeros(shape, float)}


def _constrained(parameters: dict[str, jax.Array]) -> Mixture:
    return Mixture(parameters["means"], jnp.exp(parameters["scales"]), jax.nn.softmax(parameters["weights"]))


@functools.partial(jax.jit, static_argnames=("direction", "free", "num_steps"))
def _fit(
    start: dict[str, jax.Array],
    target: Mixture,
    learning_rate: jax.Array,
    direction: str,
    free: tuple[str, ...],
    num_steps: int,
) -> tuple[Mixture, jax.Array, Mixture, jax.Array]:
    """The best fit [K], its KL [], all fits [R, K] and the KL of each [R]."""
    fixed = {name: start[name] for name in PARAMETERS if name not in free}
    optimiser = optax.adam(lambda count: learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * count / num_steps)))

    def kl_of_each(parameters: dict[str, jax.Array]) -> jax.Array:
        return jax.vmap(functools.partial(divergence, direction, target))(_constrained(fixed | parameters))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state = carry
        gradients = jax.grad(lambda values: kl_of_each(values).sum())(parameters)  # a start affects only its own term
        with default_promotion():
            updates, state = optimiser.update(gradients, state)
        return (optax.apply_updates(parameters, updates), state), None

    parameters = {name: start[name] for name in free}
    (parameters, _), _ = jax.lax.scan(step, (parameters, optimiser.init(parameters)), length=num_steps)
    fits = _constrained(fixed | parameters)
    order = jnp.argsort(fits.means, axis=-1)
    fits = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, order, axis=-1), fits)
    kls = kl_of_each(parameters)
    best = jnp.nanargmin(kls)
    return jax.tree.map(lambda leaf: leaf[best], fits), kls[best], fits, kls


@functools.partial(jax.jit, static_argnames="direction")
def landscape(target: Mixture, first: jax.Array, second: jax.Array, scale: jax.Array, direction: str) -> jax.Array:
    """KL [F, S], nats, of two Gaussians of equal weight and `scale` with means first[i] and second[j] (Fig. 13).

    `direction` is as for `divergence`.
    """
    first, second, scale = (jnp.asarray(array, float) for array in (first, second, scale))

    def kl(mean: jax.Array, second_mean: jax.Array) -> jax.Array:
        pair = Mixture(jnp.stack([mean, second_mean]), jnp.stack([scale, scale]), jnp.full(2, 0.5, scale.dtype))
        return divergence(direction, target, pair)

    return jax.lax.map(lambda mean: jax.vmap(functools.partial(kl, mean))(second), first)


def local_minima(table: Any) -> np.ndarray:
    """Whether an entry of a table is no higher than its eight neighbours, bool [F, S]."""
    table = np.asarray(table, float)
    padded = np.pad(table, 1, constant_values=np.inf)
    neighbourhoods = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return table <= neighbourhoods.min(axis=(-2, -1))
