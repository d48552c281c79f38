"""How far the curves of readings are from the paper's points, and which readings the worlds cannot tell apart."""

import numpy as np

from experiments.readings.curves import Curve, curves, targets
from jaxdistill.statistics import Interval, mean_interval

LAST = 30_000
LEAST_DIFFERENCE = 0.2
"""Two of the paper's curves closer than this at the end have no order: points are read off with an error of 0.15."""


def distances(means: np.ndarray) -> np.ndarray:
    """The mean distance from the paper's points [..., N] -> [...]; infinite where a student diverged."""
    return np.nan_to_num(np.mean(np.abs(means - targets()), axis=-1), nan=np.inf)


def by_group(means: np.ndarray) -> dict[str, float]:
    """The mean distance of one reading [N] in each panel, and of each curve, by name."""
    absolute, names = np.abs(means - targets()), _names()
    groups: dict[str, list[float]] = {}
    for (panel, curve), distance in zip(names, absolute, strict=True):
        groups.setdefault(panel, []).append(distance)
        groups.setdefault(curve, []).append(distance)
    return {name: float(np.mean(values)) for name, values in groups.items()}


def _names() -> list[tuple[str, str]]:
    """The names of the panel and of the curve of each point."""
    return [(f"{curve.figure}/{curve.panel}", curve.name) for curve in curves() for _ in curve.points]


def orderings(means: np.ndarray) -> tuple[int, int]:
    """How many pairs of curves of Fig. 5 end in the paper's order, and how many pairs have one.

    A pair is two methods of one column whose last points in the paper differ by at least `LEAST_DIFFERENCE`.
    """
    ends: dict[str, list[tuple[float, float]]] = {}
    for curve, values in zip(curves(), _split(means), strict=True):
        if curve.figure == "fig5" and LAST in curve.points:
            ends.setdefault(curve.panel, []).append((curve.points[LAST], values[list(curve.points).index(LAST)]))
    right = total = 0
    for column in ends.values():
        for i, (paper, ours) in enumerate(column):
            for other_paper, other_ours in column[:i]:
                if abs(paper - other_paper) > LEAST_DIFFERENCE - 1e-9:
                    total += 1
                    right += (paper > other_paper) == (ours > other_ours)
    return right, total


def _split(means: np.ndarray) -> list[np.ndarray]:
    """The values [N] of each curve."""
    return np.split(means, np.cumsum([len(curve.points) for curve in curves()])[:-1])


def of_curve(means: np.ndarray, curve: Curve) -> np.ndarray:
    """The values of one curve at its points."""
    return _split(means)[curves().index(curve)]


def difference(values: np.ndarray, other: np.ndarray) -> Interval:
    """The difference of two readings' distances, paired over worlds, with its 95 % interval.

    The distance is a sum of absolute values of means. Its derivative in the values of one world is the sign of each
    difference, which gives every world a share of the distance.

    Args:
      values, other: [M, N], of the same worlds.
    """
    return mean_interval(_shares(values) - _shares(other))


def _shares(values: np.ndarray) -> np.ndarray:
    signs = np.sign(values.mean(axis=0) - targets())
    return np.mean(signs * (values - targets()), axis=-1)
