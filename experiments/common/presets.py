"""The flags of the paper's figures that a preset sets (`jaxdistill.presets`)."""

from typing import Any

from jaxdistill.training.presets import AS_WRITTEN, Preset

_RENAMED = {
    "with_noise": {"action": "noise_action", "ties": "noise_ties"},
    "adversarial": {"value": "adversary_value"},
}
"""Arguments whose flags have other names, because several functions have an argument of that name."""


def preset_flags(preset: Preset) -> dict[str, Any]:
    """The flags that a preset sets, with their values."""
    flags = {"preset": preset.name, "first_column": preset.first_column}
    for group in ("config", "worlds", "q_learning", "with_noise", "adversarial"):
        names = _RENAMED.get(group, {})
        flags |= {names.get(name, name): value for name, value in getattr(preset, group).items()}
    return flags


DEFAULTS = preset_flags(AS_WRITTEN)
"""The defaults of these flags."""
