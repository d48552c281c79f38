"""Any name of METHODS or ZOO is taken wherever a method is, and a near miss is answered with the nearest name."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import jaxdistill
from experiments import common
from jaxdistill import METHODS, ZOO, Cell, methods, plus_reward, stack, teachers, train
from jaxdistill.cli import commands, main
from jaxdistill.methods import guide
from jaxdistill.methods.combinators import Objective
from jaxdistill.runtime import command
from jaxdistill.scheduling import pool
from jaxdistill.theory import exact_update, fields, flows, stated_losses, variance
from jaxdistill.training.sampling import sampled_updates
from tests import small

KEY = jax.random.key(0)
WORLDS = stack([small.random_mdp(i) for i in range(2)])
TEACHER = teachers.with_others(teachers.uniform(WORLDS), teachers.uniform(WORLDS))  # some objectives need two
LOGITS = np.zeros((2, 4, 3))
NAMES = [*METHODS, *ZOO, *(f"{name}_r" for name in METHODS)]


class Taken(Exception):
    """The name was taken: the work would begin here."""


def begin(*_, **__):
    raise Taken


def compare(name):
    flags = ["--worlds=garnet", "--num_mdps=2", "--num_iterations=2", "--teacher=uniform"]
    commands.run_compare(main._parser().parse_args(["compare", f"--methods={name}", *flags]))


# A door: what takes the name, and the function with which its work begins. Without one, the door has no work to do.
DOORS = {
    "train": (lambda name: train(KEY, WORLDS, TEACHER, name), (pool, "run")),
    "train, several": (lambda name: train(KEY, WORLDS, TEACHER, [name]), (pool, "run")),
    "train, a label": (lambda name: train(KEY, WORLDS, TEACHER, {"x": name}), (pool, "run")),
    "train, a cell": (lambda name: train(KEY, WORLDS, TEACHER, {"x": Cell(name)}), (pool, "run")),
    "sampled_updates": (lambda name: sampled_updates(KEY, WORLDS, TEACHER, [name], LOGITS), (pool, "run")),
    "expected_update": (
        lambda name: jaxdistill.expected_update(WORLDS[0], TEACHER[0], name, LOGITS[0]),
        (exact_update, "solve_update"),
    ),
    "field": (lambda name: fields.field(WORLDS[0], TEACHER[0], name, LOGITS[0]), (exact_update, "solve_update")),
    "asymmetry": (lambda name: fields.asymmetry(WORLDS, TEACHER, name, LOGITS), (fields, "_measure")),
    "potential": (lambda name: fields.potential(WORLDS, TEACHER, name, LOGITS), (fields, "_measure")),
    "check_method": (lambda name: fields.check_method(name, mdps=WORLDS, teacher=TEACHER), (fields, "_measure")),
    "flow": (lambda name: flows.flow(WORLDS, TEACHER, name), (flows, "_integrate")),
    "fixed_point": (lambda name: flows.fixed_point(WORLDS, TEACHER, name), (flows, "_follow")),
    "assess": (lambda name: variance.assess(WORLDS, TEACHER, name, LOGITS), (variance, "_assess")),
    "assess, the target": (
        lambda name: variance.assess(WORLDS, TEACHER, "n_distill", LOGITS, target=name),
        (variance, "_assess"),
    ),
    "own_loss": (stated_losses.own_loss, None),
    "plus_reward": (plus_reward, None),
    "how_to_get": (guide.how_to_get, None),
    "the experiments": (lambda name: common.known_methods([name]), None),
    "the command methods": (lambda name: main.main(["methods", name]), None),
    "the command check": (lambda name: main.main(["check", name, "--num_mdps=2"]), (fields, "random_problems")),
    "the command compare": (compare, (commands, "train")),
}


def enter(door, name, monkeypatch):
    """Takes the name to a door, and returns the message with which it is refused, or ""."""
    call, work = DOORS[door]
    if work:
        monkeypatch.setattr(*work, begin)
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "fail", lambda message: (_ for _ in ()).throw(ValueError(message)))
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    try:
        call(name)
    except Taken:
        return ""
    except ValueError as error:
        is_begun = str(error).startswith(Taken.__name__)  # A command says in a line that its work was stopped.
        return "" if is_begun else str(error)
    assert not work, "the work did not begin"
    return ""


@pytest.mark.parametrize("door", DOORS)
def test_any_name_is_taken_at_every_door(door, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    names = NAMES if DOORS[door][1] is None else ["n_distill", "n_distill_r", "k3_loss", "exopd", "td_vpi"]
    refused = {name: message for name in names if (message := enter(door, name, monkeypatch))}
    if door == "the command compare":  # its teachers have no further policies
        assert not {name for name, message in refused.items() if "Unknown" in message}
    else:
        assert not refused


NEAR = {"jds": "jsd", "k3_los": "k3_loss", "n-distill": "n_distill", "N_Distill_r": "n_distill_r", "tdvpi": "td_vpi"}


@pytest.mark.parametrize("door", DOORS)
def test_a_near_miss_is_answered_with_the_nearest_name(door, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, nearest in NEAR.items():
        message = enter(door, name, monkeypatch)
        assert f"Unknown method {name!r} (did you mean {nearest!r}?)" in message and "\n" not in message
    message = enter(door, "xyz", monkeypatch)
    assert message.startswith("Unknown method 'xyz'; the methods are baseline, ") and "ZOO" in message
    assert len(message) < 400


def test_a_name_is_always_the_same_object():
    """So that nothing compiles twice, and the claims of a table are found by it."""
    assert [methods.get(name) for name in NAMES] == [methods.get(name) for name in NAMES]
    assert methods.get("on_policy_distill_r") is METHODS["on_policy_distill_r"]
    assert len({*METHODS} & {*ZOO}) == 0
    assert all(methods.get(name).name == name for name in NAMES)
    assert methods.get(ZOO["jsd"]) is ZOO["jsd"]


def test_an_objective_plus_the_reward_loses_its_claims():
    """Its claims hold without the reward only; `check_method` must not compare with them."""
    for name in ("jsd", "k1_return"):
        combined = plus_reward(name)
        assert isinstance(combined, Objective) and combined.name == f"{name}_r"
        assert (combined.gradient_of, combined.state_loss, combined.total_loss) == ("", None, None)
        assert re.search(r"Plus the environment reward\.$", combined.description)


def is_allowed(method, number, value):
    try:
        method.domains[number].check(number, value)
    except ValueError:
        return False
    return True


def with_numbers():
    """(name, number, value) for every number of a method of METHODS or ZOO, at another value of its domain."""
    for name, method in (METHODS | ZOO).items():
        for number, value in method.params.items():
            others = (value * 0.9, value * 1.1, value + 1, value - 1, 0.5)
            yield name, number, next(x for x in others if x != value and is_allowed(method, number, x))


def test_a_name_may_give_numbers():
    cases = list(with_numbers())
    assert len(cases) > 20
    for name, number, value in cases:
        method = methods.get(f"{name}:{number}={value:g}")
        assert method.name == f"{name}:{number}={value:g}"
        assert method.params == {**methods.get(name).params, number: float(f"{value:g}")}
        assert method is methods.get(method.name)  # the same object, so that nothing compiles twice
        assert method == methods.get(name).with_params(**{number: float(f"{value:g}")})
        back = method.with_params(**{number: methods.get(name).params[number]})
        assert back.params == methods.get(name).params


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jsd:beta", "are written as jsd:beta=0.1; got 'jsd:beta'"),
        ("jsd:beta=x", "are written as jsd:beta=0.1; got 'jsd:beta=x'"),
        ("jsd:alpha=0.1", "Unknown number 'alpha'.*; the numbers of jsd are beta"),
        ("jsd:beta=0.1:beta=0.2", "gives beta twice"),
        ("jsd:beta=2", "beta must be"),
        ("jsd:beta=nan", "beta"),
        ("n_distill:beta=0.1", "Method 'n_distill' has no numbers; got beta"),
        ("jds:beta=0.1", "Unknown method 'jds'.*jsd"),
    ],
)
def test_wrong_numbers_in_a_name(name, message):
    with pytest.raises(ValueError, match=message) as error:
        methods.get(name)
    assert "\n" not in str(error.value)


def test_with_params_takes_arrays_and_refuses_nothing():
    jsd = ZOO["jsd"]
    colon = jsd.with_params(beta=0.2)  # a name may contain a colon that gives no number
    assert dataclasses.replace(jsd, name="my: jsd").with_params(beta=0.2).name == "my: jsd:beta=0.2"
    assert colon.with_params(beta=0.3).name == "jsd:beta=0.3"
    assert jsd.with_params(beta=np.array([0.2, 0.4])).name == "jsd:beta=array"
    with pytest.raises(ValueError, match="with_params takes numbers of the method, of beta; got none"):
        jsd.with_params()


def test_a_number_in_a_name_trains_like_the_number(capsys):
    config = {"num_iterations": 5, "num_checkpoints": 1}
    named = train(KEY, WORLDS, TEACHER, ["jsd:beta=0.3"], **config)
    given = train(KEY, WORLDS, TEACHER, [ZOO["jsd"].with_params(beta=0.3)], **config)
    np.testing.assert_array_equal(named.logits, given.logits)
    assert list(named.labels) == ["jsd:beta=0.3"]
