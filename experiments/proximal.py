"""The proximal teacher is a Jensen-Shannon divergence: TOP-D's reward against JSD, for every weight alpha.

The reward log(alpha pi(a) / pi_theta(a) + 1 - alpha) of gamma 0 has exactly the expected update of the on-policy loss
JSD_alpha / (1 - alpha). Random MDPs, teachers and students, in float64. From left to right, against alpha: direction of
the update, its length, and its variance. Rings: the reward; lines: the divergence. Geometric means over MDPs with their
95 % intervals. The variance is small because the update is small: divided by the squared length of the update it
exceeds that of k1 (dotted).
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.estimators import RandomWorlds, length, log_interval, references
from jaxdistill import plotting
from jaxdistill.methods.zoo import ZOO
from jaxdistill.theory.exact_update import expected_update
from jaxdistill.theory.moments import update_moments
from jaxdistill.theory.precision import float64
from jaxdistill.theory.stated_losses import TABLE_1


@dataclasses.dataclass
class Settings(common.Output, RandomWorlds):
    """The flags of this experiment."""

    alphas: list[str] = common.option(
        ["0.01", "0.1", "0.2", "0.3", "0.5", "0.7", "0.9", "0.99"], "weights of the proximal teacher, in (0, 1)"
    )

    def weights(self) -> np.ndarray:
        """The alphas [P]; raises ValueError for an impossible one."""
        try:
            alphas = np.array([float(word) for word in self.alphas])
        except ValueError:
            alphas = np.zeros(1)
        if not alphas.size or not ((alphas > 0) & (alphas < 1)).all():
            raise ValueError(f"--alphas must be numbers between 0 and 1; got {','.join(self.alphas)!r}.")
        return alphas


SMOKE = {"alphas": ["0.1", "0.5"], "num_mdps": 4, "num_states": 3}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    RandomWorlds.check(settings)
    settings.weights()


@jax.jit
def _proximal(alphas: Any, *arrays: Any) -> Any:
    """For every alpha: the update of the proximal teacher [P, M, S, A], its variance [P, M], the update of JSD."""

    def of_alpha(alpha: Any, mdp: Any, teacher: Any, logits: Any) -> Any:
        reward = dataclasses.replace(ZOO["top_d"], params={"alpha": alpha})
        loss = dataclasses.replace(ZOO["jsd"], params={"beta": alpha})
        moments = update_moments(mdp, teacher, reward, logits, **TABLE_1)
        return moments.mean, moments.variance.sum(), expected_update(mdp, teacher, loss, logits, **TABLE_1).logits

    return jax.vmap(jax.vmap(of_alpha, (None, 0, 0, 0)), (0, None, None, None))(alphas, *arrays)


def proximal(settings: Settings) -> dict[str, np.ndarray]:
    """For every alpha: the update of the reward [P, M, S, A], its variance [P, M], the update of the divergence."""
    arrays = settings.sample()
    with float64():
        measured = jax.device_get(_proximal(settings.weights(), *arrays))
    return dict(zip(("reward", "variance", "divergence"), measured, strict=True))


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of the angle between tables, over the last two axes."""
    return np.sum(x * y, axis=(-1, -2)) / (length(x) * length(y))


def over_rest(settings: Settings, fields: np.ndarray) -> np.ndarray:
    """Fields [P, M, S, A] divided by 1 - alpha."""
    return fields / (1 - settings.weights())[:, None, None, None]


def table(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: the largest difference between reward and divergence, and the variance of the reward."""
    reference, measured = data["references"], data["proximal"]
    scaled = over_rest(settings, measured["divergence"])
    difference = length(measured["reward"] - scaled) / length(scaled)
    variance = measured["variance"] / reference["variance"]
    noise = variance / (length(measured["reward"]) / length(reference["reverse"])) ** 2
    lines = [
        f"Proximal teacher against JSD_alpha / (1 - alpha) on {settings.num_mdps} MDPs: largest relative difference "
        f"{difference.max():.0e}. Variance of an update divided by that of k1 as reward: geometric means with 95 % "
        "intervals.",
        "",
        "| alpha | largest relative difference | variance | variance over squared length |",
        "|--:|--:|--:|--:|",
    ]
    for i, alpha in enumerate(settings.weights()):
        shown = [f"{log_interval(x[i]):.2g}" for x in (variance, noise)]
        lines.append(f"| {alpha:g} | {difference[i].max():.0e} | {' | '.join(shown)} |")
    return lines


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws direction, length and variance of the proximal teacher's update against alpha."""
    figure, axes = plotting.new_figure(1, 3, size=(9.6, 3.4))
    alphas, reference, measured = settings.weights(), data["references"], data["proximal"]
    size, jsd = length(reference["reverse"]), measured["divergence"]
    scaled = over_rest(settings, jsd)
    blue, orange, red, grey = plotting.PALETTE[:4]
    variance, power = measured["variance"] / reference["variance"], (length(measured["reward"]) / size) ** 2
    direction, size_panel, noise = axes[0]
    draw = functools.partial(_draw, alphas)
    with plotting.style():
        for name, color, text in (("reverse", blue, r"\pi_\theta\Vert\pi"), ("forward", red, r"\pi\Vert\pi_\theta")):
            draw(direction, 1 - cosine(scaled, reference[name]), color, f"JSD$_\\alpha$ and KL(${text}$)")
            draw(direction, 1 - cosine(measured["reward"], reference[name]))
        draw(size_panel, length(jsd) / size, "black", r"JSD$_\alpha$", "--")
        draw(size_panel, length(scaled) / size, orange, r"JSD$_\alpha/(1-\alpha)$")
        draw(size_panel, length(scaled) / alphas[:, None] / size, grey, r"JSD$_\alpha/\alpha(1-\alpha)$", "-.")
        draw(size_panel, length(measured["reward"]) / size)
        draw(noise, variance)
        draw(noise, variance / power, orange, "Variance over squared length", ":")
        titles = (
            "1 − cosine with the field of a KL",
            r"Length, over that of KL($\pi_\theta\Vert\pi$)",
            "Variance, over that of $k_1$",
        )
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
            ax.set_xlabel(r"$\alpha$")
        direction.set_yscale("log")
    plotting.add_legend(figure, num_cols=4)
    return figure


def _draw(x: Any, ax: Any, values: Any, color: str = "", label: str = "", linestyle: str = "-") -> None:
    """Draws a line with its 95 % interval or, without a colour, the rings of the proximal teacher."""
    mean, low, high = log_interval(values, axis=1)
    if not color:
        style = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 1.1, "color": "black"}
        ax.plot(x, mean, linestyle="none", label="Proximal teacher's reward", **style)
        return
    ax.plot(x, mean, color=color, label=label, linestyle=linestyle)
    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {"references": references, "proximal": proximal}
    data = common.run_parts(settings, outdir, {name: functools.partial(fn, settings) for name, fn in parts.items()})
    common.deliver_table(table(settings, data), outdir, "proximal")
    common.deliver(plot(settings, data), outdir, "proximal")


if __name__ == "__main__":
    common.main(Settings, "proximal", SMOKE, work)
