"""Finds the numbers on which the update of a method depends, and so the options that have an effect on it.

The functions of a method are traced to see what their results depend on. It is not enough to see which numbers they
read: KL(pi||pi_theta) contains the logarithm of the teacher, and its gradient does not.
"""

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods.method import Method, Step, loss_gradient, make_step
from jaxdistill.methods.options import UpdateOptions
from jaxdistill.methods.schedules import numbers_of

_DEPENDENCIES: WeakKeyDictionary[Method, dict[tuple[Any, ...], frozenset[str]]] = WeakKeyDictionary()


def dependencies(method: Method, num_actions: int, num_others: int = 0) -> frozenset[str]:
    """The names of the arguments of `make_step` on which the rewards or the gradient of the loss of a method depend.

    A number of the method is named with its group: "params.beta".

    Args:
      method: a method whose functions have been checked (`check_functions`).
      num_actions: A.
      num_others: number of further policies of the teacher.
    """
    by_size = _DEPENDENCIES.setdefault(method, {})
    size = (num_actions, num_others, *method.params)
    if size not in by_size:
        by_size[size] = _dependencies(method, num_actions, num_others)
    return by_size[size]


def _dependencies(method: Method, num_actions: int, num_others: int) -> frozenset[str]:
    number, row = jnp.float32(0.5), jnp.full(num_actions, 1 / num_actions, jnp.float32)
    scalars = ("probability_floor", "student_value", "teacher_value", "next_teacher_value", "reward", "discount")
    arguments: dict[str, Any] = dict.fromkeys(scalars, number) | dict(
        student_logits=row,
        teacher_probs=row,
        action=jnp.int32(0),
        params=dict.fromkeys(method.params, number),
        other_probs=jnp.tile(row, (num_others, 1)),
    )
    leaves, tree = jax.tree.flatten_with_path(arguments)

    def results(*values: jax.Array) -> list[jax.Array]:
        step: Step = make_step(**jax.tree.unflatten(tree, values))
        outputs: list[Any] = [fn(step) for fn in (method.reward, method.next_reward) if fn is not None]
        return [*outputs, loss_gradient(method.loss, step)] if method.loss is not None else outputs

    jaxpr = jax.make_jaxpr(results)(*(value for _, value in leaves)).jaxpr
    # This follows the results backwards, also through compiled functions that the method calls.
    _, is_used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    names = [".".join(part.key for part in path) for path, _ in leaves]
    return frozenset(name for name, used in zip(names, is_used, strict=True) if used)


def without_effect(
    name: str, method: Method, options: UpdateOptions, num_actions: int, num_others: int = 0, num_features: int = 1
) -> str:
    """Why an option has no effect on the update of a method, as the end of a sentence; "" if it has or may have one.

    The estimator and the reduction are not examined: a method may fix them, and a grid of methods and estimators has
    cells that the estimator does not change.

    Args:
      name: a field of `UpdateOptions` or of a configuration that extends it.
      method: a method whose functions have been checked.
      options: the options with what the method fixes in its place.
      num_actions, num_others: as for `dependencies`.
      num_features: F, the most rows of its tables that the student uses in a state.
    """
    if name == "feature_steps" and num_features == 1:
        return "whose students use one row in each state"
    if name in ("return_weight", "return_visits", "value_learning_rate", "trace_decay") and not method.has_return:
        return "which has no return"
    if name == "trace_decay" and name not in ESTIMATORS[options.estimator].numbers:
        return f"whose estimator is {options.estimator!r}"
    if name == "fixed_length" and options.reduction != "fixed":
        return f"whose reduction is {options.reduction!r}"
    if name == "trace_decay" and method.discount == 0:
        return "which fixes the discount at 0"
    if name in ("loss_weight", "loss_visits") and method.loss is None:
        return "which has no loss"
    if name == "discount" and method.discount is not None:
        return f"which fixes it at {method.discount:g}"
    if name not in ("discount", "probability_floor") or name in dependencies(method, num_actions, num_others):
        return ""
    if name == "discount" and not _discounts(method, options):
        return "whose updates do not depend on later steps"
    if name == "probability_floor":
        return "whose update has no logarithm of the teacher"
    return ""


def _discounts(method: Method, options: UpdateOptions) -> bool:
    """Whether the return of a step contains anything discounted from later steps."""
    if not method.has_return or method.bootstrap != "zero":
        return method.has_return
    numbers = {name: numbers_of(getattr(options, name)) for name in ESTIMATORS[options.estimator].numbers}
    options = dataclasses.replace(UpdateOptions(estimator=options.estimator), **numbers)
    return not np.all(np.equal(ESTIMATORS[options.estimator].continuation(options, 1.0, 0.0), 0))


def mass_below_floor(method: Method, floor: Any, probs: Any, num_others: int = 0) -> float | None:
    """The share of the teacher's probability that the floor replaces inside logarithms, in [0, 1].

    It is the mean over all states and worlds, each with the same weight, of the sum of the probabilities below
    `probability_floor`. Probabilities of 0 add nothing to it.

    Args:
      method: a method whose functions have been checked.
      floor: `probability_floor`, a number or an array [M].
      probs: the teacher, [S, A] or [M, S, A].
      num_others: number of further policies of the teacher.

    Returns:
      The share, or None for a method whose update has no logarithm of the teacher.
    """
    probs = np.asarray(probs)
    if "probability_floor" not in dependencies(method, probs.shape[-1], num_others):
        return None
    floor = np.reshape(floor, np.shape(floor) + (1, 1) * np.ndim(floor))
    return float(np.where(probs < floor, probs, 0).sum(-1, dtype=np.float64).mean())


NEGLIGIBLE_MASS = 1e-3
"""The largest `mass_below_floor` for which there is no warning."""


def floor_text(share: float, floor: Any) -> str:
    """The text of the warning that a share of the teacher lies below a floor, with the remedy."""
    return (
        f"{share:.2g} of the teacher's probability lies below probability_floor {float(np.max(floor)):g}, which "
        "replaces it inside logarithms, so the student is drawn to these actions more than the teacher; lower "
        "probability_floor"
    )
