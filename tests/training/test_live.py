"""`on_metrics`: what is reported while a training runs, and that reporting changes no number."""

import importlib

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.training import live

KEY = jax.random.key(0)
WORLDS = jd.sample_mdps(KEY, 20, num_rows=4, num_cols=4)
TEACHER = jd.teachers.optimal(WORLDS)
METHODS = ["baseline", "teacher_distill", "n_distill"]  # the student of the second does not act: its curve is exact
OPTIONS = dict(num_iterations=40, num_checkpoints=4, progress=False)


def trained(**options):
    received = []
    result = jd.train(KEY, WORLDS, TEACHER, METHODS, on_metrics=received.append, **(OPTIONS | options))
    return result, [m for m in received if "method" in m], [m for m in received if "method" not in m]


def test_the_numbers_of_a_checkpoint_are_those_of_the_result():
    result, checkpoints, times = trained(measure="forward_kl:teacher")
    for p, method in enumerate(METHODS):
        given = [m for m in checkpoints if m["method"] == method]
        assert [m["iteration"] for m in given] == result.iterations.tolist()
        np.testing.assert_allclose([m["return"] for m in given], result.returns[p].mean(0), rtol=1e-12)
        np.testing.assert_allclose([m["length"] for m in given], result.lengths[p].mean(0), rtol=1e-12)
        kl = result.measure("forward_kl:teacher")[p].mean(0)
        np.testing.assert_allclose([m["forward_kl:teacher"] for m in given], kl, rtol=1e-12)
        assert all(m["num_students"] == 20 and m["return_low"] <= m["return"] <= m["return_high"] for m in given)
    assert times[-1]["finished"] == times[-1]["progress"] == 1
    assert set(times[0]) == {"seconds", "progress", "finished", "steps", "steps_per_second", "seconds_left"}


def test_reporting_changes_no_number():
    live = trained()[0]
    silent = jd.train(KEY, WORLDS, TEACHER, METHODS, **OPTIONS)
    for name in ("returns", "lengths", "final_returns", "logits", "values"):
        np.testing.assert_array_equal(getattr(live, name), getattr(silent, name))


def test_no_checkpoint_is_given_before_all_students_have_passed_it(monkeypatch):
    """At every report, each checkpoint that has been given is one that all students of the method have passed."""
    reports = []

    class Watched(live.LiveMetrics):
        def _metrics(self, cell, checkpoint, counts):
            reports.append(np.isfinite(self.recorder.returns[cell, :, checkpoint]).all())
            return super()._metrics(cell, checkpoint, counts)

    # The name `jaxdistill.training.train` is that of the function.
    monkeypatch.setattr(importlib.import_module("jaxdistill.training.train"), "LiveMetrics", Watched)
    trained()
    assert len(reports) == len(METHODS) * 4 and all(reports)


def test_students_that_diverge_are_left_out():
    """They have passed every checkpoint, so that the others are reported."""
    sizes = np.full(20, 0.1)
    sizes[3] = 1e38
    with pytest.warns(UserWarning, match="diverged"):
        result, checkpoints, _ = trained(learning_rate=sizes, return_weight=sizes)
    given = [m for m in checkpoints if m["method"] == "baseline"]
    assert [m["num_students"] for m in given] == [19] * 4
    np.testing.assert_allclose(given[-1]["return"], np.nanmean(result.returns[0, :, -1]))


def test_a_hook_and_metrics_together():
    calls = []
    trained(on_chunk=lambda *args: calls.append(args))
    assert calls[-1][0] == 1
    with pytest.raises(ValueError, match="on_metrics must be a function or None"):
        jd.train(KEY, WORLDS, TEACHER, METHODS, on_metrics=3, **OPTIONS)


def test_tensorboard_reads_what_is_written(tmp_path):
    summary = pytest.importorskip("tensorboard.summary")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = summary.Writer(str(tmp_path))
    result, checkpoints, _ = trained()
    for metrics in checkpoints:
        writer.add_scalar(f"return/{metrics['method']}", metrics["return"], metrics["iteration"])
    writer.close()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    for p, method in enumerate(METHODS):
        events = reader.Tensors(f"return/{method}")
        assert [event.step for event in events] == result.iterations.tolist()
        values = [event.tensor_proto.float_val[0] for event in events]
        np.testing.assert_allclose(values, result.returns[p].mean(0), rtol=1e-6)


def test_a_function_that_fails_is_not_called_again_and_stops_nothing():
    calls = []

    def fails(metrics):
        calls.append(metrics)
        raise ConnectionError("no network")

    with pytest.warns(UserWarning, match="on_metrics failed and is not called any more: ConnectionError: no network"):
        result = jd.train(KEY, WORLDS, TEACHER, METHODS, on_metrics=fails, **OPTIONS)
    assert len(calls) == 1
    np.testing.assert_array_equal(result.returns, trained()[0].returns)
