"""The presets: every part is accepted where it belongs, and the figures' flags follow them."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import jaxdistill as jd
from experiments import common, fig3, fig4, fig5, fig6, fig8, fig9, fig10
from experiments.common.presets import DEFAULTS, preset_flags
from jaxdistill.training.presets import PRESETS, Preset

FIGURES = {"fig3": fig3, "fig4": fig4, "fig5": fig5, "fig6": fig6, "fig8": fig8, "fig9": fig9, "fig10": fig10}


@pytest.mark.parametrize("name", PRESETS)
def test_parts_are_arguments(name):
    """As in the docstring of the module, with a training of a few episodes."""
    preset, key = jd.presets.get(name), jax.random.key(0)
    mdps = jd.sample_mdps(key, 2, num_rows=6, num_cols=6, p_plus10=0.1, **preset.worlds)
    teacher = jd.teachers.q_learning(key, mdps, num_iterations=20, **preset.q_learning)
    noisy = jd.teachers.with_noise(key, mdps, teacher, 0.15, **preset.with_noise)
    methods = ["on_policy_distill_r", "entropy_regularised"]
    result = jd.train(key, mdps, noisy, methods, jd.Config(num_iterations=20, **preset.config))
    assert np.isfinite(result.returns).all()
    assert jd.teachers.adversarial(mdps, **preset.adversarial).probs.shape == teacher.probs.shape
    assert jd.Config(estimator=preset.first_column)


def test_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="preset must be 'as_written' or 'as_published'; got 'paper'"):
        jd.presets.get("paper")


def test_as_written_contradicts_nothing_and_as_published_says_what_it_contradicts():
    assert not jd.presets.AS_WRITTEN.contradictions
    written, published = preset_flags(jd.presets.AS_WRITTEN), preset_flags(jd.presets.AS_PUBLISHED)
    assert written["learning_rate"] == 0.1  # App. A.3
    assert written["value_learning_rate"] == 0.1
    assert written["noise"] == 0.1  # App. A.1
    assert (written["first_column"], written["ties"]) == ("mc", "share")  # Fig. 5, App. A.4
    assert (written["loss_visits"], written["return_visits"]) == ("every", "every")  # Table 1
    assert set(jd.presets.AS_PUBLISHED.contradictions) <= {
        name for name in published if written[name] != published[name]
    }


@pytest.mark.parametrize("name", FIGURES)
def test_figures_take_their_defaults_from_the_preset(name):
    settings_type = FIGURES[name].Settings
    names = {field.name for field in dataclasses.fields(settings_type)}
    own = {"probability_floor"} if name in ("fig4", "fig10") else set()
    for preset in PRESETS.values():
        settings = common.parse(settings_type, name, {}, [name, f"--preset={preset.name}"])
        expected = {flag: value for flag, value in preset_flags(preset).items() if flag in names - own}
        assert {flag: getattr(settings, flag) for flag in expected} == expected
    plain = common.parse(settings_type, name, {}, [name])
    assert plain == settings_type(out=plain.out)  # the same in Python
    assert plain.preset == "as_written"


def test_flags_override_the_preset():
    argv = ["fig8", "--learning_rate=0.3", "--preset=as_published", "--reduction=mean"]
    settings = common.parse(fig8.Settings, "fig8", fig8.SMOKE, argv)
    assert (settings.learning_rate, settings.reduction) == (0.3, "mean")
    assert settings.first_column == jd.presets.AS_PUBLISHED.first_column


def test_unknown_preset_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as end:
        common.parse(fig8.Settings, "fig8", {}, ["fig8", "--preset=as_read"])
    assert end.value.code == 2
    assert re.search(r"preset must be .*'as_published'; got 'as_read'", capsys.readouterr().err)


def test_every_part_of_a_preset_is_a_flag():
    """A figure that has the group of flags has all of them, so no part of a preset is ignored."""
    fields = {field.name for figure in (fig6, fig8) for field in dataclasses.fields(figure.Settings)}
    assert DEFAULTS.keys() <= fields
    for preset in PRESETS.values():
        assert isinstance(preset, Preset)
        numbers_of_words = {"epsilon", "control_temperature", "fixed_length"}
        assert preset_flags(preset).keys() - numbers_of_words == DEFAULTS.keys() - numbers_of_words
