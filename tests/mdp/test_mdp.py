"""MDPs: construction from arrays and transition matrices, stacks, slices, and errors for bad input."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import teachers, train
from jaxdistill.mdp import MDP, stack, validate
from jaxdistill.mdp import mdp as mdp_module
from jaxdistill.worlds import gridworld


def small_arrays(num_states=3, num_actions=2, num_outcomes=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "successor": rng.integers(num_states, size=(num_states, num_outcomes)),
        "reward": rng.normal(size=(num_states, num_outcomes)),
        "terminal": rng.random((num_states, num_outcomes)) < 0.3,
        "outcome_probs": rng.dirichlet(np.ones(num_outcomes), (num_states, num_actions)),
    }


def transition_matrix(mdp):
    """P[S, A, S'] and the expected reward [S, A], by Python loops over the outcomes."""
    probs = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    reward = np.zeros((mdp.num_states, mdp.num_actions))
    for s in range(mdp.num_states):
        for a in range(mdp.num_actions):
            for k in range(mdp.num_outcomes):
                weight = mdp.outcome_probs[s, a, k] if mdp.outcome_probs.ndim == 3 else mdp.outcome_probs[a, k]
                probs[s, a, int(mdp.successor[s, k])] += weight
                reward[s, a] += weight * mdp.reward[s, k]
    return probs, reward


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


DTYPES = {
    "successor": "int32",
    "reward": "float32",
    "terminal": "bool",
    "outcome_probs": "float32",
    "continue_prob": "float32",
    "start": "int32",
    "start_probs": "float32",
    "observation": "int32",
    "id": "int32",
}


def test_from_arrays_defaults_and_dtypes():
    mdp = MDP.from_arrays(**small_arrays())
    assert (mdp.num_states, mdp.num_actions, mdp.num_outcomes, mdp.num_observations) == (3, 2, 2, 3)
    assert {name: str(getattr(mdp, name).dtype) for name in DTYPES} == DTYPES  # Also under JAX_ENABLE_X64.
    assert float(mdp.continue_prob) == 1 and mdp.start.tolist() == [0] and mdp.start_probs.tolist() == [1]
    assert mdp.observation.tolist() == [0, 1, 2] and int(mdp.id) == 0 and not mdp.is_stacked
    assert repr(mdp) == "MDP(3 states, 2 actions, 2 outcomes, 3 observations)"


def test_from_arrays_broadcasts_arguments_without_leading_axis():
    arrays = small_arrays()
    successor = np.stack([arrays["successor"]] * 4)
    shared = np.full((5, 2), 0.5)  # [A, K]
    mdps = MDP.from_arrays(successor, 1.0, False, shared, start=[1, 2], continue_prob=[0.1, 0.2, 0.3, 0.4], id=7)
    assert mdps.num_mdps == 4 and mdps.num_actions == 5
    assert mdps.outcome_probs.shape == (4, 5, 2) and mdps.reward.shape == (4, 3, 2)
    assert mdps.start.shape == (4, 2) and mdps.start_probs[3].tolist() == [0.5, 0.5]
    assert mdps.id.tolist() == [7, 8, 9, 10]
    np.testing.assert_allclose(mdps.continue_prob, [0.1, 0.2, 0.3, 0.4])


def test_num_observations_may_exceed_the_observations_in_use():
    assert MDP.from_arrays(**small_arrays(), observation=[1, 0, 1]).num_observations == 2
    assert MDP.from_arrays(**small_arrays(), observation=[1, 0, 1], num_observations=9).num_observations == 9


def test_with_observation():
    mdps = stack([MDP.from_arrays(**small_arrays(seed=i)) for i in range(2)])
    shared = mdps.with_observation([1, 0, 1])
    assert shared.observation.tolist() == [[1, 0, 1]] * 2 and shared.num_observations == 2
    assert shared.reward is mdps.reward and mdps.num_observations == 3
    separate = mdps.with_observation([[0, 0, 1], [2, 1, 0]], num_observations=4)
    assert separate[1].observation.tolist() == [2, 1, 0] and separate.num_observations == 4
    assert mdps[0].with_observation([0, 0, 0]).num_observations == 1
    grid_mdp = gridworld.from_text(["S.+"])
    assert grid_mdp.with_observation([0, 0, 1]).grid is grid_mdp.grid
    for bad, message in (([0, 1], "must have shape"), ([0, 1, -1], "must be in"), ([0.0, 1, 2], "must hold integers")):
        with pytest.raises(ValueError, match=f"observation {message}"):
            mdps.with_observation(bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"successor": [[0, 3], [0, 0], [0, 0]]}, r"successor must be in \[0, 3\), got 3 at index \(0, 1\)"),
        ({"successor": [[0, -1], [0, 0], [0, 0]]}, "successor must be in"),
        ({"successor": [[0.5, 0], [0, 0], [0, 0]]}, "successor must hold integers"),
        ({"successor": [[2**40, 0], [0, 0], [0, 0]]}, "successor must fit in 32 bits"),
        ({"successor": [[0, 1], [0]]}, "successor must be a rectangular array"),
        ({"successor": np.zeros((0, 2), int)}, "not empty"),
        ({"successor": 0}, r"successor must be \[S, K\]"),
        ({"reward": np.ones((2, 2))}, r"reward must have shape \(3, 2\)"),
        ({"reward": np.nan}, "reward must be finite, got nan"),
        ({"reward": "a"}, "reward must hold real numbers"),
        ({"reward": 1j}, "reward must hold real numbers"),
        ({"terminal": 2}, "terminal must hold booleans, got 2"),
        ({"terminal": 0.5}, "terminal must hold booleans"),
        ({"outcome_probs": [[0.5, 0.6]]}, "outcome_probs must sum to 1 along the last axis, got 1.1"),
        ({"outcome_probs": [[1.5, -0.5]]}, r"outcome_probs must hold probabilities in \[0, 1\]"),
        ({"outcome_probs": [[np.nan, 1.0]]}, "outcome_probs must hold probabilities"),
        ({"outcome_probs": [[1.0, 0.0, 0.0]]}, "outcome_probs must have shape"),
        ({"outcome_probs": np.zeros((0, 2))}, "outcome_probs must have shape"),
        ({"continue_prob": 1.01}, r"continue_prob must hold probabilities in \[0, 1\], got 1.0"),
        ({"continue_prob": -0.1}, "continue_prob must hold probabilities"),
        ({"continue_prob": np.nan}, "continue_prob must hold probabilities"),
        ({"start": 3}, r"start must be in \[0, 3\)"),
        ({"start": []}, "start must"),
        ({"start": [0, 1], "start_probs": [0.5, 0.4]}, "start_probs must sum to 1"),
        ({"start": [0, 1], "start_probs": [1.0]}, "start_probs must have shape"),
        ({"observation": [0, 1]}, "observation must have shape"),
        ({"observation": [0, 1, -1]}, r"observation must be in \[0, 2\)"),
        ({"observation": [0, 1, 2], "num_observations": 2}, r"observation must be in \[0, 2\), got 2"),
        ({"id": [0, 1]}, "id must have shape"),
    ],
)
def test_bad_arrays_give_one_clear_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        MDP.from_arrays(**{**small_arrays(), **change})
    assert "\n" not in str(error.value)


def test_outcome_probs_with_three_axes_in_a_stack_must_have_the_axis_of_mdps():
    arrays = small_arrays()
    with pytest.raises(ValueError, match="outcome_probs must have shape"):
        # outcome_probs is [S, A, K] with S = 3, and the stack has M = 4.
        MDP.from_arrays(**{**arrays, "successor": np.stack([arrays["successor"]] * 4)})


def test_validate_rejects_broken_mdps():
    mdp = MDP.from_arrays(**small_arrays())
    assert validate(mdp) is mdp
    broken = jax.tree.map(lambda leaf: leaf, mdp)
    object.__setattr__(broken, "start_probs", jnp.array([0.5], jnp.float32))
    with pytest.raises(ValueError, match="start_probs must sum to 1"):
        validate(broken)
    object.__setattr__(broken, "start_probs", jnp.ones((2,), jnp.float32) / 2)
    with pytest.raises(ValueError, match="start_probs must have shape"):
        validate(broken)


# --- transition matrices ---


@pytest.mark.parametrize("kind", ["SAS", "SA", "S"])
def test_from_transition_matrix_keeps_the_joint_law_of_successor_and_reward(kind):
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.full(4, 0.5), (4, 3))
    probs[0, 0] = [0, 1, 0, 0]
    reward = {"SAS": rng.normal(size=(4, 3, 4)), "SA": rng.normal(size=(4, 3)), "S": rng.normal(size=4)}[kind]
    full = np.broadcast_to(reward[..., None] if kind == "SA" else reward, (4, 3, 4))
    mdp = MDP.from_transition_matrix(probs, reward, [2], continue_prob=0.9, start=1)
    got_probs, got_reward = transition_matrix(mdp)
    np.testing.assert_allclose(got_probs, probs, atol=1e-6)
    np.testing.assert_allclose(got_reward, (probs * full).sum(-1), atol=1e-6)
    second = np.einsum("sak,sk->sa", mdp.outcome_probs, np.asarray(mdp.reward) ** 2)  # Rewards are not averaged.
    np.testing.assert_allclose(second, (probs * full**2).sum(-1), atol=1e-5)
    used = np.asarray(mdp.outcome_probs).max(axis=1) > 0
    np.testing.assert_array_equal(np.asarray(mdp.terminal)[used], np.asarray(mdp.successor)[used] == 2)
    assert mdp.num_outcomes <= {"SAS": 12, "SA": 12, "S": 4}[kind]


def test_from_transition_matrix_needs_few_outcomes_when_sparse():
    probs = np.zeros((50, 2, 50))
    probs[np.arange(50), 0, np.maximum(np.arange(50) - 1, 0)] = 1
    probs[np.arange(50), 1, np.minimum(np.arange(50) + 1, 49)] = 1
    mdp = MDP.from_transition_matrix(probs, np.zeros(50), [0, 49])
    assert mdp.num_outcomes == 2


def test_rows_of_terminal_states_may_be_zero():
    probs = np.zeros((2, 1, 2))
    probs[0, 0, 1] = 1
    mask = np.array([False, True])
    for terminal in ([1], mask):
        mdp = MDP.from_transition_matrix(probs, [0.0, 1.0], terminal)
        assert mdp.terminal[0, 0] and mdp.reward[0, 0] == 1
    with pytest.raises(ValueError, match="outcome_probs must sum to 1"):
        MDP.from_transition_matrix(probs, [0.0, 1.0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.ones((2, 3)), 0.0), "transition_probs must be"),
        ((np.ones((2, 1, 3)) / 3, 0.0), "transition_probs must be"),
        ((np.ones((2, 1, 2)) / 2, np.zeros(3)), "reward must have shape"),
        ((np.ones((2, 1, 2)) / 2, 0.0, [2]), r"terminal_states must be in \[0, 2\)"),
        ((np.ones((2, 1, 2)) / 2, 0.0, [True]), None),
        ((np.ones((2, 1, 2)), 0.0), "outcome_probs must"),
        ((-np.ones((2, 1, 2)), 0.0), "outcome_probs must"),
    ],
)
def test_bad_transition_matrices(args, message):
    if message is None:
        assert MDP.from_transition_matrix(*args).terminal.all()
        return
    with pytest.raises(ValueError, match=message) as error:
        MDP.from_transition_matrix(*args)
    assert "\n" not in str(error.value)


# --- stacks ---


def test_stack_and_slices_are_inverse_and_keep_ids():
    mdps = [MDP.from_arrays(**small_arrays(seed=i), id=10 * i + 3) for i in range(4)]
    stacked = stack(mdps)
    assert stacked.num_mdps == 4 and stacked.id.tolist() == [3, 13, 23, 33]
    assert repr(stacked).startswith("MDP(4 stacked, 3 states")
    for i, mdp in enumerate(stacked):  # An IndexError ends the iteration.
        assert_same(mdp, mdps[i])
    assert i == 3
    assert_same(stacked[-1], mdps[3])
    assert_same(stacked[1:3], stack(mdps[1:3]))
    assert_same(stacked[[2, 0]], stack([mdps[2], mdps[0]]))
    assert_same(stacked[np.array([True, False, False, True])], stacked[[0, 3]])
    assert stacked[1:1].num_mdps == 0


@pytest.mark.parametrize("index", [4, -5, [0, 4], np.array([True, False]), 1.0, "a", [[0]]])
def test_bad_indices_raise_index_error(index):
    stacked = stack([MDP.from_arrays(**small_arrays(seed=i)) for i in range(4)])
    with pytest.raises(IndexError):
        stacked[index]


def test_a_single_mdp_has_no_length_and_no_items():
    mdp = MDP.from_arrays(**small_arrays())
    with pytest.raises(ValueError, match="single MDP"):
        _ = mdp.num_mdps
    with pytest.raises(ValueError, match="single MDP"):
        mdp[0]


def test_stack_numbers_worlds_that_share_an_id():
    mdp = MDP.from_arrays(**small_arrays(), id=5)
    assert stack([mdp, mdp, mdp]).id.tolist() == [0, 1, 2]
    assert stack([mdp]).id.tolist() == [5]


def test_stack_takes_the_largest_table_and_keeps_grids_of_all_or_none():
    large = MDP.from_arrays(**small_arrays(), num_observations=8)
    assert stack([MDP.from_arrays(**small_arrays()), large]).num_observations == 8
    first, second = gridworld.from_text(["S.+"]), gridworld.from_text(["+.S"])
    assert stack([first, second]).grid.start.tolist() == [[0, 0], [0, 2]]
    without_grid = MDP.from_arrays(first.successor, first.reward, first.terminal, first.outcome_probs)
    assert stack([first, without_grid]).grid is None


def test_stack_errors():
    mdp = MDP.from_arrays(**small_arrays())
    with pytest.raises(ValueError, match="at least one"):
        stack([])
    with pytest.raises(ValueError, match="successor has"):
        stack([mdp, MDP.from_arrays(**small_arrays(num_states=4))])
    with pytest.raises(ValueError, match="single MDPs"):
        stack([stack([mdp])])


# --- as a pytree ---


def test_mdps_pass_through_jit_and_vmap():
    mdps = stack([MDP.from_arrays(**small_arrays(seed=i)) for i in range(3)])
    total = lambda mdp: mdp.reward.sum() * (not mdp.is_stacked)  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.vmap(total))(mdps), mdps.reward.sum((1, 2)), rtol=1e-6)
    shapes = jax.eval_shape(lambda m: m, mdps)
    assert shapes.num_mdps == 3 and "3 stacked" in repr(shapes)
    assert repr(jax.tree.map(lambda leaf: None, mdps))  # Leaves that are not arrays can be printed, too.
    assert repr(jax.tree.map(lambda leaf: leaf.dtype, mdps))


def test_importing_creates_no_arrays():
    modules = "jax, jaxdistill.worlds.gridworld, jaxdistill.mdp.exact"
    code = f"import {modules}; assert not jax.live_arrays(), jax.live_arrays()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_mdp_is_validated_once_at_the_first_door(monkeypatch):
    """Teachers, noise, training and the exact side share one check of the stack; other arrays are checked anew."""
    mdps = MDP.from_arrays(np.zeros((3, 2, 1), int), 1.0, [[False], [True]], [[1.0]], continue_prob=0.5)
    checked = []
    monkeypatch.setattr(mdp_module, "_check_arrays", checked.append)
    teacher = teachers.with_noise(jax.random.key(0), mdps, teachers.optimal(mdps), 0.5)
    train(jax.random.key(0), mdps, teacher, "n_distill", num_iterations=2, num_checkpoints=1)
    assert not checked  # `from_arrays` was the first door
    changed = dataclasses.replace(mdps, reward=mdps.reward + 1)
    teachers.optimal(changed), teachers.uniform(changed)
    assert len(checked) == 1
    mutable = dataclasses.replace(mdps, reward=np.asarray(mdps.reward))
    teachers.optimal(mutable), teachers.uniform(mutable)
    assert len(checked) == 3  # NumPy arrays may change between two calls


def test_with_features():
    mdps = stack([MDP.from_arrays(**small_arrays())] * 2)
    shared = mdps.with_features([[2, 0], [1, -1], [0, 1]])
    assert shared.features.shape == (2, 3, 2) and (shared.num_features, shared.num_observations) == (2, 3)
    assert "3 features, at most 2 in a state" in repr(shared) and shared[0].features.tolist()[0] == [2, 0]
    separate = mdps.with_features([[[0, 1], [1, 2], [2, 0]], [[3, 1], [-1, 2], [2, 0]]], num_observations=9)
    assert separate.num_observations == 9 and separate[1].features.tolist()[1] == [-1, 2]
    plain = mdps.with_features([[1], [0], [1]])
    assert plain.observation.tolist() == [[1, 0, 1]] * 2 and plain.num_features == 1
    assert mdps.features.shape == (2, 3, 1)
    again = shared.with_observation([0, 0, 1])
    assert again.num_features == 1 and again.num_observations == 2


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([0, 1, 2], r"features must be \[S, F\] or \[M, S, F\]"),
        (np.zeros((3, 0), int), "features must be"),
        ([[0, 1]] * 4, "features must have shape"),
        ([[0.5, 1.0]] * 3, "features must hold integers"),
        ([[0, 1], [1, 3], [0, -1]], r"features must be in \[0, 3\), or -1 .*, got 3 at index \(1, 1\)"),
        ([[0, 1], [1, -2], [0, -1]], "got -2"),
        ([[0, 1], [1, 1], [0, -1]], "features has row 1 twice in state 1; a state may use a row"),
        ([[0, 1], [1, 2], [-1, -1]], "features has none in state 2: every state needs a row"),
        ([[0], [-1], [0]], "features must be at least 0"),
        (np.broadcast_to(0, (3, 2**27)), "more than 268435456 entries; use fewer features"),
    ],
)
def test_wrong_features(features, message):
    mdp = MDP.from_arrays(**small_arrays())
    with pytest.raises(ValueError, match=message) as error:
        mdp.with_features(features, 3)
    assert "\n" not in str(error.value)
    if np.ndim(features) == 2 and "twice" in message:
        with pytest.raises(ValueError, match="twice in state 1 of world 0"):
            stack([mdp, mdp]).with_features(features, 3)
