"""Tables of the site, made from the package's own objects when the site is built."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from experiments import all as run_all
from experiments.common.presets import preset_flags
from jaxdistill import Result, methods, presets
from jaxdistill.cli.describing import case_numbers, claim_of, control_text, gradient_of, numbers_of
from jaxdistill.mdp.named_measures import MEASURES
from jaxdistill.methods import LIBRARY_UPDATES, Method, to_library, zoo
from jaxdistill.methods.combinators import Objective
from jaxdistill.methods.library_settings import LibraryUpdate, settings_text
from jaxdistill.methods.method_formulas import method_formula
from jaxdistill.methods.policy_sums import definitions
from jaxdistill.methods.registry import sources_of
from jaxdistill.runtime.progress import duration

GROUPS: dict[str, Iterable[Objective]] = {
    "controls": zoo._CONTROLS,
    "returns": zoo._RETURNS,
    "estimators": zoo._ESTIMATORS,
    "divergences": zoo._DIVERGENCES,
    "policies": zoo._POLICIES,
    "top-k": zoo._TOP_K,
}

PAPER = "the paper's methods"


def _link(name: str) -> str:
    """The name of a method as a link to its formula."""
    return f"[`{name}`](formulas.md#{_anchor(name)})"


def _anchor(name: str) -> str:
    return f"method-{name}"


def _paper(method: Method) -> list[str]:
    equations = dict(method_formula(method).lines())
    parts = [equations.get(left, "") for left in ("l_t", "rhat_t")]
    if method.bootstrap != "student":
        parts[1] += f", V(t+1) from {'0' if method.bootstrap == 'zero' else 'V_pi'}"
    return [_link(method.name), gradient_of(method), control_text(method), *parts]


def paper_table(_: str) -> list[list[str]]:
    """The paper's methods, with the loss and the reward of each and the loss whose gradient it descends."""
    header = ["name", "descends", "q", "l_t", "rhat_t"]
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
        rows.append([_link(objective.name), objective.gradient_of, made_of, objective.source])
    return rows


def find_table(_: str) -> list[list[str]]:
    """Every method with the papers and the libraries that it comes from."""
    rows = [["name", "of", "paper", "library", "settings of"]]
    for group, members in _groups().items():
        for method in members:
            cells = [
                "; ".join(f"[{source}]({source.url})" for source in sources_of(method) if source.kind == kind)
                for kind in ("paper", "library")
            ]
            settings = (f"[{key}](libraries.md#{_library_anchor(key)})" for key in to_library(method))
            rows.append([_link(method.name), group, *cells, "; ".join(settings)])
    return [rows[0], *sorted(rows[1:])]


def _groups() -> dict[str, Iterable[Method]]:
    return {PAPER: methods.METHODS.values(), **GROUPS}


def formulas_page() -> list[str]:
    """The lines of a section for each method: its formula, numbers, sources, and what it is the gradient of."""
    lines = []
    for group, members in _groups().items():
        lines += [f"## {group[0].upper()}{group[1:]}", ""]
        for method in members:
            lines += _formula_section(method)
    return lines


def _formula_section(method: Method) -> list[str]:
    formula, claim, words = method_formula(method), claim_of(method), gradient_of(method)
    lines = [f"({_anchor(method.name)})=", f"### {method.name}", ""]
    if not isinstance(method, Objective):  # the description of an objective repeats its claim and its source
        lines += [_escaped(method.description), ""]
    for left, right in formula.lines(latex=True):
        lines += [f"$${left} = {right}$$", ""]
    expressions = [right for _, right in formula.equations] + ([] if claim is None else [claim])
    named = definitions(*expressions, latex=True)
    lines += ["where", "", *(f"- ${line}$" for line in named), ""] if named else []
    if claim is not None and words.endswith(claim.text):
        lines += [f"It is the gradient, {words.removesuffix(claim.text).strip(' :') or 'over whole episodes'}, of", ""]
        lines += [f"$${claim.latex}$$", ""]
    else:
        lines += [f"It is the gradient of {_escaped(words)}.", ""]
    lines.append(f"- Control policy: {control_text(method)}")
    lines += [f"- Number: {_escaped(text)}" for text in numbers_of(method)]
    lines += [f"- Source: [{_escaped(str(source))}]({source.url})" for source in sources_of(method)]
    settings = "; ".join(f"[{key}](libraries.md#{_library_anchor(key)})" for key in to_library(method))
    lines += [f"- Settings of other libraries: {settings}"] if settings else []
    plain = [f"{left} = {right}" for left, right in formula.lines()] + definitions(*expressions)
    return [*lines, "", "```text", *plain, "```", ""]


def _library_anchor(key: str) -> str:
    return f"library-{key.replace('.', '-').replace('_', '-')}"


def back_table(_: str) -> list[list[str]]:
    """The methods with the settings of other libraries whose update is the same."""
    rows = [["method", "settings"]]
    for members in _groups().values():
        for method in members:
            settings = to_library(method)
            texts = [
                f"[{key}](#{_library_anchor(key)}): {settings_text(x) or 'its defaults'}" for key, x in settings.items()
            ]
            if texts:
                rows.append([_link(method.name), "; ".join(texts)])
    return [rows[0], *sorted(rows[1:])]


def libraries_page() -> list[str]:
    """The lines of a section for each update of another library."""
    lines = []
    for update in LIBRARY_UPDATES.values():
        lines += [f"({_library_anchor(update.key)})=", f"## {update.key}", ""]
        places = "; ".join(f"`{place.strip()}`" for place in update.place.split(";"))
        lines += [f"[{update.library}]({update.library.url}) {update.version}. {places}", ""]
        lines += [f"Defaults: `{settings_text(update.defaults)}`.", "", *to_markdown(_library_rows(update)), ""]
        lines += [f"Where it differs: {_escaped(update.difference)}", ""]
    return lines


def _library_rows(update: LibraryUpdate) -> list[list[str]]:
    rows = [["settings", "method", "with", "note"]]
    for case in (case for case in update.cases if not case.back_only):
        name = case.method.name
        method = _link(name) if name in methods.METHODS or name in methods.ZOO else f"`{name}`"
        rows.append([settings_text(case.when) or "any", method, case_numbers(update, case), case.note])
    rows += [[settings_text(refusal.when), "none", "", refusal.reason] for refusal in update.refusals]
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
    "find": find_table,
    "back": back_table,
    "experiments": experiments_table,
    "axes": axes_table,
    "measures": measures_table,
    "presets": presets_table,
}


_PAGES: dict[str, Callable[[], list[str]]] = {"formulas": formulas_page, "libraries": libraries_page}


def _escaped(text: str) -> str:
    """Text in which no character has a meaning for Markdown, except in links and code."""
    parts = re.split(r"(`[^`]*`|\]\([^)]*\))", text)
    return "".join(part if i % 2 else re.sub(r"([|*_<])", r"\\\1", part) for i, part in enumerate(parts))


def to_markdown(rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table, whose head is the first row."""
    head, *body = ("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]


class Catalogue(SphinxDirective):
    """The directive of the tables: ```{catalogue} paper-methods``` or ```{catalogue} objectives top-k```.

    ```{catalogue} formulas``` gives a section for each method, and ```{catalogue} libraries``` one for each update of
    another library.
    """

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        kind, group = (*self.arguments, "")[:2]
        container = nodes.container()
        if kind in _PAGES:
            lines = StringList(_PAGES[kind](), "catalogue")
            self.state.nested_parse(lines, self.content_offset, container, match_titles=True)
            return container.children
        if kind not in _TABLES or group not in ("", *GROUPS):
            raise self.error(f"catalogue: no table {kind!r} {group!r}; there are {list(_TABLES)} and {list(GROUPS)}.")
        lines = StringList(to_markdown(_TABLES[kind](group)), "catalogue")
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the tables."""
    app.add_directive("catalogue", Catalogue)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
