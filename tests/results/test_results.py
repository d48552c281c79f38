"""Results: averages and intervals, the table, the named axes, and files that notice damage."""

import csv
import dataclasses
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxdistill import results, statistics
from jaxdistill.results.result import Result, concatenate, load
from jaxdistill.results.summary import summarise
from jaxdistill.runtime import files

LABELS = ("baseline", "n_distill", "td_vpi")


def make(num_mdps=4, first_id=0, labels=LABELS, num_checkpoints=3, seed=0, tables=True, observations=2, **changes):
    rng = np.random.default_rng([seed, first_id])
    p, m, c = len(labels), num_mdps, num_checkpoints

    def floats(*shape):
        return rng.normal(size=shape).astype(np.float32)

    fields = dict(
        labels=labels, mdp_ids=np.arange(first_id, first_id + m), iterations=np.arange(1, c + 1) * 10,
        returns=floats(p, m, c), lengths=5 + floats(p, m, c) ** 2, final_returns=floats(p, m),
        teacher_returns=floats(p, m), uniform_returns=floats(m), optimal_returns=floats(m),
        logits=floats(p, m, observations, 4) if tables else None,
        values=floats(p, m, observations) if tables else None,
        settings={"seed": seed}, versions={"numpy": "x"},
    )  # fmt: skip
    return Result(**(fields | changes))


def assert_same(a, b):
    for field in dataclasses.fields(Result):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name


# --- averages and intervals ---------------------------------------------------------------------------------


def test_iqm_cuts_a_quarter_at_either_end():
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 7]) == 3.5
    assert statistics.iqm([-1000, 1, 2, 3, 4, 5, 6, 1e6]) == 3.5
    np.testing.assert_allclose(statistics.iqm([[0, 2, 4, 100], [1, 1, 3, 9]]), [3, 2])


def test_mean_interval_by_hand():
    # sd = 1, n = 3, t_{2, .975} = 4.302653: half width 4.302653 / sqrt(3)
    mean, low, high = statistics.mean_interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose([mean, low, high], [2, 2 - 2.484138, 2 + 2.484138], rtol=1e-6)


def test_mean_interval_leaves_out_what_is_not_finite():
    x = np.array([[1, np.nan, np.nan, np.inf], [2, 5, np.nan, 4], [3, np.nan, np.nan, 6]])
    interval = statistics.mean_interval(x, axis=0)
    np.testing.assert_array_equal(interval.estimate, [2, 5, np.nan, 5])
    np.testing.assert_array_equal(np.isnan(interval.low), [False, True, True, False])
    np.testing.assert_allclose(interval.low[3], statistics.mean_interval([4.0, 6.0]).low)
    np.testing.assert_allclose(statistics.mean_interval(x.T, axis=1).high, interval.high)


def test_mean_interval_covers_the_truth_even_for_few_mdps():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(5, 8000))
    _, low, high = statistics.mean_interval(x)
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.95, abs=0.01)  # 4 standard errors
    _, low, high = statistics.mean_interval(x, confidence=0.5)
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.5, abs=0.0225)


@pytest.mark.parametrize("statistic", [np.mean, statistics.iqm])
def test_bootstrap_interval_covers_the_truth_of_a_skewed_distribution(statistic):
    # Exponential: mean 1; IQM = 2 * integral of x e^-x between the quartiles log(4/3) and log 4.
    truth = 1.0 if statistic is np.mean else 2 * (0.75 * (1 + np.log(4 / 3)) - 0.25 * (1 + np.log(4)))
    samples = np.random.default_rng(2).exponential(size=(500, 40))
    intervals = [statistics.bootstrap_interval(x, statistic, num_resamples=1000) for x in samples]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.89 < covered < 0.975  # 4 standard errors around .933 and .938, measured once with 2500 samples
    assert all(i.low < i.estimate < i.high for i in intervals)


def test_bootstrap_and_normal_intervals_agree_on_normal_data():
    x = np.random.default_rng(8).normal(size=500)
    bootstrap, normal = statistics.bootstrap_interval(x), statistics.mean_interval(x)
    half = normal.high - normal.estimate
    np.testing.assert_allclose(bootstrap, normal, atol=0.1 * half)


def test_bootstrap_interval_repeats_itself_and_survives_degenerate_data():
    x = np.random.default_rng(3).normal(size=30)
    assert statistics.bootstrap_interval(x) == statistics.bootstrap_interval(x)
    assert statistics.bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2, 2)
    assert statistics.bootstrap_interval([2.0, np.nan])[0] == 2
    assert np.isnan(statistics.bootstrap_interval([2.0, np.nan])[1:]).all()
    assert np.isnan(statistics.bootstrap_interval([np.nan, np.inf])).all()
    # Leaving out one world never changes this IQM, so BCa does not exist; the percentile interval does.
    assert statistics.bootstrap_interval(np.r_[np.zeros(90), np.ones(10)], statistics.iqm) == (0, 0, 0)


def test_differences_are_paired_over_mdps():
    worlds = np.random.default_rng(4).normal(scale=10, size=50)  # easy and hard worlds
    gain = np.random.default_rng(5).normal(0.5, 0.1, size=50)
    returns = np.stack([worlds, worlds + gain])
    summary = summarise(["a", "b"], returns, np.full((2, 50), np.nan), "a", "returns")
    difference = summary["b"].difference
    assert summary["a"].difference is None
    assert difference.estimate == pytest.approx(gain.mean())
    # The normal interval of the paired gains, not that of two independent means, which is 100 times wider.
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * gain.std() / np.sqrt(50), rel=0.15)
    assert summary["b"].mean.high - summary["b"].mean.low > 4


def test_differences_by_hand():
    returns = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, np.nan], [0.0, np.inf, 0.0]])
    summary = summarise(["a", "b", "c"], returns, np.zeros((3, 3)), "a", "returns")
    assert summary["b"].difference.estimate == 0.5  # ((2 - 1) + (2 - 2)) / 2
    assert summary["c"].difference.estimate == -2.5  # ((0 - 1) + (0 - 4)) / 2
    assert [row.num_mdps for row in summary.rows] == [3, 2, 2]
    assert summary.notes == tuple(f"note: {x}: 1 of 3 MDPs are not finite and are left out" for x in "bc")
    backwards = summarise(["a", "b", "c"], returns, np.zeros((3, 3)), "b", "returns")
    assert backwards["a"].difference.estimate == -0.5
    diverged = np.array([[1.0, np.inf, 4.0], [3.0, np.inf, -np.inf]])
    assert summarise("ab", diverged, np.zeros((2, 3)), "a", "").rows[1].difference.estimate == 2


# --- the summary --------------------------------------------------------------------------------------------


def test_summary_takes_the_checkpoint_asked_for():
    result = make(num_mdps=9)
    last, first, final = (
        result.summary(),
        result.summary(checkpoint=0),
        result.summary("final", baseline="td_vpi"),
    )
    for p, label in enumerate(LABELS):
        assert last[label].mean.estimate == pytest.approx(result.returns[p, :, -1].mean(), abs=1e-6)
        assert first[label].mean.estimate == pytest.approx(result.returns[p, :, 0].mean(), abs=1e-6)
        assert final[label].mean.estimate == pytest.approx(result.final_returns[p].mean(), abs=1e-6)
        assert final[label].iqm.estimate == pytest.approx(stats.trim_mean(result.final_returns[p], 0.25), abs=1e-6)
        assert last[label].teacher == pytest.approx(result.teacher_returns[p].mean(), abs=1e-6)
    assert final["td_vpi"].difference is None and final["baseline"].difference is not None
    assert "iteration 30" in last.quantity and "iteration 10" in first.quantity and "exact" in final.quantity
    with pytest.raises(KeyError, match="'sgd'"):
        last["sgd"]


def test_summary_prints_as_an_aligned_table():
    returns = np.zeros((3, 4, 3)) + np.array([1.0, -2.0, 30.0])[:, None, None]
    text = str(make(returns=returns, teacher_returns=np.full((3, 4), np.nan)).summary())
    quantity, header, rule, *rows = text.splitlines()
    assert quantity.startswith("return at the checkpoint of iteration 30, 4 MDPs (uniform policy ")
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert "teacher" not in header and "minus baseline" in header
    assert rows[0].split() == [
        "baseline",
        "4",
        "1.000",
        "[1.000,",
        "1.000]",
        "1.000",
        "[1.000,",
        "1.000]",
        "-",
    ]
    assert rows[2].endswith("+29.000 [+29.000, +29.000]")
    assert "[n/a]" in str(make(num_mdps=1).summary()) and "teacher" in str(make().summary())


def test_summary_as_markdown_and_data_frame():
    pytest.importorskip("pandas")
    summary = make(labels=("a|b", "c"), seed=7).summary()
    lines = summary.to_markdown().splitlines()
    assert len(lines) == 4 and lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[2].startswith(r"| a\|b | 4 |")
    frame = summary.to_dataframe().set_index("label")
    assert frame.loc["c", "mean_low"] == summary["c"].mean.low
    assert frame.loc["c", "difference"] == summary["c"].difference.estimate
    assert np.isnan(frame.loc["a|b", "difference_high"])


@pytest.mark.parametrize("arguments", [dict(checkpoint=3), dict(checkpoint=-4), dict(checkpoint="last")])
def test_summary_refuses_a_checkpoint_that_does_not_exist(arguments):
    with pytest.raises(ValueError, match="no checkpoint"):
        make().summary(**arguments)


# --- named axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(labels=("a", "a", "b")), "labels must be distinct"),
        (dict(labels=()), "labels must be distinct and at least one"),
        (dict(curve_kind=("sampled",)), "curve_kind must be sampled or exact"),
        (dict(curve_kind=("sampled", "exact", "guessed")), "curve_kind must be sampled or exact"),
        (
            dict(returns=np.zeros((3, 5, 3))),
            r"returns has shape \(3, 5, 3\), expected \(3 methods, 4 mdps, 3 checkp",
        ),
        (dict(uniform_returns=np.zeros((4, 1))), r"uniform_returns has shape \(4, 1\), expected \(4 mdps\)"),
        (
            dict(values=np.zeros((3, 4, 9))),
            r"values has shape \(3, 4, 9\), expected \(3 methods, 4 mdps, 2 observ",
        ),
        (dict(iterations=[10, 10, 20]), "iterations must be at least 1 and increase"),
        (dict(iterations=[0, 10, 20]), "iterations must be at least 1"),
        (dict(iterations=[0.5, 1.5, 2.5]), "iterations must be an array of integers"),
        (dict(returns=[["x"]]), "returns must be an array of floats"),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as info:
        make(**changes)
    assert "\n" not in str(info.value)


def test_axes_name_every_array():
    result = make()
    for name, axes in Result.axes.items():
        if name != "measurements":  # none were asked for
            assert getattr(result, name).ndim == len(axes), name
    assert result.returns.dtype == np.float32 and result.mdp_ids.dtype.kind == "i"
    assert result.curve_kind == ("sampled",) * 3 and result.num_mdps == 4
    assert repr(result) == (
        "Result(methods: baseline, n_distill, td_vpi; 4 MDPs; 3 checkpoints up to iteration 30; 0 faults)"
    )


def test_select_by_name_and_id():
    faults = [{"method": "baseline", "mdp": 11}, {"method": "td_vpi", "mdp": 12}, {"message": "slow"}]
    result = make(first_id=10, faults=faults, curve_kind=("sampled", "exact", "sampled"))
    part = result.select(labels=["td_vpi", "n_distill"], mdps=[13, 12])
    assert part.labels == ("td_vpi", "n_distill") and part.curve_kind == ("sampled", "exact")
    assert part.mdp_ids.tolist() == [13, 12] and part.faults == faults[1:]
    np.testing.assert_array_equal(part.returns, result.returns[[2, 1]][:, [3, 2]])
    np.testing.assert_array_equal(part.logits, result.logits[[2, 1]][:, [3, 2]])
    np.testing.assert_array_equal(part.uniform_returns, result.uniform_returns[[3, 2]])
    np.testing.assert_array_equal(part.iterations, result.iterations)
    assert_same(result.select(), result)
    assert result.select("n_distill", mdps=11).returns.shape == (1, 1, 3)
    assert result.select(mdps=range(10, 12)).num_mdps == 2
    with pytest.raises(ValueError, match="no MDP with id 3 in this result"):
        result.select(mdps=[11, 3])
    with pytest.raises(ValueError, match="no method 'sgd' in this result; it has baseline, n_distill, td_vpi"):
        result.select(labels="sgd")


def test_concatenate_undoes_select():
    result = make(num_mdps=5)
    assert_same(concatenate([result.select(mdps=[0, 1, 2]), result.select(mdps=[3, 4])]), result)
    assert_same(concatenate([result.select(LABELS[:1]), result.select(LABELS[1:])], axis="method"), result)
    assert_same(concatenate([result]), result)


def test_concatenate_pads_tables_and_keeps_what_differs():
    small, large = make(seed=1), make(seed=2, first_id=4, observations=5, faults=[{"mdp": 5}])
    joined = concatenate([small, large])
    assert joined.logits.shape == (3, 8, 5, 4) and joined.values.shape == (3, 8, 5)
    np.testing.assert_array_equal(joined.logits[:, :4, :2], small.logits)
    assert not joined.logits[:, :4, 2:].any() and not joined.values[:, :4, 2:].any()
    np.testing.assert_array_equal(joined.logits[:, 4:], large.logits)
    assert joined.settings == {"parts": [{"seed": 1}, {"seed": 2}]} and joined.versions == {"numpy": "x"}
    assert joined.faults == [{"mdp": 5}]


@pytest.mark.parametrize(
    ("second", "axis", "message"),
    [
        (dict(), "mdp", "share MDP ids"),
        (dict(first_id=4, labels=("x", "y", "z")), "mdp", "their labels differ"),
        (dict(first_id=4, iterations=[1, 2, 3]), "mdp", "their iterations differ"),
        (dict(first_id=4, tables=False), "mdp", "some results have logits and some have none"),
        (dict(labels=("x", "y"), first_id=4), "method", "their mdp_ids differ"),
        (dict(labels=("x", "y"), uniform_returns=[0, 0, 0, 0]), "method", "their uniform_returns differ"),
        (dict(), "method", "labels must be distinct|their uniform_returns differ"),
        (dict(first_id=4), "checkpoint", "axis 'mdp' or 'method'"),
    ],
)
def test_concatenate_refuses_what_does_not_fit(second, axis, message):
    with pytest.raises(ValueError, match=message):
        concatenate([make(), make(**second)], axis=axis)


# --- tables and files ---------------------------------------------------------------------------------------


def test_data_frame_and_csv_hold_the_same_tidy_rows(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    returns = make().returns.copy()
    returns[1, 2, 0] = np.nan
    result = make(labels=("baseline", 'mine, "new"', "td_vpi"), first_id=7, returns=returns)
    frame = result.to_dataframe()
    assert list(frame.columns) == ["label", "mdp", "iteration", "return", "length"] and len(frame) == 3 * 4 * 3
    row = frame[(frame.label == "td_vpi") & (frame.mdp == 9) & (frame.iteration == 20)]
    assert row["return"].item() == result.returns[2, 2, 1] and row["length"].item() == result.lengths[2, 2, 1]
    path = result.to_csv(tmp_path / "curves.csv")
    read = pandas.read_csv(path, dtype={"return": np.float32, "length": np.float32})
    pandas.testing.assert_frame_equal(read, frame, check_dtype=False, check_exact=True)
    packed = result.to_csv(str(tmp_path / "curves.csv.gz"))
    assert gzip.decompress(packed.read_bytes()) == path.read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert packed.read_bytes() == result.to_csv(tmp_path / "again.csv.gz").read_bytes()


def test_long_csv_is_written_in_parts_without_seams(tmp_path):
    result = make(num_mdps=300, num_checkpoints=100, tables=False)  # 90000 rows, more than one part
    with open(result.to_csv(tmp_path / "long.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90000
    np.testing.assert_array_equal(np.array([r["return"] for r in rows], np.float32), result.returns.reshape(-1))


@pytest.mark.parametrize("tables", [True, False])
def test_saved_results_come_back_equal(tmp_path, monkeypatch, tables):
    result = make(tables=tables, curve_kind=("sampled", "exact", "sampled"), faults=[{"method": "td_vpi", "mdp": 1}])
    path = result.save(tmp_path / "run.npz")
    assert_same(load(path), result)
    assert_same(load(str(path)), result)
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert path.read_bytes() == result.save(tmp_path / "again").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "run.npz"]  # no temporary file is left
    with np.load(path, allow_pickle=False) as archive:  # plain npz for everybody else
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
            assert_same(loaded, result)  # a date or an attribute of the zip, nothing of ours
    assert noticed > len(positions) / 2


def rewrite(path, change):
    """Rewrites an npz with `change(name, content)` for every member, so that its CRCs are right again."""
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
    monkeypatch.setattr(results, "FORMAT_VERSION", 2)
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


def test_to_dataframe_without_pandas_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    for table in (make(), make().summary()):
        with pytest.raises(ImportError, match="pip install pandas"):
            table.to_dataframe()
