"""No setting is silently ignored: what has no effect is refused, and a floor that changes the teacher is reported."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import MDP, METHODS, ZOO, Cell, Config, expected_update, stack, teachers, train
from jaxdistill.methods import UpdateOptions
from jaxdistill.methods.combinators import length_normalised
from jaxdistill.scheduling import pool
from jaxdistill.theory import fields
from jaxdistill.theory.exact_update import exact_options
from jaxdistill.theory.stated_losses import TABLE_1
from jaxdistill.training.sampling import sampled_updates
from tests import small

KEY = jax.random.key(0)
WORLDS = stack([small.random_mdp(i) for i in range(2)])
TEACHER = teachers.uniform(WORLDS)


class Began(Exception):
    """The settings were accepted: the training would begin here."""


def refusal(monkeypatch, methods, config=None, **changes):
    """The message with which `train` refuses settings, "" if it accepts them; nothing is trained."""

    def begin(*_):
        raise Began

    monkeypatch.setattr(pool, "run", begin)
    try:
        train(KEY, WORLDS, TEACHER, methods, config, num_iterations=2, progress=False, **changes)
    except Began:
        return ""
    except ValueError as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError("neither refused nor begun")


# --- Settings that have no effect ----------------------------------------------------------------------------

VALUES = {
    "discount": 0.5, "probability_floor": 0.1, "loss_weight": 0.5, "return_weight": 0.5, "value_learning_rate": 0.5,
    "learning_rate": 0.5, "max_episode_steps": 7, "estimator": "mc", "reduction": "sum",
    "loss_visits": "once", "return_visits": "once", "optimizer": optax.adam(0.1),
}  # fmt: skip
# Settings that each method does not use. All others have an effect; the estimator and the reduction are not examined.
UNUSED = {
    "baseline": {"loss_weight", "loss_visits", "probability_floor"},
    "on_policy_distill": {"discount", "return_weight", "return_visits", "value_learning_rate", "probability_floor"},
    "on_policy_distill_r": {"probability_floor"},
    "entropy_regularised": {"loss_weight", "loss_visits"},
    "exp_entropy_regularised": set(),
    "reverse_kl": {"discount", "return_weight", "return_visits", "value_learning_rate"},
    "k1_reward": {"discount", "loss_weight", "loss_visits"},
    "teacher_v_reward": {"loss_weight", "loss_visits", "probability_floor"},
    # The estimator is fixed, and was refused before.
    "td_v0": {"discount", "loss_weight", "loss_visits", "probability_floor", "estimator"},
}


@pytest.mark.parametrize("method", UNUSED)
def test_a_setting_without_effect_is_refused(method, monkeypatch):
    """For every setting: in a cell of its own, for all methods of a training, and not in a shared configuration."""
    for name, value in VALUES.items():
        unused = name in UNUSED[method]
        in_cell = refusal(monkeypatch, {"a": Cell(method, changes={name: value}), "b": "exp_entropy_regularised"})
        assert bool(in_cell) is unused, (name, in_cell)
        if not unused or name == "estimator":  # for all methods it stays what is used where a method leaves it open
            assert refusal(monkeypatch, method, **{name: value}) == "", name
            continue
        for message in (in_cell, refusal(monkeypatch, method, **{name: value})):
            assert f"{name} has no effect on" in message and method in message and "; remove it" in message
        assert refusal(monkeypatch, method, Config(**{name: value})) == ""
        assert refusal(monkeypatch, [method, "exp_entropy_regularised"], **{name: value}) == ""


def test_a_number_of_an_estimator_without_returns(monkeypatch):
    cell = Cell("on_policy_distill", changes={"estimator": "lambda", "trace_decay": 0.5})
    assert "trace_decay has no effect on x: its method is on_policy_distill" in refusal(monkeypatch, {"x": cell})
    shared = Config(estimator="lambda")
    cell = Cell("td_vpi", changes={"trace_decay": 0.5})
    assert "whose estimator is 'td'" in refusal(monkeypatch, {"x": cell}, shared)
    assert refusal(monkeypatch, {"x": Cell("n_distill", changes={"trace_decay": 0.5})}, shared) == ""


def test_a_fixed_length_without_that_reduction(monkeypatch):
    message = "fixed_length has an effect with reduction 'fixed' only; got reduction 'mean'. Set both."
    with pytest.raises(ValueError, match=message):
        Config(fixed_length=30)
    method = length_normalised(METHODS["baseline"])  # its reduction is the mean
    assert refusal(monkeypatch, method, Config(reduction="fixed", fixed_length=30)) == ""
    cell = Cell(method, changes={"fixed_length": 30})
    assert "whose reduction is 'mean'" in refusal(monkeypatch, {"x": cell}, Config(reduction="fixed"))


# --- Rates and optimizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["learning_rate", "value_learning_rate"])
@pytest.mark.parametrize("value", [0.05, 0.1, [0.1, 0.2], optax.constant_schedule(0.1)], ids=["new", "old", "M", "f"])
def test_a_rate_beside_an_optimizer_is_refused(name, value, monkeypatch):
    """However both are set, also where the rate is that of the default."""
    rate, adam = {name: value}, {"optimizer": optax.adam(0.05)}
    message = f"{name} has no effect with an optimizer"
    with pytest.raises(ValueError, match=message):
        Config(**rate, **adam)
    method = "on_policy_distill_r"
    ways = [
        (method, None, rate | adam),
        (method, Config(**rate), adam),
        (method, Config(**adam), rate),
        (Cell(method, changes=rate | adam), None, {}),
        (Cell(method, changes=rate), Config(**adam), {}),
        (Cell(method, changes=adam), Config(**rate), {}),
        (Cell(method, changes=adam), None, rate),
        ({"a": method, "b": Cell(method, changes=rate)}, None, adam),
    ]
    for methods, config, changes in ways:
        assert message in refusal(monkeypatch, methods, config, **changes)
    assert refusal(monkeypatch, Cell(method, changes=adam | {name: None}), Config(**rate)) == ""
    assert refusal(monkeypatch, {"a": Cell(method, changes=rate), "b": Cell(method, changes=adam)}) == ""


def test_rates_that_nobody_sets():
    plain = Config()
    assert (plain.learning_rate, plain.value_learning_rate) == (None, None)
    resolved = plain.resolved(METHODS["baseline"])
    assert (resolved.learning_rate, resolved.value_learning_rate) == (0.1, 0.1)
    assert Config(optimizer=optax.adam(0.1)).resolved(METHODS["baseline"]).learning_rate is None
    assert Config(learning_rate=0.3).with_rates().value_learning_rate == 0.1


NEED_A_VALUE = {
    "lbfgs": lambda: optax.lbfgs(),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "reduce_on_plateau": lambda: optax.contrib.reduce_on_plateau(),
    "adam, then reduce_on_plateau": lambda: optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "momo": lambda: optax.contrib.momo(),
    "a line search": lambda: optax.scale_by_backtracking_linesearch(5),
    "one that drops a table": lambda: optax.GradientTransformation(lambda p: (), lambda g, s, p: ({}, s)),
    "one that fails": lambda: optax.GradientTransformation(lambda p: (), lambda g, s: (g, s)),
    "not one": lambda: optax.adam,
    "a rate": lambda: 0.1,
}


@pytest.mark.parametrize("name", NEED_A_VALUE)
def test_an_optimizer_that_training_cannot_use_is_refused(name):
    with pytest.raises(ValueError, match=r"^optimizer must .*optax\.adam") as error:
        Config(optimizer=NEED_A_VALUE[name]())
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


GRADIENTS_ONLY = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adam": lambda: optax.adam(optax.linear_schedule(0.1, 0.0, 10)),
    "adamw, which needs parameters": lambda: optax.adamw(0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.1)),
    "by table": lambda: optax.multi_transform(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"logits": "a", "values": "b"}
    ),
    "lion": lambda: optax.lion(0.1),
    "lbfgs without a line search": lambda: optax.lbfgs(0.1, linesearch=None),
    "several steps": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "a rate in its state": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
}


@pytest.mark.parametrize("name", GRADIENTS_ONLY)
def test_other_optimizers_are_accepted(name):
    Config(optimizer=GRADIENTS_ONLY[name]())


@pytest.mark.parametrize("name", ["learning_rate", "value_learning_rate", "num_iterations", "optimizer"])
def test_sampled_updates_fix_what_makes_an_update(name):
    value = {"num_iterations": 3, "optimizer": optax.adam(0.1)}.get(name, 0.5)
    with pytest.raises(ValueError, match=f"per unit of learning rate; {name} cannot be set"):
        sampled_updates(KEY, WORLDS, TEACHER, ["baseline"], np.zeros((2, 4, 3)), **{name: value})


# --- One floor -----------------------------------------------------------------------------------------------


def zipf(num_actions=100):
    """One state and episodes of one step, with a teacher whose probabilities are those of Zipf's law."""
    end = np.ones((1, 1), bool)
    mdp = MDP.from_arrays(np.zeros((1, 1), int), np.zeros((1, 1)), end, np.ones((num_actions, 1)))
    weights = 1 / np.arange(1, num_actions + 1)
    return stack([mdp]), teachers.from_table(stack([mdp]), (weights / weights.sum())[None, None])


def test_both_sides_have_one_floor():
    """Training, the exact update and the check of a method, under default options and those of Table 1."""
    floor = UpdateOptions().probability_floor
    assert Config().probability_floor == exact_options({}).probability_floor == floor
    assert exact_options({}, TABLE_1).probability_floor == floor and "probability_floor" not in TABLE_1
    params = {x for objective in ZOO.values() for name, x in objective.params.items() if name == "floor"}
    assert params == {floor}
    assert 0 < floor <= 1e-6 and np.float32(floor) > np.finfo(np.float32).tiny


@pytest.mark.parametrize("floor", [None, 0.01])
def test_a_student_of_many_actions_ends_at_its_teacher(floor):
    """The reverse KL: with the default floor it reaches 0; with 0.01 half of its mass is on the tail, which is said."""
    mdps, teacher = zipf()
    options = {} if floor is None else {"probability_floor": floor}
    brief = {"num_iterations": 4000, "learning_rate": 1.0, "progress": False}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = train(KEY, mdps, teacher, "reverse_kl", **brief, **options)
    log_student = np.asarray(jax.nn.log_softmax(result.logits[0, 0, 0]), np.float64)
    probs = np.asarray(teacher.probs[0, 0], np.float64)
    kl = np.sum(np.exp(log_student) * (log_student - np.log(probs)))
    floored = np.maximum(probs, 0.01) / np.maximum(probs, 0.01).sum()  # where the reverse KL to this floor is 0
    expected_kl = np.sum(floored * np.log(floored / probs))
    assert expected_kl > 0.15 and floored[probs < 0.01].sum() > 0.5
    share = result.settings["cells"]["reverse_kl"]["teacher_mass_below_floor"]
    update = expected_update(mdps[0], teacher[0], "reverse_kl", jnp.asarray(result.logits[0, 0]), **options).logits
    assert np.abs(update).max() < 1e-3  # the exact side has its rest at the same place
    if floor is None:
        assert kl < 0.01 and share == 0 and not warned
    else:
        assert kl == pytest.approx(expected_kl, abs=1e-3) and share == pytest.approx(0.316, abs=1e-3)
        (warning,) = [str(item.message) for item in warned]
        assert warning.startswith("reverse_kl: 0.32 of the teacher's probability lies below probability_floor 0.01")
        assert warning.endswith("lower probability_floor.") and "\n" not in warning


@pytest.mark.parametrize("methods", [["reverse_kl"], ["reverse_kl", "kl_regularised", "on_policy_distill"], ["jsd"]])
def test_the_share_below_the_floor_is_warned_of_once(methods, monkeypatch):
    """It names the cells whose update has the logarithm, and none where no update has it."""
    mdps, teacher = zipf()
    monkeypatch.setattr(pool, "run", lambda *_: (_ for _ in ()).throw(Began))
    with warnings.catch_warnings(record=True) as warned, pytest.raises(Began):
        warnings.simplefilter("always")
        train(KEY, mdps, teacher, methods, Config(probability_floor=0.01))
    expected = [", ".join(name for name in methods if name in ("reverse_kl", "kl_regularised"))]
    assert [str(item.message).split(":")[0] for item in warned] == [text for text in expected if text]


def test_a_floor_for_each_world(monkeypatch):
    """The share is the mean over the worlds; a floor of the wrong length is refused by name."""
    mdps, teacher = zipf()
    mdps, teacher = jax.tree.map(lambda x: np.repeat(np.asarray(x), 2, axis=0), (mdps, teacher))
    mdps = dataclasses.replace(mdps, id=np.arange(2))
    monkeypatch.setattr(pool, "run", lambda *_: (_ for _ in ()).throw(Began))
    with pytest.warns(UserWarning, match="0.16 of the teacher's probability"), pytest.raises(Began):
        train(KEY, mdps, teacher, "reverse_kl", probability_floor=[0.01, 1e-6])
    with pytest.raises(ValueError, match="probability_floor must be one number or one for each of the 2 MDPs"):
        train(KEY, mdps, teacher, "reverse_kl", probability_floor=[0.01, 1e-6, 0.1])


def test_the_check_of_a_method_says_what_lies_below_the_floor():
    mdps, teacher = zipf(20)
    texts = [
        str(fields._checked_setting(mdps, teacher, "reverse_kl", options))
        for options in ({}, {"probability_floor": 0.03})
    ]  # the last line of a report
    assert "of the teacher's probability" not in texts[0]
    assert "; 0.21 of the teacher's probability lies below probability_floor 0.03" in texts[1]


def test_a_floor_that_is_zero_to_the_processor_is_refused():
    """Numbers below the smallest normal one are flushed to 0, and the logarithm of the teacher would be -inf."""
    with pytest.raises(ValueError, match="takes the logarithm of a teacher probability that is 0"):
        train(KEY, WORLDS, teachers.optimal(WORLDS), "entropy_regularised", probability_floor=1e-40)


@pytest.mark.parametrize("name", ["learning_rate", "value_learning_rate"])
def test_a_schedule_that_becomes_negative_is_refused(name):
    """A schedule is data that is used later, so it is tried where the configuration is made."""
    falling = lambda iteration: 0.1 - 0.01 * iteration  # noqa: E731
    assert Config(num_iterations=10, **{name: falling})
    with pytest.raises(ValueError, match=rf"^{name} must be finite and >= 0; its schedule is -0.01 at iteration 11\.$"):
        Config(num_iterations=12, **{name: falling})
