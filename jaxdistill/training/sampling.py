"""Updates as the training engine samples them, to compare with the exact ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill import methods
from jaxdistill.mdp import MDP, validate
from jaxdistill.mdp.teacher import Teacher, check
from jaxdistill.methods import Method
from jaxdistill.runtime import checks, processes
from jaxdistill.scheduling import pool
from jaxdistill.theory.exact_update import Update
from jaxdistill.theory.fields import table
from jaxdistill.training.config import Config, Resolved, known
from jaxdistill.training.tasks import make_tasks


def sampled_updates(
    key: jax.Array,
    mdps: MDP,
    teacher: Teacher,
    chosen: Sequence[str | Method],
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
      chosen: methods, or their names.
      logits: [M, O, A].
      values: [M, O], V_theta; zeros if None.
      num_updates: N, of each method on each world.
      **changes: fields of `Config`, such as `estimator` and `discount`.

    Returns:
      By name of the method, an `Update` of NumPy arrays, logits [M, N, O, A] and values [M, N, O].
    """
    key = checks.as_key(key)
    wanted = [methods.get(method) for method in checks.listed(chosen)]
    names = [method.name for method in wanted]
    if len(set(names)) < len(names):
        raise ValueError(f"sampled_updates needs methods of different names; got {', '.join(names)}.")
    check(teacher, (*validate(mdps).successor.shape[:-1], mdps.num_actions))
    num_updates = checks.whole("num_updates", num_updates, 1, checks.MOST // mdps.num_mdps)
    for method in wanted:
        methods.check_functions(method, mdps.num_actions, teacher.num_others)
    shape = (mdps.num_mdps, mdps.num_observations, mdps.num_actions)
    logits = table("logits", logits, shape).astype(np.float32)
    values = np.zeros(shape[:-1]) if values is None else table("values", values, shape[:-1])
    values = values.astype(np.float32)
    changes = known(changes)
    config = Config(
        **{"num_iterations": 1, "num_checkpoints": 1, "learning_rate": 1.0, "value_learning_rate": 1.0, **changes}
    )
    count = mdps.num_mdps * num_updates
    many = jax.tree.map(lambda x: jnp.repeat(x, num_updates, axis=0), (mdps, teacher))
    worlds = dataclasses.replace(many[0], id=jnp.arange(count, dtype=jnp.int32))  # a stream for each student
    before = np.concatenate([logits, values[..., None]], axis=-1).repeat(num_updates, axis=0)
    found = np.zeros((len(wanted), *before.shape), np.float32)
    mine = np.zeros(found.shape[:2], bool)

    def keep(cell, student, pause, output):
        found[cell, student], mine[cell, student] = output.params - before[student], True

    cells = [
        Resolved(m.name, m, many[1], dataclasses.replace(config, reduction=m.reduction or config.reduction))
        for m in wanted
    ]
    initial = np.broadcast_to(before, found.shape)
    pool.run(make_tasks(key, worlds, cells, np.ones(count), keep, initial=initial))
    found = processes.combined(mine, {"updates": found})["updates"].reshape(
        len(wanted), mdps.num_mdps, num_updates, *before.shape[1:]
    )
    return {name: Update(x[..., :-1], x[..., -1]) for name, x in zip(names, found, strict=True)}
