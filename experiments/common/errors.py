"""Refuses unknown names in the settings of an experiment, with a list of the valid names."""

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
    """The methods with these names: each is looked up in `further`, methods of the experiment, then by `methods.get`.

    Raises ValueError if `names` is empty or holds an unknown name.
    """
    if not names:
        raise ValueError(f"No method given; choose from {', '.join(further or METHODS)}.")
    return [(further or {}).get(name) or methods.get(name) for name in names]
