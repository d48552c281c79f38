"""The rows of a student's tables that a state adds up: one definition for the engine's worlds and for the exact side.

The logits and the value of a state are the sums of the rows of its features. With one feature for each state, which is
its observation, that sum is a row of the table.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp.mdp import MDP


def sum_of_rows(table: Any, features: Any, axis: int = 0) -> Any:
    """The sums of a table's rows in every state.

    Args:
      table: [..., O, ...], of NumPy or JAX, with its rows along `axis`.
      features: int [S, F], the rows of each state, padded with -1.
      axis: that of the rows.

    Returns:
      [..., S, ...], of the kind and the dtype of the table.
    """
    library = np if isinstance(table, np.ndarray) else jnp
    axis %= table.ndim
    total = None
    for index in (features[:, f] for f in range(features.shape[1])):
        # A table of one feature for each state has no padding, so that its rows are taken as they are.
        rows = library.take(table, library.maximum(index, 0) if features.shape[1] > 1 else index, axis=axis)
        if features.shape[1] > 1:
            shape = (1,) * axis + (-1,) + (1,) * (table.ndim - axis - 1)
            rows = library.where((index >= 0).reshape(shape), rows, library.zeros((), table.dtype))
        total = rows if total is None else total + rows
    return total


def log_policy(logits: Any, features: Any) -> Any:
    """The log-probabilities [..., S, A] of students with the tables `logits` [..., O, A], of NumPy or JAX.

    `features` is as in `sum_of_rows`. Rows that are not summed are normalised once each, however many states use them.
    """
    if features.shape[1] == 1:
        return sum_of_rows(_log_softmax(logits), features, -2)
    return _log_softmax(sum_of_rows(logits, features, -2))


def _log_softmax(logits: Any) -> Any:
    """log softmax over the last axis, by the library of the array."""
    if not isinstance(logits, np.ndarray):
        return jax.nn.log_softmax(logits)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def add_to_rows(directions: jax.Array, features: jax.Array, num_rows: int) -> jax.Array:
    """The table [num_rows, ...] to whose rows the states add `directions` [S, F, ...], one for each of their features.

    Directions of padding are left out.
    """
    is_feature = (features >= 0).reshape(*features.shape, *[1] * (directions.ndim - 2))
    table = jnp.zeros((num_rows, *directions.shape[2:]), directions.dtype)
    return table.at[jnp.maximum(features, 0)].add(jnp.where(is_feature, directions, 0))


def shares(features: Any, is_divided: bool) -> Any:
    """The share [S, F] of a state's direction that each of its rows gets: all of it, or divided by their number.

    It is 0 for padding, and of the library and the default float dtype of NumPy or JAX.
    """
    library = np if isinstance(features, np.ndarray) else jnp
    is_feature = features >= 0
    number = is_feature.sum(-1, keepdims=True) if is_divided else library.ones((), int)
    return library.where(is_feature, 1 / number, 0.0)


def table_by_state(mdps: MDP, table: Any) -> np.ndarray:
    """The sums [S, A] of the rows of a table [O, A] of one MDP, or [M, S, A] of the tables [M, O, A] of a stack."""
    table, features = np.asarray(table), np.asarray(mdps.features)
    if not mdps.is_stacked:
        return sum_of_rows(table, features)
    return np.stack([sum_of_rows(*pair) for pair in zip(table, features, strict=True)])
