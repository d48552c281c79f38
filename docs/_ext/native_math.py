"""Formulas as plain HTML: no script, no network, no LaTeX, and no font for mathematics, which many phones lack.

docutils converts TeX to MathML. This module converts those elements of MathML that the pages use to letters, subscripts
and stacks.
"""

import xml.etree.ElementTree as ElementTree
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

_RELATIONS = "=<>≤≥←→×+−∥‖·∈"
_THIN, _MEDIUM = "\N{THIN SPACE}", "\N{MEDIUM MATHEMATICAL SPACE}"


def _operator(text: str, form: str | None) -> str:
    if text in ("\N{FUNCTION APPLICATION}", ","):
        return {",": ", "}.get(text, "")
    if text == "∑":
        return '<span class="sum">∑</span>'
    if text in _RELATIONS and form != "prefix":
        return f"{_MEDIUM}{escape(text)}{_MEDIUM}"
    return escape(text)


def to_html(element: ElementTree.Element) -> str:
    """Converts an element of MathML to HTML; raises ValueError for an element that no page has used so far."""
    tag = element.tag.rpartition("}")[2]
    text = (element.text or "").strip()
    parts = [to_html(child) for child in element]
    if tag in ("math", "mrow", "mstyle"):
        return "".join(parts)
    if tag == "mi":
        return f"<i>{escape(text)}</i>" if len(text) == 1 and text.isalpha() else escape(text) + _THIN * (len(text) > 1)
    if tag in ("mn", "mtext"):
        return escape(element.text or "" if tag == "mtext" else text)
    if tag == "msqrt":
        return f"√({''.join(parts)})"
    if tag == "mo":
        return _operator(text, element.get("form"))
    if tag == "mspace":
        return "\N{EM SPACE}" if float(element.get("width", "0em").removesuffix("em")) >= 1 else _THIN
    if tag in ("msub", "msup"):
        return f"{parts[0]}<{tag[1:]}>{parts[1]}</{tag[1:]}>"
    if tag == "msubsup":
        return f'{parts[0]}<span class="both"><sup>{parts[2]}</sup><sub>{parts[1]}</sub></span>'
    if tag == "munder":
        return f'<span class="under">{parts[0]}<span class="limit">{parts[1]}</span></span>{_THIN}'
    if tag == "mfrac" and all(child.tag.rpartition("}")[2] == "mn" for child in element):
        return f"<sup>{parts[0]}</sup>\N{FRACTION SLASH}<sub>{parts[1]}</sub>"
    if tag == "mfrac":
        return f'<span class="fraction"><span>{parts[0]}</span><span>{parts[1]}</span></span>'
    raise ValueError(f"docs/_ext/native_math.py has no HTML for <{tag}>; add it, or write the formula otherwise.")


def _formula(tex: str, as_block: bool) -> str:
    source = tex2mathml(tex, as_block=as_block).replace("&ApplyFunction;", "\N{FUNCTION APPLICATION}")
    return to_html(ElementTree.fromstring(source))


def _visit_inline(writer: Any, node: nodes.math) -> None:
    tex = node.astext()
    writer.body.append(f'<span class="formula" role="math" aria-label="{escape(tex)}">{_formula(tex, False)}</span>')
    raise nodes.SkipNode


def _visit_block(writer: Any, node: nodes.math_block) -> None:
    tex = node.astext()
    writer.body.append(f'<div class="formula" role="math" aria-label="{escape(tex)}">{_formula(tex, True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer and selects it."""
    app.add_html_math_renderer("plain", (_visit_inline, None), (_visit_block, None))
    app.config["html_math_renderer"] = "plain"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
