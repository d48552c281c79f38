"""The makers of features, on grids that are not square and on texts by hand."""

import jax
import numpy as np
import pytest

from jaxdistill import MDP, features, from_text, garnet, sample_mdps

GRID = from_text(["S..+", ".#x."])
WORLDS = sample_mdps(jax.random.key(0), 3, num_rows=3, num_cols=5)


def test_row_and_column():
    assert features.row_and_column(GRID).tolist() == [[0, 2], [0, 3], [0, 4], [0, 5], [1, 2], [1, 3], [1, 4], [1, 5]]
    mdps = WORLDS.with_features(features.row_and_column(WORLDS))
    assert (mdps.num_observations, mdps.num_features) == (8, 2)


def test_tiles():
    """Two tilings of 2 x 2 cells, one of them moved by a cell to the left."""
    table = features.tiles(WORLDS, 2, [(0, 0), (0, 1)])
    first = [0, 0, 1, 1, 2] * 2 + [3, 3, 4, 4, 5]
    second = [6, 7, 7, 8, 8] * 2 + [9, 10, 10, 11, 11]
    assert table.T.tolist() == [first, second]
    assert features.tiles(WORLDS, 5).tolist() == [[0]] * 15
    moved = features.tiles(WORLDS, 3, [(2, 0)])[:, 0]
    assert moved.reshape(3, 5).tolist() == [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3], [2, 2, 2, 3, 3]]


def looks(mdp):
    """The look of every cell, as `gridworld.window_observations` defines it."""
    grid = jax.tree.map(np.asarray, mdp.grid)
    cells = zip(grid.wall.ravel(), grid.reward.ravel(), grid.terminal.ravel(), strict=True)
    return np.array(["#" if wall else f"{reward} {terminal}" for wall, reward, terminal in cells]).reshape(
        grid.wall.shape
    )


def test_window_cells():
    """Cells have equal features exactly where the same places in their windows look the same, in all worlds."""
    table = features.window_cells(WORLDS, 1)
    windows = []
    for m in range(3):
        padded = np.pad(looks(WORLDS[m]).astype(object), 1, constant_values="#")
        windows += [padded[r : r + 3, c : c + 3].ravel() for r in range(3) for c in range(5)]
    alike = np.array(windows)[:, None] == np.array(windows)[None]
    flat = table.reshape(45, 9)
    np.testing.assert_array_equal(flat[:, None] == flat[None], alike)
    assert len({*flat[:, 0]} & {*flat[:, 1]}) == 0  # places do not share features
    assert table.max() + 1 == len(np.unique(table))
    np.testing.assert_array_equal(features.window_cells(GRID, 0).shape, (8, 1))


def test_ngram():
    """Contexts of two symbols: the empty suffix, the last symbol, and both."""
    table = features.ngram([[-1, -1], [-1, 0], [0, 1], [1, 1], [1, 0], [0, 1]], 3)
    assert table.tolist() == [[0, 1, 4], [0, 2, 5], [0, 3, 6], [0, 3, 8], [0, 2, 7], [0, 3, 6]]
    assert features.ngram([[4], [5]], 1).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: features.row_and_column(garnet.garnet(jax.random.key(0), 2)), "of grid worlds"),
        (lambda: features.tiles(MDP.from_arrays([[0]], 0.0, False, [[1.0]]), 2), "of grid worlds"),
        (lambda: features.tiles(GRID, 0), "width must be a whole number"),
        (lambda: features.tiles(GRID, 2, [0, 1]), r"offsets must be pairs \(rows, columns\)"),
        (lambda: features.tiles(GRID, 2, [(0, 2)]), "from 0 to width - 1 = 1"),
        (lambda: features.tiles(GRID, 2, []), "offsets must be"),
        (lambda: features.window_cells(GRID, -1), "radius must be a whole number"),
        (lambda: features.window_cells(GRID, 10**5), "lower radius"),
        (lambda: features.ngram([[0.5]], 1), "contexts must be an array of whole numbers"),
        (lambda: features.ngram([[0], [-2]], 1), "contexts must be symbols"),
        (lambda: features.ngram([[0, 1]], 4), r"max_order must be a whole number in \[1, 3\]"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
