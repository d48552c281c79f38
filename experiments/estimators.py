"""k1, k2 and k3 as loss, reward and return: of what is each the gradient, how noisy is it, and where does it lead?

Random MDPs, teachers and students; everything is exact, in float64. From left to right: distance of the expected update
from those of on-policy KL(pi_theta||pi) and KL(pi||pi_theta), divided by the length of these; asymmetry of its
Jacobian, which is 0 for a gradient; variance of the update of one episode, divided by that of k1 as reward; distance
from the teacher where the flow from the uniform student comes to rest. Points: means over MDPs, for the variance
geometric means; bars: their 95 % intervals.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import common
from jaxdistill import METHODS, Method, plotting
from jaxdistill.methods import step_functions
from jaxdistill.methods.zoo import ZOO
from jaxdistill.runtime import streams
from jaxdistill.statistics import mean_interval
from jaxdistill.theory.fields import field, jacobian, random_problems
from jaxdistill.theory.flows import fixed_point
from jaxdistill.theory.moments import update_moments
from jaxdistill.theory.precision import float64, precise
from jaxdistill.theory.stated_losses import TABLE_1

USES = {"loss": "loss", "ratio": "loss × ratio", "reward": "reward", "return": "return"}
ESTIMATORS = {f"{k}_{use}": f"${k[0]}_{k[1]}$ as {text}" for k in ("k1", "k2", "k3") for use, text in USES.items()}
MAX_STEPS = 400  # of the search for a fixed point; a flow that diverges overflows earlier
ZERO = 1e-10  # a field shorter than this, relative to that of KL(pi_theta||pi), counts as 0
TINY = 1e-5  # a quantity below this on every MDP is printed as 0, with its largest value


@dataclasses.dataclass
class RandomWorlds:
    """Random MDPs with random teachers and students."""

    num_mdps: int = common.option(50, "random MDPs")
    num_states: int = common.option(5, "states of each")
    num_actions: int = common.option(4, "actions")
    concentration: float = common.option(1.0, "parameter of the Dirichlet distribution of the teachers' rows")
    spread: float = common.option(1.0, "standard deviation of the students' logits")
    seed: int = common.option(0, "seed of worlds, teachers and students")

    def check(self) -> None:
        """Raises ValueError for an impossible number."""
        for name in ("num_mdps", "num_states", "num_actions"):
            if getattr(self, name) < 2:
                raise ValueError(f"--{name} must be at least 2; got {getattr(self, name)}.")
        if not 0 < self.concentration < np.inf or not 0 <= self.spread < np.inf:
            raise ValueError(
                f"--concentration must be positive and --spread at least 0; got {self.concentration} and {self.spread}."
            )

    def sample(self) -> tuple[Any, Any, np.ndarray]:
        """Worlds, teachers and the students' logits [M, S, A], in float64."""
        worlds_key, student_key = streams.split(streams.from_seed(self.seed))
        sizes = {"num_states": self.num_states, "num_actions": self.num_actions}
        problems = random_problems(worlds_key, self.num_mdps, concentration=self.concentration, num_others=0, **sizes)
        shape = (self.num_mdps, self.num_states, self.num_actions)
        return *precise(*problems), self.spread * np.asarray(streams.normal(student_key, shape), float)


@dataclasses.dataclass
class Settings(common.Output, RandomWorlds):
    """The flags of this experiment."""

    estimators: list[str] = common.option(list(ESTIMATORS), "estimators, separated by commas")


SMOKE = {"estimators": ["k1_reward", "k3_loss"], "num_mdps": 4, "num_states": 3}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    RandomWorlds.check(settings)
    common.known("estimator", settings.estimators, ESTIMATORS)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, None, 0, 0, 0))
def _examine(methods: tuple[Method, ...], index: Any, discount: Any, mdp: Any, teacher: Any, logits: Any) -> Any:
    """Moments of the update and Jacobian of the field of methods[index], in one program for all methods."""

    def at_index(functions: list[Any]) -> Any:
        branches = [fn or step_functions.nothing for fn in functions]
        return lambda step: jax.lax.switch(index, branches, step)

    losses, rewards = [m.loss for m in methods], [m.reward for m in methods]
    method = Method("any", loss=at_index(losses), reward=at_index(rewards), baseline=False)
    options = {**TABLE_1, "discount": discount}
    moments = update_moments(mdp, teacher, method, logits, **options)
    return moments, jacobian(lambda x: field(mdp, teacher, method, x, **options), logits)


def examine(settings: Settings) -> dict[str, np.ndarray]:
    """Of E estimators: mean update [E, M, S, A]; variance, steps and asymmetry of the Jacobian, [E, M] each."""
    arrays = settings.sample()
    methods = tuple(ZOO[name] for name in settings.estimators)
    examined = []
    with float64():
        for i, method in enumerate(methods):
            discount = 1.0 if method.discount is None else method.discount
            examined.append(jax.device_get(_examine(methods, i, discount, *arrays)))
    moments, slopes = jax.tree.map(lambda *x: np.stack(x), *examined)
    skew = length(slopes - slopes.swapaxes(-1, -2)) / np.maximum(length(slopes), np.finfo(float).tiny)
    variance = moments.variance.sum((-1, -2))
    return {"mean": moments.mean, "variance": variance, "steps": moments.num_steps, "asymmetry": skew}


def rests(settings: Settings, name: str) -> dict[str, np.ndarray]:
    """Distance max |pi_theta - pi| where the flow of one estimator comes to rest, and whether it does, [M] each."""
    mdps, teacher, _ = settings.sample()
    end = fixed_point(mdps, teacher, ZOO[name], max_steps=MAX_STEPS)
    return {"distance": end.quality.distance, "rests": end.converged}


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _moments(methods: tuple[Method, ...], mdp: Any, teacher: Any, logits: Any) -> list[Any]:
    return [update_moments(mdp, teacher, method, logits, **TABLE_1) for method in methods]


def references(worlds: RandomWorlds) -> dict[str, np.ndarray]:
    """Updates of on-policy KL(pi_theta||pi) and KL(pi||pi_theta), [M, S, A], and the variance of k1 as reward, [M]."""
    arrays = worlds.sample()
    methods = ZOO["reverse_kl"], METHODS["on_policy_distill"], ZOO["k1_reward"]
    with float64():
        reverse, forward, sampled = jax.device_get(_moments(methods, *arrays))
    return {"reverse": reverse.mean, "forward": forward.mean, "variance": sampled.variance.sum((-1, -2))}


def parts(settings: Settings) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """The parts of the experiment: two for all estimators, and one for each."""
    joint = {"references": references, "estimators": examine}
    single: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        f"rest-{name}": functools.partial(rests, settings, name) for name in settings.estimators
    }
    return {name: functools.partial(fn, settings) for name, fn in joint.items()} | single


def length(x: np.ndarray) -> np.ndarray:
    """Euclidean length of tables, over the last two axes."""
    return np.sqrt(np.sum(x**2, axis=(-1, -2)))


def measures(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """The measures in the figure by estimator, [M] each.

    nan, which is not drawn, where the field is 0 or the flow does not come to rest.
    """
    reference, examined = data["references"], data["estimators"]
    measured = {}
    for i, name in enumerate(settings.estimators):
        mean, rest = examined["mean"][i], data[f"rest-{name}"]
        zero = length(mean) < ZERO * length(reference["reverse"])
        measured[name] = {
            "to_reverse": length(mean - reference["reverse"]) / length(reference["reverse"]),
            "to_forward": length(mean - reference["forward"]) / length(reference["forward"]),
            "asymmetry": np.where(zero, np.nan, examined["asymmetry"][i]),
            "variance": examined["variance"][i] / reference["variance"],
            "distance": np.where(rest["rests"], rest["distance"], np.nan),
        }
    return measured


def log_interval(x: np.ndarray, axis: int = 0) -> Any:
    """Geometric mean over MDPs with its 95 % interval."""
    interval = mean_interval(np.log10(x), axis=axis)
    return type(interval)(*(10 ** np.asarray(part) for part in interval))


def table(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: the numbers of the figure."""
    lines = [
        f"{settings.num_mdps} MDPs of {settings.num_states} states and {settings.num_actions} actions; means with 95 % "
        "intervals (variance divided by that of k1 as reward: geometric means).",
        "",
        "| estimator | is the gradient of | distance from KL(pi_theta\\|\\|pi) | distance from KL(pi\\|\\|pi_theta) | "
        "asymmetry | variance | distance from pi at rest | at rest |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, measured in measures(settings, data).items():
        columns = [_shown(x, log=quantity == "variance") for quantity, x in measured.items()]
        columns.append(f"{np.mean(data[f'rest-{name}']['rests']):.0%}")
        of = ZOO[name].gradient_of.replace("|", "\\|")
        lines.append(f"| {name} | {of} | {' | '.join(columns)} |")
    return lines


def _shown(x: np.ndarray, log: bool) -> str:
    """Mean over MDPs with its 95 % interval; the geometric mean if `log`."""
    if np.isnan(x).all():
        return "-"
    if np.nanmax(x) < TINY:
        return f"0 (at most {np.nanmax(x):.0e})"
    return f"{log_interval(x) if log else mean_interval(x):.2g}"


PANELS = {
    "distance": "Distance from the field of a KL,\nover the length of that",
    "asymmetry": "Asymmetry of the Jacobian",
    "variance": "Variance of an update,\nover that of $k_1$ as reward",
    "rest": r"$\max |\pi_\theta - \pi|$ at rest",
}
MARKS = {  # quantity: panel, colour, marker, label
    "to_reverse": ("distance", plotting.PALETTE[0], "s", r"KL($\pi_\theta\Vert\pi$), on policy"),
    "to_forward": ("distance", plotting.PALETTE[2], "o", r"KL($\pi\Vert\pi_\theta$), on policy"),
    "asymmetry": ("asymmetry", "black", "D", None),
    "variance": ("variance", "black", "D", None),
    "distance": ("rest", "black", "D", None),
}


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the measures, a row for each estimator."""
    figure, axes = plotting.new_figure(1, len(PANELS), size=(9.6, 0.27 * len(settings.estimators) + 1.6))
    panels = dict(zip(PANELS, axes[0], strict=True))
    measured = measures(settings, data)
    places = np.arange(len(measured))
    with plotting.style():
        for quantity, (panel, color, marker, label) in MARKS.items():
            stacked = np.stack([x[quantity] for x in measured.values()])
            mean, low, high = (log_interval if quantity == "variance" else mean_interval)(stacked, axis=1)
            style = {"color": color, "marker": marker, "linestyle": "none", "label": label, "capsize": 2}
            offset = {"to_reverse": 0.12, "to_forward": -0.12}.get(quantity, 0)
            panels[panel].errorbar(mean, places + offset, xerr=(mean - low, high - mean), **style)
        for i, name in enumerate(measured):
            if np.isnan(measured[name]["asymmetry"]).all():
                _write_note(panels["asymmetry"], i, "the field is 0")
            moving = 1 - np.mean(data[f"rest-{name}"]["rests"])
            if moving > 0:
                _write_note(panels["rest"], i, f"{moving:.0%} not at rest" if moving < 1 else "not at rest")
        panels["variance"].set_xscale("log")
        for name, ax in panels.items():
            ax.set_xlabel(PANELS[name])
        axes[0, 0].set_yticks(places, [ESTIMATORS[name] for name in measured])
        axes[0, 0].set_ylim(len(measured) - 0.4, -0.6)
    plotting.add_legend(figure)
    return figure


def _write_note(ax: Any, place: int, text: str) -> None:
    """Writes a text in the middle of a row."""
    ax.text(0.5, place, text, transform=ax.get_yaxis_transform(), ha="center", va="center", fontsize=8)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    data = common.run_parts(settings, outdir, parts(settings))
    common.deliver_table(table(settings, data), outdir, "estimators")
    common.deliver(plot(settings, data), outdir, "estimators")


if __name__ == "__main__":
    common.main(Settings, "estimators", SMOKE, work)
