"""The roofline: one student after the other in a scalar loop compiled by numba, a thread per core.

The loop is what the processor allows, not what a person would write for a study: methods are numbers, so that only
those of `jaxdistill.METHODS` exist. A row of the table holds logits, value and the policy, which is computed anew only
after the row has changed; parameters stay fixed within an episode because the way back reads the recorded values and
the old policy. Nothing is allocated in the loop, and its random numbers are the cheapest that pass for random. The loop
itself is `scalar_kernel`.
"""

import collections
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from experiments.baselines import Problem, Trained
from jaxdistill import methods
from jaxdistill.engine import packing
from jaxdistill.methods import Method
from jaxdistill.training.config import ResolvedCell

LOSSES: tuple[Any, ...] = (
    None,
    methods.cross_entropy,
    methods.value_conditioned_cross_entropy,
    methods.reverse_cross_entropy,
)
REWARDS: tuple[Any, ...] = (
    None,
    methods.environment_reward,
    methods.teacher_log_prob,
    methods.log_ratio,
    methods.teacher_value_reward,
)
NEXT_REWARDS: tuple[Any, ...] = (None, methods.negative_cross_entropy, methods.teacher_log_prob)
BOOTSTRAPS = ("student", "teacher", "zero")


def available() -> bool:
    """Whether numba is installed."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def codes(method: Method, estimator: str) -> np.ndarray:
    """A method as the loop reads it, int64 [6]; ValueError for one that the loop does not know."""
    controls = [methods.STUDENT.weights, methods.TEACHER.weights]
    try:
        return np.array(
            [
                controls.index(method.control.weights),
                LOSSES.index(method.loss),
                REWARDS.index(method.reward),
                NEXT_REWARDS.index(method.next_reward),
                3 if estimator == "mc" else BOOTSTRAPS.index(method.bootstrap),
                int(method.baseline),
            ]
        )
    except ValueError:
        raise ValueError(f"The scalar loop knows the methods of METHODS only; got {method.name!r}.") from None


def pack_world(mdps: Any, index: int) -> tuple[Any, ...]:
    """One world as the loop reads it."""
    probs = np.asarray(mdps.outcome_probs[index])
    return (
        np.ascontiguousarray(mdps.successor[index], np.int32),
        np.ascontiguousarray(mdps.reward[index], np.float32),
        np.ascontiguousarray(mdps.terminal[index], np.bool_),
        packing.cumulative(probs).reshape(-1, probs.shape[-1]),
        probs.ndim == 3,
        np.ascontiguousarray(mdps.observation[index], np.int32),
        np.ascontiguousarray(mdps.start[index], np.int32),
        packing.cumulative(np.asarray(mdps.start_probs[index])),
        np.float32(mdps.continue_prob[index]),
    )


def pack_teacher(cell: ResolvedCell, mdps: Any) -> np.ndarray:
    """float32 [M, S, 2A + 1]: the policy, its logarithm above the floor, and the value; zeros without a teacher."""
    if cell.teacher is None:
        return np.zeros((mdps.num_mdps, mdps.num_states, 2 * mdps.num_actions + 1), np.float32)
    probs, values = np.asarray(cell.teacher.probs, np.float32), np.asarray(cell.teacher.values, np.float32)
    logs = np.log(np.maximum(probs, np.float32(cell.config.probability_floor)))
    return np.concatenate([probs, logs, values[..., None]], axis=-1)


def pack_numbers(cell: ResolvedCell) -> tuple[np.float32, ...]:
    """Learning rates, discount and the factors of l and of Rhat."""
    config, fixed = cell.config, cell.method.discount
    discount = config.discount if fixed is None else fixed
    numbers: Any = (
        config.learning_rate,
        config.value_learning_rate,
        discount,
        config.loss_weight,
        config.return_weight,
    )
    return tuple(np.float32(number) for number in numbers)


def train(problem: Problem, num_threads: int = 0) -> Trained:
    """Trains every student; `num_threads` 0: one per core. The first call with A actions compiles, untimed."""
    from experiments.baselines import scalar_kernel

    host = jax.device_get(problem.mdps)
    worlds = [pack_world(host, m) for m in range(host.num_mdps)]
    teachers = [pack_teacher(cell, host) for cell in problem.cells]
    shared = [(tuple(codes(c.method, c.config.estimator).tolist()), pack_numbers(c), c.config) for c in problem.cells]
    params = problem.tables()
    returns, lengths = np.empty(params.shape[:2]), np.empty(params.shape[:2])
    seeds = np.random.default_rng(problem.seed).integers(1, 2**63, params.shape[:2], dtype=np.uint64)
    kernel = scalar_kernel.compiled(host.num_actions)

    def one(cell: int, mdp: int, num_iterations: int, scratch: Any) -> None:
        code, numbers, config = shared[cell]
        table, stale, path = scratch
        own = params[cell, mdp]
        table[:, : own.shape[1]], stale[:] = own, 1
        teacher, longest = teachers[cell][mdp], config.max_episode_steps
        steps, total = kernel(
            worlds[mdp], teacher, code, numbers, seeds[cell, mdp], num_iterations, longest, table, stale, path
        )
        own[:] = table[:, : own.shape[1]]
        returns[cell, mdp], lengths[cell, mdp] = total, steps

    one(0, 0, 0, _scratch(problem))
    seconds = _in_threads(one, _dear_first(problem), problem, num_threads or cores())
    num = problem.num_iterations
    return Trained(int(lengths.sum()), seconds, params, returns / num, lengths / num)


def _in_threads(one: Callable[..., None], queue: list[tuple[int, int]], problem: Problem, num_threads: int) -> float:
    """Runs the students of the queue; seconds."""
    waiting, lock = collections.deque(queue), threading.Lock()

    def work(scratch: Any) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                cell, mdp = waiting.popleft()
            one(cell, mdp, problem.num_iterations, scratch)

    scratches = [_scratch(problem) for _ in range(num_threads)]
    started = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as executor:
        list(executor.map(work, scratches))
    return time.perf_counter() - started


def _dear_first(problem: Problem) -> list[tuple[int, int]]:
    cost = np.ones(problem.mdps.num_mdps) if problem.cost is None else problem.cost
    return [(cell, int(mdp)) for mdp in np.argsort(-cost, kind="stable") for cell in range(len(problem.cells))]


def _scratch(problem: Problem) -> tuple[Any, ...]:
    """What a thread works in: the table with the policy beside it, which rows are stale, and the episode's record."""
    longest = max(cell.config.max_episode_steps for cell in problem.cells)
    rows, width = problem.mdps.num_observations, 2 * problem.mdps.num_actions + 1
    return (
        np.zeros((rows, -(-width // 4) * 4), np.float32),
        np.ones(rows, np.uint8),
        tuple(np.zeros(longest, kind) for kind in (np.int32, np.int32, np.float32, np.float32)),
    )
