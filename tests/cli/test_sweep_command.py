"""The command `sweep`: its tables and files, and what it refuses before any training."""

import pytest

from jaxdistill import Sweep
from jaxdistill.cli import commands, main

SIZES = ["--num_mdps=16", "--num_rows=3", "--num_cols=3", "--teacher=optimal", "--num_iterations=20"]
SWEEP = ["sweep", "--methods=on_policy_distill,jsd", *SIZES]
GRID = ["--grid=learning_rate=0.1,0.3", "--grid=beta=0.2,0.8"]


def test_a_sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main([*SWEEP, *GRID, "--tuned=forward_kl:teacher", "--measure=agreement"]) == 0
    out = capsys.readouterr().out
    assert "agreement" in out.lower()
    assert "best settings by forward_kl:teacher, on 16 worlds" in out
    assert "chosen by forward_kl:teacher on 8 worlds, and are judged on 8 others" in out
    stems = ["sweep_learning_rate", "sweep_beta", "sweep_heatmap"]
    files = ["sweep.npz", *(f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf"))]
    assert out.split()[-7:] == files and sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    sweep = Sweep.load("sweep.npz")
    assert sweep.grid == {"learning_rate": (0.1, 0.3), "beta": (0.2, 0.8)} and len(sweep.settings) == 6


REFUSED = {
    "no grid": ([], "--grid"),
    "no values": (["--grid=beta"], "--grid must be a name and values, such as"),
    "twice": (["--grid=beta=0.1", "--grid=beta=0.5"], "--grid gives beta twice"),
    "unknown": (["--grid=x=1"], "Unknown parameter 'x'"),
    "outside": (["--grid=beta=7"], "beta must be in"),
    "too many": ([*GRID, "--max_students=5"], "6 settings, which are 96 students"),
    "no measure": ([*GRID, "--tuned=forward_k"], "did you mean 'forward_kl'"),
    "no best": ([*GRID, "--tuned=entropy"], "--tuned needs a measure with better and worse values"),
    "steps": ([*GRID, "--equal_steps"], "equal_steps sets the learning rates"),
    "rate twice": ([*GRID, "--learning_rate=0.7"], "learning_rate is given twice"),
    "size": ([*GRID, "--worlds=garnet"], "--num_rows has an effect with --worlds=grid only"),
    "noise": ([*GRID, "--teacher=uniform", "--teacher_noise=0.2"], "--teacher_noise has no effect on the uniform"),
    "baseline": ([*GRID, "--baseline=x"], "--baseline must be 'on_policy_distill' or 'jsd'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_training(name, capsys, tmp_path, monkeypatch):
    flags, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_teacher", lambda *_: pytest.fail("the training has begun"))
    with pytest.raises(SystemExit) as stopped:
        main.main([*SWEEP, *flags])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.npz"))


def test_few_worlds_have_no_comparison(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main([*SWEEP, "--num_mdps=4", "--grid=learning_rate=0.1,0.3"]) == 0
    assert "no comparison, which would judge the settings on other worlds" in capsys.readouterr().out
