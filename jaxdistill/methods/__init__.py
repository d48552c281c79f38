"""Methods as data: what a student minimises and is rewarded for, and which policy acts.

`method` defines `Step`, `Control` and `Method`, `options` what a method may leave open, and `effects` which options
have an effect on it. `paper` holds the methods
of the paper, and `zoo` the objectives of the field, which `combinators` builds from `divergences` and
`step_functions`; `registry` looks all of them up by name. `losses` are the paper's losses on plain rows, and `guide` is
the decision guide of Fig. 1. `numerics` computes with single rows of probabilities.
"""

from jaxdistill.methods.method import (
    STUDENT,
    TEACHER,
    UNIFORM,
    Control,
    Method,
    Step,
    StepFn,
    check_functions,
    loss_gradient,
    make_step,
    score,
)
from jaxdistill.methods.options import UpdateOptions
from jaxdistill.methods.paper import (
    METHODS,
    cross_entropy,
    environment_reward,
    log_ratio,
    negative_cross_entropy,
    reverse_cross_entropy,
    teacher_log_prob,
    teacher_value_reward,
    value_conditioned_cross_entropy,
)
from jaxdistill.methods.registry import get, plus_reward
from jaxdistill.methods.zoo import ZOO

__all__ = [
    "METHODS",
    "STUDENT",
    "TEACHER",
    "UNIFORM",
    "ZOO",
    "Control",
    "Method",
    "Step",
    "StepFn",
    "UpdateOptions",
    "check_functions",
    "cross_entropy",
    "environment_reward",
    "get",
    "log_ratio",
    "loss_gradient",
    "make_step",
    "negative_cross_entropy",
    "plus_reward",
    "reverse_cross_entropy",
    "score",
    "teacher_log_prob",
    "teacher_value_reward",
    "value_conditioned_cross_entropy",
]
