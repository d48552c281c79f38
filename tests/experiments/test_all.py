"""experiments.all: which experiments it runs and skips, how it fails, and the page that it writes."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest

from experiments import all as run_all
from experiments import common

ROOT = Path(__file__).resolve().parents[2]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8ffff3f0005fe02fea7"
    "35814b0000000049454e44ae426082"
)

# A fake experiment: two paragraphs of docstring, files after its name, and a trace of every call.
FAKE = '''"""Figure {number}: a <fake> & its "caption".

What is shown.

What is not shown.
"""
import json, pathlib, sys, time

flags = dict(flag[2:].split("=") if "=" in flag else (flag[2:], True) for flag in sys.argv[1:])
outdir = pathlib.Path(flags["out"])
outdir.mkdir(parents=True, exist_ok=True)
with open(outdir / ".calls", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
print("working")
{body}
(outdir / "{name}.png").write_bytes(bytes.fromhex("{pixel}"))
(outdir / "settings.json").write_text(json.dumps({{"settings": {{"size": "<3>"}}, "versions": {{"jax": "9.9"}}}}))
'''


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A clone with two fake experiments, fig2 and fig11, and a function that runs `work` there."""
    folder = tmp_path / "clone" / "experiments"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()

    def write(name, body=""):
        number = name.removeprefix("fig")
        (folder / f"{name}.py").write_text(FAKE.format(name=name, number=number, body=body, pixel=PIXEL.hex()))

    write("fig11")
    write("fig2")
    table = [
        run_all.Experiment("fig11", 1, 2),
        run_all.Experiment("fig2", 10, 100, worlds=50, arguments=run_all.sharing("fig11")),
        run_all.Experiment("fig99", 1, 1),  # not in this clone
    ]
    monkeypatch.setattr(run_all, "FOLDER", folder)
    monkeypatch.setattr(run_all, "TABLE", table)
    return write


def work(outdir, **settings):
    run_all.work(run_all.Settings(out=str(outdir), **settings))


def calls(outdir, name):
    return [json.loads(line) for line in (outdir / name / ".calls").read_text().splitlines()]


class Page(HTMLParser):
    """Links and pictures of a page, its text, and whether every tag is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.links, self.open, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_runs_all_and_writes_a_page_without_broken_links(fakes, tmp_path, capsys):
    outdir = tmp_path / "results"
    work(outdir, num_mdps=5)
    assert calls(outdir, "fig11") == [[f"--out={outdir}/fig11"]]
    assert calls(outdir, "fig2") == [[f"--out={outdir}/fig2", "--num_mdps=5", f"--shared={outdir}/fig11"]]
    page = Page(outdir / "index.html")
    for link in page.links:
        assert link.startswith("#") or (outdir / link).is_file(), link
    assert {"fig2/fig2.png", "fig11/fig11.png", "fig2/settings.json"} <= set(page.links)
    assert 'Figure 2: a <fake> & its "caption".' in page.text
    assert page.text.index("Figure 2:") < page.text.index("Figure 11:")  # in the order of reading
    assert "What is shown." in page.text and "What is not shown." not in page.text
    assert '"size": "<3>"' in page.text and '"jax": "9.9"' in page.text
    assert "done after" in page.text and "fig99" not in page.text
    runs = json.loads((outdir / "runs.json").read_text())
    assert set(runs) == {"fig2", "fig11"} and all(0 <= run["seconds"] < 60 for run in runs.values())
    assert (outdir / "logs" / "fig2.txt").read_text() == "working\n"
    assert "2 of 2 experiments" in capsys.readouterr().out


def test_skips_finished_experiments_and_runs_the_others(fakes, tmp_path, capsys):
    outdir = tmp_path / "results"
    work(outdir)
    work(outdir)
    assert len(calls(outdir, "fig11")) == len(calls(outdir, "fig2")) == 1
    assert capsys.readouterr().out.count("already finished") == 2
    (outdir / "fig2" / "fig2.png").unlink()
    work(outdir)
    assert len(calls(outdir, "fig11")) == 1 and len(calls(outdir, "fig2")) == 2
    work(outdir, smoke=True)  # other arguments
    assert len(calls(outdir, "fig11")) == 2 and "--smoke" in calls(outdir, "fig11")[1]
    work(outdir, smoke=True, restart=True, only=["fig11"])
    assert len(calls(outdir, "fig11")) == 3 and "--restart" in calls(outdir, "fig11")[2]
    assert len(calls(outdir, "fig2")) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('cannot go on', file=sys.stderr); sys.exit(3)", "cannot go on"),
        ("sys.exit(0)", "left no settings.json"),
        ("def", "SyntaxError"),
    ],
)
def test_continues_after_a_failure_and_reports_it(body, message, fakes, tmp_path, capsys):
    outdir = tmp_path / "results"
    fakes("fig11", body)
    with pytest.raises(SystemExit) as stopped:
        work(outdir)
    assert stopped.value.code == 1
    assert "failed: fig11" in capsys.readouterr().err
    page = (outdir / "index.html").read_text()
    assert re.search(rf'<span class="failed">failed after .*{message}', page)
    assert "fig2/fig2.png" in page
    fakes("fig11")
    work(outdir)
    assert 'class="failed"' not in (outdir / "index.html").read_text()
    assert len(calls(outdir, "fig2")) == 1


@pytest.mark.slow  # waits on processes: minutes on a busy machine
def test_interrupted_it_stops_its_experiment_and_can_go_on(fakes, tmp_path):
    """SIGINT to the command stops its experiment too, and the same command continues."""
    outdir = tmp_path / "results"
    fakes("fig2", "(outdir / 'started').touch(); time.sleep(60)")
    script = (
        f"import pathlib; from experiments import all as run_all;"
        f"run_all.FOLDER = pathlib.Path({str(run_all.FOLDER)!r});"
        f"run_all.TABLE = [run_all.Experiment('fig11', 1, 2), run_all.Experiment('fig2', 1, 2)];"
        f"run_all.common.main(run_all.Settings, 'all', {{}}, run_all.work)"
    )
    line = [sys.executable, "-c", script, f"--out={outdir}"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (outdir / "fig2" / "started").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.splitlines()[-1].startswith("stopped")
    runs = json.loads((outdir / "runs.json").read_text())
    assert {name: run["status"] for name, run in runs.items()} == {"fig11": "done", "fig2": "stopped"}
    assert "stopped after" in Page(outdir / "index.html").text
    assert (
        "KeyboardInterrupt" in (outdir / "logs" / "fig2.txt").read_text()
    )  # the experiment was stopped, and has ended
    fakes("fig2")
    work(outdir)
    assert len(calls(outdir, "fig11")) == 1 and len(calls(outdir, "fig2")) == 2


def test_time_left_is_that_of_earlier_runs_or_of_the_table(fakes, tmp_path):
    first, second, _ = run_all.TABLE

    def left(runs=None, waiting=(first, second), **settings):
        return run_all.time_left(list(waiting), run_all.Settings(**settings), runs or {}, tmp_path)

    shared = [f"--shared={tmp_path}/fig11"]
    earlier = run_all.Run("done", shared, 40.0, "", ["missing.png"], "")
    assert left() == "1 min 42 s"
    assert left(smoke=True) == "11 s"
    assert left(num_mdps=100) == "3 min 22 s"
    assert left({"fig2": earlier}) == "42 s"
    assert left({"fig2": earlier}, num_mdps=100) == "3 min 22 s"
    assert left({"fig2": dataclasses.replace(earlier, status="failed")}) == "1 min 42 s"
    assert left({"fig2": dataclasses.replace(earlier, files=[])}) == "2 s"  # already finished
    assert left({"fig2": dataclasses.replace(earlier, files=[])}, restart=True) == "42 s"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fig2": 3}', '{"fig2": {"status": "done"}}'])
def test_a_damaged_record_counts_as_none(text, fakes, tmp_path):
    (tmp_path / "runs.json").write_text(text)
    assert run_all.read_runs(tmp_path) == {}


@pytest.mark.parametrize(
    ("settings", "message"), [({"only": ["fig3"]}, "fig11, fig2"), ({"num_mdps": -1}, "--num_mdps must be")]
)
def test_refuses_wrong_settings(settings, message, fakes, tmp_path):
    with pytest.raises(ValueError, match=message):
        work(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_one_real_experiment(tmp_path):
    line = [sys.executable, "-m", "experiments.all", "--smoke", "--only=fig1", f"--out={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    page = Page(tmp_path / "index.html")
    assert "fig1/fig1.png" in page.links
    assert "Figure 1: the decision guide" in page.text
    assert all(link.startswith("#") or os.path.exists(tmp_path / link) for link in page.links)


def test_the_table_holds_every_experiment():
    """Every module with a main is in the table, except for those that draw no figure of the paper."""
    modules = {path.stem for path in (ROOT / "experiments").glob("*.py") if "common.main(" in path.read_text()}
    names = [experiment.name for experiment in run_all.TABLE]
    assert sorted(set(names)) == sorted(names)
    assert modules - {"all", "benchmark", "calibration", "device_check", "targets"} <= set(names)
    for experiment in run_all.available():
        fields = {field.name for field in dataclasses.fields(import_module(f"experiments.{experiment.name}").Settings)}
        assert {"out", "restart", "smoke"} <= fields
        flags = [flag[2:].split("=")[0] for flag in experiment.arguments(Path())]
        assert {*flags, *["num_mdps"] * bool(experiment.worlds)} <= fields, experiment.name
    assert common.default_outdir("all", smoke=True).endswith("all-smoke")
