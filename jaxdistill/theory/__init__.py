"""Exact numbers about expected updates, in float64.

`exact_update` computes the expected update of a method, and `moments` its mean and variance over episodes. `fields`
tests whether the update is a gradient, and `stated_losses` holds the losses that it may be the gradient of. `flows`
follows the update to where it leads, `variance` measures how noisy its samples are, and `quality` how good students
are. `chains` defines the Markov chain of a policy, `time_limits` makes the number of the step a part of the state where
episodes are cut, and `precision` provides worlds and teachers in float64.
"""

from jaxdistill.theory.exact_update import Update, expected_update

__all__ = ["Update", "expected_update"]
