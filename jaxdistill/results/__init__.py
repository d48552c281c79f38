"""What a training run leaves behind, and how runs are compared.

`result` holds the arrays, `storage` their file, `statistics` the intervals, `summary` the table of one run, and
`comparison` the comparison of several.
"""

from jaxdistill.results.result import Result, Stopped, concatenate, load, read

__all__ = ["Result", "Stopped", "concatenate", "load", "read"]
