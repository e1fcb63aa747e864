"""The main thread of a batch: feed the blocks of one scene after the other to the workers, and gather records."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from tileseg.batch.entry import Entry, storage
from tileseg.batch.finisher import Finisher
from tileseg.batch.listener import BatchListener, Notices
from tileseg.batch.preparer import Opened
from tileseg.batch.report import SceneResult
from tileseg.batch.results import Results
from tileseg.batch.scene_run import SceneRun, failed
from tileseg.batch.spec import BatchSpec
from tileseg.cluster.failure import BlockFailure
from tileseg.cluster.schedule import run_feed
from tileseg.cluster.threads import run_feed_in_threads
from tileseg.errors import InputError, Unreachable, UsageError, disk_full
from tileseg.run.block import Job, segment_block
from tileseg.run.compute import connected
from tileseg.run.ledger import BlockRecord
from tileseg.run.prepare import prepare
from tileseg.source.protocol import PixelSource

Feed = Iterator[tuple[Job, Iterable[int]]]
"""Runs, and of each the blocks to compute."""


class Computer:
    """Computes blocks on workers that are connected with the first scene and stay until ``workers`` ends."""

    def __init__(
        self, spec: BatchSpec, listener: BatchListener, results: Results, stop: threading.Event, workers: ExitStack
    ) -> None:
        self._spec, self._listener, self._results, self._stop = spec, listener, results, stop
        self._workers = workers
        self._client: Any = None
        self._active: dict[str, SceneRun] = {}

    def compute(self, scenes: Iterator[Opened], finisher: Finisher) -> None:
        """Compute the scenes as they come, and hand each on once its blocks are all done."""
        feed = self._feed(scenes, finisher)
        first = next(feed, None)
        if first is not None:
            self._compute_all(first, feed, finisher)

    def leave(self, opened: Iterable[Opened]) -> None:
        """Give up the scenes that are not complete, and those that were opened in vain: the batch was stopped."""
        for found in opened:
            if isinstance(found, SceneRun):
                self._active[found.key] = found
            else:
                self._results.record(*found)
        for active in list(self._active.values()):
            self._leave(active)
        self._active.clear()

    def _feed(self, scenes: Iterator[Opened], finisher: Finisher) -> Feed:
        """The blocks of one scene after the other."""
        for found in scenes:
            if not isinstance(found, SceneRun):
                self._results.record(*found)
                continue
            self._active[found.key] = found
            found.clock.lap("start")
            for notice in found.run.prepared.notices:
                self._listener.notice(f"{found.entry.shown}: {notice}")
            if found.job is not None:
                yield found.job, found.blocks()
            self._hand_on(found, finisher)

    def _compute_all(self, first: tuple[Job, Iterable[int]], feed: Feed, finisher: Finisher) -> None:
        def on_done(job: Job, record: BlockRecord) -> None:
            active = self._active[job.key]
            active.computed += 1
            for note in record.notes:
                self._listener.notice(f"{active.entry.shown}: {note}")
            self._listener.block(active.entry.shown, record, job.plan[record.index].core.pixels)
            self._hand_on(active, finisher)

        def on_failure(job: Job, failure: BlockFailure) -> None:
            active = self._active[job.key]
            active.failures.append(failure)
            if disk_full(failure.error):
                self._results.give_up()
            self._hand_on(active, finisher)

        def whole_feed() -> Feed:
            yield first
            yield from feed

        active = self._active[first[0].key]
        prepared = active.run.prepared
        if prepared.plan.workers == 0:
            run_feed_in_threads(segment_block, whole_feed(), on_done, on_failure, self._stop)
            return
        if self._client is None:
            blocks = prepared.plan.workers * len(self._spec.entries) + prepared.plan.blocks
            others = () if prepared.spec.remote is None else self._of_other_storages(active.entry)
            self._client = self._workers.enter_context(connected(prepared, blocks, Notices(self._listener), others))
        run_feed(self._client, segment_block, whole_feed(), on_done, on_failure, self._stop)

    def _of_other_storages(self, first: Entry) -> tuple[PixelSource, ...]:
        """A scene from every other file system or server of this batch: workers must reach all of them."""
        known, found = {storage(first.scene)}, []
        for entry in self._spec.entries:
            where = storage(entry.scene)
            if where not in known:
                with suppress(InputError, UsageError, Unreachable):  # its own turn will say so; another one may do
                    found.append(prepare(self._spec.run_of(entry), least_workers=1).scene)
                    known.add(where)
        return tuple(found)

    def _hand_on(self, active: SceneRun, finisher: Finisher) -> None:
        """Have the outputs written once no block is left."""
        if active.complete and active.key in self._active:
            del self._active[active.key]
            active.clock.lap("blocks")
            finisher.submit(active)

    def _leave(self, active: SceneRun) -> None:
        """Give up a scene that is not finished."""
        spent, entry = active.seconds, self._results.placed(active.entry)
        try:
            with active.hold:
                active.check_complete()
        except Exception as error:  # noqa: BLE001 - its result says so
            result = failed(entry, error, spent, active.run.prepared, active.computed)
        else:
            message = "stopped; what was finished is kept"
            result = SceneResult(entry.shown, entry.folder, "pending", 1, message, seconds=spent)
        self._results.record(active.entry, result)
