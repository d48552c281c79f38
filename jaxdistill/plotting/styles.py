"""The look of methods: a colour, a line style, a marker and a label for each, with enough contrast to be visible.

A method has the same colour, line style and marker in every figure. The colours are those of the petroff10 palette,
which colour-blind readers can tell apart, and black. Line styles and markers distinguish the methods in print without
colour. Dotted lines are reserved for references: teacher, uniform policy and optimal policy.
"""

import colorsys
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba

from jaxdistill.plotting.labels import literal

# The colours are written out, because a user may have another style with the name petroff10.
PALETTE: tuple[str, ...] = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_DASHED, _DASH_DOT = (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5))


class MethodStyle(NamedTuple):
    """The look of a method in figures: colour, matplotlib line style, text of the legend, marker."""

    color: str
    linestyle: Any
    label: str
    marker: str


STYLES: dict[str, MethodStyle] = {
    "baseline": MethodStyle("black", "-", "Baseline", "o"),
    "teacher_distill": MethodStyle("#94a4a2", _DASH_DOT, "Teacher distill", "*"),
    "on_policy_distill": MethodStyle("#3f90da", "-", "On-policy distill", "s"),
    "on_policy_distill_r": MethodStyle("#832db6", _DASHED, "On-policy distill + R", "D"),
    "on_policy_distill_r_vcond": MethodStyle("#ffa90e", _DASH_DOT, "On-policy distill + R + V cond", "P"),
    "entropy_regularised": MethodStyle("#bd1f01", "-", "Entropy regularised", "^"),
    "n_distill": MethodStyle("#92dadd", "-", "N-distill", "h"),
    "exp_entropy_regularised": MethodStyle("#e76300", _DASHED, "Exp. entropy regularised", "p"),
    "exp_entropy_without_returns": MethodStyle("#ffa90e", "-", "Exp. entropy reg., no returns", "d"),
    "kl_regularised": MethodStyle("#b9ac70", _DASHED, "KL regularised", "v"),
    "teacher_v_reward": MethodStyle("#a96b59", "-", "Teacher V reward", "X"),
    "td_v0": MethodStyle("#94a4a2", "-", r"TD + $V_0$", "<"),
    "td_vpi": MethodStyle("#717581", _DASHED, r"TD + $V_\pi$", ">"),
}

LEAST_CONTRAST = 1.5  # of a curve and its background; on white, every colour above has more


def method_style(label: str, index: int = 0) -> MethodStyle:
    """Style of the method `label`; a method that is not in `STYLES` takes its style from the palette, at `index`.

    The label of such a method is its name as it is written, in which "$" and a leading "_" have no special meaning.
    """
    if label in STYLES:
        return STYLES[label]
    lines, markers = ("-", _DASHED, _DASH_DOT), [known_style.marker for known_style in STYLES.values()]
    return MethodStyle(PALETTE[index % len(PALETTE)], lines[index % 3], literal(label), markers[index % len(markers)])


def palette_indices(labels: Sequence[str]) -> list[int]:
    """The `index` of each method of a figure, as `method_style` takes it.

    Methods that are not in `STYLES` get the colours that the others do not use. If there are too few of these colours,
    they are repeated with other line styles and markers.
    """
    known_colors = {STYLES[label].color for label in labels if label in STYLES}
    free = [i for i, color in enumerate(PALETTE) if color not in known_colors] or list(range(len(PALETTE)))
    unknown_methods = itertools.count()
    indices = []
    for label in labels:
        lap, place = (0, 0) if label in STYLES else divmod(next(unknown_methods), len(free))
        indices.append(lap * len(PALETTE) + free[place])
    return indices


def shades(number: int) -> list[str]:
    """Returns `number` colours from dark to light, for curves that differ in the value of a quantity."""
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 0.9, number))]


def visible_on(ax: Axes, color: str) -> str:
    """Returns `color`, or if its contrast with the background of `ax` is below `LEAST_CONTRAST`, another colour.

    The other colour has the same hue and the opposite lightness, such as white for black. If its contrast is too low as
    well, it is black or white.
    """
    background = _background(ax)
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    counterpart = to_hex(colorsys.hls_to_rgb(hue, 1 - lightness, saturation))
    for candidate in (color, counterpart):
        if contrast(candidate, background) >= LEAST_CONTRAST:
            return candidate
    return max(("black", "white"), key=lambda ink: contrast(ink, background))


def contrast(first: Any, second: Any) -> float:
    """The contrast ratio of two colours as defined by WCAG 2: 1 for equal ones, 21 for black and white."""
    darker, lighter = sorted(map(_luminance, (first, second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Any) -> float:
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _background(ax: Axes) -> tuple[float, ...]:
    """The colour behind the curves of `ax`: that of the axes, over that of the figure, over white paper."""
    color = np.ones(3)
    for layer in (ax.get_figure(root=True).get_facecolor(), ax.get_facecolor()):
        *rgb, alpha = to_rgba(layer)
        color = alpha * np.array(rgb) + (1 - alpha) * color
    return tuple(color)
