"""The usual design in JAX: `vmap` over students of a `scan` over a fixed horizon, masked after the episode's end.

Each iteration plays one episode per student, all of the same number of steps, differentiates one loss through the
trajectory and applies the gradient; a scan over iterations is compiled. There is one program per method and estimator,
as when each experiment is a run of its own. Losses and rewards are those of `jaxdistill.methods`. Nothing is slowed
on purpose: the extra time goes into padding, a random key for every draw, and updates that wait for the longest
episode.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.baselines import Problem, Trained, check_estimator
from jaxdistill import MDP, Teacher
from jaxdistill.estimators import OneStep
from jaxdistill.methods import Method, Step, numerics
from jaxdistill.runtime import streams
from jaxdistill.training.config import ResolvedCell

HORIZON = 500  # steps; at a termination probability of 0.01, 0.7 % of the episodes that end in no other way are longer


class Numbers(NamedTuple):
    """Numbers of a student, float32 []; other values do not recompile."""

    learning_rate: Any
    value_learning_rate: Any
    discount: Any
    probability_floor: Any
    loss_weight: Any
    return_weight: Any


class Trajectory(NamedTuple):
    """One episode, padded: arrays [T]; `inside` is true for the steps that belong to it."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array
    next_state: jax.Array
    ended: jax.Array
    inside: jax.Array


def play(horizon: int, method: Method, mdp: MDP, teacher: Teacher, logits: jax.Array, key: jax.Array) -> Trajectory:
    """Plays one episode under the method's control policy; `logits` [O, A]."""
    start_key, key = jax.random.split(key)
    start = mdp.start[jax.random.choice(start_key, len(mdp.start), p=mdp.start_probs)]
    weights = jnp.array(method.control.weights)

    def step(carry: Any, key: jax.Array) -> Any:
        state, inside = carry
        action_key, outcome_key, end_key = jax.random.split(key, 3)
        row = logits[mdp.observation[state]]
        if not method.control.is_student:
            policies = jnp.stack([jax.nn.softmax(row), teacher.probs[state], jnp.full_like(row, 1 / len(row))])
            row = jnp.log(weights @ policies)
        action = jax.random.categorical(action_key, row)
        table = mdp.outcome_probs if mdp.outcome_probs.ndim == 2 else mdp.outcome_probs[state]
        outcome = jax.random.categorical(outcome_key, jnp.log(table[action]))
        goes_on = ~mdp.terminal[state, outcome] & jax.random.bernoulli(end_key, mdp.continue_prob)
        next_state = mdp.successor[state, outcome]
        taken = Trajectory(state, action, mdp.reward[state, outcome], next_state, ~goes_on, inside)
        return (next_state, inside & goes_on), taken

    return lax.scan(step, (start, jnp.array(True)), jax.random.split(key, horizon))[1]


def gradient(
    method: Method, estimator: str, numbers: Numbers, params: jax.Array, mdp: MDP, teacher: Teacher, path: Trajectory
) -> jax.Array:
    """The update of the table [O, A + 1] by one episode, without learning rates: the mean over the episode's steps."""
    a = params.shape[1] - 1
    observation, alive = mdp.observation[path.state], 1 - path.ended.astype(jnp.float32)
    rows = params[observation]
    teacher_probs = teacher.probs[path.state]
    steps = Step(
        student_logits=rows[:, :a],
        frozen_logits=rows[:, :a],
        student_value=rows[:, a],
        teacher_probs=teacher_probs,
        teacher_log_probs=numerics.log_floored(teacher_probs, numbers.probability_floor),
        teacher_value=teacher.values[path.state],
        next_teacher_value=teacher.values[path.next_state] * alive,
        action=path.action,
        reward=path.reward,
        discount=jnp.full_like(path.reward, numbers.discount),
        params={},
        other_probs=jnp.zeros((len(rows), 0, a)),
    )
    targets = _targets(method, estimator, numbers, steps, params[mdp.observation[path.next_state], a] * alive, path)
    advantages = numbers.return_weight * (targets - method.baseline * steps.student_value)

    def loss(params: jax.Array) -> jax.Array:
        rows = params[observation]
        steps_of_params = dataclasses.replace(steps, student_logits=rows[:, :a])
        total = jnp.zeros(len(rows))
        if method.has_return:
            log_probs = jax.vmap(lambda step: step.student_log_prob)(steps_of_params)
            total += 0.5 * jnp.square(targets - rows[:, a]) - advantages * log_probs
        if method.loss is not None:
            total += numbers.loss_weight * jax.vmap(method.loss)(steps_of_params)
        return jnp.sum(jnp.where(path.inside, total, 0)) / jnp.sum(path.inside, dtype=jnp.int32)

    return -jax.grad(loss)(params)


def _targets(method: Method, estimator: str, numbers: Numbers, steps: Step, next_values: jax.Array, path: Any) -> Any:
    """Rhat_t before the baseline, [T]."""
    rhat = jnp.zeros_like(path.reward)
    alive = ~path.ended
    if method.reward is not None:
        rhat += jax.vmap(method.reward)(steps)
    if method.next_reward is not None:
        bonus = jax.vmap(method.next_reward)(steps)
        rhat += jnp.where(alive, jnp.append(bonus[1:], 0), 0)
    if estimator == OneStep.name:
        bootstrap = {"student": next_values, "teacher": steps.next_teacher_value, "zero": jnp.zeros_like(rhat)}
        return rhat + numbers.discount * bootstrap[method.bootstrap]

    def step_back(next_target: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, goes_on = step
        target = reward + numbers.discount * next_target * goes_on
        return target, target

    return lax.scan(step_back, jnp.zeros(()), (rhat, alive.astype(jnp.float32)), reverse=True)[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def train_group(horizon: int, method: Method, estimator: str, num_iterations: int, students: Any) -> Any:
    """Trains N students of one method; params [N, O, A + 1], sums of returns and of lengths [N]."""

    def train_student(mdp: MDP, teacher: Teacher, numbers: Numbers, params: jax.Array, key: jax.Array) -> Any:
        a = params.shape[1] - 1
        is_value = jnp.arange(a + 1) == a
        rates = jnp.where(is_value, numbers.value_learning_rate, numbers.learning_rate)

        def iteration(carry: Any, key: jax.Array) -> Any:
            params, returns, lengths = carry
            path = play(horizon, method, mdp, teacher, params[:, :a], key)
            params = params + rates * gradient(method, estimator, numbers, params, mdp, teacher, path)
            total, length = jnp.sum(jnp.where(path.inside, path.reward, 0)), jnp.sum(path.inside, dtype=jnp.int32)
            return (params, returns + total, lengths + length), None

        zero = jnp.zeros(())
        start = (params, zero, zero.astype(jnp.int32))
        return lax.scan(iteration, start, jax.random.split(key, num_iterations))[0]

    return jax.vmap(train_student)(*students)


def train(problem: Problem, horizon: int = HORIZON) -> Trained:
    """Trains every student, one method after another; the first call also compiles."""
    for cell in problem.cells:
        check_estimator("padded scan", cell.config.estimator)
    params = problem.tables()
    returns, lengths = np.empty(params.shape[:2]), np.empty(params.shape[:2])
    key, seconds = streams.from_seed(problem.seed), 0.0
    for number, ((_, estimator), cell_indices) in enumerate(_cells_by_program(problem.cells).items()):
        method = problem.cells[cell_indices[0]].method
        students = _students(problem, cell_indices, params, jax.random.fold_in(key, number))
        jax.block_until_ready(students)
        started = time.perf_counter()
        outputs = train_group(horizon, method, estimator, problem.num_iterations, students)
        jax.block_until_ready(outputs)
        seconds += time.perf_counter() - started
        by_cell = (np.asarray(output).reshape(len(cell_indices), -1, *output.shape[1:]) for output in outputs)
        params[cell_indices], returns[cell_indices], lengths[cell_indices] = by_cell
    steps = int(lengths.sum())
    return Trained(steps, seconds, params, returns / problem.num_iterations, lengths / problem.num_iterations)


def _cells_by_program(cells: tuple[ResolvedCell, ...]) -> dict[tuple[str, str], list[int]]:
    """The indices of the cells that share a program, by names of method and estimator."""
    indices: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        indices.setdefault((cell.method.name, cell.config.estimator), []).append(i)
    return indices


def _students(problem: Problem, cell_indices: list[int], params: np.ndarray, key: jax.Array) -> Any:
    """The worlds, teachers, numbers, tables and keys of the students of some cells, each with a leading axis."""
    mdps, cells = dataclasses.replace(problem.mdps, grid=None), [problem.cells[i] for i in cell_indices]
    num_students = len(cells) * mdps.num_mdps
    worlds = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(cells)), mdps)
    teachers = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(_teacher(cell, mdps) for cell in cells))
    numbers_of_cells = (
        jnp.array([getattr(cell.config, name) for cell in cells], jnp.float32) for name in Numbers._fields
    )
    numbers = Numbers(*(jnp.repeat(values, mdps.num_mdps) for values in numbers_of_cells))
    tables = jnp.asarray(params[cell_indices].reshape(num_students, *params.shape[2:]))
    return worlds, teachers, numbers, tables, jax.random.split(key, num_students)


def _teacher(cell: ResolvedCell, mdps: MDP) -> Teacher:
    """The teacher of a cell, a uniform one if it has none; without the fields that not all teachers have alike."""
    if cell.teacher is not None:
        return dataclasses.replace(cell.teacher, name="", others=None)
    shape = (mdps.num_mdps, mdps.num_states, mdps.num_actions)
    return Teacher(probs=jnp.full(shape, 1 / shape[-1]), values=jnp.zeros(shape[:2]), scores=jnp.zeros(shape))
