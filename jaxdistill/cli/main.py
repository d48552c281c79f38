"""The laboratory for policy distillation, without writing Python.

python -m jaxdistill methods                 every method and objective, and what it is the gradient of
python -m jaxdistill methods n_distill       one of them: its formula, piece by piece
python -m jaxdistill check on_policy_distill what its expected update is the gradient of, tried on random MDPs
python -m jaxdistill compare --methods=baseline,n_distill --num_mdps=64
python -m jaxdistill show compare.npz        what is in a results file
python -m jaxdistill table a.npz b.npz       compares saved results; --format=latex for a paper
python -m jaxdistill plot compare.npz        draws its learning curves again
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from jaxdistill.cli import commands
from jaxdistill.training.config import Config

_LONGEST = 1000  # characters of an error: a flag's value may be anything


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message)


def _fail(message: str) -> NoReturn:
    """One line on stderr and exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}", file=sys.stderr)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    form: dict[str, Any] = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = _Parser(prog="jaxdistill", description=__doc__, **form)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        form["formatter_class"] = argparse.ArgumentDefaultsHelpFormatter
        sub = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **form)
        sub.set_defaults(run=run)
        return sub

    sub = command("methods", commands.run_methods, "list methods with what they are the gradient of, or one in detail")
    sub.add_argument("name", nargs="?", default=None, help="a method, for its formula")
    sub = command("check", commands.run_check, "find out on random MDPs what a method's update is the gradient of")
    sub.add_argument("name", help="a method")
    sub.add_argument("--num_mdps", type=int, default=20, help="random MDPs to try")
    sub.add_argument("--seed", type=int, default=0, help="seed of MDPs, teachers and students")
    _add_compare(command("compare", commands.run_compare, "train students with several methods and compare them"))
    sub = command("show", commands.run_show, "say what is in a results file")
    sub.add_argument("file", help="written by compare, an experiment, or Result.save")
    sub = command("table", commands.run_table, "compare the methods of saved results on the same MDPs")
    sub.add_argument("files", nargs="+", help="results files")
    _add_table(sub)
    sub.add_argument("--format", choices=("text", "markdown", "latex"), default="text", help="latex needs booktabs")
    sub.add_argument("--columns", default="", help="such as mean,difference; empty: all")
    sub = command("plot", commands.run_plot, "draw the learning curves of a results file")
    sub.add_argument("file", help="written by compare, an experiment, or Result.save")
    sub.add_argument("--out", default="", help="path without .png and .pdf; empty: beside the file")
    sub.add_argument("--methods", default="", help="which, and in which order; empty: all")
    sub.add_argument("--quantity", choices=("returns", "lengths"), default="returns", help="what to draw")
    return parser


def _add_table(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--baseline", default=None, help="method to compare with; None: the first")
    sub.add_argument("--reach", type=float, default=None, help="level of return; says when half of the MDPs reached it")


def _add_compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--methods", default="baseline,on_policy_distill,n_distill", help="names, with commas between")
    sub.add_argument("--worlds", default="grid", help="grid, garnet (random MDPs), or gymnasium:ID with a table")
    sub.add_argument("--num_mdps", type=int, default=64, help="worlds; of gymnasium: students of each method")
    sub.add_argument("--num_rows", type=int, default=20, help="height of a grid, cells")
    sub.add_argument("--num_cols", type=int, default=20, help="width of a grid, cells")
    sub.add_argument("--teacher", choices=commands.TEACHERS, default="q_learning", help="where the teacher comes from")
    sub.add_argument("--teacher_noise", type=float, default=0.0, help="share of states where it plays its worst action")
    sub.add_argument("--num_iterations", type=int, default=2000, help="episodes of each student and learned teacher")
    for name, (kind, text) in commands.TRAINING.items():
        default = commands.DEFAULTS.get(name, getattr(Config, name))
        sub.add_argument(f"--{name}", type=kind, default=default, help=text)
    sub.add_argument("--seed", type=int, default=0, help="seed of worlds, teachers and students")
    _add_table(sub)
    sub.add_argument("--out", default="compare", help="path of the results, without .npz, .png and .pdf")
    sub.add_argument("--overwrite", action="store_true", help="replace results that are there")


def keep_compiled_programs() -> None:
    """Across calls, on disk: a second run starts several times faster. The library itself never does this."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path.home() / ".cache" / "jaxdistill")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or exits with code 2 and one line for what a person can put right."""
    args = _parser().parse_args(argv)
    for name, value in vars(args).items():
        if value == []:  # what Python 3.11 makes of --name=--
            _fail(f"--{name} must have a value; '--' is none.")
    keep_compiled_programs()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # type: ignore[assignment]
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0
