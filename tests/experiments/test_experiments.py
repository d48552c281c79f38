"""The commands as a user types them: what they write, that they draw again without running, and how they refuse."""

import csv
import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxdistill
from experiments import common, fig8, targets
from jaxdistill.runtime.files import locked
from tests.lockstep import lockstep
from tests.plotting import ambient

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments, timeout=600):
    """Runs python -m experiments.<...> in a process of its own."""
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder and the process of one smoke run."""
    outdir = tmp_path_factory.mktemp("fig8")
    return outdir, command("experiments.fig8", "--smoke", f"--out={outdir}")


def test_smoke_writes_everything(smoke):
    outdir, done = smoke
    assert done.returncode == 0, done.stderr
    for suffix in ("png", "pdf"):
        assert (outdir / f"fig8.{suffix}").stat().st_size > 20_000
    saved = json.loads((outdir / "settings.json").read_text())
    assert saved["settings"]["num_mdps"] == fig8.SMOKE["num_mdps"]
    assert saved["versions"]["jax"]
    for row in ("q_learning", "actor_critic"):
        result = jaxdistill.load(outdir / f"{row}.npz")
        assert len(result.labels) == 34  # seven methods for Monte Carlo students, nine for each column of TD students
        assert np.isfinite(result.returns).all()
        assert np.isfinite(result.final_returns).all()
        assert np.abs(result.returns).max() < 200
        with gzip.open(outdir / f"{row}.csv.gz", "rt") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == result.returns.size
    assert "done in" in done.stderr  # progress, as lines, where stderr is no terminal
    assert "\r" not in done.stderr


def test_second_call_draws_without_running(smoke):
    outdir, _ = smoke
    before = (outdir / "q_learning.npz").stat().st_mtime_ns
    (outdir / "fig8.png").unlink()
    done = command("experiments.fig8", "--smoke", f"--out={outdir}")
    assert done.returncode == 0, done.stderr
    assert (outdir / "fig8.png").exists()
    assert (outdir / "q_learning.npz").stat().st_mtime_ns == before
    assert "students" not in done.stderr


def test_other_settings_in_the_same_folder_are_refused(smoke):
    outdir, _ = smoke
    done = command("experiments.fig8", "--smoke", f"--out={outdir}", "--seed=1")
    assert done.returncode == 2
    assert "seed was 0, is 1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_damaged_results_are_refused(smoke, tmp_path):
    outdir, _ = smoke
    for path in outdir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "actor_critic.npz"
    path.write_bytes(path.read_bytes()[:1000])
    done = command("experiments.fig8", "--smoke", f"--out={tmp_path}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "actor_critic.npz" in done.stderr


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--methods=clone", "on_policy_distill"),
        ("--teachers=parent", "q_learning"),
        ("--columns=td_noise99", "td_noise15"),
        ("--num_mdps=ten", "num_mdps"),
        ("--num_mdps=0", "at least 1"),
        ("--num_rows=0", "num_rows"),
        ("--num_iterations=0", "num_iterations"),
        ("--p_wall=-0.1", "p_wall"),
        ("--p_wall=0.99", "at most 1"),
        ("--p_plus10=0", "p_plus10"),
        ("--noise=1.5", "noise"),
        ("--observation=smell", "window"),
        ("--reduction=median", "mean"),
        ("--learning_rate=nan", "learning_rate"),
        ("--discount=1.1", "discount"),
        ("--no_such_flag=1", "no_such_flag"),
        ("--out=/dev/null/folder", "cannot be written"),
    ],
)
def test_bad_flags(flag, expected, monkeypatch, capsys, tmp_path):
    """In this process, for speed: exit code 2, one line, and nothing written."""
    monkeypatch.setattr(sys, "argv", ["fig8", f"--out={tmp_path}/new", "--smoke", flag])
    with pytest.raises(SystemExit) as stopped:
        settings = common.parse(fig8.Settings, "fig8", fig8.SMOKE, sys.argv)
        try:
            fig8.work(settings)
        except ValueError as error:
            common.fail(str(error))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("new/[!.]*"))  # but the lock


def test_smoke_keeps_what_is_given():
    settings = common.parse(fig8.Settings, "fig8", fig8.SMOKE, ["fig8", "--smoke", "--num_mdps=3"])
    assert settings.num_mdps == 3
    assert settings.num_iterations == fig8.SMOKE["num_iterations"]
    assert settings.out.endswith("fig8-smoke")


def test_one_row_of_one_method(tmp_path, monkeypatch):
    settings = fig8.Settings(
        out=str(tmp_path), num_mdps=3, num_iterations=50, num_checkpoints=5, num_rows=6, num_cols=7, p_plus10=0.1,
        teachers=["optimal"], methods=["on_policy_distill", "td_vpi"], columns=["mc", "td_noise15"],
        observation="window", window_radius=1,
    )  # fmt: skip
    fig8.work(settings)
    result = jaxdistill.load(tmp_path / "optimal.npz")
    assert result.labels == (
        "optimal/mc/on_policy_distill",
        "optimal/td_noise15/on_policy_distill",
        "optimal/td_noise15/td_vpi",
    )
    # The noise-free teacher is not the teacher of the noisy column.
    assert result.teacher_returns[0].mean() > result.teacher_returns[1].mean()
    figure = fig8.plot(settings, {"optimal": result})
    ambient.assert_drawn_again(tmp_path / "fig8.png", lambda: fig8.work(settings), monkeypatch)
    assert [len(ax.get_lines()) for ax in figure.axes] == [3, 5]  # the methods, and dotted lines


def test_targets_table(smoke, monkeypatch, capsys):
    """Points of the paper beside ours; a curve known in closed form is read back at the right place."""
    outdir, _ = smoke
    result = jaxdistill.load(outdir / "q_learning.npz")
    straight = np.broadcast_to(
        result.iterations - np.diff(result.iterations, prepend=0) / 2, result.returns.shape
    ).astype(float)
    straight = dataclasses.replace(result, returns=straight)
    value, low, _ = targets.value_at(straight, "q_learning/td/baseline", 123)
    assert value == pytest.approx(123) and np.isnan(low)  # equal worlds have no interval
    monkeypatch.setattr(targets, "POINTS", outdir / "points.json")
    points = {"fig5": {"teacher_return": 7.0, **{c: {"baseline": {"100": 1.5}} for c in fig8.COLUMNS}}}
    (outdir / "points.json").write_text(json.dumps(points))
    lines = targets.table(result)
    assert sum("| baseline | 100 | 1.50 |" in line for line in lines) == 4


def test_an_interrupted_run_keeps_its_finished_rows(smoke, tmp_path):
    """The second row is trained, the first is not; and the figure is that of an uninterrupted run."""
    outdir, _ = smoke
    for name in ("settings.json", "q_learning.npz", "q_learning.csv.gz"):
        (tmp_path / name).write_bytes((outdir / name).read_bytes())
    done = command("experiments.fig8", "--smoke", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Q-learning" not in done.stderr
    again = jaxdistill.load(tmp_path / "actor_critic.npz")
    np.testing.assert_array_equal(again.returns, jaxdistill.load(outdir / "actor_critic.npz").returns)


def test_a_part_that_is_stopped_leaves_a_figure_and_a_finished_run_takes_it_away(tmp_path, monkeypatch):
    """Ctrl-C at 60 % of the second row: the first row whole, of the second the students that had finished."""
    sizes = dict(num_mdps=20, num_rows=4, num_cols=4, p_plus10=0.2, num_iterations=600, num_checkpoints=4)
    given = dict(columns=["td"], methods=["baseline"], teachers=["optimal", "adversarial"])
    settings = fig8.Settings(out=str(tmp_path), **sizes, **given)
    train, made, drawn = jaxdistill.train, [], []

    def stop(done, steps, left):
        if len(made) == 2 and done > 0.6:
            raise KeyboardInterrupt

    def some(*args, **options):
        made.append(1)
        return train(*args, **options, on_chunk=stop)

    monkeypatch.setattr(jaxdistill, "train", some)
    plot = fig8.plot
    monkeypatch.setattr(fig8, "plot", lambda settings, rows: drawn.append(rows) or plot(settings, rows))
    with pytest.raises(jaxdistill.Stopped), lockstep():
        fig8.work(settings)
    assert (tmp_path / "unfinished.png").stat().st_size > 10_000
    (rows,) = drawn
    finite = {name: int(np.isfinite(row.final_returns).sum()) for name, row in rows.items()}
    assert finite["optimal"] == 20 and 0 < finite["adversarial"] < 20
    fig8.work(settings)
    assert (tmp_path / "fig8.png").exists() and not (tmp_path / "unfinished.png").exists()
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_folder_in_use_is_refused(tmp_path):
    """By another process; when that is killed, the folder is free."""
    code = "import sys, time; from pathlib import Path; from jaxdistill.runtime.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    settings = fig8.Settings(out=str(tmp_path), num_mdps=1)
    with pytest.raises(ValueError, match="is in use by another run; wait for its end, or use another folder"):
        fig8.work(settings)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path), pytest.raises(ValueError, match="in use"), locked(tmp_path):
        pass
