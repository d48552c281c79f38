"""The command line: its output, its files, and the errors of one line with exit code 2."""

import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import METHODS, ZOO, load, methods, train
from jaxdistill.cli import commands, main
from jaxdistill.methods import get
from tests.lockstep import lockstep
from tests.results.random_results import make

COMPARE = [
    "compare", "--worlds=garnet", "--num_mdps=3", "--num_iterations=20", "--num_checkpoints=2", "--teacher=optimal",
    "--teacher_noise=0.5", "--methods=entropy_regularised,baseline", "--baseline=baseline", "--reach=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def keep_global_settings(monkeypatch):
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_every_method_is_listed_with_what_it_is_the_gradient_of(capsys):
    assert main.main(["methods"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    listed = {name: rest for name, rest in lines if name != "name"}
    assert list(listed) == [*METHODS, *ZOO]
    assert listed["n_distill"].endswith("E_pi_theta sum_t H(pi||pi_theta)")
    assert listed["on_policy_distill"].endswith("no loss")
    assert listed["dagger"].startswith("0.5 student + 0.5 teacher by step ")
    assert listed["k1_return"].endswith(ZOO["k1_return"].gradient_of)


@pytest.mark.parametrize("name", [*METHODS, *ZOO, "n_distill_r"])
def test_a_method_in_detail(capsys, name):
    assert main.main(["methods", name]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{name}: ")
    pieces = {line[:15].strip(): line[15:].strip() for line in lines}
    always = {"update", "g", "gradient of", "q", "reduction", "source", "try it", "symbols"}
    assert always <= set(pieces) and all(pieces.values())
    assert bool(get(name).params) == ("numbers" in pieces)


def test_the_formulas_are_those_of_the_method(capsys):
    main.main(["methods", "n_distill"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "l_t          H(pi||pi_theta)" in lines and "rhat_t       -H(pi||pi_theta)_{t+1}" in lines
    assert "where        H(p||q) = -sum_a p(a) log q(a)" in lines
    assert "gradient of  E_pi_theta sum_t H(pi||pi_theta)" in lines
    main.main(["methods", "jsd:beta=0.1", "--latex"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert r"l_t          \beta \, \text{KL}(\pi \| m) + (1 - \beta) \, \text{KL}(\pi_\theta \| m)" in lines
    assert any(line.startswith("numbers      beta = 0.1, in [1e-06, 0.999999]. At 0 and 1") for line in lines)


def test_the_settings_of_libraries(capsys):
    assert main.main(["methods", "--library"]) == 0
    everything = capsys.readouterr().out
    assert all(f"{key}: " in everything for key in methods.LIBRARY_UPDATES)
    assert main.main(["methods", "--library=trl"]) == 0
    assert capsys.readouterr().out.count("commit f2cd577") == sum(
        key.startswith("trl.") for key in methods.LIBRARY_UPDATES
    )
    assert main.main(["methods", "--library=tinker.off_policy"]) == 0
    text = capsys.readouterr().out
    assert "  always  ->  top_k_forward_kl_on_data: k = n_teacher_targets\n" in text and "Differs: " in text
    main.main(["methods", "k3_ratio"])
    text = capsys.readouterr().out
    assert "trl.grpo_kl: use_bias_correction_kl = True, beta = 1.0" in text
    main.main(["methods", "reverse_kl"])
    assert "trl.distillation: its defaults" in capsys.readouterr().out


def test_check_passes_its_arguments_on(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(commands, "check_method", lambda *args, **options: calls.append((args, options)) or "found")
    assert main.main(["check", "n_distill", "--num_mdps=2", "--seed=3"]) == 0
    ((method,), options) = calls.pop()
    assert method is METHODS["n_distill"] and options["num_mdps"] == 2 and options["key"] == jax.random.key(3)
    assert capsys.readouterr().out == "found\n"


@pytest.mark.slow
def test_check(capsys):
    assert main.main(["check", "entropy_regularised", "--num_mdps=2"]) == 0
    out = capsys.readouterr().out
    assert "entropy_regularised: the gradient of -E_pi_theta sum_t log pi(a_t)" in out and "2 MDPs" in out


def test_compare_show_table_and_plot(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(COMPARE) == 0
    out = capsys.readouterr().out
    assert "minus baseline" in out and "iterations to 0" in out and "3 MDPs" in out
    files = ["compare.npz", "compare.png", "compare.pdf", "compare_intervals.png", "compare_intervals.pdf"]
    assert out.split()[-5:] == files and sorted(p.name for p in tmp_path.iterdir()) == sorted(files)
    result = load("compare.npz")
    assert result.labels == ("entropy_regularised", "baseline") and result.settings["config"]["num_iterations"] == 20
    assert result.settings["cells"]["baseline"]["teacher"] == "optimal+50% noise"
    assert "compare.npz exists" in fails(capsys, *COMPARE)

    assert main.main(["show", "compare.npz"]) == 0
    shown = capsys.readouterr().out
    for text in ("returns: (2, 3, 2) (method, mdp, checkpoint)", '"num_iterations": 20', '"jax": ', "faults: none"):
        assert text in shown
    assert shown.count("num_iterations") == 1  # it is not repeated for every cell
    assert main.main(["table", "compare.npz", "--format=latex", "--columns=mean,difference"]) == 0
    assert capsys.readouterr().out.startswith("\\begin{tabular}{lrr}")
    assert main.main(["plot", "compare.npz", "--out=again", "--methods=baseline"]) == 0
    assert capsys.readouterr().out.split() == ["again.png", "again.pdf"]
    assert (tmp_path / "again.png").stat().st_size > 10_000
    assert "again.png exists; use another --out, or --overwrite" in fails(capsys, "plot", "compare.npz", "--out=again")
    assert main.main(["plot", "compare.npz", "--out=again", "--overwrite"]) == 0


def interrupted(capsys, monkeypatch, fraction, *flags):
    """Runs COMPARE until a fraction of the training, where Ctrl-C is pressed; what it says, and what it prints."""

    def stop(done, steps, left):
        if done > fraction:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, lockstep(num_ticks=64), pytest.raises(SystemExit) as stopped:
        patch.setattr(commands, "train", lambda *args, **options: train(*args, **options, on_chunk=stop))
        main.main([*COMPARE, *flags])
    assert stopped.value.code == 130
    out, error = capsys.readouterr()
    return error.splitlines()[-1], out


def test_ctrl_c_loses_no_student_that_had_finished(capsys, tmp_path, monkeypatch):
    """At several moments: what had finished is saved and named, other settings are refused, and the command goes on."""
    monkeypatch.chdir(tmp_path)
    assert main.main([*COMPARE, "--out=whole"]) == 0
    whole, counts = load("whole.npz"), []
    capsys.readouterr()
    for fraction in (0.0, 0.4, 0.7):
        last, out = interrupted(capsys, monkeypatch, fraction)
        assert last.startswith("stopped; ") and last.endswith("the same command goes on from compare.unfinished")
        num_finished = 0
        if (tmp_path / "compare.npz").exists():
            returns = load("compare.npz").final_returns
            is_finished = np.isfinite(returns)
            np.testing.assert_array_equal(returns[is_finished], whole.final_returns[is_finished])
            for label, finished in zip(whole.labels, is_finished, strict=True):
                assert f"{label} {finished.sum()}" in last
            num_finished = int(is_finished.sum())
        assert ("have finished" in last) == (num_finished > 0) and out == ""
        counts.append(num_finished)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.save")}
        error = fails(capsys, *COMPARE, "--seed=1", "--learning_rate=0.2")
        assert "(learning_rate was 0.1, is 0.2, seed was 0, is 1)" in error
        assert "use another --out, or --overwrite" in error
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.save")} == before
    assert counts == sorted(counts) and 0 < counts[1] < whole.final_returns.size
    assert main.main(COMPARE) == 0
    assert "going on from compare.unfinished/" in capsys.readouterr().err
    for name in ("returns", "final_returns", "logits"):
        np.testing.assert_array_equal(getattr(load("compare.npz"), name), getattr(whole, name))
    assert not (tmp_path / "compare.unfinished").exists()


@pytest.mark.parametrize(
    "out", ["folder", "no/such/folder", "/dev/null/x", "x" * 300, "$NO_SUCH/x", "~nobody_at_all/x"]
)
def test_where_compare_cannot_write_it_does_not_train(capsys, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr(commands, "_worlds", lambda *_: pytest.fail("the work began"))
    fails(capsys, *COMPARE, f"--out={out}", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


@pytest.mark.parametrize("home", ["~", "$PLACE", "${PLACE}"])
def test_the_home_folder_and_variables_in_paths(capsys, tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    make().save("~/run.npz")
    assert load("~/run.npz").labels == make().labels
    assert main.main(["show", f"{home}/run.npz"]) == 0
    assert main.main(["plot", f"{home}/run.npz", f"--out={home}/drawn"]) == 0
    assert (tmp_path / "drawn.png").exists() and f"{tmp_path}/drawn.pdf" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_costs_neither_the_numbers_nor_the_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def draw(*_, **__):
        raise RuntimeError("latex could not be found")

    draw.__globals__["__name__"], name = "matplotlib", draw.__globals__["__name__"]
    try:
        monkeypatch.setattr(commands, "train", lambda *_, **__: make())
        monkeypatch.setattr(commands, "draw", draw)
        with pytest.raises(SystemExit) as stopped:
            main.main(["compare", "--worlds=garnet", "--num_mdps=2", "--teacher=uniform"])
    finally:
        draw.__globals__["__name__"] = name
    out, error = capsys.readouterr()
    assert stopped.value.code == 2 and error == "error: RuntimeError: latex could not be found\n"
    assert "compare.npz" in out and "n_distill" in out and load("compare.npz").labels == make().labels


def test_several_files_in_one_table(capsys, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make().save(tmp_path / folder / "run.npz")
        make().save(tmp_path / f"{folder}.npz")
    assert main.main(["table", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--format=markdown"]) == 0
    assert "| b: n_distill |" in capsys.readouterr().out
    paths = [str(tmp_path / folder / "run.npz") for folder in ("a", "b")]
    assert main.main(["table", *paths]) == 0
    assert f"{paths[1]}: n_distill" in capsys.readouterr().out  # equal names: the paths distinguish them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["methods", "sgd"], "Unknown method 'sgd'"),
        (["methods", "--library=tril"], "Unknown library 'tril' (did you mean 'trl'?)"),
        (["methods", "jsd", "--library=trl"], "Give a method or --library, not both"),
        (["check", "sgd"], "Unknown method 'sgd'"),
        (["compare", "--methods=baseline,sgd"], "Unknown method 'sgd'"),
        (["compare", "--num_mdps=many"], "--num_mdps: invalid int value: 'many'"),
        (["compare", "--num_mdps=0"], "--num_mdps must be at least 1"),
        (["compare", "--worlds=maze"], "--worlds must be grid, garnet"),
        (["compare", "--learning_rate=-1"], "learning_rate must be finite and >= 0"),
        (["compare", "--estimator=sarsa"], "estimator must be "),
        (["compare", "--baseline=sgd"], "--baseline must be 'baseline', 'on_policy_distill' or 'n_distill'; got 'sgd'"),
        (["compare", "--lerning_rate=1"], "unrecognized arguments: --lerning_rate=1 (did you mean '--learning_rate'?)"),
        (
            ["compare", "--worlds=garnet", "--methods=baseline", "--loss_visits=once"],
            "loss_visits has no effect on baseline",
        ),
        (["compare", "--worlds=garnet", "--methods=n_distill", "--fixed_length=9"], "with reduction 'fixed' only"),
        (["compar"], "invalid choice: 'compar' (did you mean 'compare'?)"),
        (["compare", "--out=no/such/folder/x"], "There is no folder no/such/folder"),
        (["compare", "--num=3"], "unrecognized arguments: --num=3"),
        (["show", "no_such.npz"], "No such file"),
        (["table", __file__], "is not a results file"),
        (["plot", __file__], "is not a results file"),
    ],
)
def test_mistakes_give_one_line_and_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_measures_from_training_to_table_and_picture(capsys, tmp_path):
    """`compare --measure` makes a table and pictures of each measure; the other commands read them from the file."""
    stem = tmp_path / "small"
    names = ["forward_kl:student", "reverse_kl:teacher:floor=1e-06", "length"]
    flags = ["--measure=forward_kl,reverse_kl:teacher:floor", "--measure=length"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        main.main([*COMPARE, f"--out={stem}", *flags])
    out = capsys.readouterr().out
    result = load(f"{stem}.npz")
    assert list(result.measure_names) == names and np.isfinite(result.measurements).all()
    assert out.count("minus baseline") == 4 and out.count("P(< baseline)") == 2
    for name in ("", "_forward_kl_student", "_reverse_kl_teacher_floor_1e-06", "_length"):
        assert (tmp_path / f"small{name}.png").exists() and (tmp_path / f"small{name}_intervals.pdf").exists()
    main.main(["table", f"{stem}.npz", "--measure=forward_kl"])
    assert capsys.readouterr().out.startswith("exact forward KL along the student's trajectories (nats per step)")
    main.main(["plot", f"{stem}.npz", "--measure=length", "--overwrite"])
    assert capsys.readouterr().out.split() == [f"{stem}_length.png", f"{stem}_length.pdf"]
    main.main(["show", f"{stem}.npz"])
    assert "length: episode length (steps per episode), mean of the final students" in capsys.readouterr().out
    assert "did you mean 'length'" in fails(capsys, "plot", f"{stem}.npz", "--measure=lenght")
    assert "no measure 'entropy'" in fails(capsys, "table", f"{stem}.npz", "--measure=entropy")
    assert "did you mean 'forward_kl'" in fails(capsys, *COMPARE, f"--out={stem}2", "--measure=forwardkl")
    assert not (tmp_path / "small2.npz").exists()


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill", "--help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    assert all(name in done.stdout for name in ("methods", "check", "compare", "show", "table", "plot"))


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"jaxdistill {jaxdistill.__version__}, ")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "~/.cache/jaxdistill"),
        ({"XDG_CACHE_HOME": "/var/cache/user"}, "/var/cache/user/jaxdistill"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/jaxdistill"),  # to be ignored, as its specification says
    ],
)
def test_folder_of_compiled_programs(monkeypatch, variables, folder):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main.cache_folder() == folder
