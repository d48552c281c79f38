"""The answers of the public functions on small problems, to compare between surroundings: `test_ambient_settings.py`.

python -m tests.ambient_run KEY_KIND prints them as JSON, in a process of its own.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdistill as jd
from experiments import common, gaussian_mixtures
from jaxdistill.mdp import exact
from jaxdistill.theory import quality
from jaxdistill.training.sampling import sampled_updates
from jaxdistill.worlds import corridor
from tests import small

KINDS = {
    "typed": jax.random.key,
    "raw": jax.random.PRNGKey,
    "words": lambda seed: np.array([0, seed], np.uint32),
    "rbg": lambda seed: jax.random.key(seed, impl="rbg"),
    "unsafe_rbg": lambda seed: jax.random.key(seed, impl="unsafe_rbg"),
}
"""Makers of the random keys that stand for one Threefry key."""


def listing(value):
    """A result as JSON that tells every bit: its arrays in hexadecimal, and its texts."""
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value):
        return listing([field for field in vars(value).values() if field is not None])
    if isinstance(value, list | tuple):
        return [listing(item) for item in value]
    array = np.asarray(value)
    return f"{array.dtype}{list(array.shape)}:{array.tobytes().hex()}"


def worlds_and_teachers(key):
    """What is cheap to compile: every maker of worlds that takes a key, and teachers without training."""
    grids = jd.sample_mdps(key, 3, num_rows=3, num_cols=3, p_plus10=0.3)
    garnets = jd.garnet.garnet(key, 2, num_states=3, num_actions=2)
    optimal = jd.teachers.optimal(garnets)
    return {
        "sample_mdps": grids,
        "window": jd.sample_mdps(key, 2, num_rows=3, num_cols=3, p_plus10=0.3, observation="window"),
        "garnet": garnets,
        "random_policies": jd.garnet.random_policies(key, garnets),
        "chain": corridor.chain(3, 2, noise=0.1),
        "from_text": jd.from_text(["#.+", "S-."], noise=0.2),
        "optimal": optimal,
        "with_noise": jd.teachers.with_noise(key, garnets, optimal, 0.5),
        "random_problems": jd.fields.random_problems(key, 2, num_states=3, num_actions=2),
    }


def students(key):
    """Trained students with each estimator, their tables as texts and files, and trained teachers."""
    world = small.random_mdp(1)
    mdps = jd.stack([world, small.random_mdp(2)])
    teacher = jd.teachers.with_noise(key, mdps, jd.teachers.uniform(mdps), 0.5)
    options = {"num_iterations": 6, "num_checkpoints": 2, "progress": False}
    cells = {
        "a": jd.Cell("on_policy_distill"),
        "b": jd.Cell("n_distill", changes={"estimator": "td"}),
        "c": jd.Cell("teacher_distill", changes={"estimator": "lambda"}),
        "d": jd.Cell("teacher_distill", changes={"optimizer": optax.adam(0.05)}),
    }
    result = jd.train(key, mdps, teacher, cells, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = result.save(Path(folder) / "run.npz")
        loaded = jd.load(path)
        table = loaded.to_csv(Path(folder) / "run.csv").read_text()
    initial = np.linspace(-1, 1, 8 * 3).reshape(2, 4, 3)
    names = ("returns", "lengths", "final_returns", "teacher_returns", "optimal_returns", "logits", "values")
    comparison = jd.compare(loaded)
    return {
        "train": [getattr(result, name) for name in names],
        "load": [getattr(loaded, name) for name in names],
        "csv": table,
        "compare": str(comparison),
        "markdown": comparison.to_markdown(),
        "summary": str(loaded.summary("final")),
        "q_learning": jd.teachers.q_learning(key, mdps, num_iterations=6, progress=False).scores,
        "actor_critic": jd.teachers.actor_critic(key, mdps, num_iterations=6, progress=False).probs,
        "sampled_updates": [
            (update.logits, update.values)
            for update in sampled_updates(key, mdps, teacher, ["n_distill"], initial, num_updates=4).values()
        ],
    }


def derivatives(mdp, probs):
    """Derivatives of an exact sum: forward, backward, of a batch, and of second order."""

    def values(probs):
        return exact.policy_values(mdp, probs, discount=0.9)

    def sum_of_values(probs):
        return jnp.sum(values(probs))

    return [
        jax.jacfwd(values)(probs),
        jax.jacrev(values)(probs),
        jax.vmap(jax.grad(sum_of_values))(jnp.stack([probs, probs])),
        jax.grad(lambda x: jnp.sum(jax.grad(sum_of_values)(x)))(probs),
    ]


def theory(key):
    """Exact answers about one method."""
    mdps, teacher = jd.fields.random_problems(key, 2, num_states=3, num_actions=2)
    logits = np.linspace(-1, 1, 2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
    flow = jd.flows.flow(mdps, teacher, "n_distill", logits, num_steps=5, num_records=2)
    target = gaussian_mixtures.mixture([-1.0, 2.0], [0.5, 1.0])
    fits = gaussian_mixtures.fit(key, target, 1, "reverse", num_restarts=2, num_steps=3)
    assessed = jd.variance.assess(mdps, teacher, "n_distill", logits)
    return {
        "expected_update": jd.expected_update(mdps[0], teacher[0], "n_distill", logits[0]),
        "check_method": str(jd.check_method("n_distill", key=key, num_mdps=2)),
        "derivatives": derivatives(mdps[0], teacher.probs[0]),
        "flow": flow,
        "fixed_point": jd.flows.fixed_point(mdps, teacher, "n_distill", logits, max_steps=5),
        "assess": assessed,
        "quality": quality.quality(mdps, teacher, logits),
        "gaussian_mixtures": [fits.kls, fits.all.means],
        "keys of experiments": [jax.random.key_data(key) for key in common.keys(3)],
    }


GROUPS = {"worlds and teachers": worlds_and_teachers, "students": students, "theory": theory}


def answers(key, groups=tuple(GROUPS)):
    """{name: JSON} of the groups of functions, with this random key."""
    return {name: listing(value) for group in groups for name, value in GROUPS[group](key).items()}


if __name__ == "__main__":
    if "TEST_SETUP" in os.environ:  # a line that a user might have at the top of a program
        exec(os.environ["TEST_SETUP"])
    started = time.perf_counter()
    print(json.dumps(answers(KINDS[sys.argv[1]](5))))
    print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr)
