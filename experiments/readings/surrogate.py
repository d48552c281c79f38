"""Predicts the curves of readings that were not trained from those that were.

Each point of a curve is a Gaussian process over the readings. Two readings are correlated by CORRELATION to the power
of the number of factors in which they differ, of those on which the curve depends; so any choices may interact.
"""

import numpy as np

from experiments.readings import factors
from experiments.readings.curves import curves, relevant

CORRELATION = 0.8
"""With 40 readings on 8 worlds, predicting each from the others has the least error: 0.78, and 0.81 at 0.7 and 0.95."""
WORLD_VARIANCE = 0.3
"""The variance of a curve's value between worlds that remains when worlds are chosen to represent many, about."""


def predict(levels: np.ndarray, means: np.ndarray, num_worlds: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The expected values of candidates at the paper's points.

    Args:
      levels: readings that were trained, int [R, F].
      means: their values at the points, [R, N].
      num_worlds: on how many worlds each was trained, [R].
      candidates: int [C, F].

    Returns:
      [C, N].
    """
    converged = np.isfinite(means).all(axis=1)
    levels, means, num_worlds = levels[converged], means[converged], num_worlds[converged]
    predicted, start = np.empty((len(candidates), means.shape[1]), np.float32), 0
    names = list(factors.FACTORS)
    for curve in curves():
        points = slice(start, start + len(curve.points))
        start = points.stop
        reading = factors.from_levels(candidates[:1])[0]
        columns = [names.index(name) for name in relevant(curve, reading)]
        different, of_candidate = np.unique(candidates[:, columns], axis=0, return_inverse=True)
        values = _posterior(levels[:, columns], means[:, points], WORLD_VARIANCE / num_worlds, different)
        predicted[:, points] = values[of_candidate.reshape(-1)]
    return predicted


def _posterior(levels: np.ndarray, values: np.ndarray, noise: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The mean [C, K] of the process at the candidates, given values [R, K] with the variances `noise` [R]."""
    mean = values.mean(axis=0)
    variance = np.maximum(values.var(axis=0), 0.01)  # [K]
    between = CORRELATION ** (levels[:, None] != levels[None]).sum(axis=-1)
    to_candidates = CORRELATION ** (candidates[:, None] != levels[None]).sum(axis=-1)
    columns = [
        mean[k] + np.dot(to_candidates, np.linalg.solve(between + np.diag(noise / variance[k]), values[:, k] - mean[k]))
        for k in range(values.shape[1])
    ]
    return np.stack(columns, axis=1)
