"""experiments.capacity: rates are chosen and judged on different worlds; a student that cannot copy its teacher."""

import dataclasses

import numpy as np
import pytest

from experiments import capacity
from jaxdistill import exact


def test_the_rate_is_chosen_on_worlds_that_do_not_judge_it():
    values = np.array([[[0.0, 9.0, 0.0, 9.0], [1.0, 2.0, 1.0, 2.0]], [[3.0, 1.0, np.nan, 1.0], [2.0, 5.0, 2.0, 5.0]]])
    lower, best = capacity.judged(values, is_higher_better=False)
    assert best.tolist() == [0, 1] and lower.tolist() == [[9, 9], [5, 5]]
    higher, best = capacity.judged(values, is_higher_better=True)
    assert best.tolist() == [1, 1] and higher.tolist() == [[2, 2], [5, 5]]  # the other rate has a student that diverged
    diverged = np.full((1, 2, 4), np.nan)
    diverged[0, 1] = 7
    assert capacity.judged(diverged, False)[1].tolist() == [1]
    without_number = np.concatenate([values, np.full((2, 2, 2), np.nan)], axis=-1)
    assert capacity.judged(without_number, True)[0].tolist() == [[2, 2], [5, 5]]


def test_the_students_of_a_kind():
    """The arrays of a part are those of the exact measures; a table comes nearer to its teacher than a row + column."""
    settings = capacity.Settings(**capacity.SMOKE)
    data = {kind: capacity.run(settings, kind) for kind in settings.kinds}
    assert data["table"]["num_parameters"] == 16 and data["row_and_column"]["num_parameters"] == 8
    for arrays in data.values():
        assert arrays["sequence_forward_kl"].shape == (2, 2, 8) and (arrays["sequence_forward_kl"] > 0).all()
    assert (
        data["row_and_column"]["sequence_reverse_kl"].min(1).mean() > data["table"]["sequence_reverse_kl"].min(1).mean()
    )
    mdps, teacher = capacity.problem(settings, "row_and_column")
    q = exact.optimal_action_values(mdps, 0.99)
    np.testing.assert_allclose(
        np.log(teacher.probs[..., 0] / teacher.probs[..., 3]), (q[..., 0] - q[..., 3]) / 0.5, atol=1e-3
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kinds": ["network"]}, "row_and_column"),
        ({"methods": ["clone"]}, "on_policy_distill"),
        ({"rates": ["0.1", "0.1"]}, "must be different positive numbers"),
        ({"rates": ["fast"]}, "must be different positive numbers"),
        ({"num_mdps": 3}, "num_mdps must be at least 4"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_bad_settings_are_refused_before_any_work(changes, expected, tmp_path):
    settings = dataclasses.replace(capacity.Settings(out=str(tmp_path / "new")), **changes)
    with pytest.raises(ValueError, match=expected) as error:
        capacity.work(settings)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()
