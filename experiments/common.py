"""What every experiment shares: flags from a settings dataclass, an output folder, and one way to fail."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from absl import app, flags, logging

import jaxdistill
from jaxdistill import Result, Teacher, plotting, results, teachers
from jaxdistill.cli.main import keep_compiled_programs
from jaxdistill.results.result import package_versions
from jaxdistill.runtime import checkpoints, checks, processes
from jaxdistill.runtime.files import locked, one_line, write_atomically
from jaxdistill.runtime.progress import duration


def option(default: Any, help: str) -> Any:
    """A field of a settings dataclass: its default, and the help text of its flag, units included."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class Output:
    """Where an experiment writes, and how."""

    outdir: str = option("", "folder for the figure, the curves and the settings; default results/<experiment>")
    restart: bool = option(False, "run again even where outdir holds results of other settings, and replace them")
    smoke: bool = option(False, "everything once, tiny, in less than a minute; overrides sizes that are not given")


@dataclasses.dataclass
class Worlds:
    """How worlds are sampled (App. A.1 and A.2)."""

    num_mdps: int = option(100, "sampled worlds; the paper has 1000")
    num_rows: int = option(20, "height of the grid, cells")
    num_cols: int = option(20, "width of the grid, cells")
    num_actions: int = option(4, "actions: four moves, the others do nothing")
    observation: str = option("full", "what the agent sees: full (its state) or window (the cells around it)")
    window_radius: int = option(4, "window: cells seen in each direction")
    p_wall: float = option(0.1, "probability that a cell is a wall")
    p_plus10: float = option(0.01, "probability of a terminal cell with reward +10")
    p_plus5: float = option(0.02, "probability of a terminal cell with reward +5")
    p_minus1: float = option(0.1, "probability of a cell with reward -1")
    p_minus5: float = option(0.01, "probability of a terminal cell with reward -5")
    p_minus10: float = option(0.01, "probability of a terminal cell with reward -10")
    noise: float = option(0.1, "probability that a move goes in a random direction")
    termination_prob: float = option(0.01, "probability that a step ends the episode")

    def grid_config(self) -> jaxdistill.GridConfig:
        """The sampler's configuration; ValueError where a value is impossible."""
        return _filled(jaxdistill.GridConfig, self)


@dataclasses.dataclass
class Processes:
    """Which of several processes this is; each trains a share of the students, the first writes the results."""

    coordinator: str = option("", "several processes: host:port of the first; else as SLURM, MPI or a TPU pod says")
    num_processes: int = option(0, "several processes: how many there are")
    process_id: int = option(-1, "several processes: which of them this is, from 0")


@dataclasses.dataclass
class Training(Processes):
    """How students are trained (App. A.3 to A.5)."""

    num_iterations: int = option(30_000, "episodes, and so updates, of each student and of each learned teacher")
    num_checkpoints: int = option(100, "points of each learning curve")
    seed: int = option(0, "seed of the worlds, the teachers and the students")
    reduction: str = option("mean", "an episode's update is the mean or the sum over its steps")
    learning_rate: float = option(0.1, "step size of the student's logits")
    value_learning_rate: float = option(0.1, "step size of the student's value table")
    discount: float = option(0.99, "discount of the returns trained on; figures show undiscounted returns")
    probability_floor: float = option(0.01, "least teacher probability inside a logarithm")

    def train_config(self) -> jaxdistill.Config:
        """The configuration of `jaxdistill.train`; ValueError where a value is impossible."""
        return _filled(jaxdistill.Config, self)


def _filled(config_type: Any, settings: Any) -> Any:
    """A configuration whose fields are those of the settings, where they have one of that name."""
    names = [field.name for field in dataclasses.fields(config_type)]
    return config_type(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})


TEACHERS = {
    "q_learning": "Q-learning teacher",
    "actor_critic": "A2C teacher",
    "optimal": "Optimal teacher",
    "adversarial": "Adversarial teacher",
}


class Keys(NamedTuple):
    """Independent random keys, one for each purpose."""

    worlds: jax.Array
    teacher: jax.Array
    noise: jax.Array
    students: jax.Array


def keys(seed: int) -> Keys:
    """The keys that follow from a seed: the same worlds and teachers in every experiment of the same seed.

    ValueError for a seed that does not fit into the 32 bits of which keys are made.
    """
    return Keys(*jax.random.split(jax.random.key(checks.seed(seed)), 4))


def make_teacher(name: str, key: jax.Array, mdps: jaxdistill.MDP, settings: Any) -> Teacher:
    """A teacher of `TEACHERS`, without noise."""
    if name == "q_learning":
        return teachers.q_learning(
            key, mdps, num_iterations=settings.num_iterations, discount=settings.discount, progress=True
        )
    if name == "actor_critic":
        return teachers.actor_critic(key, mdps, config=settings.train_config(), progress=True)
    exact = {"optimal": teachers.optimal, "adversarial": teachers.adversarial}[name]
    return exact(mdps, discount=settings.discount)


def known(what: str, names: list[str], valid: Any) -> None:
    """ValueError naming the valid names if one of `names` is not among them."""
    for name in names:
        if name not in valid:
            raise ValueError(f"Unknown {what} {name!r}; choose from {', '.join(valid)}.")
    if not names:
        raise ValueError(f"No {what} given; choose from {', '.join(valid)}.")


def prepare_outdir(settings: Any) -> Path:
    """Makes the folder and proves that it can be written, before any work; ValueError if not."""
    outdir = Path(settings.outdir)
    if not processes.is_writer():
        return outdir
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outdir):
            pass
    except OSError as error:
        raise ValueError(f"--outdir {outdir} cannot be written: {error.strerror}; choose another folder.") from None
    return outdir


def what_decides(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers: all but where and whether to write."""
    others = {field.name for kind in (Output, Processes) for field in dataclasses.fields(kind)} | {"shared"}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in others}


def save_settings(settings: Any, outdir: Path, files: list[str]) -> None:
    """Begins a run: settings.json, and none of the `files` that a run of other settings may have left."""
    for name in files:
        for path in (outdir / name, (outdir / name).with_suffix(".csv.gz")):
            path.unlink(missing_ok=True)
    text = json.dumps({"settings": what_decides(settings), "versions": package_versions()}, indent=2)
    write_atomically(outdir / "settings.json", lambda file: file.writelines([text.encode(), b"\n"]))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged; use --restart to run again, or another --outdir.") from None


def same_settings(settings: Any, outdir: Path) -> bool:
    """Whether outdir belongs to a run of exactly these settings; ValueError if it belongs to another."""
    path = outdir / "settings.json"
    if settings.restart or not path.exists():
        return False
    found = _read_settings(path)
    wanted = json.loads(json.dumps(what_decides(settings)))
    different = [k for k in wanted | found if wanted.get(k) != found.get(k)]
    if different:
        shown = ", ".join(f"{k} was {found.get(k)}, is {wanted.get(k)}" for k in different)
        raise ValueError(f"{outdir} holds results of other settings ({shown}); use another --outdir, or --restart.")
    return True


def run_parts(
    settings: Any,
    outdir: Path,
    parts: Mapping[str, Callable[[], Any]],
    draw: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """What the parts of an experiment return, by name: a `Result` each, or a dictionary of arrays.

    A part is saved as `<name>.npz` when it is finished (a `Result` also as `<name>.csv.gz`), and a part that an earlier
    run of the same settings finished is read instead. One that was stopped goes on from `<name>.unfinished`; then
    `draw`, which makes a figure of some of the parts, the last of them of some students, leaves `unfinished.png`.
    ValueError if another process works in the same folder.
    """
    found: dict[str, Any] = {}
    with locked(outdir) if processes.is_writer() else contextlib.nullcontext():
        try:
            _find_parts(settings, outdir, parts, found)
        except KeyboardInterrupt as stop:
            if isinstance(stop, jaxdistill.Stopped):
                found[list(parts)[len(found)]] = stop.result
            if draw is not None and found and processes.is_writer():
                _deliver_unfinished(draw, found, outdir)
            raise
        for path in outdir.glob("unfinished.*"):
            path.unlink()
    return found


def _find_parts(settings: Any, outdir: Path, parts: Mapping[str, Callable[[], Any]], found: dict[str, Any]) -> None:
    files = {name: outdir / f"{name}.npz" for name in parts}
    writer, started, num_read = processes.is_writer(), time.perf_counter(), 0
    ours = writer and same_settings(settings, outdir)
    for name, path in files.items():
        # What the writer has is there for all: the others may not see its disk.
        if data := processes.from_writer(path.read_bytes() if ours and path.exists() else b""):
            found[name], num_read = _read_part(data, path), num_read + 1
            continue
        unfinished = outdir / f"{name}.unfinished"
        if settings.restart:
            shutil.rmtree(unfinished, ignore_errors=True)
        with checkpoints.resumable(unfinished):
            part = parts[name]()
            if writer and not ours:  # only now: a run that cannot even begin leaves what was there
                save_settings(settings, outdir, files=[path.name for path in files.values()])
                ours = True
            if writer:
                _save_part(part, path)
        found[name] = part
    print(f"{len(files)} parts, {num_read} of them from {outdir}, in {duration(time.perf_counter() - started)}")


def _deliver_unfinished(draw: Callable[[dict[str, Any]], Any], found: dict[str, Any], outdir: Path) -> None:
    figure = draw(found)
    figure.suptitle("Unfinished: the worlds with the longest episodes come first", fontsize=9)  # `Task.queue`
    deliver(figure, outdir, "unfinished")


def shared_part(settings: Any, folder: str, name: str, ignored: tuple[str, ...]) -> Any:
    """The part `name` of another experiment's folder if it was made with the same settings, else None.

    Compared are the settings that both experiments have, but for those `ignored`.
    """
    path = Path(folder, f"{name}.npz")
    try:
        found = _read_settings(Path(folder, "settings.json"))
    except (OSError, ValueError):
        return None
    wanted = json.loads(json.dumps(what_decides(settings)))
    if not path.exists() or any(found[k] != wanted[k] for k in (found.keys() & wanted.keys()) - set(ignored)):
        return None
    print(f"{name}: from {path}")
    return _read_part(path.read_bytes(), path)


def _save_part(part: Any, path: Path) -> None:
    if isinstance(part, Result):
        part.to_csv(path.with_suffix(".csv.gz"))
        part.save(path)  # last: its presence says that the part is complete
        return
    arrays = {name: np.asarray(value) for name, value in part.items()}

    def write(file: Any) -> None:
        np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def _read_part(data: bytes, path: Path) -> Any:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if "metadata.json" not in file.files:  # arrays alone; else a saved Result
                return {name: file[name] for name in file.files}
    except Exception:  # damage can show in any way that the zip, zlib and npy readers have
        raise ValueError(f"{path} is damaged; delete it, or use --restart to run everything again.") from None
    return results.read(data, path)


def deliver(figure: Any, outdir: Path, name: str) -> None:
    """Writes the figure as `<name>.png` and `<name>.pdf` and says where."""
    if not processes.is_writer():
        return
    for path in plotting.save_figure(figure, outdir / name):
        print(path)


def deliver_table(lines: list[str], outdir: Path, name: str) -> None:
    """Prints a table and writes it as `<name>.md`."""
    print("\n".join(lines))
    if processes.is_writer():
        write_atomically(outdir / f"{name}.md", lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def parse(settings_type: type, name: str, smoke: dict[str, Any], argv: list[str]) -> Any:
    """Settings from flags; exits with code 2 and one line for a flag that is wrong, with 0 for --help."""
    define: dict[type, Callable[..., Any]] = {
        bool: flags.DEFINE_boolean,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        list: flags.DEFINE_list,
    }
    values = flags.FlagValues()
    for field in dataclasses.fields(settings_type):
        default = getattr(settings_type(), field.name)
        define[type(default)](field.name, default, field.metadata["help"], flag_values=values)
    if any(arg in ("--help", "-h", "-help", "--helpfull") for arg in argv[1:]):
        print(f"{sys.modules['__main__'].__doc__}\nFlags:{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        fail(str(error))
    if rest:
        fail(f"Unknown argument {rest[0]!r}; options start with --, see --help.")
    given = {f.name: getattr(values, f.name) for f in dataclasses.fields(settings_type)}
    if given["smoke"]:
        given |= {k: v for k, v in smoke.items() if not values[k].present}
    given["outdir"] = given["outdir"] or given.get("results") or default_outdir(name, given["smoke"])
    return settings_type(**given)


def default_outdir(name: str, smoke: bool) -> str:
    """results/fig8, or results/fig8-smoke: a trial never meets the real results."""
    return str(Path("results", name + ("-smoke" if smoke else "")))


_LONGEST = 1000  # characters of an error: a flag's value may be anything


def fail(message: str) -> NoReturn:
    """One line on stderr and exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}", file=sys.stderr)
    processes.leave(2)


def main(settings_type: type, name: str, smoke: dict[str, Any], work: Callable[[Any], None]) -> None:
    """Entry point of an experiment: flags, compilation cache, work, and errors for people."""

    def run(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries' notes are not ours
        settings = parse(settings_type, name, smoke, sys.argv)
        keep_compiled_programs()
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # type: ignore[assignment]
        try:
            with _one_of_several(settings):
                work(settings)
        except (ValueError, OSError, processes.Lost) as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            processes.leave(130)

    app.run(run, argv=sys.argv[:1])


@contextlib.contextmanager
def _one_of_several(settings: Any) -> Iterator[None]:
    """Joins the other processes, if there are any; only the first prints, and none waits for one that failed."""
    if isinstance(settings, Processes):
        processes.connect(settings.coordinator, settings.num_processes, settings.process_id)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was trained is saved
    with contextlib.ExitStack() as stack:
        if not processes.is_writer():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        except BaseException as error:
            processes.check()  # the reason may be another process
            processes.failed(one_line(error))
            raise
