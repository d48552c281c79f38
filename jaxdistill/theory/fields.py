"""Is the expected update of a method the gradient of a loss, and of which? (Table 1, Theorems 1 and 2.)

The field of a method is g(theta) = E_q sum_t [ -grad log pi_theta(a_t) Rhat_t + grad l_t ]: minus its expected update.
It is a gradient where its Jacobian J is symmetric, and then a line integral recovers the loss up to a constant.
`check_method` answers for any method, in words and numbers. Computed in float64, whatever the process uses otherwise.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.mdp import MDP, exact, validate
from jaxdistill.mdp.teacher import Teacher, check
from jaxdistill.methods import Method
from jaxdistill.runtime import checks
from jaxdistill.statistics import mean_interval
from jaxdistill.theory.exact_update import ExactOptions, check_size, exact_options, expected_update, keywords
from jaxdistill.theory.precision import float64, one_by_one, precise
from jaxdistill.theory.stated_losses import TABLE_1, Loss, stated_losses
from jaxdistill.worlds import garnet

_COLUMNS = 64  # of a Jacobian at once
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)  # of a line integral of an analytic integrand


def field(mdp: MDP, teacher: Teacher, method: str | Method, logits: jax.Array, **options: Any) -> jax.Array:
    """g(theta), [O, A], of one MDP: minus `expected_update(...).logits`, by default under `TABLE_1`. May be traced."""
    return -expected_update(mdp, teacher, method, logits, **(dict(TABLE_1) | options)).logits


def jacobian(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """J[i, j] = d fn(x)_i / d x_j over flattened entries, for `fn` from an array of n entries to one. May be traced."""
    _, push = jax.linearize(lambda y: jnp.ravel(fn(y.reshape(x.shape))), jnp.ravel(x))
    basis = jnp.eye(x.size, dtype=x.dtype)
    columns = jax.vmap(push)(basis) if x.size <= _COLUMNS else jax.lax.map(push, basis, batch_size=_COLUMNS)
    return columns.T


def problem(mdps: MDP, teacher: Teacher) -> tuple[MDP, Teacher]:
    """Worlds and their teachers, checked, as `precise` gives them; ValueError for what they cannot be."""
    check(teacher, (*validate(mdps).successor.shape[:-1], mdps.num_actions))
    return precise(mdps, teacher)


def table(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """A table of that shape in float64; ValueError for another, or for what is not finite."""
    array = checks.numbers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}; got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return array


def check_jacobian(mdps: MDP, method: Method, options: ExactOptions) -> None:
    """ValueError where the Jacobian of the field of one world would not fit into memory."""
    num_nodes = 1 if options.resolved(method).reduction == "sum" else options.num_nodes
    copies = min(mdps.num_observations * mdps.num_actions, _COLUMNS)
    check_size(mdps, "the Jacobian of its update", num_nodes=num_nodes, copies=copies)


def asymmetry(mdps: MDP, teacher: Teacher, method: str | Method, logits: npt.ArrayLike, **options: Any) -> np.ndarray:
    """||J - J^T||_F / ||J||_F of the field at `logits`: 0 where it is a gradient, at most 2.

    Args:
      mdps, teacher: one, or stacks of M.
      method: a name of `METHODS`, or a `Method`.
      logits: [O, A], or [M, O, A].
      **options: of `expected_update`, by default those of `TABLE_1`.

    Returns:
      float64 [] or [M]; nan where J is 0.
    """
    logits = checks.numbers("logits", logits)
    numbers = _examine(*problem(mdps, teacher), methods.get(method), None, logits, np.zeros(logits.shape), options)
    return numbers["asymmetry"]


def potential(
    mdps: MDP, teacher: Teacher, method: str | Method, logits: npt.ArrayLike, base: npt.ArrayLike = 0.0, **options: Any
) -> np.ndarray:
    """The integral of the field along the straight line from `base` to `logits`: the difference of the loss, if any.

    By Gauss-Legendre with 32 nodes; of a field that is no gradient, the number depends on the path.

    Args:
      base: where the potential is 0; broadcast to `logits`. The default is the uniform student.
      mdps, teacher, method, logits, **options: as in `asymmetry`.

    Returns:
      float64 [] or [M].
    """
    logits, base = checks.numbers("logits", logits), checks.numbers("base", base)
    try:
        base = np.broadcast_to(base, logits.shape)
    except ValueError:
        raise ValueError(f"base must broadcast to {list(logits.shape)}; got shape {list(base.shape)}.") from None
    return _examine(*problem(mdps, teacher), methods.get(method), None, logits, base, options)["potential"]


def _examine(
    mdps: MDP, teacher: Teacher, method: Method, loss: Loss | None, logits: Any, base: Any, changes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """All numbers about a field, for one world or a stack; worlds and teachers as `precise` gives them.

    `changes` are options in place of those of `TABLE_1`.
    """
    options = exact_options(changes, TABLE_1)
    check_jacobian(mdps, method, options)
    methods.check_functions(method, mdps.num_actions, teacher.num_others)
    shape = (*mdps.id.shape, mdps.num_observations, mdps.num_actions)
    logits, base = table("logits", logits, shape), table("base", base, shape)
    with float64():
        arrays = (mdps, teacher, logits, base)
        if not mdps.is_stacked:
            arrays = jax.tree.map(lambda x: np.asarray(x)[None], arrays)
        numbers = jax.device_get(_examined((method, loss), options, *arrays))
    return numbers if mdps.is_stacked else {name: values[0] for name, values in numbers.items()}


@one_by_one
def _examined(
    static: tuple[Method, Loss | None],
    options: ExactOptions,
    mdp: MDP,
    teacher: Teacher,
    logits: jax.Array,
    base: jax.Array,
) -> dict[str, jax.Array]:
    method, loss = static

    def g(x: jax.Array) -> jax.Array:
        return field(mdp, teacher, method, x, **keywords(options))

    matrix = jacobian(g, logits)
    size = jnp.linalg.norm(matrix)
    path = logits - base
    positions = jnp.asarray(np.append((_NODES + 1) / 2, 1), logits.dtype)  # of the integral, and the end itself
    forces = jax.lax.map(lambda u: g(base + u * path), positions)
    weights = jnp.asarray(np.append(_NODE_WEIGHTS / 2, 0), logits.dtype)
    numbers = {
        "asymmetry": jnp.linalg.norm(matrix - matrix.T) / jnp.where(size > 0, size, jnp.nan),
        "field": jnp.linalg.norm(forces[-1]),
        "potential": jnp.sum(weights[:, None, None] * forces * path),
    }
    if loss is not None:
        value_and_slope = jax.value_and_grad(lambda x: loss(mdp, teacher, x, **keywords(options)))
        values, slopes = jax.lax.map(value_and_slope, jnp.stack([base, logits]))
        # Differences are compared with the largest possible change of the potential, because it may be near 0.
        largest_change = jnp.sum(weights * jnp.linalg.norm(forces, axis=(1, 2))) * jnp.linalg.norm(path)
        numbers["loss"] = values[1] - values[0]
        numbers["potential_error"] = jnp.abs(numbers["potential"] - numbers["loss"]) / largest_change
        largest = jnp.maximum(jnp.linalg.norm(slopes[1]), numbers["field"])
        numbers["gradient_error"] = jnp.linalg.norm(slopes[1] - forces[-1]) / largest
    return numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What was found on M random worlds at random logits; float64 [M] each.

    Attributes:
      loss: text of the loss that it was compared with, or None.
      asymmetry: ||J - J^T||_F / ||J||_F.
      field: |g|, the length of the field.
      gradient_error: |g - gradient of the loss| / the longer of the two; None without a loss.
      potential_error: |line integral of g - difference of the loss| / integral of |g|; None without a loss.
      tolerance: what counts as 0 in all of these.
    """

    loss: str | None
    asymmetry: np.ndarray
    field: np.ndarray
    gradient_error: np.ndarray | None
    potential_error: np.ndarray | None
    tolerance: float

    @property
    def is_zero(self) -> bool:
        """Whether the field vanishes on every world: in expectation the method does nothing."""
        return bool(self.field.max() < self.tolerance)

    @property
    def is_gradient(self) -> bool:
        """Whether the Jacobian is symmetric on every world."""
        return self.is_zero or bool(np.nanmax(self.asymmetry) < self.tolerance)

    @property
    def matches(self) -> bool:
        """Whether it is the gradient of the loss on every world; False without a loss."""
        if self.gradient_error is None or self.is_zero:
            return False
        return self.is_gradient and bool(self.gradient_error.max() < self.tolerance)

    def __str__(self) -> str:
        if self.is_zero:
            return f"zero in expectation (length at most {self.field.max():.0e}): its samples are noise"
        a = self.asymmetry
        if not self.is_gradient:
            mean, low, _ = mean_interval(a)
            spread = f"asymmetry {mean:.2g} ± {mean - low:.1g}, range {np.nanmin(a):.2g} to {np.nanmax(a):.2g}"
            return f"not the gradient of anything ({spread}, over {a.size} MDPs)"
        symmetric = f"asymmetry {np.nanmax(a):.0e}"
        if self.gradient_error is None or self.potential_error is None:
            return f"the gradient of some loss ({symmetric})"
        if self.matches:
            return f"the gradient of {self.loss} ({symmetric}; potential agrees to {self.potential_error.max():.0e})"
        off = f"{self.gradient_error.min():.1g} to {self.gradient_error.max():.1g}"
        return f"a gradient ({symmetric}), but not of {self.loss} (relative difference {off})"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The answer of `check_method`; prints as a few lines.

    Attributes:
      name: of the method.
      whole: over whole episodes, whose states theta decides as well.
      one_step: over episodes of one step from states drawn uniformly: the same question where visits are held fixed.
      setting: the options and worlds, in words.
    """

    name: str
    whole: Findings
    one_step: Findings
    setting: str

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.whole}"]
        lines.append(f"  in episodes of one step, visits held fixed: {self.one_step}")
        return "\n".join([*lines, f"  {self.setting}"])

    __repr__ = __str__


def check_method(
    method: str | Method,
    loss: Loss | None = None,
    *,
    num_mdps: int = 20,
    key: jax.Array | None = None,
    mdps: MDP | None = None,
    teacher: Teacher | None = None,
    **options: Any,
) -> Report:
    """Finds out on random MDPs at random logits whether a method's expected update descends a loss, and which.

    Args:
      method: a name of `METHODS`, or any `Method`.
      loss: what it is believed to descend; None: what `stated_losses` knows of it.
      num_mdps: random worlds and teachers, `garnet.garnet` with 5 states and 3 actions, if none are given.
      key: random key of worlds, teachers and logits; `jax.random.key(0)` if None.
      mdps, teacher: stacks of M, to ask about these instead. Random teachers have two further policies (`others`).
      **options: of `expected_update`; by default `TABLE_1`: Monte Carlo returns, sums over steps, undiscounted.

    Returns:
      A `Report`; print it. Where float64 cannot be had, its tolerance is 1e-3 in place of 1e-8, and it says so.
    """
    method = methods.get(method)
    weights = {name: options[name] for name in ("loss_weight", "return_weight") if name in options}
    if not isinstance(loss, Loss | None):
        raise ValueError(f"loss must be a potentials.Loss or None; got {checks.shown(loss)}.")
    exact_options(options, TABLE_1)
    losses = stated_losses(method, **weights) if loss is None else (loss, loss)
    key, worlds_key = jax.random.split(jax.random.key(0) if key is None else checks.as_key(key))
    if mdps is None or teacher is None:
        if mdps is not None or teacher is not None:
            raise ValueError("check_method takes mdps and their teacher together, or neither.")
        mdps, teacher = random_problems(worlds_key, num_mdps)
    mdps, teacher = problem(mdps, teacher)
    logits = np.asarray(jax.random.normal(key, (mdps.num_mdps, mdps.num_observations, mdps.num_actions)))
    one_step: dict[str, Any] = {
        "continue_prob": np.zeros_like(mdps.continue_prob),
        "start_probs": np.full_like(mdps.start_probs, 1 / mdps.num_states),
    }

    def findings(worlds: MDP, stated: Loss | None) -> Findings:
        numbers = _examine(worlds, teacher, method, stated, logits, 0 * logits, options)
        names = ("asymmetry", "field", "gradient_error", "potential_error")
        measured: dict[str, Any] = {name: numbers.get(name) for name in names}
        tolerance = 1e-8 if measured["field"].dtype == np.float64 else 1e-3
        return Findings(loss=stated.text if stated else None, tolerance=tolerance, **measured)

    whole = findings(mdps, losses[0])
    short = findings(dataclasses.replace(mdps, **one_step), losses[1])
    return Report(method.name, whole, short, _setting(method, mdps, options, whole.tolerance))


def random_problems(
    key: jax.Array,
    num_mdps: int,
    *,
    concentration: float = 1.0,
    num_others: int = 2,
    discount: float = 1.0,
    **sizes: Any,
) -> tuple[MDP, Teacher]:
    """M Garnets with random teachers, as `check_method` uses them.

    Args:
      key: random key.
      num_mdps: M.
      concentration: of the teachers' Dirichlet distribution; near 0 they are almost deterministic.
      num_others: further policies of each teacher.
      discount: of the teacher's values, which are those of its policy.
      **sizes: of `garnet.garnet`.
    """
    keys = jax.random.split(checks.as_key(key), 2 + checks.whole("num_others", num_others, 0, 1000))
    mdps = garnet.garnet(keys[0], num_mdps, **sizes)
    probs, *others = (jnp.asarray(garnet.random_policies(k, mdps, concentration), jnp.float32) for k in keys[1:])
    teacher = Teacher(
        probs=probs,
        values=exact.policy_values(mdps, probs, discount),
        scores=probs,
        others=jnp.stack(others, axis=-3) if others else None,
        name="random",
        discount=discount,
    )
    return mdps, teacher


def _setting(method: Method, mdps: MDP, changes: Mapping[str, Any], tolerance: float) -> str:
    """The options and the worlds in words."""
    options = exact_options(changes, TABLE_1).resolved(method)
    precision = "float64" if tolerance < 1e-6 else "float32 only: below 1e-3 nothing can be told from 0"
    return (
        f"{mdps.num_mdps} MDPs of {mdps.num_states} states and {mdps.num_actions} actions; "
        f"{ESTIMATORS[options.estimator].title} returns, {options.reduction} over steps, discount {options.discount:g}; "
        f"{precision}"
    )
