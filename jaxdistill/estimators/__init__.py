"""How the return of a step is estimated: one module for each estimator, and the table of all.

`estimator` says what an estimator is. `one_step` bootstraps from the value of the next state (the paper's "TD(1)"),
`monte_carlo` sums the sampled rewards, and `lambda_return` is between the two. To add one, write its class in a module
and give it a row in `ESTIMATORS`: the engine, the exact side, the configuration and the command lines read this table.
"""

from jaxdistill.estimators.estimator import Estimator
from jaxdistill.estimators.lambda_return import LambdaReturn
from jaxdistill.estimators.monte_carlo import MonteCarlo
from jaxdistill.estimators.one_step import OneStep

ESTIMATORS: dict[str, Estimator] = {e.name: e for e in (OneStep(), MonteCarlo(), LambdaReturn())}
"""The estimators by the name that a configuration or a method gives."""

__all__ = ["ESTIMATORS", "Estimator", "LambdaReturn", "MonteCarlo", "OneStep"]
