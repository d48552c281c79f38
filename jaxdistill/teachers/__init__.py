"""Where teachers come from: `tabular` ones from tables, values or functions, `learned` ones from the engine."""

from jaxdistill.teachers.learned import actor_critic, q_learning
from jaxdistill.teachers.tabular import (
    adversarial,
    from_logits,
    from_policy,
    from_q,
    from_table,
    mixture,
    optimal,
    uniform,
    with_noise,
    with_others,
)

__all__ = [
    "actor_critic",
    "adversarial",
    "from_logits",
    "from_policy",
    "from_q",
    "from_table",
    "mixture",
    "optimal",
    "q_learning",
    "uniform",
    "with_noise",
    "with_others",
]
