"""What the command line does: one function for each of its commands, given the parsed arguments."""

import argparse
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxdistill import results, teachers
from jaxdistill.mdp import MDP, stack
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods import METHODS, Method, guide
from jaxdistill.methods.combinators import Objective
from jaxdistill.methods.zoo import ZOO
from jaxdistill.results.comparison import compare
from jaxdistill.runtime import checks
from jaxdistill.theory.fields import check_method
from jaxdistill.theory.stated_losses import LOSSES
from jaxdistill.training.config import Config
from jaxdistill.training.train import train
from jaxdistill.worlds import garnet
from jaxdistill.worlds.gridworld import sample_mdps
from jaxdistill.worlds.gymnasium import from_gymnasium

NO_LOSS = "no loss"
TEACHERS = ("q_learning", "actor_critic", "optimal", "adversarial", "uniform")
TRAINING: dict[str, tuple[type, str]] = {
    "num_checkpoints": (int, "points of each learning curve"),
    "estimator": (str, "returns: td (TD(1)) or mc (as sampled), for methods that do not fix it"),
    "reduction": (str, "an episode's update is the mean or the sum over its steps"),
    "learning_rate": (float, "step size of the student's logits"),
    "value_learning_rate": (float, "step size of the student's value table"),
    "discount": (float, "discount of the returns trained on, in [0, 1]; what is shown is undiscounted"),
    "probability_floor": (float, "least teacher probability inside a logarithm, in [0, 1)"),
    "max_episode_steps": (int, "steps after which a training episode is cut"),
}
DEFAULTS = {"num_checkpoints": 20}  # where they are not those of a `Config`


def method(name: str) -> Method:
    """The method of a name of `METHODS` or `ZOO`, or of one of `METHODS` with `_r` for its reward added."""
    if name in ZOO:
        return ZOO[name]
    try:
        return guide.method(name)
    except ValueError:
        raise ValueError(f"Unknown method {name!r}; python -m jaxdistill methods lists them.") from None


def gradient_of(chosen: Method) -> str:
    """What a method's expected update descends, summed over steps and undiscounted, in words."""
    if isinstance(chosen, Objective):
        return chosen.gradient_of
    return LOSSES[chosen.name].text if METHODS.get(chosen.name) is chosen and chosen.name in LOSSES else NO_LOSS


def control_text(chosen: Method) -> str:
    """The control policy in words, such as "student" or "0.5 student + 0.5 teacher by episode"."""
    parts = [
        (weight, who)
        for weight, who in zip(chosen.control.weights, ("student", "teacher", "uniform"), strict=True)
        if weight
    ]
    if len(parts) == 1:
        return parts[0][1]
    return " + ".join(f"{weight:g} {who}" for weight, who in parts) + f" by {chosen.control.per}"


def run_methods(args: argparse.Namespace) -> None:
    """Lists METHODS and ZOO, or says what one of them is."""
    if args.name:
        print(_details(method(args.name)))
        return
    for title, group in (("METHODS, of the paper", METHODS), ("ZOO, of the field", ZOO)):
        lines = [(name, control_text(item), gradient_of(item)) for name, item in group.items()]
        header = ("name", "control q", "expected update is the gradient of")
        widths = [max(len(line[i]) for line in [header, *lines]) for i in range(2)]
        print(f"{title}: {len(lines)}")
        for name, q, text in [header, *lines]:
            print(f"  {name:{widths[0]}}  {q:{widths[1]}}  {text}")
        print()
    print("Sums over steps, undiscounted; the name of one for its formula. A name of METHODS with _r adds the reward.")


def _details(chosen: Method) -> str:
    def said(fn: Callable | None, otherwise: str) -> str:
        text = inspect.getdoc(fn) if fn is not None and fn.__module__ in _STEP_MODULES else None
        return "-" if fn is None else " ".join((text or otherwise).split()).rstrip(".")

    lines = {
        "update": "E_q sum_t [ -grad log pi_theta(a_t) Rhat_t + grad l_t ]",
        "q": control_text(chosen),
        "l": said(chosen.loss, "composed, see jaxdistill/objectives.py"),
        "rhat": said(chosen.reward, "composed, see jaxdistill/objectives.py"),
        "rhat from t+1": said(chosen.next_reward, "composed, see jaxdistill/objectives.py"),
        "estimator": chosen.estimator or "td or mc, as configured",
        "reduction": chosen.reduction or "mean or sum over steps, as configured",
        "baseline": "V_theta" if chosen.baseline and chosen.has_return else "-",
        "discount": "as configured" if chosen.discount is None else f"{chosen.discount:g}",
        "numbers": ", ".join(f"{name} {value:g}" for name, value in chosen.params.items()) or "-",
        "gradient of": gradient_of(chosen),
        "source": chosen.source if isinstance(chosen, Objective) else "Czarnecki et al. 2019",
        "tried by": f"python -m jaxdistill check {chosen.name}",
    }
    return "\n".join(
        [f"{chosen.name}: {chosen.description}", *(f"  {name:13}  {text}" for name, text in lines.items())]
    )


_STEP_MODULES = ("jaxdistill.methods.method", "jaxdistill.methods.step_functions")


def run_check(args: argparse.Namespace) -> None:
    """Prints what `check_method` finds."""
    print(check_method(method(args.name), num_mdps=args.num_mdps, key=_key(args)))


def _key(args: argparse.Namespace) -> jax.Array:
    return jax.random.key(checks.seed(args.seed))


def run_compare(args: argparse.Namespace) -> None:
    """Trains, prints the comparison, and saves result and figures."""
    chosen = {name: method(name) for name in args.methods.split(",")}
    stem = Path(args.out)
    if not stem.name:
        raise ValueError(f"--out must name a file, without .npz; got {args.out!r}.")
    target = stem.with_name(stem.name + ".npz")
    if target.exists() and not args.overwrite:
        raise ValueError(f"{target} exists; use another --out, or --overwrite.")
    if not target.parent.is_dir():
        raise ValueError(f"There is no folder {target.parent}; make it, or use another --out.")
    baseline = args.baseline or next(iter(chosen))
    if baseline not in chosen:
        raise ValueError(f"--baseline={baseline} is not one of the methods {', '.join(chosen)}.")
    if args.reach is not None:  # before the work, not after it
        checks.number("--reach", args.reach)
    checks.number("--teacher_noise", args.teacher_noise, 0, 1)
    config = Config(num_iterations=args.num_iterations, **{name: getattr(args, name) for name in TRAINING})
    worlds_key, teacher_key, noise_key, key = jax.random.split(_key(args), 4)
    mdps = _worlds(args, worlds_key)
    teacher = _teacher(args, teacher_key, mdps, config)
    if args.teacher_noise:
        teacher = teachers.with_noise(noise_key, mdps, teacher, args.teacher_noise)
    result = train(key, mdps, teacher, chosen, config, progress=True)
    comparison = compare(result, baseline, reach=args.reach)
    result.save(target)
    print(comparison)
    print(target)
    _draw(result, stem)
    if len(chosen) > 1:
        _draw(comparison, stem.with_name(stem.name + "_intervals"))


def _worlds(args: argparse.Namespace, key: jax.Array) -> MDP:
    kind, _, name = args.worlds.partition(":")
    if args.num_mdps < 1:
        raise ValueError(f"--num_mdps must be at least 1; got {args.num_mdps}.")
    if kind == "grid" and not name:
        return sample_mdps(key, args.num_mdps, num_rows=args.num_rows, num_cols=args.num_cols)
    if kind == "garnet" and not name:
        return garnet.garnet(key, args.num_mdps)
    if kind == "gymnasium" and name:
        return stack([from_gymnasium(name)] * args.num_mdps)
    raise ValueError(
        f"--worlds must be grid, garnet or gymnasium:ID, such as gymnasium:FrozenLake-v1; got {args.worlds}."
    )


def _teacher(args: argparse.Namespace, key: jax.Array, mdps: MDP, config: Config) -> Teacher:
    if args.teacher == "q_learning":
        options = dict(discount=config.discount, max_episode_steps=config.max_episode_steps)
        return teachers.q_learning(key, mdps, num_iterations=config.num_iterations, progress=True, **options)
    if args.teacher == "actor_critic":
        return teachers.actor_critic(key, mdps, config=config, progress=True, num_checkpoints=1)
    return getattr(teachers, args.teacher)(mdps, discount=config.discount)


def _draw(what: Any, stem: Path, **options: Any) -> None:
    from jaxdistill import plotting

    for path in plotting.save_figure(what.plot(**options), stem):
        print(path)


def run_show(args: argparse.Namespace) -> None:
    """Prints what is in a results file."""
    result = results.load(args.file)
    print(result)
    print("\nmethod: mean exact return of the final students, of the teacher")
    for p, label in enumerate(result.labels):
        ours, theirs = result.final_returns[p].mean(), result.teacher_returns[p].mean()
        print(f"  {label}: {ours:.4g}, {theirs:.4g} (curve {result.curve_kind[p]})")
    print("\narrays: shape (axes)")
    for name, axes in result.axes.items():
        array = getattr(result, name)
        if array is not None:
            print(f"  {name}: {array.shape} ({', '.join(axes)})")
    for name, found in (
        ("settings", _brief(result.settings)),
        ("versions", result.versions),
        ("faults", result.faults),
    ):
        print(f"\n{name}:{'' if found else ' none'}")
        for line in json.dumps(found, indent=2).splitlines()[1:-1]:
            print(line)


def _brief(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the configuration of each cell only what differs from the configuration of all."""
    cells, common = settings.get("cells"), settings.get("config", {})
    if not isinstance(cells, dict):
        return settings
    brief = {}
    for label, cell in cells.items():
        own = {name: value for name, value in cell.get("config", {}).items() if common.get(name, ...) != value}
        brief[label] = {name: value for name, value in cell.items() if name != "config"} | own
    return settings | {"cells": brief}


def run_plot(args: argparse.Namespace) -> None:
    """Draws the learning curves of a results file."""
    labels = args.methods.split(",") if args.methods else None
    stem = Path(args.out) if args.out else Path(args.file).with_suffix("")
    _draw(results.load(args.file), stem, labels=labels, quantity=args.quantity)


def run_table(args: argparse.Namespace) -> None:
    """Prints the comparison of results files."""
    loaded = {file: results.load(file) for file in args.files}
    labels = [label for result in loaded.values() for label in result.labels]
    names = {Path(file).stem: result for file, result in loaded.items()}
    # Names only where they are needed to tell methods apart.
    distinct = len(set(labels)) == len(labels)
    if not distinct and len(names) < len(loaded):
        names = dict(loaded)
    table = compare(list(loaded.values()) if distinct else names, args.baseline, reach=args.reach)
    columns = args.columns.split(",") if args.columns else None
    if args.format == "text" and columns:
        raise ValueError("--columns is for --format=markdown and --format=latex.")
    forms = {
        "text": lambda: str(table),
        "markdown": lambda: table.to_markdown(columns),
        "latex": lambda: table.to_latex(columns),
    }
    print(forms[args.format]())
