"""Settings that hold for every test."""

import os

# Before jax or matplotlib is imported. A value that the caller has set wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import shutil
import sys
import tempfile
from pathlib import Path

# One cache of compiled programs for the session: files in other worker processes, and the commands that tests start,
# need many of the same programs. The first process makes the folder and removes it.
OWNS_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWNS_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxdistill-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline, since a first example compiles. The same examples every time, and no files left behind.
settings.register_profile("jaxdistill", deadline=None, derandomize=True, database=None, max_examples=25)
settings.load_profile("jaxdistill")


LONG_TESTS = {
    line for line in (Path(__file__).parent / "long_tests.txt").read_text().splitlines() if not line.startswith("#")
}


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.removeprefix("tests/") in LONG_TESTS:
            item.add_marker("long")


def pytest_unconfigure():
    if OWNS_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


MOST_MAPS, TESTS_BETWEEN, TESTS = 30_000, 10, {"run": 0}


@pytest.fixture(autouse=True, scope="module")
def clear_compiled_programs():
    """Drops what a file compiled: a program holds memory maps, and one process may hold 65530 (Linux), then crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def clear_many_compiled_programs():
    """Drops the programs of a file with many tests before they hold too many memory maps."""
    yield
    TESTS["run"] += 1
    if TESTS["run"] % TESTS_BETWEEN == 0 and os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps", "rb") as maps:
            num_maps = sum(1 for _ in maps)
        if num_maps > MOST_MAPS:
            jax.clear_caches()


@pytest.fixture(autouse=True)
def close_figures():
    """Closes the figures that a test leaves open, so that none of them piles up into a warning."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def compiler():
    """The path of the C compiler; skips a test where there is none, and fails it where CI is set."""
    from jaxdistill.kernels.native import find_compiler

    path = find_compiler()
    if path is None:
        message = "there is no C compiler: the command cc is not on the path"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
