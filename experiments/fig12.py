"""Figure 12: a mixture of four Gaussians fitted by one to four Gaussians, by KL in either direction.

Columns: the number of Gaussians in the fit. Above, KL(p||q) is minimised: mean seeking, the fit covers everything and
puts its Gaussians between the peaks. Below, KL(q||p): mode seeking, the fit covers as many peaks as it has Gaussians
and ignores the others. Grey: the mixture p. Triangles: means of the fit, whose Gaussians have equal weights and the
scale of the mixture's (--free=means,scales,weights fits all parameters). The best of many random starts is drawn, with
its KL by quadrature and the number of starts that reach it.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy import stats

from experiments import common, gaussian_mixtures
from jaxdistill import plotting
from jaxdistill.runtime import streams

DIVERGENCES = {"forward": r"$KL(p\Vert q)$", "reverse": r"$KL(q\Vert p)$"}
_ROWS = {"forward": "mean seeking", "reverse": "mode seeking"}


@dataclasses.dataclass
class Target:
    """The mixture to be fitted. The paper gives no numbers; with these there are the minima that its Fig. 13 has."""

    means: list[str] = common.option(["-1.5", "-0.5", "0.5", "1.5"], "means of the mixture's components")
    scale: float = common.option(0.1, "standard deviation of every component")
    weights: list[str] = common.option(["1", "1", "1", "1"], "weights of the components, normalised to sum to 1")

    def mixture(self) -> gaussian_mixtures.Mixture:
        """The mixture; raises ValueError for an impossible number."""
        return gaussian_mixtures.mixture(_numbers("means", self.means), self.scale, _numbers("weights", self.weights))


def _numbers(flag: str, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"--{flag} must be numbers separated by commas; got {','.join(words)!r}.") from None


@dataclasses.dataclass
class Descent:
    """The descent that finds the fits."""

    num_restarts: int = common.option(64, "random starts of every fit")
    num_steps: int = common.option(500, "steps of gradient descent (Adam) from each start")
    learning_rate: float = common.option(0.1, "first step size, in means, log scales and logits; it decays to 0")
    seed: int = common.option(0, "seed of the starts")

    def check_descent(self) -> None:
        """Raises ValueError for an impossible number."""
        if min(self.num_restarts, self.num_steps) < 1 or not 0 < self.learning_rate < np.inf:
            raise ValueError(
                "--num_restarts and --num_steps must be at least 1 and --learning_rate positive; got "
                f"{self.num_restarts}, {self.num_steps} and {self.learning_rate}."
            )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `gaussian_mixtures.fit`."""
        return {name: getattr(self, name) for name in ("num_restarts", "num_steps", "learning_rate")}


@dataclasses.dataclass
class Settings(common.Output, Descent, Target):
    """The flags of this figure."""

    max_components: int = common.option(4, "largest number of Gaussians in a fit")
    free: list[str] = common.option(
        ["means"],
        "parameters to fit, of means, scales and weights; scales not fitted are the mixture's, weights are equal",
    )


SMOKE = {"num_restarts": 16, "num_steps": 200}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    settings.mixture()
    settings.check_descent()
    common.known("parameter", settings.free, gaussian_mixtures.PARAMETERS)
    if not 1 <= settings.max_components <= 8:
        raise ValueError(f"--max_components must be 1 to 8; got {settings.max_components}.")


def run(settings: Settings, direction: str) -> dict[str, np.ndarray]:
    """The best fits of 1 to C Gaussians, and the KL from every start.

    Returns:
      means, scales and weights [C, C], nan beyond the Gaussians of a fit; kl [C] of the best and kls [C, R] of all
      starts, nats; reached [C], how many of the starts came within 0.001 nats of the best.
    """
    size, target = settings.max_components, settings.mixture()
    data: dict[str, np.ndarray] = {name: np.full((size, size), np.nan) for name in gaussian_mixtures.PARAMETERS}
    data |= {"kl": np.empty(size), "kls": np.empty((size, settings.num_restarts)), "reached": np.empty(size, int)}
    keys = streams.split(streams.from_seed(settings.seed), size)
    scale = None if "scales" in settings.free else settings.scale
    for i in range(size):
        fits = gaussian_mixtures.fit(
            keys[i], target, i + 1, direction, free=tuple(settings.free), scale=scale, **settings.arguments()
        )
        for name in gaussian_mixtures.PARAMETERS:
            data[name][i, : i + 1] = getattr(fits.best, name)
        data["kl"][i], data["kls"][i], data["reached"][i] = fits.kl, fits.kls, fits.num_reached()
    return data


def report(data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: every fit, its KL, the number of starts that reach it, and the spread over starts."""
    lines = ["| minimised | Gaussians | KL, nats | starts that reach it | KL of the median, the worst start | means |"]
    lines.append("|---|--:|--:|--:|--:|---|")
    for direction, fits in data.items():
        for i, (kl, count) in enumerate(zip(fits["kl"], fits["reached"], strict=True)):
            means = ", ".join(f"{mean:.2f}" for mean in np.round(fits["means"][i, : i + 1], 2) + 0.0)
            spread = f"{np.nanmedian(fits['kls'][i]):.3f}, {np.nanmax(fits['kls'][i]):.3f}"
            name = "KL(p\\|\\|q)" if direction == "forward" else "KL(q\\|\\|p)"
            lines.append(
                f"| {name} | {i + 1} | {max(kl, 0.0):.4f} | {count} of {fits['kls'].shape[1]} | {spread} | {means} |"
            )
    return lines


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the arrays of `run`, a row for each direction."""
    target, size = settings.mixture(), settings.max_components
    reach = np.asarray(target.means)
    x = np.linspace(reach.min() - 8 * settings.scale, reach.max() + 8 * settings.scale, 1001)
    figure, axes = plotting.new_figure(2, size, size=(max(2.7 * size, 4.6), 4.6))
    with plotting.style():
        for row, (direction, fits) in enumerate(data.items()):
            color = {"forward": plotting.PALETTE[2], "reverse": plotting.PALETTE[0]}[direction]
            for i in range(size):
                ax = axes[row, i]
                _draw(
                    ax,
                    x,
                    target,
                    {name: fits[name][i, : i + 1] for name in gaussian_mixtures.PARAMETERS},
                    direction,
                    color,
                )
                result = f"KL {max(fits['kl'][i], 0.0):.2f} nats\n{fits['reached'][i]} of {fits['kls'].shape[1]} starts"
                ax.text(0.98, 0.97, result, transform=ax.transAxes, ha="right", va="top", fontsize=8)
                if row == 0:
                    ax.set_title(f"{i + 1} Gaussian{'s' * (i > 0)}")
                else:
                    ax.set_xlabel("x")
            axes[row, 0].set_ylabel(f"{_ROWS[direction].capitalize()}\nDensity")
    plotting.add_legend(figure, num_cols=3)
    return figure


def _draw(ax: Any, x: np.ndarray, target: Any, fit: dict[str, np.ndarray], direction: str, color: str) -> None:
    """Draws one panel: the mixture in grey, the fit as a line, its means as triangles."""
    p = _density(x, target.means, target.scales, target.weights)
    ax.fill_between(x, p, color="0.82", linewidth=0, label="Mixture $p$")
    ax.plot(x, _density(x, **fit), color=color, label=rf"Fit $q$ that minimises {DIVERGENCES[direction]}")
    ax.plot(fit["means"], np.zeros_like(fit["means"]), "^", color=color, markersize=7, clip_on=False, zorder=5)
    ax.set_ylim(bottom=0)
    ax.margins(y=0.3)


def _density(x: np.ndarray, means: Any, scales: Any, weights: Any) -> np.ndarray:
    return stats.norm.pdf(x[:, None], np.asarray(means), np.asarray(scales)) @ np.asarray(weights)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the report and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {name: functools.partial(run, settings, name) for name in gaussian_mixtures.DIRECTIONS}
    data = common.run_parts(settings, outdir, parts)
    print("\n".join(report(data)))
    common.deliver(plot(settings, data), outdir, "fig12")


if __name__ == "__main__":
    common.main(Settings, "fig12", SMOKE, work)
