"""One scene of a batch while it is worked on, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from tileseg.batch.entry import Entry
from tileseg.batch.report import SceneResult, Status
from tileseg.cluster.failure import BlockFailure
from tileseg.errors import BlocksFailed, InputError, Interrupted, LockedError, TilesegError, UsageError, first_line
from tileseg.run.block import Job
from tileseg.run.compute import check_complete
from tileseg.run.finish import Stopwatch
from tileseg.run.folder import OpenRun
from tileseg.run.prepare import PreparedRun
from tileseg.run.report import RunReport
from tileseg.storage.place import printable


@dataclass(eq=False)
class SceneRun:
    """A scene that is being computed; changed by the main thread only, but for ``lost``."""

    entry: Entry
    """The scene, with the folder that the sources gave it."""
    run: OpenRun
    job: Job | None
    """None where all blocks are done."""
    clock: Stopwatch
    hold: ExitStack
    """Ends the hold on the folder."""
    wanted: int
    """Blocks that are computed, unless the folder is lost."""
    lost: threading.Event
    """Set when another process took the folder."""
    submitted: int = 0
    computed: int = 0
    failures: list[BlockFailure] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names it among the scenes that are being computed."""
        return self.job.key if self.job else self.entry.folder

    @property
    def complete(self) -> bool:
        """Whether no block of it is left to compute."""
        return self.computed + len(self.failures) >= self.wanted

    @property
    def seconds(self) -> float:
        """Since it was opened."""
        return time.perf_counter() - self.clock.start

    def blocks(self) -> Iterator[int]:
        """Indices of the blocks to compute, until another process takes the folder."""
        for index in self.run.pending:
            if self.lost.is_set():
                self.wanted = self.submitted
                return
            self.submitted += 1
            yield index

    def check_complete(self) -> None:
        """Raise BlocksFailed if blocks failed, Interrupted if some were not even tried."""
        check_complete(self.run, self.computed, self.failures)


def done(entry: Entry, report: RunReport, status: Status, seconds: float) -> SceneResult:
    """The result of a scene whose outputs are there. ``entry``: with the folder that it got."""
    polygons = sum(report.polygons.values())
    computed = report.computed if status == "done" else 0
    return SceneResult(entry.shown, entry.folder, status, 0, "", report.blocks, computed, polygons, round(seconds, 3))


def failed(
    entry: Entry, error: Exception, seconds: float, prepared: PreparedRun | None = None, computed: int = 0
) -> SceneResult:
    """What an error means for its scene. ``entry``: with the folder that it got."""
    code = error.exit_code if isinstance(error, TilesegError) else TilesegError.exit_code
    status: Status = "failed"
    if code in (InputError.exit_code, UsageError.exit_code):
        status = "unusable"
    elif isinstance(error, LockedError):
        status = "locked"
    elif isinstance(error, Interrupted):
        status, code = "pending", TilesegError.exit_code
    expected = isinstance(error, TilesegError)
    message = str(error) if expected else f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, BlocksFailed):
        message = " ".join(message.split())
    blocks = 0 if prepared is None else prepared.plan.blocks
    return SceneResult(
        entry.shown, entry.folder, status, code, printable(message), blocks, computed, seconds=round(seconds, 3)
    )
