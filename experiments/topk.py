"""Top-k distillation: where each way to use k actions of a row leads, as papers write it and as it is implemented.

On rows of a teacher over --num_actions actions, a student row follows the exact expected update of every variant until
it comes to rest. Columns: S, the k most probable actions of the student or of the teacher. Above: one row of four
actions, k = 2. Middle: KL(pi_theta||pi) at rest against k; a KL below 0.001 is drawn at 0.001. Below: the student's
mass on S at rest less the teacher's. Bands: 95 % intervals of the mean over rows.

As written (both policies are renormalised on S before the KL), the loss does not depend on the mass of S, and k = 1
does nothing at all. As implemented (an advantage -w k1 for each action of S, where w is renormalised and k1 is not),
the student rests exactly where pi_theta = pi on S, for any weights w, as if all other actions were counted as one more
action. So the mass of S is right, and only its division among the other actions is left open.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments import common, rows
from jaxdistill import Method, plotting
from jaxdistill.methods import StepFn
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import Owner, clamped, negated, top_k, total
from jaxdistill.statistics import mean_interval

_DASHED, _DOTTED = (0, (5, 1.5)), (0, (1.5, 1.2))


class Variant(NamedTuple):
    """A way to use the k actions: its loss, or reward of discount 0, as a function of S's owner, and its line style."""

    label: str
    owners: tuple[Owner, ...]
    make: Callable[[Owner], StepFn]
    color: str
    linestyle: Any = "-"
    marker: str = "o"
    reward: bool = False


_BOTH: tuple[Owner, ...] = ("student", "teacher")
_RED, _BLUE, _ORANGE = (plotting.PALETTE[i] for i in (2, 0, 1))


def _top_k_sum(terms: Any, *options: Any) -> Callable[[Owner], StepFn]:
    """A function from the owner of S to the loss, the sum of `terms` over S."""
    return lambda owner: total(top_k(terms, owner, *options))


VARIANTS = {
    "written": Variant(r"KL($\pi_\theta\Vert\pi$), both renormalised on S (as written)", _BOTH,
                       _top_k_sum(fns.REVERSE_KL, "both"), _RED),
    "implemented": Variant(r"advantages $-w\,k_1$, $w=\pi_\theta$ (as implemented)", _BOTH,
                           lambda owner: fns.top_k_advantages(owner, "student"), _BLUE, "-", "s"),
    "implemented_teacher": Variant(r"advantages $-w\,k_1$, $w=\pi$", _BOTH,
                                   lambda owner: fns.top_k_advantages(owner, "teacher"), _BLUE, _DASHED, "D"),
    "implemented_one": Variant(r"advantages $-w\,k_1$, $w=1$", _BOTH,
                               lambda owner: fns.top_k_advantages(owner, "one"), _BLUE, _DOTTED, "^"),
    "dropped": Variant(r"KL($\pi_\theta\Vert\pi$), others dropped", _BOTH,
                       _top_k_sum(fns.REVERSE_KL), "black", "-", "v"),
    "tail": Variant(r"KL($\pi_\theta\Vert\pi$), others one action", _BOTH,
                    _top_k_sum(fns.REVERSE_KL, "none", True), _ORANGE, "-", "P"),
    "forward_dropped": Variant(r"KL($\pi\Vert\pi_\theta$), others dropped", ("teacher",),
                               _top_k_sum(fns.FORWARD_KL), "black", _DASHED, "<"),
    "forward_clamped": Variant(r"KL($\pi\Vert\pi_\theta$), others dropped, at least 0", ("teacher",),
                               lambda owner: clamped(total(top_k(fns.FORWARD_KL, owner)), least=0.0),
                               "black", _DOTTED, ">"),
    "forward_tail": Variant(r"KL($\pi\Vert\pi_\theta$), others one action", ("teacher",),
                            _top_k_sum(fns.FORWARD_KL, "none", True), _ORANGE, _DASHED, "X"),
    "scalar": Variant("as written, but as reward of the state", ("student",),
                      lambda owner: negated(_top_k_sum(fns.REVERSE_KL, "both")(owner)), "0.55", "-", "h", reward=True),
}  # fmt: skip


class Example(NamedTuple):
    """The row of the upper panels."""

    teacher: tuple[float, ...] = (0.5, 0.3, 0.15, 0.05)
    start: tuple[float, ...] = (0.24, 0.03, 0.09, 0.64)
    k: int = 2


EXAMPLE = Example()


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this experiment."""

    variants: list[str] = common.option(list(VARIANTS), "ways to use the k actions, separated by commas")
    ks: list[str] = common.option(["1", "2", "4", "8", "10"], "numbers of actions k, separated by commas")
    num_rows: int = common.option(100, "random rows of teacher and student")
    num_actions: int = common.option(10, "actions")
    concentration: float = common.option(0.5, "parameter of the Dirichlet distribution of the teacher's rows")
    start_spread: float = common.option(1.0, "standard deviation of the student's logits at the start")
    num_steps: int = common.option(10_000, "short steps of the flow, before Newton's method brings it to rest")
    seed: int = common.option(0, "seed of the rows")


SMOKE = {"variants": ["written", "implemented"], "ks": ["1", "4"], "num_rows": 10, "num_steps": 3000}


def numbers_of_actions(settings: Settings) -> list[int]:
    """The numbers of actions k; raises ValueError for an impossible one."""
    try:
        ks = [int(word) for word in settings.ks]
    except ValueError:
        ks = []
    if not ks or min(ks) < 1 or max(ks) > settings.num_actions:
        raise ValueError(f"--ks must be whole numbers from 1 to --num_actions; got {','.join(settings.ks)!r}.")
    return ks


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("variant", settings.variants, VARIANTS)
    for name, least in (("num_rows", 2), ("num_actions", 4), ("num_steps", 1)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}; got {getattr(settings, name)}.")
    if not 0 < settings.concentration < np.inf:
        raise ValueError(f"--concentration must be positive; got {settings.concentration}.")
    if not 0 <= settings.start_spread < np.inf:
        raise ValueError(f"--start_spread must be at least 0; got {settings.start_spread}.")
    numbers_of_actions(settings)


def sample_rows(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Teacher probabilities and the student's logits at the start, [N, A] each."""
    rng = np.random.default_rng(settings.seed)
    shape = (settings.num_rows, settings.num_actions)
    probs = rng.dirichlet(np.full(settings.num_actions, settings.concentration), settings.num_rows)
    return probs, settings.start_spread * rng.normal(size=shape)


def method_of(variant: Variant, owner: Owner) -> Method:
    """The variant as a method."""
    fn = variant.make(owner)
    if variant.reward:
        return Method("top_k", reward=fn, discount=0.0, baseline=False, params={"k": 1.0})
    return Method("top_k", loss=fn, params={"k": 1.0})


def run(settings: Settings, name: str, owner: Owner) -> dict[str, np.ndarray]:
    """Follows one variant to rest on every row, for every k.

    Returns:
      reverse_kl, forward_kl [K, N]: KL(pi_theta||pi) and KL(pi||pi_theta) at rest, nats; mass, teacher_mass [K, N]: of
      the owner's k actions at rest; speed [K, N]: the largest entry of the update; example [4]: its row at rest.
    """
    method, ks = method_of(VARIANTS[name], owner), numbers_of_actions(settings)
    probs, logits = sample_rows(settings)
    none = np.zeros(settings.num_actions - 4)  # further actions, to which the example gives no probability
    all_rows = (
        np.vstack([probs, [*EXAMPLE.teacher, *none]]),
        np.vstack([logits, [*np.log(EXAMPLE.start), *(none - 60)]]),
    )
    end, speed = rows.rest(method, [*ks, EXAMPLE.k], *all_rows, settings.num_steps)
    example, end, speed = end[-1, -1, :4], end[:-1, :-1], speed[:-1, :-1]
    scores = np.broadcast_to(end if owner == "student" else probs, end.shape)
    ranks = np.argsort(np.argsort(-scores, axis=-1, kind="stable"), axis=-1, kind="stable")
    inside = ranks < np.array(ks)[:, None, None]
    floored = np.maximum(end, np.finfo(float).tiny)
    return {
        "reverse_kl": np.sum(end * np.log(floored / probs), axis=-1),
        "forward_kl": np.sum(probs * np.log(probs / floored), axis=-1),
        "mass": np.sum(end * inside, axis=-1),
        "teacher_mass": np.sum(probs * inside, axis=-1),
        "speed": speed,
        "example": example,
    }


def parts(settings: Settings) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """The parts of the experiment, one for each variant and owner."""
    return {
        f"{name}-{owner}": functools.partial(run, settings, name, owner)
        for name in settings.variants
        for owner in VARIANTS[name].owners
    }


def start_kl(settings: Settings) -> np.ndarray:
    """KL(pi_theta||pi) of every row at the start, nats."""
    probs, logits = sample_rows(settings)
    student = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.sum(student * np.log(student / probs), axis=-1)


def table(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: KL and mass at rest, means over rows with 95 % intervals, and the example."""
    start = mean_interval(start_kl(settings))
    lines = [
        f"{settings.num_rows} rows of {settings.num_actions} actions; KL(pi_theta\\|\\|pi) at the start "
        f"{start:.2g} nats; excess mass: that of S less the teacher's; example: teacher {EXAMPLE.teacher}, "
        f"start {EXAMPLE.start}.",
        "",
        "| S of | variant | k | KL(pi_theta\\|\\|pi) | KL(pi\\|\\|pi_theta) | excess mass | rows at rest | example |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for part, arrays in data.items():
        name, owner = part.split("-")
        example = ", ".join(f"{p:.3f}" for p in arrays["example"])
        for i, k in enumerate(numbers_of_actions(settings)):
            excess = mean_interval(arrays["mass"][i] - arrays["teacher_mass"][i])
            measured = [*(mean_interval(arrays[kl][i]) for kl in ("reverse_kl", "forward_kl")), excess]
            columns = [f"{interval:.2g}" for interval in measured]
            columns += [f"{np.mean(arrays['speed'][i] <= rows.TOLERANCE):.0%}", example if k == EXAMPLE.k else ""]
            lines.append(f"| {owner} | {name} | {k} | {' | '.join(columns)} |")
    return lines


def plot(settings: Settings, data: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws the figure from the arrays of `run` by variant and owner."""
    figure, axes = plotting.new_figure(3, 2, size=(7.2, 7.6))
    ks = numbers_of_actions(settings)
    with plotting.style():
        for column, owner in enumerate(("student", "teacher")):
            of_owner = {name: data[f"{name}-{owner}"] for name in settings.variants if f"{name}-{owner}" in data}
            _draw_example(axes[0, column], of_owner)
            axes[0, column].set_title(f"S: top k of the {owner}")
            for name, arrays in of_owner.items():
                _draw_curve(axes[1, column], ks, arrays["reverse_kl"], VARIANTS[name], least=1e-3)
                _draw_curve(axes[2, column], ks, arrays["mass"] - arrays["teacher_mass"], VARIANTS[name])
            level = start_kl(settings).mean()
            axes[1, column].axhline(level, color="0.4", linestyle=":", linewidth=1.2, label="Student at the start")
            axes[1, column].set_yscale("log")
            axes[2, column].axhline(0, color="0.4", linewidth=0.8)
            for ax in axes[1:, column]:
                ax.set_xscale("log", base=2)
                ax.set_xticks(ks, [str(k) for k in ks])
                ax.minorticks_off()
            axes[2, column].set_xlabel("k")
        axes[0, 0].set_ylabel("Probability at rest")
        axes[1, 0].set_ylabel(r"KL($\pi_\theta\Vert\pi$) at rest (nats)")
        axes[2, 0].set_ylabel("Mass on S at rest\nless the teacher's")
    plotting.add_legend(figure, num_cols=2)
    return figure


def _draw_curve(ax: Any, ks: list[int], values: np.ndarray, variant: Variant, least: float = -np.inf) -> None:
    """Draws the mean over rows with its 95 % interval against k; values below `least` are drawn at `least`."""
    mean, low, high = (np.maximum(x, least) for x in mean_interval(values, axis=1))
    style = {"color": variant.color, "linestyle": variant.linestyle, "marker": variant.marker}
    ax.plot(ks, mean, label=variant.label, **style)
    ax.fill_between(ks, low, high, color=variant.color, alpha=0.15, linewidth=0)


def _draw_example(ax: Any, data: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws the teacher as bars, the start as dotted lines, and the rows at rest as markers."""
    actions = np.arange(len(EXAMPLE.teacher))  # type: ignore[arg-type]
    ax.bar(actions, EXAMPLE.teacher, width=0.9, color="0.88", label=r"Teacher $\pi$")
    ax.hlines(EXAMPLE.start, actions - 0.45, actions + 0.45, color="0.4", linestyle=":", linewidth=1.2)
    offsets = np.linspace(-0.34, 0.34, max(len(data), 2))
    for offset, (name, arrays) in zip(offsets, data.items(), strict=False):
        variant = VARIANTS[name]
        ax.plot(actions + offset, arrays["example"], linestyle="none", marker=variant.marker, color=variant.color)
    ax.set_ylim(-0.04, 0.9)
    ax.set_xticks(actions, [str(a + 1) for a in actions])
    ax.set_xlabel("Action (example, k = 2)")
    ax.grid(axis="x", visible=False)


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    data = common.run_parts(settings, outdir, parts(settings))
    common.deliver_table(table(settings, data), outdir, "topk")
    common.deliver(plot(settings, data), outdir, "topk")


if __name__ == "__main__":
    common.main(Settings, "topk", SMOKE, work)
