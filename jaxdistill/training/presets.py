"""Two readings of what the paper leaves open: the one of its text and the one of its curves.

Every figure of the paper takes one of them (`--preset`), and single flags override it. In Python, each part of a preset
is a dictionary of arguments:

  preset = jaxdistill.presets.AS_WRITTEN
  mdps = jaxdistill.sample_mdps(key, 100, **preset.worlds)
  teacher = jaxdistill.teachers.q_learning(key, mdps, **preset.q_learning)
  noisy = jaxdistill.teachers.with_noise(key, mdps, teacher, 0.15, **preset.with_noise)
  result = jaxdistill.train(key, mdps, noisy, **preset.config)

The defaults of `train` and of the teachers are neither: an update of `train` is the mean over the steps of an episode,
because the constant by which the presets divide, 60 steps, is a rate twelve times too small in a world of five steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdistill.runtime import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A reading of the paper.

    Attributes:
      name: its name, a value of `--preset`.
      description: one line for people.
      config: fields of `Config`.
      worlds: fields of `GridConfig`.
      q_learning: arguments of `teachers.q_learning`.
      with_noise: arguments of `teachers.with_noise`.
      adversarial: arguments of `teachers.adversarial`.
      first_column: the estimator of the students that Figs. 5 and 8 call Monte Carlo.
      contradictions: what contradicts the paper's text, and what that buys.
    """

    name: str
    description: str
    config: Mapping[str, Any]
    worlds: Mapping[str, Any]
    q_learning: Mapping[str, Any]
    with_noise: Mapping[str, Any]
    adversarial: Mapping[str, Any]
    first_column: str
    contradictions: Mapping[str, str] = dataclasses.field(default_factory=dict)


AS_WRITTEN = Preset(
    name="as_written",
    description="The paper's text where it speaks, and what its curves support where it is silent.",
    config={
        "reduction": "fixed", "fixed_length": 60.0, "loss_visits": "every", "return_visits": "every",
        "learning_rate": 0.1, "value_learning_rate": 0.1, "probability_floor": 0.01,
    },
    worlds={"noise": 0.1},
    q_learning={"control": "epsilon", "epsilon": 0.1, "ties": "share"},
    with_noise={"action": "not_best", "ties": "random"},
    adversarial={"value": "own"},
    first_column="mc",
)  # fmt: skip

AS_PUBLISHED = Preset(
    name="as_published",
    description="What comes nearest to the paper's curves, also where that contradicts its text.",
    config={
        "reduction": "mean", "loss_visits": "once", "return_visits": "every",
        "learning_rate": 0.05, "value_learning_rate": 0.05, "probability_floor": 0.01,
    },
    worlds={"noise": 0.0},
    q_learning={"control": "epsilon", "epsilon": 0.5, "ties": "share"},
    with_noise={"action": "not_best", "ties": "random"},
    adversarial={"value": "own"},
    first_column="td",
    contradictions={
        "learning_rate": "App. A.3 has 0.1. With 0.1, the distance from the points of Figs. 4 and 5 is 0.08 larger.",
        "value_learning_rate": "App. A.3 has 0.1 for both tables. This one is kept equal to the other.",
        "loss_visits": "Table 1 sums over t, and Theorem 2 needs it. With every visit the distance is 0.06 larger.",
        "noise": "App. A.1 has 0.1. With it the distance is 0.07 larger, and no clone of a noisy teacher peaks early.",
        "first_column": "Fig. 5 calls its students Monte Carlo. With sampled returns the distance is 0.17 larger.",
    },
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (AS_WRITTEN, AS_PUBLISHED)}
"""The presets by name."""


def get(name: str) -> Preset:
    """The preset of that name; raises ValueError for another name, with the known ones."""
    checks.one_of("preset", name, PRESETS)
    return PRESETS[name]
