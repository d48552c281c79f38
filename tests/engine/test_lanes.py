"""How lanes are written by accelerators, beside how the processor writes them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine.lanes import put_at_once, put_in_turn


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("mask", [[1, 0, 1, 1, 0], [0] * 5, [1] * 5, [0, 0, 0, 0, 1]])
def test_both_ways_to_put_rows_into_lanes(mask, dtype):
    rng = np.random.default_rng(0)
    table, rows = (rng.integers(100, size=size).astype(dtype) for size in ((15, 4), (5, 3, 4)))
    expected = table.copy().reshape(5, 3, 4)
    expected[np.array(mask, bool)] = rows[np.array(mask, bool)]
    for put in (put_in_turn, put_at_once):
        result = put(jnp.asarray(table), jnp.asarray(rows), jnp.asarray(mask, bool))
        np.testing.assert_array_equal(result, expected.reshape(15, 4), put.__name__)
