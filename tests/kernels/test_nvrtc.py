"""Every program of the paper's methods and of the zoo compiles to machine code of GPUs, without a GPU."""

import os

import pytest

from jaxdistill.engine.rules import q_learning_rule
from jaxdistill.estimators import ESTIMATORS
from jaxdistill.kernels.cuda import CudaToolchain
from jaxdistill.kernels.lane import trace
from jaxdistill.kernels.translation import translate
from jaxdistill.methods import Method
from jaxdistill.methods.zoo import ZOO
from tests.kernels.agreement import task_of, worlds_of
from tests.kernels.test_agreement import BATTERY, USER_METHOD, zoo
from tests.training.test_unbiased import groups

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module")
def compiler():
    """The toolchains of GPUs; skips a test where NVRTC cannot be used, and fails it where CI is set."""
    try:
        toolchains = [CudaToolchain(architecture) for architecture in ARCHITECTURES]
        assert all(toolchain.identity for toolchain in toolchains)
    except (ImportError, RuntimeError) as error:
        message = f"NVRTC cannot be used ({error}): pip install -e '.[test-cuda]'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return toolchains


def check(compiler, task):
    translation = translate(trace(task.program, task.worlds, task.teachers, task.schedules, task.students))
    for toolchain in compiler:
        assert toolchain.compile(toolchain.source(translation)).startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.parametrize(("names", "estimator"), groups(), ids=lambda x: x if isinstance(x, str) else x[0])
def test_methods_of_the_paper(compiler, names, estimator):
    mdps, teachers = worlds_of("grid", 2)
    check(compiler, task_of([BATTERY[name] for name in names], mdps, teachers, estimator=estimator))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "estimator"), zoo())
def test_zoo(compiler, name, estimator):
    mdps, teachers = worlds_of("by_state", 2, num_others=2)
    check(compiler, task_of([ZOO[name]], mdps, teachers, estimator=estimator))


@pytest.mark.slow
@pytest.mark.parametrize("params", [{"epsilon": 0.2}, {"temperature": 0.5}], ids=lambda x: next(iter(x)))
def test_q_learning(compiler, params):
    mdps, teachers = worlds_of("grid", 2)
    method = Method("q", params=params, estimator="td", baseline=False, needs_teacher=False)
    check(compiler, task_of([method], mdps, teachers, q_learning_rule))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_functions_of_a_user(compiler, estimator):
    mdps, teachers = worlds_of("limited", 2)
    check(compiler, task_of([USER_METHOD], mdps, teachers, estimator=estimator, truncation="end"))


@pytest.mark.slow
def test_an_error_is_reported(compiler):
    with pytest.raises(RuntimeError, match=r"(?s)NVRTC_ERROR_COMPILATION.*\(1\): error"):
        compiler[0].compile("int x = ;")


@pytest.mark.slow
def test_what_a_launch_uses_exists(compiler):
    """Nothing can be launched here; but what is called then has these names, and takes these arguments."""
    core = compiler[0]._core
    config = core.LaunchConfig(grid=3, block=32)
    assert (config.grid, config.block) == ((3, 1, 1), (32, 1, 1))
    used = {"Stream": ("from_handle", "record", "wait"), "ObjectCode": ("from_cubin", "get_kernel"), "launch": ()}
    used |= {"Device": ("set_current", "create_stream", "device_id", "properties")}
    assert not [
        (name, part) for name, parts in used.items() for part in parts if not hasattr(getattr(core, name), part)
    ]
    assert callable(core.launch)
