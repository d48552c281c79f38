"""Figures. This is the only package that imports matplotlib, and `jaxdistill` imports it only when a figure is drawn.

`curves` draws learning curves, `grids` grid worlds, and `intervals` comparisons; `styles` gives them one look.
"""

from matplotlib import patches
from matplotlib import pyplot as plt

from jaxdistill.plotting.curves import label_axes, plot_curves, plot_result, reference_line
from jaxdistill.plotting.grids import draw_grid
from jaxdistill.plotting.intervals import plot_intervals
from jaxdistill.plotting.styles import (
    PALETTE,
    STYLES,
    add_legend,
    method_style,
    new_figure,
    palette_indices,
    save_figure,
    style,
)

__all__ = [
    "PALETTE",
    "STYLES",
    "add_legend",
    "draw_grid",
    "label_axes",
    "method_style",
    "new_figure",
    "palette_indices",
    "patches",
    "plot_curves",
    "plot_intervals",
    "plot_result",
    "plt",
    "reference_line",
    "save_figure",
    "style",
]
