"""Performance profiles: their numbers, and how often their intervals contain the truth."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill.statistics import performance_profile
from tests.results.random_results import make


def test_the_share_of_worlds_above_each_level():
    share = performance_profile([0.0, 0.5, 0.5, np.nan], [-1, 0, 0.25, 0.5])
    np.testing.assert_array_equal(share.estimate, [0.75, 0.5, 0.5, 0])
    assert (share.low <= share.estimate).all() and (share.estimate <= share.high).all()
    assert performance_profile([1.0, 1.0], [0.0]).high == 1 and performance_profile([1.0, 1.0], [1.0]).low == 0


@pytest.mark.parametrize("number", [10, 50])
def test_the_interval_covers(number):
    """In at least 95 % of the samples, exactly: the sum over all counts of worlds above the level."""
    for share in (0.02, 0.3, 0.5, 0.9):
        counts = np.arange(number + 1)
        scores = (np.arange(number)[None] < counts[:, None]).astype(float)
        intervals = [performance_profile(row, [0.5]) for row in scores]
        covered = [bool(x.low[0] <= share <= x.high[0]) for x in intervals]
        assert (stats.binom.pmf(counts, number, share) * covered).sum() >= 0.95


def test_scores_and_the_figure():
    """A world in which every policy has the same return has no score and is left out."""
    returns = np.array([[0.0, 1.0, 3.0, 5.0]])
    worlds = dict(uniform_returns=np.array([0.0, 0, 1, 5]), optimal_returns=np.array([1.0, 2, 3, 5]))
    result = make(labels=("a",), final_returns=returns, **worlds)
    np.testing.assert_array_equal(result.normalised_scores(), [[0, 0.5, 1, np.nan]])
    (ax,) = result.profiles().axes
    curve = ax.lines[0]
    assert curve.get_ydata()[0] == 2 / 3 and curve.get_ydata()[-1] == 0
    with pytest.raises(ValueError, match="no method"):
        result.profiles(labels=["x"])
