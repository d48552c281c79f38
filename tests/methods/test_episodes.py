"""Worlds whose episodes never end are refused in one line at every door, unless they have a time limit."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill import MDP, ZOO, Cell, Control, check_method, expected_update, mdp, teachers, train
from jaxdistill.methods import METHODS
from jaxdistill.theory.flows import fixed_point, flow
from jaxdistill.theory.variance import assess
from jaxdistill.training.sampling import sampled_updates

KEY, SMALL = jax.random.key(0), dict(num_iterations=3, num_checkpoints=1, progress=False)


def endless(**options) -> MDP:
    """Two worlds: in the second, state 2 leads to itself for ever; state 1 leads to an end by one of its actions."""
    successor = [[[1, 1], [0, 1], [2, 2]], [[1, 2], [0, 1], [2, 2]]]
    terminal = [[[False, False], [False, True], [False, False]]] * 2
    return MDP.from_arrays(successor, -1.0, terminal, [[[1, 0], [0, 1]]] * 2, id=7, **options)


def ends(worlds: MDP) -> MDP:
    """The first world twice, in which every episode can end."""
    return worlds[np.array([0, 0])]


DOORS = {
    "train": lambda w, t: train(KEY, w, t, "baseline", **SMALL),
    "q_learning": lambda w, t: teachers.q_learning(KEY, w, num_iterations=3, progress=False),
    "actor_critic": lambda w, t: teachers.actor_critic(KEY, w, num_iterations=3, progress=False),
    "sampled_updates": lambda w, t: sampled_updates(KEY, w, t, ["baseline"], np.zeros((2, 3, 2)), num_updates=1),
    "expected_update": lambda w, t: expected_update(w[1], t[1], "baseline", np.zeros((3, 2))),
    "check_method": lambda w, t: check_method("n_distill", mdps=w, teacher=t),
    "assess": lambda w, t: assess(w, t, "baseline", np.zeros((2, 3, 2))),
    "flow": lambda w, t: flow(w, t, "n_distill", step_size=0.1, num_steps=1),
    "fixed_point": lambda w, t: fixed_point(w, t, "n_distill"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_world_that_never_ends_is_refused(door):
    worlds = endless()
    teacher = dataclasses.replace(teachers.uniform(ends(worlds)), values=np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError) as refused:
        DOORS[door](worlds, teacher)
    assert "Episodes of MDP 8 never end once they are in state 2" in str(refused.value)
    assert "time limit" in str(refused.value) and "\n" not in str(refused.value)


def test_a_teacher_that_never_ends_is_refused_where_it_acts_alone():
    worlds = ends(endless())
    loops = np.tile(np.array([[1, 0], [1, 0], [1, 0]], np.float32), (2, 1, 1))  # 0 -> 1 -> 0 for ever
    teacher = dataclasses.replace(teachers.uniform(worlds), probs=loops)
    message = "follows the teacher, whose episodes of MDP 7 never end once they are in state 0"
    mixed = {
        per: dataclasses.replace(METHODS["n_distill"], name=per, control=Control(student=0.5, teacher=0.5, per=per))
        for per in ("step", "episode")
    }
    for method in (METHODS["teacher_distill"], mixed["episode"]):
        with pytest.raises(ValueError, match=message):
            train(KEY, worlds, teacher, [Cell(method)], **SMALL)
        with pytest.raises(ValueError, match="MDP 7 never end"):
            expected_update(worlds[0], teacher[0], method, np.zeros((3, 2)))
    for method in (METHODS["n_distill"], mixed["step"], ZOO["jsd"]):
        with pytest.warns(UserWarning, match="episode_return is nan for state 0"):  # the teacher's
            result = train(KEY, worlds, teacher, method, **SMALL)
        assert result.settings["truncated_episodes"] == 0 and np.isfinite(result.final_returns).all()


def test_with_a_time_limit_every_world_is_trained():
    worlds = endless(time_limit=[5, 6])
    teacher = teachers.uniform(worlds)
    result = train(KEY, worlds, teacher, ["baseline", "teacher_distill"], **SMALL)
    assert result.lengths.max() <= 6 and np.isfinite(result.final_returns).all()
    assert mdp.stack([worlds[0], worlds[1]]).has_time_limit
