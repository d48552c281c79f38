"""The project as a whole: the README's commands, versions, entry points, and what must not be committed."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxdistill

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(
    path.stem
    for path in (ROOT / "experiments").glob("*.py")
    if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)
)


def project_files():
    """Text files that are, or would be, committed."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git clone")
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture or an archive


def readme_commands():
    """Lines of the README that install the clone, then do something: [(installed extras, command)]."""
    pattern = r"^pip install -e '?\.(\[[a-z,0-9]+\])?'? && (.+)$"
    return re.findall(pattern, (ROOT / "README.md").read_text(), re.MULTILINE)


def test_readme_has_the_two_commands():
    commands = readme_commands()
    assert any(not extras and re.search(r"python -m experiments\.fig\d+", c) for extras, c in commands), (
        "README.md needs a line: pip install -e . && python -m experiments.fig8"
    )
    assert any(extras == "[test]" and c.startswith("pytest") for extras, c in commands), (
        "README.md needs a line: pip install -e '.[test]' && pytest"
    )


def test_readme_commands_name_existing_experiments():
    named = re.findall(r"experiments[./](fig\d+)", (ROOT / "README.md").read_text())
    assert set(named) <= set(EXPERIMENTS)


def test_ci_runs_the_readme_test_command():
    """`.ci/run` reads the command from the README; its own reading of it must be the one line above."""
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (pattern,) = re.findall(r'grep -m 1 -E "(.+?)" README\.md', script)
    found = subprocess.run(
        ["grep", "-m", "1", "-E", pattern, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    extras, command = next((e, c) for e, c in readme_commands() if e == "[test]")
    assert found.stdout.strip() == f"pip install -e '.{extras}' && {command}"
    last_line = [line for line in script.splitlines() if line.strip()][-1]
    assert last_line.startswith('bash -c "$test_command"')


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxdistill.__version__ == version
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


def test_installed_version_is_this_one():
    try:
        installed = importlib.metadata.version("jaxdistill")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jaxdistill is not installed here, only on the path")
    assert installed == jaxdistill.__version__, "run pip install -e . again"


def test_dependencies_have_floors_and_no_caps():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[0-9.]+", requirement), requirement
    for requirements in project["optional-dependencies"].values():
        assert not [requirement for requirement in requirements if re.search(r"[<~]|==|!=", requirement)]


def test_public_names_exist():
    assert sorted(set(jaxdistill.__all__)) == sorted(jaxdistill.__all__)
    assert not [name for name in jaxdistill.__all__ if not hasattr(jaxdistill, name)]


def test_import_creates_no_array_and_draws_nothing():
    """Importing must neither start a JAX backend (memory, devices) nor load matplotlib or pandas."""
    code = "import sys, jaxdistill; print([m for m in ('matplotlib', 'pandas') if m in sys.modules])"
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}  # the first array would raise
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_there_are_experiments():
    assert "fig8" in EXPERIMENTS


def test_experiments_answer_help():
    """Each prints what it is and its flags. One process runs them all, because importing JAX takes most of the time."""
    code = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv, printed = [name, "--help"], io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert end.code in (None, 0, 1), (name, end.code)
    assert "--out" in printed.getvalue(), name
    print(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *EXPERIMENTS], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.split() == EXPERIMENTS, done.stderr


def test_long_tests_exist():
    """A test that was renamed would silently become part of the default suite."""
    lines = [line for line in (ROOT / "tests" / "long_tests.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)
    for line in lines:
        path, name = line.split("::")
        tree = ast.parse((ROOT / "tests" / path).read_text())
        assert name.split("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, line


PACKAGE = sorted((ROOT / "jaxdistill").rglob("*.py"))
VAGUE = {"found", "mine", "own", "one", "who", "chosen", "forget", "look"}


def syntax(paths):
    """(path, node) of every node of the syntax trees of Python files."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.relative_to(ROOT), node


def test_functions_are_short():
    """Under 60 lines, the docstring included."""
    functions = [(path, node) for path, node in syntax(PACKAGE) if isinstance(node, ast.FunctionDef)]
    long = [f"{path}:{f.name}" for path, f in functions if f.end_lineno - f.lineno + 1 >= 60]
    assert not long


def test_modules_and_packages_say_what_they_are():
    """Each has a docstring, and the docstring of a package names its modules."""
    for path in PACKAGE:
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text or path.name == "__main__.py", path
        if path.name == "__init__.py" and path.parent.name != "jaxdistill":
            modules = {other.stem for other in path.parent.glob("*.py")} - {"__init__"}
            assert not [name for name in modules if f"`{name}`" not in text], path


def test_no_vague_names():
    vague = []
    for path, node in syntax([*PACKAGE, *sorted((ROOT / "experiments").rglob("*.py"))]):
        name = getattr(node, "arg" if isinstance(node, ast.arg) else "name", None)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if isinstance(name, str) and name in VAGUE:
            vague.append(f"{path}:{node.lineno}: {name}")
    assert not vague


def test_the_package_is_a_dozen_packages():
    """Beside them only `__init__.py`, `__main__.py` and `py.typed`; and tests mirror them."""
    children = [path for path in (ROOT / "jaxdistill").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in children if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}
    packages = {path.name for path in children if path.is_dir()}
    assert 12 <= len(packages) <= 16
    assert packages <= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}


# A developer's machine, a private package index, an unfinished merge, work left for later.
FORBIDDEN = {
    "path of a machine": r"(?<![\w.$}/~-])/(?:home|work|root|tmp|Users|opt)/\w",
    "package index": r"--(?:extra-)?index-url|--find-links|pythonhosted\.org",
    "merge conflict": r"^(?:<{7}|={7}|>{7})(?: |$)",
    "unfinished work": r"\b(?:TODO|FIXME|XXX)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_is_committed(what):
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    own_name = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        f"{name}: {match.group()}"
        for name, text in project_files()
        if name != own_name
        for match in pattern.finditer(text)
    ]
    assert not found
