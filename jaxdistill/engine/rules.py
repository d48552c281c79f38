"""What a row of a learner's table means: the policy it plays, and how a step credits it.

The engine moves rows about and asks a rule for the rest; the students of every method and the Q-learning teacher are
two rules of one engine.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdistill import methods
from jaxdistill.methods import Method, Step, StepFn, numerics

Row = tuple[jax.Array, ...]  # the parts of a row, each [width] of its rule
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
    """Rows of students, in two parts of equal width: [logits A | V | stamp], [direction A + 1].

    Parameters stay fixed within an episode, so a step adds its direction to the second part; the first visit of a later
    episode adds `scale * direction` to the parameters. `stamp` is the iteration that the direction belongs to.

    The parts are arrays of their own, padded to whole vectors of the processor, because XLA computes an array that is
    put together from several others entry by entry, with a branch for each.

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
    num_parts: ClassVar[int] = 2

    @property
    def num_params(self) -> int:
        return self.num_actions + 1

    @property
    def width(self) -> int:
        return -(-(self.num_params + 1) // 8) * 8

    @property
    def teacher_width(self) -> int:
        return self.num_actions * (1 + self.num_others) + 1

    def stamp(self, row: Row) -> jax.Array:
        return row[0][..., self.num_params]

    def refresh(self, row: Row, scale: jax.Array, iteration: jax.Array) -> Row:
        """The row as iteration `iteration` sees it: an earlier iteration's direction applied and cleared."""
        params, direction = row
        place, now = jnp.arange(self.width, dtype=jnp.int32), iteration.astype(params.dtype)
        stale = self.stamp(row) != now
        rate = jnp.where(place < self.num_actions, scale[0], scale[1])
        params = params + jnp.where(stale, rate * direction, 0)
        return jnp.where(place == self.num_params, now, params), jnp.where(stale, 0, direction)

    def weights(self, row: Row, teacher_row, student: Student, control: jax.Array) -> jax.Array:
        """Unnormalised probabilities of the control policy, [A]."""
        logits = row[0][: self.num_actions]
        own = jnp.exp(logits - jnp.max(logits))
        if not self.mixes:
            return own
        teacher = teacher_row[: self.num_actions]
        return control[0] * own / jnp.sum(own) + control[1] * teacher + control[2] / self.num_actions

    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Step:
        params, a = row[0], self.num_actions
        return Step(
            student_logits=params[:a],
            frozen_logits=params[:a],
            student_value=params[a],
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

    def bootstrap(self, student: Student, next_row: Row, step: Step, alive) -> jax.Array:
        """V(t+1) of TD(1), 0 after the end."""
        own = next_row[0][self.num_actions] * alive
        return jnp.where(student.bootstrap == 0, own, jnp.where(student.bootstrap == 1, step.next_teacher_value, 0))

    def credit(self, student: Student, row: Row, step: Step, target) -> Row:
        """The row with step t's direction added, Rhat_t being `target` (less the baseline)."""
        value = step.student_value
        has_return = ((student.reward >= 0) | (student.next_reward >= 0)).astype(value.dtype)
        loss_gradient = _select(
            self.losses, student.loss, lambda fn: methods.loss_gradient(fn, step), step.student_logits
        )
        advantage = has_return * student.return_weight * (target - student.baseline * value)
        direction = advantage * methods.score(step) - student.loss_weight * loss_gradient
        return self._add(row, direction, has_return * (target - value))

    def credit_more(self, student: Student, row: Row, step: Step, bonus) -> Row:
        """The row after `credit`, had the target been larger by `bonus`."""
        return self._add(row, student.return_weight * bonus * methods.score(step), bonus)

    def _add(self, row: Row, direction: jax.Array, value_direction: jax.Array) -> Row:
        return row[0], row[1] + numerics.spread([direction, value_direction], self.width)


@dataclasses.dataclass(frozen=True)
class QLearningRule:
    """Rows of Q-learning, of one part: [Q A], updated after every step, epsilon-greedy with ties shared (App. A.4)."""

    num_actions: int
    next_rewards: tuple[StepFn, ...] = ()
    num_parts: ClassVar[int] = 1

    @property
    def num_params(self) -> int:
        return self.num_actions

    @property
    def width(self) -> int:
        return -(-self.num_actions // 4) * 4

    @property
    def teacher_width(self) -> int:
        return self.num_actions + 1

    def stamp(self, row: Row) -> jax.Array:
        return jnp.zeros_like(row[0][..., 0])

    def refresh(self, row: Row, scale, iteration) -> Row:
        return row

    def weights(self, row: Row, teacher_row, student: Student, control):
        q = row[0][: self.num_actions]
        best = (q == jnp.max(q)).astype(q.dtype)
        epsilon = student.params["epsilon"]
        return (1 - epsilon) * best / jnp.sum(best) + epsilon / self.num_actions

    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Any:
        return action, reward

    def next_reward(self, student: Student, step):
        return jnp.zeros_like(step[1])

    def reward(self, student: Student, step):
        return step[1]

    def bootstrap(self, student: Student, next_row: Row, step, alive):
        return jnp.max(next_row[0][: self.num_actions]) * alive

    def credit(self, student: Student, row: Row, step, target) -> Row:
        """Q(s, a) <- (1 - lambda) Q(s, a) + lambda (r + gamma max_b Q(s', b))."""
        (q,) = row
        chosen = jnp.arange(self.width, dtype=jnp.int32) == step[0]
        return (q + jnp.where(chosen, student.learning_rate * (target - q), 0),)


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
