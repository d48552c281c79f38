"""jaxdistill: the laboratory for policy distillation."""

__version__ = "0.1.0"

from jaxdistill import exact, gridworld, losses, methods, results, teachers, theory
from jaxdistill.gridworld import GridConfig, from_text, sample_mdps
from jaxdistill.mdp import MDP, stack
from jaxdistill.methods import METHODS, STUDENT, TEACHER, UNIFORM, Control, Method, Step, plus_reward
from jaxdistill.results import Result, concatenate, load
from jaxdistill.students import Cell, Config
from jaxdistill.teacher import Teacher
from jaxdistill.theory import expected_update
from jaxdistill.train import train

__all__ = [
    "MDP",
    "METHODS",
    "STUDENT",
    "TEACHER",
    "UNIFORM",
    "Cell",
    "Config",
    "Control",
    "GridConfig",
    "Method",
    "Result",
    "Step",
    "Teacher",
    "concatenate",
    "exact",
    "expected_update",
    "from_text",
    "gridworld",
    "load",
    "losses",
    "methods",
    "plus_reward",
    "results",
    "sample_mdps",
    "stack",
    "teachers",
    "theory",
    "train",
]
