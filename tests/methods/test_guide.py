"""The decision guide against a table written from the paper's Fig. 1, and the chart that shows it."""

import itertools

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch

import jaxdistill
from experiments import common, fig1
from jaxdistill import plotting
from jaxdistill.methods import guide

# From the figure, one line for each leaf: the answers in the order of the questions, "-" for one that is not reached,
# then the preferred method and the feasible ones.
TABLE = """
n----  teacher_distill
ynn--  exp_entropy_regularised    on_policy_distill    n_distill
ynyy-  exp_entropy_regularised_r  on_policy_distill_r  n_distill_r
ynyny  teacher_v_reward
ynynn  exp_entropy_regularised_r  on_policy_distill_r  n_distill_r
yyn--  exp_entropy_regularised    n_distill
yyyy-  exp_entropy_regularised_r  n_distill_r
yyyny  teacher_v_reward
yyynn  exp_entropy_regularised_r  n_distill_r
"""
EXPECTED = {key: methods for key, *methods in map(str.split, TABLE.strip().splitlines())}
ANSWERS = list(itertools.product([True, False], repeat=5))


def key_of(answers):
    """The key of the line of the table that matches the answers."""
    letters = "".join("ny"[int(answer)] for answer in answers)
    (key,) = [key for key in EXPECTED if all(k in ("-", a) for k, a in zip(key, letters, strict=True))]
    return key


@pytest.mark.parametrize("answers", ANSWERS)
def test_every_combination_of_answers_gets_the_recommendation_of_the_figure(answers):
    key = key_of(answers)
    recommendation = guide.recommend(*answers)
    path, evidence = recommendation.path, recommendation.evidence
    assert [recommendation.preferred, *recommendation.feasible] == EXPECTED[key]
    assert "".join("ny"[answer] for _, answer in path) == key.rstrip("-")
    assert [question for question, _ in path] == list(guide.QUESTIONS)[: len(path)]
    assert recommendation.reason.endswith(".") and evidence and all(name.startswith("fig") for name in evidence)
    needed = [None if k == "-" else answer for k, answer in zip(key, answers, strict=True)]
    assert guide.recommend(*needed) == recommendation  # the questions that are not reached need no answer
    assert guide.recommend(*np.array(answers)) == recommendation


@pytest.mark.parametrize("answers", ANSWERS)
def test_a_missing_answer_is_named(answers):
    key = key_of(answers)
    for i, question in enumerate(guide.QUESTIONS):
        if key[i] != "-":
            given = dict(zip(guide.QUESTIONS, answers, strict=True)) | {question: None}
            with pytest.raises(ValueError, match=f"needs {question}, True or False") as info:
                guide.recommend(**given)
            assert guide.QUESTIONS[question] in str(info.value) and "\n" not in str(info.value)


def test_an_answer_is_a_truth_value():
    for wrong in ("yes", "no", 2, 0.5):
        with pytest.raises(ValueError, match="evaluated_outside_teacher_states"):
            guide.recommend(wrong)


def test_every_recommended_method_exists():
    for answers in ANSWERS:
        for name, method in guide.recommend(*answers).methods.items():
            evaluated = eval(guide.how_to_get(name), {"jd": jaxdistill})
            assert isinstance(method, jaxdistill.Method) and method.name == evaluated.name == name
            for field in ("loss", "control", "next_reward"):
                assert getattr(evaluated, field) == getattr(method, field)
            if name.endswith("_r"):
                assert method.has_return and method.loss is jaxdistill.METHODS[name.removesuffix("_r")].loss
    assert guide.how_to_get("jsd") == 'jd.ZOO["jsd"]'
    for wrong in ("clone", "clone_r"):
        with pytest.raises(ValueError, match="on_policy_distill"):
            guide.how_to_get(wrong)


# --- the chart and the command ----------------------------------------------------------------------------


def test_the_chart_shows_the_whole_guide_and_nothing_overlaps():
    figure = fig1.plot()
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == 8 + len(EXPECTED)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    page = figure.bbox
    texts = {text: text.get_window_extent() for text in ax.texts if text.get_text()}
    for text, box in texts.items():
        overlapping = [patch for patch in boxes if patch.overlaps(box)]
        if text.get_gid() == "in box":
            (frame,) = overlapping
            assert frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
        else:
            assert not overlapping, text.get_text()
        assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts.values(), 2))


def test_the_leaves_of_the_chart_are_the_lines_of_the_table():
    questions, leaves = fig1.boxes()
    paths = {"".join("ny"[answer] for answer in box.path).ljust(5, "-") for box in leaves}
    assert paths == set(EXPECTED)
    assert {box.path for box in questions} == {box.path[:i] for box in leaves for i in range(len(box.path))}
    shown = [text.get_text() for text in fig1.plot().axes[0].texts]
    for methods in EXPECTED.values():
        assert {fig1.label(name) for name in methods} <= set(shown)
    assert fig1.label("n_distill_r") == "N-distill + R"
    assert fig1.label("on_policy_distill_r") == plotting.STYLES["on_policy_distill_r"].label


def test_without_answers_the_chart_is_drawn_and_redrawn_from_saved_results(tmp_path, monkeypatch):
    settings = fig1.Settings(out=str(tmp_path))
    fig1.work(settings)
    with np.load(tmp_path / "guide.npz") as table:
        for answers, preferred, feasible in zip(table["answers"], table["preferred"], table["feasible"], strict=True):
            assert [preferred, *feasible.split()] == EXPECTED[key_of(answers)]
        assert table["asked"].sum(axis=1).min() == 1 and table["asked"].all(axis=1).any()
    monkeypatch.setattr(fig1, "run", lambda: pytest.fail("ran again"))
    (tmp_path / "fig1.png").unlink()
    fig1.work(settings)
    assert (tmp_path / "fig1.png").stat().st_size > 20_000


def test_answers_on_the_command_line_print_the_recommendation(tmp_path, capsys):
    line = ["fig1", f"--out={tmp_path}/new"]
    answers = ["--evaluated_outside_teacher_states=yes", "--convergence_guarantees=no", "--improvement_over_speed=yes"]
    settings = common.parse(fig1.Settings, "fig1", fig1.SMOKE, [*line, *answers, "--strong_teacher=yes"])
    fig1.work(settings)
    printed = capsys.readouterr().out
    assert "Preferred: Exp. entropy regularised + R\n" in printed
    assert "Feasible:  On-policy distill + R, N-distill + R\n" in printed
    assert 'jd.plus_reward(jd.METHODS["exp_entropy_regularised"])' in printed
    assert "fig5" in printed and "Is the teacher strong? Yes." in printed
    with pytest.raises(ValueError, match="strong_teacher"):
        fig1.work(common.parse(fig1.Settings, "fig1", fig1.SMOKE, [*line, *answers]))
    with pytest.raises(ValueError, match="--strong_teacher must be yes or no; got 'maybe'"):
        fig1.work(common.parse(fig1.Settings, "fig1", fig1.SMOKE, [*line, "--strong_teacher=maybe"]))
    assert not list(tmp_path.iterdir())
