"""The one lookup of methods by name: the paper's methods, these plus the reward, and the objectives of the zoo."""

import functools

from jaxdistill.methods.combinators import Objective
from jaxdistill.methods.method import Method
from jaxdistill.methods.paper import METHODS, with_environment_reward
from jaxdistill.methods.sources import CZARNECKI, PAPER_METHODS, Source
from jaxdistill.methods.zoo import ZOO
from jaxdistill.runtime import checks

REWARD_ENDING = "_r"
"""The ending that makes the name of a method of `METHODS` mean this method plus the environment reward."""


def get(method: str | Method) -> Method:
    """Returns the method with this name, or a method itself.

    Args:
      method: a name of `METHODS` or `ZOO`, a name of `METHODS` with the ending "_r", or a `Method`. The ending "_r"
        stands for `plus_reward`; the same name always gives the same object, so that nothing compiles twice. After a
        colon, a name may give numbers to the method, as `Method.with_params` does: "jsd:beta=0.1".

    Raises:
      ValueError: an unknown name, whose message suggests the nearest one, or a wrong number.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        if ":" in method:
            return _with_numbers(method)
        for group in (METHODS, ZOO):
            if method in group:
                return group[method]
        if method.removesuffix(REWARD_ENDING) in METHODS:
            return _rewarded(method.removesuffix(REWARD_ENDING))
    names = [*METHODS, *ZOO, *(name + REWARD_ENDING for name in METHODS)]
    raise ValueError(
        f"Unknown method {checks.shown_among(method, names)}; the methods are {', '.join(METHODS)}, "
        "and those of ZOO (python -m jaxdistill methods)."
    )


def plus_reward(method: str | Method, name: str | None = None) -> Method:
    """A method "+ R": its update plus the actor-critic update on the environment reward (Figs. 5 and 8).

    Args:
      method: the method, or a name that `get` knows. An objective of `ZOO` loses its claims, which hold without the
        reward only.
      name: the name of the new method; None: that of `method` with the ending "_r".
    """
    method = get(method)
    return with_environment_reward(method, method.name + REWARD_ENDING if name is None else name)


def sources_of(method: str | Method) -> tuple[Source, ...]:
    """The papers and libraries that a method comes from; none for a method of which they are not known."""
    method = get(method)
    if isinstance(method, Objective):
        return method.sources
    name = method.name if method.name in METHODS else method.name.removesuffix(REWARD_ENDING)
    return PAPER_METHODS.get(name, (CZARNECKI,)) if name in METHODS else ()


@functools.cache
def _with_numbers(name: str) -> Method:
    """The method that a name such as "jsd:beta=0.1" means; several numbers are separated by further colons."""
    base, *parts = name.split(":")
    numbers = {}
    for part in parts:
        parameter, _, text = part.partition("=")
        try:
            numbers[parameter] = float(text)
        except ValueError:
            raise ValueError(f"Numbers of a method are written as jsd:beta=0.1; got {checks.shown(name)}.") from None
        if parts.count(part) > 1 or sum(other.startswith(f"{parameter}=") for other in parts) > 1:
            raise ValueError(f"{checks.shown(name)} gives {parameter} twice; remove one.")
    return get(base).with_params(**numbers)


@functools.cache
def _rewarded(name: str) -> Method:
    return plus_reward(METHODS[name])
