"""The way from other libraries and back: the method of a library's settings, and the settings of a method.

The rows are in `library_rows`.
"""

from typing import Any

from jaxdistill.methods.library_rows import LIBRARY_UPDATES
from jaxdistill.methods.method import Method
from jaxdistill.methods.registry import get
from jaxdistill.runtime import checks


def from_library(update: str, **settings: Any) -> Method:
    """The method here whose update is that of another library's settings.

    For example, `from_library("trl.gkd", beta=0.1, lmbda=1.0)` is GKD of TRL with these settings. Where the library's
    update differs from its own formula is said by `LIBRARY_UPDATES[update].difference` and on the site.

    Args:
      update: a name of `LIBRARY_UPDATES`, such as "trl.gkd".
      **settings: the library's settings by the library's names; all others have the library's defaults.

    Returns:
      The method, with the numbers that follow from the settings.

    Raises:
      ValueError: an unknown update or setting, or settings whose update no method here has, with the reason.
    """
    return LIBRARY_UPDATES[checks.known("update", update, list(LIBRARY_UPDATES), "they are")].method(**settings)


def to_library(method: str | Method) -> dict[str, dict[str, Any]]:
    """The settings of other libraries whose update is that of a method here.

    Args:
      method: a method or its name.

    Returns:
      For each update of `LIBRARY_UPDATES` that can be this method, the settings that differ from the library's
      defaults. Settings that may have several values have the first of them.
    """
    resolved = get(method)
    by_update = {key: update.settings_of(resolved) for key, update in LIBRARY_UPDATES.items()}
    return {key: pair[0] for key, pair in by_update.items() if pair is not None}
