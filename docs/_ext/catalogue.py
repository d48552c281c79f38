"""Tables of the site, made from the package's own objects when the site is built."""

from collections.abc import Callable, Iterable
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from experiments import all as run_all
from experiments.common.presets import preset_flags
from jaxdistill import Result, methods, presets
from jaxdistill.cli.commands import control_text, gradient_of
from jaxdistill.mdp.named_measures import MEASURES
from jaxdistill.methods import Method, zoo
from jaxdistill.methods.combinators import Objective
from jaxdistill.runtime.progress import duration

GROUPS: dict[str, Iterable[Objective]] = {
    "controls": zoo._CONTROLS,
    "returns": zoo._RETURNS,
    "estimators": zoo._ESTIMATORS,
    "divergences": zoo._DIVERGENCES,
    "policies": zoo._POLICIES,
    "top-k": zoo._TOP_K,
}

# The formulas of the paper's loss and reward functions. The build stops at a method whose function is missing here.
_FORMULAS: dict[Any, str] = {
    None: "",
    methods.cross_entropy: "H(pi||pi_theta)",
    methods.reverse_cross_entropy: "H(pi_theta||pi)",
    methods.value_conditioned_cross_entropy: "H(pi||pi_theta) where V_pi > V_theta",
    methods.negative_cross_entropy: "-H(pi||pi_theta) at t+1",
    methods.environment_reward: "r_t",
    methods.teacher_log_prob: "log pi(a_t)",
    methods.log_ratio: "log pi(a_t) - log pi_theta(a_t)",
    methods.teacher_value_reward: "r_t + discount V_pi(t+1) - V_pi(t)",
}


def _paper(method: Method) -> list[str]:
    if method.name in ("on_policy_distill_r", "on_policy_distill_r_vcond"):  # `plus_reward` wraps without a reward
        reward = _FORMULAS[methods.environment_reward]
    elif method.next_reward is methods.teacher_log_prob:
        reward = "log pi(a_{t+1})"
    else:
        reward = _FORMULAS[method.reward or method.next_reward]
    if method.bootstrap != "student":
        reward += f", V(t+1) from {'0' if method.bootstrap == 'zero' else 'V_pi'}"
    return [f"`{method.name}`", gradient_of(method), control_text(method), _FORMULAS[method.loss], reward]


def paper_table(_: str) -> list[list[str]]:
    """The paper's methods, with the loss and the reward of each and the loss whose gradient it descends."""
    header = ["name", "descends", "q", "l_t", "r'_t"]
    return [header, *(_paper(method) for method in methods.METHODS.values())]


def zoo_table(group: str) -> list[list[str]]:
    """A group of the objectives of `ZOO`: parts, numbers with their domains, the loss they descend, and source."""
    rows = [["name", "descends", "made of", "source"]]
    for objective in GROUPS[group]:
        parts = [name for name in ("loss", "reward", "next_reward") if getattr(objective, name)]
        made_of = " and ".join(part.replace("next_reward", "reward of t+1") for part in parts)
        if objective.control is not methods.STUDENT:
            made_of += f"; q: {control_text(objective)}"
        numbers = [f"{name} {value:g} {objective.domains[name]}" for name, value in objective.params.items()]
        numbers += [] if objective.discount is None else [f"discount {objective.discount:g}"]
        made_of += f" ({', '.join(numbers)})" if numbers else ""
        rows.append([f"`{objective.name}`", objective.gradient_of, made_of, objective.source])
    return rows


def experiments_table(_: str) -> list[list[str]]:
    """The experiments in the order in which `experiments.all` runs them, with their run times."""
    rows = [["name", "what it shows", "`--smoke`", "default", "worlds"]]
    for experiment in run_all.TABLE:
        title = run_all.caption(experiment.name).split("\n\n")[0].replace("\n", " ")
        times = [duration(experiment.smoke_seconds), duration(experiment.seconds)]
        rows.append([f"`{experiment.name}`", title, *times, str(experiment.worlds or "")])
    return rows


def axes_table(_: str) -> list[list[str]]:
    """The arrays of a result with their axes."""
    return [["array", "axes"], *([f"`{name}`", ", ".join(axes)] for name, axes in Result.axes.items())]


def measures_table(_: str) -> list[list[str]]:
    """The measures with their formulas, units and better directions."""
    rows = [["name", "what it is", "of a step", "unit", "better", "options"]]
    for name, item in MEASURES.items():
        kind = "mean over the steps" if item.is_mean else "sum over an episode"
        options = [f"`{option}`" for option in (item.trajectories if len(item.trajectories) > 1 else ()) + item.options]
        along = f", along the {item.trajectories[0]}'s trajectories" if len(item.trajectories) == 1 else ""
        title = f"{item.title}: {kind}{along}"
        rows.append([f"`{name}`", title, item.formula, item.unit, item.better or "-", ", ".join(options)])
    return rows


def presets_table(_: str) -> list[list[str]]:
    """The flags that the presets set, with what the second contradicts and what that buys."""
    written, published = (preset_flags(preset) for preset in (presets.AS_WRITTEN, presets.AS_PUBLISHED))
    rows = [["flag", "as_written", "as_published", "what contradicts the text, and what it buys"]]
    for name in [name for name in {**written, **published} if name != "preset"]:
        values = [str(flags.get(name, "")) for flags in (written, published)]
        rows.append([f"`--{name}`", *values, presets.AS_PUBLISHED.contradictions.get(name, "")])
    return rows


_TABLES: dict[str, Callable[[str], list[list[str]]]] = {
    "paper-methods": paper_table,
    "objectives": zoo_table,
    "experiments": experiments_table,
    "axes": axes_table,
    "measures": measures_table,
    "presets": presets_table,
}


def to_markdown(rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table, whose head is the first row."""
    cells = [[cell.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_") for cell in row] for row in rows]
    cells = [[c.replace("\\_", "_") if c.startswith("`") else c for c in row] for row in cells]
    head, *body = ("| " + " | ".join(row) + " |" for row in cells)
    return [head, "|" + " --- |" * len(rows[0]), *body]


class Catalogue(SphinxDirective):
    """The directive of the tables: ```{catalogue} paper-methods``` or ```{catalogue} objectives top-k```."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        kind, group = (*self.arguments, "")[:2]
        if kind not in _TABLES or group not in ("", *GROUPS):
            raise self.error(f"catalogue: no table {kind!r} {group!r}; there are {list(_TABLES)} and {list(GROUPS)}.")
        container = nodes.container()
        lines = StringList(to_markdown(_TABLES[kind](group)), "catalogue")
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the tables."""
    app.add_directive("catalogue", Catalogue)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
