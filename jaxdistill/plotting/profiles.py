"""Figure of performance profiles: for each method, the share of worlds in which it reaches each level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxdistill.plotting.figures import add_legend, new_figure, style
from jaxdistill.plotting.labels import typeset
from jaxdistill.plotting.styles import method_style, palette_indices
from jaxdistill.statistics import performance_profile

_NUM_LEVELS = 201


def plot_profiles(result: Any, checkpoint: int | str = "final", labels: Sequence[str] | None = None) -> Figure:
    """Draws the performance profile of each method, with 95 % bands that hold at each level by itself.

    Args:
      result: a `Result`.
      checkpoint: as in `Result.summary`.
      labels: methods to draw, in this order; by default all.

    Returns:
      The figure; save it with `save_figure`. ValueError for an unknown label or checkpoint.
    """
    scores = result.normalised_scores(checkpoint)
    is_scored = result.optimal_returns - result.uniform_returns > 0
    rows = {name: result.method_index(name) for name in (result.labels if labels is None else labels)}
    indices = palette_indices(result.labels)
    least = np.nanmin(np.where(np.isfinite(scores), scores, np.nan), initial=0.0)
    levels = np.linspace(max(least, -1.0), 1.02, _NUM_LEVELS)
    figure, axes = new_figure(size=(5.2, 4.2))
    ax = axes[0, 0]
    with style():
        for name, p in rows.items():
            entry = method_style(name, indices[p])
            share = performance_profile(scores[p][is_scored], levels)
            ax.plot(
                levels,
                share.estimate,
                color=entry.color,
                linestyle=entry.linestyle,
                label=typeset(entry.label),
            )
            ax.fill_between(levels, share.low, share.high, color=entry.color, alpha=0.15, linewidth=0)
        ax.axvline(0, color="#717581", linestyle=":", linewidth=1.4)
        ax.axvline(1, color="#3f90da", linestyle=":", linewidth=1.4)
        ax.set_xlabel("Score of a world: 0 uniform policy, 1 optimal policy")
        ax.set_ylabel("Share of worlds above this score")
        ax.set_ylim(-0.02, 1.02)
    add_legend(figure)
    return figure
