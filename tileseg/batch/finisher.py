"""The last thread of a batch: finish scenes whose blocks are all done."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tileseg.batch.report import SceneResult
from tileseg.batch.results import Results
from tileseg.batch.scene_run import SceneRun, done, failed
from tileseg.cluster.hardware import PeakMemory
from tileseg.errors import disk_full
from tileseg.run.finish import write_outputs
from tileseg.run.report import Silent

_BEHIND = 3
"""Scenes with all blocks done that wait for their outputs; then the workers wait."""


class Finisher:
    """Writes polygons, label COG and summary of one scene after the other in a thread; ends when all are written."""

    def __init__(self, results: Results, memory: PeakMemory) -> None:
        self._results, self._memory = results, memory
        self._thread = ThreadPoolExecutor(1, "finish-scenes")
        self._room = threading.Semaphore(_BEHIND)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def submit(self, active: SceneRun) -> None:
        """Have the outputs of a scene written; waits while too many others are."""
        self._room.acquire()  # the thread gives it back, and does not wait for this one
        self._thread.submit(self._finish, active)

    def _finish(self, active: SceneRun) -> None:
        try:
            self._results.record(active.entry, self._result(active))
        finally:
            self._room.release()

    def _result(self, active: SceneRun) -> SceneResult:
        entry = self._results.placed(active.entry)
        try:
            with active.hold:
                active.check_complete()
                report = write_outputs(active.run, Silent(), active.clock, active.computed, self._memory)
        except Exception as error:  # noqa: BLE001 - one scene that fails does not stop the others
            if disk_full(error):
                self._results.give_up()
            return failed(entry, error, active.seconds, active.run.prepared, active.computed)
        return done(entry, report, "done", report.wall_seconds)
