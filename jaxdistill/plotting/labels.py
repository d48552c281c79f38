"""The texts of figures: names are drawn as they are written, and no text of a user can make the drawing fail.

Matplotlib reads the text between two dollar signs as a formula, and leaves a label that begins with "_" out of every
legend. For names of methods this would be wrong, and `literal` prevents it. A title, or a label that is passed to a
plot function, is written for the figure, so it may contain a formula, and `typeset` keeps the formulas that matplotlib
can read.
"""

import functools
import textwrap

import matplotlib
from matplotlib import font_manager, mathtext

_LINE, _LONGEST = 30, 60  # characters of a line of a name, and of a whole name
_ZERO_WIDTH = "\u200b"
# Fonts of common systems for the writing that DejaVu Sans, the font of matplotlib, lacks: Chinese, Japanese, Korean.
_OTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Microsoft YaHei",
    "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "Arial Unicode MS", "Unifont",
)  # fmt: skip


@functools.cache
def font_families() -> tuple[str, ...]:
    """The fonts of this package's figures: DejaVu Sans, and for the letters that it lacks those that are installed."""
    installed = set(font_manager.get_font_names())
    return "DejaVu Sans", *(name for name in _OTHER_FONTS if name in installed)


def literal(name: str) -> str:
    r"""The text that makes matplotlib write `name` letter by letter, in figures and in every legend.

    A character that no font can draw is written as in a Python string, such as \u4e2d. A name of more than 60
    characters is shortened in the middle by "…", and lines have at most 30 characters. A name without a visible
    character becomes "(no name)".
    """
    text = _drawable(name) if name.strip() else "(no name)"
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
    lines = [
        line for part in text.split("\n") for line in textwrap.wrap(part, _LINE, replace_whitespace=False) or [part]
    ]
    return _shown_in_legends("\n".join(lines).replace("$", r"\$"))


def title_of(measure: str, unit: str) -> str:
    """A measure in words with its unit, as the label of an axis, such as "Entropy of the student (nats per step)"."""
    return measure[:1].upper() + measure[1:] + (f" ({unit})" if unit else "")


def typeset(text: str) -> str:
    """`text` with its formulas; a line whose formula matplotlib cannot read is written letter by letter.

    "" and "_nolegend_" keep the meaning that they have for matplotlib: no entry in the legend.
    """
    if text in ("", "_nolegend_") or matplotlib.rcParams["text.usetex"]:
        return text
    return _shown_in_legends("\n".join(_typeset_line(line) for line in text.split("\n")))


def _typeset_line(line: str) -> str:
    num_dollars = line.count("$") - line.count(r"\$")
    if num_dollars % 2 == 1 or num_dollars == 0:  # matplotlib finds no formula in such a text
        return _drawable(line)
    try:
        mathtext.MathTextParser("path").parse(line)
    except ValueError:
        return _drawable(line).replace("$", r"\$")
    return line


def _shown_in_legends(text: str) -> str:
    """`text`, after a character without width where matplotlib would hide the text."""
    if not text.startswith("_"):
        return text
    return (_ZERO_WIDTH if _has_glyph(_ZERO_WIDTH, _fonts()) else " ") + text


def _drawable(text: str) -> str:
    """`text` with escapes for the characters, other than line breaks, that the fonts now in use do not have."""
    fonts = _fonts()
    return "".join(c if c == "\n" or _has_glyph(c, fonts) else c.encode("unicode_escape").decode("ascii") for c in text)


def _has_glyph(character: str, fonts: tuple[str, ...]) -> bool:
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in fonts)


def _fonts() -> tuple[str, ...]:
    """The files of the fonts that the current settings name, as matplotlib searches them for a character."""
    files = []
    for family in matplotlib.rcParams["font.family"]:
        try:
            files.append(font_manager.findfont(font_manager.FontProperties(family=[family]), fallback_to_default=False))
        except ValueError:  # not installed
            continue
    return tuple(files) or (font_manager.findfont("DejaVu Sans"),)
