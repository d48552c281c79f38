"""A choice of few worlds whose means are those of many."""

import numpy as np


def representative(features: np.ndarray, num: int, seed: int = 0) -> np.ndarray:
    """`num` worlds whose mean features are near those of all worlds.

    The difference that counts is the sum over features of the squared difference of the means, in standard deviations.
    From a random choice on, one world is exchanged for another while this makes the difference smaller.

    Args:
      features: [N, K], numbers that are known of every world, such as exact returns of the teachers.
      num: number of worlds, at most N.
      seed: of the first choice.

    Returns:
      The indices of the worlds, int [num], ascending.
    """
    deviation = features.std(axis=0)
    scores = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    selected = np.random.default_rng(seed).permutation(len(scores))[:num]
    total = scores[selected].sum(axis=0)
    squares = (scores**2).sum(axis=1)
    while True:
        outside = np.setdiff1d(np.arange(len(scores)), selected)
        # |total - x_i + x_j|^2 - |total|^2 for each selected i and each other j
        change = (
            (squares[selected] - 2 * np.dot(scores[selected], total))[:, None]
            + (squares[outside] + 2 * np.dot(scores[outside], total))[None]
            - 2 * np.dot(scores[selected], scores[outside].T)
        )
        if change.size == 0 or change.min() > -1e-9:
            return np.sort(selected)
        i, j = np.unravel_index(np.argmin(change), change.shape)
        total += scores[outside[j]] - scores[selected[i]]
        selected[i] = outside[j]
