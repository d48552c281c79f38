"""jaxdistill: the laboratory for policy distillation."""

__version__ = "0.1.0"

from jaxdistill import (
    exact,
    fields,
    flows,
    garnet,
    gridworld,
    guide,
    gymnasium_worlds,
    losses,
    methods,
    objectives,
    results,
    teachers,
    theory,
    variance,
    xla,
)
from jaxdistill.checkpoints import resumable
from jaxdistill.comparison import compare
from jaxdistill.fields import check_method
from jaxdistill.gridworld import GridConfig, from_text, sample_mdps
from jaxdistill.gymnasium_worlds import from_gymnasium
from jaxdistill.mdp import MDP, stack
from jaxdistill.methods import METHODS, STUDENT, TEACHER, UNIFORM, Control, Method, Step, plus_reward
from jaxdistill.objectives import ZOO
from jaxdistill.results import Result, Stopped, concatenate, load
from jaxdistill.students import Cell, Config
from jaxdistill.teacher import Teacher
from jaxdistill.theory import expected_update
from jaxdistill.train import train

xla.compile_loops_whole()

__all__ = [
    "MDP",
    "METHODS",
    "STUDENT",
    "TEACHER",
    "UNIFORM",
    "ZOO",
    "Cell",
    "Config",
    "Control",
    "GridConfig",
    "Method",
    "Result",
    "Step",
    "Stopped",
    "Teacher",
    "check_method",
    "compare",
    "concatenate",
    "exact",
    "expected_update",
    "fields",
    "flows",
    "from_gymnasium",
    "from_text",
    "garnet",
    "gridworld",
    "guide",
    "gymnasium_worlds",
    "load",
    "losses",
    "methods",
    "objectives",
    "plus_reward",
    "results",
    "resumable",
    "sample_mdps",
    "stack",
    "teachers",
    "theory",
    "train",
    "variance",
]
