"""What a row of a learner's table means: the policy it plays, and how a step credits it.

The engine moves rows about and asks a rule for the rest; the students of every method and the Q-learning teacher are
two rules of one engine.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill import methods, numerics
from jaxdistill.methods import Method, Step, StepFn

Leaf = Any  # jax.Array inside a program, np.ndarray while the host prepares it

BOOTSTRAPS = ("student", "teacher", "zero")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Student:
    """The constants of one student: who it is and the numbers that may differ without recompiling.

    Attributes:
      mdp, teacher: int32 [], which world and which teacher.
      key: uint32 [2], the name of its random stream.
      learning_rate, value_learning_rate, discount, probability_floor, loss_weight, return_weight: float32 [].
      control: float32 [3], weights of the student's, the teacher's and the uniform policy in q.
      per_episode: bool [], whether q draws its component once per episode.
      loss, reward, next_reward, bootstrap: int32 [], which function of the program's; -1 for none.
      baseline: float32 [], 1 where V_theta(t) is subtracted from the return.
      params: the method's numbers by name; {} for Q-learning but for "epsilon".
    """

    mdp: Leaf
    teacher: Leaf
    key: Leaf
    learning_rate: Leaf
    value_learning_rate: Leaf
    discount: Leaf
    probability_floor: Leaf
    loss_weight: Leaf
    return_weight: Leaf
    control: Leaf
    per_episode: Leaf
    loss: Leaf
    reward: Leaf
    next_reward: Leaf
    bootstrap: Leaf
    baseline: Leaf
    params: Mapping[str, Leaf]


def _select(fns: tuple[StepFn, ...], chosen: jax.Array, evaluate: Callable[[StepFn], jax.Array], like: jax.Array):
    """evaluate(fns[chosen]), or zeros; chosen among results, so that a function not chosen cannot leak a NaN."""
    out = jnp.zeros_like(like)
    for k, fn in enumerate(fns):
        out = jnp.where(chosen == k, evaluate(fn).astype(out.dtype), out)
    return out


@dataclasses.dataclass(frozen=True)
class StudentRule:
    """Rows of students: [logits A | V | pending direction A + 1 | stamp].

    Parameters stay fixed within an episode, so a step adds its direction to the pending half; the first visit of a
    later episode adds `scale * pending` to the parameters. `stamp` is the iteration that the pending half belongs to.

    Attributes:
      num_actions: A.
      losses, rewards, next_rewards: the distinct functions of the methods that share the program.
    """

    num_actions: int
    losses: tuple[StepFn, ...]
    rewards: tuple[StepFn, ...]
    next_rewards: tuple[StepFn, ...]
    mixes: bool  # whether any control policy is not the student's own
    num_others: int = 0  # further policies in a teacher's row

    @property
    def num_params(self) -> int:
        return self.num_actions + 1

    @property
    def width(self) -> int:
        return -(-(2 * self.num_params + 1) // 8) * 8

    @property
    def teacher_width(self) -> int:
        return self.num_actions * (1 + self.num_others) + 1

    def stamp(self, row):
        return row[..., 2 * self.num_params]

    def refresh(self, row: jax.Array, scale: jax.Array, iteration: jax.Array) -> jax.Array:
        """The row as iteration `iteration` sees it: an earlier iteration's pending direction applied and cleared."""
        n, now = self.num_params, iteration.astype(row.dtype)
        stale = self.stamp(row) != now
        pending = row[n : 2 * n]
        rate = jnp.where(jnp.arange(n) < self.num_actions, scale[0], scale[1])
        params = row[:n] + jnp.where(stale, rate * pending, 0)
        return jnp.concatenate([params, jnp.where(stale, 0, pending), now[None], row[2 * n + 1 :]])

    def weights(self, row, teacher_row, student: Student, control: jax.Array) -> jax.Array:
        """Unnormalised probabilities of the control policy, [A]."""
        logits = row[: self.num_actions]
        own = jnp.exp(logits - jnp.max(logits))
        if not self.mixes:
            return own
        teacher = teacher_row[: self.num_actions]
        return control[0] * own / jnp.sum(own) + control[1] * teacher + control[2] / self.num_actions

    def step(self, student: Student, row, teacher_row, next_teacher_value, action, reward) -> Step:
        a = self.num_actions
        return Step(
            student_logits=row[:a],
            frozen_logits=row[:a],
            student_value=row[a],
            teacher_probs=teacher_row[:a],
            teacher_log_probs=numerics.log_floored(teacher_row[:a], student.probability_floor),
            teacher_value=teacher_row[a],
            next_teacher_value=next_teacher_value,
            action=action,
            reward=reward,
            discount=student.discount,
            params=student.params,
            other_probs=teacher_row[a + 1 :].reshape(self.num_others, a),
        )

    def reward(self, student: Student, step: Step) -> jax.Array:
        return _select(self.rewards, student.reward, lambda fn: fn(step), step.reward)

    def next_reward(self, student: Student, step: Step) -> jax.Array:
        return _select(self.next_rewards, student.next_reward, lambda fn: fn(step), step.reward)

    def bootstrap(self, student: Student, next_row, step: Step, alive) -> jax.Array:
        """V(t+1) of TD(1), 0 after the end."""
        own = next_row[self.num_actions] * alive
        return jnp.where(student.bootstrap == 0, own, jnp.where(student.bootstrap == 1, step.next_teacher_value, 0))

    def credit(self, student: Student, row, step: Step, target) -> jax.Array:
        """The row with step t's direction added, Rhat_t being `target` (less the baseline)."""
        has_return = ((student.reward >= 0) | (student.next_reward >= 0)).astype(row.dtype)
        loss_gradient = _select(
            self.losses, student.loss, lambda fn: methods.loss_gradient(fn, step), step.student_logits
        )
        value = step.student_value
        advantage = has_return * student.return_weight * (target - student.baseline * value)
        direction = advantage * methods.score(step) - student.loss_weight * loss_gradient
        return self._add(row, direction, has_return * (target - value))

    def credit_more(self, student: Student, row, step: Step, bonus) -> jax.Array:
        """The row after `credit`, had the target been larger by `bonus`."""
        return self._add(row, student.return_weight * bonus * methods.score(step), bonus)

    def _add(self, row, direction, value_direction):
        n = self.num_params
        added = jnp.concatenate([direction, value_direction[None]])
        return jnp.concatenate([row[:n], row[n : 2 * n] + added, row[2 * n :]])


@dataclasses.dataclass(frozen=True)
class QLearningRule:
    """Rows of Q-learning: [Q A], updated after every step, epsilon-greedy with ties shared (App. A.4)."""

    num_actions: int
    next_rewards: tuple[StepFn, ...] = ()

    @property
    def num_params(self) -> int:
        return self.num_actions

    @property
    def width(self) -> int:
        return -(-self.num_actions // 4) * 4

    @property
    def teacher_width(self) -> int:
        return self.num_actions + 1

    def stamp(self, row):
        return jnp.zeros_like(row[..., 0])

    def refresh(self, row, scale, iteration):
        return row

    def weights(self, row, teacher_row, student: Student, control):
        q = row[: self.num_actions]
        best = (q == jnp.max(q)).astype(row.dtype)
        epsilon = student.params["epsilon"]
        return (1 - epsilon) * best / jnp.sum(best) + epsilon / self.num_actions

    def step(self, student: Student, row, teacher_row, next_teacher_value, action, reward) -> Any:
        return action, reward

    def next_reward(self, student: Student, step):
        return jnp.zeros_like(step[1])

    def reward(self, student: Student, step):
        return step[1]

    def bootstrap(self, student: Student, next_row, step, alive):
        return jnp.max(next_row[: self.num_actions]) * alive

    def credit(self, student: Student, row, step, target):
        """Q(s, a) <- (1 - lambda) Q(s, a) + lambda (r + gamma max_b Q(s', b))."""
        chosen = jnp.arange(row.shape[0], dtype=jnp.int32) == step[0]
        return row + jnp.where(chosen, student.learning_rate * (target - row), 0)


Rule = StudentRule | QLearningRule


def student_rule(num_actions: int, group: tuple[Method, ...], num_others: int = 0) -> StudentRule:
    """The rule that serves every method of `group`; `num_others`: further policies in a teacher's row."""

    def distinct(fns):
        return tuple(dict.fromkeys(fn for fn in fns if fn is not None))

    return StudentRule(
        num_actions=num_actions,
        losses=distinct(m.loss for m in group),
        rewards=distinct(m.reward for m in group),
        next_rewards=distinct(m.next_reward for m in group),
        mixes=any(not m.control.is_student for m in group),
        num_others=num_others,
    )
