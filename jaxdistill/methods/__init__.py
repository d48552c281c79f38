"""Methods as data: what a student minimises and is rewarded for, and which policy acts.

`method` defines `Step`, `Control` and `Method`. `paper` holds the methods of the paper and `zoo` the objectives of the
field, built by `combinators` from `divergences` and `step_functions`. `losses` are the paper's losses on plain rows.
`guide` is the decision guide of Fig. 1. `numerics` computes with single rows of probabilities.
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
    score,
)
from jaxdistill.methods.paper import (
    METHODS,
    cross_entropy,
    environment_reward,
    get,
    log_ratio,
    negative_cross_entropy,
    plus_reward,
    reverse_cross_entropy,
    teacher_log_prob,
    teacher_value_reward,
    value_conditioned_cross_entropy,
)

__all__ = [
    "METHODS",
    "STUDENT",
    "TEACHER",
    "UNIFORM",
    "Control",
    "Method",
    "Step",
    "StepFn",
    "check_functions",
    "cross_entropy",
    "environment_reward",
    "get",
    "log_ratio",
    "loss_gradient",
    "negative_cross_entropy",
    "plus_reward",
    "reverse_cross_entropy",
    "score",
    "teacher_log_prob",
    "teacher_value_reward",
    "value_conditioned_cross_entropy",
]
