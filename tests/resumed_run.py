"""A training in a process of its own, for tests that kill it: argv: folder, file of the result."""

import os
import sys

import jax

import jaxdistill
from jaxdistill import teachers

if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 20, num_rows=5, num_cols=5, p_plus10=0.1)
    teacher = teachers.optimal(mdps)
    methods = ["on_policy_distill_r", "teacher_distill"]
    options = dict(num_iterations=int(sys.argv[3]), num_checkpoints=4, estimator="td")
    print("ready", flush=True)
    with jaxdistill.resumable(sys.argv[1], seconds=0.3):
        jaxdistill.train(jax.random.key(1), mdps, teacher, methods, **options).save(sys.argv[2])
