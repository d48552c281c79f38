"""The functions that combinators return, which are named, compared, copied and pickled by the call that made them."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ParamSpec, cast

import jax
import numpy as np

from jaxdistill.methods.domains import domains_of
from jaxdistill.methods.formulas import WithoutFormula, formula_of

_Arguments = ParamSpec("_Arguments")


class Composed:
    """A function together with the call of the combinator that made it, such as "negated(k1)".

    Two such functions are equal if their calls are. A copy is therefore equal to its original, also in another process,
    and shares the compiled program of the original. Pickling works if the arguments can be pickled, which a
    lambda cannot.

    Attributes:
      domains: the domains of the numbers that the combinator, its arguments and the function read, by name.
    """

    def __init__(
        self,
        combinator: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        function: Callable[..., jax.Array],
    ) -> None:
        self._call, self._function = (combinator, args, dict(kwargs)), function
        self._content = (combinator, *map(content, args), *((name, content(x)) for name, x in sorted(kwargs.items())))
        self._hash = hash(self._content)
        self.domains = domains_of(function, combinator, *args, *kwargs.values())
        arguments = [*map(_argument_text, args), *(f"{name}={_argument_text(x)}" for name, x in kwargs.items())]
        self.__name__ = self.__qualname__ = f"{combinator.__name__}({', '.join(arguments)})"

    @property
    def formula(self) -> Any:
        """The formula that follows from the call by the rule of the combinator (`formulas.derives`), or None.

        Without a rule it is the formula of the function, if this function is composed as well.
        """
        combinator, args, kwargs = self._call
        rule = getattr(combinator, "formula_rule", None)
        if rule is None:
            return getattr(self._function, "formula", None)
        try:
            given = [formula_of(x) if callable(x) else x for x in args]
            named = {name: formula_of(x) if callable(x) else x for name, x in kwargs.items()}
        except WithoutFormula:
            return None
        return rule(*given, **named)

    def __call__(self, *args: Any) -> jax.Array:
        return self._function(*args)

    def __repr__(self) -> str:
        return self.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composed) and self._content == other._content

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return _called, self._call


def _called(combinator: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls the combinator again; this is how a `Composed` is unpickled."""
    return combinator(*args, **kwargs)


def composes(
    combinator: Callable[_Arguments, Callable[..., jax.Array]],
) -> Callable[_Arguments, Callable[..., jax.Array]]:
    """A decorator that makes a combinator return a `Composed`.

    The command `methods` prints the names of such functions, and the settings of a result hold them.
    """

    @functools.wraps(combinator)
    def composing(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Callable[..., jax.Array]:
        return Composed(composing, args, kwargs, combinator(*args, **kwargs))

    return cast(Callable[_Arguments, Callable[..., jax.Array]], composing)


def content(value: Any) -> Hashable:
    """A hashable key that is equal for equal values; an array gives its entries, and an unhashable object its id."""
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer):
        array = np.asarray(value)
        return type(value), str(array.dtype), array.shape, array.tobytes()
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _argument_text(argument: Any) -> str:
    if callable(argument):
        return getattr(argument, "__name__", type(argument).__name__)
    return repr(argument)
