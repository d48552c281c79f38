"""The mean of updates that the compiled C samples is the exact expected update; XLA's loop takes no part in it."""

import pytest

from jaxdistill.kernels import choice, launch
from jaxdistill.kernels.native import NativeToolchain
from tests.training import test_unbiased as unbiased


@pytest.fixture
def kernels(compiler, monkeypatch):
    """Makes training use kernels."""
    launched = []
    advance = launch.advance
    monkeypatch.setattr(launch, "advance", lambda *args: launched.append(args[0]) or advance(*args))
    with choice.on_cpu(NativeToolchain()):
        yield
    assert launched


CASES = [
    (("baseline", "on_policy_distill", "td_vpi"), "td"),
    (("n_distill", "exp_entropy_regularised"), "mc"),
    (("n_distill/episode",), "lambda"),
]


@pytest.mark.parametrize(("names", "estimator"), CASES, ids=lambda x: x if isinstance(x, str) else x[0])
def test_mean_of_sampled_updates_is_the_exact_update(kernels, names, estimator):
    unbiased.test_mean_of_sampled_updates_is_the_exact_update(names, estimator)


@pytest.mark.parametrize("truncation", ["bootstrap", "end"])
def test_episodes_that_are_cut(kernels, truncation):
    unbiased.test_episodes_that_are_cut("mc", truncation)


def test_visits_that_count_once(kernels):
    unbiased.test_visits_that_count_once_and_a_fixed_length("td", ("once", "every"))


@pytest.mark.parametrize(("num_features", "case", "estimator"), [(2, "next action", "td"), (4, "divided", "mc")])
def test_states_that_share_features(kernels, num_features, case, estimator):
    unbiased.test_states_that_share_features(num_features, case, estimator)
