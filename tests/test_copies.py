"""What the package makes can be copied and sent to another process, and a copy is worth as much as its original."""

import copy
import dataclasses
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import METHODS, ZOO, Cell, Config, Control, Method, Stopped, expected_update, train
from jaxdistill.cli.describing import gradient_of
from jaxdistill.methods import Domain, UpdateOptions, combinators, guide
from jaxdistill.methods import step_functions as fns
from jaxdistill.results.sweep import Setting, as_sweep
from jaxdistill.theory import stated_losses
from jaxdistill.theory.fields import Findings, Report
from jaxdistill.theory.flows import FixedPoint, Flow
from jaxdistill.theory.quality import Quality
from jaxdistill.theory.variance import Assessment
from jaxdistill.training import tasks
from jaxdistill.training.config import resolve_cell
from tests import small
from tests.methods.four_actions import example_step
from tests.results import random_results


def examples():
    """Objects of every kind that a user makes or is given, by name."""
    mdp = small.random_mdp(0)
    teacher, result = small.random_teacher(mdp, 0), random_results.make(settings={"unfinished_students": 1})
    row, table = np.arange(3.0), np.zeros((4, 3))
    quality = Quality(row, row, row)
    findings = Findings("E l", row, row, row, None, 1e-8)
    objects = {
        **METHODS,
        **ZOO,
        **{f"loss of {name}": loss for name, loss in stated_losses.LOSSES.items()},
        "loss of a method": stated_losses.own_loss("on_policy_distill_r"),
        "losses of an objective": stated_losses.stated_losses(ZOO["k1_reward"]),
        "a changed objective": combinators.discounted(ZOO["minillm"], 0.5),
        "a method of ones own": Method("mine", combinators.negated(fns.k1), params={"rate": np.array([1.0, 2.0])}),
        "a method with the reward": jaxdistill.plus_reward(METHODS["kl_regularised"]),
        "control": Control(0.5, 0.5, per="episode"),
        "cell": Cell("n_distill", teacher, {"learning_rate": 0.5}),
        "config": Config(learning_rate=[0.1, 0.2]),
        "schedule": jaxdistill.Schedule((0, 10), (1.0, 0.5)),
        "sweep": as_sweep(result, {"learning_rate": [0.1]}, [Setting(label, label, {}) for label in result.labels]),
        "options": UpdateOptions(),
        "domain": Domain(0, 1, "both"),
        "mdp": mdp,
        "teacher": teacher,
        "step": example_step(1, beta=0.5),
        "grids": jaxdistill.GridConfig(),
        "text": (text := jaxdistill.worlds.texts.from_string("ab. ba.")),
        "language": jaxdistill.worlds.language(text, 2),
        "result": result,
        "summary": result.summary("final"),
        "comparison": jaxdistill.compare(result, "baseline"),
        "stopped": Stopped(result),
        "assessment": Assessment(row, row, row, row),
        "report": Report("m", findings, findings, "s"),
        "flow": Flow(row, table, row, row, quality),
        "fixed point": FixedPoint(table, row, row, row > 0, row > 0, quality),
        "recommendation": guide.recommend(evaluated_outside_teacher_states=False),
    }
    return objects


def assert_same(first, second, name):
    """Equal in type and content, arrays entry by entry."""
    assert type(first) is type(second), name
    if isinstance(first, np.ndarray | jax.Array):
        assert first.dtype == second.dtype, name
        np.testing.assert_array_equal(first, second, err_msg=name)
    elif dataclasses.is_dataclass(first) or isinstance(first, Stopped):
        for field, value in vars(first).items():
            assert_same(value, getattr(second, field), f"{name}.{field}")
    elif isinstance(first, dict):
        assert list(first) == list(second), name
        for key, value in first.items():
            assert_same(value, second[key], f"{name}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), name
        for i, (x, y) in enumerate(zip(first, second, strict=True)):
            assert_same(x, y, f"{name}[{i}]")
    else:
        assert first == second or (first != first and second != second), name


def test_every_public_class_has_an_example():
    classes = {value for name in jaxdistill.__all__ if inspect.isclass(value := getattr(jaxdistill, name))}
    assert classes - {type(x) for x in examples().values()} == set()


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_the_same(copied):
    for name, original in examples().items():
        other = copied(original)
        assert_same(original, other, name)
        if isinstance(original, Method):
            assert original == other and hash(original) == hash(other), name


def is_known(objects):
    """In another process: whether each method of the package equals the one of that name there, and all objects."""
    known = {name: {**METHODS, **ZOO}[name] == objects[name] for name in (*METHODS, *ZOO)}
    return known, objects


def test_all_can_be_sent_to_a_spawned_process():
    originals = examples()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        known, returned = pool.submit(is_known, originals).result()
    assert len(known) == len(METHODS) + len(ZOO) and all(known.values())
    assert_same(originals, returned, "objects")


# --- A copy of a method -------------------------------------------------------------------------------------------


def test_equal_calls_make_equal_functions():
    k1 = combinators.negated(fns.k1)
    assert k1 == combinators.negated(fns.k1) != combinators.negated(fns.k2)
    assert combinators.clamped(fns.k1, 0) != combinators.clamped(fns.k1, most=0)
    assert combinators.clamped(fns.k1, np.float32(0)) == combinators.clamped(fns.k1, np.float32(0))
    assert combinators.clamped(fns.k1, 0) != combinators.clamped(fns.k1, 0.0)  # they may differ in dtype
    assert len({k1, copy.deepcopy(k1), combinators.negated(fns.k1)}) == 1


def test_what_makes_methods_equal():
    """Equal fields, arrays by their entries; a traced number only equals itself."""
    numbers = [1.0, np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.float32(1)]
    methods = [Method("m", fns.k1, params={"rate": x}) for x in numbers]
    assert all((a == b) == (i == j) for i, a in enumerate(methods) for j, b in enumerate(methods))
    assert methods[0] != dataclasses.replace(methods[0], name="n") and methods[0] != "m"
    assert METHODS["n_distill"] != ZOO["k1_loss"] and dataclasses.replace(ZOO["jsd"]) == ZOO["jsd"]

    @jax.jit
    def traced(x, y):
        assert Method("m", params={"rate": x}) == Method("m", params={"rate": x}) != Method("m", params={"rate": y})
        return x

    traced(1.0, 1.0)


def test_a_copy_has_the_program_the_claim_and_the_numbers_of_its_original():
    mdp = small.random_mdp(1)
    teacher, logits = small.random_teacher(mdp, 1), small.random_student(mdp, 1)[0]
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], mdp)
    for original in (*METHODS.values(), *ZOO.values()):
        other = pickle.loads(pickle.dumps(original))
        assert gradient_of(other) == gradient_of(original)
        keys = [tasks._program_key(resolve_cell("a", m, None, Config()), stacked, ()) for m in (original, other)]
        assert keys[0] == keys[1] and hash(keys[0]) == hash(keys[1])
        assert len(tasks.methods_in_program(other)) == len(tasks.methods_in_program(original))
    for original in (METHODS["n_distill"], ZOO["k1_reward"]):
        other = pickle.loads(pickle.dumps(original))
        updates = [expected_update(mdp, teacher, m, logits).logits for m in (original, other)]
        np.testing.assert_array_equal(*updates)
        runs = [
            train(jax.random.key(0), mdp, teacher, {"a": m}, num_iterations=5, num_checkpoints=1, progress=False).logits
            for m in (original, other)
        ]
        np.testing.assert_array_equal(*runs)


def test_a_lambda_cannot_be_pickled_but_copied():
    method = Method("mine", loss=combinators.negated(lambda step: step.student_log_prob))
    assert copy.deepcopy(method) == method
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(method)
