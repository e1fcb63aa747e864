"""Compute blocks in this process, a few at a time: without Dask, which a small run would wait for in vain."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic

from tileseg.cluster.failure import ALONE, BlockFailure, J, R, compute_one, next_attempt
from tileseg.errors import disk_full

_MOST = 256
"""Threads at most, which begin when they are needed; plans have fewer blocks in flight."""


def run_in_threads(
    work: Callable[[J, int], R], job: J, pending: Sequence[int], on_done: Callable[[R], None], stop: threading.Event
) -> list[BlockFailure]:
    """Compute the blocks of one run in threads of this process, as many at a time as its plan says.

    ``work`` computes a block of a run, by its index. ``on_done`` is called by the thread that calls this function.
    When ``stop`` is set nothing more begins, and what runs is waited for; so it is where ``on_done`` raises.
    """
    return compute_one(
        lambda feed, done, failed: run_feed_in_threads(work, feed, done, failed, stop), job, pending, on_done
    )


def run_feed_in_threads(
    work: Callable[[J, int], R],
    feed: Iterator[tuple[J, Iterable[int]]],
    on_done: Callable[[J, R], None],
    on_failure: Callable[[J, BlockFailure], None],
    stop: threading.Event,
) -> None:
    """Compute the blocks of any number of runs, in the order in which they are fed: one goes on where another ends.

    A block that fails is tried again, reported and passed over as on a cluster: see :func:`next_attempt`.
    """
    with ThreadPoolExecutor(_MOST, thread_name_prefix="block") as pool:
        blocks = _Blocks(feed)
        running: dict[Future[R], tuple[J, int, int]] = {}
        while True:
            while not stop.is_set() and (task := blocks.next(len(running))) is not None:
                job, index, _ = task
                running[pool.submit(work, job, index)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, index, tries = running.pop(future)
                if (error := future.exception()) is None:
                    on_done(job, future.result())
                elif not stop.is_set() and (attempt := next_attempt(error, tries)) is not None:
                    blocks.again(job, index, attempt)
                else:
                    on_failure(job, BlockFailure(index, job.plan[index].core, error))
                    if disk_full(error):
                        stop.set()


class _Blocks(Generic[J]):
    """The blocks that are still to be begun."""

    def __init__(self, feed: Iterator[tuple[J, Iterable[int]]]) -> None:
        self._fed = ((job, index, 1) for job, blocks in feed for index in blocks)
        self._ahead: deque[tuple[J, int, int]] = deque()
        self._suspects: deque[tuple[J, int, int]] = deque()
        self._alone = False

    def again(self, job: J, index: int, attempt: int) -> None:
        """Have a block tried again: soon, or once nothing else is computed."""
        (self._suspects if attempt == ALONE else self._ahead).append((job, index, attempt))

    def next(self, running: int) -> tuple[J, int, int] | None:
        """Run, block and attempt to begin while so many are ``running``; None: wait for one of these, or the end."""
        if running and (self._suspects or self._alone):
            return None
        self._alone = bool(self._suspects)
        if self._alone:
            return self._suspects.popleft()
        if not self._ahead and (fed := next(self._fed, None)) is not None:
            self._ahead.append(fed)
        if not self._ahead or running >= self._ahead[0][0].plan.threads:
            return None
        return self._ahead.popleft()
