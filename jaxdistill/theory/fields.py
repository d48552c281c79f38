"""Tests of whether the expected update of a method is the gradient of a loss, and of which (Table 1, Theorems 1 and 2).

The vector field of a method is g(theta) = E_q sum_t [ -grad log pi_theta(a_t) Rhat_t + grad l_t ], which is minus its
expected update. It is a gradient if its Jacobian J is symmetric everywhere, and then a line integral recovers the loss
up to a constant. `check_method` reports this for any method, in words and numbers. All computations are in float64,
whatever precision the process uses otherwise.
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
from jaxdistill.methods import Method, effects
from jaxdistill.runtime import checks, streams
from jaxdistill.statistics import mean_interval
from jaxdistill.theory.exact_update import (
    ExactOptions,
    Problem,
    check_method_functions,
    check_problem,
    check_size,
    exact_options,
    expected_update,
    solve_update,
)
from jaxdistill.theory.precision import float64, one_by_one, precise
from jaxdistill.theory.stated_losses import TABLE_1, Loss, stated_losses
from jaxdistill.theory.time_limits import UnrolledMDP, unrolled
from jaxdistill.worlds import garnet

_COLUMNS = 64  # Columns of a Jacobian that are computed at the same time.
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)  # For the line integral of an analytic integrand.


def field(mdp: MDP, teacher: Teacher, method: str | Method, logits: jax.Array, **options: Any) -> jax.Array:
    """The vector field g(theta), [O, A], of a method on one MDP: minus `expected_update(...).logits`; may be traced.

    The default options are those of `TABLE_1`.
    """
    return -expected_update(mdp, teacher, method, logits, **(dict(TABLE_1) | options)).logits


def jacobian(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """J[i, j] = d fn(x)_i / d x_j over flattened entries, for `fn` from an array of n entries to one. May be traced."""
    _, push = jax.linearize(lambda y: jnp.ravel(fn(y.reshape(x.shape))), jnp.ravel(x))
    basis = jnp.eye(x.size, dtype=x.dtype)
    columns = jax.vmap(push)(basis) if x.size <= _COLUMNS else jax.lax.map(push, basis, batch_size=_COLUMNS)
    return columns.T


def problem(mdps: MDP, teacher: Teacher, options: ExactOptions, *used_methods: Method) -> tuple[MDP, Teacher]:
    """The worlds and their teachers in float64, with time limits replaced (`precise`, and then `unrolled`).

    Raises ValueError unless they are valid and every episode of the methods ends or is cut.
    """
    check(teacher, (*validate(mdps).successor.shape[:-1], mdps.num_actions))
    for method in used_methods:
        methods.check_episodes_end(method, mdps, teacher)
    return unrolled(*precise(mdps, teacher), options.truncation)


def table(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """The table in float64; raises ValueError unless it is finite and has this shape."""
    array = checks.numbers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}; got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return array


def check_jacobian(mdps: MDP, method: Method, options: ExactOptions) -> None:
    """Raises ValueError if the Jacobian of the field of one world would not fit into memory."""
    copies = min(mdps.num_observations * mdps.num_actions, _COLUMNS)
    check_size(mdps, "the Jacobian of its update", num_nodes=options.nodes_needed(method), copies=copies)


def asymmetry(mdps: MDP, teacher: Teacher, method: str | Method, logits: npt.ArrayLike, **options: Any) -> np.ndarray:
    """||J - J^T||_F / ||J||_F of the vector field at `logits`: 0 if the field is a gradient, at most 2.

    Args:
      mdps, teacher: single ones, or stacks of M.
      method: a name of `METHODS` or `ZOO`, or a `Method`.
      logits: [O, A], or [M, O, A].
      **options: of `expected_update`; the default options are those of `TABLE_1`.

    Returns:
      float64 [] or [M]; nan if J is 0.
    """
    logits = checks.numbers("logits", logits)
    setting = _checked_setting(mdps, teacher, method, options)
    return _measure(setting, None, logits, np.zeros(logits.shape))["asymmetry"]


def potential(
    mdps: MDP, teacher: Teacher, method: str | Method, logits: npt.ArrayLike, base: npt.ArrayLike = 0.0, **options: Any
) -> np.ndarray:
    """The integral of the vector field along the straight line from `base` to `logits`.

    If the field is the gradient of a loss, this is the difference of the loss. Otherwise the number depends on the
    path. The integral is computed by Gauss-Legendre quadrature with 32 nodes.

    Args:
      base: the logits where the potential is 0, broadcast to `logits`. The default is the uniform student.
      mdps, teacher, method, logits, **options: as in `asymmetry`.

    Returns:
      float64 [] or [M].
    """
    logits, base = checks.numbers("logits", logits), checks.numbers("base", base)
    try:
        base = np.broadcast_to(base, logits.shape)
    except ValueError:
        raise ValueError(f"base must broadcast to {list(logits.shape)}; got shape {list(base.shape)}.") from None
    return _measure(_checked_setting(mdps, teacher, method, options), None, logits, base)["potential"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting:
    """The worlds, the method and the options of a question about a field, all of them checked.

    Attributes:
      mdps, teacher: single ones or stacks, as `precise` returns them.
      method: the method.
      options: options that the method may override.
    """

    mdps: MDP
    teacher: Teacher
    method: Method
    options: ExactOptions

    def __str__(self) -> str:
        options = self.options.resolved(self.method)
        floor, teacher = options.probability_floor, self.teacher
        share = effects.mass_below_floor(self.method, floor, teacher.probs, teacher.num_others) or 0.0
        warning = f"; {effects.floor_text(share, floor)}" if share > effects.NEGLIGIBLE_MASS else ""
        return (
            f"{self.mdps.num_mdps} MDPs of {_num_states_text(self.mdps)} and {self.mdps.num_actions} actions; "
            f"{ESTIMATORS[options.estimator].title} returns, {_reduction_text(options)}, "
            f"discount {options.discount:g}{warning}"
        )


def _reduction_text(options: ExactOptions) -> str:
    """How the updates of the steps of an episode become one, in words."""
    text = f"{options.reduction} over steps"
    if options.reduction == "fixed":
        text = f"sum over steps / {options.fixed_length:g}"
    once = [name for name in ("loss", "return") if getattr(options, f"{name}_visits") == "once"]
    return f"{text}, one visit of a row counts for the {' and the '.join(once)}" if once else text


def _num_states_text(mdps: MDP) -> str:
    """The number of states in words, with the time limit."""
    if isinstance(mdps, UnrolledMDP):
        return f"{mdps.block_size} states, cut after at most {mdps.horizon} steps,"
    return f"{mdps.num_states} states"


def _checked_setting(mdps: MDP, teacher: Teacher, method: str | Method, options: Mapping[str, Any]) -> _Setting:
    """The setting of a public function's arguments; raises ValueError unless they are valid and fit into memory."""
    exact, method = exact_options(options, TABLE_1), methods.get(method)
    return _fitting(_Setting(*problem(mdps, teacher, exact, method), method, exact))


def _fitting(setting: _Setting) -> _Setting:
    """Returns the setting; raises ValueError unless the method's functions and the size of the MDPs are possible."""
    check_jacobian(setting.mdps, setting.method, setting.options)
    check_method_functions(setting.method, setting.options, setting.mdps, setting.teacher)
    return setting


def _measure(setting: _Setting, loss: Loss | None, logits: npt.ArrayLike, base: npt.ArrayLike) -> dict[str, np.ndarray]:
    """The numbers about a field by name, for one world [] or a stack [M].

    Args:
      setting: the worlds, the method and the options.
      loss: the loss to compare the field with, or None.
      logits: [O, A] or [M, O, A], where the field is examined.
      base: of the same shape, the other end of the line integral.
    """
    mdps = setting.mdps
    shape = (*mdps.id.shape, mdps.num_observations, mdps.num_actions)
    arrays = (mdps, setting.teacher, table("logits", logits, shape), table("base", base, shape))
    with float64():
        if not mdps.is_stacked:
            arrays = jax.tree.map(lambda x: np.asarray(x)[None], arrays)
        numbers = jax.device_get(_numbers_of_world((setting.method, loss), setting.options, *arrays))
    return numbers if mdps.is_stacked else {name: values[0] for name, values in numbers.items()}


@one_by_one
def _numbers_of_world(
    static: tuple[Method, Loss | None],
    options: ExactOptions,
    mdp: MDP,
    teacher: Teacher,
    logits: jax.Array,
    base: jax.Array,
) -> dict[str, jax.Array]:
    """The numbers about a field on one world, each []; those about the loss only if there is one."""
    method, loss = static

    def field_at(x: jax.Array) -> jax.Array:
        return -solve_update(Problem.resolved(method, options, mdp, teacher, x)).logits

    matrix = jacobian(field_at, logits)
    size = jnp.linalg.norm(matrix)
    path = logits - base
    positions = jnp.asarray(np.append((_NODES + 1) / 2, 1), logits.dtype)  # the nodes of the integral, and the end
    fields = jax.lax.map(lambda u: field_at(base + u * path), positions)
    weights = jnp.asarray(np.append(_NODE_WEIGHTS / 2, 0), logits.dtype)
    numbers = {
        "asymmetry": jnp.linalg.norm(matrix - matrix.T) / jnp.where(size > 0, size, jnp.nan),
        "field": jnp.linalg.norm(fields[-1]),
        "potential": jnp.sum(weights[:, None, None] * fields * path[None]),
    }
    if loss is not None:
        value_and_gradient = jax.value_and_grad(lambda x: loss.value(options, mdp, teacher, x))
        values, gradients = jax.lax.map(value_and_gradient, jnp.stack([base, logits]))
        # Differences are compared with the largest possible change of the potential, because it may be near 0.
        largest_change = jnp.sum(weights * jnp.linalg.norm(fields, axis=(1, 2))) * jnp.linalg.norm(path)
        numbers["loss"] = values[1] - values[0]
        numbers["potential_error"] = jnp.abs(numbers["potential"] - numbers["loss"]) / largest_change
        longer = jnp.maximum(jnp.linalg.norm(gradients[1]), numbers["field"])
        numbers["gradient_error"] = jnp.linalg.norm(gradients[1] - fields[-1]) / longer
    return numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """The numbers about the vector field of a method on M worlds, at one table of logits each; float64 [M].

    Attributes:
      loss: the text of the loss that the field is compared with, or None.
      asymmetry: ||J - J^T||_F / ||J||_F.
      field: |g|, the length of the field.
      gradient_error: |g - gradient of the loss| / the longer of the two; None without a loss.
      potential_error: |line integral of g - difference of the loss| / integral of |g|; None without a loss.
      tolerance: numbers below it count as 0.
    """

    loss: str | None
    asymmetry: np.ndarray
    field: np.ndarray
    gradient_error: np.ndarray | None
    potential_error: np.ndarray | None
    tolerance: float

    @property
    def is_zero(self) -> bool:
        """Whether the field is 0 on every world, so that the expected update does nothing."""
        return bool(self.field.max() < self.tolerance)

    @property
    def is_gradient(self) -> bool:
        """Whether the Jacobian is symmetric on every world."""
        return self.is_zero or bool(np.nanmax(self.asymmetry) < self.tolerance)

    @property
    def matches(self) -> bool:
        """Whether the field is the gradient of the loss on every world; False without a loss."""
        if self.gradient_error is None or self.is_zero:
            return False
        return self.is_gradient and bool(self.gradient_error.max() < self.tolerance)

    def __str__(self) -> str:
        if self.is_zero:
            return f"zero in expectation (length at most {self.field.max():.0e}): its samples are noise"
        a = self.asymmetry
        if not self.is_gradient:
            spread = f"asymmetry {mean_interval(a):.2g}, range {np.nanmin(a):.2g} to {np.nanmax(a):.2g}"
            return f"not the gradient of anything ({spread}, over {a.size} MDPs)"
        symmetric = f"asymmetry {np.nanmax(a):.0e}"
        if self.gradient_error is None or self.potential_error is None:
            return f"the gradient of some loss ({symmetric})"
        if self.matches:
            return f"the gradient of {self.loss} ({symmetric}; potential agrees to {self.potential_error.max():.0e})"
        difference = f"{self.gradient_error.min():.1g} to {self.gradient_error.max():.1g}"
        return f"a gradient ({symmetric}), but not of {self.loss} (relative difference {difference})"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The result of `check_method`; printing it gives a few lines of text.

    Attributes:
      name: the name of the method.
      whole: the findings for whole episodes, in which theta also determines the states that are visited.
      one_step: the findings for episodes of one step from states drawn uniformly, where theta does not determine the
        states that are visited.
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
    """Tests on random MDPs at random logits whether a method's expected update descends a loss, and which.

    Args:
      method: a name of `METHODS` or `ZOO`, or any `Method`.
      loss: the loss that the method is believed to descend; None: the one that `stated_losses` returns for it.
      num_mdps: number of random worlds and teachers if none are given. The worlds are those of
        `worlds.garnet.garnet`, with 5 states and 3 actions. The teachers have two further policies (`others`).
      key: random key of worlds, teachers and logits; `jax.random.key(0)` if None.
      mdps, teacher: stacks of M, which take the place of the random ones.
      **options: of `expected_update`. The default options are those of `TABLE_1`: Monte Carlo returns, sums over steps,
        undiscounted.

    Returns:
      A `Report`; print it. It mentions a share of the teacher of more than 0.001 below `probability_floor`. Its
      tolerance is 1e-8, or 1e-3 where JAX cannot compute in float64, which the report states.
    """
    method = methods.get(method)
    if not isinstance(loss, Loss | None):
        raise ValueError(f"loss must be a stated_losses.Loss or None; got {checks.shown(loss)}.")
    checked_options = exact_options(options, TABLE_1)
    weights = {name: options[name] for name in ("loss_weight", "return_weight") if name in options}
    losses = stated_losses(method, **weights) if loss is None else (loss, loss)
    checks.concrete(options)
    key, worlds_key = streams.split(streams.from_seed(0) if key is None else streams.as_key(key))
    if mdps is None and teacher is None:
        mdps, teacher = precise(*random_problems(worlds_key, num_mdps))
    elif mdps is None or teacher is None:
        raise ValueError("check_method takes mdps and their teacher together, or neither.")
    else:
        mdps, teacher = problem(mdps, teacher, checked_options, method)
    whole = _fitting(_Setting(mdps, teacher, method, checked_options))
    one_step: dict[str, Any] = {
        "continue_prob": np.zeros_like(mdps.continue_prob),
        "start_probs": np.full_like(mdps.start_probs, 1 / mdps.start_probs.shape[-1]),
    }
    short = dataclasses.replace(whole, mdps=dataclasses.replace(mdps, **one_step))
    logits = np.asarray(streams.normal(key, (mdps.num_mdps, mdps.num_observations, mdps.num_actions)))
    findings, short_findings = _findings(whole, losses[0], logits), _findings(short, losses[1], logits)
    precision = "float64" if findings.tolerance < 1e-6 else "float32 only: below 1e-3 nothing can be told from 0"
    return Report(method.name, findings, short_findings, f"{whole}; {precision}")


def _findings(setting: _Setting, loss: Loss | None, logits: np.ndarray) -> Findings:
    """The findings at `logits` [M, O, A], with the line integral from the uniform student."""
    if loss is not None:
        check_problem(loss.method, setting.options, setting.mdps, setting.teacher)
    numbers = _measure(setting, loss, logits, 0 * logits)
    names = ("asymmetry", "field", "gradient_error", "potential_error")
    measured: dict[str, Any] = {name: numbers.get(name) for name in names}
    tolerance = 1e-8 if measured["field"].dtype == np.float64 else 1e-3
    return Findings(loss=loss.text if loss else None, tolerance=tolerance, **measured)


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
      num_others: number of further policies of each teacher.
      discount: of the teacher's values, which are the exact values of its policy.
      **sizes: keyword arguments of `worlds.garnet.garnet`.
    """
    keys = streams.split(streams.as_key(key), 2 + checks.whole("num_others", num_others, 0, 1000))
    mdps = garnet.garnet(keys[0], num_mdps, **sizes)
    probs, *others = (jnp.asarray(garnet.random_policies(k, mdps, concentration), jnp.float32) for k in keys[1:])
    teacher = Teacher(
        probs=probs,
        values=jnp.asarray(exact.policy_values(mdps, probs, discount), jnp.float32),
        scores=probs,
        others=jnp.stack(others, axis=-3) if others else None,
        name="random",
        discount=discount,
    )
    return mdps, teacher
