"""Results: the checks of their fields, their named axes, selection and concatenation."""

import numpy as np
import pytest

from jaxdistill.results import Result, concatenate
from tests.results.random_results import LABELS, assert_same, make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(labels=("a", "a", "b")), "labels must be distinct"),
        (dict(labels=()), "labels must be distinct and at least one"),
        (dict(curve_kind=("sampled",)), "curve_kind must be sampled or exact"),
        (dict(curve_kind=("sampled", "exact", "guessed")), "curve_kind must be sampled or exact"),
        (
            dict(returns=np.zeros((3, 5, 3))),
            r"returns has shape \(3, 5, 3\), expected \(3 methods, 4 mdps, 3 checkp",
        ),
        (dict(uniform_returns=np.zeros((4, 1))), r"uniform_returns has shape \(4, 1\), expected \(4 mdps\)"),
        (
            dict(values=np.zeros((3, 4, 9))),
            r"values has shape \(3, 4, 9\), expected \(3 methods, 4 mdps, 2 observ",
        ),
        (dict(iterations=[10, 10, 20]), "iterations must be at least 1 and increase"),
        (dict(iterations=[0, 10, 20]), "iterations must be at least 1"),
        (dict(iterations=[0.5, 1.5, 2.5]), "iterations must be an array of integers"),
        (dict(returns=[["x"]]), "returns must be an array of floats"),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as info:
        make(**changes)
    assert "\n" not in str(info.value)


def test_axes_name_every_array():
    result = make()
    for name, axes in Result.axes.items():
        if name not in ("measurements", "features"):  # this result has none
            assert getattr(result, name).ndim == len(axes), name
    assert result.returns.dtype == np.float32 and result.mdp_ids.dtype.kind == "i"
    assert result.curve_kind == ("sampled",) * 3 and result.num_mdps == 4
    assert repr(result) == (
        "Result(methods: baseline, n_distill, td_vpi; 4 MDPs; 3 checkpoints up to iteration 30; 0 faults)"
    )


def test_select_by_name_and_id():
    faults = [{"method": "baseline", "mdp": 11}, {"method": "td_vpi", "mdp": 12}, {"message": "slow"}]
    result = make(first_id=10, faults=faults, curve_kind=("sampled", "exact", "sampled"))
    part = result.select(labels=["td_vpi", "n_distill"], mdps=[13, 12])
    assert part.labels == ("td_vpi", "n_distill") and part.curve_kind == ("sampled", "exact")
    assert part.mdp_ids.tolist() == [13, 12] and part.faults == faults[1:]
    np.testing.assert_array_equal(part.returns, result.returns[[2, 1]][:, [3, 2]])
    np.testing.assert_array_equal(part.logits, result.logits[[2, 1]][:, [3, 2]])
    np.testing.assert_array_equal(part.uniform_returns, result.uniform_returns[[3, 2]])
    np.testing.assert_array_equal(part.iterations, result.iterations)
    assert_same(result.select(), result)
    assert result.select("n_distill", mdps=11).returns.shape == (1, 1, 3)
    assert result.select(mdps=range(10, 12)).num_mdps == 2
    with pytest.raises(ValueError, match="no MDP with id 3 in this result"):
        result.select(mdps=[11, 3])
    with pytest.raises(ValueError, match="no method 'sgd' in this result; it has baseline, n_distill, td_vpi"):
        result.select(labels="sgd")


def test_concatenate_undoes_select():
    result = make(num_mdps=5)
    assert_same(concatenate([result.select(mdps=[0, 1, 2]), result.select(mdps=[3, 4])]), result)
    assert_same(concatenate([result.select(LABELS[:1]), result.select(LABELS[1:])], axis="method"), result)
    assert_same(concatenate([result]), result)


def test_concatenate_pads_tables_and_keeps_settings_that_differ():
    small, large = make(seed=1), make(seed=2, first_id=4, observations=5, faults=[{"mdp": 5}])
    joined = concatenate([small, large])
    assert joined.logits.shape == (3, 8, 5, 4) and joined.values.shape == (3, 8, 5)
    np.testing.assert_array_equal(joined.logits[:, :4, :2], small.logits)
    assert not joined.logits[:, :4, 2:].any() and not joined.values[:, :4, 2:].any()
    np.testing.assert_array_equal(joined.logits[:, 4:], large.logits)
    assert joined.settings == {"parts": [{"seed": 1}, {"seed": 2}]} and joined.versions == {"numpy": "x"}
    assert joined.faults == [{"mdp": 5}]


@pytest.mark.parametrize(
    ("second", "axis", "message"),
    [
        (dict(), "mdp", "share MDP ids"),
        (dict(first_id=4, labels=("x", "y", "z")), "mdp", "their labels differ"),
        (dict(first_id=4, iterations=[1, 2, 3]), "mdp", "their iterations differ"),
        (dict(first_id=4, tables=False), "mdp", "some results have logits and some have none"),
        (dict(labels=("x", "y"), first_id=4), "method", "their mdp_ids differ"),
        (dict(labels=("x", "y"), uniform_returns=[0, 0, 0, 0]), "method", "their uniform_returns differ"),
        (dict(), "method", "labels must be distinct|their uniform_returns differ"),
        (dict(first_id=4), "checkpoint", "axis 'mdp' or 'method'"),
    ],
)
def test_concatenate_refuses_results_that_do_not_fit(second, axis, message):
    with pytest.raises(ValueError, match=message):
        concatenate([make(), make(**second)], axis=axis)
