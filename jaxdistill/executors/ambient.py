"""`using`: all trainings of a block run on one executor."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any

from jaxdistill.executors.sharding import Sharding, as_sharding
from jaxdistill.executors.spelling import parse


class _Ambient:
    """The executor of a block, which is opened when the first training needs it."""

    def __init__(self, opening: Callable[[], AbstractContextManager[Sharding]], stack: contextlib.ExitStack):
        self._opening, self._stack = opening, stack
        self._sharding: Sharding | None = None

    def sharding(self) -> Sharding:
        """The open executor."""
        if self._sharding is None:
            self._sharding = self._stack.enter_context(self._opening())
        return self._sharding


_AMBIENT: contextvars.ContextVar[_Ambient | None] = contextvars.ContextVar("_AMBIENT", default=None)


@contextlib.contextmanager
def using(executor: Executor | Sharding | str | None, *, allow_mixed: bool = False) -> Iterator[None]:
    """Inside, all trainings of this thread run on `executor`: those of `train`, `q_learning` and `actor_critic`.

        with jaxdistill.executors.using("processes:4"), jaxdistill.resumable("run"):
            teacher = jaxdistill.teachers.q_learning(key, mdps)
            result = jaxdistill.train(key, mdps, teacher)

    Args:
      executor: an executor or a `Sharding`, which stays open after the block; or a text as for `--executor`, such as
        "processes:4", "dask-local:4", "dask:tcp://host:8786" or "slurm:partition=gpu,gpus=1,jobs=16", whose workers are
        started by the first training and end with the block. None or "": trainings run in this process.
      allow_mixed: as in `Sharding`, for a text.

    Raises:
      ValueError: an executor or a text that cannot be used, before any work.
    """
    stack = contextlib.ExitStack()
    opening: Callable[[], Any] | None
    if isinstance(executor, str):
        opening = parse(executor, allow_mixed) if executor else None
    else:
        sharding = None if executor is None else as_sharding(executor)
        opening = None if sharding is None else lambda: contextlib.nullcontext(sharding)
    token = _AMBIENT.set(None if opening is None else _Ambient(opening, stack))
    try:
        with stack:
            yield
    finally:
        _AMBIENT.reset(token)


def resolved(executor: Any) -> Sharding | None:
    """How a training with this argument `executor` is cut: None, in this process, if neither it nor a block says."""
    if executor is not None:
        return as_sharding(executor)
    ambient = _AMBIENT.get()
    return None if ambient is None else ambient.sharding()
