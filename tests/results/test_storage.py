"""The file of a result: equal bytes for equal results, all damage detected, nothing unpickled, atomic writes."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxdistill import results
from jaxdistill.results import load, storage
from jaxdistill.runtime import files
from tests.results.random_results import assert_same, make


@pytest.mark.parametrize("tables", [True, False])
def test_saved_results_come_back_equal(tmp_path, monkeypatch, tables):
    result = make(tables=tables, curve_kind=("sampled", "exact", "sampled"), faults=[{"method": "td_vpi", "mdp": 1}])
    path = result.save(tmp_path / "run.npz")
    assert_same(load(path), result)
    assert_same(load(str(path)), result)
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert path.read_bytes() == result.save(tmp_path / "again").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "run.npz"]  # no temporary file is left
    with np.load(path, allow_pickle=False) as archive:  # NumPy reads it as a plain npz
        np.testing.assert_array_equal(archive["returns"], result.returns)
        metadata = json.loads(archive["metadata.json"])
    assert metadata["format"] == "jaxdistill.Result" and metadata["version"] == 1
    assert metadata["settings"] == {"seed": 0} and len(metadata["checksum"]) == 64


def test_settings_of_any_kind_can_be_saved(tmp_path):
    @dataclasses.dataclass
    class Config:
        rate: float = 0.1
        sizes: tuple = (2, 3)

    settings = {"config": Config(), "array": np.arange(2.0), "scalar": np.float32(0.5), "fn": np.linalg.norm,
                "path": Path("x"), 3: {1}, "none": None, "nan": float("inf"), "text": "Übung"}  # fmt: skip
    result = make(settings=settings)
    assert result.settings == {
        "config": {"rate": 0.1, "sizes": [2, 3]}, "array": [0.0, 1.0], "scalar": 0.5, "fn": "norm",
        "path": "x", "3": [1], "none": None, "nan": float("inf"), "text": "Übung",
    }  # fmt: skip
    assert_same(load(result.save(tmp_path / "run.npz")), result)
    assert {"python", "numpy", "jax"} <= set(results.package_versions())


def one_line_error(path):
    with pytest.raises(ValueError) as info:
        load(path)
    message = str(info.value)
    assert "\n" not in message and str(path) in message
    return message


def test_truncated_files_are_refused(tmp_path):
    data = make().save(tmp_path / "run.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in [*range(2, len(data), 41), len(data) - 1]:
        path.write_bytes(data[:size])
        assert "truncated or damaged" in one_line_error(path)
    path.write_bytes(b"")
    assert "not a results file" in one_line_error(path)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    result = make(num_mdps=2)
    data = result.save(tmp_path / "run.npz").read_bytes()
    path, noticed = tmp_path / "flipped.npz", 0
    rng = np.random.default_rng(6)
    positions = rng.choice(len(data), 400, replace=False)
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            noticed += 1
        else:
            assert_same(loaded, result)  # the bit belongs to a date or an attribute of the zip
    assert noticed > len(positions) / 2


def rewrite(path, change):
    """Rewrites an npz with `change(name, content)` for every member, and with CRCs of the new contents."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: content[:-1] + bytes([content[-1] ^ 1]) if name == "returns.npy" else content,
        lambda name, content: None if name == "logits.npy" else content,
        lambda name, content: content.replace(b"td_vpi", b"td_vpj"),
        lambda name, content: content.replace(b"'<f4'", b"'<i4'") if name == "values.npy" else content,
    ],
    ids=["array", "missing", "metadata", "dtype"],
)
def test_altered_contents_do_not_match_the_checksum(tmp_path, change):
    path = make().save(tmp_path / "run.npz")
    rewrite(path, change)
    assert "do not match their checksum" in one_line_error(path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a results file was unpickled",)


def test_nothing_is_ever_unpickled(tmp_path):
    path = make().save(tmp_path / "run.npz")
    pickled = io.BytesIO()
    np.save(pickled, np.array([Bomb()], object), allow_pickle=True)
    rewrite(path, lambda name, content: pickled.getvalue() if name == "returns.npy" else content)
    assert "truncated or damaged: ValueError: Object arrays cannot be loaded" in one_line_error(path)


def test_other_files_and_versions_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "other"
    path.write_text("label,mdp,iteration\n")
    assert "is not a results file: expected an npz written by Result.save" in one_line_error(path)
    np.savez(tmp_path / "other.npz", returns=np.zeros(3))
    assert "it is an npz, but not one written by Result.save" in one_line_error(tmp_path / "other.npz")
    monkeypatch.setattr(storage, "FORMAT_VERSION", 2)
    newer = make().save(tmp_path / "newer.npz")
    monkeypatch.undo()
    assert "has results format version 2, this jaxdistill reads 1" in one_line_error(newer)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.npz")


def test_targets_that_cannot_be_written_give_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in ("missing/run.npz", "file/run.npz", "folder"):
        for write in (make().save, make().to_csv):
            with pytest.raises(OSError, match="cannot write: ") as info:
                write(tmp_path / target)
            assert "\n" not in str(info.value) and target in str(info.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = make(seed=1).save(tmp_path / "run.npz")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="cannot write: No space left on device"):
        files.write_atomically(path, fail)
    assert_same(load(path), make(seed=1))
    make(seed=2).save(path)
    assert_same(load(path), make(seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
