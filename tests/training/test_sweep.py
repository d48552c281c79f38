"""`sweep`: the combinations that it trains, the students that it gives, and what it refuses."""

import importlib

import jax
import numpy as np
import optax
import pytest

import jaxdistill as jd
from jaxdistill import Schedule
from jaxdistill.training.sweep import MAX_STUDENTS

train_module = importlib.import_module("jaxdistill.training.train")  # `jaxdistill.train` is the function
KEY = jax.random.key(0)
WORLDS = jd.sample_mdps(KEY, 3, num_rows=3, num_cols=3)
TEACHER = jd.teachers.optimal(WORLDS)
BRIEF = dict(num_iterations=20, num_checkpoints=2, progress=False)


def swept(methods, grid, **options):
    return jd.sweep(KEY, WORLDS, TEACHER, methods, grid, **(BRIEF | options))


def test_a_parameter_is_crossed_with_the_methods_that_have_it():
    """`beta` is a number of jsd alone; the estimator and `trace_decay` need a return; td_vpi fixes its estimator."""
    grid = {
        "learning_rate": [0.1, 1.0],
        "beta": [0.1, 0.5, 0.9],
        "trace_decay": [0.5, 1.0],
        "estimator": ["td", "lambda"],
    }
    sweep = swept(["jsd", "baseline", "td_vpi"], grid)
    counts = {method: sum(s.method == method for s in sweep.settings) for method in sweep.methods}
    assert counts == {"jsd": 2 * 3, "baseline": 2 * (1 + 2), "td_vpi": 2}
    decays = {(s.parameters.get("estimator"), s.parameters.get("trace_decay")) for s in sweep.settings}
    assert decays == {("td", None), ("lambda", 0.5), ("lambda", 1.0), (None, None)}
    assert len(set(sweep.result.labels)) == len(sweep.settings) == 14


def test_the_students_are_those_of_train():
    sweep = swept(["jsd", "n_distill"], {"learning_rate": [0.1, 1.0], "beta": [0.2, 0.7]}, loss_weight=2.0)
    setting = sweep.settings[3]
    assert setting.parameters == {"learning_rate": 1.0, "beta": 0.7}
    cell = jd.Cell(jd.ZOO["jsd"].with_params(beta=0.7), changes={"learning_rate": 1.0, "loss_weight": 2.0})
    alone = jd.train(KEY, WORLDS, TEACHER, {setting.label: cell}, **BRIEF)
    np.testing.assert_array_equal(sweep.result.logits[3], alone.logits[0])
    assert sweep.result.settings["cells"][setting.label]["params"]["beta"] == 0.7


def test_schedules_and_words_are_values():
    fall = Schedule((0, 10), (1, 0))
    sweep = swept("on_policy_distill_r", {"loss_weight": [1, fall], "reduction": ["mean", "sum"]})
    assert sweep.grid == {"reduction": ("mean", "sum"), "loss_weight": (1.0, "0:1,10:0")}
    assert len(sweep.settings) == 4
    rows = {s.parameters["loss_weight"]: sweep.result.logits[p] for p, s in enumerate(sweep.settings)}
    assert not np.array_equal(rows[1.0], rows["0:1,10:0"])


REFUSED = {
    "empty": ({}, "grid must map at least one parameter"),
    "no mapping": ([1], "grid must map at least one parameter"),
    "no value": ({"learning_rate": []}, "grid has no value of learning_rate"),
    "twice": ({"learning_rate": [0.1, 0.1]}, "has the value 0.1 of learning_rate twice"),
    "unknown": ({"learning_rat": [0.1]}, r"Unknown parameter 'learning_rat' \(did you mean 'learning_rate'\?\)"),
    "shared": ({"num_iterations": [1, 2]}, "num_iterations must be the same in all settings"),
    "without effect": ({"trace_decay": [0.1, 0.5]}, "trace_decay has no effect on any of jsd, n_distill"),
    "outside": ({"beta": [0.5, 2.0]}, "beta must be in"),
    "no number": ({"beta": ["x"]}, "beta"),
    "option too": ({"discount": [0.5]}, "discount is given twice"),
    "option without effect": ({"beta": [0.5]}, "return_weight has no effect on jsd"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    grid, message = REFUSED[name]
    options = {"option too": {"discount": 0.9}, "option without effect": {"return_weight": 2.0}}.get(name, {})
    methods = ["jsd"] if name == "option without effect" else ["jsd", "n_distill"]
    with pytest.raises(ValueError, match=message) as error:
        swept(methods, grid, **options)
    assert "\n" not in str(error.value)


def test_a_grid_that_is_too_large_says_what_it_costs():
    grid = {"learning_rate": np.linspace(0.1, 1, 1000), "discount": np.linspace(0, 1, 1000)}
    with pytest.raises(ValueError, match=rf"1,000,000 settings, .* steps and .* GB .*max_students, {MAX_STUDENTS:,}"):
        swept("baseline", grid)
    with pytest.raises(ValueError, match="2 settings, which are 6 students"):
        swept("baseline", {"learning_rate": [0.1, 1]}, max_students=5)
    assert swept("baseline", {"learning_rate": [0.1, 1]}, max_students=6)


def test_an_interrupted_sweep_keeps_its_rows(monkeypatch):
    """The result of `Stopped` can be made a sweep."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "run_students", stop)
    everything = property(lambda self: np.ones((2, 3), bool), lambda *_: None)
    monkeypatch.setattr(train_module.Recorder, "finished", everything, raising=False)
    with pytest.raises(jd.Stopped) as stopped:
        swept("baseline", {"learning_rate": [0.1, 1.0]})
    assert [s.parameters["learning_rate"] for s in jd.Sweep(stopped.value.result).settings] == [0.1, 1.0]


# --- The sizes of first updates --------------------------------------------------------------------------------------


def norms(result):
    return {label: cell["update_norm"] for label, cell in result.settings["cells"].items()}


def test_the_size_of_the_first_update_is_that_of_one_iteration():
    """The reference is a training of one iteration at a rate of 1, from the same tables and random streams."""
    logits = np.random.default_rng(0).normal(size=(WORLDS.num_observations, WORLDS.num_actions))
    methods = ["baseline", "n_distill"]
    result = jd.train(
        KEY, WORLDS, TEACHER, methods, initial_logits=logits, learning_rate=Schedule((0, 9), (0, 1)), **BRIEF
    )
    options = BRIEF | dict(num_iterations=1, num_checkpoints=1)
    first = jd.train(KEY, WORLDS, TEACHER, methods, initial_logits=logits, learning_rate=1.0, **options)
    squares = ((first.logits - logits.astype(np.float32)) ** 2).sum((2, 3))
    np.testing.assert_allclose(list(norms(result).values()), np.sqrt(squares.mean(1)), rtol=1e-5)


def test_equal_steps_scale_the_rates():
    methods = ["n_distill", "jsd:beta=0.01", "baseline"]
    result = jd.train(KEY, WORLDS, TEACHER, methods, equal_steps=True, learning_rate=0.2, **BRIEF)
    rates = [result.settings["cells"][label]["config"]["learning_rate"] for label in result.labels]
    steps = np.multiply(rates, list(norms(result).values()))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert rates[0] == 0.2 and rates[1] > 1


def test_equal_steps_refuse_what_has_no_gradient():
    methods = ["baseline", jd.Cell("n_distill", changes={"optimizer": optax.adam(0.1)})]
    with pytest.raises(ValueError, match="cannot scale the learning rate of n_distill, because it has an optimizer"):
        jd.train(KEY, WORLDS, TEACHER, methods, equal_steps=True, **BRIEF)
    with pytest.raises(ValueError, match="equal_steps must be True or False"):
        jd.train(KEY, WORLDS, TEACHER, ["baseline", "n_distill"], equal_steps=1, **BRIEF)
