"""What the discount of the reward log pi - log pi_theta decides for a student that cannot distinguish all states.

With discount 0 a step is credited with its own log ratio alone, with discount 1 also with those of all later steps.
Only with discount 1 does the update descend the KL of trajectories, KL(pi_theta(tau)||pi(tau)). A student with a row
for each state reaches the teacher at any discount. A student whose states share rows cannot, and where it ends depends
on the discount. A smaller discount has more bias, and its sampled update has less variance. Fixed points, bias and
variance are exact, on random MDPs (Garnets).

Panels: the KL at the fixed point above the least KL found; total variance of an update by one episode; bias and
asymmetry of the field; root mean square error of the update against the number of episodes that it is averaged over.
95 % intervals over MDPs.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import plotting
from jaxdistill.statistics import mean_interval
from jaxdistill.theory import fields, flows, variance

METHOD = "kl_regularised"
KINDS = {"aliased": "States share rows", "full": "A row for each state"}  # of student
EPISODES = 10.0 ** np.arange(0, 5)  # averaged over in an update


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this experiment."""

    discounts: list[str] = common.option(
        ["0", "0.25", "0.5", "0.75", "0.9", "1"], "discounts of the reward, separated by commas; 1 is added"
    )
    num_mdps: int = common.option(100, "random MDPs, each with a random teacher")
    num_states: int = common.option(6, "states of an MDP")
    num_actions: int = common.option(3, "actions")
    num_observations: int = common.option(3, "rows of the aliased student's table")
    num_restarts: int = common.option(4, "random starts of the search for the least KL, besides the uniform student")
    seed: int = common.option(0, "seed of MDPs, teachers and random logits")


SMOKE = {"num_mdps": 8, "discounts": ["0", "0.5", "1"], "num_restarts": 1}


def discounts(settings: Settings) -> list[float]:
    """The discounts in increasing order, 1 among them; raises ValueError for an invalid one."""
    try:
        numbers = sorted({1.0, *map(float, settings.discounts)})
    except ValueError:
        raise ValueError(f"--discounts must be numbers separated by commas; got {settings.discounts}.") from None
    if not 0 <= numbers[0] <= numbers[-1] <= 1:
        raise ValueError(f"--discounts must be in [0, 1]; got {settings.discounts}.")
    return numbers


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    discounts(settings)
    if settings.num_restarts < 0:
        raise ValueError(f"--num_restarts must be >= 0; got {settings.num_restarts}.")
    problems(dataclasses.replace(settings, num_mdps=min(settings.num_mdps, 1)), "aliased")


def problems(settings: Settings, kind: str) -> tuple[jaxdistill.MDP, jaxdistill.Teacher]:
    """Random worlds and teachers, the same for both kinds of student.

    The tables of both kinds have the same shape, so that they share compiled programs.
    """
    mdps, teacher = fields.random_problems(
        common.keys(settings.seed).worlds,
        settings.num_mdps,
        num_states=settings.num_states,
        num_actions=settings.num_actions,
        num_observations=settings.num_observations,
        num_others=0,
    )
    changes: dict[str, Any] = {"num_observations": settings.num_states}
    if kind == "full":
        changes["observation"] = np.broadcast_to(np.arange(settings.num_states, dtype=np.int32), mdps.observation.shape)
    return dataclasses.replace(mdps, **changes), teacher


def compute(settings: Settings, kind: str) -> dict[str, np.ndarray]:
    """What is measured at every discount, arrays [G, M] by discount and MDP, and the least KL found, [M]."""
    mdps, teacher = problems(settings, kind)
    shape = (settings.num_mdps, settings.num_states, settings.num_actions)
    rng = np.random.default_rng(settings.seed)
    elsewhere, start = rng.normal(size=shape), np.zeros(shape)
    measured: dict[str, list[np.ndarray]] = {}
    ends = []
    for discount in discounts(settings):
        end = flows.fixed_point(mdps, teacher, METHOD, discount=discount)
        at_start = variance.assess(mdps, teacher, METHOD, start, discount=discount)
        at_end = variance.assess(mdps, teacher, METHOD, end.logits, discount=discount)
        row = {
            "kl": end.quality.trajectory_kl,
            "distance": end.quality.distance,
            "settled": end.converged & end.stable,
            "variance": at_start.total_variance,
            "variance_at_end": at_end.total_variance,
            "mean": at_start.mean,
            "asymmetry": fields.asymmetry(mdps, teacher, METHOD, elsewhere, discount=discount),
        }
        for name, value in row.items():
            measured.setdefault(name, []).append(value)
        ends.append(end.logits)
    data = {name: np.stack(values) for name, values in measured.items()}
    means = data.pop("mean")
    data["gradient"] = np.linalg.norm(means[-1], axis=(-1, -2))
    data["bias"] = np.linalg.norm(means - means[-1], axis=(-1, -2))
    starts = [*ends, *rng.normal(0, 2, size=(settings.num_restarts, *shape))]
    least_kls = [flows.fixed_point(mdps, teacher, METHOD, x, discount=1.0).quality.trajectory_kl for x in starts]
    data["least_kl"] = np.min([*data["kl"], *least_kls], axis=0)
    return data


def plot(settings: Settings, parts: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the four panels."""
    gammas, data = discounts(settings), parts["aliased"]
    figure, axes = plotting.new_figure(2, 2, size=(8.0, 6.0), share_y=False)
    with plotting.style():
        _at_rest(axes[0, 0], axes[0, 1], gammas, parts)
        style: dict[str, Any] = dict(color=plotting.PALETTE[2], marker="D", label="Bias over length of the gradient")
        _curve(axes[1, 0], gammas, data["bias"] / data["gradient"], **style)
        style = dict(color="black", marker="^", linestyle="--", label="Asymmetry of the Jacobian")
        _curve(axes[1, 0], gammas, data["asymmetry"], **style)
        axes[1, 0].set(title="The expected update, states sharing rows", xlabel="Discount of the reward")
        _errors(axes[1, 1], gammas, data)
        for ax in axes.flat:
            ax.legend()
    return figure


def _at_rest(left: Any, right: Any, gammas: list[float], parts: dict[str, dict[str, np.ndarray]]) -> None:
    """Both kinds of student: the KL at the fixed point, and the variance of an update before training and there."""
    styles: dict[str, dict[str, Any]] = {
        "aliased": dict(color=plotting.PALETTE[0], marker="o"),
        "full": dict(color="black", marker="s"),
    }
    for kind, data in parts.items():
        _curve(left, gammas, data["kl"] - data["least_kl"], label=KINDS[kind], **styles[kind])
        _curve(right, gammas, data["variance"], label=f"{KINDS[kind]}, untrained", **styles[kind])
    text = f"{KINDS['aliased']}, at rest"  # with a row for each state the reward is 0 there, and so is the variance
    _curve(right, gammas, parts["aliased"]["variance_at_end"], label=text, linestyle="--", **styles["aliased"])
    left.set(title="KL of trajectories at rest", ylabel="Above the least found (nats)")
    right.set(title="The update by one episode", ylabel="Total variance", yscale="log")
    for ax in (left, right):
        ax.set_xlabel("Discount of the reward")


def _errors(ax: Any, gammas: list[float], data: dict[str, np.ndarray]) -> None:
    """Root mean square error against the number of episodes in an update, one shade for each discount."""
    for i, (discount, shade) in enumerate(zip(gammas, plotting.shades(len(gammas)), strict=True)):
        error = np.sqrt(data["bias"][i] ** 2 + data["variance"][i] / EPISODES[:, None]) / data["gradient"]
        _curve(ax, EPISODES, error, color=shade, marker="osD^vPX*hp"[i % 10], label=f"Discount {discount:g}")
    ax.set(title="The sampled update, states sharing rows, untrained", xlabel="Episodes in an update")
    ax.set(ylabel="RMS error over length of the gradient", xscale="log", yscale="log")


def _curve(ax: Any, x: Any, values: np.ndarray, **style: Any) -> None:
    """Draws the mean over MDPs of `values` [G, M] with its 95 % interval."""
    mean, low, high = mean_interval(values, axis=1)
    ax.plot(x, mean, **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def table(settings: Settings, parts: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: the measures of each kind of student at each discount."""
    lines = [
        "| states | discount | KL above the least found | max distance from the teacher | settled "
        "| variance / at discount 0 | bias / gradient | asymmetry |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, data in parts.items():
        for i, discount in enumerate(discounts(settings)):
            numbers = [
                _cell(data["kl"][i] - data["least_kl"]),
                f"{data['distance'][i].mean():.2g}",
                f"{int(data['settled'][i].sum())} of {settings.num_mdps}",
                _cell(data["variance"][i] / data["variance"][0]),
                _cell(data["bias"][i] / data["gradient"]),
                f"{data['asymmetry'][i].mean():.2g}",
            ]
            lines.append(f"| {KINDS[kind].lower()} | {discount:g} | {' | '.join(numbers)} |")
    return lines


def _cell(values: np.ndarray) -> str:
    """Mean over MDPs with its 95 % interval."""
    return f"{mean_interval(values):.2g}"


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = common.run_parts(settings, outdir, {kind: functools.partial(compute, settings, kind) for kind in KINDS})
    print("\n".join(["", *table(settings, parts), ""]))
    common.deliver(plot(settings, parts), outdir, "discount")


if __name__ == "__main__":
    common.main(Settings, "discount", SMOKE, work)
