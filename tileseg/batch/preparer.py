"""The first thread of a batch: open scenes a few ahead of the workers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tileseg.batch.entry import Entry
from tileseg.batch.folders import SceneRecord, folder_of
from tileseg.batch.report import SceneResult
from tileseg.batch.results import Results
from tileseg.batch.scene_run import SceneRun, done, failed
from tileseg.batch.spec import BatchSpec
from tileseg.errors import OutputsGone
from tileseg.run.compute import make_job
from tileseg.run.finish import Stopwatch
from tileseg.run.folder import begin, finished, hold
from tileseg.run.identity import differences
from tileseg.run.prepare import PreparedRun, prepare
from tileseg.run.report import RunReport
from tileseg.storage.place import Url

_AHEAD = 2
"""Scenes that wait ready for the workers."""
_OF_THE_SCENE = {"scene", "scale"}
"""What differs where only the scene has changed."""

Opened = SceneRun | tuple[Entry, SceneResult]
"""A scene to compute; or one of which nothing is to be computed, as the sources gave it, and what became of it."""


class Preparer:
    """Opens scenes one after the other in a thread: header, lock, ledger, empty mosaic."""

    def __init__(self, spec: BatchSpec, entries: Sequence[Entry], results: Results, stop: threading.Event) -> None:
        self._spec, self._entries, self._results, self._stop = spec, entries, results, stop
        self._ready: queue.Queue[Opened | None] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._prepare_all, name="prepare-scenes")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def scenes(self) -> Iterator[Opened]:
        """Scenes as they get ready, in their order, until all are through or the batch is stopped."""
        while (found := self._ready.get()) is not None:
            yield found

    def end(self) -> list[Opened]:
        """Open no more scenes; those that are ready and were not taken."""
        self._ended.set()
        left: list[Opened] = []
        while self._thread.is_alive() or not self._ready.empty():
            try:
                found = self._ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if found is not None:
                left.append(found)
        self._thread.join()
        return left

    def _prepare_all(self) -> None:
        for entry in self._entries:
            if self._stop.is_set() or self._ended.is_set():
                break
            started = time.perf_counter()
            try:
                found = self._open(entry, started)
            except Exception as error:  # noqa: BLE001 - one scene that fails does not stop the others
                found = failed(self._results.placed(entry), error, time.perf_counter() - started)
            self._ready.put(found if isinstance(found, SceneRun) else (entry, found))
        self._ready.put(None)

    def _open(self, entry: Entry, started: float) -> SceneRun | SceneResult:
        prepared = prepare(self._spec.run_of(entry), least_workers=1)
        record, scene = SceneRecord.of(entry), prepared.identity["scene"]
        while True:
            name = folder_of(entry, self._spec.out, lambda: scene)
            self._results.put(entry, name)
            prepared = _into(prepared, self._spec.out / name)
            if before := self._before(prepared)[1]:
                if SceneRecord.read(prepared.folder) != record:  # of a table that was corrected, or the scene was moved
                    record.write(prepared.folder)
                return done(self._results.placed(entry), before, "skipped", 0.0)
            lost = threading.Event()
            with ExitStack() as stack:
                held = stack.enter_context(hold(prepared, lost.set))
                # Another process may have had the folder until now, for this scene or for another one.
                if folder_of(entry, self._spec.out, lambda: scene) != name:
                    continue
                different, before = self._before(prepared)
                if before:
                    return done(self._results.placed(entry), before, "skipped", 0.0)
                known = SceneRecord.read(prepared.folder)
                changed = known is not None and known.place == record.place and set(different) <= _OF_THE_SCENE
                if different and (changed or self._spec.overwrite):
                    prepared = replace(prepared, spec=prepared.spec.model_copy(update={"overwrite": True}))
                run = begin(prepared, held)
                record.write(prepared.folder)
                job = make_job(run) if run.pending else None
                clock, wanted = Stopwatch(started), len(run.pending)
                return SceneRun(entry, run, job, clock, stack.pop_all(), wanted=wanted, lost=lost)

    def _before(self, prepared: PreparedRun) -> tuple[list[str], RunReport | None]:
        """What keeps a folder from being resumed, and the report where it is finished."""
        if different := differences(prepared):
            return different, None
        try:
            return [], finished(prepared)
        except OutputsGone:
            if not self._spec.overwrite:
                raise
            return ["outputs"], None


def _into(prepared: PreparedRun, folder: Path | Url) -> PreparedRun:
    """The same run in another folder."""
    return replace(prepared, folder=folder, spec=prepared.spec.model_copy(update={"out": folder}))
