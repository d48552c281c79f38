"""A result as a data frame, as csv and as an xarray Dataset."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest

from jaxdistill.results import Result
from tests.results.random_results import LABELS, make

# --- tables -----------------------------------------------------------------------------------------------------


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


def test_the_table_has_a_column_for_each_measure():
    pytest.importorskip("pandas")
    result = make_with_everything(measure_names=("return", "entropy"))
    frame = result.to_dataframe()
    assert list(frame.columns)[5:] == ["measured return", "entropy"]
    row = frame[(frame.label == result.labels[2]) & (frame.mdp == 11) & (frame.iteration == result.iterations[1])]
    assert row["return"].item() == result.returns[2, 1, 1]
    assert row["measured return"].item() == result.measurements[2, 1, 1, 0]
    assert row["entropy"].item() == result.measurements[2, 1, 1, 1]


def test_long_csv_is_written_in_parts_without_seams(tmp_path):
    result = make(num_mdps=300, num_checkpoints=100, tables=False)  # 90000 rows, more than one part
    with open(result.to_csv(tmp_path / "long.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90000
    np.testing.assert_array_equal(np.array([r["return"] for r in rows], np.float32), result.returns.reshape(-1))


def test_without_pandas_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (make(), make().summary()):
        with pytest.raises(ImportError, match="pip install pandas"):
            table.to_dataframe()


# --- xarray -----------------------------------------------------------------------------------------------------


def make_with_everything(**changes) -> Result:
    measurements = np.random.default_rng(1).normal(size=(3, 4, 3, 2)).astype(np.float32)
    fields = dict(
        first_id=10, measurements=measurements, measure_names=("entropy", "regret"),
        curve_kind=("sampled", "exact", "sampled"), faults=[{"method": "td_vpi", "mdp": 12}],
        settings={"seed": 0, "config": {"discount": float("inf"), "name": "Übung"}},
    )  # fmt: skip
    return make(**(fields | changes))


def assert_is_the_dataset_of(dataset, result):
    """The dataset has exactly the arrays of the result, on its axes and with its coordinates."""
    coordinates = {"method": result.labels, "mdp": result.mdp_ids, "checkpoint": result.iterations}
    coordinates |= {"measure": result.measure_names} if result.measurements is not None else {}
    assert set(dataset.coords) == {*coordinates, "curve_kind"}
    for name, values in coordinates.items():
        assert dataset[name].values.tolist() == list(values)
    assert dataset.curve_kind.dims == ("method",) and dataset.curve_kind.values.tolist() == list(result.curve_kind)
    arrays = {name: getattr(result, name) for name in result.axes if name not in ("mdp_ids", "iterations")}
    assert set(dataset.data_vars) == {name for name, array in arrays.items() if array is not None}
    for name, variable in dataset.data_vars.items():
        assert variable.dims == result.axes[name] and variable.dtype == arrays[name].dtype
        np.testing.assert_array_equal(variable.values, arrays[name])
    assert set(dataset.attrs) == {"settings", "versions", "faults"}
    for name, text in dataset.attrs.items():
        assert json.loads(text) == getattr(result, name)


def test_a_dataset_has_all_arrays_with_their_axes_and_coordinates():
    pytest.importorskip("xarray")
    result = make_with_everything()
    dataset = result.to_xarray()
    assert_is_the_dataset_of(dataset, result)
    assert dict(dataset.sizes) == {
        "method": 3, "mdp": 4, "checkpoint": 3, "observation": 2, "action": 4, "measure": 2,
    }  # fmt: skip


def test_a_dataset_leaves_out_the_arrays_that_the_result_lacks():
    pytest.importorskip("xarray")
    result = make(tables=False)
    dataset = result.to_xarray()
    assert_is_the_dataset_of(dataset, result)
    assert "logits" not in dataset and "measure" not in dataset.coords
    assert set(dataset.dims) == {"method", "mdp", "checkpoint"}


def test_a_dataset_selects_students_by_name():
    pytest.importorskip("xarray")
    result = make_with_everything()
    ds = result.to_xarray()
    p = LABELS.index("n_distill")
    curve = ds.returns.sel({"method": "n_distill"}).mean("mdp")
    np.testing.assert_allclose(curve.values, result.returns[p].mean(0), rtol=1e-6)
    assert curve.curve_kind == "exact"
    np.testing.assert_array_equal(ds.returns.sel(checkpoint=20), result.returns[:, :, 1])
    np.testing.assert_array_equal(ds["values"].sel(mdp=[13, 10]), result.values[:, [3, 0]])
    np.testing.assert_array_equal(ds.measurements.sel(measure="regret"), result.measure("regret"))
    part = result.select(["td_vpi", "n_distill"], [12, 11])
    assert ds.final_returns.sel({"method": ["td_vpi", "n_distill"], "mdp": [12, 11]}).equals(
        part.to_xarray().final_returns
    )


def test_a_dataset_can_be_written_and_read_back(tmp_path):
    xarray = pytest.importorskip("xarray")
    returns = make_with_everything().returns.copy()
    returns[1, 2, 0] = np.nan
    result = make_with_everything(returns=returns)
    result.to_xarray().to_netcdf(tmp_path / "run.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "run.nc", engine="scipy") as dataset:
        assert_is_the_dataset_of(dataset, result)


def test_a_dataset_shares_the_memory_of_the_result():
    pytest.importorskip("xarray")
    result = make()
    assert np.shares_memory(result.to_xarray().logits.values, result.logits)
    assert not np.shares_memory(result.to_xarray().copy(deep=True).logits.values, result.logits)


def test_without_xarray_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError) as info:
        make().to_xarray()
    assert str(info.value) == "to_xarray() needs xarray: pip install 'jaxdistill[xarray]'"
