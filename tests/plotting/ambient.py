"""Settings that a user may have, and pictures under them. No test is in this file."""

import contextlib
import io
import locale

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.image import imread

SETTINGS = {
    "dark": ["dark_background"],
    "darkgrid": ["seaborn-v0_8-darkgrid", "seaborn-v0_8-poster"],
    "fivethirtyeight": ["fivethirtyeight"],
    "latex": [{"text.usetex": True, "font.family": "serif", "text.latex.preamble": r"\usepackage{missing}"}],
    "huge": [{"font.size": 60, "axes.titlesize": 70, "xtick.labelsize": 40, "lines.linewidth": 9}],
    "cycle": [{"axes.prop_cycle": matplotlib.cycler(color=["w", "y"]), "lines.marker": "x", "axes.grid": False}],
    "layout": [{"figure.autolayout": True, "figure.figsize": (2, 2), "figure.dpi": 30, "figure.facecolor": "none"}],
    "axes": [{"axes.xmargin": 0.4, "axes.ymargin": 0.4, "xtick.bottom": False, "axes.spines.left": False,
              "ytick.right": True, "xtick.minor.visible": True, "xtick.direction": "in", "axes.autolimit_mode":
              "round_numbers"}],
    "saving": [{"savefig.dpi": 37, "savefig.bbox": "tight", "savefig.pad_inches": 3, "savefig.transparent": True,
                "savefig.facecolor": "red", "savefig.format": "svg", "savefig.orientation": "landscape"}],
    "numbers": [{"axes.formatter.use_locale": True, "axes.unicode_minus": False, "axes.formatter.limits": (0, 0),
                 "axes.formatter.use_mathtext": True}],
    "fonts": [{"svg.fonttype": "none", "pdf.fonttype": 3, "font.sans-serif": ["DejaVu Serif"], "mathtext.fontset":
               "stix", "text.hinting": "none", "text.antialiased": False, "path.sketch": (1, 100, 2)}],
    "images": [{"image.cmap": "hot", "image.origin": "lower", "pcolor.shading": "nearest", "patch.linewidth": 5,
                "patch.force_edgecolor": True, "hatch.color": "red", "errorbar.capsize": 9, "path.simplify": False}],
}  # fmt: skip
SETTINGS["all"] = [part for name, parts in SETTINGS.items() if name != "latex" for part in parts]


@contextlib.contextmanager
def settings(name, monkeypatch):
    """The settings of that name, in a locale with decimal commas."""
    comma = {"decimal_point": ",", "thousands_sep": ".", "grouping": [3, 0]}
    with monkeypatch.context() as patch, style.context(SETTINGS[name]):
        patch.setattr(locale, "_override_localeconv", comma)
        yield


def saved(figure):
    """The pixels that `savefig` writes when it is not told how."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def assert_same_pictures(draw, names, monkeypatch):
    """The figure that `draw` returns has the same pixels when it is drawn and saved under the settings of `names`."""
    expected = saved(draw())
    for name in names:
        with settings(name, monkeypatch):
            picture = saved(draw())
        assert picture.shape == expected.shape, name
        np.testing.assert_array_equal(picture, expected, name)


def assert_drawn_again(path, work, monkeypatch):
    """`work`, which has written the picture `path` before, writes the same bytes under all of the settings."""
    before = path.read_bytes()
    path.unlink()
    with settings("all", monkeypatch):
        work()
    assert path.read_bytes() == before
