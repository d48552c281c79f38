"""Packages that jaxdistill does not depend on, imported at their first use.

Each function returns the package, or raises an ImportError of one line with the command that installs it.
"""

from typing import Any


def import_pandas() -> Any:
    """Returns the package pandas, which only `to_dataframe` needs."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe() needs pandas: pip install pandas; to_csv() does without") from error
    return pandas


def import_xarray() -> Any:
    """Returns the package xarray, which only `to_xarray` needs."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError("to_xarray() needs xarray: pip install 'jaxdistill[xarray]'") from error
    return xarray
