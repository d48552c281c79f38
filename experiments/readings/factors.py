"""The choices of a reading, each with its levels, and which levels agree with the paper's text."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

Reading = dict[str, str]
"""The level of each factor, by the factor's name."""


class Factor(NamedTuple):
    """One choice.

    Attributes:
      question: what is chosen.
      levels: the flags that each level sets, by the level's name. The flag `value_rate` is the rate of V_theta divided
        by that of the logits, `first_column` the estimator of Fig. 5's first column, and `expected_returns` whether
        exp. entropy regularised has the returns of Table 1; the others are flags of the figures.
      literal: the levels that agree with the text, where it speaks; all levels where it is silent.
    """

    question: str
    levels: dict[str, dict[str, Any]]
    literal: tuple[str, ...]


def _factor(question: str, flag: str, levels: Iterable[Any], literal: Iterable[Any] | None = None) -> Factor:
    """A factor whose levels are the values of one flag."""
    levels = list(levels)
    return Factor(question, {f"{x}": {flag: x} for x in levels}, tuple(f"{x}" for x in literal or levels))


def _step(reduction: str, rate: float) -> dict[str, Any]:
    return {"reduction": reduction, "learning_rate": rate}


FACTORS = {
    "step": Factor(
        "normaliser of an episode's update, and the rate of the logits",
        {f"{name} {rate}": _step(name, rate) for name, rate in
         [("mean", 0.1), ("mean", 0.05), ("fixed", 0.1), ("fixed", 0.05), ("fixed", 0.2)]},
        ("mean 0.1", "fixed 0.1"),
    ),
    "value_rate": _factor("rate of V_theta divided by that of the logits", "value_rate", [1.0, 0.3, 0.1], [1.0]),
    "first_column": _factor("estimator of the column of Monte Carlo students", "first_column", ["mc", "td"], ["mc"]),
    "loss_visits": _factor("visits of a row that count for the loss", "loss_visits", ["every", "once"], ["every"]),
    "return_visits": _factor("visits that count for the return", "return_visits", ["every", "once"], ["every"]),
    "exploration": Factor(
        "exploration of Q-learning",
        {
            "epsilon 0.1": {"control": "epsilon", "epsilon": 0.1},
            "epsilon 0.5": {"control": "epsilon", "epsilon": 0.5},
            "boltzmann": {"control": "boltzmann"},
        },
        ("epsilon 0.1", "epsilon 0.5", "boltzmann"),
    ),
    "ties": _factor("tied actions of the teacher", "ties", ["share", "random"], ["share"]),
    "noise_action": Factor(
        "action of a noisy teacher in the states of its noise",
        {name: {"noise_action": name, "noise_ties": "random"} for name in ("worst", "any", "not_best")},
        ("worst", "any", "not_best"),
    ),
    "transitions": _factor("probability that a move goes in a random direction", "noise", [0.1, 0.0], [0.1]),
    "floor": _factor("floor of the teacher's probabilities in logarithms", "probability_floor", [0.01, 1e-6, 1e-30]),
    "expected_returns": _factor("returns of exp. entropy regularised", "expected_returns", [True, False], [True]),
}  # fmt: skip


def flags(reading: Reading) -> dict[str, Any]:
    """The flags that a reading sets."""
    merged = {name: value for factor, level in reading.items() for name, value in FACTORS[factor].levels[level].items()}
    if "learning_rate" in merged and "value_rate" in merged:
        merged["value_learning_rate"] = round(merged["learning_rate"] * merged.pop("value_rate"), 6)
    return merged


def as_levels(readings: list[Reading]) -> np.ndarray:
    """The readings as the numbers of their levels, int [R, F]."""
    return np.array([[list(f.levels).index(r[name]) for name, f in FACTORS.items()] for r in readings])


def from_levels(levels: np.ndarray) -> list[Reading]:
    """The readings of the numbers of their levels [R, F]."""
    names = [list(factor.levels) for factor in FACTORS.values()]
    return [{f: names[i][x] for i, (f, x) in enumerate(zip(FACTORS, row, strict=True))} for row in levels]


def all_levels() -> np.ndarray:
    """Every reading, int [product of the numbers of levels, F]."""
    return np.array(list(itertools.product(*(range(len(factor.levels)) for factor in FACTORS.values()))))


def is_literal(levels: np.ndarray) -> np.ndarray:
    """Whether each reading [R, F] agrees with the text, bool [R]."""
    agrees = [np.array([name in factor.literal for name in factor.levels]) for factor in FACTORS.values()]
    return np.all([agrees[i][levels[:, i]] for i in range(len(agrees))], axis=0)


def design(num: int, seed: int) -> np.ndarray:
    """`num` readings in which the levels of each factor occur equally often, in random combinations, int [num, F].

    This is a Latin hypercube of the factors.
    """
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.arange(num) % len(factor.levels)) for factor in FACTORS.values()]
    return np.stack(columns, axis=1)
