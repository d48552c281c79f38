"""From cells (a method, a teacher, a configuration) to the tasks that the pool runs.

Cells that differ in numbers only share a task and so a program; the program of a paper's method always holds the same
functions, so that a student's numbers do not depend on which other methods run beside it.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.engine import packing, rules
from jaxdistill.engine.lanes import Program
from jaxdistill.mdp import MDP
from jaxdistill.methods import Method
from jaxdistill.runtime.checkpoints import Output
from jaxdistill.scheduling.pool import Task, lane_width
from jaxdistill.training.config import Resolved

_MAX_RECORD = 2**17  # steps that a Monte Carlo student records: 2 MiB each


def stream_keys(key: jax.Array, label: str, ids: np.ndarray) -> np.ndarray:
    """uint32 [M, 2]: the names of the random streams of the students of (key, label, MDP id)."""
    named = jax.random.fold_in(key, np.uint32(zlib.crc32(label.encode())))
    keys = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(named, i), (2,), jnp.uint32))
    return np.asarray(keys(jnp.asarray(ids, jnp.uint32)))


def companions(method: Method) -> tuple[Method, ...]:
    """The methods whose functions share `method`'s program: the paper's of the same shape, or the method alone."""

    def shape(m: Method) -> tuple[Any, ...]:
        return m.next_reward is None, m.control.is_student, m.control.per

    if any(method.name == m.name and _functions(method) == _functions(m) for m in methods.METHODS.values()):
        return tuple(m for m in methods.METHODS.values() if shape(m) == shape(method))
    return (method,)


def _functions(m: Method) -> tuple[Any, ...]:
    return m.loss, m.reward, m.next_reward, m.control, tuple(m.params)


def make_tasks(
    key: jax.Array,
    mdps: MDP,
    cells: Sequence[Resolved],
    cost: np.ndarray,
    on_output: Callable[[int, int, int, Output], None],
    *,
    pauses: Callable[[Resolved], Sequence[int]] = lambda cell: (),
    initial: np.ndarray | None = None,
) -> list[Task]:
    """One task per program. `on_output(cell index, mdp index, pause, output)`, as in `Task`.

    `cost` [M]: expected episode length. `initial` float32 [P, M, O, A + 1], or None.
    """
    groups: dict[Any, list[int]] = {}
    rate_fields = ("learning_rate", "value_learning_rate")
    for index, cell in enumerate(cells):
        config = cell.config
        schedules = tuple(getattr(config, name) if callable(getattr(config, name)) else None for name in rate_fields)
        others = cell.teacher.num_others if cell.teacher is not None else 0
        static = (config.reduction, schedules, config.optimizer, config.max_episode_steps, others)
        paused = tuple(pauses(cell))
        functions = tuple(_functions(m) for m in companions(cell.method))
        groups.setdefault((cell.estimator, functions, static, paused), []).append(index)
    worlds = packing.pack_worlds(mdps)
    tasks = []
    for (estimator, _, (reduction, schedules, optimizer, max_steps, others), paused), indices in groups.items():
        group = companions(cells[indices[0]].method)
        if estimator == "mc" and max_steps > _MAX_RECORD:
            raise ValueError(f"max_episode_steps must be at most {_MAX_RECORD} for 'mc' students; got {max_steps}.")
        rule = rules.student_rule(mdps.num_actions, group, others)
        program = Program(
            rule=rule,
            monte_carlo=estimator == "mc",
            num_lanes=lane_width(mdps.num_observations, rule.num_parts * rule.width),
            num_checkpoints=len(cells[indices[0]].config.checkpoints),
            max_steps=max_steps,
            mean=reduction == "mean",
            schedule=schedules[0],
            value_schedule=schedules[1],
            optimizer=optimizer,
            episode_control=any(m.control.per == "episode" for m in group),
        )
        mine = [cells[i] for i in indices]
        teachers, teacher_of = _pack_teachers(mine, mdps)
        students = [_students(key, mdps, cell, rule, offset) for cell, offset in zip(mine, teacher_of, strict=True)]
        steps = np.clip(np.nan_to_num(cost, nan=max_steps), 1.0, max_steps)  # an episode may never end of itself

        def hand_over(who: int, pause: int, output: Output, indices: list[int] = indices) -> None:
            cell, mdp = divmod(who, mdps.num_mdps)
            on_output(indices[cell], mdp, pause, output)

        tasks.append(
            Task(
                program=program,
                worlds=worlds,
                teachers=teachers,
                students=jax.tree.map(lambda *x: np.concatenate(x), *students),
                num_iterations=mine[0].config.num_iterations,
                cost=np.tile(steps * (2 if program.monte_carlo else 1), len(mine)),
                on_output=hand_over,
                pauses=paused,
                initial=None if initial is None else initial[indices].reshape(-1, *initial.shape[2:]),
            )
        )
    return tasks


def _pack_teachers(cells: Sequence[Resolved], mdps: MDP) -> tuple[jax.Array, list[int]]:
    """Rows of every distinct teacher, and for each cell the number of its teacher's first MDP."""
    offsets: dict[int, int] = {}
    packed: list[jax.Array] = []
    teacher_of = []
    for cell in cells:
        if id(cell.teacher) not in offsets:
            offsets[id(cell.teacher)] = len(packed) * mdps.num_mdps
            shape = (mdps.num_mdps, mdps.num_states, mdps.num_actions)
            if cell.teacher is None:  # a method without a teacher looks at a teacher of zeros
                rows = packing.pack_teacher(np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32))
            else:
                rows = packing.pack_teacher(cell.teacher.probs, cell.teacher.values, cell.teacher.others)
            packed.append(rows)
        teacher_of.append(offsets[id(cell.teacher)])
    return jnp.concatenate(packed), teacher_of


def _students(key: jax.Array, mdps: MDP, cell: Resolved, rule: rules.StudentRule, teacher_offset: int) -> rules.Student:
    """The students of one cell on every MDP, NumPy [M, ...]."""
    num, method, config = mdps.num_mdps, cell.method, cell.config

    def floats(name: str, value: Any) -> np.ndarray:
        value = 1.0 if callable(value) else value
        array = np.asarray(value, np.float32)
        if array.shape not in ((), (num,)):
            raise ValueError(f"{name} must be one number or one for each of the {num} MDPs; got shape {array.shape}.")
        return np.array(np.broadcast_to(array, num))

    def which(fns: tuple[Any, ...], fn: Any) -> np.ndarray:
        return np.full(num, fns.index(fn) if fn is not None else -1, np.int32)

    numbers = ("learning_rate", "value_learning_rate", "probability_floor", "loss_weight", "return_weight")
    discount = config.discount if method.discount is None else method.discount
    return rules.Student(
        mdp=np.arange(num, dtype=np.int32),
        teacher=np.arange(num, dtype=np.int32) + np.int32(teacher_offset),
        key=stream_keys(key, cell.label, np.asarray(mdps.id)),
        control=np.tile(np.asarray(method.control.weights, np.float32), (num, 1)),
        per_episode=np.full(num, method.control.per == "episode"),
        loss=which(rule.losses, method.loss),
        reward=which(rule.rewards, method.reward),
        next_reward=which(rule.next_rewards, method.next_reward),
        bootstrap=np.full(num, rules.BOOTSTRAPS.index(method.bootstrap), np.int32),
        baseline=np.full(num, method.baseline, np.float32),
        discount=floats("discount", discount),
        params={name: floats(name, value) for name, value in method.params.items()},
        **{name: floats(name, getattr(config, name)) for name in numbers},
    )
