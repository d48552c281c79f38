"""What the tests of the kernels need."""

import os

import pytest

from jaxdistill.kernels.native import find_compiler


@pytest.fixture(scope="session")
def compiler():
    """The path of the C compiler; skips a test where there is none, and fails it where CI is set."""
    path = find_compiler()
    if path is None:
        message = "there is no C compiler: the command cc is not on the path"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
