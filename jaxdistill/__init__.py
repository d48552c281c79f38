"""jaxdistill: the laboratory for policy distillation.

Everything starts here:

  import jax
  import jaxdistill as jd

  key = jax.random.key(0)
  mdps = jd.sample_mdps(key, 64)
  teacher = jd.teachers.q_learning(key, mdps, num_iterations=2000)
  result = jd.train(key, mdps, teacher, ["baseline", "n_distill"], num_iterations=2000)
  print(result.summary("final"))  # returns with intervals; jd.compare(result) says more
  result.plot().savefig("curves.png")
  result.save("run.npz")  # jd.load("run.npz")
"""

__version__ = "0.1.0"

# ruff: noqa: E402
from jaxdistill.runtime.errors import guard_imports

guard_imports()  # before the first import that reads the environment and can fail because of it

from jaxdistill import executors, methods, results, teachers, theory, worlds
from jaxdistill.engine import xla
from jaxdistill.mdp import MDP, Teacher, exact, measures, stack
from jaxdistill.methods import (
    METHODS,
    STUDENT,
    TEACHER,
    UNIFORM,
    Control,
    Method,
    Schedule,
    Step,
    from_library,
    guide,
    losses,
    plus_reward,
    to_library,
)
from jaxdistill.methods import zoo as objectives
from jaxdistill.methods.zoo import ZOO
from jaxdistill.results import Result, Stopped, concatenate, load
from jaxdistill.results.comparison import compare
from jaxdistill.results.sweep import Sweep
from jaxdistill.runtime.checkpoints import resumable
from jaxdistill.theory import expected_update, fields, flows, variance
from jaxdistill.theory.fields import check_method
from jaxdistill.training import presets
from jaxdistill.training.config import Cell, Config
from jaxdistill.training.sweep import sweep
from jaxdistill.training.train import train
from jaxdistill.worlds import features, garnet, gridworld
from jaxdistill.worlds import gymnasium as gymnasium_worlds
from jaxdistill.worlds.gridworld import GridConfig, from_text, sample_mdps
from jaxdistill.worlds.gymnasium import from_gymnasium

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
    "Schedule",
    "Step",
    "Stopped",
    "Sweep",
    "Teacher",
    "check_method",
    "compare",
    "concatenate",
    "exact",
    "executors",
    "expected_update",
    "features",
    "fields",
    "flows",
    "from_gymnasium",
    "from_library",
    "from_text",
    "garnet",
    "gridworld",
    "guide",
    "gymnasium_worlds",
    "load",
    "losses",
    "measures",
    "methods",
    "objectives",
    "plus_reward",
    "presets",
    "results",
    "resumable",
    "sample_mdps",
    "stack",
    "sweep",
    "teachers",
    "theory",
    "to_library",
    "train",
    "variance",
    "worlds",
]
