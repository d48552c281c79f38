"""The summary of a result: paired differences, checkpoints, and the printed table."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill.results.summary import summarise
from jaxdistill.statistics import NO_INTERVAL
from tests.results.random_results import LABELS, make


def test_differences_are_paired_over_mdps():
    worlds = np.random.default_rng(4).normal(scale=10, size=50)  # easy and hard worlds
    gain = np.random.default_rng(5).normal(0.5, 0.1, size=50)
    returns = np.stack([worlds, worlds + gain])
    summary = summarise(["a", "b"], returns, np.full((2, 50), np.nan), "a", "returns")
    difference = summary["b"].difference
    assert summary["a"].difference is None
    assert difference.estimate == pytest.approx(gain.mean())
    # The normal interval of the paired gains, not that of two independent means, which is 100 times wider.
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * gain.std() / np.sqrt(50), rel=0.15)
    assert summary["b"].mean.high - summary["b"].mean.low > 4


def test_differences_by_hand():
    returns = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, np.nan], [0.0, np.inf, 0.0]])
    summary = summarise(["a", "b", "c"], returns, np.zeros((3, 3)), "a", "returns")
    assert summary["b"].difference.estimate == 0.5  # ((2 - 1) + (2 - 2)) / 2
    assert summary["c"].difference.estimate == -2.5  # ((0 - 1) + (0 - 4)) / 2
    assert [row.num_mdps for row in summary.rows] == [3, 2, 2]
    left_out = (f"note: {x}: 1 of 3 MDPs are not finite and are left out" for x in "bc")
    assert summary.notes == (*left_out, f"note: {NO_INTERVAL}")
    backwards = summarise(["a", "b", "c"], returns, np.zeros((3, 3)), "b", "returns")
    assert backwards["a"].difference.estimate == -0.5
    diverged = np.array([[1.0, np.inf, 4.0], [3.0, np.inf, -np.inf]])
    assert summarise("ab", diverged, np.zeros((2, 3)), "a", "").rows[1].difference.estimate == 2


def test_summary_takes_the_given_checkpoint():
    result = make(num_mdps=9)
    last, first, final = (
        result.summary(),
        result.summary(checkpoint=0),
        result.summary("final", baseline="td_vpi"),
    )
    for p, label in enumerate(LABELS):
        assert last[label].mean.estimate == pytest.approx(result.returns[p, :, -1].mean(), abs=1e-6)
        assert first[label].mean.estimate == pytest.approx(result.returns[p, :, 0].mean(), abs=1e-6)
        assert final[label].mean.estimate == pytest.approx(result.final_returns[p].mean(), abs=1e-6)
        assert final[label].iqm.estimate == pytest.approx(stats.trim_mean(result.final_returns[p], 0.25), abs=1e-6)
        assert last[label].teacher == pytest.approx(result.teacher_returns[p].mean(), abs=1e-6)
    assert final["td_vpi"].difference is None and final["baseline"].difference is not None
    assert "iteration 30" in last.quantity and "iteration 10" in first.quantity and "exact" in final.quantity
    with pytest.raises(KeyError, match="'sgd'"):
        last["sgd"]


def test_summary_prints_as_an_aligned_table():
    returns = np.zeros((3, 4, 3)) + np.array([1.0, -2.0, 30.0])[:, None, None]
    text = str(make(returns=returns, teacher_returns=np.full((3, 4), np.nan)).summary())
    quantity, header, rule, *rows, note = text.splitlines()
    assert quantity.startswith("return at the checkpoint of iteration 30, 4 MDPs (uniform policy ")
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert "teacher" not in header and "minus baseline" in header
    assert rows[0].split() == ["baseline", "4", "1.000", "[n/a]", "1.000", "[n/a]", "-"]
    assert rows[2].endswith("+29.000 [n/a]") and note == f"note: {NO_INTERVAL}"
    many = str(make(num_mdps=9).summary())
    assert "teacher" in many and "n/a" not in many and "+" in many.splitlines()[-1].split("] ")[2]


def test_summary_as_markdown_and_data_frame():
    pytest.importorskip("pandas")
    summary = make(num_mdps=9, labels=("a|b", "c"), seed=7).summary()
    lines = summary.to_markdown().splitlines()
    assert len(lines) == 4 and lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[2].startswith(r"| a\|b | 9 |")
    frame = summary.to_dataframe().set_index("label")
    assert frame.loc["c", "mean_low"] == summary["c"].mean.low
    assert frame.loc["c", "difference"] == summary["c"].difference.estimate
    assert np.isnan(frame.loc["a|b", "difference_high"])


@pytest.mark.parametrize("arguments", [dict(checkpoint=3), dict(checkpoint=-4), dict(checkpoint="last")])
def test_summary_refuses_a_checkpoint_that_does_not_exist(arguments):
    with pytest.raises(ValueError, match="no checkpoint"):
        make().summary(**arguments)
