"""A training on the devices of this process, for `scheduling/test_devices.py`: python tests/devices_run.py RESULT."""

import sys

import jax
import jax.numpy as jnp

import jaxdistill
from jaxdistill import teachers
from jaxdistill.scheduling import pool


def measure(mdps, teacher, policies):
    return {"certainty": jnp.max(policies, axis=-1).mean(axis=-1)}


def main(path):
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 7, num_rows=5, num_cols=5, p_plus10=0.1)
    teacher = teachers.q_learning(jax.random.key(1), mdps, num_iterations=300)
    methods = ["baseline", "on_policy_distill_r", "teacher_distill"]
    options = dict(num_iterations=700, num_checkpoints=3, measure=measure)
    jaxdistill.train(jax.random.key(2), mdps, teacher, methods, **options).save(path)
    print(len(jax.devices()), len(pool.workers()))


if __name__ == "__main__":
    main(sys.argv[1])
