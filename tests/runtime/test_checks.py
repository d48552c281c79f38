"""Wherever a word is one of several, a near miss is answered with the nearest of them."""

import numpy as np
import pytest

from experiments import common, gaussian_mixtures
from jaxdistill import Config, Control, compare, sample_mdps
from jaxdistill.cli import main
from jaxdistill.runtime import checks
from jaxdistill.theory.exact_update import exact_options
from jaxdistill.training.config import config_of
from tests.results.random_results import make


def command(*words):
    return lambda word: main.main([*words, word])


# What takes the word, the near miss, and the word that was meant.
DOORS = {
    "an option of a training": (lambda word: config_of(None, {word: 1}), "lerning_rate", "learning_rate"),
    "an option of an exact update": (lambda word: exact_options({word: 1}), "num_node", "num_nodes"),
    "an option of a grid": (lambda word: sample_mdps(np.zeros(2, np.uint32), 1, **{word: 1}), "num_row", "num_rows"),
    "an estimator": (lambda word: Config(estimator=word), "lamda", "lambda"),
    "a reduction": (lambda word: Config(reduction=word), "Mean", "mean"),
    "how a control is drawn": (lambda word: Control(student=1.0, per=word), "steps", "step"),
    "a label of a result": (lambda word: make().method_index(word), "n-distill", "n_distill"),
    "labels to select": (lambda word: make().select([word]), "basline", "baseline"),
    "a label of a table": (lambda word: make().summary()[word], "tdvpi", "td_vpi"),
    "the baseline of a summary": (lambda word: make().summary(baseline=word), "base_line", "baseline"),
    "the baseline of a comparison": (lambda word: compare(make(), word), "base line", "baseline"),
    "a column": (lambda word: make().summary().to_latex([word]), "diference", "difference"),
    "a quantity": (lambda word: make().plot(quantity=word), "return", "returns"),
    "a reference": (lambda word: make().plot(references=[word]), "optimum", "optimal"),
    "a direction": (
        lambda word: gaussian_mixtures._check_direction(word), "foward", "forward",
    ),
    "free parameters": (lambda word: gaussian_mixtures._known_parameters((word,)), "mean", "means"),
    "a choice of an experiment": (lambda word: common.known("teacher", [word], common.TEACHERS), "optimall", "optimal"),
    "a command": (command(), "metods", "methods"),
    "a flag": (command("check", "n_distill"), "--num_mdp=3", "--num_mdps"),
    "a word of a flag": (lambda word: main.main(["compare", f"--teacher={word}"]), "unifrom", "uniform"),
    "the flag --baseline": (lambda word: main.main(["compare", f"--baseline={word}"]), "n_distil", "n_distill"),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_near_miss_is_answered_with_the_nearest_word(door, monkeypatch, capsys):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    call, near, meant = DOORS[door]
    for word, suggests in ((near, True), ("--zzz" if near.startswith("--") else "qqqq", False)):
        with pytest.raises((ValueError, KeyError, SystemExit)) as error:
            call(word)
        message = capsys.readouterr().err if error.type is SystemExit else str(error.value)
        assert word in message and message.count("\n") <= (error.type is SystemExit)
        assert (f"(did you mean {meant!r}?)" in message.replace('\\"', "'")) is suggests, message
        assert ("did you mean" in message) is suggests


def test_what_is_not_a_word_is_shown_and_nothing_is_suggested():
    for value in (None, 7, b"mean", ["mean"], np.zeros(3), "a" * 5000, "", float("nan")):
        assert checks.shown_among(value, ["mean", "sum"]) == checks.shown(value)
    assert checks.shown_among("Mean", []) == "'Mean'"
