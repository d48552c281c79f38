"""Checks, before any training or exact computation, that a method's functions return numbers that are finite."""

import difflib
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.methods import effects
from jaxdistill.methods.method import Method, loss_gradient, make_step
from jaxdistill.methods.schedules import Schedule, number_at
from jaxdistill.runtime import checks

_CHECKED: WeakKeyDictionary[Method, set[tuple[int, int]]] = WeakKeyDictionary()


def check_functions(method: Method, num_actions: int, num_others: int = 0) -> None:
    """Raises ValueError unless each function of a method returns one number for a `Step`; nothing is computed.

    Every number for which the functions state a domain must be given and must be in that domain.
    """
    method.check_params()  # once more, because `params` may have been changed since the method was made
    for name, domain in method.domains.items():
        if name not in method.params:
            raise ValueError(
                f"Method {checks.shown(method.name)} reads the number {name!r}, which must be {domain}, but it is not "
                f"in its params; give params={{{name!r}: ...}}."
            )
    checked = _CHECKED.setdefault(method, set())
    if (num_actions, num_others) not in checked:
        for field in ("loss", "reward", "next_reward"):
            if getattr(method, field) is not None:
                _check_function(method, field, num_actions, num_others)
        checked.add((num_actions, num_others))
    dependencies = effects.dependencies(method, num_actions, num_others)
    for name in method.params:
        is_read = name in method.domains or f"params.{name}" in dependencies
        near = [] if is_read else difflib.get_close_matches(name, method.domains, 1, cutoff=0.75)
        if near:
            raise ValueError(
                f"Method {checks.shown(method.name)} does not read the number {name!r}; did you mean {near[0]!r}?"
            )


def _check_function(method: Method, field: str, num_actions: int, num_others: int) -> None:
    name = f"{field} of the method {checks.shown(method.name)}"

    def call(number: jax.Array, row: jax.Array, action: jax.Array, other_probs: jax.Array) -> jax.Array:
        params = dict.fromkeys(method.params, number)
        return getattr(method, field)(
            make_step(row, row, action=action, probability_floor=number, params=params, other_probs=other_probs)
        )

    shapes = [
        ((), jnp.float32),
        ((num_actions,), jnp.float32),
        ((), jnp.int32),
        ((num_others, num_actions), jnp.float32),
    ]
    try:
        output = jax.eval_shape(call, *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes))
    except Exception as error:
        raise ValueError(f"{name} fails on a Step of {num_actions} actions: {checks.why(error)}.") from error
    # Only what can be differentiated may be a loss.
    kinds = (jnp.floating,) if field == "loss" else (jnp.floating, jnp.integer, jnp.bool_)
    if getattr(output, "shape", None) != () or not any(jnp.issubdtype(output.dtype, kind) for kind in kinds):
        got = f"{output.dtype} {list(output.shape)}" if hasattr(output, "shape") else checks.shown(output)
        raise ValueError(f"{name} must return one real number, float []; got {got}.")


def check_zeros(
    method: Method, teacher_probs: Any, others: Any = None, floor: Any = 0.0, label: str | None = None
) -> None:
    """Raises ValueError if a function of a method is not finite where the teacher, or another policy, has a 0.

    The functions are tried on rows of these policies that contain a probability of 0, with the floors and the numbers
    of the MDP. Traced arrays are not checked.

    Args:
      method: the method.
      teacher_probs: [S, A] or [M, S, A].
      others: the further policies, [N, S, A] or [M, N, S, A]; None where there are none.
      floor: the probability floor, one number, one for each MDP, or a `Schedule`.
      label: the name of the method in the message; None: its own.
    """
    scheduled = [x for x in (floor, *method.params.values()) if isinstance(x, Schedule)]
    if scheduled:  # A number of 0, such as a floor, can only be reached where a schedule is smallest.
        for iteration in sorted({i for x in scheduled for i in (x.iterations[int(np.argmin(x.values))], 0)}):
            numbers_then = method.at(iteration), teacher_probs, others, number_at(floor, iteration)
            check_zeros(*numbers_then, label or method.name)
        return
    arrays = (teacher_probs, others, floor, *method.params.values())
    if not method.needs_teacher or checks.is_traced(arrays):
        return
    shape = (-1, 1, *np.shape(teacher_probs)[-2:])
    policies = np.asarray(teacher_probs, np.float32).reshape(shape)
    if others is not None:
        further = np.asarray(others, np.float32).reshape(len(policies), -1, *shape[2:])
        policies = np.concatenate([policies, further], axis=1)
    numbers = {"probability_floor": floor, **method.params}
    table = np.stack([checks.per_world(name, x, len(policies)) for name, x in numbers.items()], axis=-1)
    num_zeros = (policies == 0).sum(-1)
    # Only the teacher has this floor; those of further policies are numbers of the method. Compiled programs treat a
    # number below the smallest normal number as 0.
    num_zeros[table[:, 0] >= np.finfo(np.float32).tiny, 0] = 0
    for mdp, state in _rows_to_try(num_zeros.sum(1), table):
        params = dict(zip(method.params, table[mdp, 1:], strict=True))
        if not _is_finite(method, policies[mdp, :, state], table[mdp, 0], params):
            is_teacher = num_zeros[mdp, 0, state] > 0
            policy, floor_name = ("teacher", "probability_floor") if is_teacher else ("policy", "the param floor")
            raise ValueError(
                f"{label or method.name} takes the logarithm of a {policy} probability that is 0; set {floor_name} "
                f"> 0 (the default is 1e-6) or use a {policy} that is positive everywhere."
            )


def _rows_to_try(num_zeros: np.ndarray, numbers: np.ndarray) -> list[tuple[int, int]]:
    """The (MDP, state) with the fewest zeros and that with the most, for each distinct row of `numbers` [M, N].

    `num_zeros` is [M, S]; states without a zero are left out.
    """
    rows = []
    for distinct in np.unique(numbers, axis=0):
        counts = np.where((numbers == distinct).all(-1)[:, None], num_zeros, 0)
        if counts.any():
            fewest = np.where(counts > 0, counts, counts.max()).argmin()
            rows += [np.unravel_index(i, counts.shape) for i in {int(fewest), int(counts.argmax())}]
    return [(int(mdp), int(state)) for mdp, state in rows]


def _is_finite(method: Method, policies: np.ndarray, floor: float, params: dict[str, np.float32]) -> bool:
    """Whether the functions are finite in a state where the teacher and the further policies are `policies` [1 + N, A].

    The actions are the most and the least probable ones of each policy. One student is uniform. The other prefers the
    actions of probability 0, because an objective of the student's k most probable actions may read only these.
    """
    teacher, others = jnp.asarray(policies[0]), jnp.asarray(policies[1:])
    students = jnp.asarray(np.stack([np.zeros(policies.shape[-1]), (policies == 0).any(0)]), jnp.float32)
    actions = jnp.asarray(np.unique([policies.argmin(-1), policies.argmax(-1)]), jnp.int32)

    def outputs(logits: jax.Array, action: jax.Array) -> list[jax.Array]:
        step = make_step(
            logits,
            teacher,
            action=action,
            probability_floor=floor,
            teacher_value=jnp.ones(()),
            params={name: jnp.asarray(value) for name, value in params.items()},
            other_probs=others,
        )
        results = [fn(step) for fn in (method.reward, method.next_reward) if fn is not None]
        return results + ([loss_gradient(method.loss, step)] if method.loss is not None else [])

    results = jax.vmap(jax.vmap(outputs, (None, 0)), (0, None))(students, actions)
    return all(bool(jnp.isfinite(x).all()) for x in results)
