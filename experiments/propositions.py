"""Theorems 1 and 2 and Propositions 1 to 4, checked exactly on random MDPs (Garnets), with the worst case of each.

Theorem 1: the update of on-policy distillation, with any loss, is not a gradient. Theorem 2: with the reward -l(t+1),
undiscounted, it is a gradient. Proposition 1: on-policy distillation comes to rest at the teacher in all states that it
can reach, and its update never points away from that of teacher-driven distillation. Proposition 2: where the loss that
counts only below the teacher's value is minimal, the student's value is in no state below the teacher's. Proposition 3:
after actor-critic learning with the teacher's value as bootstrap, the student's value at the start is not below the
teacher's. Proposition 4: the reward r + V(t+1) - V(t) of an optimal teacher is 0 in expectation for optimal actions,
and negative for every other action at once.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

import jaxdistill
from experiments import common
from jaxdistill import methods, plotting
from jaxdistill.mdp import exact
from jaxdistill.methods import Method, Step, StepFn
from jaxdistill.methods.combinators import negated
from jaxdistill.theory import fields, flows
from jaxdistill.theory.precision import float64, one_by_one, precise
from jaxdistill.theory.stated_losses import Loss


def squared_error(step: Step) -> jax.Array:
    """Half the squared distance of the probabilities."""
    return jnp.sum((jnp.exp(step.student_log_probs) - step.teacher_probs) ** 2) / 2


def entropy(step: Step) -> jax.Array:
    """The entropy of the student."""
    return -jnp.sum(jnp.exp(step.student_log_probs) * step.student_log_probs)


LOSSES: dict[str, tuple[StepFn, str]] = {  # each loss with its name in the figure
    "cross_entropy": (methods.cross_entropy, "H(π‖π$_θ$)"),
    "reverse_cross_entropy": (methods.reverse_cross_entropy, "H(π$_θ$‖π)"),
    "squared_error": (squared_error, "|π$_θ$ − π|² / 2"),
    "entropy": (entropy, "H(π$_θ$)"),
}
DISCOUNT = 0.95  # of the values in Propositions 2 and 3


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this experiment."""

    losses: list[str] = common.option(list(LOSSES), "losses of Theorems 1 and 2, separated by commas")
    num_mdps: int = common.option(100, "random MDPs, each with a random teacher")
    num_states: int = common.option(5, "states of an MDP")
    num_actions: int = common.option(3, "actions")
    num_students: int = common.option(20, "random students of each MDP, Propositions 1 and 2")
    concentration: float = common.option(1.0, "Dirichlet parameter of the teachers; near 0: almost deterministic")
    seed: int = common.option(0, "seed of MDPs, teachers and students")


SMOKE = {"losses": ["cross_entropy"], "num_mdps": 8, "num_students": 4}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("loss", settings.losses, LOSSES)
    if settings.num_students < 1:
        raise ValueError(f"--num_students must be at least 1; got {settings.num_students}.")
    problems(dataclasses.replace(settings, num_mdps=min(settings.num_mdps, 1)))


def problems(settings: Settings) -> tuple[jaxdistill.MDP, jaxdistill.Teacher]:
    """Random worlds and teachers in float64, values with `DISCOUNT`; raises ValueError for impossible sizes."""
    mdps, teacher = precise(
        *fields.random_problems(
            common.keys(settings.seed).worlds,
            settings.num_mdps,
            num_states=settings.num_states,
            num_actions=settings.num_actions,
            concentration=settings.concentration,
            num_others=0,
        )
    )
    return mdps, dataclasses.replace(teacher, values=values_of(mdps, teacher.probs))


def values_of(mdps: jaxdistill.MDP, policy: Any) -> Any:
    """Values of policies [M, S, A] with `DISCOUNT`, float64 [M, S]."""
    with float64():
        return np.asarray(exact.policy_values(mdps, policy, DISCOUNT))


def random_logits(settings: Settings) -> np.ndarray:
    """Logits of random students, [M, N, S, A]."""
    shape = (settings.num_mdps, settings.num_students, settings.num_states, settings.num_actions)
    return np.random.default_rng(settings.seed).normal(0, 1.5, shape)


def theorems(settings: Settings) -> dict[str, np.ndarray]:
    """Theorems 1 and 2, [L, M] each: asymmetries of every loss alone and corrected, and errors of the corrected ones.

    A corrected loss l has the reward -l(t+1).
    """
    mdps, teacher = problems(settings)
    key = common.keys(settings.seed).students
    alone: list[fields.Findings] = []
    corrected: list[fields.Findings] = []
    for name in settings.losses:
        loss = LOSSES[name][0]
        stated = Loss(loss, f"E_pi_theta sum_t {name}")
        for next_reward, findings in ((None, alone), (negated(loss), corrected)):
            method = Method(name, loss=loss, next_reward=next_reward)
            findings.append(fields.check_method(method, stated, key=key, mdps=mdps, teacher=teacher).whole)
    errors = {name: np.stack([getattr(f, name) for f in corrected]) for name in ("gradient_error", "potential_error")}
    asymmetries = {"alone": alone, "corrected": corrected}
    return errors | {name: np.stack([f.asymmetry for f in findings]) for name, findings in asymmetries.items()}


@one_by_one
def _cosines(what: None, numbers: dict[str, Any], mdp: Any, teacher: Any, logits: Any) -> Any:
    """Cosine between the updates of student-driven and teacher-driven distillation at each of `logits` [N, O, A]."""

    def cosine(x: Any) -> Any:
        a, b = (fields.field(mdp, teacher, name, x) for name in ("on_policy_distill", "teacher_distill"))
        return jnp.sum(a * b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)

    return jax.lax.map(cosine, logits)


def proposition_1(settings: Settings) -> dict[str, np.ndarray]:
    """Distance from the teacher where on-policy distillation comes to rest [M], and cosines at random students [M, N].

    The flow starts from the uniform student; `settled` [M] is whether it comes to rest.
    """
    mdps, teacher = problems(settings)
    end = flows.fixed_point(mdps, teacher, "on_policy_distill")
    with float64():
        cosines = np.asarray(_cosines(None, {}, mdps, teacher, random_logits(settings)))
    return {"distance": end.quality.distance, "settled": end.converged & end.stable, "cosine": cosines}


def proposition_2(settings: Settings) -> dict[str, np.ndarray]:
    """V_theta - V_pi of students that meet the premise, and whether a row is copied from the teacher, [M, N, S] each.

    The premise is l <= H(pi) in every state. A random student copies the teacher's row wherever its value is below the
    teacher's, until there is no such state. Then l is at most H(pi) in the copied rows and 0 in all others.
    """
    mdps, teacher = problems(settings)
    gains, copied = [], []
    for logits in np.moveaxis(random_logits(settings), 1, 0):
        policy = softmax(logits, axis=-1)
        is_copied = np.zeros(policy.shape[:-1], bool)
        while True:
            gain = values_of(mdps, policy) - teacher.values
            below = (gain < 0) & ~is_copied
            if not below.any():
                break
            is_copied |= below
            policy[is_copied] = np.asarray(teacher.probs)[is_copied]
        gains.append(gain)
        copied.append(is_copied)
    return {"gain": np.stack(gains, 1), "copied": np.stack(copied, 1)}


def proposition_3(settings: Settings) -> dict[str, np.ndarray]:
    """Values at the start [M] of the teacher, of the student at the end of the flow, and of the greedy policy.

    The greedy policy is the limit of the flow; `gain` [M, S] is its value less the teacher's in every state.
    """
    mdps, teacher = problems(settings)
    end = flows.fixed_point(mdps, teacher, "td_vpi", discount=DISCOUNT)
    policy = softmax(end.logits, axis=-1)
    with float64():
        greedy = np.asarray(exact.greedy(exact.action_values(mdps, teacher.values, DISCOUNT)))
    gain = values_of(mdps, greedy) - teacher.values
    start = np.asarray(mdps.start_probs)
    values = {"teacher": teacher.values, "student": values_of(mdps, policy), "greedy": values_of(mdps, greedy)}
    return {name: (start * v).sum(-1) for name, v in values.items()} | {"settled": end.converged, "gain": gain}


def proposition_4(settings: Settings) -> dict[str, np.ndarray]:
    """E[r + V*(s') - V*(s)] by state and action, [M, S, A], undiscounted, and which actions are optimal."""
    mdps, _ = problems(settings)
    with float64():
        values = exact.optimal_values(mdps)
        advantage = np.asarray(exact.action_values(mdps, values) - values[..., None])
    return {"advantage": advantage, "optimal": advantage >= advantage.max(-1, keepdims=True)}


PARTS = {
    "theorems": theorems,
    "proposition_1": proposition_1,
    "proposition_2": proposition_2,
    "proposition_3": proposition_3,
    "proposition_4": proposition_4,
}


def worst_cases(parts: dict[str, dict[str, np.ndarray]]) -> list[tuple[str, str, bool]]:
    """Every claim with its worst case over the MDPs and whether it holds."""
    t, p1, p2, p3, p4 = (parts[name] for name in PARTS)
    error = max(t["gradient_error"].max(), t["potential_error"].max())
    alone, corrected, distance = t["alone"].min(), t["corrected"].max(), p1["distance"].max()
    cosine, rows, start = p1["cosine"].min(), p2["gain"].min(), (p3["student"] - p3["teacher"]).min()
    greedy, others = p3["gain"].min(), p4["advantage"][~p4["optimal"]].max()
    best = np.abs(p4["advantage"][p4["optimal"]]).max()
    at_rest = {name: f"{np.sum(p['settled'])} of {p['settled'].size} at rest" for name, p in (("1", p1), ("3", p3))}
    return [
        ("Theorem 1: no loss alone is a gradient", f"asymmetry at least {alone:.2g}", alone > 1e-3),
        ("Theorem 2: with the reward -l(t+1) it is one", f"asymmetry at most {corrected:.0e}", corrected < 1e-8),
        ("Theorem 2: it is the gradient of E sum l", f"gradient and potential within {error:.0e}", error < 1e-8),
        ("Proposition 1: it rests at the teacher", f"distance at most {distance:.0e}, {at_rest['1']}", distance < 1e-6),
        ("Proposition 1: never points away from teacher-driven", f"cosine at least {cosine:.2g}", cosine >= 0),
        ("Proposition 2: V_theta >= V_pi", f"difference at least {rows:.0e}", rows > -1e-9),
        (
            "Proposition 3: V_theta >= V_pi at the start",
            f"difference at least {start:.2g}, {at_rest['3']}",
            start > -1e-6,
        ),
        ("Proposition 3: V_greedy >= V_pi in every state", f"difference at least {greedy:.0e}", greedy > -1e-9),
        ("Proposition 4: the reward is 0 for optimal actions", f"at most {best:.0e} away from 0", best < 1e-9),
        ("Proposition 4: it is negative for all others", f"at most {others:.2g}", others < 0),
    ]


def table(parts: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown: every claim, its worst case, and whether it holds."""
    lines = ["| claim | worst case | holds |", "|---|---|---|"]
    return lines + [f"| {claim} | {worst} | {'yes' if holds else 'NO'} |" for claim, worst, holds in worst_cases(parts)]


def plot(settings: Settings, parts: dict[str, dict[str, np.ndarray]]) -> Any:
    """Draws six panels of claims, with a point or a count for each MDP."""
    t, p1, p2, p3, p4 = (parts[name] for name in PARTS)
    figure, axes = plotting.new_figure(2, 3, size=(9.6, 5.4), share_y=False)
    blue = plotting.PALETTE[0]
    with plotting.style():
        _fields(axes[0, 0], [LOSSES[name][1] for name in settings.losses], t)
        axes[0, 1].hist(p1["cosine"].ravel(), bins=np.linspace(-0.25, 1, 26), color=blue)
        axes[0, 1].set(title="Prop. 1: on-policy distillation", xlabel="Cosine with the teacher-driven update")
        axes[0, 1].set_ylabel("Students")
        axes[0, 2].hist(np.maximum(p1["distance"], 1e-16), bins=np.geomspace(1e-16, 1, 33), color=blue)
        axes[0, 2].set(title="Prop. 1: on-policy distillation", ylabel="MDPs", xscale="log")
        axes[0, 2].set(xlabel="Distance from the teacher at rest", xticks=[1e-15, 1e-10, 1e-5, 1])
        axes[1, 0].hist(p2["gain"].ravel(), bins=40, color=blue)
        axes[1, 0].set(title="Prop. 2: loss below the teacher's value", ylabel="States", yscale="log")
        axes[1, 0].set_xlabel("Student's value − teacher's")
        for ax in (axes[0, 1], axes[1, 0]):
            ax.axvline(0, color="black", linestyle=":", linewidth=1.4)
        values = np.concatenate([p3["teacher"], p3["student"]])
        ends = [values.min(), values.max()]
        axes[1, 1].plot(ends, ends, ":", color="black", linewidth=1.4)
        axes[1, 1].plot(p3["teacher"], p3["student"], "o", color=blue, markersize=4, alpha=0.7)
        axes[1, 1].set(title="Prop. 3: teacher's value as bootstrap", xlabel="Teacher's value", ylabel="Student's")
        _advantages(axes[1, 2], p4)
    return figure


def _fields(ax: Any, labels: list[str], t: dict[str, np.ndarray]) -> None:
    """Draws the asymmetries of every loss, alone and with the reward of Theorem 2."""
    kinds = {
        "l alone": ("alone", plotting.PALETTE[2], "X"),
        "with −l(t+1)": ("corrected", plotting.PALETTE[0], "o"),
    }
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, t["alone"].shape[1])
    for label, (name, color, marker) in kinds.items():
        for row, values in enumerate(t[name]):
            legend = {"label": label} if row == 0 else {}
            ax.plot(np.maximum(values, 1e-18), row + jitter, marker, color=color, markersize=3, alpha=0.6, **legend)
    ax.set(xscale="log", xlim=(1e-19, 10), ylim=(len(labels) - 0.2, -0.5), xticks=[1e-15, 1e-10, 1e-5, 1])
    ax.set(title="Thms. 1 and 2", xlabel="Asymmetry of the Jacobian")
    ax.set_yticks(range(len(labels)), labels)
    ax.legend(loc="center")


def _advantages(ax: Any, p4: dict[str, np.ndarray]) -> None:
    """Draws the cumulative distributions of the expected reward of optimal actions and of all others."""
    kinds = {
        "optimal actions": (p4["optimal"], plotting.PALETTE[0], "o"),
        "all others": (~p4["optimal"], plotting.PALETTE[2], "X"),
    }
    for label, (mask, color, marker) in kinds.items():
        values = np.sort(p4["advantage"][mask])
        style = {"color": color, "markersize": 3.5, "markevery": max(1, len(values) // 60), "label": label}
        ax.plot(values, np.linspace(0, 1, len(values)), marker, **style)
    ax.set(title="Prop. 4: reward of the optimal value", xlabel="E[r + V*(t+1) − V*(t)]", ylabel="Part of the actions")
    ax.legend(loc="upper left")


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, prints the worst cases and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = common.run_parts(
        settings, outdir, {name: functools.partial(part, settings) for name, part in PARTS.items()}
    )
    print("\n".join(["", *table(parts), ""]))
    common.deliver(plot(settings, parts), outdir, "propositions")


if __name__ == "__main__":
    common.main(Settings, "propositions", SMOKE, work)
