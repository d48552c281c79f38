"""What the command `methods` prints: formulas, numbers and sources of methods, and the settings of other libraries."""

import textwrap

from jaxdistill.estimators import ESTIMATORS
from jaxdistill.methods import LIBRARY_UPDATES, METHODS, Method, to_library
from jaxdistill.methods.combinators import NO_LOSS, Objective
from jaxdistill.methods.expressions import Expression
from jaxdistill.methods.library_settings import Case, LibraryUpdate, settings_text
from jaxdistill.methods.method_formulas import FURTHER, SYMBOLS, method_formula
from jaxdistill.methods.policy_sums import definitions
from jaxdistill.methods.registry import sources_of
from jaxdistill.runtime import checks
from jaxdistill.theory.stated_losses import LOSSES

WIDTH = 100  # of the printed text, in characters
_INDENT = 15


def gradient_of(method: Method) -> str:
    """The function whose gradient is the method's expected update, as text; its sums over steps are undiscounted."""
    if isinstance(method, Objective):
        return method.gradient_of
    return LOSSES[method.name].text if _is_of_table_1(method) else NO_LOSS


def claim_of(method: Method) -> Expression | None:
    """The formula of what a method is the gradient of; None where no function is stated whose gradient it is."""
    if isinstance(method, Objective):
        return method.claim
    return LOSSES[method.name].formula if _is_of_table_1(method) else None


def _is_of_table_1(method: Method) -> bool:
    return METHODS.get(method.name) == method and method.name in LOSSES


def control_text(method: Method) -> str:
    """The control policy as text, such as "student" or "0.5 student + 0.5 teacher by episode"."""
    weights = zip(method.control.weights, ("student", "teacher", "uniform"), strict=True)
    parts = [(weight, policy) for weight, policy in weights if weight]
    if len(parts) == 1:
        return parts[0][1]
    return " + ".join(f"{weight:g} {policy}" for weight, policy in parts) + f" by {method.control.per}"


def numbers_of(method: Method) -> list[str]:
    """The numbers of a method with their domains, a line for each."""
    lines = []
    for name, value in method.params.items():
        domain = method.domains.get(name)
        note = f". {domain.note}" if domain is not None and domain.note else ""
        lines.append(f"{name} = {value:g}, {domain or 'any number'}{note}")
    return lines


def estimator_text(method: Method) -> str:
    """Which estimator of the return a method uses."""
    if method.discount == 0:
        return "any; at discount 0 they are the same"
    if method.estimator is not None:
        return method.estimator
    return f"{', '.join(ESTIMATORS)}, as configured; Rhat_t is that of mc"


def details(method: Method, latex: bool = False) -> str:
    """The formula of a method and all that belongs to it, a line or more for each part."""
    formula = method_formula(method)
    claim, words = claim_of(method), gradient_of(method)
    if latex and claim is not None and words.endswith(claim.text):
        words = f"{words[: len(words) - len(claim.text)]}{claim.latex}"
    expressions = [right for _, right in formula.equations] + ([] if claim is None else [claim])
    parts: list[tuple[str, list[str]]] = [("update", [r"theta <- theta - learning_rate g"])]
    parts += [(left, [right]) for left, right in formula.lines(latex)]
    parts += [("gradient of", [words]), ("where", definitions(*expressions, latex=latex))]
    parts += [("numbers", numbers_of(method)), ("q", [control_text(method)])]
    if method.has_return:
        discount = "as configured" if method.discount is None else f"{method.discount:g}"
        parts += [("estimator", [estimator_text(method)]), ("discount", [discount])]
    parts.append(("reduction", [method.reduction or "mean, sum or fixed, as configured; g is that of sum"]))
    parts.append(("source", [f"{source}: {source.url}" for source in sources_of(method)]))
    parts.append(
        ("libraries", [f"{key}: {settings_text(x) or 'its defaults'}" for key, x in to_library(method).items()])
    )
    symbols = SYMBOLS + FURTHER * ("floor" in method.params)
    parts += [("try it", [f"jaxdistill check {method.name}"]), ("symbols", textwrap.wrap(symbols, WIDTH - _INDENT))]
    lines = [f"{method.name}: {method.description}"]
    for title, texts in parts:
        lines += [f"  {title if i == 0 else '':{_INDENT - 2}}{text}" for i, text in enumerate(texts)]
    return "\n".join(lines)


# --- Other libraries ----------------------------------------------------------------------------------------------


def case_numbers(update: LibraryUpdate, case: Case) -> str:
    """The settings that become numbers of the method of a case, such as "k = topk"; "" where there are none."""
    pairs = [(number, setting) for setting, number in case.numbers.items()]
    pairs += [("student share", update.student_share), ("discount", update.discount), ("times", update.coefficient)]
    texts = (f"{number} = {setting}" if number != setting else setting for number, setting in pairs if setting)
    return ", ".join(texts).replace("times = ", "times ")


def library_updates(prefix: str) -> list[LibraryUpdate]:
    """The updates of a library such as "trl", or one such as "trl.gkd"; all of them for "". ValueError for none."""
    updates = [update for key, update in LIBRARY_UPDATES.items() if prefix in ("", key, key.partition(".")[0])]
    if not updates:
        libraries = dict.fromkeys(key.partition(".")[0] for key in LIBRARY_UPDATES)
        checks.known("library", prefix, [*libraries, *LIBRARY_UPDATES], "they are")
    return updates


def library_text(prefix: str) -> str:
    """The settings of libraries with the method of each, and where the libraries differ from their formulas."""
    return "\n\n".join(map(_update_text, library_updates(prefix)))


def _update_text(update: LibraryUpdate) -> str:
    lines = [f"{update.key}: {update.library}, {update.version}", f"  place     {update.place}"]
    lines.append(f"  defaults  {settings_text(update.defaults)}")
    for case in (case for case in update.cases if not case.back_only):
        numbers = case_numbers(update, case)
        method = f"{case.method.name}{': ' if numbers else ''}{numbers}"
        lines.append(f"  {settings_text(case.when) or 'always'}  ->  {method}")
        lines += _indented(case.note, 6)
    for refusal in update.refusals:
        lines += _indented(f"{settings_text(refusal.when)}  ->  no method: {refusal.reason}", 2)
    return "\n".join([*lines, *_indented(f"Differs: {update.difference}", 2)])


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * width, subsequent_indent=" " * (width + 2))
