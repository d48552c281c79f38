"""The look of all figures: colours, line styles, markers, legends, and how figures are made and saved.

A method has the same colour, line style and marker in every figure. The colours are those of the petroff10 palette,
which colour-blind readers can tell apart, and black. Line styles and markers distinguish the methods in print without
colour. Dotted lines are reserved for references: teacher, uniform policy and optimal policy.
"""

import io
import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdistill.runtime.files import write_atomically

PALETTE: tuple[str, ...] = tuple(matplotlib.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"])
_DASHED, _DASH_DOT = (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5))


class MethodStyle(NamedTuple):
    """The look of a method in figures: colour, matplotlib line style, text of the legend, marker."""

    color: str
    linestyle: Any
    label: str
    marker: str


STYLES: dict[str, MethodStyle] = {
    "baseline": MethodStyle("black", "-", "Baseline", "o"),
    "teacher_distill": MethodStyle("#94a4a2", _DASH_DOT, "Teacher distill", "*"),
    "on_policy_distill": MethodStyle("#3f90da", "-", "On-policy distill", "s"),
    "on_policy_distill_r": MethodStyle("#832db6", _DASHED, "On-policy distill + R", "D"),
    "on_policy_distill_r_vcond": MethodStyle("#ffa90e", _DASH_DOT, "On-policy distill + R + V cond", "P"),
    "entropy_regularised": MethodStyle("#bd1f01", "-", "Entropy regularised", "^"),
    "n_distill": MethodStyle("#92dadd", "-", "N-distill", "h"),
    "exp_entropy_regularised": MethodStyle("#e76300", _DASHED, "Exp. entropy regularised", "p"),
    "exp_entropy_without_returns": MethodStyle("#ffa90e", "-", "Exp. entropy reg., no returns", "d"),
    "kl_regularised": MethodStyle("#b9ac70", _DASHED, "KL regularised", "v"),
    "teacher_v_reward": MethodStyle("#a96b59", "-", "Teacher V reward", "X"),
    "td_v0": MethodStyle("#94a4a2", "-", r"TD + $V_0$", "<"),
    "td_vpi": MethodStyle("#717581", _DASHED, r"TD + $V_\pi$", ">"),
}

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
    """Context manager in which figures get the look of this package; at its end the user's settings are restored."""
    return matplotlib.rc_context(_RC)


def method_style(label: str, index: int = 0) -> MethodStyle:
    """Style of the method `label`; a method that is not in `STYLES` takes its style from the palette, at `index`."""
    if label in STYLES:
        return STYLES[label]
    lines, markers = ("-", _DASHED, _DASH_DOT), [known_style.marker for known_style in STYLES.values()]
    return MethodStyle(PALETTE[index % len(PALETTE)], lines[index % 3], label, markers[index % len(markers)])


def palette_indices(labels: Sequence[str]) -> list[int]:
    """The `index` for `method_style` of each method of a figure.

    Methods that are not in `STYLES` get the colours that the others leave free. Once these are used up, they are
    repeated with other line styles and markers.
    """
    known_colors = {STYLES[label].color for label in labels if label in STYLES}
    free = [i for i, color in enumerate(PALETTE) if color not in known_colors] or list(range(len(PALETTE)))
    unknown_methods = itertools.count()
    indices = []
    for label in labels:
        lap, place = (0, 0) if label in STYLES else divmod(next(unknown_methods), len(free))
        indices.append(lap * len(PALETTE) + free[place])
    return indices


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
    width, height = size or (max(3.2 * num_cols, 4.6), 2.3 * num_rows + 1.0)
    with style():
        figure, axes = plt.subplots(num_rows, num_cols, sharey=share_y, figsize=(width, height), squeeze=False)
    detach_from_notebook(figure)
    return figure, axes


def detach_from_notebook(figure: Figure) -> None:
    """Closes the pyplot window of `figure` in a notebook, which would otherwise show the returned figure twice."""
    if "inline" in matplotlib.get_backend():
        plt.close(figure)


def root_figure(ax: Axes) -> Figure:
    """The figure that contains `ax`, also if `ax` lies in a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    return figure


def add_legend(figure: Figure, num_cols: int | None = None) -> None:
    """Adds a legend below the panels: every label of the panels once, in order of appearance."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if entries:
        with style():
            columns = num_cols or max(1, min(len(entries), int(figure.get_figwidth() / 2.0)))
            figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def save_figure(figure: Figure, path_stem: str | os.PathLike[str]) -> list[Path]:
    """Writes `path_stem`.png (200 dpi) and `path_stem`.pdf; the same figure gives the same bytes.

    Returns:
      The two paths. OSError if one cannot be written; then the old file, if any, is still there.
    """
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()  # the figure is drawn completely before the old file is replaced
        with style():
            figure.savefig(buffer, format=suffix[1:], metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        path = f"{os.fspath(path_stem)}{suffix}"
        paths.append(write_atomically(path, lambda file, data=buffer: file.write(data.getvalue())))  # type: ignore[misc]
    return paths
