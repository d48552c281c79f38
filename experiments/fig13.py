"""Figure 13: KL in either direction from two Gaussians to the mixture of four of Fig. 12, over their two means.

Left, KL(p||q), mean seeking: at its minima each mean lies between two peaks. Right, KL(q||p), mode seeking: there is a
minimum for every pair of peaks. Circles: the global minima among the points of the grid (brute force). Crosses: ends of
gradient descent from random starts that are as low as these. The Gaussians have equal weights and the mixture's scale.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments import common, fig12, gaussian_mixtures
from jaxdistill import plotting
from jaxdistill.runtime import streams

SAME = 1e-2  # nats; minima whose KL differs by less count as equally low


@dataclasses.dataclass
class Settings(common.Output, fig12.Descent, fig12.Target):
    """The flags of this figure."""

    grid_size: int = common.option(161, "points of the grid along each mean")
    grid_reach: float = common.option(2.0, "the grid spans the means from minus this to plus this")


SMOKE = {"grid_size": 41, "num_restarts": 16, "num_steps": 200}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    settings.mixture()
    settings.check_descent()
    if not 3 <= settings.grid_size <= 2000 or not 0 < settings.grid_reach < np.inf:
        raise ValueError(
            "--grid_size must be 3 to 2000 and --grid_reach positive; got "
            f"{settings.grid_size} and {settings.grid_reach}."
        )


def run(settings: Settings, direction: str) -> dict[str, np.ndarray]:
    """KL on the grid, and the ends of a descent from random starts.

    Returns:
      grid [G], the means; kl [G, G], nats, first mean by second; fitted [R, 2] and fitted_kl [R], the means and KL at
      the end of each start.
    """
    target = settings.mixture()
    grid = np.linspace(-settings.grid_reach, settings.grid_reach, settings.grid_size)
    table = gaussian_mixtures.landscape(target, grid, grid, settings.scale, direction)
    key = streams.from_seed(settings.seed)
    fits = gaussian_mixtures.fit(
        key, target, 2, direction, free=("means",), scale=settings.scale, **settings.arguments()
    )
    return {
        "grid": grid,
        "kl": np.asarray(table),
        "fitted": np.asarray(fits.all.means),
        "fitted_kl": np.asarray(fits.kls),
    }


def minima(data: dict[str, np.ndarray]) -> np.ndarray:
    """The global minima of the grid, float [N, 2]: local minima within `SAME` nats of the lowest point."""
    low = gaussian_mixtures.local_minima(data["kl"]) & (data["kl"] <= data["kl"].min() + SAME)
    return data["grid"][np.argwhere(low)]


def ends(data: dict[str, np.ndarray]) -> np.ndarray:
    """The ends of the descent that are as low as the lowest point of the grid, [N, 2], in both orders of the means."""
    low = data["fitted"][data["fitted_kl"] <= data["kl"].min() + SAME]
    return np.concatenate([low, low[:, ::-1]])


def report(data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines: the minima of each landscape, and the ends of the descent beside them."""
    lines = []
    for direction, part in data.items():
        grid_minima, low_ends = minima(part), ends(part)
        farthest = distance(low_ends, grid_minima)
        name = gaussian_mixtures.DIRECTIONS[direction]
        pairs = "; ".join(f"({a:.2f}, {b:.2f})" for a, b in grid_minima if a <= b)
        lines.append(
            f"{name}: {len(grid_minima)} minima of {part['kl'].min():.4f} nats on the grid, {pairs} and mirrored"
        )
        lines.append(
            f"{name}: {len(low_ends) // 2} of {len(part['fitted'])} starts reach the grid's minimum, lowest "
            f"{part['fitted_kl'].min():.4f} nats, at most {farthest:.3f} from a minimum of the grid"
        )
    return lines


def distance(points: np.ndarray, others: np.ndarray) -> float:
    """The largest distance of a point [N, 2] from the nearest of `others` [K, 2]; nan without points."""
    nearest = np.linalg.norm(points[:, None] - others[None], axis=-1).min(axis=1, initial=np.inf)
    return float(nearest.max()) if len(points) else float("nan")


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the arrays of `run`, a panel for each direction."""
    figure, axes = plotting.new_figure(1, 2, size=(9.0, 4.4))
    with plotting.style():
        for ax, (direction, part) in zip(axes[0], data.items(), strict=True):
            _draw(ax, part, direction)
        axes[0, 0].set_ylabel("Mean of the second Gaussian")
    plotting.add_legend(figure)
    return figure


def _draw(ax: Any, part: dict[str, np.ndarray], direction: str) -> None:
    """Draws one landscape: filled contours of the KL, the minima of the grid and the ends of the descent."""
    kl, grid = np.maximum(part["kl"], 0), part["grid"]
    # Far from the minima the KL grows quadratically; levels at equal steps of its root show valleys and hills alike.
    levels = np.linspace(np.sqrt(kl.min()), np.sqrt(kl.max()), 15) ** 2
    levels[[0, -1]] = kl.min() - 1e-6, kl.max() + 1e-6
    filled = ax.contourf(grid, grid, kl.T, levels=levels, cmap="viridis", norm="asinh")
    bar = ax.figure.colorbar(filled, ax=ax, label="KL (nats)", format="%.3g", fraction=0.05)
    bar.outline.set_linewidth(0.6)
    x, y = minima(part).T
    ax.plot(x, y, "o", markersize=11, markerfacecolor="white", markeredgecolor="black", markeredgewidth=1,
            label="Minima of the grid")  # fmt: skip
    x, y = ends(part).T
    ax.plot(x, y, "x", markersize=6, markeredgecolor=plotting.PALETTE[1], markeredgewidth=1.6,
            label="Ends of the descent")  # fmt: skip
    name = {"forward": "mean seeking", "reverse": "mode seeking"}[direction]
    ax.set(title=f"{fig12.DIVERGENCES[direction]}, {name}", xlabel="Mean of the first Gaussian", aspect="equal")
    ax.grid(False)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the report and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {name: functools.partial(run, settings, name) for name in gaussian_mixtures.DIRECTIONS}
    data = common.run_parts(settings, outdir, parts)
    print("\n".join(report(data)))
    common.deliver(plot(settings, data), outdir, "fig13")


if __name__ == "__main__":
    common.main(Settings, "fig13", SMOKE, work)
