"""Makes bytes of what a worker needs, functions of the user included, and reads them in the worker."""

import functools
import pickle
from collections.abc import Mapping
from typing import Any

import cloudpickle

from jaxdistill.runtime.files import one_line


def dumps(parts: Mapping[str, Any]) -> bytes:
    """The bytes of named parts, from which `loads` makes them again in another process.

    Functions and classes of `__main__` and functions within functions travel as code, those of modules by name.

    Raises:
      ValueError: one line that names a part that cannot be sent.
    """
    try:
        return cloudpickle.dumps(dict(parts))
    except Exception as error:
        name = next((name for name, part in parts.items() if not _can_be_sent(part)), "the training")
        raise ValueError(
            f"{name} cannot be sent to a worker ({one_line(error)}); define its functions so that they use no open "
            "file, lock or thread, or leave the executor out."
        ) from error


def _can_be_sent(part: Any) -> bool:
    try:
        cloudpickle.dumps(part)
    except Exception:
        return False
    return True


@functools.lru_cache(maxsize=4)  # so that the functions of a training's shards are the same, and compile once
def loads(data: bytes) -> dict[str, Any]:
    """The parts of which `dumps` made the bytes.

    Raises:
      ValueError: one line, where this process lacks a module that a part needs.
    """
    try:
        return pickle.loads(data)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"a worker cannot load what it should train ({one_line(error)}); install the module on the workers, define "
            "the function in the main program, or call cloudpickle.register_pickle_by_value(module)."
        ) from error
