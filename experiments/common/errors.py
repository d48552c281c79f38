"""How an experiment refuses an unknown name: with a list of the valid ones."""

from collections.abc import Collection


def known(kind: str, names: list[str], valid: Collection[str]) -> None:
    """Raises ValueError with the valid names if `names` is empty or holds another name; `kind` is what they name."""
    for name in names:
        if name not in valid:
            raise ValueError(f"Unknown {kind} {name!r}; choose from {', '.join(valid)}.")
    if not names:
        raise ValueError(f"No {kind} given; choose from {', '.join(valid)}.")
