"""Functions that make teachers.

`tabular` makes them from tables, functions, exact values or other teachers. `language` makes the n-gram models of
language worlds. `learned` trains them on the engine. `ties` makes policies of actions that are equally good.
"""

from jaxdistill.teachers.language import ngram, zipf
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
    "ngram",
    "optimal",
    "q_learning",
    "uniform",
    "with_noise",
    "with_others",
    "zipf",
]
