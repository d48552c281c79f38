"""Figure 2: a game in which on-policy distillation + R cycles for ever and N-distill + R converges.

Columns: the two methods. Top: the probabilities of the policy under the exact expected update. Middle: those of sampled
students, their mean with 95 % intervals and a few single students. Bottom: the phase portrait; on the left with the
closed level curves of the first integral e^x + e^-x + e^y + e^-y.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common
from experiments.oscillation import OSCILLATION_METHODS, L, R, log_odds, oscillation_game, oscillation_teacher
from jaxdistill import plotting
from jaxdistill.runtime import streams

TITLES = {"on_policy_distill_r": "On-policy distill + R", "n_distill_r": "N-distill + R"}
LINES = {"$P(R|s_0)$": (plotting.PALETTE[0], "-"), "$P(L|s_L) = P(L|s_R)$": (plotting.PALETTE[2], "--")}
_NUM_SINGLE = 3  # students drawn one by one
_WINDOW = 4.2  # half the width of the phase portrait, log-odds
_ARROWS = 11  # arrows of the phase portrait along each axis


@dataclasses.dataclass
class Settings(common.Output, common.Training):
    """The flags of this figure."""

    num_students: int = common.option(200, "sampled students of each method")
    start_x: float = common.option(0.0, "log-odds of R in s0 before training")
    start_y: float = common.option(2.0, "log-odds of L in s_L and s_R before training")
    num_iterations: int = common.option(9_000, "steps of the expected dynamics, and episodes of each sampled student")
    num_checkpoints: int = common.option(90, "points of the sampled curves")
    learning_rate: float = common.option(0.02, "step size of the logits, expected and sampled")
    discount: float = common.option(1.0, "discount of the returns; the game of the paper has none")
    reduction: str = common.option("sum", "an episode's update is the sum or the mean over its two steps")


SMOKE = {"num_students": 150, "num_iterations": 3_000, "num_checkpoints": 10}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    if settings.num_students < 1:
        raise ValueError(f"--num_students must be at least 1; got {settings.num_students}.")
    if not np.isfinite([settings.start_x, settings.start_y]).all():
        raise ValueError(f"--start_x and --start_y must be finite; got {settings.start_x} and {settings.start_y}.")
    settings.train_config()


def start(settings: Settings) -> np.ndarray:
    """Logits [3, 2] before training."""
    return np.array([[0, settings.start_x], [settings.start_y, 0], [0, 0]], np.float32)


def expected(settings: Settings) -> dict[str, np.ndarray]:
    """(x, y) after every step of the exact dynamics, [steps + 1, 2] for each method."""
    paths = {}
    for name in OSCILLATION_METHODS:
        path = integrate(flow_of(settings, name), jnp.asarray(start(settings)), settings)
        paths[name] = np.asarray(log_odds(path), np.float64)
    return paths


def flow_of(settings: Settings, name: str) -> Any:
    """The expected update of the logits [3, 2] as a function of them."""
    game = oscillation_game()
    teacher, config = oscillation_teacher(game), settings.train_config()

    def flow(logits: jax.Array) -> jax.Array:
        # With Monte Carlo returns the expectation does not depend on V_theta, which stays 0 here.
        return jaxdistill.expected_update(
            game, teacher, OSCILLATION_METHODS[name], logits, estimator="mc", reduction=config.reduction,
            discount=config.discount, probability_floor=config.probability_floor,
        ).logits  # fmt: skip

    return flow


def field(settings: Settings) -> dict[str, np.ndarray]:
    """The expected change of (x, y) on a grid over the phase portrait, [rows, columns, 2] for each method."""
    x, y = np.meshgrid(*[np.linspace(-_WINDOW, _WINDOW, _ARROWS)] * 2)
    logits = np.zeros((*x.shape, 3, 2), np.float32)
    logits[..., 0, R], logits[..., 1, L] = x, y
    arrows = {"position": np.stack([x, y], axis=-1)}
    for name in OSCILLATION_METHODS:
        updates = jax.vmap(jax.vmap(flow_of(settings, name)))(jnp.asarray(logits))
        arrows[name] = np.asarray(log_odds(updates), np.float64)
    return arrows


def integrate(flow: Any, logits: jax.Array, settings: Settings) -> jax.Array:
    """The flow from `logits` in steps of the learning rate, [steps + 1, 3, 2], by the classical Runge-Kutta method.

    Euler steps would leave every closed orbit outwards, which is an error of the method and not of the dynamics.
    """
    rate = jnp.float32(settings.learning_rate)

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        logits, rounding_error = carry
        k1 = flow(logits)
        k2 = flow(logits + rate / 2 * k1)
        k3 = flow(logits + rate / 2 * k2)
        k4 = flow(logits + rate * k3)
        # Kahan's sum: thousands of small additions would otherwise drift by their rounding in float32.
        change = rate / 6 * (k1 + 2 * k2 + 2 * k3 + k4) - rounding_error
        new = logits + change
        return (new, (new - logits) - change), new

    @jax.jit
    def path(logits: jax.Array) -> jax.Array:
        first = (logits, jnp.zeros_like(logits))
        _, later = jax.lax.scan(step, first, length=settings.num_iterations)
        return jnp.concatenate([logits[None], later])

    return path(logits)


def sampled(settings: Settings) -> dict[str, np.ndarray]:
    """(x, y) of sampled students at the checkpoints, [M, C + 1, 2] for each method, and the checkpoints.

    `train` returns the last tables only. So there is a call for every interval between two checkpoints, which starts
    from the tables of the call before and uses other random numbers.
    """
    config = dataclasses.replace(settings.train_config(), estimator="mc", num_checkpoints=1, max_episode_steps=2)
    checkpoints = settings.train_config().checkpoints
    games = oscillation_game(settings.num_students)
    teacher, key = oscillation_teacher(games), common.keys(settings.seed).students
    logits: Any = np.broadcast_to(start(settings), (len(OSCILLATION_METHODS), settings.num_students, 3, 2))
    values, tables = None, [logits]
    for segment, episodes in enumerate(np.diff(checkpoints, prepend=0)):
        result = jaxdistill.train(
            streams.fold_in(key, segment), games, teacher, list(OSCILLATION_METHODS.values()), config,
            num_iterations=int(episodes), initial_logits=logits, initial_values=values, progress=False,
        )  # fmt: skip
        logits, values = result.logits, result.values
        tables.append(logits)
    paths = np.moveaxis(np.asarray(log_odds(jnp.asarray(np.stack(tables)))), 0, 2)
    return dict(zip(OSCILLATION_METHODS, paths, strict=True)) | {"iterations": np.append(0, checkpoints)}


def first_integral(path: np.ndarray) -> np.ndarray:
    """e^x + e^-x + e^y + e^-y of (x, y) [..., 2]: constant under on-policy distillation + R (App. C)."""
    return 2 * np.cosh(path).sum(-1)


def drift(path: np.ndarray) -> float:
    """The largest relative change of the first integral along a path [steps, 2]."""
    integral = first_integral(path)
    return float(np.abs(integral / integral[0] - 1).max())


def probabilities(path: np.ndarray) -> np.ndarray:
    """P(R|s0) and P(L|s_L) from (x, y), [..., 2]."""
    return 1 / (1 + np.exp(-path))


def plot(data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the parts."""
    figure, axes = plotting.new_figure(3, 2, size=(7.0, 8.2))
    with plotting.style():
        for j, name in enumerate(TITLES):
            path, students = data["expected"][name], data["sampled"][name]
            draw_expected(axes[0, j], path)
            draw_sampled(axes[1, j], data["sampled"]["iterations"], students)
            draw_portrait(axes[2, j], data["field"], name, path, students[0])
            axes[0, j].set_title(TITLES[name])
            for ax in axes[:2, j]:
                ax.set_ylim(-0.03, 1.03)
                plotting.label_axes(ax, ylabel=False)
            axes[0, j].set_xlabel("Steps")
        for ax, text in zip(axes[:, 0], ("Expected update\nProbability", "Sampled updates\nProbability"), strict=False):
            ax.set_ylabel(text)
        axes[2, 0].set_ylabel("Phase portrait\n$y$: log-odds of L in $s_L$, $s_R$")
    plotting.add_legend(figure, num_cols=3)
    return figure


def draw_expected(ax: Any, path: np.ndarray) -> None:
    """Draws both probabilities over the steps of the exact dynamics."""
    for values, (label, (color, line)) in zip(probabilities(path).T, LINES.items(), strict=True):
        ax.plot(np.arange(len(path)), values, color=color, linestyle=line, label=label)


def draw_sampled(ax: Any, iterations: np.ndarray, students: np.ndarray) -> None:
    """Draws mean and interval over students, and P(R|s0) of a few single students."""
    for values, (label, (color, line)) in zip(np.moveaxis(probabilities(students), -1, 0), LINES.items(), strict=True):
        plotting.plot_curves(ax, iterations, values, label=label, color=color, linestyle=line, marker="")
    for student in probabilities(students)[:_NUM_SINGLE]:
        ax.plot(
            iterations, student[:, 0], color="0.45", linewidth=0.7, label="Single students: $P(R|s_0)$, path", zorder=1
        )


def draw_portrait(ax: Any, field: dict[str, np.ndarray], name: str, path: np.ndarray, student: np.ndarray) -> None:
    """Draws directions of the field, the exact path and a single student; where orbits close, the level curves."""
    if name == "on_policy_distill_r":
        ticks = np.linspace(-_WINDOW, _WINDOW, 161)
        levels = first_integral(np.stack(np.meshgrid(ticks, ticks), axis=-1))
        ax.contour(ticks, ticks, levels, levels=[4.3, 6, 9.5, 16, 28, 50, 90], colors="0.75", linewidths=0.8)
    lengths = np.maximum(np.linalg.norm(field[name], axis=-1, keepdims=True), 1e-12)  # 0 at the point of rest
    arrows = np.concatenate([field["position"], field[name] / lengths], axis=-1)
    ax.quiver(*np.moveaxis(arrows, -1, 0), color="0.6", angles="xy", width=0.004)
    ax.plot(*student.T, color="0.45", linewidth=0.7)
    ax.plot(*path.T, color=plotting.PALETTE[1], linewidth=2, label="Path of the expected update")
    ax.plot(*path[0], marker="o", color="black", linestyle="", label="Start")
    ax.set(xlim=(-_WINDOW, _WINDOW), ylim=(-_WINDOW, _WINDOW), xlabel="$x$: log-odds of R in $s_0$")
    ax.grid(False)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = {fn.__name__: functools.partial(fn, settings) for fn in (expected, field, sampled)}
    data = common.run_parts(settings, outdir, parts)
    paths = data["expected"]
    print(f"first integral of on-policy distill + R: relative drift {drift(paths['on_policy_distill_r']):.1e}")
    print(f"P(R|s0) of N-distill + R at the end: {probabilities(paths['n_distill_r'])[-1, 0]:.4f}")
    common.deliver(plot(data), outdir, "fig2")


if __name__ == "__main__":
    common.main(Settings, "fig2", SMOKE, work)
