"""Settings that hold for every test."""

import os

# Before jax or matplotlib is imported. A value that the caller has set wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import sys

import jax
import pytest
from hypothesis import settings

# No deadline, since a first example compiles. The same examples every time, and no files left behind.
settings.register_profile("jaxdistill", deadline=None, derandomize=True, database=None, max_examples=25)
settings.load_profile("jaxdistill")


@pytest.fixture(autouse=True, scope="module")
def clear_compiled_programs():
    """Drops what a file compiled: a program holds memory maps, and one process may hold 65530 (Linux), then crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def close_figures():
    """Closes the figures that a test leaves open, so that none of them piles up into a warning."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
