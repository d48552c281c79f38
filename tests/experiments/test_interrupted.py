"""An experiment that ends early, at every moment and in every way: nothing that was done is lost, nor mistaken."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import common

PARTS = ("first", "second", "third")
EVENTS = ("Ctrl-C in training", "Ctrl-C", "error", "bug")
CALLS: list[str] = []


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of an experiment of three parts."""

    seed: int = common.option(0, "seed")
    methods: list[str] = common.option(["a", "b"], "methods")


def part(settings: Settings, name: str, event: str = "") -> dict[str, Any]:
    """Computes a part, unless something happens to it."""
    outdir = Path(settings.out)
    saved = json.loads((outdir / "settings.json").read_text())["settings"]
    assert saved["seed"] == settings.seed  # on disk before any work
    CALLS.append(name)
    if event == "Ctrl-C in training":
        state = outdir / f"{name}.unfinished" / "0123" / "lanes-00000001.save"
        state.parent.mkdir(exist_ok=True)
        state.write_text(f"state of seed {settings.seed}")
    if event:
        raise {"error": ValueError, "bug": TypeError}.get(event, KeyboardInterrupt)
    return {"seed": np.array(settings.seed)}


def run(outdir: Path, stop_at: str = "", event: str = "", **settings: Any) -> dict[str, Any]:
    given = Settings(out=str(outdir), **settings)
    CALLS.clear()
    parts = {name: lambda name=name: part(given, name, event if name == stop_at else "") for name in PARTS}
    return common.run_parts(given, common.prepare_outdir(given), parts)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_of(seed: int, parts: dict[str, Any]) -> None:
    assert {name: int(arrays["seed"]) for name, arrays in parts.items()} == dict.fromkeys(PARTS, seed)


@pytest.mark.parametrize(("stop_at", "event"), [*itertools.product(PARTS, EVENTS)])
def test_what_was_done_is_kept(stop_at, event, tmp_path, capsys):
    """Other settings are refused with every difference, and nothing is touched; the same settings go on."""
    with pytest.raises((KeyboardInterrupt, ValueError, TypeError)):
        run(tmp_path, stop_at, event)
    before, num_done = contents(tmp_path), PARTS.index(stop_at)
    if num_done or event == "Ctrl-C in training":
        with pytest.raises(ValueError, match=r"seed was 0, is 1, methods was .*, is .*; use another --out") as error:
            run(tmp_path, seed=1, methods=["b"])
        assert "--restart" in str(error.value) and "\n" not in str(error.value)
        assert CALLS == [] and contents(tmp_path) == before
    else:
        assert not before  # nothing was done: the folder is free
    capsys.readouterr()
    assert_of(0, run(tmp_path))
    assert list(PARTS[num_done:]) == CALLS
    said = f"{tmp_path}: {num_done} of 3 parts are finished; the others go on\n" if num_done else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("stop_at", "event"), [*itertools.product(PARTS, EVENTS)])
def test_what_restart_replaces_is_set_aside(stop_at, event, tmp_path):
    """If nothing of the new run is saved, the old results are back; else they are in `replaced`, whole."""
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises((KeyboardInterrupt, ValueError, TypeError)):
        run(tmp_path, stop_at, event, seed=1, restart=True)
    if stop_at == PARTS[0] and event != "Ctrl-C in training":
        assert contents(tmp_path) == before
        assert_of(0, run(tmp_path))
        assert CALLS == []
        return
    assert contents(tmp_path / "replaced") == before
    with pytest.raises(ValueError, match="seed was 1, is 0"):
        run(tmp_path)
    assert_of(1, run(tmp_path, seed=1))  # without --restart it goes on
    assert list(PARTS[PARTS.index(stop_at) :]) == CALLS
    assert contents(tmp_path / "replaced") == before
    assert_of(2, run(tmp_path, seed=2, restart=True))
    assert json.loads((tmp_path / "replaced" / "settings.json").read_text())["settings"]["seed"] == 1


def test_a_restart_that_was_killed_at_once_is_undone(tmp_path):
    """SIGKILL leaves it no time to move the old results back; the next --restart does so first."""
    run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "replaced").mkdir()
    for name in before:
        (tmp_path / name).rename(tmp_path / "replaced" / name)
    (tmp_path / "settings.json").write_text('{"settings": {"seed": 1}}')
    assert_of(3, run(tmp_path, seed=3, restart=True))
    assert contents(tmp_path / "replaced") == before
