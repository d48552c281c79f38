"""Commands in surroundings that lack something: they do their work, or say in one line what is missing.

Each surrounding is tried with commands in processes of their own. Whatever happens, the exit code is 0 or 2, there is
no traceback, and the files of a command that did its work are there.
"""

import ast
import dataclasses
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxdistill import METHODS, ZOO
from jaxdistill.cli import main
from jaxdistill.runtime import command, errors
from tests.results.random_results import make

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Surrounding:
    """What is around a command.

    Attributes:
      variables: of the environment; None: not set.
      shell: the command line, in which {} stands for the command.
      error: the exit code is 2 and the error says this; "": the command does its work.
      only: commands that need what is missing; the others do their work. (): all commands.
      prepare: called with the working folder.
      folder: the name of the working folder.
    """

    variables: dict[str, str | None] = dataclasses.field(default_factory=dict)
    shell: str = "{}"
    error: str = ""
    only: tuple[str, ...] = ()
    prepare: Callable[[Path], object] = lambda folder: None
    folder: bytes = b"folder"


COMPARE = "--worlds=garnet --num_mdps=2 --num_iterations=5 --num_checkpoints=1 --teacher=uniform --methods=baseline"
FIG8 = "--num_mdps=1 --num_iterations=20 --num_checkpoints=2 --teachers=optimal --columns=mc --methods=baseline"
COMMANDS = {
    "methods": "-m jaxdistill methods n_distill",
    "list": "-m jaxdistill methods",
    "help": "-m jaxdistill compare --help",
    "show": "-m jaxdistill show {folder}/run.npz",
    "table": "-m jaxdistill table {folder}/run.npz",
    "plot": "-m jaxdistill plot {folder}/run.npz",
    "check": "-m jaxdistill check entropy_regularised --num_mdps=1",
    "compare": f"-m jaxdistill compare {COMPARE}",
    "fig1": "-m experiments.fig1",
    "guide": "-m experiments.fig1 --strong_teacher=yes",
    "flags": "-m experiments.fig8 --help",
    "estimators": "-m experiments.estimators --smoke",
    "fig8": f"-m experiments.fig8 --smoke {FIG8}",
}
FILES = {"plot": ["run.png", "run.pdf"], "compare": ["compare.npz", "compare.png"], "fig1": ["results/fig1/fig1.pdf"]}
COMPUTE = ("check", "compare", "estimators", "fig8")
DRAW = ("plot", "compare", "fig1", "estimators", "fig8")
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SURROUNDINGS = {
    "nothing special": Surrounding(),
    "no home": Surrounding({"HOME": None}),
    "a home that cannot be written": Surrounding({"HOME": "/dev/null/x", "MPLCONFIGDIR": None}),
    "no folder for temporary files": Surrounding({"TMPDIR": "/dev/null/x"}),
    "a cache that cannot be written": Surrounding({"JAX_COMPILATION_CACHE_DIR": "/dev/null/x"}),
    "a device that is missing": Surrounding({"JAX_PLATFORMS": "rocket"}, error="Unable to initialize", only=COMPUTE),
    "a setting of JAX that is none": Surrounding({"JAX_ENABLE_X64": "perhaps"}, error="JAX_ENABLE_X64"),
    "a backend of matplotlib that is none": Surrounding({"MPLBACKEND": "rocket"}, error="backend",
        only=(*DRAW, "guide", "flags")),
    "usetex without latex": Surrounding({"MATPLOTLIBRC": "usetex.rc"},  # figures have a style of their own
        prepare=lambda folder: (folder / "usetex.rc").write_text("text.usetex: True\n")),
    "ASCII": Surrounding({"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
    "cp1252": Surrounding({"PYTHONIOENCODING": "cp1252"}),
    "a reader that ends early": Surrounding(shell="set -o pipefail; {} | head -c 1 > /dev/null"),
    "both streams into a pipe that is closed": Surrounding(shell="{} 2>&1 | true; exit ${{PIPESTATUS[0]}}"),
    "no stdin": Surrounding(shell="{} <&-"),
    "no stdout": Surrounding(shell="{} >&-"),
    "no stderr": Surrounding(shell="{} 2>&-"),
    "no streams at all": Surrounding(shell="{} <&- >&- 2>&-"),
    "a full disk behind stdout": Surrounding(shell="{} > /dev/full", error="could not be printed"),
    "a terminal of one column": Surrounding({"COLUMNS": "1", "LINES": "1"}),
    "a dumb terminal": Surrounding({"TERM": "dumb", "NO_COLOR": "1"}),
    "a task of SLURM": Surrounding(SLURM),
    "a task of Open MPI": Surrounding({"OMPI_COMM_WORLD_SIZE": "2"}, only=("fig8",)),
    "a coordinator of JAX": Surrounding({"JAX_COORDINATOR_ADDRESS": "host:1"}, only=("fig8",)),
    "a working folder that cannot be written": Surrounding(shell="cd /proc && {}", error="cannot",
        only=("compare", "fig1", "estimators", "fig8")),
    "a folder that is not UTF-8": Surrounding(folder=b"\xff\xe9"),
    "a user without a name": Surrounding({"USER": None, "LOGNAME": None, "LANG": None}),
}  # fmt: skip


def run(name: str, surrounding: Surrounding, folder: Path) -> subprocess.CompletedProcess:
    folder.mkdir()
    make().save(folder / "run.npz")
    surrounding.prepare(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | surrounding.variables
    words = [sys.executable, *COMMANDS[name].format(folder=folder).split()]
    return subprocess.run(
        ["bash", "-c", surrounding.shell.format(shlex.join(words))],
        cwd=folder, capture_output=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
        env={key: value for key, value in environment.items() if value is not None},
    )  # fmt: skip


def holds(name: str, where: str, folder: Path) -> None:
    """Runs the command in the surrounding; fails unless it does its work or says in one line why it cannot."""
    surrounding = SURROUNDINGS[where]
    folder = folder / os.fsdecode(surrounding.folder)
    done = run(name, surrounding, folder)
    error = done.stderr.decode(errors="replace")
    is_refused = bool(surrounding.error) and (not surrounding.only or name in surrounding.only)
    assert "Traceback" not in error and "Exception ignored" not in error, error
    assert done.returncode == (2 if is_refused else 0), (done.returncode, error)
    reasons = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(reasons) == is_refused, error
    if is_refused:
        assert where != "a backend of matplotlib that is none" or not [*folder.glob("compare*")]  # before the training
        assert surrounding.error in reasons[0] and error.endswith(reasons[0] + "\n") and len(reasons[0]) < 1100
    if not is_refused or surrounding.error == "could not be printed":
        assert [path for path in FILES.get(name, []) if not (folder / path).exists()] == []
    if where == "usetex without latex" and name == "compare":
        assert (folder / "compare.npz").exists() and b"baseline" in done.stdout  # the numbers come first


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("fig1", "a reader that ends early"),
        ("check", "a device that is missing"),
        ("show", "no streams at all"),
        ("plot", "a full disk behind stdout"),
    ],
)
def test_a_few(name, where, tmp_path):
    holds(name, where, tmp_path)


@pytest.mark.parametrize("where", SURROUNDINGS)
def test_each_surrounding(where, tmp_path):
    """With one command that needs what is missing."""
    name = (SURROUNDINGS[where].only or ("plot",))[0]
    holds(name, where, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("where", SURROUNDINGS)
def test_every_command_in_every_surrounding(name, where, tmp_path):
    holds(name, where, tmp_path)


# --- The same without processes -------------------------------------------------------------------------------


class Broken(io.TextIOWrapper):
    """A stream whose writes fail."""

    def __init__(self, error: OSError, file: io.RawIOBase):
        super().__init__(file, encoding="utf-8", write_through=True)
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "shift_jis", "utf-8"])
def test_all_that_is_printed_can_be_read_on_every_terminal(encoding, monkeypatch, tmp_path):
    """Every character has a spelling, so that no question mark is printed; only a name may hold others."""
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    path = make().save(tmp_path / "run.npz")
    lines = [["methods"], *(["methods", name] for name in (*METHODS, *ZOO)), ["show", str(path)], ["table", str(path)]]
    for line in lines:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        assert main.main(line) == 0
        stream.flush()
        assert b"?" not in stream.buffer.getvalue(), line
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    command.run(lambda: print("3 ± 1, world \udcff"))
    assert stream.buffer.getvalue() == b"3 +- 1, world ?\n"


def test_every_character_of_the_program_has_a_spelling():
    """Those in strings, which may be printed, except for those in docstrings and in labels of figures."""
    printed = set()
    for path in [*(ROOT / "jaxdistill").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                printed |= {letter for letter in node.value if ord(letter) > 127}
    drawn = {"\u200b", "…"}  # in names that figures draw, `plotting.labels`
    assert printed and printed - drawn <= command._ASCII.keys()


def test_an_error_of_a_stream_stops_no_work(monkeypatch, tmp_path, capsys):
    """A reader that has ended is no error; another one is reported, after the work."""
    for error, code in ((BrokenPipeError(32, "Broken pipe"), None), (OSError(28, "No space left on device"), 2)):
        done = []
        with open(tmp_path / "stream", "wb", buffering=0) as file:
            monkeypatch.setattr(sys, "stdout", Broken(error, file))
            work = lambda done=done: [print("a" * 10_000), done.append(1), print("b")]  # noqa: E731
            if code is None:
                command.run(work)
            else:
                with pytest.raises(SystemExit) as stopped:
                    command.run(work)
                assert stopped.value.code == code
            assert done == [1]
    assert capsys.readouterr().err == (
        "error: the output could not be printed (No space left on device); all files are written.\n"
    )


class _Outside(Exception):
    """An error of another package."""


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ValueError("a\nb"), "error: a b"),
        (OSError(28, "No space left", "x.npz"), "error: [Errno 28] No space left: 'x.npz'"),
        (MemoryError(), "error: MemoryError:"),
        (ImportError("no numba"), "error: no numba"),
        (errors.ExecutorFailed("a shard is lost"), "error: a shard is lost"),
        (KeyboardInterrupt("half is saved"), "stopped; half is saved"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError("x" * 5000), "error: " + "x" * 1000 + "..."),
    ],
)
def test_how_a_command_ends(raised, line, capsys):
    def work() -> None:
        raise raised

    with pytest.raises(SystemExit) as stopped:
        command.run(work)
    assert stopped.value.code == (130 if isinstance(raised, KeyboardInterrupt) else 2)
    assert capsys.readouterr().err == line + "\n"


def test_an_error_of_another_package_is_a_line_and_a_bug_keeps_its_traceback(capsys):
    outside: dict = {"__name__": "jax.internals", "Error": _Outside}
    exec("def fails():\n    raise Error('no such device')", outside)
    inside = outside | {"__name__": "jaxdistill.engine"}
    exec("def fails():\n    raise Error('a bug')", inside)
    with pytest.raises(SystemExit):
        command.run(outside["fails"])
    assert capsys.readouterr().err == "error: _Outside: no such device\n"
    with pytest.raises(_Outside, match="a bug"):
        command.run(inside["fails"])
