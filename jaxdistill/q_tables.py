"""Q-learning with epsilon-greedy control (App. A.4) on the engine that trains the students."""

from typing import Any

import jax
import numpy as np

from jaxdistill import pool, processes, rules, students, tables
from jaxdistill.checkpoints import Output
from jaxdistill.lanes import Program
from jaxdistill.mdp import MDP
from jaxdistill.progress import Progress
from jaxdistill.students import Config


def learn(key: jax.Array, mdps: MDP, config: Config, epsilon: float, progress: bool | None) -> np.ndarray:
    """Q [M, O, A] after training, as one task of the pool; ValueError if it diverged."""
    num = mdps.num_mdps
    rule = rules.QLearningRule(mdps.num_actions)
    q = np.zeros((num, mdps.num_observations, mdps.num_actions), np.float32)

    faults, mine = np.zeros(num, int), np.zeros(num, bool)

    def keep(mdp: int, pause: int, output: Output) -> None:
        q[mdp], faults[mdp], mine[mdp] = output.params, output.fault, True

    def same(value: Any, dtype: Any = np.float32) -> np.ndarray:
        return np.full(num, value, dtype)

    learner = rules.Student(
        mdp=np.arange(num, dtype=np.int32),
        teacher=same(0, np.int32),
        key=students.stream_keys(key, "teacher:q_learning", np.asarray(mdps.id)),
        learning_rate=same(config.learning_rate),
        value_learning_rate=same(0),
        discount=same(config.discount),
        probability_floor=same(0),
        loss_weight=same(0),
        return_weight=same(0),
        control=np.tile(np.asarray([1, 0, 0], np.float32), (num, 1)),
        per_episode=same(False, bool),
        loss=same(-1, np.int32),
        reward=same(-1, np.int32),
        next_reward=same(-1, np.int32),
        bootstrap=same(0, np.int32),
        baseline=same(0),
        params={"epsilon": same(epsilon)},
    )
    program = Program(
        rule=rule,
        monte_carlo=False,
        num_lanes=pool.lane_width(mdps.num_observations, rule.num_parts * rule.width),
        num_checkpoints=1,
        max_steps=config.max_episode_steps,
    )
    nobody = np.zeros((mdps.num_states, mdps.num_actions), np.float32)
    teachers = tables.pack_teacher(nobody, nobody[:, 0])
    task = pool.Task(program, tables.pack_worlds(mdps), teachers, learner, config.num_iterations, np.ones(num), keep)
    with Progress("Q-learning teachers", progress) as report:
        pool.run([task], report)
    return learned("Q-learning", mdps, mine, q, faults)


def learned(name: str, mdps: MDP, mine: np.ndarray, table: np.ndarray, faults: np.ndarray) -> np.ndarray:
    """The table [M, ...] of all processes; ValueError if it is not finite.

    Args:
      name: of the algorithm.
      mine: bool [M], the worlds of this process.
      table, faults: what it found there, and the iteration [M] at which it diverged, 0 if not or unknown.
    """
    whole = processes.combined(mine, {"table": table, "faults": faults})
    table, faults = whole["table"], whole["faults"]
    bad = np.flatnonzero(~np.isfinite(table).reshape(len(table), -1).all(axis=1))
    if len(bad):
        when = f" at iteration {faults[bad[0]]}" if faults[bad[0]] else ""
        raise ValueError(
            f"{name} diverged in {len(bad)} of {len(table)} MDPs (first: MDP {int(mdps.id[bad[0]])}{when}); lower the "
            "learning rate."
        )
    return table
