"""Teachers that learn on the engine that trains the students: Q-learning and actor-critic (App. A.3, A.4)."""

import dataclasses
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill.engine import packing, rules
from jaxdistill.engine.lanes import Program
from jaxdistill.mdp import MDP, Teacher, validate
from jaxdistill.methods import METHODS
from jaxdistill.runtime import checks, processes
from jaxdistill.runtime.checkpoints import Output
from jaxdistill.runtime.progress import Progress
from jaxdistill.scheduling import pool
from jaxdistill.teachers.tabular import _per_world, from_logits, from_q
from jaxdistill.training import tasks
from jaxdistill.training.config import Config, Resolved, known


def q_learning(
    key: jax.Array,
    mdps: MDP,
    *,
    temperature: npt.ArrayLike = 0.0,
    learning_rate: float = 0.01,
    epsilon: float = 0.1,
    discount: float = 0.99,
    num_iterations: int = 30_000,
    max_episode_steps: int = 4096,
    progress: bool | None = None,
) -> Teacher:
    """Q-learning with epsilon-greedy control (App. A.4), played greedily or as softmax(Q / temperature).

    Args:
      key: random key.
      mdps: M stacked MDPs.
      temperature: T >= 0, one for all worlds or one for each, [M]; 0 shares the probability equally among the
        maximisers of Q.
      learning_rate: lambda in (0, 1].
      epsilon: probability of a uniform action while learning, in [0, 1].
      discount: in [0, 1].
      num_iterations: episodes.
      max_episode_steps: an episode is cut there.
      progress: as in `train`.
    """
    key = checks.as_key(key)
    _per_world(validate(mdps), temperature, "temperature", np.inf)  # before the work, not after it
    checks.number("discount", discount, 0, 1)
    if not 0 < checks.number("learning_rate", learning_rate) <= 1 or not 0 <= checks.number("epsilon", epsilon) <= 1:
        raise ValueError(
            f"learning_rate must be in (0, 1] and epsilon in [0, 1]; got {learning_rate!r} and {epsilon!r}."
        )
    config = Config(
        num_iterations=num_iterations, num_checkpoints=1, learning_rate=learning_rate, discount=discount,
        max_episode_steps=max_episode_steps,
    )  # fmt: skip
    q = learn(key, mdps, config, epsilon, progress)
    return from_q(mdps, q, temperature=temperature, discount=discount)


def actor_critic(
    key: jax.Array, mdps: MDP, *, config: Config | None = None, progress: bool | None = None, **changes: Any
) -> Teacher:
    """The actor-critic of App. A.3 trained on the environment reward; its policy is stochastic ("A2C", Fig. 8).

    `config` and `changes` are those of `train`. V_pi is the exact value of the final policy, not the critic.
    """
    key = checks.as_key(key)
    validate(mdps)
    if not isinstance(config, Config | None):
        raise ValueError(f"config must be a Config; got {checks.shown(config)}. Give single fields by name.")
    config = dataclasses.replace(config or Config(), **known({"num_checkpoints": 1, **changes}))
    cells = [Resolved("teacher:actor_critic", METHODS["baseline"], None, config)]
    logits = np.zeros((mdps.num_mdps, mdps.num_observations, mdps.num_actions), np.float32)

    faults, mine = np.zeros(mdps.num_mdps, int), np.zeros(mdps.num_mdps, bool)

    def keep(cell: int, mdp: int, pause: int, output: Output) -> None:
        logits[mdp], faults[mdp], mine[mdp] = output.params[:, :-1], output.fault, True

    cost = np.ones(mdps.num_mdps)
    with Progress("actor-critic teachers", progress) as report:
        pool.run(tasks.make_tasks(key, mdps, cells, cost, keep), report)
    logits = learned("The actor-critic", mdps, mine, logits, faults)
    discount = float(np.max(config.discount))
    return from_logits(mdps, logits, discount=discount, name="actor_critic")


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
        key=tasks.stream_keys(key, "teacher:q_learning", np.asarray(mdps.id)),
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
    teachers = packing.pack_teacher(nobody, nobody[:, 0])
    task = pool.Task(program, packing.pack_worlds(mdps), teachers, learner, config.num_iterations, np.ones(num), keep)
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
