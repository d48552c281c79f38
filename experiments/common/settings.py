"""Groups of settings that experiments inherit; each field of a settings class becomes a command-line flag."""

import dataclasses
from typing import Any

import jaxdistill
from experiments.common.presets import DEFAULTS
from jaxdistill.executors.spelling import KINDS
from jaxdistill.methods import UpdateOptions
from jaxdistill.runtime import checks
from jaxdistill.teachers.ties import NOISES, TIES


def option(default: Any, help: str) -> Any:
    """A field of a settings class: its default value and the help text of its flag, units included."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def update_option(name: str) -> Any:
    """A field for the option of an update of that name: the default of the preset as_written, or the package's."""
    field = next(field for field in dataclasses.fields(UpdateOptions) if field.name == name)
    return option(DEFAULTS.get(name, field.default), field.metadata["help"])


def preset_option(name: str, help: str) -> Any:
    """A field for a flag that a preset sets; its default is that of the preset as_written."""
    return option(DEFAULTS[name], help)


@dataclasses.dataclass
class Output:
    """Where an experiment writes its results, whether it starts over or runs at a tiny scale, and where it trains."""

    out: str = option("", "folder for the figure, the curves and the settings; default results/<experiment>")
    restart: bool = option(False, "run again even where --out holds results of other settings, and replace them")
    smoke: bool = option(False, "run everything at a tiny scale, in less than a minute; sizes given as flags are kept")
    executor: str = option("", f"where students are trained: {KINDS}; empty: in this process")
    allow_mixed: bool = option(
        False, "the executor's workers may differ in devices and versions, and round differently"
    )


@dataclasses.dataclass
class Worlds:
    """How worlds are sampled (App. A.1 and A.2)."""

    num_mdps: int = option(100, "sampled worlds; the paper has 1000")
    num_rows: int = option(20, "height of the grid, cells")
    num_cols: int = option(20, "width of the grid, cells")
    num_actions: int = option(4, "actions: four moves, the others do nothing")
    observation: str = option("full", "what the student observes: full (its state) or window (the cells around it)")
    window_radius: int = option(4, "window: cells observed in each direction")
    p_wall: float = option(0.1, "probability that a cell is a wall")
    p_plus10: float = option(0.01, "probability of a terminal cell with reward +10")
    p_plus5: float = option(0.02, "probability of a terminal cell with reward +5")
    p_minus1: float = option(0.1, "probability of a cell with reward -1")
    p_minus5: float = option(0.01, "probability of a terminal cell with reward -5")
    p_minus10: float = option(0.01, "probability of a terminal cell with reward -10")
    noise: float = preset_option("noise", "probability that a move goes in a random direction")
    termination_prob: float = option(0.01, "probability that a step ends the episode")

    def grid_config(self) -> jaxdistill.GridConfig:
        """The sampler's configuration; raises ValueError for an impossible value."""
        return _fill(jaxdistill.GridConfig, self)


@dataclasses.dataclass
class Preset:
    """The reading of what the paper leaves open; `flags.parse` takes the other flags' defaults from it."""

    preset: str = preset_option(
        "preset",
        "defaults of the flags that the paper leaves open: as_written, from its text, or as_published, from its curves",
    )


@dataclasses.dataclass
class Training:
    """How students are trained (App. A.3 to A.5)."""

    num_iterations: int = option(30_000, "episodes, and so updates, of each student and of each learned teacher")
    num_checkpoints: int = option(100, "points of each learning curve")
    seed: int = option(0, "seed of the worlds, the teachers and the students")
    reduction: str = update_option("reduction")
    fixed_length: float = update_option("fixed_length")
    loss_visits: str = update_option("loss_visits")
    return_visits: str = update_option("return_visits")
    learning_rate: float = preset_option("learning_rate", "step size of the student's logits")
    value_learning_rate: float = preset_option("value_learning_rate", "step size of the student's value table")
    discount: float = update_option("discount")
    probability_floor: float = update_option("probability_floor")

    def train_config(self) -> jaxdistill.Config:
        """The configuration of `jaxdistill.train`; raises ValueError for an impossible value."""
        return _fill(jaxdistill.Config, self)


@dataclasses.dataclass
class QLearning:
    """What the paper does not state about its Q-learning teachers (App. A.4)."""

    control: str = preset_option(
        "control", "how Q-learning explores: epsilon (greedy otherwise), or boltzmann, softmax(Q / T)"
    )
    epsilon: float = option(DEFAULTS.get("epsilon", 0.1), "probability of a uniform action; for --control=epsilon")
    control_temperature: float = option(DEFAULTS.get("control_temperature", 1.0), "T; for --control=boltzmann")
    ties: str = preset_option(
        "ties", "the best actions of a Q-learning teacher: share, first, or random (one is drawn)"
    )

    def q_learning(self) -> dict[str, Any]:
        """The arguments of `teachers.q_learning`; raises ValueError for a flag that has no effect."""
        numbers = {"epsilon": "epsilon", "control_temperature": "boltzmann"}
        for name, control in numbers.items():
            if self.control != control and getattr(self, name) != getattr(QLearning, name):
                raise ValueError(f"--{name} has an effect with --control={control} only; got --control={self.control}.")
        used = {name: getattr(self, name) for name, control in numbers.items() if control == self.control}
        return {"control": self.control, "ties": self.ties} | used


@dataclasses.dataclass
class Noise:
    """What the paper does not state about its noisy teachers."""

    noise_action: str = preset_option(
        "noise_action", "actions of a noisy teacher: worst, any or not_best (all but the best)"
    )
    noise_ties: str = preset_option(
        "noise_ties", "several actions of a noisy teacher: share, first, or random (one is drawn)"
    )

    def with_noise(self) -> dict[str, Any]:
        """The options of `teachers.with_noise`; raises ValueError for an unknown word."""
        checks.one_of("--noise_action", self.noise_action, NOISES)
        checks.one_of("--noise_ties", self.noise_ties, TIES)
        return {"action": self.noise_action, "ties": self.noise_ties}


@dataclasses.dataclass
class Adversary:
    """What the paper does not state about its adversarial teachers."""

    adversary_value: str = preset_option(
        "adversary_value", "reward of the adversarial teacher's value: true, or own (negated)"
    )


@dataclasses.dataclass
class Estimation:
    """How the returns of students are estimated, in experiments that leave it open."""

    estimator: str = update_option("estimator")
    trace_decay: float = update_option("trace_decay")


def _fill(config_type: Any, settings: Any) -> Any:
    """A configuration whose fields are copied from the settings of the same name; the others keep their defaults."""
    names = [field.name for field in dataclasses.fields(config_type)]
    return config_type(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})
