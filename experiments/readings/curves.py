"""The curves of Figs. 4 and 5 that have points, trained under many readings at once."""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxdistill
from experiments import common, fig4, fig8
from experiments.readings import factors
from experiments.readings.factors import Reading
from experiments.targets import POINTS, bin_centres
from jaxdistill import MDP, Cell, Method, Teacher, teachers
from jaxdistill.mdp import exact
from jaxdistill.methods import UpdateOptions, effects

_CONFIG = [
    "reduction", "learning_rate", "value_learning_rate", "loss_visits", "return_visits",
    "probability_floor",
]  # fmt: skip


class Curve(NamedTuple):
    """One curve of the paper.

    Attributes:
      figure: "fig4" or "fig5".
      panel: the column of Fig. 5, or the number of actions of Fig. 4.
      method: the method's name.
      points: the paper's returns by iteration.
    """

    figure: str
    panel: str
    method: str
    points: dict[int, float]

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.panel) if self.figure == "fig4" else fig4.MOVES

    @property
    def teacher_noise(self) -> float:
        """The share of states in which the teacher is noisy."""
        return fig8.COLUMNS[self.panel][1] if self.figure == "fig5" else 0.0

    @property
    def name(self) -> str:
        """The curve's name."""
        return f"{self.figure}/{self.panel}/{self.method}"


@functools.cache
def curves() -> list[Curve]:
    """The curves of Figs. 4 and 5 with the points that were read off the paper."""
    paper = json.loads(POINTS.read_text())
    return [
        Curve(figure, panel, method, {int(k): v for k, v in points.items()})
        for figure in ("fig5", "fig4")
        for panel, methods in paper[figure].items()
        if isinstance(methods, dict)
        for method, points in methods.items()
    ]


def targets() -> np.ndarray:
    """The paper's points of all curves, one after the other, [N]."""
    return np.array([value for curve in curves() for value in curve.points.values()])


def method_of(curve: Curve, reading: Reading) -> Method:
    """The method of a curve under a reading."""
    without = curve.method == "exp_entropy_regularised" and not factors.flags(reading)["expected_returns"]
    return fig4.KNOWN["exp_entropy_without_returns" if without else curve.method]


def relevant(curve: Curve, reading: Reading) -> Reading:
    """The levels of a reading on which a curve depends."""
    method = method_of(curve, reading)
    options = UpdateOptions(estimator="td")
    learns_values = method.has_return and (method.baseline or method.bootstrap == "student")
    matters = {
        "step": True,
        "value_rate": learns_values,
        "first_column": curve.panel == "mc" and method.has_return and method.estimator is None,
        "loss_visits": method.loss is not None,
        "return_visits": method.has_return,
        "exploration": method.needs_teacher,
        "ties": method.needs_teacher,
        "noise_action": method.needs_teacher and curve.teacher_noise > 0,
        "transitions": True,
        "floor": not effects.without_effect("probability_floor", method, options, fig4.MOVES),
        "expected_returns": curve.method == "exp_entropy_regularised",
    }
    return {name: level for name, level in reading.items() if matters[name]}


@dataclasses.dataclass(frozen=True, eq=False)
class TaughtWorlds:
    """The worlds of one probability of random moves, with the Q-learning teachers of every exploration.

    Attributes:
      mdps: the worlds with four actions.
      scores: the Q tables [M, O, A], by exploration.
    """

    mdps: MDP
    scores: dict[str, np.ndarray]

    def teacher(self, reading: Reading, noise: float, seed: int) -> Teacher:
        """The teacher of a reading, with the share `noise` of noisy states."""
        return _teacher(self, reading["exploration"], reading["ties"], noise and reading["noise_action"], noise, seed)

    def __getitem__(self, indices: np.ndarray) -> "TaughtWorlds":
        return TaughtWorlds(self.mdps[indices], {name: table[indices] for name, table in self.scores.items()})


@functools.cache
def _teacher(taught: TaughtWorlds, exploration: str, ties: str, action: Any, noise: float, seed: int) -> Teacher:
    """A teacher, made once for all curves and readings that have it."""
    keys = common.keys(seed)
    key = keys.noise if ties == "random" else None
    teacher = teachers.from_q(taught.mdps, taught.scores[exploration], ties=ties, key=key)
    if not noise:
        return teacher
    flags = factors.flags({"noise_action": action})
    names = {"action": flags["noise_action"], "ties": flags["noise_ties"]}
    return teachers.with_noise(keys.noise, taught.mdps, teacher, noise, **names)


def teach(transitions: str, num_mdps: int, num_iterations: int, seed: int) -> TaughtWorlds:
    """Samples worlds and trains their teachers."""
    noise = factors.flags({"transitions": transitions})["noise"]
    mdps = jaxdistill.sample_mdps(common.keys(seed).worlds, num_mdps, noise=noise)
    scores = {}
    for level in factors.FACTORS["exploration"].levels:
        options = factors.flags({"exploration": level}) | {"num_iterations": num_iterations}
        scores[level] = np.asarray(
            teachers.q_learning(common.keys(seed).teacher, mdps, **options, progress=True).scores
        )
    return TaughtWorlds(mdps, scores)


def features(taught: TaughtWorlds, seed: int) -> np.ndarray:
    """Exact returns [M, K] of the optimal and the uniform policy, and of teachers with and without noise."""
    mdps = taught.mdps

    def returns(policy: jax.Array) -> np.ndarray:
        return np.asarray(exact.start_value(mdps, exact.policy_values(mdps, policy)))

    columns = [returns(teachers.optimal(mdps).probs), returns(exact.uniform_policy(mdps))]
    for exploration in taught.scores:
        reading = {"exploration": exploration, "ties": "share", "noise_action": "worst"}
        columns.append(returns(taught.teacher(reading, 0.0, seed).probs))
    for action in factors.FACTORS["noise_action"].levels:
        reading = {"exploration": "boltzmann", "ties": "share", "noise_action": action}
        columns += [returns(taught.teacher(reading, noise, seed).probs) for noise in (0.15, 0.25)]
    return np.stack(columns, axis=1)


def train(
    by_transitions: dict[str, TaughtWorlds],
    readings: list[Reading],
    num_iterations: int,
    num_checkpoints: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains every curve under every reading.

    Curves that do not depend on what two readings differ in are trained once.

    Args:
      by_transitions: the same worlds, by the level of the factor "transitions".
      readings: the readings.
      num_iterations, num_checkpoints, seed: of the training.

    Returns:
      The last iteration of each bin, [C], and the returns [R, M, K, C] by reading, world and curve, in the order of
      `curves`; NaN after a student diverged.
    """
    returns: dict[str, np.ndarray] = {}
    for transitions, taught in by_transitions.items():
        for num_actions in sorted({curve.num_actions for curve in curves()}):
            cells: dict[str, Cell] = {}
            for reading in (r for r in readings if r["transitions"] == transitions):
                for curve in (c for c in curves() if c.num_actions == num_actions):
                    label = label_of(curve, reading)
                    if label not in cells:
                        cells[label] = cell(curve, reading, taught, seed)
            if cells:
                mdps = with_actions(taught, num_actions, seed, transitions)
                result = jaxdistill.train(
                    common.keys(seed).students, mdps, methods=cells, keep_tables=False, progress=True,
                    num_iterations=num_iterations, num_checkpoints=num_checkpoints,
                )  # fmt: skip
                returns |= {label: result.returns[result.method_index(label)] for label in cells}
    by_reading = [np.stack([returns[label_of(c, reading)] for c in curves()], axis=1) for reading in readings]
    return result.iterations, np.stack(by_reading)


def label_of(curve: Curve, reading: Reading) -> str:
    """The label of a curve under a reading; equal for readings in which the curve is the same."""
    levels = relevant(curve, reading)
    return curve.name + "".join(f"; {name} {level}" for name, level in levels.items())


@functools.cache
def with_actions(taught: TaughtWorlds, num_actions: int, seed: int, transitions: str) -> MDP:
    """The worlds with further actions that do nothing, sampled once for all curves that have them."""
    mdps = taught.mdps
    if num_actions == mdps.num_actions:
        return mdps
    noise = factors.flags({"transitions": transitions})["noise"]
    most = int(np.max(np.asarray(mdps.id))) + 1
    all_worlds = jaxdistill.sample_mdps(common.keys(seed).worlds, most, noise=noise, num_actions=num_actions)
    return all_worlds[np.asarray(mdps.id)]


def cell(curve: Curve, reading: Reading, taught: TaughtWorlds, seed: int) -> Cell:
    """The cell of a curve under a reading."""
    method, flags = method_of(curve, reading), factors.flags(reading)
    estimator = flags["first_column"] if curve.panel == "mc" else "td"
    options = UpdateOptions(estimator=estimator, reduction=flags["reduction"])
    changes = {
        name: flags[name] for name in _CONFIG if not effects.without_effect(name, method, options, curve.num_actions)
    }
    teacher = None
    if method.needs_teacher:
        teacher = taught.teacher(reading, curve.teacher_noise, seed)
        if curve.num_actions > fig4.MOVES:
            mdps = with_actions(taught, curve.num_actions, seed, reading["transitions"])
            teacher = fig4.with_idle_actions(mdps, np.asarray(teacher.probs), teacher.discount)
    return Cell(method, teacher, {"estimator": estimator} | changes)


def at_points(iterations: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """The returns at the paper's iterations, interpolated between the centres of the bins.

    Args:
      iterations: the last iteration of each bin, [C].
      returns: [..., K, C], curves in the order of `curves`.

    Returns:
      [..., N], in the order of `targets`; NaN where a curve has NaN. Points after the last centre have the value of the
      last bin.
    """
    centres = bin_centres(iterations)
    columns = [
        np.dot(returns[..., k, :], [np.interp(iteration, centres, one_bin) for one_bin in np.eye(len(centres))])
        for k, curve in enumerate(curves())
        for iteration in curve.points
    ]
    return np.stack(columns, axis=-1)
