"""Updates as the training engine samples them, to compare with the exact ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, validate
from jaxdistill.mdp.teacher import Teacher, check
from jaxdistill.methods import Method, check_episodes_end, check_functions, check_zeros, get
from jaxdistill.runtime import checks, streams
from jaxdistill.theory.exact_update import Update
from jaxdistill.theory.fields import table
from jaxdistill.training.config import config_of, resolve_cell
from jaxdistill.training.run import run_to_end


def sampled_updates(
    key: jax.Array,
    mdps: MDP,
    teacher: Teacher,
    methods: Sequence[str | Method],
    logits: npt.ArrayLike,
    values: npt.ArrayLike | None = None,
    *,
    num_updates: int = 1000,
    **changes: Any,
) -> dict[str, Update]:
    """Updates as the training engine samples them: one episode each, per unit of learning rate, in float32.

    Args:
      key: random key.
      mdps, teacher: stacks of M.
      methods: methods, or names that `methods.get` knows.
      logits: [M, O, A].
      values: [M, O], V_theta; zeros if None.
      num_updates: N, of each method on each world.
      **changes: fields of `Config` on which an update depends, such as `estimator` and `discount`, for all methods.

    Returns:
      By name of the method, an `Update` of NumPy arrays, logits [M, N, O, A] and values [M, N, O].
    """
    key = streams.as_key(key)
    resolved_methods = [get(method) for method in checks.listed(methods)]
    if not resolved_methods:
        raise ValueError("methods is empty; give at least one, such as 'n_distill'.")
    names = [method.name for method in resolved_methods]
    if len(set(names)) < len(names):
        raise ValueError(f"sampled_updates needs methods of different names; got {', '.join(names)}.")
    check(teacher, (*validate(mdps).successor.shape[:-1], mdps.num_actions))
    num_updates = checks.whole("num_updates", num_updates, 1, checks.MOST // mdps.num_mdps)
    for method in resolved_methods:
        check_functions(method, mdps.num_actions, teacher.num_others)
        check_episodes_end(method, mdps, teacher)
    shape = (mdps.num_mdps, mdps.num_observations, mdps.num_actions)
    logits = table("logits", logits, shape).astype(np.float32)
    values = np.zeros(shape[:-1]) if values is None else table("values", values, shape[:-1])
    before = np.concatenate([logits, values.astype(np.float32)[..., None]], axis=-1)
    one_update = {"num_iterations": 1, "num_checkpoints": 1, "learning_rate": 1.0, "value_learning_rate": 1.0}
    for name in (*one_update, "optimizer"):
        if name in changes:
            raise ValueError(f"sampled_updates returns updates per unit of learning rate; {name} cannot be set.")
    config = config_of(None, one_update | changes)
    for method in resolved_methods:
        check_zeros(method, teacher.probs, teacher.others, config.probability_floor)
    count = mdps.num_mdps * num_updates
    copies, teachers = jax.tree.map(lambda x: jnp.repeat(x, num_updates, axis=0), (mdps, teacher))
    copies = dataclasses.replace(copies, id=jnp.arange(count, dtype=jnp.int32))  # a random stream for each student
    cells = [resolve_cell(method.name, method, teachers, config) for method in resolved_methods]
    before = before.repeat(num_updates, axis=0)
    final = run_to_end(key, copies, cells, np.broadcast_to(before, (len(cells), *before.shape)))
    updates = (final.params - before).reshape(len(cells), mdps.num_mdps, num_updates, *before.shape[1:])
    return {name: Update(x[..., :-1], x[..., -1]) for name, x in zip(names, updates, strict=True)}
