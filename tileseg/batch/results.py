"""What became of the scenes so far, gathered from three threads and written down while the batch runs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from tileseg.batch.entry import Entry
from tileseg.batch.listener import BatchListener
from tileseg.batch.report import BatchReport, SceneResult, Status
from tileseg.batch.spec import BatchSpec
from tileseg.cluster.hardware import PeakMemory
from tileseg.errors import TilesegError

_WRITE_SECONDS = 10.0
"""Between two writings of the lists while the batch runs, at least; and no more than a twentieth of the time."""
_WRITE_SHARE = 20
_BAD: tuple[Status, ...] = ("failed", "unusable")


class Results:
    """Results by scene, guarded by a lock. Sets the batch's ``stop`` when too many scenes have failed."""

    def __init__(self, spec: BatchSpec, listener: BatchListener, stop: threading.Event, memory: PeakMemory) -> None:
        self._spec, self._listener, self._stop, self._memory = spec, listener, stop, memory
        self._results: dict[str, SceneResult] = {}  # by the names that the sources gave: others may have them
        self._folders: dict[str, str] = {}
        self._guard = threading.Lock()
        self._bad = 0
        self._begun = self._written = time.monotonic()
        self._pause = _WRITE_SECONDS
        self._gave_up = False

    def put(self, entry: Entry, folder: str) -> None:
        """Remember which folder a scene got."""
        self._folders[entry.folder] = folder

    def placed(self, entry: Entry) -> Entry:
        """A scene with the folder that it got."""
        return replace(entry, folder=self._folders.get(entry.folder, entry.folder))

    def give_up(self) -> None:
        """The batch stops by itself: the user is not to blame."""
        self._gave_up = True

    def record(self, entry: Entry, result: SceneResult) -> None:
        """Take down what became of a scene. ``entry``: as the sources gave it."""
        with self._guard:
            before = self._results.get(entry.folder)
            self._results[entry.folder] = result
            self._bad += (result.status in _BAD) - (before is not None and before.status in _BAD)
            bad = self._bad
            self._listener.scene(result)
            due = time.monotonic() - self._written > self._pause
            if due:
                self._written = time.monotonic()
        limit = self._spec.max_failures
        if limit is not None and bad > limit and not self._stop.is_set():
            self.give_up()
            self._listener.notice(f"{bad} scenes failed, more than --max-failures {limit}: stopping")
            self._stop.set()
        if due:
            begun = time.monotonic()
            self.report().write(self._spec.stem)
            # A list of a hundred thousand scenes takes its time, on a bucket more so.
            self._pause = max(_WRITE_SECONDS, _WRITE_SHARE * (time.monotonic() - begun))

    def with_status(self, status: Status) -> list[Entry]:
        """Scenes of that status, as the sources gave them."""
        found = self._results
        return [entry for entry in self._spec.entries if entry.folder in found and found[entry.folder].status == status]

    def report(self) -> BatchReport:
        """As things stand."""
        with self._guard:
            results = tuple(
                self._results.get(entry.folder)
                or SceneResult(entry.shown, entry.folder, "pending", TilesegError.exit_code, "not begun")
                for entry in self._spec.entries
            )
        return BatchReport(
            self._spec.out,
            results,
            time.monotonic() - self._begun,
            self._memory.peak,
            interrupted=self._stop.is_set() and not self._gave_up and any(r.status == "pending" for r in results),
        )
