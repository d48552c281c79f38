"""Training in other processes and on other machines, through any executor of `concurrent.futures`.

A training is cut into shards, and each shard is trained by a worker of the executor. `sharding` says where and how, and
refuses executors on which JAX cannot run. `ambient` makes all trainings of a block use one executor. `spelling` makes
an executor from a text of the command line, `local` starts processes on this machine, and `slurm` starts jobs of SLURM.
`portable` makes bytes of a shard, `worker` runs one, `dispatch` sends them out and collects their results, and `saves`
keeps the finished ones in files. None of them knows what a shard trains: `training.shards` does.
"""

from jaxdistill.executors.ambient import using
from jaxdistill.executors.sharding import Sharding
from jaxdistill.executors.slurm import SubmititExecutor
from jaxdistill.runtime.errors import ExecutorFailed

__all__ = ["ExecutorFailed", "Sharding", "SubmititExecutor", "using"]
