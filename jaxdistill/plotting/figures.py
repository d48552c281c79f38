"""Makes, draws and saves figures, so that they look the same on every machine.

Matplotlib reads the user's settings (matplotlibrc, style sheets, `rcParams`) when a figure is made, when something is
drawn into it, and again when it is saved. `style` replaces all of these settings by matplotlib's defaults and the look
of this package, and a `StyledFigure` applies it whenever the figure is drawn or saved. Such a figure is not registered
with pyplot: it needs neither a window nor a backend, and it is freed with its last reference.

For another look, such as a dark one, users make the axes themselves. The functions of this package then draw with the
users' settings, and change only colours that would be invisible on the background.
"""

import functools
import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.style
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdistill.plotting.labels import font_families
from jaxdistill.plotting.styles import PALETTE
from jaxdistill.runtime.files import write_atomically

_LARGEST_LEGEND = 1 / 3  # of the height of a figure
Draw = TypeVar("Draw", bound=Callable[..., Any])

_RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.5,
    "lines.markeredgewidth": 0,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # embeds TrueType fonts: the text is searchable, and publishers accept it
    "savefig.dpi": 200,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def style() -> AbstractContextManager[None]:
    """Context manager in which figures get the look of this package; at its end the user's settings are restored.

    It starts from matplotlib's defaults, so the user's settings have no effect on the figure.
    """
    return matplotlib.style.context(["default", _RC | {"font.family": list(font_families())}])


def style_of(figure: Figure) -> AbstractContextManager[None]:
    """`style` for a figure of this package; for a figure that the user has made, a context that changes nothing."""
    return style() if isinstance(figure, StyledFigure) else nullcontext()


def in_style_of_axes(draw: Draw) -> Draw:
    """A decorator that runs a function, whose first argument is the axes to draw in, in `style_of` their figure."""

    @functools.wraps(draw)
    def styled(ax: Axes, *args: Any, **kwargs: Any) -> Any:
        with style_of(root_figure(ax)):
            return draw(ax, *args, **kwargs)

    return styled  # type: ignore[return-value]


class _StyledCanvas(FigureCanvasAgg):
    """The canvas of a `StyledFigure`; notebooks save figures through the canvas."""

    def print_figure(self, *args: Any, **kwargs: Any) -> Any:
        with style():
            return super().print_figure(*args, **kwargs)


class StyledFigure(Figure):
    """A matplotlib Figure that is drawn and saved in this package's style, whatever the user's settings are.

    It is not one of pyplot's figures: a notebook shows it, `savefig` writes it, and it need not be closed.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        with style():
            super().__init__(*args, **kwargs)
        _StyledCanvas(self)  # attaches itself to the figure

    def draw(self, renderer: Any) -> None:
        with style():
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        with style():
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        """The picture for a notebook, also for one in which pyplot has not been imported."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi, bbox_inches="tight")
        return buffer.getvalue()


def new_figure(
    num_rows: int = 1, num_cols: int = 1, size: tuple[float, float] | None = None, share_y: Any = "row"
) -> tuple[Figure, Any]:
    """Figure and axes [num_rows, num_cols] in this package's style.

    Args:
      num_rows: rows of panels.
      num_cols: columns of panels.
      size: width and height in inches; by default 3.2 x 2.3 per panel, with room for a legend.
      share_y: the panels that share a y axis: those of a "row", of a "col", all (True) or none (False).
    """
    figure = StyledFigure(figsize=size or (max(3.2 * num_cols, 4.6), 2.3 * num_rows + 1.0))
    with style():
        return figure, figure.subplots(num_rows, num_cols, sharey=share_y, squeeze=False)


def root_figure(ax: Axes) -> Figure:
    """The figure that contains `ax`, also if `ax` lies in a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    return figure


def add_legend(figure: Figure, num_cols: int | None = None) -> None:
    """Adds a legend below the panels: every label of the panels once, in order of appearance.

    Lines with the same label and different looks have one entry each. A figure of this package becomes higher if the
    legend would leave too little room for the panels.

    Args:
      figure: the figure.
      num_cols: columns of the legend; fewer if they are wider than the figure. By default one for each two inches.
    """
    entries: dict[tuple[str, Any], Any] = {}
    for ax in figure.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault((text, _look(handle)), handle)
    if not entries:
        return
    texts, handles = [text for text, _ in entries], list(entries.values())
    with style_of(figure):
        columns = num_cols or max(1, min(len(entries), int(figure.get_figwidth() / 2.0)))
        legend = figure.legend(handles, texts, loc="outside lower center", ncols=columns)
        while columns > 1 and legend.get_window_extent().width > figure.bbox.width:
            legend.remove()
            columns -= 1
            legend = figure.legend(handles, texts, loc="outside lower center", ncols=columns)
        excess = legend.get_window_extent().height / figure.dpi - _LARGEST_LEGEND * figure.get_figheight()
        if isinstance(figure, StyledFigure) and excess > 0:
            figure.set_figheight(figure.get_figheight() + excess)


def _look(handle: Any) -> Any:
    """What distinguishes an entry of a legend from another with the same label."""
    if not isinstance(handle, Line2D):
        return type(handle)
    marker = handle.get_marker()
    return to_hex(handle.get_color()), handle.get_linestyle(), "" if marker in (None, "None", "none", " ") else marker


def save_figure(figure: Figure, path_stem: str | os.PathLike[str]) -> list[Path]:
    """Writes `path_stem`.png (200 dpi) and `path_stem`.pdf; the same figure gives the same bytes.

    Returns:
      The two paths. OSError if one cannot be written; then the old file, if any, is still there.
    """
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()  # the figure is drawn completely before the old file is replaced
        options: dict[str, Any] = {"format": suffix[1:], "dpi": _RC["savefig.dpi"], "metadata": metadata}
        figure.savefig(buffer, bbox_inches="tight", pad_inches=0.05, **options)
        path = f"{os.fspath(path_stem)}{suffix}"
        paths.append(write_atomically(path, lambda file, data=buffer: file.write(data.getvalue())))  # type: ignore[misc]
    return paths
