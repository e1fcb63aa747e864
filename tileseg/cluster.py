"""Dask clusters: today a local one of spawned processes."""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from tileseg.segment import warm_up

_SETTINGS: dict[str, Any] = {
    # TensorFlow's resident memory is no sign of a leak: Dask must neither pause nor kill for it. The plan bounds it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Spawn, never fork, after TensorFlow.
    "distributed.worker.multiprocessing-method": "spawn",
    # A block whose worker died is tried again on a fresh one; it is the block's fault only after several.
    "distributed.scheduler.allowed-failures": 5,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.nanny.pre-spawn-environ": {
        # Keep freed memory: blocks are alike, and faulting their pages in anew took more time than computing on them.
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_ARENA_MAX": "2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    },
}


class _Setup(WorkerPlugin):
    """Prepares a worker. Ctrl-C reaches the whole process group, but only the driver decides what stops when."""

    name = "tileseg-setup"

    def setup(self, worker: Worker) -> None:
        """Runs in the worker's main thread, in restarted workers too."""
        del worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Beside the loading of the network, which is the longer of the two.
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def teardown(self, worker: Worker) -> None:
        """Runs when the worker is told to end: all that it did is on disk, and taking TensorFlow apart is work."""
        del worker
        # Removes semaphores, of which the driver would complain otherwise.
        multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]  # noqa: SLF001
        os._exit(0)


@contextmanager
def local_cluster(workers: int, threads: int, compute_threads: int) -> Iterator[Client]:
    """A cluster of ``workers`` spawned processes, each with ``threads`` blocks in flight.

    ``compute_threads`` is what OpenMP in a worker may use; Dask's own default of 1 would starve the network.
    """
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(compute_threads))
    spawned = {**_SETTINGS["distributed.nanny.pre-spawn-environ"], **environment}
    with (
        dask.config.set({**_SETTINGS, "distributed.nanny.pre-spawn-environ": spawned}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            memory_limit=None,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_Setup())
        yield client
