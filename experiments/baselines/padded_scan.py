"""The usual design in JAX: `vmap` over students of a `scan` over a fixed horizon, masked after the episode's end.

Each iteration plays one episode per student, all of the same number of steps, differentiates one loss through the
trajectory and applies the gradient; a scan over iterations is compiled. There is one program per method and estimator,
as when each experiment is a run of its own. Losses and rewards are those of `jaxdistill.methods`. Nothing is slowed
on purpose: what it pays for is the padding, a random key for every draw, and an update that waits for the last lane.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.baselines import Problem, Trained
from jaxdistill import MDP, Teacher
from jaxdistill.methods import Method, Step, numerics
from jaxdistill.training.config import Config, ResolvedCell

HORIZON = 500  # steps; at a termination probability of 0.01, 0.7 % of the episodes that end in no other way are longer


class Numbers(NamedTuple):
    """Numbers of a student, float32 []: they never recompile."""

    learning_rate: Any
    value_learning_rate: Any
    discount: Any
    probability_floor: Any
    loss_weight: Any
    return_weight: Any


class Trajectory(NamedTuple):
    """One episode, padded: arrays [T]; `inside` says which steps it took."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array
    next_state: jax.Array
    ended: jax.Array
    inside: jax.Array


def play(horizon: int, method: Method, mdp: MDP, teacher: Teacher, logits: jax.Array, key: jax.Array) -> Trajectory:
    """One episode under the method's control policy; `logits` [O, A]."""
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
    """What one episode adds to the table [O, A + 1], before the learning rates: the mean over its steps."""
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
        now = dataclasses.replace(steps, student_logits=rows[:, :a])
        total = jnp.zeros(len(rows))
        if method.has_return:
            log_probs = jax.vmap(lambda step: step.student_log_prob)(now)
            total += 0.5 * jnp.square(targets - rows[:, a]) - advantages * log_probs
        if method.loss is not None:
            total += numbers.loss_weight * jax.vmap(method.loss)(now)
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
    if estimator == "td":
        ahead = {"student": next_values, "teacher": steps.next_teacher_value, "zero": jnp.zeros_like(rhat)}
        return rhat + numbers.discount * ahead[method.bootstrap]

    def back(following: jax.Array, now: Any) -> Any:
        total = now[0] + numbers.discount * following * now[1]
        return total, total

    return lax.scan(back, jnp.zeros(()), (rhat, alive.astype(jnp.float32)), reverse=True)[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def train_group(horizon: int, method: Method, estimator: str, num_iterations: int, students: Any) -> Any:
    """Trains N students of one method; params [N, O, A + 1], sums of returns and of lengths [N]."""

    def one(mdp: MDP, teacher: Teacher, numbers: Numbers, params: jax.Array, key: jax.Array) -> Any:
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

    return jax.vmap(one)(*students)


def train(problem: Problem, horizon: int = HORIZON) -> Trained:
    """Trains every student, one method after another; the first call also compiles."""
    params = problem.tables()
    returns, lengths = np.empty(params.shape[:2]), np.empty(params.shape[:2])
    key, seconds = jax.random.key(problem.seed), 0.0
    for number, (method, estimator, members) in enumerate(_groups(problem.cells)):
        students = _students(problem, members, params, jax.random.fold_in(key, number))
        jax.block_until_ready(students)
        started = time.perf_counter()
        found = train_group(horizon, method, estimator, problem.num_iterations, students)
        jax.block_until_ready(found)
        seconds += time.perf_counter() - started
        tables, sums, counts = (np.asarray(x).reshape(len(members), -1, *x.shape[1:]) for x in found)
        params[members], returns[members], lengths[members] = tables, sums, counts
    steps = int(lengths.sum())
    return Trained(steps, seconds, params, returns / problem.num_iterations, lengths / problem.num_iterations)


def _groups(cells: tuple[ResolvedCell, ...]) -> list[tuple[Method, str, list[int]]]:
    """The cells that share a program: (method, estimator, their numbers)."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        found.setdefault((cell.method.name, cell.config.estimator), []).append(i)
    return [(cells[members[0]].method, estimator, members) for (_, estimator), members in found.items()]


def _students(problem: Problem, members: list[int], params: np.ndarray, key: jax.Array) -> Any:
    """The worlds, teachers, numbers, tables and keys of the students of some cells, each with a leading axis."""
    mdps, cells = dataclasses.replace(problem.mdps, grid=None), [problem.cells[i] for i in members]
    num = len(members) * mdps.num_mdps
    blank = Teacher(
        probs=jnp.full((mdps.num_mdps, mdps.num_states, mdps.num_actions), 1 / mdps.num_actions),
        values=jnp.zeros((mdps.num_mdps, mdps.num_states)),
        scores=jnp.zeros((mdps.num_mdps, mdps.num_states, mdps.num_actions)),
    )
    own = [blank if cell.teacher is None else dataclasses.replace(cell.teacher, name="", others=None) for cell in cells]
    worlds = jax.tree.map(lambda x: jnp.concatenate([x] * len(cells)), mdps)
    teacher = jax.tree.map(lambda *x: jnp.concatenate(x), *own)
    numbers = Numbers(*(jnp.repeat(_numbers(cells, name), mdps.num_mdps) for name in Numbers._fields))
    starts = jnp.asarray(params[members].reshape(num, *params.shape[2:]))
    return worlds, teacher, numbers, starts, jax.random.split(key, num)


def _numbers(cells: list[ResolvedCell], name: str) -> jax.Array:
    def of(config: Config, method: Method) -> float:
        fixed = method.discount if name == "discount" else None
        return getattr(config, name) if fixed is None else fixed

    return jnp.array([of(cell.config, cell.method) for cell in cells], jnp.float32)
