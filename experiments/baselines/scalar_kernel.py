"""The loop of one student, compiled by numba; imported only where numba is installed.

Everything is inlined into `compiled(A)`, where A is a constant, so that loops over actions are unrolled. A row of the
table is [logits A | V | policy A]. It is passed as a table and an index, because numba counts the references to a
slice. `world`, `code` and `numbers` are those of `scalar_loop`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_OPTIONS: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "boundscheck": False}
_inlined = numba.njit(inline="always", **_OPTIONS)

_ONE, _ZERO, _UNIT = np.float32(1), np.float32(0), np.float32(2**-24)
_LOG2_E, _TINY, _LEAST = np.float32(np.log2(np.e)), np.float32(np.finfo(np.float32).tiny), np.float32(-126)
_24_BITS, _ODD = np.uint64(0xFFFFFF), np.uint64(2685821657736338717)


def _powers_of_two(degree: int = 6) -> list[np.float32]:
    """Coefficients of the polynomial of 2^y on [-1, 0] that interpolates it at Chebyshev's points, highest first."""
    points = (np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)) - 1) / 2
    coefficients = np.polynomial.polynomial.polyfit(points, 2.0**points, degree)
    return [np.float32(coefficient) for coefficient in coefficients[::-1]]


_C6, _C5, _C4, _C3, _C2, _C1, _C0 = _powers_of_two()


@_inlined
def exponential(x: Any) -> Any:
    """exp(x) for x <= 0 within 3e-7, without a branch or a call."""
    y = max(x * _LOG2_E, _LEAST)
    whole = np.int32(y)  # towards zero, so that the rest is in (-1, 0]
    rest = y - np.float32(whole)
    power = _C0 + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * (_C5 + rest * _C6)))))
    return power * np.int32((whole + 127) << 23).view(np.float32)


@_inlined
def refresh(A: Any, table: Any, o: Any) -> None:
    """Computes the policy of row o from its logits."""
    most = table[o, 0]
    for a in range(1, A):
        most = max(most, table[o, a])
    total = _ZERO
    for a in range(A):
        weight = exponential(table[o, a] - most)
        table[o, A + 1 + a] = weight
        total += weight
    inverse = _ONE / total
    for a in range(A):
        table[o, A + 1 + a] *= inverse


@_inlined
def advanced(x: Any) -> Any:
    """The next state of the generator (xorshift64*, Vigna 2016); its output is the state times an odd number."""
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    return x


@_inlined
def uniform(bits: Any) -> Any:
    """A float32 in [0, 1) from the 24 lowest bits."""
    return np.float32(np.int64(bits & _24_BITS)) * _UNIT


@_inlined
def start_state(world: Any, x: Any) -> Any:
    """A start state, and the generator after the draw."""
    starts, cumulative = world[6], world[7]
    start_index = 0
    if len(starts) > 1:
        x = advanced(x)
        u = uniform((x * _ODD) >> np.uint64(40))
        for b in range(len(starts) - 1):
            start_index += u >= cumulative[b]
    return np.int64(starts[start_index]), x


@_inlined
def draw(A: Any, control: Any, table: Any, o: Any, teacher: Any, s: Any, u: Any) -> Any:
    """An action of the student's policy (control 0) or of the teacher's."""
    action, mass = 0, _ZERO
    if control == 0:
        for a in range(A - 1):
            mass += table[o, A + 1 + a]
            action += u >= mass
    else:
        for a in range(A - 1):
            mass += teacher[s, a]
            action += u >= mass
    return action


@_inlined
def play(
    A: Any, world: Any, teacher: Any, control: Any, max_steps: Any, table: Any, stale: Any, path: Any, x: Any
) -> Any:
    """Plays and records one episode; returns its length, its return, and the generator after it."""
    successor, rewards, terminal, cumulative, by_state, observation, _, _, continue_prob = world
    states, actions, values, collected = path
    at_once, at_end = _ONE / continue_prob, _ONE / max(_ONE - continue_prob, _TINY)
    s, x = start_state(world, x)
    length, total, ended = 0, _ZERO, False
    while not ended:
        o = np.int64(observation[s])
        if stale[o]:
            refresh(A, table, o)
            stale[o] = 0
        x = advanced(x)
        bits = x * _ODD
        action = draw(A, control, table, o, teacher, s, uniform(bits >> np.uint64(40)))
        w = uniform(bits >> np.uint64(16))
        goes_on = w < continue_prob
        w = w * at_once if goes_on else (w - continue_prob) * at_end
        outcome, row = 0, (s * A + action if by_state else action)
        for k in range(cumulative.shape[1] - 1):
            outcome += w >= cumulative[row, k]
        states[length], actions[length] = s, action
        values[length], collected[length] = table[o, A], rewards[s, outcome]
        total += rewards[s, outcome]
        length += 1
        ended = terminal[s, outcome] or not goes_on or length >= max_steps
        s = np.int64(successor[s, outcome])
    return length, total, x


@_inlined
def reward_of(
    A: Any, code: Any, reward: Any, table: Any, o: Any, teacher: Any, s: Any, action: Any, discount: Any,
    next_teacher_value: Any,
) -> Any:  # fmt: skip
    """The part of rhat_t that step t decides; `next_teacher_value` is V_pi(t + 1)."""
    if code == 1:
        return reward
    if code == 2:
        return teacher[s, A + action]
    if code == 3:
        return teacher[s, A + action] - np.log(max(table[o, A + 1 + action], _TINY))
    if code == 4:
        return reward + discount * next_teacher_value - teacher[s, 2 * A]
    return _ZERO


@_inlined
def next_reward_of(A: Any, code: Any, table: Any, o: Any, teacher: Any, s: Any, action: Any) -> Any:
    """The part of rhat_{t-1} that step t decides."""
    bonus = _ZERO
    if code == 1:
        for a in range(A):
            bonus += teacher[s, a] * np.log(max(table[o, A + 1 + a], _TINY))
    elif code == 2:
        bonus = teacher[s, A + action]
    return bonus


@_inlined
def descend(A: Any, loss: Any, rate: Any, table: Any, o: Any, teacher: Any, s: Any, value: Any) -> None:
    """Adds -rate * grad l to the logits of a row."""
    if loss == 1 or (loss == 2 and teacher[s, 2 * A] > value):
        for a in range(A):
            table[o, a] += rate * (teacher[s, a] - table[o, A + 1 + a])
    elif loss == 3:
        mean = _ZERO
        for a in range(A):
            mean += table[o, A + 1 + a] * teacher[s, A + a]
        for a in range(A):
            table[o, a] += rate * table[o, A + 1 + a] * (teacher[s, A + a] - mean)


@_inlined
def learn(
    A: Any, observation: Any, teacher: Any, code: Any, numbers: Any, length: Any, table: Any, stale: Any, path: Any
) -> None:
    """Walks the episode backward and updates the rows; it reads the policies and values before the update."""
    states, actions, values, collected = path
    _, loss, reward_code, next_code, bootstrap, baseline = code
    rate, value_rate, discount, loss_weight, return_weight = numbers
    rate, value_rate = rate / np.float32(length), value_rate / np.float32(length)
    # Of step t + 1, or 0 after the end: its target, V_theta, V_pi, and the part of rhat_t that it decides.
    target, value, teacher_value, bonus = _ZERO, _ZERO, _ZERO, _ZERO
    for t in range(length - 1, -1, -1):
        s, action = np.int64(states[t]), np.int64(actions[t])
        o = np.int64(observation[s])
        rhat = bonus + reward_of(A, reward_code, collected[t], table, o, teacher, s, action, discount, teacher_value)
        if bootstrap == 0:
            rhat += discount * value
        elif bootstrap == 1:
            rhat += discount * teacher_value
        elif bootstrap == 3:
            rhat += discount * target
        target, value, teacher_value = rhat, values[t], teacher[s, 2 * A]
        bonus = next_reward_of(A, next_code, table, o, teacher, s, action)
        if reward_code > 0 or next_code > 0:
            step = rate * return_weight * (target - value if baseline else target)
            for a in range(A):
                table[o, a] -= step * table[o, A + 1 + a]
            table[o, action] += step
            table[o, A] += value_rate * (target - value)
        descend(A, loss, rate * loss_weight, table, o, teacher, s, value)
        stale[o] = 1


@functools.cache
def compiled(num_actions: int) -> Callable[..., Any]:
    """The loop of one student with A actions; returns its steps and the sum of its episodes' returns."""
    A = num_actions

    @numba.njit(**_OPTIONS)
    def train_student(
        world: Any, teacher: Any, code: Any, numbers: Any, x: Any, num_iterations: Any, max_steps: Any, table: Any,
        stale: Any, path: Any,
    ) -> Any:  # fmt: skip
        steps, returns = 0, 0.0
        for _ in range(num_iterations):
            length, total, x = play(A, world, teacher, code[0], max_steps, table, stale, path, x)
            learn(A, world[5], teacher, code, numbers, length, table, stale, path)
            steps += length
            returns += total
        return steps, returns

    return train_student
