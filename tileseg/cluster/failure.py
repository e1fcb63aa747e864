"""What a block that cannot be computed says, and whether it is tried again: the same wherever blocks are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tileseg.errors import InputError, TilesegError, disk_full, first_line
from tileseg.plan import Plan
from tileseg.window import Window

TRIES = 3
"""Attempts at a block whose failure may pass, such as a network share that stalls."""

ALONE = TRIES + 1
"""From this attempt on nothing else is computed: workers died, or had no memory left."""


class Job(Protocol):
    """A run whose blocks are to be computed: picklable, and small."""

    @property
    def key(self) -> str:
        """Names the run."""

    @property
    def plan(self) -> Plan:
        """Its blocks."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")
"""What is known of a block that was computed."""


class WorkerDied(TilesegError):
    """The process that computed a block ended, again and again."""

    def __init__(self, times: int) -> None:
        """``times``: how often."""
        super().__init__(f"its worker died {times} time(s)")
        self.times = times


class WorkersGone(WorkerDied):
    """All workers went away while a block was to be computed; now there are others."""

    def __init__(self) -> None:
        """Given up after so many tries."""
        super().__init__(TRIES)


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
        if isinstance(error, WorkerDied):
            return f"block at {self.core}: {error}, though nothing else was computed (out of memory? see --max-memory)"
        if isinstance(error, MemoryError):
            return f"block at {self.core}: out of memory, though nothing else was computed; see --max-memory"
        if disk_full(error):
            return f"block at {self.core}: the disk is full: make space first"
        if isinstance(error, TilesegError):
            return str(error)
        return f"block at {self.core}: {type(error).__name__}: {first_line(error)}"


def next_attempt(error: BaseException, tries: int) -> int | None:
    """Number of the attempt that follows the ``tries``-th; None: the block is given up."""
    if isinstance(error, WorkersGone):
        return tries + 1 if tries < ALONE + TRIES - 1 else None
    if isinstance(error, WorkerDied | MemoryError):
        return ALONE if tries < ALONE else None
    if isinstance(error, TilesegError) or disk_full(error) or tries >= TRIES:
        return None
    return tries + 1


def compute_one(
    run_feed: Callable[
        [Iterator[tuple[J, Iterable[int]]], Callable[[J, R], None], Callable[[J, BlockFailure], None]], None
    ],
    job: J,
    pending: Sequence[int],
    on_done: Callable[[R], None],
) -> list[BlockFailure]:
    """The ``pending`` blocks of one run, by what computes a feed of many; gives those that failed.

    ``run_feed`` takes the feed, what is called with each record and what is called with each failure.
    """
    failures: list[BlockFailure] = []
    run_feed(iter([(job, pending)]), lambda _, record: on_done(record), lambda _, failure: failures.append(failure))
    return failures
