"""How many blocks a process has in flight: as many as its device needs never to wait for one, and memory holds.

A block is in flight from its first pixel read to its last polygon written; one of them has the device. A processor that
computes the network itself is never short of blocks with two in flight. A GPU may be done with a block in a tenth of
the time that one core takes to read and write it, and then ten cores have to work around it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FEWEST = 2
"""Blocks in flight that are always allowed where the plan has memory for them: one on the device, one around it."""
_IDLE = 0.05
"""Share of the time that a device may wait before more blocks are let in."""


class Pace:
    """The limit of blocks in flight, which follows what the device is seen to do. Arithmetic: it knows no threads.

    Looked at after as many turns on the device as blocks may be in flight: it grows by half where the device stood idle
    while blocks were not let in, and falls by one where each turn left two others waiting for the device, since those
    hold memory for nothing.
    """

    def __init__(self) -> None:
        """Begin with the fewest."""
        self.limit = FEWEST
        """Blocks that may be in flight."""
        self._left: float | None = None
        self._taken = 0.0
        self._starved = self._busy = 0.0
        self._turns = 0
        self._spare = True

    def taken(self, now: float, held_back: int, queued: int) -> None:
        """A block gets the device at ``now`` (seconds of any clock).

        ``held_back``: blocks that are not let in; while there are none, more could not be in flight anyway.
        ``queued``: others that wait for the device.
        """
        if self._left is not None and held_back:
            self._starved += now - self._left
        self._spare &= queued > 1
        self._taken = now

    def left(self, now: float) -> None:
        """It is done with it."""
        self._left = now
        self._busy += now - self._taken
        self._turns += 1
        if self._turns < self.limit:
            return
        if self._starved > _IDLE * (self._starved + self._busy):
            self.limit += max(1, self.limit // 2)
        elif self._spare and self.limit > FEWEST:
            self.limit -= 1
        self._starved = self._busy = 0.0
        self._turns, self._spare = 0, True


class Flight:
    """The blocks that this process has in flight, and the one device that they take in turns. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds."""
        self._clock = clock
        self._device = threading.Lock()
        self._changed = threading.Condition()
        self._pace = Pace()
        self._in_flight = self._held_back = self._queued = 0

    @contextmanager
    def block(self, most: int) -> Iterator[None]:
        """A block is in flight; before that, wait until it may be. ``most``: as many as the plan has memory for."""
        with self._changed:
            self._held_back += 1
            self._changed.wait_for(lambda: self._in_flight < min(self._pace.limit, most))
            self._held_back -= 1
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def take(self) -> None:
        """Wait for the device."""
        with self._changed:
            self._queued += 1
        self._device.acquire()
        with self._changed:
            self._queued -= 1
            self._pace.taken(self._clock(), self._held_back, self._queued)

    def leave(self) -> None:
        """Let the next block have the device."""
        with self._changed:
            self._pace.left(self._clock())
            self._changed.notify_all()
        self._device.release()
