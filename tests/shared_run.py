"""A training, as one of several processes or on several devices, for `test_processes.py`.

python tests/shared_run.py RESULT SECONDS [COORDINATOR NUM_PROCESSES PROCESS_ID]
"""

import contextlib
import os
import signal
import sys

import jax
import jax.numpy as jnp

import jaxdistill
from jaxdistill import teachers
from jaxdistill.runtime import processes
from jaxdistill.scheduling import pool
from tests.lockstep import lockstep


def measure(mdps, teacher, policies):
    return {"certainty": jnp.max(policies, axis=-1).mean(axis=-1)}


def main(path, die_at, *place):
    """`die_at`: fraction of the training at which this process is killed by itself; above 1: not."""
    if place:
        processes.connect(place[0], int(place[1]), int(place[2]))
    mdps = jaxdistill.sample_mdps(jax.random.key(0), 7, num_rows=5, num_cols=5, p_plus10=0.1)
    teacher = teachers.q_learning(jax.random.key(1), mdps, num_iterations=300)

    def hook(done, steps, left):
        if done > float(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    # A process that is to die saves after every round and dies at its fraction, however fast the machine is.
    is_to_die = float(die_at) < 1
    with (
        lockstep() if is_to_die else contextlib.nullcontext(),
        jaxdistill.resumable(f"{path}.unfinished", seconds=1e-9 if is_to_die else 30.0),
    ):
        methods = ["baseline", "on_policy_distill_r", "teacher_distill"]
        result = jaxdistill.train(
            jax.random.key(2),
            mdps,
            teacher,
            methods,
            num_iterations=700,
            num_checkpoints=3,
            measure=measure,
            on_chunk=hook,
        )
    print(len(jax.devices()), len(pool.workers()))
    result.save(f"{path}.{processes.rank()}.npz")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KeyboardInterrupt, processes.Lost):
        try:
            processes.check()
        except processes.Lost as lost:
            stop = lost
        print(stop, file=sys.stderr)
        processes.leave(2)
