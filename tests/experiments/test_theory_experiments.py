"""table1, propositions and discount at a tiny scale: results, files, tables, the second call, and wrong settings."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import common, discount, propositions, table1
from tests.plotting import ambient

EXPERIMENTS = {"table1": table1, "propositions": propositions, "discount": discount}
SIZES = {
    "table1": {"num_mdps": 3, "methods": ["on_policy_distill", "n_distill"]},
    "propositions": {"num_mdps": 3, "num_students": 2, "losses": ["squared_error"]},
    "discount": {"num_mdps": 4, "discounts": ["0", "0.5"], "num_restarts": 1},
}
PARTS = {"table1": ["table1"], "propositions": propositions.PARTS, "discount": discount.KINDS}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A function that runs an experiment, once, and returns its settings and parts."""
    made = {}

    def run(name):
        if name not in made:
            settings = EXPERIMENTS[name].Settings(out=str(tmp_path_factory.mktemp(name)), **SIZES[name])
            EXPERIMENTS[name].work(settings)
            made[name] = settings, common.run_parts(settings, Path(settings.out), dict.fromkeys(PARTS[name]))
        return made[name]

    return run


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in SIZES if n != "discount"), "discount"]
)
def test_everything_is_written_and_drawn_again(name, ran, capsys, monkeypatch):
    settings, parts = ran(name)
    outdir = Path(settings.out)
    for suffix in ("png", "pdf"):
        assert (outdir / f"{name}.{suffix}").stat().st_size > 10_000
    for arrays in parts.values():
        assert all(np.isfinite(x).all() for x in arrays.values() if x.dtype.kind == "f")
    files = {path: path.stat().st_mtime_ns for path in outdir.glob("*.npz")}
    capsys.readouterr()
    ambient.assert_drawn_again(outdir / f"{name}.png", lambda: EXPERIMENTS[name].work(settings), monkeypatch)
    assert "|---|" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in outdir.glob("*.npz")} == files


@pytest.mark.slow
def test_table_1_agrees_with_the_paper_and_reports_contradictions(ran):
    settings, parts = ran("table1")
    data = parts["table1"]
    assert table1.disagreements(settings, data) == []
    lines = table1.table(settings, data)
    assert len(lines) == 4 and "| On-policy distill | no | no |" in lines[2] and "| N-distill | yes | yes |" in lines[3]
    doubtful = {**data, "asymmetry": data["asymmetry"] * 0 + 1e-5}
    assert len(table1.disagreements(settings, doubtful)) == 2
    swapped = {**data, "asymmetry": data["asymmetry"][::-1]}
    assert len(table1.disagreements(settings, swapped)) == 2
    elsewhere = {**data, "potential_error": data["potential_error"] + 0.1}
    assert table1.disagreements(settings, elsewhere) == ["n_distill: its potential is not the stated loss"]


@pytest.mark.slow
def test_every_proposition_holds_and_a_failure_is_reported(ran):
    _, parts = ran("propositions")
    cases = propositions.worst_cases(parts)
    assert [claim for claim, _, holds in cases if not holds] == []
    assert len({claim for claim, *_ in cases}) == len(cases) == 10
    spoiled = {name: {key: -x if x.dtype.kind == "f" else x for key, x in part.items()} for name, part in parts.items()}
    assert sum(not holds for _, _, holds in propositions.worst_cases(spoiled)) >= 5


def test_the_discount_decides_where_an_aliased_student_ends(ran):
    settings, parts = ran("discount")
    assert discount.discounts(settings) == [0.0, 0.5, 1.0]
    aliased, full = parts["aliased"], parts["full"]
    assert full["kl"].max() < 1e-6 and full["distance"].max() < 1e-3
    assert aliased["kl"].min() > 1e-3
    excess = aliased["kl"] - aliased["least_kl"]
    assert (excess >= -1e-12).all()
    assert excess[0].mean() > 10 * excess[-1].mean() and excess[0].mean() > 1e-3
    assert aliased["asymmetry"][-1].max() < 1e-8 < 1e-3 < aliased["asymmetry"][:-1].min()
    assert np.abs(aliased["bias"][-1]).max() < 1e-12 < aliased["bias"][0].min()
    assert (aliased["variance"][-1] > aliased["variance"][0]).all()


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("table1", {"methods": ["clone"]}, "on_policy_distill"),
        ("table1", {"num_mdps": 0}, "num_mdps must be at least 1"),
        ("table1", {"num_observations": 9}, "num_observations must be in"),
        ("propositions", {"num_students": 0}, "num_students must be at least 1"),
        ("propositions", {"losses": ["hinge"]}, "squared_error"),
        ("propositions", {"concentration": 0.0}, "concentration must be > 0"),
        ("discount", {"discounts": ["half"]}, "numbers separated by commas"),
        ("discount", {"discounts": ["1.5"]}, r"must be in \[0, 1\]"),
        ("discount", {"num_restarts": -1}, "num_restarts must be >= 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(name, changes, expected, tmp_path):
    settings = dataclasses.replace(EXPERIMENTS[name].Settings(out=str(tmp_path / "new")), **changes)
    with pytest.raises(ValueError, match=expected) as error:
        EXPERIMENTS[name].work(settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
