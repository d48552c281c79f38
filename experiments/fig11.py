"""Figure 11: which policy minimises the cross-entropy to a teacher, in either direction, over finitely many actions.

Bars: the teacher p, the minimiser of H(p||q), which is p itself, and the minimiser of H(q||p), which puts everything
on p's most probable action. Both come from gradient descent on q's logits with the losses of the students, and are
compared with the closed form of App. C.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from jaxdistill import plotting
from jaxdistill.methods import losses

TOLERANCE = 1e-3  # largest difference of a probability from the closed form after the descent


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this figure."""

    policies: list[str] = common.option(
        ["0.7 0.1 0.1 0.05 0.05", "0.05 0.35 0.1 0.4 0.1", "0.19 0.2 0.22 0.2 0.19"],
        "teachers, separated by commas: the probabilities of the actions, separated by spaces",
    )
    num_steps: int = common.option(2000, "steps of gradient descent (Adam) on the logits, from the uniform policy")
    learning_rate: float = common.option(0.1, "first step size, logits; it decays to 0")


SMOKE: dict[str, Any] = {}  # it takes a second


def policies(settings: Settings) -> np.ndarray:
    """The teachers [P, A]; raises ValueError if one is not a distribution with positive probabilities."""
    rows = []
    for text in settings.policies:
        try:
            row = np.array([float(word) for word in text.split()])
        except ValueError:
            raise ValueError(f"--policies must be numbers separated by spaces; got {text!r}.") from None
        # With a probability of 0, H(q||p) is infinite and cannot be minimised by descent.
        if row.size < 2 or not (row > 0).all() or abs(row.sum() - 1) > 1e-6:
            raise ValueError(f"--policies needs two or more positive probabilities that sum to 1; got {text!r}.")
        rows.append(row)
    if not rows or len({row.size for row in rows}) > 1:
        raise ValueError("--policies needs at least one policy, and the same number of actions in all of them.")
    return np.stack(rows)


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    policies(settings)
    if settings.num_steps < 1 or not 0 < settings.learning_rate < np.inf:
        raise ValueError(
            "--num_steps must be at least 1 and --learning_rate positive; got "
            f"{settings.num_steps} and {settings.learning_rate}."
        )


def closed_form(teachers: np.ndarray) -> dict[str, np.ndarray]:
    """The minimisers [P, A] of App. C; equally probable best actions share the mass, as after descent from uniform."""
    best = np.isclose(teachers, teachers.max(axis=1, keepdims=True), rtol=1e-9)
    return {"forward": teachers, "reverse": best / best.sum(axis=1, keepdims=True)}


def run(settings: Settings) -> dict[str, np.ndarray]:
    """The teachers, and the policies after the descent on each cross-entropy, [P, A] each."""
    teachers = policies(settings)
    probs = jnp.asarray(teachers, float)

    def forward(logits: jax.Array) -> jax.Array:
        values = jax.vmap(lambda p, row: losses.cross_entropy(teacher_probs=p, student_logits=row))(probs, logits)
        return values.sum()

    def reverse(logits: jax.Array) -> jax.Array:
        values = jax.vmap(lambda p, row: losses.reverse_cross_entropy(student_logits=row, teacher_log_probs=p))
        return values(jnp.log(probs), logits).sum()

    minimisers = {}
    for name, loss in (("forward", forward), ("reverse", reverse)):
        optimiser = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps))

        def step(carry: Any, _: None, loss: Any = loss, optimiser: Any = optimiser) -> tuple[Any, None]:
            logits, state = carry
            updates, state = optimiser.update(jax.grad(loss)(logits), state)
            return (optax.apply_updates(logits, updates), state), None

        logits = jnp.zeros_like(probs)
        descend = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, length=settings.num_steps))
        (logits, _), _ = descend((logits, optimiser.init(logits)))
        minimisers[name] = np.asarray(jax.nn.softmax(logits), np.float64)
    return {"policies": teachers, **minimisers}


def report(data: dict[str, np.ndarray]) -> list[str]:
    """Lines, one for each policy and direction: the distance of the descent's end from the closed form."""
    lines = []
    for name, exact in closed_form(data["policies"]).items():
        cost = "H(p||q)" if name == "forward" else "H(q||p)"
        for p, (descended, expected) in enumerate(zip(data[name], exact, strict=True)):
            error = float(np.abs(descended - expected).max())
            verdict = "agrees with the closed form" if error < TOLERANCE else "NOT CONVERGED, raise --num_steps"
            lines.append(f"policy {p}, argmin {cost}: largest difference {error:.1e}, {verdict}")
    return lines


def plot(settings: Settings, data: dict[str, np.ndarray]) -> Any:
    """Draws the figure from the arrays of `run`, one panel for each teacher."""
    teachers = data["policies"]
    figure, axes = plotting.new_figure(1, len(teachers), size=(max(2.9 * len(teachers), 4.6), 2.9))
    actions = np.arange(teachers.shape[1])
    bars = {
        "policies": dict(label="Teacher $p$", color="0.75"),
        "forward": dict(label=r"$\arg\min_q\,H(p\Vert q)$", color=plotting.PALETTE[0]),
        "reverse": dict(label=r"$\arg\min_q\,H(q\Vert p)$", color=plotting.PALETTE[1], hatch="////", edgecolor="black"),
    }
    with plotting.style():
        for p, ax in enumerate(axes[0]):
            for i, (name, style) in enumerate(bars.items()):
                ax.bar(actions + 0.27 * (i - 1), data[name][p], width=0.25, linewidth=0, **style)
            ax.set(xlabel="Action", ylim=(0, 1.03), xticks=actions)
            ax.grid(False, axis="x")
        axes[0, 0].set_ylabel("Probability")
    plotting.add_legend(figure, num_cols=3)
    return figure


def work(settings: Settings) -> None:
    """Runs the descent, unless an earlier call has, prints the report and draws the figure."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    data = common.run_parts(settings, outdir, {"minimisers": lambda: run(settings)})["minimisers"]
    print("\n".join(report(data)))
    common.deliver(plot(settings, data), outdir, "fig11")


if __name__ == "__main__":
    common.main(Settings, "fig11", SMOKE, work)
