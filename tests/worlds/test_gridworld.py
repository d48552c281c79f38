"""Grid worlds: the dynamics, the distribution of App. A.2, windows, maps drawn as text, and errors for bad input."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdistill.mdp import exact, validate
from jaxdistill.worlds import gridworld
from jaxdistill.worlds.grid import CELL_PROB_FIELDS
from jaxdistill.worlds.gridworld import GridConfig, from_text, sample_mdps

REWARDS = {"wall": None, "+10": 10.0, "+5": 5.0, "-1": -1.0, "-5": -5.0, "-10": -10.0, "empty": 0.0}
TERMINAL = {"+10", "+5", "-5", "-10"}
STEPS = {0: (0, -1), 1: (0, 1), 2: (-1, 0), 3: (1, 0)}  # left, right, up, down
P_VALUE = 1e-4  # The seeds are fixed, so a test that passes once passes always.


def kinds(mdps):
    """The kind of each cell, an index into REWARDS, [..., H, W]."""
    wall, reward = np.asarray(mdps.grid.wall), np.asarray(mdps.grid.reward)
    result = np.where(wall, 0, 6)
    for i, value in enumerate(REWARDS.values()):
        if value:
            result = np.where(~wall & (reward == value), i, result)
    return result


def sequential_probs(p_wall, p_plus10, p_plus5, p_minus1, p_minus5, p_minus10):
    """Probability of each kind if the kinds are drawn one after another."""
    probs, remaining = [], 1.0
    for p in (p_wall, p_plus10, p_plus5, p_minus1, p_minus5, p_minus10):
        probs.append(remaining * p)
        remaining *= 1 - p
    return np.array([*probs, remaining])


def goal_within_reach(kind, start):
    """Whether a breadth-first search over cells that are neither walls nor terminal arrives in a +10."""
    names = list(REWARDS)
    queue, visited = collections.deque([start]), {start}
    while queue:
        row, col = queue.popleft()
        if names[kind[row, col]] == "+10":
            return True
        if names[kind[row, col]] in TERMINAL:
            continue
        for drow, dcol in STEPS.values():
            cell = (row + drow, col + dcol)
            inside = 0 <= cell[0] < kind.shape[0] and 0 <= cell[1] < kind.shape[1]
            if inside and cell not in visited and names[kind[cell]] != "wall":
                visited.add(cell)
                queue.append(cell)
    return False


# --- coordinates and dynamics ---


def test_cells_are_numbered_row_by_row():
    assert gridworld.cell_to_state(2, 3, 7) == 17 and gridworld.state_to_cell(17, 7) == (2, 3)
    states = np.arange(15)
    np.testing.assert_array_equal(gridworld.cell_to_state(*gridworld.state_to_cell(states, 5), 5), states)


def test_moves_on_a_grid_that_is_not_square():
    mdp = from_text(["...", "S.+"], noise=0.0)
    #  0 1 2
    #  3 4 5
    left, right, up, down, stay = np.asarray(mdp.successor).T.tolist()
    assert left == [0, 0, 1, 3, 3, 5] and right == [1, 2, 2, 4, 5, 5]
    assert up == [0, 1, 2, 0, 1, 5] and down == [3, 4, 5, 3, 4, 5] and stay == [0, 1, 2, 3, 4, 5]
    assert mdp.start.tolist() == [3] and mdp.grid.start.tolist() == [1, 0] and mdp.grid.wall.shape == (2, 3)
    assert np.argwhere(mdp.reward).tolist() == [[2, 3], [4, 1]]  # Down from 2 and right from 4.
    assert np.argwhere(mdp.terminal[:5]).tolist() == [[2, 3], [4, 1]]
    np.testing.assert_array_equal(mdp.outcome_probs, np.eye(5)[:4])


def test_blocked_moves_and_staying_collect_the_reward_again():
    """A move into a wall or off the grid arrives in the same cell once more, and so does staying."""
    mdp = from_text(["S-#"], num_actions=5, noise=0.0)
    assert mdp.successor[1].tolist() == [0, 1, 1, 1, 1]
    assert mdp.reward[1].tolist() == [0, -1, -1, -1, -1]
    assert not mdp.terminal[:2].any()


def test_the_agent_never_acts_in_walls_and_terminal_cells():
    mdp = from_text(["S+#"])
    np.testing.assert_array_equal(mdp.successor[1:], [[1] * 5, [2] * 5])
    assert mdp.terminal[1:].all() and not mdp.reward[1:].any()
    values = exact.policy_values(mdp, exact.uniform_policy(mdp))
    assert values[0] > 0 and values[1:].tolist() == [0, 0]


@pytest.mark.parametrize("num_actions", [4, 7])
def test_moves_are_noisy_and_staying_is_not(num_actions):
    table = sample_mdps(jax.random.key(0), 2, num_rows=4, num_cols=6, num_actions=num_actions)
    expected = np.zeros((num_actions, 5))
    for action in range(4):
        expected[action, :4] = 0.1 / 4
        expected[action, action] += 0.9
    expected[4:, 4] = 1
    assert table.outcome_probs.dtype == jnp.float32
    np.testing.assert_allclose(table.outcome_probs, np.stack([expected] * 2), atol=1e-7)


def test_transitions_agree_with_python_loops():
    """P[S, A, S'] and the expected reward of sampled 4 x 6 worlds, computed from the cells alone."""
    options = {"num_rows": 4, "num_cols": 6, "p_plus10": 0.1, "p_wall": 0.25, "noise": 0.3}
    mdps = sample_mdps(jax.random.key(1), 5, num_actions=5, termination_prob=0.02, **options)
    worlds = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], mdps) for i in range(5)]
    for mdp, kind in zip(worlds, kinds(mdps), strict=True):
        names, values = list(REWARDS), list(REWARDS.values())
        probs, rewards = np.zeros((2, 24, 5, 24))
        for row, col, action in itertools.product(range(4), range(6), range(5)):
            state = row * 6 + col
            if names[kind[row, col]] in {"wall", *TERMINAL}:
                continue
            moves = [((0, 0), 1.0)] if action == 4 else [(step, 0.3 / 4) for step in STEPS.values()]
            moves += [(STEPS[action], 0.7)] if action < 4 else []
            for (drow, dcol), p in moves:
                cell = (row + drow, col + dcol)
                if not (0 <= cell[0] < 4 and 0 <= cell[1] < 6) or names[kind[cell]] == "wall":
                    cell = (row, col)
                rewards[state, action, cell[0] * 6 + cell[1]] += p * values[kind[cell]]
                probs[state, action, cell[0] * 6 + cell[1]] += p * 0.98 * (names[kind[cell]] not in TERMINAL)
        got_probs, got_rewards = np.zeros((2, 24, 5, 24))
        for s, a, k in itertools.product(range(24), range(5), range(5)):
            weight, successor = float(mdp.outcome_probs[a, k]), int(mdp.successor[s, k])
            got_rewards[s, a, successor] += weight * float(mdp.reward[s, k])
            got_probs[s, a, successor] += weight * float(mdp.continue_prob) * (not mdp.terminal[s, k])
        np.testing.assert_allclose(got_probs, probs, atol=1e-6)
        np.testing.assert_allclose(got_rewards, rewards, atol=1e-6)


def test_start_is_the_centre_counted_from_0():
    for size, start in {(20, 20): (10, 10), (3, 6): (2, 3), (1, 5): (0, 3), (5, 1): (3, 0), (2, 2): (1, 1)}.items():
        assert GridConfig(num_rows=size[0], num_cols=size[1]).start == start
    mdps = sample_mdps(jax.random.key(0), 20, num_rows=4, num_cols=6, p_wall=0.5, p_plus10=0.3)
    assert mdps.grid.start.tolist() == [[2, 3]] * 20 and mdps.start.tolist() == [[15]] * 20
    assert (kinds(mdps)[:, 2, 3] == 6).all()


# --- the distribution of App. A.2 ---


@pytest.mark.parametrize(
    "probs",
    [
        dict(zip(CELL_PROB_FIELDS, (0.1, 0.01, 0.02, 0.1, 0.01, 0.01), strict=True)),
        dict(zip(CELL_PROB_FIELDS, (0.3, 0.1, 0.05, 0.2, 0.2, 0.15), strict=True)),
    ],
    ids=["paper", "dense"],
)
def test_frequencies_before_redrawing(probs):
    """Chi-square tests of 1000 grids of 20 x 21 against the sequential law, for all cells and for each position."""
    mdps = sample_mdps(jax.random.key(2), 1000, num_cols=21, redraw=False, **probs)
    drawn = np.delete(kinds(mdps).reshape(1000, -1), 10 * 21 + 11, axis=1)  # Without the start, which is not drawn.
    expected = sequential_probs(**probs)
    counts = np.bincount(drawn.ravel(), minlength=7)
    assert stats.chisquare(counts, expected * drawn.size).pvalue > P_VALUE
    if probs["p_wall"] == 0.3:  # Here each kind is expected at least 20 times at a position.
        by_position = np.stack([(drawn == kind).sum(0) for kind in range(7)])
        statistic = ((by_position - 1000 * expected[:, None]) ** 2 / (1000 * expected[:, None])).sum(0)
        assert stats.kstest(statistic, stats.chi2(6).cdf).pvalue > P_VALUE
        pairs = np.stack([drawn[:, 1:], drawn[:, :-1]]).reshape(2, -1)  # Neighbours must be independent.
        table = np.bincount(pairs[0] * 7 + pairs[1], minlength=49).reshape(7, 7)
        assert stats.chi2_contingency(table).pvalue > P_VALUE


def test_law_after_redrawing_agrees_with_enumeration():
    """Grids of 1 x 3 cells with the start at the right end: the joint law of the two other cells."""
    probs = dict(zip(CELL_PROB_FIELDS, (0.2, 0.15, 0.1, 0.2, 0.1, 0.1), strict=True))
    mdps = sample_mdps(jax.random.key(3), 20_000, num_rows=1, num_cols=3, **probs)
    drawn = kinds(mdps)[:, 0]
    assert (drawn[:, 2] == 6).all()
    p = sequential_probs(**probs)
    law = np.zeros((7, 7))
    for far, near in itertools.product(range(7), range(7)):
        if near == 1 or (near in (3, 6) and far == 1):  # A +10 near, or far behind a -1 or an empty cell.
            law[far, near] = p[far] * p[near]
    law /= law.sum()
    counts = np.bincount(drawn[:, 0] * 7 + drawn[:, 1], minlength=49).reshape(7, 7)
    assert not counts[law == 0].any()
    assert stats.chisquare(counts[law > 0], law[law > 0] * 20_000).pvalue > P_VALUE


def test_law_after_redrawing_agrees_with_a_rejection_sampler():
    """Two-sample chi-square tests against a NumPy sampler, for each position and for the number of +10."""
    probs = dict(zip(CELL_PROB_FIELDS, (0.35, 0.06, 0.1, 0.15, 0.05, 0.05), strict=True))
    sampled = kinds(sample_mdps(jax.random.key(4), 2000, num_rows=4, num_cols=5, **probs))
    rng, reference = np.random.default_rng(4), []
    while len(reference) < 2000:
        grid = rng.choice(7, size=(4, 5), p=sequential_probs(**probs))
        grid[2, 3] = 6
        if goal_within_reach(grid, (2, 3)):
            reference.append(grid)
    reference = np.stack(reference)

    def p_value(a, b, bins):
        table = np.stack([np.bincount(x, minlength=bins) for x in (a, b)])
        return stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue

    cells = [(row, col) for row, col in np.ndindex(4, 5) if (row, col) != (2, 3)]
    by_cell = [p_value(sampled[:, row, col], reference[:, row, col], 7) for row, col in cells]
    assert stats.kstest(by_cell, "uniform").pvalue > P_VALUE and min(by_cell) > P_VALUE
    goals = [(x == 1).sum((1, 2)) for x in (sampled, reference)]
    assert p_value(*goals, bins=21) > P_VALUE
    without_redrawing = sequential_probs(**probs)[1] * 19
    assert goals[0].mean() > without_redrawing + 0.3


@pytest.mark.parametrize(("size", "p_wall"), [((20, 20), 0.1), ((7, 4), 0.4), ((2, 9), 0.2)])
def test_a_plus_10_is_always_within_reach(size, p_wall):
    mdps = sample_mdps(jax.random.key(5), 100, num_rows=size[0], num_cols=size[1], p_wall=p_wall)
    start = tuple(mdps.grid.start[0].tolist())
    assert all(goal_within_reach(kind, start) for kind in kinds(mdps))


def test_world_i_depends_only_on_the_key_and_i():
    options = {"num_rows": 3, "num_cols": 4, "p_plus10": 0.03}  # Most draws are rejected, so worlds are redrawn.
    key = jax.random.key(6)
    many = jax.device_get(sample_mdps(key, 200, **options))
    for count in (1, 7):
        few = sample_mdps(key, count, **options)
        assert few.id.tolist() == list(range(count))
        jax.tree.map(lambda a, b, n=count: np.testing.assert_array_equal(a, b[:n]), few, many)
    other = sample_mdps(jax.random.key(7), 200, **options)
    assert (kinds(other) != kinds(many)).any((1, 2)).mean() > 0.9
    assert len({grid.tobytes() for grid in kinds(many)}) > 150  # The worlds of one key differ, too.
    windowed = sample_mdps(key, 7, observation="window", window_radius=1, **options)
    more = sample_mdps(key, 20, observation="window", window_radius=1, **options)
    np.testing.assert_array_equal(windowed.observation, np.asarray(more.observation)[:7])


def test_sampled_worlds_are_valid_and_have_explicit_dtypes():
    mdps = validate(sample_mdps(jax.random.key(8), 4, num_rows=4, num_cols=6, observation="window"))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(mdps)}
    assert dtypes == {"int32", "float32", "bool"}  # Also under JAX_ENABLE_X64.
    np.testing.assert_allclose(mdps.continue_prob, 0.99)
    jax.tree.map(np.testing.assert_array_equal, gridworld.grid_to_mdp(mdps.grid, observation="window"), mdps)


# --- windows ---


def reference_windows(kind, radius):
    """The number of each cell's window, in the order of first appearance, and how many there are.

    The number is -1 in walls and terminal cells, where the agent never acts.
    """
    names, values = list(REWARDS), list(REWARDS.values())
    num_rows, num_cols = kind.shape
    numbers, result = {}, []
    for row, col in np.ndindex(num_rows, num_cols):
        if names[kind[row, col]] in {"wall", *TERMINAL}:
            result.append(-1)
            continue
        window = []
        for r, c in itertools.product(range(row - radius, row + radius + 1), range(col - radius, col + radius + 1)):
            inside = 0 <= r < num_rows and 0 <= c < num_cols
            if not inside or names[kind[r, c]] == "wall":
                window.append("wall")
            else:
                window.append((values[kind[r, c]], names[kind[r, c]] in TERMINAL))
        result.append(numbers.setdefault(tuple(window), len(numbers)))
    return np.array(result), len(numbers)


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_windows_agree_with_python_loops(radius):
    mdps = sample_mdps(jax.random.key(9), 12, num_rows=9, num_cols=7, observation="window", window_radius=radius)
    sizes = []
    for kind, observation in zip(kinds(mdps), np.asarray(mdps.observation), strict=True):
        expected, size = reference_windows(kind, radius)
        np.testing.assert_array_equal(observation[expected >= 0], expected[expected >= 0])
        assert set(observation[expected < 0]) <= {size}  # One row for all cells where the agent never acts.
        sizes.append(size + (expected < 0).any())
    assert mdps.num_observations == max(sizes)
    aliased = len(np.unique(mdps.observation[0])) < 63 - (reference_windows(kinds(mdps)[0], radius)[0] < 0).sum()
    assert aliased == (radius < 2)


def test_windows_of_small_maps():
    mdp = from_text(["#####", "#S..#", "#####"], observation="window", window_radius=1)
    rows = mdp.observation.reshape(3, 5)[1].tolist()
    assert rows == [3, 0, 1, 2, 3] and mdp.num_observations == 4
    without_walls = from_text(["S.."], observation="window", window_radius=1)  # Cells off the grid look like walls.
    assert without_walls.observation.tolist() == [0, 1, 2] and without_walls.num_observations == 3
    corridor = from_text(["S...."], observation="window", window_radius=1)
    assert corridor.observation.tolist() == [0, 1, 1, 1, 2]
    cells = {"a": (5.0, True), "b": (5.0, False)}
    alike, unlike = (from_text([row], cells, observation="window", window_radius=1) for row in ("a.#a.#S", "a.#b.#S"))
    assert alike.observation[1] == alike.observation[4]
    assert unlike.observation[1] != unlike.observation[4]  # The rewards are equal, but only one cell is terminal.


def test_full_observation_is_the_state():
    mdps = sample_mdps(jax.random.key(0), 2, num_rows=4, num_cols=6)
    assert mdps.observation.tolist() == [list(range(24))] * 2 and mdps.num_observations == 24


# --- maps drawn as text ---


def test_from_text_reads_every_letter():
    mdp = from_text("""
        S.+p
        -nx#
    """)
    grid = mdp.grid
    assert grid.reward.tolist() == [[0, 0, 10, 5], [-1, -5, -10, 0]]
    assert grid.terminal.tolist() == [[False, False, True, True], [False, True, True, False]]
    assert np.argwhere(grid.wall).tolist() == [[1, 3]] and grid.start.tolist() == [0, 0]
    assert not mdp.is_stacked and mdp.num_states == 8
    validate(mdp)
    custom = from_text(["S*", "oo"], {"*": (2.5, True), "o": (-0.5, False), "S": (-1.0, False)})
    assert custom.grid.reward.tolist() == [[-1.0, 2.5], [-0.5, -0.5]] and custom.grid.terminal[0, 1]
    assert custom.reward[0, 4] == -1  # The outcome "stay" on a start that has a reward.


@pytest.mark.parametrize(
    ("rows", "kwargs", "message"),
    [
        ([], {}, "the map is empty"),
        ("", {}, "the map is empty"),
        ([""], {}, "the map is empty"),
        (["S.", "..."], {}, "row 1 of the map has 3 cells, but row 0 has 2"),
        (["..", ".#"], {}, "exactly one start S, on a cell that is not a wall, got 0"),
        (["SS"], {}, "exactly one start S.*got 2"),
        (["S?"], {}, r"'\?', which means nothing; known are #"),
        (["S."], {"rewards": {"S": (1.0, True)}}, "the start .0, 0. is in a terminal cell"),
        (["S."], {"rewards": {".": (np.inf, False)}}, "rewards of a grid must be finite"),
        (["S."], {"rewards": {".": 3.0}}, "must be .reward, terminal."),
        (["S."], {"num_rows": 3}, "num_rows cannot be set here"),
        (["S."], {"num_acts": 3}, r"Unknown option 'num_acts' \(did you mean 'num_actions'\?\); a grid world has"),
        (["S."], {"noise": 2}, "noise must be a probability"),
    ],
)
def test_bad_maps_give_one_clear_line(rows, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        from_text(rows, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": np.array([0, 1])}, "the start .0, 1. is in a wall"),
        ({"start": np.array([0, 2])}, "the start .0, 2. is in a terminal cell"),
        ({"start": np.array([0, 3])}, "the start .0, 3. is outside the grid"),
        ({"start": np.array([-1, 0])}, "the start .-1, 0. is outside the grid"),
        ({"start": np.array([0])}, r"start must be \(row, col\)"),
        ({"reward": np.zeros((2, 3))}, "wall, reward, terminal must be"),
        ({"wall": np.zeros((0, 3), bool)}, "not empty"),
    ],
)
def test_bad_grids_give_one_clear_line(change, message):
    grid = dataclasses.replace(from_text(["S#+"]).grid, **change)
    with pytest.raises(ValueError, match=message) as error:
        gridworld.grid_to_mdp(grid)
    assert "\n" not in str(error.value)


# --- bad options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_wall": -0.1}, r"p_wall must be a probability in \[0, 1\], got -0.1"),
        ({"p_minus5": 1.1}, "p_minus5 must be a probability"),
        ({"p_plus5": float("nan")}, "p_plus5 must be a probability"),
        ({"p_plus5": "0.1"}, "p_plus5 must be a probability"),
        ({"p_wall": 0.5, "p_plus10": 0.5, "p_minus1": 0.1}, "must sum to at most 1, got 1.14"),
        ({"noise": -1}, "noise must be a probability"),
        ({"termination_prob": 2}, "termination_prob must be a probability"),
        ({"num_rows": 0}, "num_rows must be a whole number, at least 1, got 0"),
        ({"num_cols": -3}, "num_cols must be a whole number"),
        ({"num_rows": 2.5}, "num_rows must be a whole number"),
        ({"num_actions": 3}, "num_actions must be a whole number, at least 4, got 3"),
        ({"observation": "partial"}, 'observation must be "full" or "window", got \'partial\''),
        ({"window_radius": -1}, "window_radius must be a whole number, at least 0"),
        ({"max_redraws": 0}, "max_redraws must be a whole number, at least 1"),
        ({"width": 3}, "Unknown option 'width'; a grid world has num_rows"),
        ({"num_mdps": 0}, "num_mdps must be a whole number, at least 1"),
        ({"num_mdps": 2.0}, "num_mdps must be a whole number"),
        ({"key": 0}, r"key must be one random key, such as jax.random.key\(0\); got int"),
        ({"p_plus10": 0}, "p_plus10 is 0"),
        (
            {"num_rows": 1, "num_cols": 1},
            "3 of 3 worlds have no .10 within reach after max_redraws=1000 draws",
        ),
        (
            {"p_wall": 0.85, "p_plus10": 1e-6, "max_redraws": 70},
            "3 of 3 worlds have no .10 within reach after max_redraws=70 draws",
        ),
    ],
)
def test_bad_options_give_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        sample_mdps(**{"key": jax.random.key(0), "num_mdps": 3, **options})
    assert "\n" not in str(error.value)


def test_without_redrawing_worlds_need_no_goal():
    mdps = sample_mdps(jax.random.key(0), 3, GridConfig(p_plus10=0, redraw=False, num_rows=4, num_cols=6))
    assert not (kinds(mdps) == 1).any() and mdps.num_states == 24


# --- returns of the paper and of an independent program, with standard errors over 300 worlds ---


def test_returns_of_the_uniform_and_the_optimal_policy():
    mdps = sample_mdps(jax.random.key(10), 300)
    uniform = exact.uniform_policy(mdps)

    def check(name, per_state, low, high):
        by_world = np.asarray(exact.start_value(mdps, per_state))
        error = by_world.std(ddof=1) / np.sqrt(300)
        assert low - 4 * error < by_world.mean() < high + 4 * error, f"{name}: {by_world.mean():.3f} +- {error:.3f}"

    # The interval of the uniform return holds the number of the paper and that of the program.
    check("uniform return", exact.policy_values(mdps, uniform), -2.4, -2.1)
    check("uniform length", exact.expected_length(mdps, uniform), 32.5, 33.5)
    check("optimal return", exact.optimal_values(mdps), 9.05, 9.15)


def test_return_of_the_uniform_policy_with_more_actions():
    for num_actions, expected in ((40, -6.5), (400, -4.2)):
        mdps = sample_mdps(jax.random.key(11), 300, num_actions=num_actions)
        returns = np.asarray(exact.start_value(mdps, exact.policy_values(mdps, exact.uniform_policy(mdps))))
        error = returns.std(ddof=1) / np.sqrt(300)
        assert abs(returns.mean() - expected) < 4 * error, f"|A| = {num_actions}: {returns.mean():.2f} +- {error:.2f}"
