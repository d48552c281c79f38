"""A small training for tests that start processes, and a measure that kills the worker that computes it first."""

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxdistill
from jaxdistill import teachers

METHODS = ["baseline", "on_policy_distill_r"]
KEY = jax.random.key(2)


def problem():
    """Eight worlds and their teachers."""
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 8, num_rows=4, num_cols=4, p_plus10=0.1)
    return mdps, teachers.optimal(mdps)


def measure_that_kills(flag=None):
    """A measure; the first worker in which JAX traces it makes the file `flag` and kills itself, in mid-run."""
    caller = os.getpid()

    def measure(mdps, teacher, policies):
        if flag is not None and os.getpid() != caller:
            try:
                Path(flag).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return {"certainty": jnp.max(policies, axis=-1).mean(axis=-1)}

    return measure


def train(executor=None, flag=None, **options):
    """The result of the training."""
    options = dict(num_iterations=200, num_checkpoints=5, measure=measure_that_kills(flag), executor=executor) | options
    return jaxdistill.train(KEY, *problem(), METHODS, **options)
