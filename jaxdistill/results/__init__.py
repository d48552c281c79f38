"""The outcome of a training run: its arrays, its file, its tables, and the comparison of several runs.

`result` holds the arrays with named axes, `storage` their file format, `export` the tables for other packages,
`summary` the table of one run, `comparison` the comparison of several runs, and `measured` the values of measures.
"""

from jaxdistill.results.result import Result, Stopped, concatenate, load, read
from jaxdistill.results.storage import jsonable
from jaxdistill.runtime.surroundings import package_versions

__all__ = ["Result", "Stopped", "concatenate", "jsonable", "load", "package_versions", "read"]
