"""A saved training is known by everything that decides its numbers, and by nothing else."""

import dataclasses
import functools
import hashlib

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.scheduling import task as task_module
from jaxdistill.training import tasks
from jaxdistill.training.config import config_of, resolve_cell
from tests import small

KEY = jax.random.key(5)
MDPS = jd.stack([small.random_mdp(1)])
OPTIONS = {"num_iterations": 6, "num_checkpoints": 2, "estimator": "td"}


def identity(key=KEY, label="baseline", mdps=MDPS, initial=None, **changes):
    """The digest of the task of one student, whose program is traced anew."""
    cell = resolve_cell(label, jd.METHODS["baseline"], None, config_of(None, OPTIONS | changes))
    (task,) = tasks.make_tasks(key, mdps, [cell], np.ones(1), lambda *_: None, initial=initial)
    return hashlib.sha256(b"|".join(task.identity())).hexdigest()


@functools.cache
def usual():
    return identity()


def rewarded():
    return dataclasses.replace(MDPS, reward=MDPS.reward + 1)


OTHERS = {
    "key": lambda: {"key": jax.random.key(6)},
    "label": lambda: {"label": "other"},
    "worlds": lambda: {"mdps": rewarded()},
    "iterations": lambda: {"num_iterations": 7},
    "rate": lambda: {"learning_rate": 0.2},
    "start": lambda: {"initial": np.ones((1, 1, 4, 4), np.float32)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_inputs_are_another_training(what):
    assert identity(**OTHERS[what]()) != usual()


@pytest.mark.parametrize("name", ["package_versions", "surroundings"])
def test_other_surroundings_are_another_training(name, monkeypatch):
    expected = usual()
    for part in getattr(task_module, name)():
        with monkeypatch.context() as patch:
            now = getattr(task_module, name)()
            patch.setattr(task_module, name, lambda now=now, part=part: now | {part: "other"})
            assert identity() != expected, part
    assert identity() == expected


def test_where_loops_are_whole_is_part_of_it(monkeypatch):
    expected = usual()
    monkeypatch.setattr(task_module.xla, "loops_are_whole", lambda: "otherwise")
    assert identity() != expected
