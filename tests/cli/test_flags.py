"""Flags that are made from default values, as experiments make them."""

import dataclasses

import pytest

from experiments import common, fig8
from jaxdistill.cli import flags


def parsed(*words):
    parser = flags.Parser(allow_abbrev=False)
    for name, default in {"on": False, "size": 3, "rate": 0.5, "word": "a", "names": ["x"]}.items():
        flags.add(parser, name, default, "a flag of 10%%")
    return vars(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--on"], {"on": True}),
        (["--noon"], {"on": False}),
        (["--on=false"], {"on": False}),
        (["--on=1", "--size", "4"], {"on": True, "size": 4}),
        (["--rate=1e-3"], {"rate": 0.001}),
        (["--names=a, b"], {"names": ["a", "b"]}),
        (["--names="], {"names": []}),
        (["--word=", "--size=-1"], {"word": "", "size": -1}),
        (["--size=1", "--size=2"], {"size": 2}),
    ],
)
def test_the_type_of_a_flag_is_that_of_its_default(words, expected):
    assert parsed(*words) == expected


@pytest.mark.parametrize("word", ["--on=maybe", "--size=1.5", "--size=", "--rate=x", "--sizes=1", "--no", "--nosize"])
def test_wrong_flags_are_refused_in_one_line(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(word)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_every_setting_of_an_experiment_is_a_flag(capsys):
    with pytest.raises(SystemExit) as stopped:
        common.parse(fig8.Settings, "fig8", fig8.SMOKE, ["fig8", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(f"--{field.name}" in text for field in dataclasses.fields(fig8.Settings))
    assert "--nosmoke" not in text  # it works, and would only lengthen the help


def test_settings_come_from_defaults_presets_smoke_and_flags_in_this_order():
    words = ["fig8", "--preset=as_published", "--smoke", "--noise=0.3", "--methods=baseline"]
    settings = common.parse(fig8.Settings, "fig8", fig8.SMOKE, words)
    assert settings.noise == 0.3 and settings.methods == ["baseline"]
    assert settings.reduction == "mean" and settings.num_mdps == fig8.SMOKE["num_mdps"]
    assert settings.out.endswith("fig8-smoke") and settings.seed == fig8.Settings().seed
