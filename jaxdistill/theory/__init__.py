"""Exact answers about expected updates, in float64.

`exact_update` computes the expected update of a method. `fields` asks whether it is a gradient, `stated_losses` of
which loss, `flows` where it leads, `variance` and `moments` how noisy its samples are, and `quality` how good students
are. `elimination` solves the linear systems, and `precision` gives them float64.
"""

from jaxdistill.theory.exact_update import Update, expected_update

__all__ = ["Update", "expected_update"]
