"""A training in shards has the bits of one without, and loses nothing when workers, executors or the caller stop.

The executor runs in this process, so that nothing here depends on when a worker does what.
"""

import dataclasses
import re
import sys
import threading
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import Cell, teachers
from jaxdistill.executors import ExecutorFailed, Sharding, saves, using, worker
from jaxdistill.runtime import errors, progress
from jaxdistill.training import shards
from tests.executors.here import Here
from tests.lockstep import lockstep

OPTIONS = dict(num_iterations=60, num_checkpoints=3)
METHODS = ["baseline", "on_policy_distill_r"]
KEY = jax.random.key(2)


def measure(mdps, teacher, policies):
    return {"certainty": jnp.max(policies, axis=-1).mean(axis=-1)}


@pytest.fixture(scope="module")
def problem():
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 8, num_rows=4, num_cols=4, p_plus10=0.1)
    return mdps, teachers.optimal(mdps)


@pytest.fixture(scope="module")
def whole(problem):
    return train(problem)


def train(problem, executor=None, **options):
    return jaxdistill.train(KEY, *problem, METHODS, executor=executor, **(OPTIONS | options))


def cut(executor, num_shards=4, **options):
    return Sharding(executor, num_shards, num_workers=1, **options)


def assert_same(ours, theirs):
    """All but the time that the training took."""
    for name in jaxdistill.Result.axes:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    assert ours.faults == theirs.faults and ours.versions == theirs.versions
    assert {**ours.settings, "seconds": 0} == {**theirs.settings, "seconds": 0}


# The same bits.


@pytest.mark.parametrize("num_shards", [1, 4, 11])
def test_shards_have_the_bits_of_the_whole(problem, whole, num_shards):
    executor = Here()
    assert_same(train(problem, cut(executor, num_shards)), whole)
    assert len(executor.jobs) == {1: 1, 4: 4, 11: 8}[num_shards]


def test_everything_that_a_training_may_hold(problem):
    """Numbers of each MDP, teachers of a cell, initial tables, measures, other estimators and time limits."""
    mdps = problem[0].with_time_limit(np.arange(10, 18))
    teacher, rates = teachers.optimal(mdps), np.linspace(0.01, 0.2, 8)
    noisy = teachers.with_noise(jax.random.key(1), mdps, teacher, 0.5)
    cells = {
        "a": Cell("baseline", changes={"estimator": "mc", "learning_rate": rates.tolist()}),
        "b": Cell("entropy_regularised", noisy, {"probability_floor": rates / 10}),
        "c": Cell(jaxdistill.methods.get("jsd").with_params(beta=rates), noisy),
        "d": Cell("baseline", noisy, {"learning_rate": lambda i: 0.1 / (1 + i)}),
        "e": Cell("teacher_distill", noisy),
    }
    logits = np.random.default_rng(0).normal(size=(5, 8, mdps.num_observations, mdps.num_actions))
    options = dict(methods=cells, initial_logits=logits, measure=measure, discount=0.9, **OPTIONS)
    alone = jaxdistill.train(KEY, mdps, teacher, **options)
    assert_same(jaxdistill.train(KEY, mdps, teacher, executor=cut(Here(), 4), **options), alone)


def test_one_world_with_many_cells_is_cut_by_cells(problem):
    mdp, teacher = problem[0][:1], problem[1][:1]
    cells = {f"{rate}": Cell("baseline", changes={"learning_rate": rate}) for rate in (0.1, 0.2, 0.3, 0.4, 0.5)}
    executor = Here()
    ours = jaxdistill.train(KEY, mdp, teacher, cells, executor=cut(executor, 3), **OPTIONS)
    assert len(executor.jobs) == 3
    assert_same(ours, jaxdistill.train(KEY, mdp, teacher, cells, **OPTIONS))


def test_teachers(problem):
    with using(cut(executor := Here(), 4)):
        ours = [make(KEY, problem[0], num_iterations=50) for make in (teachers.q_learning, teachers.actor_critic)]
    assert len(executor.jobs) == 8
    for teacher, make in zip(ours, (teachers.q_learning, teachers.actor_critic), strict=True):
        alone = make(KEY, problem[0], num_iterations=50)
        for name in ("probs", "values", "scores"):
            np.testing.assert_array_equal(getattr(teacher, name), getattr(alone, name))


def test_students_that_diverge_are_named_once(problem):
    options = dict(learning_rate=np.array([1e38, 0.1, 0.1, 1e38, 0.1, 0.1, 0.1, 0.1]), loss_weight=1e5)
    with pytest.warns(UserWarning, match="students diverged") as messages:
        ours = train(problem, cut(Here()), **options)
    with pytest.warns(UserWarning, match="students diverged") as expected:
        alone = train(problem, **options)
    assert ours.faults and [str(m.message) for m in messages] == [str(m.message) for m in expected]
    assert_same(ours, alone)


def test_a_return_that_is_not_known_is_explained_once(monkeypatch):
    """The caller gives the reason for the first such student of any shard."""
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 3, num_rows=3, num_cols=3)
    unknown = lambda self, cells, worlds, logits: np.full((len(cells), len(self.measures)), np.nan)  # noqa: E731
    monkeypatch.setattr("jaxdistill.training.recorder.Evaluator.__call__", unknown)
    explained = []
    monkeypatch.setattr(
        "jaxdistill.training.recorder.exact.policy_from_logits", lambda mdp, table: explained.append(mdp.id)
    )
    monkeypatch.setattr(
        "jaxdistill.training.recorder.exact.episode_return", lambda mdps, policy: np.zeros(np.shape(mdps.id))
    )
    jaxdistill.train(KEY, mdps, None, "baseline", executor=cut(Here(), 3), **OPTIONS)
    assert len(explained) == 1 and explained[0].shape == ()


# Errors and warnings.


def test_a_warning_in_every_shard_is_given_once(problem, monkeypatch):
    run = shards.run_students
    monkeypatch.setattr(shards, "run_students", lambda *a: (warnings.warn("the disk is slow", stacklevel=1), run(*a)))
    monkeypatch.setattr(worker.warnings, "catch_warnings", _Recording)
    with pytest.warns(UserWarning) as messages:
        train(problem, cut(Here()))
    assert [str(message.message) for message in messages] == ["the disk is slow"]


class _Recording(warnings.catch_warnings):
    """Records as a worker does, where pytest does not make errors of warnings."""

    def __enter__(self):
        messages = super().__enter__()
        warnings.simplefilter("default")
        return messages


@pytest.mark.parametrize("error", [ValueError("a wrong number"), OSError(28, "no space"), ZeroDivisionError("a bug")])
def test_an_error_in_a_shard_is_raised_as_it_is(problem, monkeypatch, error):
    def fails(*args):
        raise error

    monkeypatch.setattr(shards, "run_students", fails)
    executor = Here()
    with pytest.raises(type(error), match=re.escape(str(error))) as raised:
        train(problem, cut(executor))
    assert len(executor.jobs) <= 2  # the other shards were not begun
    assert "in fails" in str(raised.value.__cause__)  # where in the worker
    assert errors.is_of_surroundings(raised.value)  # it was not raised by jaxdistill


def test_an_error_that_cannot_be_sent(problem, monkeypatch):
    class Odd(Exception):
        def __init__(self, first, second):
            super().__init__(first)

    def fails(*args):
        raise Odd("odd", threading.Lock())

    monkeypatch.setattr(shards, "run_students", fails)
    with pytest.raises(RuntimeError, match="Odd: odd"):
        train(problem, cut(Here()))


def test_a_function_that_cannot_be_sent_is_refused_in_one_line(problem):
    lock = threading.Lock()

    def guarded(mdps, teacher, policies):
        with lock:
            return measure(mdps, teacher, policies)

    executor = Here()
    with pytest.raises(ValueError, match=r"^measures cannot be sent to a worker \(TypeError: cannot pickle") as error:
        train(problem, cut(executor), measure=guarded)
    assert "\n" not in str(error.value) and not executor.jobs


def test_a_module_that_a_worker_lacks_is_named(problem, monkeypatch):
    module = types.ModuleType("my_measures")
    exec(
        compile("def measure(mdps, teacher, policies):\n    return {'one': policies[:, 0, 0]}", "", "exec"),
        vars(module),
    )
    monkeypatch.setitem(sys.modules, "my_measures", module)

    class Elsewhere(Here):
        def answer(self, fn, job):
            sys.modules.pop("my_measures", None)
            return fn(job)

    with pytest.raises(ValueError, match=r"No module named 'my_measures'.*install the module on the workers") as error:
        train(problem, cut(Elsewhere()), measure=module.measure)
    assert "\n" not in str(error.value)


class Older(Here):
    """Its workers have another version of JAX."""

    def answer(self, fn, job):
        return fn(dataclasses.replace(job, versions=job.versions and {**job.versions, "jax": "0.0.1", "dask": "1"}))


def test_workers_of_other_versions_are_refused(problem, whole):
    with pytest.raises(
        ValueError, match=r"^the worker on .* has dask missing and not 1, jax .* and not 0\.0\.1"
    ) as error:
        train(problem, cut(Older()))
    assert "allow_mixed" in str(error.value) and "\n" not in str(error.value)
    assert_same(train(problem, cut(Older(), allow_mixed=True)), whole)


class Mixed(Here):
    """Its second worker has another device."""

    def answer(self, fn, job):
        outcome = fn(job)
        if job.index != 1:
            return outcome
        surroundings = outcome.finished.surroundings | {"device_kind": "NVIDIA H200"}
        finished = dataclasses.replace(outcome.finished, surroundings=surroundings)
        return dataclasses.replace(outcome, finished=finished)


def test_workers_of_different_devices_are_refused(problem, whole):
    with pytest.raises(ValueError, match=r'has device_kind "NVIDIA H200" and not "cpu".*workers of one kind') as error:
        train(problem, cut(Mixed()))
    assert "\n" not in str(error.value)
    result = train(problem, cut(Mixed(), allow_mixed=True))
    assert [w["device_kind"] for w in result.settings["surroundings"]["workers"]] == ["cpu", "NVIDIA H200"]
    np.testing.assert_array_equal(result.logits, whole.logits)


# Executors that die, and callers that stop.


class Dying(Here):
    """Dies with its third shard: that one fails, and so does every later one."""

    def answer(self, fn, job):
        if len(self.jobs) >= 3:
            raise ConnectionError("the host is gone")
        return fn(job)


class Closed(Here):
    """Is shut down after two shards."""

    def submit(self, fn, /, *args, **kwargs):
        if len(self.jobs) >= 2:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(("executor", "reason"), [(Dying, "the host is gone"), (Closed, "cannot schedule new futures")])
def test_an_executor_that_dies_loses_nothing_that_was_finished(problem, whole, tmp_path, executor, reason):
    with pytest.raises(ExecutorFailed, match=f"^2 of 4 shards were lost: .*{reason}.*in the error's .result") as error:
        train(problem, cut(executor()))
    kept = np.isfinite(error.value.result.final_returns)
    assert 0 < kept.sum() < kept.size and error.value.result.settings["unfinished_students"] == (~kept).sum()
    np.testing.assert_array_equal(error.value.result.logits[kept], whole.logits[kept])
    one_line = pytest.raises(ExecutorFailed, match=r"are saved in .*, and the same program goes on")
    with one_line as error, jaxdistill.resumable(tmp_path / "run"):
        train(problem, cut(executor()))
    assert "\n" not in str(error.value)
    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(problem, cut(rest := Here(), num_shards=6)), whole)  # cut as before
        assert len(rest.jobs) == 2
    assert not (tmp_path / "run").exists()


def test_a_damaged_shard_is_trained_again(problem, whole, tmp_path):
    with pytest.raises(ExecutorFailed), jaxdistill.resumable(tmp_path / "run"):
        train(problem, cut(Dying()))
    path = next((tmp_path / "run").glob("*/finished-*.save"))
    path.write_bytes(path.read_bytes()[:-9])
    with jaxdistill.resumable(tmp_path / "run"), pytest.warns(UserWarning, match=f"{path} is damaged"):
        assert_same(train(problem, cut(rest := Here())), whole)
    assert len(rest.jobs) == 3


def test_another_training_does_not_read_these_shards(problem, tmp_path):
    """Other numbers, another measure of the same name, or without tables."""
    with pytest.raises(ExecutorFailed), jaxdistill.resumable(tmp_path / "run"):
        train(problem, cut(Dying()), measure=measure)

    def other(mdps, teacher, policies):
        return {"certainty": jnp.min(policies, axis=-1).mean(axis=-1)}

    for options in (dict(measure=other), dict(learning_rate=0.2, measure=measure), dict(keep_tables=False)):
        with pytest.raises(ExecutorFailed), jaxdistill.resumable(tmp_path / "run"):
            train(problem, cut(executor := Dying()), **options)
        assert len(executor.jobs) == 4


@pytest.fixture
def every_report(monkeypatch):
    monkeypatch.setattr(progress, "_HOOK_SECONDS", 0.0)


class Stop(Exception):
    """An error in the user's hook."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop])
def test_a_caller_that_stops_keeps_the_finished_shards(problem, whole, tmp_path, kind, every_report):
    def hook(fraction, steps, left):
        if fraction > 0.2:
            raise kind

    with pytest.raises(kind) as stopped, jaxdistill.resumable(tmp_path / "run"):
        train(problem, cut(Here(), 8), on_chunk=hook)
    if kind is KeyboardInterrupt:
        kept = np.isfinite(stopped.value.result.final_returns)
        assert 0 < kept.sum() < kept.size
    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(problem, cut(rest := Here(), 8)), whole)
    assert 0 < len(rest.jobs) < 8


def test_a_shard_that_is_told_to_stop_saves_and_returns_its_finished_students(problem, whole, tmp_path, monkeypatch):
    """Its students go on from the save, whose steps count once."""
    monkeypatch.setattr(worker, "_STOP_SECONDS", 0.0)
    finished, is_seen, add = [], saves.Place.is_seen, shards.Recorder.add

    def count(recorder, cell, mdp, pause, output):
        add(recorder, cell, mdp, pause, output)
        finished.extend([cell] * (pause < 0))

    with monkeypatch.context() as context:
        context.setattr(shards.Recorder, "add", count)
        context.setattr(saves.Place, "is_seen", lambda place: is_seen(place) and len(finished) < 5)
        interrupted = pytest.raises(ExecutorFailed, match=r"a worker on .* was interrupted")
        with lockstep(8), interrupted as error, jaxdistill.resumable(tmp_path / "run", seconds=1e-9):
            train(problem, cut(Here(), 1))
    kept = np.isfinite(error.value.result.final_returns)
    assert 0 < kept.sum() < kept.size
    assert list((tmp_path / "run").glob("*/shard-0/*/lanes-*.save"))
    read = []
    take = jaxdistill.runtime.checkpoints.Store._take_snapshots
    monkeypatch.setattr(
        jaxdistill.runtime.checkpoints.Store,
        "_take_snapshots",
        lambda s, a: (take(s, a), read.append(len(s.snapshots))),
    )
    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(problem, cut(Here(), 1)), whole)
    assert read and max(read) > 0


def test_a_worker_without_the_folder_trains_all_the_same(problem, whole, tmp_path, monkeypatch):
    """A machine that does not see the caller's disk: the caller keeps the finished shards."""

    class Elsewhere(Here):
        def answer(self, fn, job):
            return fn(dataclasses.replace(job, place=dataclasses.replace(job.place, folder=str(tmp_path / "nowhere"))))

    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(problem, cut(Elsewhere())), whole)
        assert len(list((tmp_path / "run").glob("*/finished-*.save"))) == 4
    assert not (tmp_path / "nowhere").exists()


def test_two_workers_may_train_the_same_shard(problem, whole, tmp_path):
    """One that the executor has taken for lost holds the lock of the shard's saves; the other one trains without."""

    class Twice(Here):
        def answer(self, fn, job):
            with job.place.running(job.index):
                return fn(job)

    with jaxdistill.resumable(tmp_path / "run"):
        assert_same(train(problem, cut(Twice())), whole)


def test_progress_counts_shards(problem, capfd):
    train(problem, cut(Here()), progress=True)
    assert "students, 4 of 4 shards: done in" in capfd.readouterr().err


def test_jobs_are_small(problem):
    """Every shard holds its own worlds and teachers, once, and not those of the others."""
    executor = Here()
    train(problem, cut(executor, 8))
    mdps, teacher = problem
    tables = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((mdps, teacher))) / 8
    assert all(len(job.part) < 1.2 * tables + 3000 for job in executor.jobs)
    assert len({job.shared for job in executor.jobs}) == 1
