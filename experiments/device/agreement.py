"""Kernels beside XLA's engine on the processor, from the same lanes, for every program of the paper and of the zoo."""

import concurrent.futures
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdistill
from jaxdistill import METHODS, ZOO, Method, Teacher
from jaxdistill.engine.lanes import Lanes, empty, load
from jaxdistill.engine.rules import Rule, q_learning_rule
from jaxdistill.engine.tick import advance
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.kernels import launch
from jaxdistill.runtime import streams
from jaxdistill.scheduling.loops import ordinal_of
from jaxdistill.scheduling.task import Task
from jaxdistill.teachers.tabular import with_others
from jaxdistill.training.config import config_of, resolve_cell
from jaxdistill.training.tasks import make_tasks, methods_in_program

LEAST_EQUAL = 0.9  # of the lanes: all integers are equal after the ticks
MOST_DIFFERENT = 1e-3  # of the largest number in the tables of those lanes
_NUM_WORLDS, _NUM_TICKS, _THREADS = 8, 200, 8
_OPTIONS = {"learning_rate": 0.4, "value_learning_rate": 0.2, "discount": 0.9, "num_iterations": 1000}


class Case(NamedTuple):
    """A program: methods that share it, by what they are trained, and whose rows they have."""

    name: str
    methods: tuple[Method, ...]
    estimator: str
    make_rule: Callable[..., Rule] | None = None


def cases() -> Iterator[Case]:
    """Every program of the paper's methods with each estimator, of the zoo with one, and of Q-learning."""
    for estimator in ESTIMATORS:
        programs = dict.fromkeys(methods_in_program(m) for m in METHODS.values() if m.estimator in (None, estimator))
        for methods in programs:
            known = tuple(m for m in methods if m.estimator in (None, estimator))
            yield Case(f"{known[0].name} and {len(known) - 1} more", known, estimator)
    for name, objective in ZOO.items():
        if name not in METHODS:
            yield Case(name, (objective,), objective.estimator or "td")
    for params in ({"epsilon": 0.2}, {"temperature": 0.5}):
        method = Method("q", params=params, estimator="td", baseline=False, needs_teacher=False)
        yield Case(f"Q-learning, {next(iter(params))}", (method,), "td", q_learning_rule)


def problem() -> tuple[jaxdistill.MDP, Teacher]:
    """Small grid worlds with a random teacher, and two further policies for objectives that read them."""
    mdps = jaxdistill.sample_mdps(streams.from_seed(0), _NUM_WORLDS, num_rows=5, num_cols=5, p_plus10=0.1)
    rng = np.random.default_rng(0)

    def teacher() -> Teacher:
        probs = rng.dirichlet(np.ones(mdps.num_actions), (mdps.num_mdps, mdps.num_states)).astype(np.float32)
        values = rng.normal(size=probs.shape[:2]).astype(np.float32)
        return Teacher(probs=jnp.asarray(probs), values=jnp.asarray(values), scores=jnp.asarray(probs))

    return mdps, with_others(teacher(), teacher(), teacher())


def compare(case: Case, mdps: jaxdistill.MDP, teacher: Teacher, num_ticks: int = _NUM_TICKS) -> dict[str, Any]:
    """Runs a program in both ways.

    Returns:
      lanes: their number.
      equal: the share of them in which all integers are equal.
      different: the largest difference of a number in the tables of those lanes, divided by the largest number there.
      agrees: whether both are within their limits.
      reason: why there is no kernel; "" if there is one.
    """
    config = config_of(None, _OPTIONS | {"estimator": case.estimator})
    if case.make_rule is None:
        cells = [resolve_cell(m.name, m, teacher, config) for m in case.methods]
    else:
        cells = [resolve_cell(m.name, m, None, config, case.make_rule) for m in case.methods]
    (task,) = make_tasks(streams.from_seed(1), mdps, cells, np.ones(mdps.num_mdps), lambda *_: None)
    task.program = task.loop.program.with_lanes(len(task.cost))
    if task.loop.kernel is None:
        return {"lanes": len(task.cost), "equal": 0.0, "different": 0.0, "agrees": False, "reason": task.loop.reason}
    lanes = _lanes(task)
    ours = _by_kernel(task, lanes, num_ticks)
    theirs = _by_xla(task, lanes, num_ticks)
    return {"lanes": len(task.cost), "reason": "", **_differences(task, ours, theirs)}


def _on_processor() -> Any:
    """Inside, JAX computes on the processor."""
    return jax.default_device(jax.devices("cpu")[0])


def _lanes(task: Task) -> Lanes:
    """Every student of the task in a lane of its own, with random tables; NumPy arrays."""
    program, worlds, width = task.program, task.worlds, task.program.num_lanes
    initial = np.random.default_rng(0).normal(size=(width, worlds.num_observations, program.rule.num_params))
    with _on_processor():
        inputs = jax.device_get((worlds, task.students))
        lanes = empty(program, inputs[0], task.blank_students(width))
        index = np.arange(width, dtype=np.int32)
        lanes = load(program, lanes, inputs[0], np.ones(width, bool), inputs[1], index, initial.astype(np.float32))
    return jax.device_get(lanes)


def _until(task: Task) -> np.ndarray:
    return np.full(task.program.num_lanes, task.num_iterations - 1, np.int32)


def _by_kernel(task: Task, lanes: Lanes, num_ticks: int) -> Lanes:
    kernel, device = task.loop.kernel, jax.local_devices()[0]
    assert kernel is not None
    tables = kernel.tables(task.worlds, task.teachers, task.schedules)
    lanes, tables = jax.device_put((lanes, tables), device)
    work = launch.Work(lanes, tables, np.full(1, task.num_iterations, np.int32), _until(task))
    ((after, _),) = launch.advance([kernel], ordinal_of(device), [work], num_ticks)
    return jax.device_get(after)


def _by_xla(task: Task, lanes: Lanes, num_ticks: int) -> Lanes:
    with _on_processor():
        worlds, teachers, schedules = jax.device_get((task.worlds, task.teachers, task.schedules))
        inputs = worlds, teachers, schedules, np.int32(task.num_iterations), _until(task), np.int32(num_ticks)
        after, _ = advance(task.program, jax.device_put(lanes), *inputs)
        return jax.device_get(after)


def _differences(task: Task, ours: Lanes, theirs: Lanes) -> dict[str, Any]:
    width, equal = task.program.num_lanes, np.ones(task.program.num_lanes, bool)
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    for x, y in pairs:
        if x.dtype != np.float32:
            equal &= (x.reshape(width, -1) == y.reshape(width, -1)).all(axis=1)
    rows = list(zip(ours.tables.rows, theirs.tables.rows, strict=True))
    largest = max(float(np.abs(y.reshape(width, -1)[equal]).max(initial=1e-30)) for _, y in rows)
    difference = max(float(np.abs((x - y).reshape(width, -1)[equal]).max(initial=0.0)) for x, y in rows)
    agrees = bool(equal.mean() >= LEAST_EQUAL and difference <= MOST_DIFFERENT * largest)
    return {"equal": float(equal.mean()), "different": difference / largest, "agrees": agrees}


def measured(most: int | None = None) -> dict[str, Any]:
    """`compare` of all cases, or of at most so many, by name; several are compiled at the same time."""
    mdps, teacher = problem()
    compared = list(cases())
    if most is not None:
        compared = [compared[i] for i in np.unique(np.linspace(0, len(compared) - 1, most).astype(int))]
    _check_names(compared)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
        futures = {
            f"{case.name} ({case.estimator})": executor.submit(
                contextvars.copy_context().run, compare, case, mdps, teacher
            )
            for case in compared
        }
        return {name: future.result() for name, future in futures.items()}


def _check_names(compared: list[Case]) -> None:
    names = [(case.name, case.estimator) for case in compared]
    assert len(set(names)) == len(names), "two programs have one name"
