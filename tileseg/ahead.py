"""Work that threads do a few steps ahead of whoever takes the results, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tileseg.errors import UsageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def computed_ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int, threads: int
) -> Generator[_Result, None, None]:
    """``work(item)`` of each item, in order, computed by ``threads`` at most ``ahead`` items early.

    So a bounded number of results waits, however many items there are; they are taken from the iterable when their
    turn comes, by the thread that takes the results. An exception of ``work`` is raised at its item. Closing the
    generator waits for what is being computed, and gives up the rest. Raises UsageError.
    """
    if ahead < 1 or threads < 1:
        raise UsageError(f"{threads} threads, {ahead} steps ahead: expected at least 1")
    source = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    waiting: deque[Future[_Result]] = deque()
    try:
        waiting.extend(pool.submit(work, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
