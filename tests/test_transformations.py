"""Public functions inside the transformations of JAX: they work, or one line says that they run on the host.

The functions and their arguments are the doors of `test_fuzz`. Each argument in turn is what a transformation has still
to compute; without one, all arguments are known, and only the function is inside `jit`.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import MDP, Teacher, exact, expected_update, teachers
from tests import small
from tests.results.random_results import make
from tests.test_fuzz import DOORS, INTERNALS, KEY, taught, worlds

NUM_MESSAGES: collections.Counter = collections.Counter()


def stacked(value: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], value)


TRANSFORMATIONS: dict[str, Callable[[Callable, Any], Any]] = {
    "jit": lambda f, x: jax.jit(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(stacked(x)),
    "eval_shape": lambda f, x: jax.eval_shape(f, x),
    "scan": lambda f, x: jax.lax.scan(lambda carry, y: (carry, f(y)), 0.0, stacked(x)),
    "grad": lambda f, x: jax.grad(f)(x),
}


@pytest.fixture(autouse=True, scope="module")
def made_outside():
    """What the doors keep for their next call is made here, since inside `jit` it could not be kept."""
    worlds(), taught(), make()
    for door in DOORS.values():
        door.right()
    yield
    print(f"\nrefused inside transformations: {NUM_MESSAGES.total()} of {dict(NUM_MESSAGES)}")


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def arguments(right: dict[str, Any]) -> list[str | None]:
    """The arguments that a transformation can have to compute, and None for a call without any."""
    return [name for name, value in right.items() if is_array(value) or isinstance(value, MDP | Teacher | float)] + [
        None
    ]


def call_inside(transformation: str, door: str, argument: str | None) -> None:
    """Calls the door inside the transformation; if it raises, the error must be one line about that."""
    right = DOORS[door].right()

    def inside(x: Any) -> jax.Array:
        DOORS[door].call(**(right | ({} if argument is None else {argument: x})))
        return jnp.zeros(())

    value = 0.0 if argument is None else right[argument]
    try:
        TRANSFORMATIONS[transformation](inside, value)
    except (ValueError, *DOORS[door].others) as error:
        message = str(error)
        assert "\n" not in message and len(message) < 300, (transformation, door, argument, message)
        assert not any(word in message for word in (*INTERNALS[:-1], "jaxlib")), (door, argument, message)
        NUM_MESSAGES["runs on the host" in message] += 1


@pytest.mark.parametrize("door", [name for name, door in DOORS.items() if door.examples])
def test_every_argument_in_one_transformation(door):
    """The transformations take turns."""
    for number, argument in enumerate(arguments(DOORS[door].right())):
        names = [name for name in TRANSFORMATIONS if name != "grad"]
        call_inside(names[(number + len(door)) % len(names)], door, argument)


@pytest.mark.slow
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("door", DOORS)
def test_every_argument_in_every_transformation(door, transformation):
    for argument in arguments(DOORS[door].right()):
        value = 0.0 if argument is None else DOORS[door].right()[argument]
        is_real = jnp.issubdtype(value.dtype, jnp.floating) if is_array(value) else isinstance(value, float)
        if transformation != "grad" or is_real:
            call_inside(transformation, door, argument)


HOST = {
    "train": lambda x: jaxdistill.train(x["key"], x["mdps"], methods="baseline", num_iterations=2),
    "q_learning": lambda x: teachers.q_learning(x["key"], x["mdps"], num_iterations=2),
    "actor_critic": lambda x: teachers.actor_critic(x["key"], x["mdps"], num_iterations=2),
    "with_noise": lambda x: teachers.with_noise(x["key"], x["mdps"], x["teacher"], 0.5),
    "from_table": lambda x: teachers.from_table(x["mdps"], x["teacher"].probs),
    "sample_mdps": lambda x: jaxdistill.sample_mdps(x["key"], 2),
    "check_method": lambda x: jaxdistill.check_method("n_distill", num_mdps=2, key=x["key"]),
    "stack": lambda x: jaxdistill.stack([x["mdps"][0], x["mdps"][1]]),
    "GridConfig": lambda x: jaxdistill.GridConfig(p_wall=x["teacher"].probs[0, 0, 0]),
}


@pytest.mark.parametrize("name", HOST)
def test_what_runs_on_the_host_says_so_by_name(name):
    given = {"key": KEY, "mdps": worlds(), "teacher": taught()}
    for transform in (
        lambda: jax.jit(HOST[name])(given),
        lambda: jax.vmap(HOST[name])(stacked(given)),
        lambda: jax.eval_shape(HOST[name], given),
    ):
        with pytest.raises(
            ValueError, match=rf"^{name} runs on the host, and cannot be called inside jit, vmap"
        ) as error:
            transform()
        assert "stacked worlds in place of vmap" in str(error.value)


@pytest.mark.parametrize("name", ["train", "q_learning", "actor_critic", "with_noise", "sample_mdps", "check_method"])
def test_inside_jit_it_is_refused_even_if_all_arguments_are_known(name):
    given = {"key": KEY, "mdps": worlds(), "teacher": taught()}
    with pytest.raises(ValueError, match=f"^{name} runs on the host"):
        jax.jit(lambda: HOST[name](given))()


def test_exact_functions_work_inside():
    """They compute the same inside jit, vmap and grad as outside."""
    mdp, teacher = small.random_mdp(3), small.random_teacher(small.random_mdp(3), 3)
    policy = jnp.asarray(teacher.probs)

    def value(policy):
        return exact.start_value(mdp, exact.policy_values(mdp, policy))

    outside = value(policy)
    np.testing.assert_allclose(jax.jit(value)(policy), outside, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(value)(policy[None])[0], outside, rtol=1e-6)
    assert np.isfinite(jax.grad(value)(policy)).all()
    logits = np.zeros((mdp.num_observations, mdp.num_actions), np.float32)
    update = lambda logits: expected_update(mdp, teacher, "n_distill", logits).logits  # noqa: E731
    np.testing.assert_allclose(jax.jit(update)(logits), update(logits), rtol=1e-5, atol=1e-7)
