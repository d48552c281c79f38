"""Methods as data: what a student minimises and is rewarded for, and which policy acts.

`method` defines `Step`, `Control` and `Method`, `options` what a method may leave open, and `effects` which options
have an effect on it. `domains` says which numbers a function accepts, `schedules` how a number changes over the
iterations, and `checking` tries a method's functions before they are used. `paper` holds the methods of the paper, and
`zoo` the objectives of the field, which `combinators` builds from `divergences` and `step_functions`; `composed`
defines the functions that combinators return, and `registry` finds methods by name. `losses` are the paper's losses on
plain rows, and `guide` is the decision guide of Fig. 1. `numerics` computes with single rows of probabilities, and
`episodes` checks that episodes end.

Formulas are data as well. `expressions` holds their trees, and `policy_sums` the parts of them that sum over actions;
`formulas` gives a function its formula, and `method_formulas` puts that of a method together. `sources` are the papers
and libraries that methods come from. `libraries` finds the method of another library's settings, and the way back, in
`library_rows`; `library_settings` says what a row is, and `library_methods` holds the methods of these rows alone.
"""

from jaxdistill.methods.checking import check_functions, check_zeros
from jaxdistill.methods.domains import Domain, reads
from jaxdistill.methods.episodes import check_episodes_end
from jaxdistill.methods.libraries import from_library, to_library
from jaxdistill.methods.library_rows import LIBRARY_UPDATES
from jaxdistill.methods.method import (
    STUDENT,
    TEACHER,
    UNIFORM,
    Control,
    Method,
    Step,
    StepFn,
    loss_gradient,
    make_step,
    score,
)
from jaxdistill.methods.method_formulas import MethodFormula, method_formula
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
from jaxdistill.methods.schedules import Schedule
from jaxdistill.methods.zoo import ZOO

__all__ = [
    "LIBRARY_UPDATES",
    "METHODS",
    "STUDENT",
    "TEACHER",
    "UNIFORM",
    "ZOO",
    "Control",
    "Domain",
    "Method",
    "MethodFormula",
    "Schedule",
    "Step",
    "StepFn",
    "UpdateOptions",
    "check_episodes_end",
    "check_functions",
    "check_zeros",
    "cross_entropy",
    "environment_reward",
    "from_library",
    "get",
    "log_ratio",
    "loss_gradient",
    "make_step",
    "method_formula",
    "negative_cross_entropy",
    "plus_reward",
    "reads",
    "reverse_cross_entropy",
    "score",
    "teacher_log_prob",
    "teacher_value_reward",
    "to_library",
    "value_conditioned_cross_entropy",
]
