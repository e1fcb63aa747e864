"""What Dask's processes are set to: Dask's settings, variables of the environment, signals."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from distributed import Worker, WorkerPlugin

from tileseg.cluster.allocator import ENVIRONMENT
from tileseg.cluster.warm import warm_up

LOOPBACK = "127.0.0.1"
"""Where pages are served unless the user says otherwise: they show what is computed, and ask nobody for a password."""

SETTINGS: dict[str, Any] = {
    # TensorFlow's resident memory is no sign of a leak: Dask must neither pause nor kill for it. The plan bounds it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Spawn, never fork, after TensorFlow.
    "distributed.worker.multiprocessing-method": "spawn",
    # A block whose worker died is tried again on a fresh one; after several, alone.
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.work-stealing": False,
    # A worker that died and is being restarted is not given up (for good) after Dask's 15 s: machines may be busy.
    "distributed.deploy.lost-worker-timeout": "120s",
    # When all workers are gone and none comes back, blocks fail instead of waiting for ever.
    "distributed.scheduler.no-workers-timeout": "120s",
    "distributed.worker.profile.enabled": False,
    # Of the last messages on every connection, which Dask keeps for its developers: with a run in each of them.
    "distributed.admin.low-level-log-length": 20,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.nanny.pre-spawn-environ": {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"},
}

_SCRATCH = "dask-scratch-space"
"""Part of the names of the folders that Dask puts on ``sys.path``."""


class Setup(WorkerPlugin):
    """Prepares a process that was started for one run, or by ``tileseg worker``."""

    name = "tileseg-setup"

    def __init__(self, *, quick: bool) -> None:
        """``quick``: end at once when the worker is to end."""
        self._quick = quick

    def setup(self, worker: Worker) -> None:
        """Runs in the worker's main thread, in restarted workers too."""
        del worker
        # Ctrl-C reaches the whole process group, but only the driver decides what stops when.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Beside the loading of the network, which is the longer of the two.
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def teardown(self, worker: Worker) -> None:
        """Runs when the worker is to end: all that it did is on disk, and taking TensorFlow apart is work."""
        del worker
        if self._quick:
            # Removes semaphores, of which the driver would complain otherwise.
            multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]  # noqa: SLF001
            os._exit(0)


def process_environment(compute_threads: int) -> dict[str, str]:
    """Variables that a worker process must have before it starts.

    ``compute_threads`` is what OpenMP may use; Dask's own default of 1 would starve the network.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(compute_threads))
    return {**SETTINGS["distributed.nanny.pre-spawn-environ"], **threads}


def restore_path(before: Sequence[str]) -> None:
    """Take the folders from ``sys.path`` that Dask has put there since it was as given.

    No other thread may be importing. Otherwise Dask does it while the cluster closes, and an import in another
    thread at that moment passes over one entry of the path: it does not find its module.
    """
    sys.path[:] = [entry for entry in sys.path if entry in before or _SCRATCH not in entry]
