"""The mean of updates that the compiled C samples is the exact expected update; XLA's loop takes no part in it."""

from unittest import mock

import jax
import pytest

from jaxdistill.kernels.lane import trace
from jaxdistill.kernels.native import NativeKernel
from jaxdistill.kernels.translation import translate
from jaxdistill.scheduling import block
from tests.training import test_unbiased as unbiased


def advance(kernels, program, lanes, worlds, teachers, schedules, num_iterations, until, num_ticks):
    """`engine.tick.advance` by the kernel of the program, which is compiled once."""
    if program not in kernels:
        kernels[program] = NativeKernel(translate(trace(program, worlds, teachers, schedules, lanes.state.student)))
    lanes, status = kernels[program](lanes, worlds, teachers, schedules, int(num_iterations), until, int(num_ticks))
    return jax.device_put(lanes), status


@pytest.fixture
def kernels(compiler):
    """Makes training use kernels; gives those that it has compiled, by program."""
    kernels = {}
    with mock.patch.object(block, "advance", lambda *arguments: advance(kernels, *arguments)):
        yield kernels
    assert kernels


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
