"""The roofline: one student after the other in a scalar loop compiled by numba, a thread per core.

The loop is written for speed alone. Methods are numbers, so that only those of `jaxdistill.METHODS` exist. A row of the
table holds logits, value and policy, and the policy is computed again only after the row has changed. Parameters stay
fixed within an episode, because the walk backward reads the recorded values and the old policy. Nothing is allocated in
the loop, and its random numbers are the cheapest that are good enough. The loop itself is in `scalar_kernel`.
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

from experiments.baselines import Problem, Trained, check_estimator
from jaxdistill import methods
from jaxdistill.engine import packing
from jaxdistill.estimators import MonteCarlo
from jaxdistill.methods import Method
from jaxdistill.methods.method import BOOTSTRAPS
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
    """A method as the loop reads it, int64 [6]; ValueError for a method or an estimator that the loop does not have."""
    check_estimator("scalar loop", estimator)
    controls = [methods.STUDENT.weights, methods.TEACHER.weights]
    try:
        return np.array(
            [
                controls.index(method.control.weights),
                LOSSES.index(method.loss),
                REWARDS.index(method.reward),
                NEXT_REWARDS.index(method.next_reward),
                len(BOOTSTRAPS) if estimator == MonteCarlo.name else BOOTSTRAPS.index(method.bootstrap),
                int(method.baseline),
            ]
        )
    except ValueError:
        raise ValueError(f"The scalar loop has the methods of METHODS only; got {method.name!r}.") from None


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
    names = ("learning_rate", "value_learning_rate", "discount", "loss_weight", "return_weight")
    return tuple(np.float32(getattr(cell.config, name)) for name in names)


def train(problem: Problem, num_threads: int = 0) -> Trained:
    """Trains every student; `num_threads` 0: one per core. The first call with A actions compiles, untimed."""
    from experiments.baselines import scalar_kernel

    mdps = jax.device_get(problem.mdps)
    worlds = [pack_world(mdps, m) for m in range(mdps.num_mdps)]
    teachers = [pack_teacher(cell, mdps) for cell in problem.cells]
    codes_of_cells = [tuple(codes(cell.method, cell.config.estimator).tolist()) for cell in problem.cells]
    numbers = [pack_numbers(cell) for cell in problem.cells]
    params = problem.tables()
    returns, lengths = np.empty(params.shape[:2]), np.empty(params.shape[:2])
    seeds = np.random.default_rng(problem.seed).integers(1, 2**63, params.shape[:2], dtype=np.uint64)
    kernel = scalar_kernel.compiled(mdps.num_actions)

    def train_student(cell: int, mdp: int, num_iterations: int, scratch: Any) -> None:
        table, stale, path = scratch
        student_params = params[cell, mdp]
        table[:, : problem.num_params], stale[:] = student_params, 1
        max_steps = problem.cells[cell].config.max_episode_steps
        lengths[cell, mdp], returns[cell, mdp] = kernel(
            worlds[mdp], teachers[cell][mdp], codes_of_cells[cell], numbers[cell], seeds[cell, mdp], num_iterations,
            max_steps, table, stale, path,
        )  # fmt: skip
        student_params[:] = table[:, : problem.num_params]

    train_student(0, 0, 0, _scratch(problem))  # compiles
    seconds = _in_threads(train_student, _longest_first(problem), problem, num_threads or cores())
    num = problem.num_iterations
    return Trained(int(lengths.sum()), seconds, params, returns / num, lengths / num)


def _in_threads(
    train_student: Callable[..., None], students: list[tuple[int, int]], problem: Problem, num_threads: int
) -> float:
    """Trains the students (cell, MDP), each in the first thread that is free; returns seconds."""
    queue, lock = collections.deque(students), threading.Lock()

    def work(scratch: Any) -> None:
        while True:
            with lock:
                if not queue:
                    return
                cell, mdp = queue.popleft()
            train_student(cell, mdp, problem.num_iterations, scratch)

    scratches = [_scratch(problem) for _ in range(num_threads)]
    started = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as executor:
        list(executor.map(work, scratches))
    return time.perf_counter() - started


def _longest_first(problem: Problem) -> list[tuple[int, int]]:
    """All students as (cell, MDP), those with the longest episodes first."""
    cost = np.ones(problem.mdps.num_mdps) if problem.cost is None else problem.cost
    return [(cell, int(mdp)) for mdp in np.argsort(-cost, kind="stable") for cell in range(len(problem.cells))]


def _scratch(problem: Problem) -> tuple[Any, ...]:
    """The arrays of a thread: the table with the policy beside it, which rows are stale, and the episode's record."""
    max_steps = max(cell.config.max_episode_steps for cell in problem.cells)
    rows, width = problem.mdps.num_observations, 2 * problem.mdps.num_actions + 1
    return (
        np.zeros((rows, -(-width // 4) * 4), np.float32),
        np.ones(rows, np.uint8),
        tuple(np.zeros(max_steps, dtype) for dtype in (np.int32, np.int32, np.float32, np.float32)),
    )
