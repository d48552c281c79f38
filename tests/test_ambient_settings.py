"""Settings of JAX, NumPy, Python and the operating system change no number; what does decide is in the result.

The cheap functions are tried here under all settings of JAX at once and, like trained students and the theory, in the
`long` tests; everything is tried under each setting in a process of its own by the `slow` ones. `ambient_run.py` makes
the answers that are compared.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import locale
import os
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdistill as jd
from experiments import gaussian_mixtures
from jaxdistill import methods
from jaxdistill.results import jsonable
from jaxdistill.runtime import streams
from jaxdistill.runtime.surroundings import surroundings
from jaxdistill.teachers.ties import check_ties
from jaxdistill.theory import fields
from jaxdistill.theory.exact_update import Problem, exact_options, solve_update
from jaxdistill.theory.precision import float64, precise
from jaxdistill.theory.stated_losses import TABLE_1
from jaxdistill.training.sampling import sampled_updates
from tests import ambient_run, small

ROOT = Path(__file__).resolve().parents[1]
KEY = jax.random.key(5)


# --- Keys -----------------------------------------------------------------------------------------------------


def test_keys_of_every_kind_stand_for_the_same_threefry_key():
    for seed in (0, 5, 2**32 - 1):
        for kind, make in ambient_run.KINDS.items():
            assert streams.words(streams.as_key(make(seed))) == [0, seed], kind
        assert streams.words(streams.from_seed(seed)) == [0, seed]
    rbg = ambient_run.KINDS["rbg"](5)
    for ours, theirs in zip(jax.random.split(KEY, 3), jax.random.split(rbg, 3), strict=True):
        assert streams.words(streams.as_key(theirs)) == streams.words(ours)
    folded = jax.random.fold_in(rbg, 7)
    assert streams.words(streams.as_key(folded)) == streams.words(jax.random.fold_in(KEY, 7))


def test_other_keys_of_four_words_stay_different_keys():
    words = np.random.default_rng(0).integers(2**32, size=(300, 4), dtype=np.uint32)
    words[100:200, 2:] = words[0, 2:]  # keys that agree in one half
    words[200:, :2] = words[0, :2]
    keys = {tuple(streams.words(streams.as_key(key))) for key in words}
    assert len(keys) == 300
    typed = jax.random.wrap_key_data(words[0], impl="unsafe_rbg")
    assert streams.words(streams.as_key(typed)) == streams.words(streams.as_key(words[0]))


def test_draws_are_those_of_jax_by_default():
    draws = [
        (streams.split(KEY, 3), jax.random.split(KEY, 3)),
        (streams.fold_in(KEY, 3), jax.random.fold_in(KEY, 3)),
        (streams.bits(KEY, (2,)), jax.random.bits(KEY, (2,))),
        (streams.uniform(KEY, (2, 3)), jax.random.uniform(KEY, (2, 3), np.float32)),
        (streams.normal(KEY, (2, 3)), jax.random.normal(KEY, (2, 3), np.float32)),
    ]
    for ours, theirs in draws:
        assert jax.tree.map(str, ours) == jax.tree.map(str, theirs)


def doors():
    """Calls of everything that takes a random key, by the name of the function."""
    world = jd.stack([small.random_mdp(1)])
    teacher, logits = jd.teachers.uniform(world), np.zeros((1, 4, 3))
    target = gaussian_mixtures.mixture([0.0])
    return {
        "sweep": lambda key: jd.sweep(key, world, teacher, "n_distill", {"learning_rate": [0.1]}),
        "sample_mdps": lambda key: jd.sample_mdps(key, 2),
        "garnet": lambda key: jd.garnet.garnet(key, 2),
        "random_policies": lambda key: jd.garnet.random_policies(key, world),
        "with_noise": lambda key: jd.teachers.with_noise(key, world, teacher, 0.5),
        "optimal": lambda key: jd.teachers.optimal(world, ties="random", key=key),
        "adversarial": lambda key: jd.teachers.adversarial(world, ties="random", key=key),
        "from_q": lambda key: jd.teachers.from_q(world, logits, ties="random", key=key),
        "check_ties": lambda key: check_ties("random", key),
        "zipf": lambda key: jd.teachers.zipf(key, world),
        "q_learning": lambda key: jd.teachers.q_learning(key, world),
        "actor_critic": lambda key: jd.teachers.actor_critic(key, world),
        "random_problems": lambda key: fields.random_problems(key, 2),
        "check_method": lambda key: jd.check_method("n_distill", key=key),
        "train": lambda key: jd.train(key, world, teacher),
        "sampled_updates": lambda key: sampled_updates(key, world, teacher, ["n_distill"], logits),
        "fit": lambda key: gaussian_mixtures.fit(key, target, 1, "reverse"),
    }


NOT_DOORS = {
    "stream_keys", "make_tasks", "student_tasks", "run_students", "run_to_end", "run_students_on", "run_to_end_on",
    "random_bits", "greedy", "draws", "noise_policy", "with_update_norms", "update_norms",
}  # fmt: skip
"""Functions with an argument `key` that are given keys which have passed a door."""


def functions_with_a_key():
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(jd.__path__, "jaxdistill.")
        if not module.name.endswith(("__main__", "streams"))
    ]
    return {
        name
        for module in [*modules, gaussian_mixtures]
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
        and "key" in inspect.signature(function).parameters
    }  # fmt: skip


WRONG_KEYS = [
    0, "0", [0, 5], np.zeros(2), np.zeros(3, np.uint32), np.uint32(5), np.zeros((0, 2), np.uint32), object(),
    jax.random.split(KEY), jax.random.split(jax.random.PRNGKey(0), 3), KEY[None], np.zeros(2, np.int64),
]  # fmt: skip


def test_every_door_refuses_what_is_not_one_key_in_the_same_words():
    calls = doors()
    assert functions_with_a_key() == set(calls) | NOT_DOORS
    messages = []
    for wrong in WRONG_KEYS:
        said = set()
        for name, call in calls.items():
            with pytest.raises(
                ValueError, match=r"^key must be one random key, such as jax\.random\.key\(0\)"
            ) as error:
                call(wrong)
            said.add(str(error.value))
            assert "\n" not in str(error.value), name
        assert len(said) == 1, said
        messages += said
    assert "keys[0]" in messages[-4] and "keys[0]" in messages[-3]
    with pytest.raises(ValueError, match=r"runs on the host"):
        jax.jit(lambda key: jd.garnet.garnet(key, 2))(KEY)


# --- Settings of this process ---------------------------------------------------------------------------------

SETTINGS = {
    "rbg": {"jax_default_prng_impl": "rbg"},
    "unsafe_rbg": {"jax_default_prng_impl": "unsafe_rbg"},
    "no old keys": {"jax_legacy_prng_key": "error"},
    "seed offset": {"jax_random_seed_offset": 3},
    "partitionable": {"jax_threefry_partitionable": False},
    "rank promotion": {"jax_numpy_rank_promotion": "raise"},
    "dtype promotion": {"jax_numpy_dtype_promotion": "strict"},
    "precision": {"jax_default_matmul_precision": "bfloat16"},
    "TF32": {"jax_default_matmul_precision": "tensorfloat32"},
    "NaN": {"jax_debug_nans": True},
}
"""Settings of JAX, by name of the case."""

TOGETHER = {name: value for settings in reversed(SETTINGS.values()) for name, value in settings.items()}


@contextlib.contextmanager
def under(settings):
    """Other settings of JAX and NumPy, and warnings that are errors, within the block."""
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        with np.errstate(all="raise"), np.printoptions(precision=2, threshold=3), warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, value in settings.items():
                jax.config.update(name, value)
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.fixture(scope="module")
def cheap_answers():
    return ambient_run.answers(KEY, ["worlds and teachers"])


def answers_under(settings, group):
    """The answers of a group; the key is given by its words where the settings forbid or change `jax.random.key`."""
    changes_keys = {"jax_random_seed_offset", "jax_legacy_prng_key"} & set(settings)
    make = ambient_run.KINDS["words"] if changes_keys else jax.random.key
    with under(settings):
        return ambient_run.answers(make(5), [group])


def test_all_settings_at_once_change_no_world_and_no_teacher(cheap_answers):
    assert_same(answers_under(TOGETHER, "worlds and teachers"), cheap_answers)


@pytest.mark.parametrize("case", SETTINGS)
def test_no_world_and_no_teacher_depends_on(case, cheap_answers):
    assert_same(answers_under(SETTINGS[case], "worlds and teachers"), cheap_answers)


@pytest.mark.parametrize("group", ["students", "theory"])
def test_all_settings_at_once_change_no(group):
    assert_same(answers_under(TOGETHER, group), ambient_run.answers(KEY, [group]))


def test_the_functions_of_all_methods_promote_nothing():
    """Where promotion is forbidden, tracing them fails; nothing is computed."""
    world, teacher = (part[0] for part in fields.random_problems(KEY, 1, num_states=2, num_actions=4))
    logits = np.zeros((2, 4), np.float32)
    options = exact_options({}, TABLE_1)
    with under(TOGETHER):
        for method in {**jd.METHODS, **jd.ZOO}.values():
            methods.check_functions(dataclasses.replace(method, name=f"{method.name} again"), 4, 2)
            with float64():
                problem = precise(world, teacher)
                resolve = functools.partial(Problem.resolved, method, options, *problem)
                jax.eval_shape(lambda x, resolve=resolve: solve_update(resolve(x)), logits.astype(float))


# --- Settings of another process ------------------------------------------------------------------------------

AROUND = {
    **{name: ({}, f"for name, value in {settings}.items(): jax.config.update(name, value)")
       for name, settings in SETTINGS.items()},
    "environment rbg": ({"JAX_DEFAULT_PRNG_IMPL": "rbg"}, ""),
    "environment unsafe_rbg": ({"JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg"}, ""),
    "rank warnings": ({"JAX_NUMPY_RANK_PROMOTION": "warn"}, "import warnings; warnings.simplefilter('error')"),
    "highest": ({"JAX_DEFAULT_MATMUL_PRECISION": "highest"}, ""),
    "log": ({"JAX_LOG_COMPILES": "1"}, ""),
    "leaks": ({"JAX_CHECK_TRACER_LEAKS": "1"}, ""),
    "threads": ({"OMP_NUM_THREADS": "1"}, ""),
    "hash seed": ({"PYTHONHASHSEED": "7"}, ""),
    "time zone": ({"TZ": "Asia/Kathmandu"}, ""),
    "decimal comma": ({"LC_ALL": "de_DE.UTF-8"}, "import locale; locale.setlocale(locale.LC_ALL, '')"),
    "NumPy": ({}, "np.seterr(all='raise'); np.set_printoptions(precision=2, threshold=3)"),
    "matplotlibrc": ({"MATPLOTLIBRC": "{folder}"}, ""),
}  # fmt: skip
"""(environment variables, first lines of the program), by name of the case."""


FOLLOWS_FLOAT64 = {"gaussian_mixtures"}  # figures 12 and 13 compute in JAX's default floats


def has_locale(name):
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True


def answers_of_a_process(environment, setup, kind="words"):
    command = [sys.executable, "-m", "tests.ambient_run", kind]
    environment = os.environ | {"TEST_SETUP": setup} | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def all_answers():
    return answers_of_a_process({}, "")


@pytest.mark.slow
@pytest.mark.parametrize("case", AROUND)
def test_nothing_depends_on(case, all_answers, tmp_path):
    environment, setup = AROUND[case]
    if not has_locale(environment.get("LC_ALL", "C")):
        pytest.skip("this machine does not have the locale")
    (tmp_path / "matplotlibrc").write_text("axes.formatter.use_locale: True\nlines.linewidth: 9\n")
    environment = {name: value.format(folder=tmp_path) for name, value in environment.items()}
    assert_same(answers_of_a_process(environment, setup), all_answers)


@pytest.mark.slow
def test_float64_by_default_changes_only_what_follows_it(all_answers):
    answers = answers_of_a_process({"JAX_ENABLE_X64": "1"}, "")
    assert {name for name in answers if answers[name] != all_answers[name]} <= FOLLOWS_FLOAT64


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["typed", "raw", "rbg", "unsafe_rbg"])
def test_nothing_depends_on_the_kind_of_key(kind, all_answers):
    assert_same(answers_of_a_process({}, "", kind), all_answers)


# --- What decides is recorded ---------------------------------------------------------------------------------


def test_surroundings_tell_float64():
    with under({"jax_enable_x64": not jax.config.jax_enable_x64}):
        assert surroundings()["float64"] is jax.config.jax_enable_x64


def test_sets_are_saved_in_one_order():
    words = [f"word {i}" for i in range(50)]  # Python draws their order anew in each process
    assert jsonable(set(words)) == jsonable(frozenset(words)) == sorted(words)


# --- The code -------------------------------------------------------------------------------------------------

PRODUCTS = {"einsum", "tensordot", "matmul", "dot", "vdot", "inner"}
IN_NUMPY = {"endings.py", "learning_curves.py", "quality.py", "styles.py", "fig12.py"}
"""Files in which @ multiplies NumPy arrays."""
A_BASELINE = "padded_scan.py"  # another implementation to compare with, which draws as its users would


def source_files():
    return [path for folder in ("jaxdistill", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_draws_beside_the_streams():
    for path in source_files():
        if path.name not in ("streams.py", A_BASELINE):
            for node in ast.walk(ast.parse(path.read_text())):
                is_draw = isinstance(node, ast.Attribute) and ast.unparse(node).startswith("jax.random.")
                assert not is_draw, f"{path}:{node.lineno}: {ast.unparse(node)}; use runtime.streams"


def test_every_product_of_jax_states_its_precision():
    for path in source_files():
        if path.name != A_BASELINE:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PRODUCTS:
                    is_stated = any(keyword.arg == "precision" for keyword in node.keywords)
                    assert is_stated or ast.unparse(node.func.value) == "np", f"{path}:{node.lineno}"
                is_product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
                assert not is_product or path.name in IN_NUMPY, f"{path}:{node.lineno}: use runtime.products.matmul"
