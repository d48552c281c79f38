"""Names and titles in figures: names are written letter by letter, and no text stops a figure from being drawn."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from jaxdistill import plotting
from jaxdistill.plotting import labels as texts
from jaxdistill.plotting.figures import StyledFigure
from jaxdistill.results.comparison import compare
from tests.plotting.test_plotting import assert_nothing_is_cut_off, legend_texts, make_result, make_world

PLAIN = [
    "_hidden", "__", "_nolegend_", "_child0", "$", "$$", "$5 or $6", r"$\frac{", r"$\alpha$", r"\$x\$", r"\$", "100%",
    "a_b^c", "{x}", "#1 & ~ \\", r"\frac", "run.npz", "résumé", "Größe", "\N{GRINNING FACE}", "π → θ", "  two  blanks",
    "None", "nan", "_$x$", "Teacher", "Baseline",
]  # fmt: skip
CHANGED = {  # a name, and what is written
    "": "(no name)",
    "  ": "(no name)",
    "中文": r"\u4e2d\u6587",
    "tab\tbed": r"tab\tbed",
    "null\0": r"null\x00",
    "\ud800": r"\ud800",
    "\U0001faa9": r"\U0001faa9",
    "two\nlines": "two\nlines",
    "a" * 5000: "a" * 30 + "\n…" + "a" * 29,
    "one name of several words that is long": "one name of several words that\nis long",
}
NAMES = [*PLAIN, *CHANGED]


@pytest.fixture(autouse=True)
def fonts_of_every_machine(monkeypatch):
    """A machine may have fonts for more letters than DejaVu Sans, which comes with matplotlib."""
    monkeypatch.setattr(texts, "_OTHER_FONTS", ())
    texts.font_families.cache_clear()
    yield
    texts.font_families.cache_clear()


def shown(text):
    """What a reader sees of a text."""
    return text.replace("\u200b", "").replace(r"\$", "$")


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_is_written_letter_by_letter(name):
    """The picture is that of matplotlib for the name without any formulas."""
    pictures = []
    for text, options in ((texts.literal(name), {}), (name, {"parse_math": False})):
        figure = StyledFigure(figsize=(3, 0.5))
        with plotting.style():
            figure.text(0.1, 0.3, text, **options)
        pictures.append(pixels(figure))
    np.testing.assert_array_equal(*pictures)
    assert (pictures[0] < 255).any()


@pytest.mark.parametrize("name", list(CHANGED))
def test_what_cannot_be_written_so_is_said_in_other_letters(name):
    assert texts.literal(name) == CHANGED[name]


def test_every_name_is_in_every_legend():
    """In ours and in that of the user, in the rows of a comparison, and as a name of a mapping."""
    result = make_result(tuple(NAMES), num_mdps=2, num_checkpoints=3)
    expected = [CHANGED.get(name, name) for name in NAMES]
    figure = result.plot(references=[])
    assert [shown(text) for text in legend_texts(figure)] == expected
    assert_nothing_is_cut_off(figure)
    _, ax = plt.subplots()
    result.plot(ax, references=[])
    assert [shown(text.get_text()) for text in ax.legend().get_texts()] == expected
    ax.figure.canvas.draw()
    alone = make_result(("baseline",), num_mdps=2, num_checkpoints=3)
    for comparison in (compare(result, NAMES[3]), compare(dict.fromkeys(NAMES[-3:], alone))):
        figure = comparison.plot()
        rows = [CHANGED.get(row.label, row.label) for row in comparison.rows]
        assert [shown(text.get_text()) for text in figure.axes[0].get_yticklabels()] == rows
        baseline = CHANGED.get(comparison.baseline, comparison.baseline)
        assert shown(figure.axes[2].get_xlabel()).replace(" \n", " ") == f"Return minus {baseline}"
        assert_nothing_is_cut_off(figure)


def test_the_teacher_of_every_name():
    returns = np.repeat(np.arange(float(len(NAMES)))[:, None], 2, axis=1)
    figure = make_result(tuple(NAMES), 2, 3, teacher_returns=returns).plot(references=["teacher"])
    written = [shown(text) for text in legend_texts(figure)]
    assert written == [prefix + CHANGED.get(name, name) for prefix in ("", "Teacher of ") for name in NAMES]


def test_names_that_look_like_others_keep_their_entries():
    """A method may be called as a reference is, and long names may differ only where they are cut."""
    long = ["x" * 40 + letter + "y" * 40 for letter in "ab"]
    figure = make_result(("baseline", "Baseline", "Teacher", *long), num_checkpoints=3).plot(references=["teacher"])
    written = legend_texts(figure)
    assert written[:3] == ["Baseline", "Baseline", "Teacher"] and written[-1] == "Teacher" and len(written) == 6
    figure, axes = plotting.new_figure(1, 2)
    for ax in axes[0]:
        make_result(("a", "Teacher")).plot(ax, references=["teacher"])
    plotting.add_legend(figure)
    assert legend_texts(figure) == ["a", "Teacher", "Teacher"]  # the same look in both panels is one entry


def test_wide_names_get_fewer_columns():
    figure = make_result(("W" * 30, "M" * 60), num_checkpoints=3).plot()
    assert_nothing_is_cut_off(figure)
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width


TITLES = {  # a title, and what is written
    r"$\pi_\theta$ and $\gamma = 0.9$": r"$\pi_\theta$ and $\gamma = 0.9$",
    r"$\frac{": r"$\frac{",  # one dollar sign makes no formula
    r"$\frac{$": r"\$\frac{\$",
    "$x^a^b$\n$y$": "\\$x^a^b\\$\n$y$",
    r"100 % of $\unknown$": r"100 % of \$\unknown\$",
    "中 $x$": "中 $x$",
    "中": r"\u4e2d",
    "_hidden": "\u200b_hidden",
    "_nolegend_": "_nolegend_",
    "": "",
}


@pytest.mark.parametrize("title", list(TITLES))
def test_titles_and_labels_may_hold_formulas(title):
    with plotting.style():
        assert texts.typeset(title) == TITLES[title]


def test_every_function_takes_every_title():
    titles = [title for title in TITLES if "中 $" not in title]  # matplotlib warns of this letter in a formula
    figure, axes = plotting.new_figure(1, 2)
    for title in titles:
        line = plotting.plot_curves(axes[0, 0], [1, 2], [3, 4], label=title)
        assert line.get_label() == TITLES[title] or not title
        line = plotting.reference_line(axes[0, 0], 3, "teacher", label=title)
        assert line.get_label() == (TITLES[title] or "Teacher")
    broken = "\n".join(titles)
    make_result(num_checkpoints=3).plot(axes[0, 0], title=broken)
    plotting.draw_grid(make_world(), axes[0, 1], title=broken)
    plotting.add_legend(figure)
    figure.canvas.draw()
    written = "\n".join(TITLES[title].replace("\u200b", "") for title in titles)  # a later line is in no legend
    assert [ax.get_title() for ax in figure.axes] == [written] * 2


@settings(max_examples=40)
@given(st.text(max_size=80), st.text("$\\{}^_ab ", max_size=12))
@example("", "$a_{b$")
def test_no_text_stops_a_figure(name, formula):
    figure = StyledFigure(figsize=(3, 1))
    with plotting.style():
        written = [texts.literal(name), texts.literal(formula), texts.typeset(name), texts.typeset(formula)]
        for text in written:
            figure.text(0.1, 0.5, text)
    figure.canvas.draw()
    assert not any(text.startswith("_") for text in written if text != "_nolegend_")
    assert max(map(len, texts.literal(name).replace(r"\$", "$").split("\n"))) <= 30 + 1


def test_the_fonts_of_the_user_are_asked_in_his_axes():
    """And those of this package in its own figures; a family that is not installed counts for nothing."""
    with matplotlib.rc_context({"font.family": ["Nowhere", "DejaVu Sans Mono"]}):
        assert texts.literal("\N{GRINNING FACE}") == r"\U0001f600"
        with plotting.style():
            assert texts.literal("\N{GRINNING FACE}") == "\N{GRINNING FACE}"
    with matplotlib.rc_context({"font.family": ["Nowhere"]}):
        assert texts.literal("é") == "é"


def test_a_font_for_other_writing_is_used_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(texts, "_OTHER_FONTS", ("Nowhere", "DejaVu Serif"))
    assert texts.font_families() == ("DejaVu Sans", "DejaVu Serif")


def test_a_method_without_a_name_has_no_entry():
    _, axes = plotting.new_figure()
    plotting.plot_curves(axes[0, 0], [1, 2], [3, 4])
    assert axes[0, 0].get_legend_handles_labels() == ([], [])
