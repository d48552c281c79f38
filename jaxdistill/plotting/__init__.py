"""Figures. This is the only package that imports matplotlib, and `jaxdistill` imports it only when a figure is drawn.

`curves` draws learning curves, `grids` grid worlds, `weights` the rows of students with features, `intervals`
comparisons, `profiles` performance profiles, and `sweeps` sweeps. `figures` makes and saves figures that do not depend
on the user's settings, `styles` defines the look of every method, and `labels` makes texts that matplotlib can draw.
"""

from matplotlib import patches

from jaxdistill.plotting.curves import label_axes, plot_curves, plot_result, reference_line
from jaxdistill.plotting.figures import add_legend, new_figure, save_figure, style
from jaxdistill.plotting.grids import draw_grid
from jaxdistill.plotting.intervals import plot_intervals
from jaxdistill.plotting.profiles import plot_profiles
from jaxdistill.plotting.styles import (
    LEAST_CONTRAST,
    PALETTE,
    STYLES,
    contrast,
    method_style,
    palette_indices,
    shades,
)
from jaxdistill.plotting.weights import draw_feature, draw_weights

__all__ = [
    "LEAST_CONTRAST",
    "PALETTE",
    "STYLES",
    "add_legend",
    "contrast",
    "draw_feature",
    "draw_grid",
    "draw_weights",
    "label_axes",
    "method_style",
    "new_figure",
    "palette_indices",
    "patches",
    "plot_curves",
    "plot_intervals",
    "plot_profiles",
    "plot_result",
    "reference_line",
    "save_figure",
    "shades",
    "style",
]
