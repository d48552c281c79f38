"""Starts worker processes on this machine, and connects to a cluster of Dask."""

import contextlib
import glob
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from jaxdistill.executors import worker
from jaxdistill.executors.sharding import Sharding
from jaxdistill.runtime.files import one_line

_CONNECT_SECONDS = 30


@contextlib.contextmanager
def processes(num_workers: int, num_shards: int | None, allow_mixed: bool) -> Iterator[Sharding]:
    """A pool of processes on this machine, which share its cores; each has a GPU if there are NVIDIA GPUs."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0), num_workers)
    )
    try:
        yield Sharding(executor, num_shards, threads_of_each(num_workers), allow_mixed, num_workers)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def dask_cluster(num_workers: int, num_shards: int | None, allow_mixed: bool) -> Iterator[Sharding]:
    """A cluster of Dask on this machine, whose scheduler starts a worker anew if it dies."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # by default Dask ends a worker that holds more than its share, as one that compiles may
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield Sharding(executor, num_shards, threads_of_each(num_workers), allow_mixed, num_workers)


@contextlib.contextmanager
def dask_client(address: str, num_shards: int | None, allow_mixed: bool) -> Iterator[Sharding]:
    """The workers of a running cluster of Dask.

    Raises:
      ConnectionError: there is no scheduler at the address.
    """
    import distributed

    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no scheduler of Dask answers at {address} ({one_line(error)}); start one with `dask scheduler`."
        ) from None
    with client, client.get_executor() as executor:
        num_workers = sum(client.nthreads().values())
        yield Sharding(executor, num_shards, 1, allow_mixed, num_workers or None)


def threads_of_each(num_workers: int) -> int:
    """How many threads each of several processes on this machine may use, so that they share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_workers)


def _begin(counter: Any, num_workers: int) -> None:
    """Prepares a process of the pool, before JAX looks for devices in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller tells its workers to stop.
    worker.end_with_parent()
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    os.environ.update(gpu_variables(number, num_workers, dict(os.environ), len(glob.glob("/dev/nvidia[0-9]*"))))


def gpu_variables(number: int, num_workers: int, environment: dict[str, str], num_gpus: int) -> dict[str, str]:
    """The variables that give a process one of the NVIDIA GPUs of this machine; {} if there are none.

    Args:
      number: of the process, counted from 0.
      num_workers: how many processes there are.
      environment: the variables so far. CUDA_VISIBLE_DEVICES lists the GPUs to use, if it is set.
      num_gpus: number of GPUs of the machine.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(gpu) for gpu in range(num_gpus)] if listed is None else [gpu for gpu in listed.split(",") if gpu]
    if not gpus or num_gpus == 0:
        return {}
    variables = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    num_sharing = -(-num_workers // len(gpus))
    if num_sharing > 1:  # JAX would reserve three quarters of the memory in each process
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.75 / num_sharing:.3f}"
    return {
        **variables,
        **{name: environment[name] for name in variables.keys() - {"CUDA_VISIBLE_DEVICES"} if name in environment},
    }
