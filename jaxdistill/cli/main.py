"""Policy distillation from the command line.

python -m jaxdistill methods                 lists all methods and objectives, and what they are the gradient of
python -m jaxdistill methods n_distill       prints the formula of a method
python -m jaxdistill methods --library=trl   prints which settings of another library are which method
python -m jaxdistill check on_policy_distill tests on random MDPs what the expected update is the gradient of
python -m jaxdistill compare --methods=baseline,n_distill --num_mdps=64
python -m jaxdistill show compare.npz        prints the contents of a results file
python -m jaxdistill table a.npz b.npz       compares saved results; --format=latex for a paper
python -m jaxdistill plot compare.npz        draws the learning curves of a results file
"""

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdistill import executors
from jaxdistill.cli import commands, sweep_command
from jaxdistill.cli.flags import Parser, check_values
from jaxdistill.executors.spelling import KINDS
from jaxdistill.mdp.named_measures import MEASURES
from jaxdistill.methods import schedules
from jaxdistill.runtime import command
from jaxdistill.runtime.files import as_path, check_writable, from_command_line
from jaxdistill.runtime.surroundings import package_versions
from jaxdistill.training.config import Config
from jaxdistill.training.sweep import MAX_STUDENTS

_PATHS = {"file", "files", "out"}  # arguments that are paths
_RESULTS_FILE = "results file, written by compare, an experiment or Result.save"
_MEASURE_HELP = (
    "what to measure and compare besides the return, such as forward_kl:teacher, separated by commas or as several "
    f"flags; of {', '.join(MEASURES)}"
)


class _Version(argparse.Action):
    """The flag --version. The versions are looked up where they are asked for, because that reads files."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, *_: Any) -> None:
        """Prints the package's own version and those of the packages that it uses, and exits."""
        packages = package_versions()
        packages = {"jaxdistill": packages.pop("jaxdistill", "not installed"), **packages}
        print(", ".join(f"{name} {version}" for name, version in packages.items()))
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands and flags."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="jaxdistill", description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--version", action=_Version, help="print the versions of the packages and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        options: dict[str, Any] = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
        sub = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **options)
        sub.set_defaults(run=run)
        return sub

    sub = add("methods", commands.run_methods, "list the methods and what they are the gradient of, or show one")
    sub.add_argument("name", nargs="?", default=None, help="a method, whose formula is printed")
    sub.add_argument("--latex", action="store_true", help="print the formula as LaTeX")
    sub.add_argument(
        "--library",
        nargs="?",
        const="",
        default=None,
        help="print which settings of a library, such as trl or trl.gkd, are which method here; alone: of all",
    )
    sub = add("check", commands.run_check, "test on random MDPs what a method's expected update is the gradient of")
    sub.add_argument("name", help="a method")
    sub.add_argument("--num_mdps", type=int, default=20, help="number of random MDPs")
    sub.add_argument("--seed", type=int, default=0, help="seed of MDPs, teachers and students")
    _add_compare(add("compare", commands.run_compare, "train students with several methods and compare them"))
    _add_sweep(add("sweep", sweep_command.run_sweep, "train all combinations of some numbers and compare the best"))
    sub = add("show", commands.run_show, "print the contents of a results file")
    sub.add_argument("file", help=_RESULTS_FILE)
    sub = add("table", commands.run_table, "compare the methods of saved results on the same MDPs")
    sub.add_argument("files", nargs="+", help="results files")
    _add_table(sub)
    sub.add_argument("--measure", default=None, help="what to compare: a measure in the files; None: the return")
    sub.add_argument("--format", choices=("text", "markdown", "latex"), default="text", help="latex needs booktabs")
    sub.add_argument("--columns", default="", help="columns such as mean,difference; empty: all")
    sub = add("plot", commands.run_plot, "draw the learning curves of a results file")
    sub.add_argument("file", help=_RESULTS_FILE)
    sub.add_argument(
        "--out",
        default="",
        help="path of the figure, without .png and .pdf; empty: that of the file, with the name of the measure",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace existing figures")
    sub.add_argument("--methods", default="", help="methods to draw, in this order; empty: all")
    sub.add_argument("--quantity", choices=("returns", "lengths"), default="returns", help="quantity to draw")
    sub.add_argument("--measure", default=None, help="measure to draw in place of --quantity, one of those in the file")
    return parser


def _number(text: str) -> float | schedules.Schedule:
    """A number of a flag, or its schedule."""
    try:
        return schedules.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_table(sub: argparse.ArgumentParser) -> None:
    """Adds the flags of a comparison table."""
    sub.add_argument("--baseline", default=None, help="method to compare with; None: the first")
    sub.add_argument("--reach", type=float, default=None, help="level of return; the table shows when it is reached")


def _add_compare(sub: argparse.ArgumentParser) -> None:
    """Adds the flags of the command compare."""
    _add_training(sub, "compare")
    _add_table(sub)


def _add_sweep(sub: argparse.ArgumentParser) -> None:
    """Adds the flags of the command sweep."""
    _add_training(sub, "sweep")
    text = "values of a parameter, such as learning_rate=0.03,0.1,0.3 or beta=0.1,0.5; once for each"
    sub.add_argument("--grid", action="append", required=True, metavar="NAME=VALUES", help=text)
    sub.add_argument("--tuned", default="return", help="measure by which the best settings are chosen")
    sub.add_argument("--baseline", default=None, help="method to compare with; None: the first")
    text = "largest number of students, settings times worlds, that is trained"
    sub.add_argument("--max_students", type=int, default=MAX_STUDENTS, help=text)


def _add_training(sub: argparse.ArgumentParser, out: str) -> None:
    """Adds the flags of a command that trains students, whose results are in `out` by default."""
    sub.epilog = (
        "A number of the update may change with the iteration, linearly between iteration:value pairs: "
        "--loss_weight=0:1,1000:0 falls from 1 to 0 in the first 1000 iterations."
    )
    sub.add_argument("--methods", default="baseline,on_policy_distill,n_distill", help="names, separated by commas")
    sub.add_argument("--worlds", default="grid", help="grid, garnet (random MDPs), or gymnasium:ID (with a table)")
    sub.add_argument("--num_mdps", type=int, default=64, help="number of worlds; for gymnasium, of students per method")
    sub.add_argument("--num_rows", type=int, default=20, help="height of a grid in cells")
    sub.add_argument("--num_cols", type=int, default=20, help="width of a grid in cells")
    sub.add_argument("--teacher", choices=commands.TEACHERS, default="q_learning", help="how the teacher is obtained")
    sub.add_argument("--teacher_noise", type=float, default=0.0, help="share of states with the teacher's worst action")
    sub.add_argument("--num_iterations", type=int, default=2000, help="episodes of a student or learned teacher")
    for name, (kind, text) in commands.TRAINING.items():
        default = commands.DEFAULTS.get(name, getattr(Config, name))
        sub.add_argument(f"--{name}", type=_number if kind is float else kind, default=default, help=text)
    sub.add_argument("--equal_steps", action="store_true", help="scale rates so that first updates are equally large")
    sub.add_argument("--seed", type=int, default=0, help="seed of worlds, teachers and students")
    sub.add_argument("--measure", action="append", help=_MEASURE_HELP)
    sub.add_argument("--executor", default="", help=f"where students are trained: {KINDS}; empty: in this process")
    sub.add_argument("--allow_mixed", action="store_true", help="its workers may differ, and round differently")
    sub.add_argument("--out", default=out, help="path of the results, without .npz, .png and .pdf")
    sub.add_argument("--overwrite", action="store_true", help="replace existing results")


def cache_folder() -> str:
    """The folder `jaxdistill` in the user's cache folder: XDG_CACHE_HOME where it is an absolute path, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(home if os.path.isabs(home) else "~/.cache", "jaxdistill")


def keep_compiled_programs() -> None:
    """Stores compiled programs on disk, so that a second run starts several times faster.

    They are in the folder that JAX_COMPILATION_CACHE_DIR names, or in that of `cache_folder`. Only programs call this;
    importing the library leaves JAX's cache settings as they are. Where the folder cannot be written, one warning says
    so, and nothing is stored.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_folder()
    if "://" not in cache:  # not the address of a bucket, which JAX can write to as well
        try:
            cache = str(as_path(cache))
            Path(cache).mkdir(parents=True, exist_ok=True)
            check_writable(Path(cache, "program"))
        except (OSError, ValueError) as error:
            warnings.warn(f"compiled programs are not kept for the next run: {error}", stacklevel=2)
            jax.config.update("jax_enable_compilation_cache", False)
            return
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns 0; errors and Ctrl-C end the process as `runtime.command.run` says."""

    def work() -> None:
        args = _parser().parse_args(argv)
        check_values(args)
        for name in _PATHS & vars(args).keys():
            value = getattr(args, name)
            is_list = isinstance(value, list)
            setattr(args, name, [*map(from_command_line, value)] if is_list else from_command_line(value))
        keep_compiled_programs()
        with executors.using(getattr(args, "executor", ""), allow_mixed=getattr(args, "allow_mixed", False)):
            args.run(args)

    command.run(work)
    return 0
