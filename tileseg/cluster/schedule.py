"""Feed blocks to workers, a few ahead of what they compute, and gather records, failures and interruptions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import count, islice
from typing import Any, Generic

from distributed import Future, as_completed
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

from tileseg.cluster.client import Workers
from tileseg.cluster.failure import ALONE, BlockFailure, J, R, WorkerDied, WorkersGone, compute_one, next_attempt
from tileseg.errors import TilesegError, disk_full, first_line

_AHEAD = 2
"""Blocks submitted per block in flight: the next is at hand when one is done, and little is lost on Ctrl-C."""

_LEAD_SECONDS = 0.5
"""Blocks that are done in less time than this: as many are submitted as are done in it. Talking to the scheduler takes
some ten milliseconds, however many blocks it is about."""


def run_on_cluster(
    client: Workers,
    work: Callable[[J, int], R],
    job: J,
    pending: Sequence[int],
    on_done: Callable[[R], None],
    stop: threading.Event,
) -> list[BlockFailure]:
    """Compute the blocks of one run on a cluster.

    ``work`` computes a block of a run, by its index; workers import it, or get it by value. At most a few per worker
    thread are submitted at a time, or as many as are done in half a second. When ``stop`` is set nothing more is
    submitted, and what runs is waited for.
    """
    return compute_one(
        lambda feed, done, failed: run_feed(client, work, feed, done, failed, stop), job, pending, on_done
    )


def run_feed(
    client: Workers,
    work: Callable[[J, int], R],
    feed: Iterator[tuple[J, Iterable[int]]],
    on_done: Callable[[J, R], None],
    on_failure: Callable[[J, BlockFailure], None],
    stop: threading.Event,
) -> None:
    """Compute the blocks of any number of runs, in the order in which they are fed: one goes on where another ends.

    A block whose workers die again and again, or have no memory left, is tried once more when nothing else is computed:
    memory may do for one, and those that were only beside it are not to blame.

    When ``stop`` is set, or a disk is full, nothing more is submitted, and what runs is waited for. Raises TilesegError
    where the scheduler or all workers are lost.
    """
    flight = _InFlight(client, work, feed, stop)
    running = as_completed(flight.more(), loop=client.loop)
    for landed in running.batches():
        records = _records(client, landed)
        for future in landed:
            job, index, tries = flight.land(future)
            record = records.get(future.key)
            error = _error_of(client, future) if record is None else None
            if error is None:
                on_done(job, record or future.result())
            elif not stop.is_set() and (attempt := next_attempt(error, tries)) is not None:
                if attempt == ALONE:
                    flight.suspects.append((job, index))
                else:
                    running.update(flight.submit(job, [index], attempt))
            elif not isinstance(error, WorkersGone) or not stop.is_set():
                on_failure(job, BlockFailure(index, job.plan[index].core, error))
                if disk_full(error):
                    stop.set()
        running.update(flight.more())


def _records(client: Workers, futures: Iterable[Future[R]]) -> dict[Any, R | None]:
    """What finished blocks report, by task, fetched in one go; None where that has failed meanwhile."""
    finished = {future.key: future for future in futures if future.status == "finished"}
    try:
        return dict(client.gather(finished, errors="skip")) if finished else {}
    except OSError as error:
        raise _lost(client.trouble or f"the scheduler does not answer ({first_line(error)})") from error


def _error_of(client: Workers, future: Future[R]) -> BaseException | None:
    """What went wrong with a block, if anything. Raises TilesegError where none can be computed any more."""
    if future.cancelled():
        if (trouble := client.trouble) is not None:
            raise _lost(trouble)
        return WorkersGone()
    error: BaseException | None = future.exception()
    if isinstance(error, KilledWorker):
        return WorkerDied(error.allowed_failures + 1)
    if isinstance(error, NoWorkerError | NoValidWorkerError):
        raise _lost("all workers have gone, and none has come back")
    return error


def _lost(trouble: str) -> TilesegError:
    return TilesegError(f"{trouble}; finished blocks are kept: run the same command again to go on")


class _InFlight(Generic[J, R]):
    """The blocks that workers have been given, and what they are given next."""

    def __init__(
        self,
        client: Workers,
        work: Callable[[J, int], R],
        feed: Iterator[tuple[J, Iterable[int]]],
        stop: threading.Event,
    ) -> None:
        self._client, self._work, self._feed, self._stop = client, work, feed, stop
        self._next: tuple[J, Iterator[int]] | None = next(((job, iter(blocks)) for job, blocks in feed), None)
        self._task_of: dict[Any, tuple[J, int, int]] = {}
        self._landed: deque[float] = deque()
        self._serial = count()
        self.suspects: deque[tuple[J, int]] = deque()
        """Blocks whose workers died or had no memory left."""

    def submit(self, job: J, blocks: Sequence[int], tries: int) -> list[Future[R]]:
        """Have blocks computed; this is the ``tries``-th time."""
        keys = [f"{job.key}-{index}-{next(self._serial)}" for index in blocks]
        # Pickled here, once for all: a run is larger than all else that is said of a block.
        compute = partial(_compute, bytes(pickle.dumps(partial(self._work, job))))
        # What is submitted first begins first: without a timeout, what follows within 100 ms would be among it.
        futures: list[Future[R]] = self._client.map(
            compute, blocks, key=keys, pure=False, resources=self._client.slot, fifo_timeout="0s"
        )
        self._task_of.update((key, (job, index, tries)) for key, index in zip(keys, blocks, strict=True))
        return futures

    def land(self, future: Future[R]) -> tuple[J, int, int]:
        """What was submitted; it is in flight no more."""
        self._landed.append(time.monotonic())
        return self._task_of.pop(future.key)

    def more(self) -> list[Future[R]]:
        """Submit what may be: more than one block where workers have come, none where some have gone."""
        futures: list[Future[R]] = []
        if self.suspects:
            if not self._task_of and not self._stop.is_set():
                job, index = self.suspects.popleft()
                futures += self.submit(job, [index], ALONE)
            return futures
        while self._next is not None and (room := self._room()) > 0 and not self._stop.is_set():
            job, blocks = self._next
            if some := list(islice(blocks, room)):
                futures += self.submit(job, some, 1)
            else:
                # This may wait for the next run to be ready, so what there is has been submitted.
                self._next = next(((job, iter(blocks)) for job, blocks in self._feed), None)
        return futures

    def _room(self) -> int:
        """How many blocks may be submitted now."""
        while self._landed and self._landed[0] < time.monotonic() - _LEAD_SECONDS:
            self._landed.popleft()
        return max(self._client.slots * _AHEAD, len(self._landed)) - len(self._task_of)


@lru_cache(maxsize=4)
def _opened(sealed: bytes) -> Callable[[int], Any]:
    """Open on a worker what was sealed. Threads share it, and with it the files of the run that they have opened."""
    return pickle.loads(sealed)  # type: ignore[no-any-return]


def _compute(sealed: bytes, index: int) -> Any:
    """What workers are asked for."""
    try:
        return _opened(sealed)(index)
    except TilesegError as error:
        # Its line says all. GDAL's own errors, which it may come from, cannot be pickled, and then it could not either:
        # what arrived would be no error of the input any more.
        error.__cause__ = error.__context__ = None
        raise
