"""The lambda-return, between the one-step target and the Monte Carlo return (Sutton and Barto, 2018, section 12.1)."""

import dataclasses
from typing import Any

from jaxdistill.estimators.monte_carlo import MonteCarlo


@dataclasses.dataclass(frozen=True)
class LambdaReturn(MonteCarlo):
    """Rhat_t = rhat_t + discount ((1 - lambda) V(t+1) + lambda Rhat_{t+1}), lambda the option `trace_decay`.

    It walks an episode backward, as Monte Carlo does. At lambda = 1 it equals Monte Carlo bit for bit. At lambda = 0 it
    is the one-step target. The values V are those of the start of the episode.
    """

    name = "lambda"
    title = "lambda-return"
    numbers = ("trace_decay",)

    def continuation(self, options: Any, target: Any, value: Any) -> Any:
        return options.trace_decay * target + (1 - options.trace_decay) * value
