"""The random keys and the teachers of the experiments, equal in all experiments of one seed."""

from typing import Any, NamedTuple

import jax

import jaxdistill
from jaxdistill import Teacher, teachers
from jaxdistill.runtime import streams

TEACHERS = {
    "q_learning": "Q-learning teacher",
    "actor_critic": "A2C teacher",
    "optimal": "Optimal teacher",
    "adversarial": "Adversarial teacher",
}


class Keys(NamedTuple):
    """Independent random keys, one for each purpose."""

    worlds: jax.Array
    teacher: jax.Array
    noise: jax.Array
    students: jax.Array


def keys(seed: int) -> Keys:
    """The random keys of a seed; raises ValueError for a seed that does not fit into 32 bits."""
    return Keys(*streams.split(streams.from_seed(seed), 4))


def make_teacher(name: str, key: jax.Array, mdps: jaxdistill.MDP, settings: Any) -> Teacher:
    """The teacher of that name in `TEACHERS`, without noise; the learned ones train as long as the students."""
    if name == "q_learning":
        options = settings.q_learning() | {"num_iterations": settings.num_iterations, "discount": settings.discount}
        return teachers.q_learning(key, mdps, **options, progress=True)
    if name == "actor_critic":
        return teachers.actor_critic(key, mdps, config=settings.train_config(), progress=True)
    if name == "adversarial":
        return teachers.adversarial(mdps, discount=settings.discount, value=settings.adversary_value)
    return teachers.optimal(mdps, discount=settings.discount)
