"""From cells (a method, a teacher, a configuration) to the tasks that the pool runs.

Cells that differ only in numbers share a task and so a compiled program. The program of a paper's method always holds
the same functions, so that a student's numbers do not depend on which other methods run beside it.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.engine import packing, schedules
from jaxdistill.engine.lanes import Features, Program
from jaxdistill.engine.rules import Rule, Student
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.mdp import MDP
from jaxdistill.methods import METHODS, Method, UpdateOptions
from jaxdistill.methods.method import BOOTSTRAPS
from jaxdistill.methods.options import number_fields, word_fields
from jaxdistill.methods.schedules import Schedule, number_at
from jaxdistill.runtime import checks, streams
from jaxdistill.runtime.checkpoints import Outputs
from jaxdistill.scheduling.pool import lane_width
from jaxdistill.scheduling.task import Task
from jaxdistill.training.config import RATES, Config, ResolvedCell

_MAX_RECORD = 2**17  # steps that a student records where its estimator needs it: 2 MiB


@dataclasses.dataclass(frozen=True)
class ProgramKey:
    """What the cells of one task have in common.

    Attributes:
      program: the compiled program.
      param_names: names of the method's numbers; students of one task have the same ones.
      pauses: iterations before the last at which parameters are handed out.
    """

    program: Program
    param_names: tuple[str, ...]
    pauses: tuple[int, ...]


def stream_keys(key: jax.Array, label: str, ids: np.ndarray) -> np.ndarray:
    """uint32 [M, 2]: the names of the random streams of the students of (key, label, MDP id)."""
    label_key = streams.fold_in(key, np.uint32(zlib.crc32(label.encode())))
    keys = jax.vmap(lambda i: streams.bits(streams.fold_in(label_key, i), (2,), jnp.uint32))
    return np.asarray(keys(jnp.asarray(ids, jnp.uint32)))


def methods_in_program(method: Method) -> tuple[Method, ...]:
    """The methods whose functions `method`'s program holds.

    They are the paper's methods of the same shape if `method` is one of the paper's; otherwise `method` alone.
    """

    def shape(m: Method) -> tuple[Any, ...]:
        return m.next_reward is None, m.control.is_student, m.control.per

    def functions(m: Method) -> tuple[Any, ...]:
        return m.loss, m.reward, m.next_reward, m.control, tuple(m.params)

    if any(method.name == m.name and functions(method) == functions(m) for m in METHODS.values()):
        return tuple(m for m in METHODS.values() if shape(m) == shape(method))
    return (method,)


def make_tasks(
    key: jax.Array,
    mdps: MDP,
    cells: Sequence[ResolvedCell],
    cost: np.ndarray,
    on_outputs: Callable[[np.ndarray, np.ndarray, np.ndarray, Outputs], None],
    *,
    pauses: Callable[[ResolvedCell], Sequence[int]] = lambda cell: (),
    initial: np.ndarray | None = None,
) -> list[Task]:
    """One task for each program.

    Args:
      key: random key of the students.
      mdps: M stacked MDPs.
      cells: P cells; each is trained on every MDP.
      cost: [M], expected episode length.
      on_outputs: called as on_outputs(cell indices, MDP indices, pauses, outputs), as in `Task`.
      pauses: iterations before the last at which the students of a cell hand out their parameters.
      initial: float32 [P, M, O, num_params], or None for zeros.
    """
    groups: dict[ProgramKey, list[int]] = {}
    for index, cell in enumerate(cells):
        groups.setdefault(_program_key(cell, mdps, pauses(cell)), []).append(index)
    worlds = packing.pack_worlds(mdps)
    return [
        _make_task(key, mdps, worlds, [cells[i] for i in indices], indices, program_key, cost, on_outputs, initial)
        for program_key, indices in groups.items()
    ]


def _program_key(cell: ResolvedCell, mdps: MDP, pauses: Sequence[int]) -> ProgramKey:
    config, estimator = cell.config, ESTIMATORS[cell.config.estimator]
    max_steps = int(_time_limits(mdps, config).max())
    if estimator.records_episode and max_steps > _MAX_RECORD:
        raise ValueError(
            f"max_episode_steps must be at most {_MAX_RECORD} for {estimator.name!r} students; got {max_steps}."
        )
    methods = methods_in_program(cell.method)
    rule = cell.make_rule(mdps.num_actions, methods, cell.num_others, config)
    has_features = mdps.num_features > 1
    program = Program(
        rule=rule,
        estimator=estimator,
        num_lanes=lane_width(mdps.num_observations, rule.num_parts * rule.width),
        num_checkpoints=len(config.checkpoints),
        max_steps=max_steps,
        bootstraps_at_cut=config.truncation == "bootstrap",
        reduction=config.reduction,
        scheduled=_scheduled(cell),
        optimizer=config.optimizer,
        episode_control=any(m.control.per == "episode" for m in methods),
        features=Features(mdps.num_features, config.feature_steps == "divided") if has_features else None,
    )
    return ProgramKey(program, tuple(cell.method.params), tuple(pauses))


def _scheduled(cell: ResolvedCell) -> tuple[str, ...]:
    """The numbers of a cell that change with the iteration, by their places in `Student`."""
    method, config = cell.method, cell.config
    rates = [name for name in RATES if isinstance(getattr(config, name), Schedule)]
    options = [f"options.{name}" for name in number_fields() if isinstance(getattr(config, name), Schedule)]
    params = [f"params.{name}" for name, value in method.params.items() if isinstance(value, Schedule)]
    return (*rates, *options, *params, *([schedules.CONTROL] if method.control.is_scheduled else []))


def _schedule(cell: ResolvedCell, scheduled: Sequence[str]) -> np.ndarray:
    """The scheduled numbers of a cell in every iteration, float64 [num_iterations, columns].

    Raises ValueError if a number of the method leaves its domain between the values of its schedule.
    """
    iterations, columns = np.arange(cell.config.num_iterations), []
    for name in scheduled:
        group, _, key = name.rpartition(".")
        if name == schedules.CONTROL:
            weights = (number_at(weight, iterations) for weight in cell.method.control.weights)
            columns += [np.broadcast_to(weight, iterations.shape) for weight in weights]
        else:
            number = cell.method.params[key] if group == "params" else getattr(cell.config, key)
            columns.append(number_at(number, iterations))
        if group == "params" and key in cell.method.domains:
            in_all = Schedule(tuple(iterations), tuple(columns[-1]))
            cell.method.domains[key].check(f"Method {checks.shown(cell.method.name)}: {key}", in_all)
    return np.stack(columns, axis=-1)


def _pack_schedules(cells: Sequence[ResolvedCell], scheduled: Sequence[str]) -> tuple[np.ndarray | None, list[int]]:
    """The table of the cells' different schedules, and for each cell its first row; None without schedules."""
    if not scheduled:
        return None, [0] * len(cells)
    num_iterations = cells[0].config.num_iterations
    different: dict[bytes, int] = {}
    tables: list[np.ndarray] = []
    positions = []
    for cell in cells:
        table = _schedule(cell, scheduled)
        positions.append(different.setdefault(table.tobytes(), len(different)))
        if len(tables) < len(different):
            tables.append(table)
    rows = schedules.num_rows(num_iterations)
    return schedules.pack(tables, num_iterations), [position * rows for position in positions]


def _time_limits(mdps: MDP, config: Config) -> np.ndarray:
    """Steps after which the episodes of each MDP are cut, by the world or by the configuration, int32 [M]."""
    return np.minimum(np.asarray(mdps.time_limit), np.int32(config.max_episode_steps))


def _make_task(
    key: jax.Array,
    mdps: MDP,
    worlds: packing.Worlds,
    cells: Sequence[ResolvedCell],
    cell_indices: Sequence[int],
    program_key: ProgramKey,
    cost: np.ndarray,
    on_outputs: Callable[[np.ndarray, np.ndarray, np.ndarray, Outputs], None],
    initial: np.ndarray | None,
) -> Task:
    program = program_key.program
    teachers, teacher_indices = _pack_teachers(cells, mdps)
    table, first_rows = _pack_schedules(cells, program.scheduled)
    students = [
        _students(key, mdps, cell, program.rule, teacher_index, first_row)
        for cell, teacher_index, first_row in zip(cells, teacher_indices, first_rows, strict=True)
    ]
    # If the expected length is not finite, episodes are assumed to be as long as their time limit.
    lengths = np.where(np.isnan(cost), np.inf, cost)
    steps = np.concatenate([np.clip(lengths, 1.0, _time_limits(mdps, cell.config)) for cell in cells])

    indices = np.asarray(cell_indices)

    def on_task_outputs(students: np.ndarray, pauses: np.ndarray, outputs: Outputs) -> None:
        cell, mdp = np.divmod(students, mdps.num_mdps)
        on_outputs(indices[cell], mdp, pauses, outputs)

    return Task(
        program=program,
        worlds=worlds,
        teachers=teachers,
        students=jax.tree.map(lambda *leaves: np.concatenate(leaves), *students),
        num_iterations=cells[0].config.num_iterations,
        cost=steps * program.estimator.ticks_per_step,
        on_outputs=on_task_outputs,
        pauses=program_key.pauses,
        initial=None if initial is None else initial[list(cell_indices)].reshape(-1, *initial.shape[2:]),
        schedules=table,
    )


def _pack_teachers(cells: Sequence[ResolvedCell], mdps: MDP) -> tuple[jax.Array, list[np.ndarray]]:
    """Rows of every distinct teacher, and for each cell the index of the teacher of each MDP, int32 [M]."""
    indices: dict[int, np.ndarray] = {}
    packed: list[jax.Array] = []
    num_teachers = 0
    for teacher in (cell.teacher for cell in cells):
        if id(teacher) in indices:
            continue
        if teacher is None:  # a method without a teacher reads zeros, the same for all MDPs
            zeros = np.zeros((mdps.num_states, mdps.num_actions), np.float32)
            packed.append(packing.pack_teacher(zeros, zeros[:, 0]))
            indices[id(teacher)] = np.full(mdps.num_mdps, num_teachers, np.int32)
            num_teachers += 1
        else:
            packed.append(packing.pack_teacher(teacher.probs, teacher.values, teacher.others))
            indices[id(teacher)] = np.arange(num_teachers, num_teachers + mdps.num_mdps, dtype=np.int32)
            num_teachers += mdps.num_mdps
    return jnp.concatenate(packed), [indices[id(cell.teacher)] for cell in cells]


def _students(
    key: jax.Array, mdps: MDP, cell: ResolvedCell, rule: Rule, teacher_index: np.ndarray, first_row: int
) -> Student:
    """The constants of the students of one cell on every MDP in the first iteration, NumPy [M, ...].

    `first_row` is the position of the cell's schedule in the table of schedules.
    """
    num, method, config = mdps.num_mdps, cell.method.at(0), cell.config

    def floats(name: str, value: Any) -> np.ndarray:
        # None is never used: an optimizer replaces it.
        return checks.per_world(name, 1.0 if value is None else number_at(value, 0), num)

    def function_index(functions: str, fn: Any) -> np.ndarray:
        return np.full(num, -1 if fn is None else getattr(rule, functions).index(fn), np.int32)

    options: dict[str, Any] = {name: getattr(config, name) for name in word_fields()}
    options |= {name: floats(name, getattr(config, name)) for name in number_fields()}
    return Student(
        mdp=np.arange(num, dtype=np.int32),
        teacher=teacher_index,
        key=stream_keys(key, cell.label, np.asarray(mdps.id)),
        time_limit=_time_limits(mdps, config),
        options=UpdateOptions(**options),
        schedule=np.full(num, first_row, np.int32),
        control=np.tile(np.asarray(method.control.weights, np.float32), (num, 1)),
        per_episode=np.full(num, method.control.per == "episode"),
        loss=function_index("losses", method.loss),
        reward=function_index("rewards", method.reward),
        next_reward=function_index("next_rewards", method.next_reward),
        bootstrap=np.full(num, BOOTSTRAPS.index(method.bootstrap), np.int32),
        baseline=np.full(num, method.baseline, np.float32),
        params={name: floats(name, value) for name, value in method.params.items()},
        **{name: floats(name, getattr(config, name)) for name in RATES},
    )
