"""Loaded by the workers of these tests (Dask's ``worker.preload``): notes each block that is begun, and makes it ill.

Environment: ``FAULT_LOG`` file of lines ``<nanoseconds> <process> <output folder> <block>``; ``FAULT_SLEEP`` seconds
that each block takes longer; ``FAULT_DEADLY`` the block that kills its process; ``FAULT_HUNGRY`` ``<block>:<bytes>`` of
memory that one block asks for, in steps; ``FAULT_LIMIT`` bytes of address space of the process beyond what it has after
a first block. Both are of processes that have computed a block, so that they do not depend on TensorFlow's habits.
"""

import os
import resource
import signal
import threading
import time

import numpy as np
import psutil

from tileseg.run import block as segment
from tileseg.run.block import Job

_healthy = segment._segment
_warming = threading.Lock()
_warm = False
_STEP = 64 << 20


def _afflicted(job: Job, index: int, clock: segment._Clock) -> tuple[int, tuple[str, ...]]:
    line = f"{time.time_ns()} {os.getpid()} {job.mosaic.path.parent.resolve()} {index}\n"
    log = os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)
    if index == int(os.environ.get("FAULT_DEADLY", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("FAULT_SLEEP", "0")))
    block, _, size = os.environ.get("FAULT_HUNGRY", ":0").partition(":")
    if block:
        _warm_up(job, index, clock)
    if block in ("all", str(index)):
        eaten = []
        for _ in range(0, int(size), _STEP):
            eaten.append(np.ones(_STEP, np.uint8))
            time.sleep(0.05)
        time.sleep(1 if block == "all" else 5)  # long enough to be noticed
        del eaten
    return _healthy(job, index, clock)


def _warm_up(job: Job, index: int, clock: segment._Clock) -> None:
    """Load and compile the network; from then on memory is rationed. What is written is written again."""
    global _warm  # noqa: PLW0603 - once per process
    with _warming:
        if not _warm:
            _healthy(job, index, clock)
            if (more := os.environ.get("FAULT_LIMIT")) is not None:
                most = psutil.Process().memory_info().vms + int(more)
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            _warm = True


def dask_setup(worker: object) -> None:
    segment._segment = _afflicted
