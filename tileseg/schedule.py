"""Feed blocks to workers, a few ahead of what they compute, and gather records, failures and interruptions."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from tileseg.errors import InputError, TilesegError
from tileseg.ledger import BlockRecord
from tileseg.segment import Job, segment_block
from tileseg.window import Window

_AHEAD = 2
"""Blocks submitted per block in flight: the next is at hand when one is done, and little is lost on Ctrl-C."""

_TRIES = 3
"""Attempts at a block whose failure may pass: a dead worker, a full disk, a network share that stalls."""


@dataclass(frozen=True, slots=True)
class BlockFailure:
    """A block that could not be computed."""

    index: int
    core: Window
    error: BaseException

    @property
    def hopeless(self) -> bool:
        """Whether trying again is useless: the input is to blame."""
        return isinstance(self.error, InputError)

    def __str__(self) -> str:
        error = self.error
        if isinstance(error, KilledWorker):
            return f"block at {self.core}: its worker died {_TRIES} times over (out of memory? see --max-memory)"
        told = isinstance(error, TilesegError)
        return str(error) if told else f"block at {self.core}: {type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def run_serially(
    job: Job, pending: Sequence[int], on_done: Callable[[BlockRecord], None], stop: threading.Event
) -> list[BlockFailure]:
    """Compute blocks one by one in this process, until all are done or ``stop`` is set."""
    failures = []
    for index in pending:
        if stop.is_set():
            break
        try:
            record = segment_block(job, index)
        except Exception as error:  # noqa: BLE001 - as on a cluster, a block that fails is reported, the others go on
            failures.append(BlockFailure(index, job.plan[index].core, error))
            if _disk_full(error):
                break
        else:
            on_done(record)
    return failures


def run_on_cluster(
    client: Client, job: Job, pending: Sequence[int], on_done: Callable[[BlockRecord], None], stop: threading.Event
) -> list[BlockFailure]:
    """Compute blocks on a cluster. At most a few per worker thread are submitted at a time.

    When ``stop`` is set nothing more is submitted, and what runs is waited for.
    """
    slots = max(1, sum(client.nthreads().values()))
    failures: list[BlockFailure] = []
    tries: dict[int, int] = {}
    index_of: dict[Any, int] = {}
    feed = iter(pending)

    def submit(index: int) -> Future[BlockRecord]:
        tries[index] = tries.get(index, 0) + 1
        future = client.submit(segment_block, job, index, key=f"{job.key}-{index}-{tries[index]}", pure=False)
        index_of[future.key] = index
        return future

    def more(count: int) -> Iterator[Future[BlockRecord]]:
        if not stop.is_set():
            for index in islice(feed, count):
                yield submit(index)

    running = as_completed(list(more(slots * _AHEAD)), loop=client.loop)
    for future in running:
        index = index_of.pop(future.key)
        error = future.exception()
        if error is None:
            on_done(future.result())
        elif isinstance(error, TilesegError) or tries[index] >= _TRIES or stop.is_set() or _disk_full(error):
            failures.append(BlockFailure(index, job.plan[index].core, error))
            if _disk_full(error):
                stop.set()
        else:
            running.add(submit(index))
            continue
        tries.pop(index)
        for new in more(1):
            running.add(new)
    return failures


def _disk_full(error: BaseException) -> bool:
    """Whether every further block would fail too, and only the user can help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
