"""Figure 4: distillation when most actions do nothing, with 4, 40, 400 and 4000 actions.

The first four actions move; the others leave the agent where it is and only make exploration hard. There is a panel for
each number of actions |A|, all on the same worlds. Curves: undiscounted return of the students, mean over sampled grid
worlds with 95 % intervals. Dotted: the teacher, the uniform policy of the four moves, and that of all |A| actions.

Teacher: the paper does not state with which actions its Q-learning teacher learned. Here it learns with the four moves
and never plays another action (--teacher=moves): all panels have the same teacher, so a curve that falls with |A| falls
because of the student. The paper's curves agree: with 4 and with 40 actions on-policy distill ends at the same 6.6.
With --teacher=all, Q-learning has all |A| actions; if they are many, it hardly ever tries the four that move.

Student: TD(1), with which entropy regularised reaches the teacher at |A| = 4, as in the paper; --estimator=mc is the
sampled return. The floor of the teacher's probabilities is 1e-30: for an untrained student the gradient of
H(pi_theta||pi) is log(1 / floor) / |A|, and with a floor of 0.01 and 400 actions or more, learning takes longer than
the paper's 30 000 iterations.

Exp. entropy regularised is drawn twice: as in Table 1, and without its returns, H(pi_theta||pi) alone. The paper's
finding, that the expected version stays good where entropy regularised fails, holds for the second: the noise of later
steps' rewards, which the first keeps, grows with |A|.

Size: the cost of a step is proportional to |A|, and an untrained student takes up to 100 steps an episode instead of
six. So by default panels of many actions have fewer worlds and iterations than the paper's 1000 and 30 000. If memory
is short (--memory_gib), worlds are trained a few at a time, which changes no number.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common, targets
from jaxdistill import MDP, Result, Teacher, plotting, teachers
from jaxdistill.engine import rules
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.mdp import exact
from jaxdistill.runtime.progress import duration
from jaxdistill.scheduling import pool

METHODS = [
    "on_policy_distill", "entropy_regularised", "exp_entropy_regularised", "exp_entropy_without_returns", "baseline",
]  # fmt: skip
KNOWN = jaxdistill.METHODS | {
    "exp_entropy_without_returns": dataclasses.replace(
        jaxdistill.METHODS["exp_entropy_regularised"], name="exp_entropy_without_returns", next_reward=None
    )
}
TEACHERS = ("moves", "all")
MOVES = 4
# The default numbers of worlds and iterations, from this number of actions on.
SIZES = {4: (100, 30_000), 40: (40, 30_000), 400: (16, 10_000), 4000: (8, 2000)}
# Microseconds of a TD(1) step on one CPU core: a constant, and a term for each action; measured, see BUILD_NOTES.md.
_STEP, _STEP_PER_ACTION = 0.2, 0.011
_GIB = 2**30


@dataclasses.dataclass
class Settings(common.Estimation, common.Output, common.QLearning, common.Preset, common.Training, common.Worlds):
    """The flags of this figure."""

    num_actions: Any = common.option([str(a) for a in SIZES], "numbers of actions, a panel each; four of them move")
    num_mdps: Any = common.option(
        [], "sampled worlds, one number or one for each panel; default 100, 40, 16, 8 from 4, 40, 400, 4000 actions on"
    )
    num_iterations: Any = common.option(
        [], "episodes of each student, as for num_mdps; default 30000, 30000, 10000, 2000; the paper has 30000"
    )
    num_checkpoints: int = common.option(50, "points of each learning curve")
    methods: list[str] = common.option(METHODS, "methods, by name, separated by commas")
    # Paper: no floor is stated. Here: far below that of the other figures, for the reason given above.
    probability_floor: float = common.option(1e-30, "least teacher probability inside a logarithm")
    teacher: str = common.option(
        "moves", "actions of the Q-learning teacher: moves, the four moves, or all, |A| actions (slow)"
    )
    teacher_iterations: int = common.option(30_000, "episodes of each teacher")
    memory_gib: float = common.option(4.0, "memory to use, GiB; limits how many worlds are trained at once")


SMOKE = {
    "num_mdps": ["3"], "num_iterations": ["40"], "num_checkpoints": 10, "num_rows": 6, "num_cols": 6, "p_plus10": 0.1,
    "teacher_iterations": 500,
}  # fmt: skip


def resolve(settings: Any) -> Any:
    """The settings with a number of worlds and of iterations for each panel; raises ValueError for wrong numbers."""
    actions = _whole_numbers("num_actions", settings.num_actions, MOVES)
    if len(set(actions)) < len(actions) or not actions:
        raise ValueError(f"--num_actions needs one or more different numbers; got {actions}.")
    defaults = [SIZES[max(least for least in SIZES if least <= a)] for a in actions]
    sizes = {}
    for i, name in enumerate(("num_mdps", "num_iterations")):
        numbers = _whole_numbers(name, getattr(settings, name), 1) or [size[i] for size in defaults]
        sizes[name] = numbers * len(actions) if len(numbers) == 1 else numbers
        if len(sizes[name]) != len(actions):
            raise ValueError(f"--{name} must be one number, or one for each of {len(actions)} panels; got {numbers}.")
    return dataclasses.replace(settings, num_actions=actions, **sizes)


def _whole_numbers(name: str, values: list[Any], least: int) -> list[int]:
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        raise ValueError(f"--{name} must be whole numbers separated by commas; got {','.join(values)}.") from None
    if numbers and min(numbers) < least:
        raise ValueError(f"--{name} must be at least {least}; got {min(numbers)}.")
    return numbers


def panels(settings: Any) -> dict[str, Any]:
    """The settings of each panel by the name of its part, with one number of actions, of worlds, of iterations."""
    sizes = zip(settings.num_actions, settings.num_mdps, settings.num_iterations, strict=True)
    return {
        f"actions{a}": dataclasses.replace(settings, num_actions=a, num_mdps=m, num_iterations=i) for a, m, i in sizes
    }


def check(settings: Any) -> None:
    """Validates resolved settings; raises ValueError with one line."""
    methods = common.known_methods(settings.methods, KNOWN)
    common.known("teacher", [settings.teacher], TEACHERS)
    settings.q_learning()
    for panel in panels(settings).values():
        panel.grid_config(), panel.train_config(), worlds_at_once(panel)
    if settings.teacher_iterations < 1:
        raise ValueError(f"--teacher_iterations must be at least 1; got {settings.teacher_iterations}.")
    for method in methods:
        if method.estimator not in (None, settings.estimator):
            raise ValueError(f"{method.name} exists for --estimator={method.estimator} only; got {settings.estimator}.")


def worlds_at_once(panel: Any) -> int:
    """How many worlds one call of `train` can have within --memory_gib; raises ValueError if not even one fits."""
    num_states, num_actions = panel.num_rows * panel.num_cols, panel.num_actions
    table = 4 * num_states * num_actions  # bytes of one number for each state and action
    rule = rules.student_rule(num_actions, ())
    width = rule.num_parts * rule.width
    devices = pool.workers()
    lanes = len(devices) * pool.lane_width(num_states, width)
    # A block is in memory twice while students are loaded into its lanes; 64 students at a time are evaluated exactly.
    needed = 2 * lanes * 4 * num_states * width + 64 * 4 * table + 0.5 * _GIB
    per_world = 20 * table  # teacher, optimal policy, values of actions, and temporary copies; measured
    if needed + per_world > panel.memory_gib * _GIB:
        raise ValueError(
            f"|A| = {num_actions} on {panel.num_rows} x {panel.num_cols} cells needs --memory_gib="
            f"{(needed + per_world) / _GIB:.1f} or more; got {panel.memory_gib}."
        )
    return int(min((panel.memory_gib * _GIB - needed) // per_world, panel.num_mdps))


def worlds(panel: Any) -> MDP:
    """The worlds of a panel: the first maps of one sequence, the same for every number of actions."""
    return jaxdistill.sample_mdps(common.keys(panel.seed).worlds, panel.num_mdps, panel.grid_config())


def learn(settings: Any, mdps: MDP) -> Teacher:
    """Q-learning teachers with all actions of `mdps`; the teacher of a world does not depend on the other worlds."""
    options = settings.q_learning() | {"num_iterations": settings.teacher_iterations, "discount": settings.discount}
    return teachers.q_learning(common.keys(settings.seed).teacher, mdps, **options, progress=True)


def moves(settings: Any) -> dict[str, np.ndarray]:
    """The worlds with the four moves alone: Q-learning teachers and the uniform policy.

    Returns:
      probs [M, S, 4] of the teachers, [0, S, 4] if teachers learn with all actions; uniform_returns [M], exact.
    """
    mdps = worlds(dataclasses.replace(settings, num_actions=MOVES, num_mdps=max(settings.num_mdps)))
    uniform = exact.policy_values(mdps, exact.uniform_policy(mdps))
    probs = learn(settings, mdps).probs if settings.teacher == "moves" else jnp.zeros((0, mdps.num_states, MOVES))
    return {"probs": np.asarray(probs), "uniform_returns": np.asarray(exact.start_value(mdps, uniform))}


def with_idle_actions(mdps: MDP, probs: np.ndarray, discount: float) -> Teacher:
    """Teachers of `mdps` that play the four moves with `probs` [M, S, 4] and never another action."""
    padded = np.pad(probs, ((0, 0), (0, 0), (0, mdps.num_actions - MOVES)))
    return teachers.from_table(mdps, padded, discount=discount, name="q_learning")


def run_panel(panel: Any, probs: np.ndarray) -> Result:
    """Trains the students of a panel, as many worlds at once as memory allows."""
    mdps, key, results = worlds(panel), common.keys(panel.seed).students, []
    methods = common.known_methods(panel.methods, KNOWN)
    print(f"|A| = {panel.num_actions}: at most about {duration(seconds(panel, mdps))}", flush=True)
    for indices in np.array_split(np.arange(panel.num_mdps), -(-panel.num_mdps // worlds_at_once(panel))):
        some = mdps[indices]
        all_actions = panel.teacher == "all"
        teacher = learn(panel, some) if all_actions else with_idle_actions(some, probs[indices], panel.discount)
        config = panel.train_config()
        results.append(jaxdistill.train(key, some, teacher, methods, config, keep_tables=False, progress=True))
    return jaxdistill.concatenate(results)


def seconds(panel: Any, mdps: MDP) -> float:
    """The run time of a panel whose students do not learn; students that learn have shorter episodes."""
    # One action with the mean outcome probabilities of all actions is the uniform policy, and needs less memory.
    mean = dataclasses.replace(mdps, outcome_probs=mdps.outcome_probs.mean(axis=-2, keepdims=True))
    length = exact.start_value(mean, exact.expected_length(mean, exact.uniform_policy(mean))).mean()
    episodes = panel.num_mdps * len(panel.methods) * panel.num_iterations
    ticks = float(length) * ESTIMATORS[panel.estimator].ticks_per_step
    return episodes * ticks * (_STEP + _STEP_PER_ACTION * panel.num_actions) * 1e-6 / len(pool.workers())


def plot(settings: Any, parts: dict[str, Any]) -> Any:
    """Draws the figure from its parts."""
    figure, axes = plotting.new_figure(1, len(settings.num_actions))
    with plotting.style():
        for ax, (name, panel) in zip(axes[0], panels(settings).items(), strict=True):
            ax.set_title(f"|A| = {panel.num_actions} ({panel.num_mdps} worlds)")
            if name not in parts:  # unfinished
                continue
            result = parts[name]
            indices = dict(zip(settings.methods, plotting.palette_indices(settings.methods), strict=True))
            for method in (m for m in settings.methods if m in result.labels):
                curves = result.returns[result.method_index(method)]
                plotting.plot_curves(ax, result.iterations, curves, method, index=indices[method])
            plotting.reference_line(ax, float(result.teacher_returns.mean()), "teacher")
            of_moves = parts["moves"]["uniform_returns"][: panel.num_mdps]
            plotting.reference_line(ax, float(of_moves.mean()), "uniform", "Uniform policy, |A| = 4")
            if panel.num_actions > MOVES:
                uniform = float(result.uniform_returns.mean())
                plotting.reference_line(ax, uniform, "uniform", "Uniform policy, this |A|", "#b9ac70")
            plotting.label_axes(ax, ylabel=ax is axes[0, 0])
    plotting.add_legend(figure)
    return figure


def table(settings: Any, parts: dict[str, Any]) -> list[str]:
    """Lines of Markdown: the end of every curve, and the paper's points beside ours."""
    paper = json.loads(targets.POINTS.read_text())["fig4"]
    lines = ["| actions | method | iteration | paper | ours |", "|--:|---|--:|--:|--:|"]
    for name, panel in panels(settings).items():
        result = parts[name]
        end = int(result.iterations[-1])
        for method in settings.methods:
            paper_points = paper.get(str(panel.num_actions), {}).get(method, {})
            points = {end: ""} | {int(k): f"{v:.2f}" for k, v in paper_points.items() if int(k) <= end}
            for iteration, value in sorted(points.items()):
                ours = targets.value_at(result, method, iteration)
                lines.append(f"| {panel.num_actions} | {method} | {iteration:,} | {value} | {ours:.2f} |")
    return lines


def run(
    settings: Any,
    outdir: Path,
    make_moves: Callable[..., dict[str, np.ndarray]] = moves,
    make_panel: Callable[..., Result] = run_panel,
) -> dict[str, Any]:
    """Runs the parts of the figure that are not finished yet: `moves`, and one for each panel."""
    parts = common.run_parts(settings, outdir, {"moves": functools.partial(make_moves, settings)})
    probs = parts["moves"]["probs"]
    panel_parts = {name: functools.partial(make_panel, panel, probs) for name, panel in panels(settings).items()}
    settings = dataclasses.replace(settings, restart=False)  # the first call has already moved the earlier work
    return parts | common.run_parts(settings, outdir, panel_parts, lambda results: plot(settings, parts | results))


def work(settings: Any) -> None:
    """Runs the parts that are not finished yet, prints the table and draws the figure."""
    settings = resolve(settings)
    check(settings)
    outdir = common.prepare_outdir(settings)
    parts = run(settings, outdir)
    print("\n".join(table(settings, parts)))
    common.deliver(plot(settings, parts), outdir, "fig4")


if __name__ == "__main__":
    common.main(Settings, "fig4", SMOKE, work)
