"""What a row of a learner's table means: which policy it plays, and how a step credits it.

The engine moves rows and leaves the rest to a rule. The students of all methods and the Q-learning teacher are two
rules of one engine.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.estimators import ESTIMATORS
from jaxdistill.estimators.estimator import Row, select
from jaxdistill.methods import Method, Step, StepFn, UpdateOptions, loss_gradient, make_step, numerics, score
from jaxdistill.methods.method import BOOTSTRAPS

Leaf = Any
"""A `jax.Array` inside a program, a `np.ndarray` while the host prepares it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Student:
    """The constants of one student: its identity and the numbers that may differ without recompiling.

    Attributes:
      mdp, teacher: int32 [], index of its world and of its teacher.
      key: uint32 [2], the name of its random stream.
      time_limit: int32 [], steps after which its episodes are cut.
      learning_rate, value_learning_rate: float32 []. These and all other numbers are those of the current iteration.
      options: `UpdateOptions`, its numbers float32 []; its names are those of the program.
      schedule: int32 [], the row of the table of schedules that holds its numbers in iteration 0.
      control: float32 [3], weights of the student's, the teacher's and the uniform policy in q.
      per_episode: bool [], whether q draws its component once per episode.
      loss, reward, next_reward: int32 [], index of the function in the program's rule; -1 for none.
      bootstrap: int32 [], index into `methods.method.BOOTSTRAPS`.
      baseline: float32 [], 1 where V_theta(t) is subtracted from the return.
      params: the method's numbers by name; for Q-learning the number of the policy that explores, "epsilon" or
        "temperature".
    """

    mdp: Leaf
    teacher: Leaf
    key: Leaf
    time_limit: Leaf
    learning_rate: Leaf
    value_learning_rate: Leaf
    options: UpdateOptions
    schedule: Leaf
    control: Leaf
    per_episode: Leaf
    loss: Leaf
    reward: Leaf
    next_reward: Leaf
    bootstrap: Leaf
    baseline: Leaf
    params: Mapping[str, Leaf]


def _select(fns: tuple[StepFn, ...], index: jax.Array, evaluate: Callable[[StepFn], jax.Array], like: jax.Array):
    """evaluate(fns[index]), or zeros for -1.

    Results are selected and not multiplied by 0, because a NaN of another function would then spread.
    """
    out = jnp.zeros_like(like)
    for k, fn in enumerate(fns):
        out = jnp.where(index == k, evaluate(fn).astype(out.dtype), out)
    return out


@dataclasses.dataclass(frozen=True)
class Rule(abc.ABC):
    """What the engine and the estimators need of a kind of learner; hashable. Everything here is about one lane.

    Only a rule with `next_rewards` has `credit_more`, see `StudentRule`.

    Attributes:
      num_actions: A.
      next_rewards: the functions by which the action of step t + 1 decides a part of rhat_t.
    """

    num_actions: int
    next_rewards: tuple[StepFn, ...]

    @property
    @abc.abstractmethod
    def num_parts(self) -> int:
        """Arrays that make up a row."""

    @property
    @abc.abstractmethod
    def num_params(self) -> int:
        """Parameters in a row; they come first in its first part."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Entries of each part of a row, padded to whole vectors of the processor."""

    @property
    @abc.abstractmethod
    def teacher_width(self) -> int:
        """Entries of a teacher's row."""

    @property
    def num_features(self) -> int:
        """F, the rows of a state where its logits are a sum of several; 0 where a state uses one row."""
        return 0

    @abc.abstractmethod
    def stamp(self, row: Row) -> jax.Array:
        """The iteration that a row's stored direction belongs to."""

    @abc.abstractmethod
    def refresh(self, row: Row, scale: jax.Array, iteration: jax.Array) -> Row:
        """The row as iteration `iteration` sees it: an earlier iteration's direction applied and cleared."""

    @abc.abstractmethod
    def weights(self, row: Row, teacher_row: jax.Array, student: Student, control: jax.Array) -> jax.Array:
        """Unnormalised probabilities of the control policy, [A]."""

    @abc.abstractmethod
    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Any:
        """What the functions below see of a step."""

    @abc.abstractmethod
    def reward(self, student: Student, step: Any) -> jax.Array:
        """The part of rhat_t that step t decides."""

    @abc.abstractmethod
    def next_reward(self, student: Student, step: Any) -> jax.Array:
        """The part of rhat_{t-1} that the action of step t decides."""

    @abc.abstractmethod
    def state_value(self, student: Student, row: Row, teacher_value: jax.Array) -> jax.Array:
        """The value of a state by which the method bootstraps."""

    @abc.abstractmethod
    def credit(self, student: Student, row: Row, step: Any, target: jax.Array, share: jax.Array | None = None) -> Row:
        """The row with step t's direction added, where Rhat_t is `target`; with a `share`, with that part of it."""

    def teacher_value(self, teacher_row: jax.Array) -> jax.Array:
        """V_pi of a teacher's row [..., teacher_width]."""
        return teacher_row[..., self.num_actions]

    def is_finite(self, row: Row) -> jax.Array:
        """Whether all entries of all parts of a row are finite, bool []."""
        return functools.reduce(jnp.logical_and, map(numerics.all_finite, row))

    def taken_over(self, is_same: jax.Array, other: Row, row: Row) -> Row:
        """`other` in place of `row` where both are the same row of the table, as `is_same` [] says."""
        return select(is_same, other, row)


@dataclasses.dataclass(frozen=True)
class StudentRule(Rule):
    """Rows of students, in two parts of equal width: [logits A | V | stamp], [direction A + 1 | is credited].

    Parameters stay fixed within an episode. So a step adds its direction to the second part, and the first visit of a
    later episode adds `scale * direction` to the parameters. `stamp` is the iteration that the direction belongs to.

    The parts are separate arrays, padded to whole vectors of the processor, because XLA computes an array that is
    concatenated from several others entry by entry, with a branch for each.

    If the last visit of a row in an episode counts alone, its direction takes the place of earlier ones. An estimator
    that walks backward credits it first; the flag `is credited` then stops earlier visits from replacing it. If only
    one of loss and return counts once, its direction is in a third part; that of the other is in the second.

    Attributes:
      num_actions: A.
      losses, rewards, next_rewards: the distinct functions of the methods that share the program.
      mixes: whether any control policy is not the student's own.
      num_others: further policies in a teacher's row.
      loss_visits, return_visits: see `UpdateOptions`.
      walks_backward: whether the last step of an episode is credited first; only set where a row counts once.
    """

    losses: tuple[StepFn, ...]
    rewards: tuple[StepFn, ...]
    next_rewards: tuple[StepFn, ...]
    mixes: bool
    num_others: int = 0
    loss_visits: str = "every"
    return_visits: str = "every"
    walks_backward: bool = False

    @property
    def num_parts(self) -> int:
        return 2 if self.loss_visits == self.return_visits else 3

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
        params, *directions = row
        place, now = jnp.arange(self.width, dtype=jnp.int32), iteration.astype(params.dtype)
        stale = self.stamp(row) != now
        rate = jnp.where(place < self.num_actions, scale[0], scale[1])
        params = params + jnp.where(stale, rate * functools.reduce(jnp.add, directions), 0)
        return jnp.where(place == self.num_params, now, params), *(jnp.where(stale, 0, x) for x in directions)

    def weights(self, row: Row, teacher_row, student: Student, control: jax.Array) -> jax.Array:
        logits = row[0][: self.num_actions]
        student_weights = jnp.exp(logits - jnp.max(logits))
        if not self.mixes:
            return student_weights
        teacher_probs = teacher_row[: self.num_actions]
        student_probs = control[0] * student_weights / jnp.sum(student_weights)
        return student_probs + control[1] * teacher_probs + control[2] / self.num_actions

    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Step:
        params, a = row[0], self.num_actions
        return make_step(
            params[:a],
            teacher_row[:a],
            probability_floor=student.options.probability_floor,
            student_value=params[a],
            teacher_value=teacher_row[a],
            next_teacher_value=next_teacher_value,
            action=action,
            reward=reward,
            discount=student.options.discount,
            params=student.params,
            other_probs=teacher_row[a + 1 :].reshape(self.num_others, a),
        )

    def reward(self, student: Student, step: Step) -> jax.Array:
        return _select(self.rewards, student.reward, lambda fn: fn(step), step.reward)

    def next_reward(self, student: Student, step: Step) -> jax.Array:
        return _select(self.next_rewards, student.next_reward, lambda fn: fn(step), step.reward)

    def state_value(self, student: Student, row: Row, teacher_value: jax.Array) -> jax.Array:
        student_value = row[0][self.num_actions]
        is_student, is_teacher = (student.bootstrap == BOOTSTRAPS.index(name) for name in ("student", "teacher"))
        return jnp.where(is_student, student_value, jnp.where(is_teacher, teacher_value, 0))

    def credit(self, student: Student, row: Row, step: Step, target, share=None) -> Row:
        value, options = step.student_value, student.options
        has_return = ((student.reward >= 0) | (student.next_reward >= 0)).astype(value.dtype)
        gradient = _select(self.losses, student.loss, lambda fn: loss_gradient(fn, step), step.student_logits)
        advantage = has_return * options.return_weight * (target - student.baseline * value)
        return_direction, value_direction = advantage * score(step), has_return * (target - value)
        if self.num_parts == 2:
            total = self._spread(return_direction - options.loss_weight * gradient, value_direction, share)
            return row[0], self._visited(row[1], total, self.loss_visits)
        loss = self._spread(-options.loss_weight * gradient, jnp.zeros_like(value), share)
        returned = self._spread(return_direction, value_direction, share)
        every, once = (loss, returned) if self.loss_visits == "every" else (returned, loss)
        return row[0], self._visited(row[1], every, "every"), self._visited(row[2], once, "once")

    def credit_more(self, student: Student, row: Row, step: Step, bonus, share=None) -> Row:
        """Adds to the visit that was credited last what a target larger by `bonus` would have added."""
        more = self._spread(student.options.return_weight * bonus * score(step), bonus, share)
        part = 2 if self.num_parts == 3 and self.return_visits == "once" else 1
        return *row[:part], row[part] + more, *row[part + 1 :]

    def _spread(self, direction: jax.Array, value_direction: jax.Array, share: jax.Array | None) -> jax.Array:
        row = numerics.spread([direction, value_direction], self.width)
        return row if share is None else share * row

    def _visited(self, part: jax.Array, direction: jax.Array, visits: str) -> jax.Array:
        """The part of a row with the direction of one more visit."""
        if visits == "every":
            return part + direction
        if not self.walks_backward:
            return direction
        is_flag = jnp.arange(self.width, dtype=jnp.int32) == self.num_params
        return jnp.where(part[self.num_params] > 0, part, jnp.where(is_flag, 1, direction))


@dataclasses.dataclass(frozen=True)
class QLearningRule(Rule):
    """Rows of Q-learning, of one part: [Q A], updated after every step (App. A.4)."""

    next_rewards: tuple[StepFn, ...] = ()

    @property
    def num_parts(self) -> int:
        return 1

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
        return jnp.zeros_like(row[0][..., 0])  # rows have no stored direction

    def refresh(self, row: Row, scale, iteration) -> Row:
        return row

    def weights(self, row: Row, teacher_row, student: Student, control):
        """Probabilities of the policy that explores, [A]: softmax(Q / temperature), or epsilon-greedy."""
        q = row[0][: self.num_actions]
        if "temperature" in student.params:
            return jnp.exp((q - jnp.max(q)) / student.params["temperature"])
        best = (q == jnp.max(q)).astype(q.dtype)
        epsilon = student.params["epsilon"]
        return (1 - epsilon) * best / jnp.sum(best) + epsilon / self.num_actions

    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Any:
        return action, reward, row[0]

    def next_reward(self, student: Student, step):
        return jnp.zeros_like(step[1])

    def reward(self, student: Student, step):
        return step[1]

    def state_value(self, student: Student, row: Row, teacher_value: jax.Array) -> jax.Array:
        """max_b Q(s, b)."""
        return jnp.max(row[0][: self.num_actions])

    def credit(self, student: Student, row: Row, step, target, share=None) -> Row:
        """Q(s, a) <- Q(s, a) + learning_rate (target - Q(s, a)), target = r + discount max_b Q(s', b)."""
        action, _, q = step
        is_action = jnp.arange(self.width, dtype=jnp.int32) == action
        change = jnp.where(is_action, student.learning_rate * (target - q), 0)
        return (row[0] + (change if share is None else share * change),)


@dataclasses.dataclass(frozen=True)
class SumRule(Rule):
    """The rows of a state's features, each with a direction and a stamp of its own, which act as their sum.

    A `Row` has parts [F, width]. The sum of the rows is what the policy, the value and a step are computed from, and a
    step adds its direction to every row. All that concerns a single row is left to `row_rule`.

    Attributes:
      num_actions, next_rewards: those of `row_rule`.
      row_rule: what one row means.
      number: F.
    """

    row_rule: Rule
    number: int

    @property
    def num_features(self) -> int:
        return self.number

    @property
    def num_parts(self) -> int:
        return self.row_rule.num_parts

    @property
    def num_params(self) -> int:
        return self.row_rule.num_params

    @property
    def width(self) -> int:
        return self.row_rule.width

    @property
    def teacher_width(self) -> int:
        return self.row_rule.teacher_width

    def stamp(self, row: Row) -> jax.Array:
        return self.row_rule.stamp(row)

    def refresh(self, row: Row, scale: jax.Array, iteration: jax.Array) -> Row:
        """The rows as iteration `iteration` sees them; `scale` [F, 2], or [2] for all of them."""
        by_row = jax.vmap(self.row_rule.refresh, in_axes=(0, 0 if scale.ndim == 2 else None, None))
        return by_row(row, scale, iteration)

    def _total(self, row: Row) -> Row:
        """The sum of the rows' parameters, as a row of which nothing else is used."""
        params = row[0]
        if self.num_features > numerics.LONGEST_UNROLLED:
            return (jnp.sum(params, axis=0),)
        return (functools.reduce(jnp.add, (params[f] for f in range(self.num_features))),)

    def weights(self, row: Row, teacher_row: jax.Array, student: Student, control: jax.Array) -> jax.Array:
        return self.row_rule.weights(self._total(row), teacher_row, student, control)

    def step(self, student: Student, row: Row, teacher_row, next_teacher_value, action, reward) -> Any:
        return self.row_rule.step(student, self._total(row), teacher_row, next_teacher_value, action, reward)

    def reward(self, student: Student, step: Any) -> jax.Array:
        return self.row_rule.reward(student, step)

    def next_reward(self, student: Student, step: Any) -> jax.Array:
        return self.row_rule.next_reward(student, step)

    def state_value(self, student: Student, row: Row, teacher_value: jax.Array) -> jax.Array:
        return self.row_rule.state_value(student, self._total(row), teacher_value)

    def credit(self, student: Student, row: Row, step: Any, target, share=None) -> Row:
        """Every row with its share [F] of step t's direction added."""
        return jax.vmap(lambda row, share: self.row_rule.credit(student, row, step, target, share))(row, share)

    def credit_more(self, student: Student, row: Row, step: Any, bonus, share=None) -> Row:
        rule: Any = self.row_rule
        return jax.vmap(lambda row, share: rule.credit_more(student, row, step, bonus, share))(row, share)

    def is_finite(self, row: Row) -> jax.Array:
        return numerics.all_true(super().is_finite(row))

    def taken_over(self, is_same: jax.Array, other: Row, row: Row) -> Row:
        """`row`, with the row g of `other` in place of its row f where `is_same` [F, F] at [f, g]."""
        if self.num_features > numerics.LONGEST_UNROLLED:
            is_shared, index = jnp.any(is_same, axis=1), jnp.argmax(is_same, axis=1)
            others = jax.tree.map(lambda part: part.at[index].get(mode="promise_in_bounds"), other)
            return select(is_shared, others, row)
        for g in range(self.num_features):
            row = jax.tree.map(lambda new, old, g=g: jnp.where(is_same[:, g, None], new[g], old), other, row)
        return row


def student_rule(
    num_actions: int, methods: tuple[Method, ...], num_others: int = 0, options: UpdateOptions | None = None
) -> StudentRule:
    """The rule that serves every one of `methods`; `num_others`: further policies in a teacher's row."""
    options = UpdateOptions() if options is None else options

    def distinct(fns):
        return tuple(dict.fromkeys(fn for fn in fns if fn is not None))

    return StudentRule(
        num_actions=num_actions,
        losses=distinct(m.loss for m in methods),
        rewards=distinct(m.reward for m in methods),
        next_rewards=distinct(m.next_reward for m in methods),
        mixes=any(not m.control.is_student for m in methods),
        num_others=num_others,
        loss_visits=options.loss_visits,
        return_visits=options.return_visits,
        walks_backward="once" in (options.loss_visits, options.return_visits)
        and ESTIMATORS[options.estimator].records_episode,
    )


def q_learning_rule(
    num_actions: int, methods: tuple[Method, ...], num_others: int = 0, options: UpdateOptions | None = None
) -> QLearningRule:
    """The rule of Q-learning, with the arguments of `student_rule`."""
    return QLearningRule(num_actions)
