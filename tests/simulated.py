"""Blocks on a device and some cores, in time that passes in arithmetic only."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tileseg.run.feeding import Pace


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a block takes."""

    before: float
    """On a core, before the device: reading."""
    device: float
    after: float
    """On a core, after the device: labels, writing, tracing."""
    away: float = 0.0
    """Before all this, on no core of this machine: waiting for a server."""


@dataclass(slots=True)
class Simulation:
    """Blocks that begin in their order as :class:`tileseg.run.feeding.Pace` lets them in, ``most`` at most."""

    blocks: Sequence[Times]
    cores: int
    most: int
    pace: Pace = field(default_factory=Pace)
    now: float = 0.0
    turns: list[tuple[float, float]] = field(default_factory=list)
    """When the device was taken and left."""
    widest: int = 0
    """Blocks that were in flight at once."""
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _for_core: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    _for_device: deque[Times] = field(default_factory=deque)
    _begun: int = 0
    _in_flight: int = 0
    _working: int = 0
    _device: bool = False
    _made: int = 0

    def run(self) -> Simulation:
        """Until all blocks are done."""
        self._let_in()
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()
        assert self._in_flight == 0
        assert len(self.turns) == len(self.blocks)
        return self

    def busy(self, skipped: float = 0.0) -> float:
        """Share of the time in which the device worked, over all turns but a share of the first."""
        turns = self.turns[int(len(self.turns) * skipped) :]
        return sum(stop - start for start, stop in turns) / (turns[-1][1] - turns[0][0])

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._events, (self.now + seconds, self._made, then))

    def _let_in(self) -> None:
        while self._begun < len(self.blocks) and self._in_flight < min(self.pace.limit, self.most):
            block = self.blocks[self._begun]
            self._begun += 1
            self._in_flight += 1
            self.widest = max(self.widest, self._in_flight)
            self._later(block.away, lambda block=block: self._on_core(block.before, lambda: self._queue(block)))

    def _on_core(self, seconds: float, then: Callable[[], None]) -> None:
        self._for_core.append((seconds, then))
        self._use_cores()

    def _use_cores(self) -> None:
        while self._for_core and self._working < self.cores:
            seconds, then = self._for_core.popleft()
            self._working += 1
            self._later(seconds, lambda then=then: self._core_free(then))

    def _core_free(self, then: Callable[[], None]) -> None:
        self._working -= 1
        then()
        self._use_cores()

    def _queue(self, block: Times) -> None:
        self._for_device.append(block)
        self._use_device()

    def _use_device(self) -> None:
        if self._device or not self._for_device:
            return
        block, self._device = self._for_device.popleft(), True
        # As threads of the feed do: those that the plan has memory for and the pace does not let in wait for it.
        held_back = min(len(self.blocks) - self._begun, max(0, self.most - self._in_flight))
        self.pace.taken(self.now, held_back, len(self._for_device))
        self.turns.append((self.now, self.now + block.device))
        self._later(block.device, lambda: self._left(block))

    def _left(self, block: Times) -> None:
        self._device = False
        self.pace.left(self.now)
        self._on_core(block.after, self._done)
        self._let_in()
        self._use_device()

    def _done(self) -> None:
        self._in_flight -= 1
        self._let_in()
