"""The notebooks: their code runs, their outputs are stored and small, and they install from this repository."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@each_notebook
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)


@each_notebook
def test_is_a_notebook_that_was_run_in_order_without_an_error(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    warnings = [output for output in outputs if output.get("name") == "stderr" and not is_finished_bar(output)]
    assert not warnings


def is_finished_bar(output):
    """True if an output on stderr is nothing but bars of progress at their end."""
    lines = "".join(output["text"]).splitlines()
    return all(re.fullmatch(r"[\w -]+: 100%\|█+\| [\d:]+, done, \d+\.\d M steps/s", line) for line in lines)


@each_notebook
def test_stores_no_widgets(path):
    """A page shows a stored widget only with scripts from the network."""
    notebook = json.loads(path.read_text())
    types = {kind for cell in code_cells(path) for output in cell["outputs"] for kind in output.get("data", {})}
    assert types <= {"text/plain", "image/png"} and "widgets" not in notebook["metadata"]


@each_notebook
def test_is_small(path):
    assert path.stat().st_size < 300_000


@each_notebook
def test_installs_from_this_repository_and_leaves_jax_alone(path):
    """While pyproject.toml names no address of the repository, the first cell asks the user for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"].get("Repository", "")
    install = "".join(code_cells(path)[0]["source"])
    assert f'REPOSITORY = "{address}"' in install
    assert "--upgrade" not in install and "-U" not in install  # pip then leaves a jaxlib that is recent enough
    if address:
        badge = f"https://colab.research.google.com/github/{address.removeprefix('https://github.com/')}/blob/main/docs/notebooks/"
        assert badge in (ROOT / "README.md").read_text()
