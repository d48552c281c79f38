"""Results of random numbers, and their comparison."""

import dataclasses

import numpy as np

from jaxdistill.results import Result

LABELS = ("baseline", "n_distill", "td_vpi")


def make(num_mdps=4, first_id=0, labels=LABELS, num_checkpoints=3, seed=0, tables=True, observations=2, **changes):
    rng = np.random.default_rng([seed, first_id])
    p, m, c = len(labels), num_mdps, num_checkpoints

    def floats(*shape):
        return rng.normal(size=shape).astype(np.float32)

    fields = dict(
        labels=labels, mdp_ids=np.arange(first_id, first_id + m), iterations=np.arange(1, c + 1) * 10,
        returns=floats(p, m, c), lengths=5 + floats(p, m, c) ** 2, final_returns=floats(p, m),
        teacher_returns=floats(p, m), uniform_returns=floats(m), optimal_returns=floats(m),
        logits=floats(p, m, observations, 4) if tables else None,
        values=floats(p, m, observations) if tables else None,
        settings={"seed": seed}, versions={"numpy": "x"},
    )  # fmt: skip
    return Result(**(fields | changes))


def assert_same(a, b):
    for field in dataclasses.fields(Result):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name
