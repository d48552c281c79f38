"""The paper's training loop once more, one student and one step at a time: the document of the semantics.

Plain Python, no array operations in the loops, its own random numbers, nothing imported from jaxdistill: the
compiled engine is compared with this. Read it beside "Distilling Policy Distillation" (Table 1, App. A).

One iteration is one episode under the control policy with all tables fixed, then one update of both tables:

    theta <- theta - learning_rate       * R_t[ -grad log pi_theta(a_t) * advantage_t + grad l_t ]
    V(o)  <- V(o)  + value_learning_rate * R_t[ target_t - V(o_t) ]                where o_t = o

R_t is the mean (or the sum) over all steps of the episode, also over those that share an observation. With
the pseudo-reward rhat_t of a step and V the student's values at the start of the episode, 0 after its end,

    target_t    = sum_{i>=t} discount^(i-t) rhat_i       (estimator "mc")
                = rhat_t + discount * V(o_{t+1})         (estimator "td", TD(1) in the paper)
                = rhat_t + discount * (lambda * target_{t+1} + (1 - lambda) * V(o_{t+1}))   (estimator "lambda")
    advantage_t = target_t - V(o_t)

Targets, pseudo-rewards and the V condition are constants for the gradient; l_t is differentiated. An episode
ends when it arrives in a terminal state or, after any other step, with probability 1 - continue_prob: both
ends are real (the paper's s_term), so nothing is bootstrapped from beyond them. A time limit is no end. Where an
episode of T steps is cut in state s_T, the value V(o_T) takes the place of target_T, and the part of rhat_{T-1} that
the next step decides is that of an action drawn in s_T and not played. With truncation "end" a cut is an end.

Where a state has several features, its logits and its V are the sums of the rows of its features, and each of these
rows gets the update of the step: in full or, with feature_steps "divided", divided by their number. An observation o is
then a list of rows, and V(o) is their sum.

Letters: S states, A actions, K outcomes, O observations; pi teacher, pi_theta student; logarithms in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

METHODS = (
    "baseline",
    "teacher_distill",
    "on_policy_distill",
    "on_policy_distill_r",
    "on_policy_distill_r_vcond",
    "entropy_regularised",
    "n_distill",
    "exp_entropy_regularised",
    "kl_regularised",
    "teacher_v_reward",
    "td_v0",
    "td_vpi",
)
FORWARD_CROSS_ENTROPY = {  # l = H(pi || pi_theta)
    "teacher_distill",
    "on_policy_distill",
    "on_policy_distill_r",
    "on_policy_distill_r_vcond",
    "n_distill",
}


@dataclass(frozen=True)
class World:
    """One MDP as nested lists. An action is a distribution over the K outcomes of a state."""

    successor: list[list[int]]  # [S][K] state that the outcome leads to
    reward: list[list[float]]  # [S][K] collected on arrival
    terminal: list[list[bool]]  # [S][K] does the arrival end the episode?
    outcome_probs: list[list[list[float]]]  # [S][A][K]
    continue_prob: float
    start: list[int]  # [B]
    start_probs: list[float]  # [B]
    observation: list[int]  # [S] row of the student's tables, in [0, O)
    num_observations: int
    time_limit: int = 2**31 - 1  # steps
    features: list[list[int]] | None = None  # [O] rows of the student's tables; None: row o for observation o
    num_rows: int = 0  # of the student's tables; 0: as many as observations

    @classmethod
    def of(cls, mdp: Any) -> World:
        """Copies one MDP from an object with these attributes; `outcome_probs` [A, K] or [S, A, K]."""
        names = cls.__dataclass_fields__.keys() - {"features", "num_rows"}
        field = {name: np.asarray(getattr(mdp, name)).tolist() for name in names}
        if np.ndim(mdp.observation) == 2:  # every state is an observation, with several rows
            field["features"] = [[row for row in rows if row >= 0] for rows in field["observation"]]
            field["num_rows"] = field["num_observations"]
            field["num_observations"] = len(field["features"])
            field["observation"] = list(range(len(field["features"])))
        if np.ndim(mdp.outcome_probs) == 2:  # the same table in every state
            field["outcome_probs"] = [field["outcome_probs"]] * len(field["successor"])
        return cls(**field)

    @property
    def num_actions(self) -> int:
        return len(self.outcome_probs[0])

    def rows(self, observation: int) -> list[int]:
        """The rows of the student's tables that an observation adds up."""
        return [observation] if self.features is None else self.features[observation]

    def table(self, zero: Any) -> list[Any]:
        """A table of the student, with a copy of `zero` in each row."""
        return [zero() for _ in range(self.num_rows or self.num_observations)]

    def sums(self, table: list[list[float]]) -> list[list[float]]:
        """The sum of the rows of every observation, [O][A]."""
        return [
            [sum(table[row][a] for row in self.rows(o)) for a in range(self.num_actions)]
            for o in range(self.num_observations)
        ]


class Teacher(NamedTuple):
    """Tables of the teacher, by state (the teacher is never aliased)."""

    probs: list[list[float]]  # [S][A] pi
    values: list[float]  # [S] V_pi, discounted, of the environment's reward


@dataclass(frozen=True)
class Settings:
    """What the student does; the defaults are the paper's (App. A.3-A.5)."""

    method: str = "baseline"
    estimator: str = "mc"
    reduction: str = "mean"
    learning_rate: float = 0.1
    value_learning_rate: float = 0.1
    discount: float = 0.99
    probability_floor: float = 1e-6  # log pi(a) is log max(pi(a), floor)
    trace_decay: float = 0.95  # lambda of the estimator "lambda"
    truncation: str = "bootstrap"  # what the time limit does, or "end"
    loss_visits: str = "every"  # visits of a row in an episode that count, or "once": the last one
    return_visits: str = "every"
    fixed_length: float = 60.0  # of the reduction "fixed"
    feature_steps: str = "full"  # what each row of an observation gets of a step's update, or "divided"

    def __post_init__(self) -> None:
        only_td = self.method in ("td_v0", "td_vpi")  # they replace the bootstrap of TD(1)
        if self.method not in METHODS or self.estimator not in (("td",) if only_td else ("mc", "td", "lambda")):
            raise ValueError(f"no method {self.method!r} with estimator {self.estimator!r}")
        if self.reduction not in ("mean", "sum", "fixed"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'fixed', got {self.reduction!r}")


class Step(NamedTuple):
    """One step of an episode; `next_state` is None where the episode ended."""

    state: int
    action: int
    reward: float
    next_state: int | None


# --- Episodes (App. A.1) ------------------------------------------------------------------------------------


def draw(probs: list[float], rng: np.random.Generator) -> int:
    """Index drawn with the given probabilities, by inversion."""
    left = rng.random() * sum(probs)
    last_possible = 0
    for index, prob in enumerate(probs):
        if prob > 0:
            last_possible = index
            left -= prob
            if left < 0:
                break
    return last_possible


def take_step(world: World, state: int, action: int, rng: np.random.Generator) -> Step:
    """Draws the outcome of an action, then whether the episode goes on."""
    outcome = draw(world.outcome_probs[state][action], rng)
    ended = world.terminal[state][outcome] or rng.random() >= world.continue_prob
    next_state = None if ended else world.successor[state][outcome]
    return Step(state, action, world.reward[state][outcome], next_state)


def play_episode(world: World, policy: list[list[float]], rng: np.random.Generator) -> list[Step]:
    """One episode under a policy [S][A]; its last step has a next state where the time limit cut it."""
    state: int | None = world.start[draw(world.start_probs, rng)]
    episode: list[Step] = []
    while state is not None and len(episode) < world.time_limit:
        step = take_step(world, state, draw(policy[state], rng), rng)
        episode.append(step)
        state = step.next_state
    return episode


def close_episode(
    settings: Settings, policy: list[list[float]], episode: list[Step], rng: np.random.Generator
) -> tuple[list[Step], Step | None]:
    """The episode, and where it was cut the state there with the action that `policy` [S][A] draws; None at an end."""
    state = episode[-1].next_state
    if state is None:
        return episode, None
    if settings.truncation == "end":
        return [*episode[:-1], episode[-1]._replace(next_state=None)], None
    return episode, Step(state, draw(policy[state], rng), 0.0, None)


# --- Losses and pseudo-rewards (Table 1) --------------------------------------------------------------------


def softmax(logits: list[float]) -> list[float]:
    """Probabilities of a row of logits."""
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def log_floored(prob: float, floor: float) -> float:
    """log max(prob, floor): a deterministic teacher's log-probabilities would be -inf."""
    return math.log(max(prob, floor))


def forward_cross_entropy(pi: list[float], pi_theta: list[float]) -> float:
    """H(pi || pi_theta) = -sum_a pi(a) log pi_theta(a), with 0 log 0 = 0."""
    return -sum(p * math.log(q) for p, q in zip(pi, pi_theta, strict=True) if p > 0)


def forward_cross_entropy_gradient(pi: list[float], pi_theta: list[float]) -> list[float]:
    """d H(pi || pi_theta) / d logits = sum(pi) pi_theta - pi, and pi sums to 1."""
    return [q - p for p, q in zip(pi, pi_theta, strict=True)]


def reverse_cross_entropy(pi: list[float], pi_theta: list[float], floor: float) -> float:
    """H(pi_theta || pi) = -sum_a pi_theta(a) log pi(a), log pi floored."""
    return -sum(q * log_floored(p, floor) for p, q in zip(pi, pi_theta, strict=True))


def reverse_cross_entropy_gradient(pi: list[float], pi_theta: list[float], floor: float) -> list[float]:
    """d H(pi_theta || pi) / d logits_a = pi_theta(a) (-log pi(a) - H(pi_theta || pi))."""
    mean = reverse_cross_entropy(pi, pi_theta, floor)
    return [q * (-log_floored(p, floor) - mean) for p, q in zip(pi, pi_theta, strict=True)]


def pseudo_rewards(
    world: World,
    teacher: Teacher,
    settings: Settings,
    policy: list[list[float]],
    episode: list[Step],
    cut: Step | None = None,
) -> list[float]:
    """rhat_t of every step of the episode; `policy` [O][A] is the student's, and `cut` as `close_episode` returns."""
    method, floor = settings.method, settings.probability_floor

    def student(state: int) -> list[float]:
        return policy[world.observation[state]]

    def log_pi(step: Step) -> float:
        return log_floored(teacher.probs[step.state][step.action], floor)

    rhat = []
    for t, step in enumerate(episode):
        following = episode[t + 1] if t + 1 < len(episode) else cut
        teacher_next_value = 0.0 if step.next_state is None else teacher.values[step.next_state]

        reward = 0.0  # teacher_distill, on_policy_distill
        if method in ("baseline", "td_v0", "on_policy_distill_r", "on_policy_distill_r_vcond"):
            reward = step.reward
        elif method == "entropy_regularised":
            reward = log_pi(step)
        elif method == "kl_regularised":
            reward = log_pi(step) - math.log(student(step.state)[step.action])
        elif method == "n_distill" and following is not None:  # so that all later losses count (Thm. 2)
            reward = -forward_cross_entropy(teacher.probs[following.state], student(following.state))
        elif method == "exp_entropy_regularised" and following is not None:  # l counts step t, in expectation
            reward = log_pi(following)
        elif method == "teacher_v_reward":  # Prop. 4
            reward = step.reward + settings.discount * teacher_next_value - teacher.values[step.state]
        elif method == "td_vpi":  # Prop. 3
            reward = step.reward + settings.discount * teacher_next_value
        rhat.append(reward)
    return rhat


def loss_gradient(teacher: Teacher, settings: Settings, state: int, pi_theta: list[float], value: float) -> list[float]:
    """d l_t / d logits of the student's row pi_theta, V(o_t) = value, in `state`."""
    method, pi = settings.method, teacher.probs[state]
    if method == "on_policy_distill_r_vcond" and not teacher.values[state] > value:
        return [0.0] * len(pi)
    if method in FORWARD_CROSS_ENTROPY:
        return forward_cross_entropy_gradient(pi, pi_theta)
    if method == "exp_entropy_regularised":
        return reverse_cross_entropy_gradient(pi, pi_theta, settings.probability_floor)
    return [0.0] * len(pi)


# --- The update ---------------------------------------------------------------------------------------------


def targets_and_advantages(
    world: World,
    settings: Settings,
    values: list[float],
    episode: list[Step],
    rhat: list[float],
    cut: Step | None = None,
) -> tuple[list[float], list[float]]:
    """What V is fitted to, and what multiplies -grad log pi_theta(a_t), for every step."""
    before = [values[world.observation[step.state]] for step in episode]
    targets = list(rhat)
    if settings.method in ("td_v0", "td_vpi"):  # V_theta is no bootstrap and no baseline (Prop. 3)
        return targets, targets
    at_cut = [] if cut is None else [values[world.observation[cut.state]]]
    targets, ahead = targets + at_cut, before + at_cut
    for t in reversed(range(len(targets) - 1)):  # nothing follows an end
        decay = {"mc": 1.0, "td": 0.0, "lambda": settings.trace_decay}[settings.estimator]
        targets[t] += settings.discount * (decay * targets[t + 1] + (1 - decay) * ahead[t + 1])
    targets = targets[: len(episode)]
    return targets, [target - value for target, value in zip(targets, before, strict=True)]


class Update(NamedTuple):
    """The two brackets R_t[...], by row of the tables; unvisited rows are absent."""

    logits: dict[int, list[float]]  # o -> gradient to descend
    values: dict[int, float]  # o -> step to take


def episode_update(
    world: World,
    teacher: Teacher,
    settings: Settings,
    policy: list[list[float]],
    values: list[float],
    episode: list[Step],
    cut: Step | None = None,
) -> Update:
    """The update that one episode gives a student with `policy` [O][A] and `values` [O]."""
    rhat = pseudo_rewards(world, teacher, settings, policy, episode, cut)
    targets, advantages = targets_and_advantages(world, settings, values, episode, rhat, cut)
    weight = {"mean": 1.0 / len(episode), "sum": 1.0, "fixed": 1.0 / settings.fixed_length}[settings.reduction]
    update = Update({}, {})
    observations = [world.observation[step.state] for step in episode]
    for t, (step, target, advantage) in enumerate(zip(episode, targets, advantages, strict=True)):
        o = observations[t]
        pi_theta = policy[o]
        grad_l = loss_gradient(teacher, settings, step.state, pi_theta, values[o])
        for r in world.rows(o):
            is_last = all(r not in world.rows(later) for later in observations[t + 1 :])
            has_loss = is_last or settings.loss_visits == "every"
            has_return = is_last or settings.return_visits == "every"
            share = weight / len(world.rows(o)) if settings.feature_steps == "divided" else weight
            row = update.logits.setdefault(r, [0.0] * len(pi_theta))
            for a, prob in enumerate(pi_theta):
                grad_log_pi = (1.0 if a == step.action else 0.0) - prob
                row[a] += share * (-grad_log_pi * advantage * has_return + grad_l[a] * has_loss)
            update.values[r] = update.values.get(r, 0.0) + share * (target - values[o]) * has_return
    return update


# --- Training -----------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What training leaves behind: arrays over iterations N and the final tables."""

    returns: np.ndarray  # [N] undiscounted environment reward of each episode (of the control policy)
    lengths: np.ndarray  # [N] steps of each episode
    logits: np.ndarray  # [O, A]; Q-learning: the action values
    values: np.ndarray  # [O]; Q-learning: max_a Q


def train_student(
    world: World, teacher: Teacher, settings: Settings, num_iterations: int, rng: np.random.Generator
) -> Run:
    """Trains one student from zero tables (App. A.3), under its own control but for teacher_distill."""
    logits = world.table(lambda: [0.0] * world.num_actions)
    value_table = world.table(float)
    policy, values = [softmax(row) for row in world.sums(logits)], [0.0] * world.num_observations
    learns_values = settings.method not in ("teacher_distill", "on_policy_distill")  # their target is 0
    returns, lengths = [], []
    for _ in range(num_iterations):
        by_state = [policy[o] for o in world.observation]
        control = teacher.probs if settings.method == "teacher_distill" else by_state
        episode, cut = close_episode(settings, control, play_episode(world, control, rng), rng)
        update = episode_update(world, teacher, settings, policy, values, episode, cut)
        for row, gradient in update.logits.items():
            for a, slope in enumerate(gradient):
                logits[row][a] -= settings.learning_rate * slope
        policy = [softmax(row) for row in world.sums(logits)]
        if learns_values:
            for row, change in update.values.items():
                value_table[row] += settings.value_learning_rate * change
            values = [sum(value_table[row] for row in world.rows(o)) for o in range(world.num_observations)]
        returns.append(sum(step.reward for step in episode))
        lengths.append(len(episode))
    return Run(np.array(returns), np.array(lengths), np.array(logits), np.array(value_table))


def train_q_learning(
    world: World,
    num_iterations: int,
    rng: np.random.Generator,
    *,
    learning_rate: float = 0.01,
    epsilon: float = 0.1,
    temperature: float | None = None,
    discount: float = 0.99,
) -> Run:
    """Q-learning teacher (App. A.4): Q <- (1-lambda) Q + lambda (r + discount max_a Q(a, s')), at once.

    Control: with probability epsilon any action, else one of the best, ties shared equally; or by
    softmax(Q / temperature). Q is 0 after the end of an episode; a time limit cuts an episode without ending it.
    """
    num_actions = world.num_actions
    table = world.table(lambda: [0.0] * num_actions)
    q = world.sums(table)
    returns, lengths = [], []
    for _ in range(num_iterations):
        state: int | None = world.start[draw(world.start_probs, rng)]
        total, length = 0.0, 0
        while state is not None and length < world.time_limit:
            row = q[world.observation[state]]
            best = [a for a, value in enumerate(row) if value == max(row)]
            candidates = list(range(num_actions)) if rng.random() < epsilon else best
            if temperature is not None:
                weights = [math.exp(value / temperature) for value in row]
                candidates = [draw([weight / sum(weights) for weight in weights], rng)]
            step = take_step(world, state, candidates[int(rng.integers(len(candidates)))], rng)
            ahead = 0.0 if step.next_state is None else max(q[world.observation[step.next_state]])
            change = learning_rate * (step.reward + discount * ahead - row[step.action])
            for feature in world.rows(world.observation[step.state]):
                table[feature][step.action] += change
            q = world.sums(table)
            total, length, state = total + step.reward, length + 1, step.next_state
        returns.append(total)
        lengths.append(length)
    return Run(np.array(returns), np.array(lengths), np.array(table), np.array(table).max(axis=1))
