"""The corridors of Figs. 6 and 9: values against an independent solution, stacks, and errors for bad arguments."""

import numpy as np
import pytest

from jaxdistill import teachers
from jaxdistill.mdp import exact
from jaxdistill.worlds.corridor import chain


def walk_return(length, direction, noise=0.1, termination=0.01):
    """Undiscounted return of always moving right (+1) or left (-1), from the equations of the walk, in float64.

    The unknowns are the values of the inner cells. Up and down stay. An arrival in an end collects its reward, whether
    or not the episode also ends by `termination` in that step.
    """
    ahead, behind, stay = 1 - noise + noise / 4, noise / 4, noise / 2
    inner = 2 * length - 1
    matrix, source = np.eye(inner), np.zeros(inner)
    for i in range(inner):
        for step, chance in ((direction, ahead), (-direction, behind), (0, stay)):
            j = i + step
            if 0 <= j < inner:
                matrix[i, j] -= chance * (1 - termination)
            else:
                source[i] += chance * (1 if j == inner else -1)
    return np.linalg.solve(matrix, source)[length - 1]


@pytest.mark.parametrize("length", [1, 5])
def test_values_of_both_teachers(length):
    mdp = chain(length)
    for make, direction in ((teachers.optimal, 1), (teachers.adversarial, -1)):
        teacher = make(mdp)
        value = float(exact.start_value(mdp, exact.policy_values(mdp, teacher.probs)))
        assert value == pytest.approx(walk_return(length, direction), abs=1e-5)
        best_actions = np.asarray(teacher.probs)[1 : 2 * length].argmax(-1)  # The agent never acts in the ends.
        assert (best_actions == (1 if direction > 0 else 0)).all()
    uniform = exact.start_value(mdp, exact.policy_values(mdp, exact.uniform_policy(mdp)))
    assert float(uniform) == pytest.approx(0, abs=1e-5)  # By symmetry.


def test_length_5_gives_the_published_value():
    assert walk_return(5, 1) == pytest.approx(0.95, abs=0.01)


def test_shapes_and_grid():
    mdp = chain(2, goal_reward=3.0, trap_reward=-2.0)
    assert (mdp.num_states, mdp.num_actions, mdp.num_observations) == (5, 4, 5)
    assert not mdp.is_stacked
    np.testing.assert_array_equal(mdp.grid.reward, [[-2, 0, 0, 0, 3]])
    np.testing.assert_array_equal(mdp.grid.terminal, [[True, False, False, False, True]])
    assert int(mdp.start[0]) == 2
    assert float(mdp.reward[3, 1]) == 3  # Arrival in the goal from its left neighbour.
    assert float(mdp.reward[1, 0]) == -2


def test_other_dynamics():
    mdp = chain(3, noise=0.2, termination_prob=0.5, num_actions=6)
    np.testing.assert_allclose(mdp.outcome_probs[0], [0.85, 0.05, 0.05, 0.05, 0])
    np.testing.assert_array_equal(mdp.outcome_probs[4:, 4], [1, 1])
    assert float(mdp.continue_prob) == 0.5


def test_a_stack_holds_equal_corridors_with_distinct_ids():
    mdps = chain(2, 3)
    assert mdps.num_mdps == 3
    np.testing.assert_array_equal(mdps.id, [0, 1, 2])
    np.testing.assert_array_equal(mdps.successor[0], mdps.successor[2])
    np.testing.assert_array_equal(mdps.grid.reward[1], chain(2).grid.reward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length"),
        ({"length": 2.5}, "length"),
        ({"length": True}, "length"),
        ({"num_mdps": 0}, "num_mdps"),
        ({"noise": 1.5}, "noise"),
        ({"termination_prob": -0.1}, "termination_prob"),
        ({"num_actions": 3}, "num_actions"),
        ({"goal_reward": float("nan")}, "finite"),
    ],
)
def test_bad_arguments_give_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        chain(**options)
    assert "\n" not in str(error.value)
