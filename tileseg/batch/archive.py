"""Many scenes in one go: one cluster, one model, and no worker idle between two scenes.

::

    Preparer   a thread      opens scenes a few ahead: header, lock, ledger, empty mosaic
    Computer   main thread   feeds the blocks of one scene after the other to the workers, and gathers records
    Finisher   a thread      finishes scenes whose blocks are all done: polygons, label COG, summary

Scenes wait between the threads in small numbers, so memory does not grow with the archive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tileseg.batch.computer import Computer
from tileseg.batch.entry import Entry
from tileseg.batch.finisher import Finisher
from tileseg.batch.listener import BatchListener, SilentBatch
from tileseg.batch.preparer import Preparer
from tileseg.batch.report import BatchReport
from tileseg.batch.results import Results
from tileseg.batch.spec import BatchSpec
from tileseg.cluster import hardware
from tileseg.errors import InputError, Unreachable, disk_full, not_writable
from tileseg.run.main_guard import check_main_guard
from tileseg.run.names import STATE
from tileseg.storage import lease
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic


def run_batch(
    spec: BatchSpec, listener: BatchListener | None = None, stop: threading.Event | None = None
) -> BatchReport:
    """Segment many scenes, each into a folder of its own below ``spec.out``; what is finished is not done again.

    One scene that fails does not stop the others: the report says what became of each. ``stop``: when set, blocks in
    flight are finished and kept. Raises UsageError where the options make no sense for any scene, InputError where
    the folder cannot be written, and what stops all: no cluster, for example.
    """
    runs = [spec.run_of(entry) for entry in spec.entries]  # a mistake in an option shows before anything begins
    if any(run.workers != 0 and run.remote is None for run in runs):
        check_main_guard()
    _check_writable(spec)
    listener, stop = listener or SilentBatch(), stop or threading.Event()
    with ExitStack() as workers, hardware.PeakMemory() as memory:
        results = Results(spec, listener, stop, memory)
        computer = Computer(spec, listener, results, stop, workers)
        try:
            _Rounds(spec, results, computer, stop, memory).go(listener)
        finally:  # of use where the cluster was lost, too
            report = results.report()
            report.write(spec.stem)
    return report


def _check_writable(spec: BatchSpec) -> None:
    probe = spec.out / f".{spec.stem}-writable"
    try:
        at(spec.out).make_folder()
        write_atomic(probe, "")
        at(probe).remove()
    except (InputError, Unreachable):
        raise
    except OSError as error:
        if disk_full(error):
            raise
        raise not_writable(spec.out, error) from error


class _Rounds:
    """Goes over the scenes, and again over some of them."""

    def __init__(
        self,
        spec: BatchSpec,
        results: Results,
        computer: Computer,
        stop: threading.Event,
        memory: hardware.PeakMemory,
    ) -> None:
        self._spec, self._results, self._computer, self._stop, self._memory = spec, results, computer, stop, memory

    def go(self, listener: BatchListener) -> None:
        """Every scene once; those that failed again; those that another process held, if it died."""
        listener.start(len(self._spec.entries))
        self._round(self._spec.entries)
        for _ in range(self._spec.retries):
            again = self._results.with_status("failed")
            if not again or self._stop.is_set():
                break
            listener.notice(f"trying {len(again)} scene(s) again")
            self._round(again)
        self._wait_for_others()

    def _round(self, entries: Sequence[Entry]) -> None:
        preparer = Preparer(self._spec, entries, self._results, self._stop)
        preparer.start()
        try:
            with Finisher(self._results, self._memory) as finisher:
                self._computer.compute(preparer.scenes(), finisher)
        finally:
            self._computer.leave(preparer.end())

    def _wait_for_others(self) -> None:
        """Take over scenes whose process died. One that is alive is left alone."""
        deadline = time.monotonic() + 2 * lease.EXPIRES
        busy: set[str] = set()
        for entry in self._results.with_status("locked"):
            lease.alive(self._state_of(entry))  # what moved before now does not say who lives now
        while not self._stop.is_set() and time.monotonic() < deadline:
            locked = [entry for entry in self._results.with_status("locked") if entry.folder not in busy]
            for entry in locked:
                if lease.alive(self._state_of(entry)):
                    busy.add(entry.folder)
            free = [entry for entry in locked if entry.folder not in busy]
            if not free:
                return
            self._round(free)
            left = [entry for entry in self._results.with_status("locked") if entry in free]
            if len(left) < len(free):
                deadline = time.monotonic() + 2 * lease.EXPIRES  # computing them took its time
            if left:
                self._stop.wait(lease.BEAT / 2)

    def _state_of(self, entry: Entry) -> Path | Url:
        return self._spec.out / self._results.placed(entry).folder / STATE
