"""What XLA is asked for, and whether it does it."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import ZOO, Config, methods, teachers
from jaxdistill.engine import tick, xla
from jaxdistill.scheduling.block import Block
from jaxdistill.scheduling.group import Group
from jaxdistill.scheduling.pool import workers
from jaxdistill.training.config import resolve_cell
from jaxdistill.training.tasks import make_tasks

MDPS = jaxdistill.sample_mdps(jax.random.key(0), 2, num_rows=4, num_cols=4)
TEACHER = teachers.optimal(MDPS)


def entry(method, estimator="td", **changes):
    """The lines of the compiled program of `engine.advance` that are outside all functions it calls."""
    config = Config(num_iterations=10, estimator=estimator, **changes)
    cell = resolve_cell("student", ZOO[method] if method in ZOO else methods.get(method), TEACHER, config)
    (task,) = make_tasks(jax.random.key(1), MDPS, [cell], np.ones(2), lambda *_: None)
    block = Block(task, workers()[0], share=2)
    Group([block]).refill()
    inputs = block.worlds, block.teachers, block.schedules, np.int32(10)
    text = tick.advance.lower(block.program, block.lanes, *inputs, block.until, np.int32(0)).compile().as_text()
    return text[text.index("ENTRY") :].splitlines()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA on CPU")
@pytest.mark.parametrize("estimator", ["td", "mc"])
@pytest.mark.parametrize("method", ["on_policy_distill_r_vcond", "teacher_distill", "top_k_opd"])
def test_the_loop_is_one_function(method, estimator):
    """A scatter, a sort or a library's call in it, and each of its operations would be called one by one."""
    lines = entry(method, estimator)
    assert any(" call(" in line for line in lines)
    assert not any(" while(" in line for line in lines)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_all_lanes_round_alike(estimator):
    """A student that is put into every lane stays the same in all of them, bit for bit."""
    config = Config(num_iterations=2**20, estimator=estimator, learning_rate=0.5)
    known = [methods.get(name) for name in ("baseline", "exp_entropy_regularised", "teacher_distill", "n_distill")]
    chosen = [method for method in known if method.estimator in (None, estimator)]
    cells = [resolve_cell(method.name, method, TEACHER, config) for method in chosen]
    for task in make_tasks(jax.random.key(1), MDPS, cells, np.ones(2), lambda *_: None):
        block = Block(task, workers()[0], share=100)
        group = Group([block])
        group.refill()
        copied = jax.tree.map(np.array, block.lanes)
        for leaf in jax.tree.leaves(copied):
            by_lane = leaf.reshape(task.program.num_lanes, -1)
            by_lane[:] = by_lane[:1]
        block.lanes, block.occupant = jax.device_put(copied, block.device), np.zeros_like(block.occupant)
        group.run_ticks(5000)
        assert block.count.min() > 1000
        for leaf in jax.tree.leaves(block.lanes):
            by_lane = np.asarray(leaf).reshape(task.program.num_lanes, -1).view(np.uint8)
            np.testing.assert_array_equal(by_lane, np.broadcast_to(by_lane[:1], by_lane.shape))


def no_flags():
    """The environment without XLA_FLAGS, which the import in this process may have set."""
    return {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}


def flags(version, **environment):
    """XLA_FLAGS after an import with JAX of this version."""
    code = (
        f"import os, jax; jax.__version_info__ = {version}; import jaxdistill; print(os.environ.get('XLA_FLAGS', ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=no_flags() | environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_option_is_set_where_it_is_needed():
    assert flags((0, 12, 0)) == ""
    option = f"--xla_backend_extra_options={xla._LARGEST_LOOP}"
    assert flags((0, 10, 2)) == option
    assert flags((0, 11, 0), XLA_FLAGS="--xla_dump_to=/x") == f"--xla_dump_to=/x {option}"
    assert flags((0, 10, 2), XLA_FLAGS="--xla_backend_extra_options=a") == "--xla_backend_extra_options=a"


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="XLA does it by itself")
def test_a_late_import_is_said_to_be_slow():
    code = "import jax; jax.devices(); import jaxdistill; print(jaxdistill.engine.xla.loops_are_whole())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=no_flags())
    assert done.stdout.split() == ["False"] and done.stderr.count("Import jaxdistill first") == 1
    assert xla.loops_are_whole()
