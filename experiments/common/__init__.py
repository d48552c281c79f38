"""What every experiment shares: its settings and flags, its output folder and parts, its figures, its entry point."""

from experiments.common.delivery import deliver, deliver_table
from experiments.common.entry import main
from experiments.common.errors import known, known_methods
from experiments.common.flags import default_outdir, parse
from experiments.common.outdir import prepare_outdir, what_decides
from experiments.common.parts import run_parts, shared_part
from experiments.common.problems import TEACHERS, Keys, keys, make_teacher
from experiments.common.settings import (
    Adversary,
    Estimation,
    Noise,
    Output,
    Preset,
    QLearning,
    Training,
    Worlds,
    option,
    preset_option,
)
from jaxdistill.runtime.command import fail

__all__ = [
    "TEACHERS",
    "Adversary",
    "Estimation",
    "Keys",
    "Noise",
    "Output",
    "Preset",
    "QLearning",
    "Training",
    "Worlds",
    "default_outdir",
    "deliver",
    "deliver_table",
    "fail",
    "keys",
    "known",
    "known_methods",
    "main",
    "make_teacher",
    "option",
    "parse",
    "prepare_outdir",
    "preset_option",
    "run_parts",
    "shared_part",
    "what_decides",
]
