"""How an experiment refuses an unknown name: with a list of the valid ones."""

from collections.abc import Collection, Mapping

from jaxdistill import methods
from jaxdistill.methods import METHODS, Method
from jaxdistill.runtime import checks


def known(kind: str, names: list[str], valid: Collection[str]) -> None:
    """Raises ValueError with the valid names if `names` is empty or holds another name; `kind` is what they name."""
    for name in names:
        checks.known(kind, name, valid)
    if not names:
        raise ValueError(f"No {kind} given; choose from {', '.join(valid)}.")


def known_methods(names: list[str], further: Mapping[str, Method] | None = None) -> list[Method]:
    """The methods of these names, as `methods.get` finds them, and before it `further`, methods of the experiment.

    Raises ValueError if there is no name, or an unknown one.
    """
    if not names:
        raise ValueError(f"No method given; choose from {', '.join(further or METHODS)}.")
    return [(further or {}).get(name) or methods.get(name) for name in names]
