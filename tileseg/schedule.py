"""Feed blocks to workers, a few ahead of what they compute, and gather records, failures and interruptions."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from distributed import Future, as_completed
from distributed.scheduler import KilledWorker

from tileseg.cluster import Workers
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
    """Compute the blocks of one run one by one in this process, until all are done or ``stop`` is set."""
    failures: list[BlockFailure] = []
    feed = ((job, index) for index in pending)
    run_feed_serially(feed, lambda _, record: on_done(record), lambda _, failure: failures.append(failure), stop)
    return failures


def run_feed_serially(
    feed: Iterator[tuple[Job, int]],
    on_done: Callable[[Job, BlockRecord], None],
    on_failure: Callable[[Job, BlockFailure], None],
    stop: threading.Event,
) -> None:
    """Compute the blocks of any number of runs one by one in this process."""
    for job, index in feed:
        if stop.is_set():
            break
        try:
            record = segment_block(job, index)
        except Exception as error:  # noqa: BLE001 - as on a cluster, a block that fails is reported, the others go on
            on_failure(job, BlockFailure(index, job.plan[index].core, error))
            if disk_full(error):
                stop.set()
        else:
            on_done(job, record)


def run_on_cluster(
    client: Workers, job: Job, pending: Sequence[int], on_done: Callable[[BlockRecord], None], stop: threading.Event
) -> list[BlockFailure]:
    """Compute the blocks of one run on a cluster. At most a few per worker thread are submitted at a time.

    When ``stop`` is set nothing more is submitted, and what runs is waited for.
    """
    failures: list[BlockFailure] = []
    feed = ((job, index) for index in pending)
    run_feed(client, feed, lambda _, record: on_done(record), lambda _, failure: failures.append(failure), stop)
    return failures


def run_feed(
    client: Workers,
    feed: Iterator[tuple[Job, int]],
    on_done: Callable[[Job, BlockRecord], None],
    on_failure: Callable[[Job, BlockFailure], None],
    stop: threading.Event,
) -> None:
    """Compute the blocks of any number of runs, in the order in which they are fed: one goes on where another ends.

    When ``stop`` is set, or a disk is full, nothing more is submitted, and what runs is waited for. Raises TilesegError
    where the scheduler or all workers are lost.
    """
    task_of: dict[Any, tuple[Job, int, int]] = {}
    serial = count()

    def submit(job: Job, index: int, tries: int) -> Future[BlockRecord]:
        key = f"{job.key}-{index}-{next(serial)}"
        future = client.submit(segment_block, job, index, key=key, pure=False, resources=client.slot)
        task_of[future.key] = (job, index, tries)
        return future

    def more(number: int) -> Iterator[Future[BlockRecord]]:
        while number > 0 and not stop.is_set() and (task := next(feed, None)) is not None:
            yield submit(*task, 1)
            number -= 1

    running = as_completed(list(more(client.slots * _AHEAD)), loop=client.loop)
    for future in running:
        job, index, tries = task_of.pop(future.key)
        if future.cancelled():
            if (trouble := client.trouble) is not None:
                raise TilesegError(f"{trouble}; finished blocks are kept: run the same command again to go on")
            if not stop.is_set():
                running.add(submit(job, index, tries))
            continue
        error = future.exception()
        if error is None:
            on_done(job, future.result())
        elif isinstance(error, TilesegError) or tries >= _TRIES or stop.is_set() or disk_full(error):
            on_failure(job, BlockFailure(index, job.plan[index].core, error))
            if disk_full(error):
                stop.set()
        else:
            running.add(submit(job, index, tries + 1))
            continue
        # More than one where workers have come, none where some have gone.
        for new in more(client.slots * _AHEAD - len(task_of)):
            running.add(new)


def disk_full(error: BaseException) -> bool:
    """Whether every further block would fail too, and only the user can help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
