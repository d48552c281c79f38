"""Figures. The only package that imports matplotlib, so it is imported only by those who draw.

`curves` draws learning curves, `grids` pictures of grid worlds, and `intervals` comparisons.
"""

from jaxdistill.plotting.curves import (
    PALETTE,
    STYLES,
    add_legend,
    draw_grid,
    label_axes,
    method_style,
    new_figure,
    palette_indices,
    patches,
    plot_curves,
    plot_result,
    plt,
    reference_line,
    save_figure,
    style,
)
from jaxdistill.plotting.intervals import plot_intervals

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
