"""What a figure shows does not depend on the user's settings; in axes of the user, his settings hold."""

import gc
import io
import re
import weakref
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib import style
from matplotlib.colors import to_rgb

from experiments import fig1
from jaxdistill import plotting
from jaxdistill.results.comparison import compare
from tests.plotting import ambient
from tests.plotting.test_plotting import legend_texts, make_result, make_world

ROOT = Path(__file__).resolve().parents[2]


def small_result(**changes):
    return make_result(labels=("baseline", "_mine", "td_v0"), num_mdps=3, num_checkpoints=4, **changes)


def own_panels():
    """Panels in which functions of this package are called one by one, outside of `style`."""
    figure, axes = plotting.new_figure(1, 2, size=(4.6, 2.0))
    plotting.plot_curves(axes[0, 0], np.arange(3), np.arange(6.0).reshape(2, 3), "n_distill")
    plotting.reference_line(axes[0, 0], 1.5, "optimal")
    plotting.label_axes(axes[0, 0])
    small_result().plot(axes[0, 1], quantity="lengths", title=r"Lengths, $\gamma$")
    plotting.add_legend(figure)
    return figure


def grid(**arguments):
    return lambda: plotting.draw_grid(make_world(num_actions=5), title="World", **arguments)


RETURNS = np.arange(36.0).reshape(3, 3, 4)
RETURNS[1, 1, 2] = np.nan
DRAWINGS = {
    "curves": lambda: small_result(returns=RETURNS, teacher_returns=RETURNS[..., 0]).plot(references=REFERENCES),
    "panels": own_panels,
    "intervals": lambda: compare(small_result()).plot(),
    "values": grid(values=np.arange(15) / 7),
    "visits": grid(visits=np.arange(15) / 7, policy=np.full((15, 5), 0.2)),
}
REFERENCES = ["teacher", "uniform", "optimal"]


@pytest.mark.parametrize("name", list(DRAWINGS))
def test_a_figure_is_the_same_under_all_settings(name, monkeypatch):
    ambient.assert_same_pictures(DRAWINGS[name], ["all", "latex"] if name == "panels" else ["all"], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [name for name in ambient.SETTINGS if name != "all"])
def test_a_figure_is_the_same_under_each_setting(settings, monkeypatch):
    for draw in DRAWINGS.values():
        ambient.assert_same_pictures(draw, [settings], monkeypatch)


def test_no_setting_enters_by_another_way(monkeypatch):
    """On the canvas, as a notebook saves, or as PDF; where the settings hold for the making or the writing only."""

    def written(figure):
        figure.canvas.draw()
        png, pdf = io.BytesIO(), io.BytesIO()
        figure.canvas.print_figure(png, format="png", bbox_inches="tight")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
        return np.asarray(figure.canvas.buffer_rgba()).tobytes(), png.getvalue(), pdf.getvalue()

    expected = written(own_panels())
    with ambient.settings("all", monkeypatch):
        figure = own_panels()
    assert written(figure) == expected
    figure = own_panels()
    with ambient.settings("all", monkeypatch):
        assert written(figure) == expected


@pytest.mark.slow
def test_a_chart_of_the_experiments_is_the_same(monkeypatch):
    ambient.assert_same_pictures(fig1.plot, ["all"], monkeypatch)


def test_the_experiments_make_figures_in_one_way():
    """A figure made by other means would take its look from the user's settings."""
    texts = [path.read_text() for path in (ROOT / "experiments").rglob("*.py")]
    assert sum("plotting.new_figure(" in text for text in texts) > 10
    assert not [text for text in texts if re.search(r"matplotlib|pyplot|\bplt\b|Figure\(", text)]


# --- axes of the user -----------------------------------------------------------------------------------------


def luminance(colors):
    """Relative luminance as WCAG 2.1 defines it, of an array [..., 3] of colours."""
    colors = np.asarray(colors, float)
    linear = np.where(colors <= 0.03928, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrasts(colors, background):
    a, b = luminance(colors) + 0.05, luminance(background) + 0.05
    return np.maximum(a, b) / np.minimum(a, b)


def image(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


BACKGROUNDS = {
    "white": "default",
    "dark": "dark_background",
    "ggplot": "ggplot",
    "solarized": "Solarize_Light2",
    "grey": {"axes.facecolor": "0.5"},
    "cyan": {"axes.facecolor": "#92dadd"},
    "through to the figure": {"axes.facecolor": "none", "figure.facecolor": "black"},
}


@pytest.mark.parametrize("name", list(BACKGROUNDS))
def test_every_curve_is_visible_on_the_background_of_the_user(name):
    """Looks at the pixels along each of 24 curves and of two references; the settings hold for the axes only."""
    labels = (*plotting.STYLES, *(f"other {i}" for i in range(11)))
    returns = np.broadcast_to(np.arange(len(labels))[:, None, None], (len(labels), 2, 20)).astype(float)
    teacher, uniform = np.full(returns.shape[:2], -1.0), np.full(2, -2.0)
    curves = dict(returns=returns, lengths=returns, final_returns=teacher, optimal_returns=np.full(2, -3.0))
    result = make_result(labels, 2, 20, teacher_returns=teacher, uniform_returns=uniform, **curves)
    with style.context(BACKGROUNDS[name]):
        figure, ax = plt.subplots(figsize=(5, 5), dpi=80)
        ax.grid(False)
        ax.set(xlim=(500, 30500), ylim=(-4, 24))
        background = image(figure)
        row, column = (round(x) for x in ax.transAxes.transform((0.5, 0.5)))
        background = background[row, column]
    result.plot(ax, references=REFERENCES)
    ax.set(xlim=(500, 30500), ylim=(-4, 24))
    with style.context(BACKGROUNDS[name]):
        picture = image(figure)
    assert len(ax.lines) == 27
    for line in ax.lines:
        assert plotting.contrast(line.get_color(), background) >= plotting.LEAST_CONTRAST, line.get_label()
        left, y = ax.transData.transform((1000, line.get_ydata()[0]))
        right, _ = ax.transData.transform((30000, 0))
        strip = picture[round(len(picture) - y) - 3 : round(len(picture) - y) + 3, round(left) : round(right)]
        assert contrasts(strip, background).max() >= 0.95 * plotting.LEAST_CONTRAST, line.get_label()


def test_a_style_of_the_user_holds_for_his_axes(tmp_path):
    with plt.style.context("dark_background"):
        figure, axes = plt.subplots(1, 2)
    small_result().plot(axes[0], title="Dark")
    plotting.draw_grid(make_world(), axes[1], values=np.arange(15.0))
    with plt.style.context("dark_background"):
        axes[0].legend()
        before = image(figure)
        paths = plotting.save_figure(figure, tmp_path / "dark")
    assert to_rgb(axes[0].get_facecolor()) == (0, 0, 0) and axes[0].title.get_color() == "white"
    assert before[0, 0].max() == 0 and plt.imread(paths[0])[0, 0, :3].max() == 0
    bar = figure.axes[2]
    assert {text.get_color() for text in (*bar.get_yticklabels(), *bar.get_xticklabels())} == {"white"}
    assert axes[1].get_facecolor()[:3] == (1, 1, 1)  # the floor of a world: its walls are black


def test_the_contrast_is_that_of_the_standard():
    assert plotting.contrast("black", "white") == pytest.approx(21) == plotting.contrast("white", "black")
    assert plotting.contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)  # the example of WCAG
    for known in plotting.STYLES.values():
        assert plotting.contrast(known.color, "white") > plotting.LEAST_CONTRAST


# --- windows and notebooks ------------------------------------------------------------------------------------


def test_many_figures_leave_none_open():
    """And none in memory: matplotlib warns of more than 20 open figures, which is an error here."""
    figures = [draw() for draw in (*DRAWINGS.values(), *[grid()] * 22)]
    assert len(figures) > 25 and not plt.get_fignums()
    alive = [weakref.ref(figure) for figure in figures]
    del figures
    gc.collect()
    # The parser of matplotlib keeps what it tried for the last formula, with the functions that called it.
    assert sum(reference() is not None for reference in alive) <= 1


def test_no_window_is_needed(monkeypatch):
    """The backend of pyplot, which may need a screen, is not asked for."""
    monkeypatch.setattr(plt, "switch_backend", lambda *_: pytest.fail("a backend was loaded"))
    monkeypatch.setattr(plt, "new_figure_manager", lambda *_, **__: pytest.fail("a window was made"))
    with matplotlib.rc_context({"interactive": True}):
        for draw in DRAWINGS.values():
            draw()


@pytest.mark.parametrize("inline", [False, True])
def test_a_notebook_shows_a_figure(inline):
    """Both before pyplot is imported there and with the formatter that its inline backend then registers."""
    formatters = pytest.importorskip("IPython.core.formatters")
    formatter = formatters.DisplayFormatter()
    if inline:
        from IPython.core.pylabtools import print_figure
        from matplotlib.figure import Figure

        formatter.formatters["image/png"].for_type(Figure, lambda figure: print_figure(figure, "png", base64=False))
    data, _ = formatter.format(small_result().plot())
    picture = data["image/png"]
    assert picture.startswith(b"\x89PNG") and legend_texts(small_result().plot())
