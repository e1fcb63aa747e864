"""Many scenes in one go: one cluster, one model, and no worker idle between two scenes.

::

    one thread    prepares scenes a few ahead: header, lock, ledger, empty mosaic
    main thread   feeds the blocks of one scene after the other to the workers, and gathers records
    one thread    finishes scenes whose blocks are all done: polygons, label COG, summary

Scenes wait between the threads in small numbers, so memory does not grow with the archive.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tileseg.batch.entry import Entry, storage
from tileseg.batch.folders import Source, folder_of
from tileseg.batch.report import BatchReport, SceneResult, Status
from tileseg.cluster import hardware
from tileseg.cluster.schedule import BlockFailure, run_feed, run_feed_serially
from tileseg.errors import (
    BlocksFailed,
    InputError,
    Interrupted,
    LockedError,
    OutputsGone,
    TilesegError,
    Unreachable,
    UsageError,
    disk_full,
    first_line,
    not_writable,
)
from tileseg.run.block import Job, segment_block
from tileseg.run.compute import check_complete, connected, make_job
from tileseg.run.finish import Stopwatch, write_outputs
from tileseg.run.folder import OpenRun, begin, finished, hold
from tileseg.run.identity import differences
from tileseg.run.ledger import BlockRecord
from tileseg.run.names import STATE
from tileseg.run.prepare import PreparedRun, prepare
from tileseg.run.report import RunReport, Silent
from tileseg.source.scene import Scene
from tileseg.spec import RunSpec
from tileseg.storage import lease
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic

_AHEAD = 2
"""Scenes that wait ready for the workers."""
_BEHIND = 3
"""Scenes with all blocks done that wait for their outputs; then the workers wait."""
_WRITE_SECONDS = 10.0
"""Between two writings of the lists while the batch runs."""
_OF_THE_SCENE = {"scene", "scale"}
"""What differs where only the scene has changed."""


@dataclass(frozen=True)
class BatchSpec:
    """A batch: which scenes, and how."""

    entries: tuple[Entry, ...]
    """Those of this process: a shard is made before."""
    out: Path | Url
    """Folder of all outputs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``tileseg run``, checked for each scene."""
    retries: int = 1
    """How often a scene that failed is tried again once the others are through."""
    max_failures: int | None = None
    """Stop when more scenes than that have failed or are unusable."""
    stem: str = "batch"
    """Name of the lists, without ending."""


class BatchListener(Protocol):
    """Is told how a batch gets on; from several threads, one at a time."""

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, scenes: int) -> None:
        """So many scenes are about to be looked at."""

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        """A block is finished."""

    def scene(self, result: SceneResult) -> None:
        """What became of a scene, until it is tried again."""


class Quiet:
    """Tells nobody."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def start(self, scenes: int) -> None:
        """Nothing."""

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        """Nothing."""

    def scene(self, result: SceneResult) -> None:
        """Nothing."""


def run_batch(
    spec: BatchSpec, listener: BatchListener | None = None, stop: threading.Event | None = None
) -> BatchReport:
    """Segment many scenes, each into a folder of its own below ``spec.out``; what is finished is not done again.

    One scene that fails does not stop the others: the report says what became of each. ``stop``: when set, blocks in
    flight are finished and kept. Raises UsageError where the options make no sense for any scene, InputError where
    the folder cannot be written, and what stops all: no cluster, for example.
    """
    for entry in spec.entries:
        _spec_of(spec, entry)  # a mistake in an option shows before anything begins
    try:
        at(spec.out).make_folder()
        write_atomic(spec.out / f".{spec.stem}-writable", "")
        at(spec.out / f".{spec.stem}-writable").remove()
    except (InputError, Unreachable):
        raise
    except OSError as error:
        if disk_full(error):
            raise
        raise not_writable(spec.out, error) from error
    with ExitStack() as workers, hardware.PeakMemory() as memory:
        batch = _Batch(spec, listener or Quiet(), stop or threading.Event(), memory, workers)
        try:
            batch.go()
        finally:  # of use where the cluster was lost, too
            report = batch.report()
            report.write(spec.stem)
    return report


def _spec_of(spec: BatchSpec, entry: Entry) -> RunSpec:
    return RunSpec.parse(
        {**spec.options, **entry.options, "scene": entry.scene, "out": spec.out / entry.folder, "overwrite": False}
    )


@dataclass(eq=False)
class _Active:
    """A scene that is being computed; changed by the main thread only, but for ``lost``."""

    entry: Entry
    begun: OpenRun
    job: Job | None
    """None where all blocks are done."""
    clock: Stopwatch
    held: ExitStack
    """Ends the hold on the folder."""
    wanted: int
    """Blocks that are computed, unless the folder is lost."""
    lost: threading.Event
    """Set when another process took the folder."""
    submitted: int = 0
    computed: int = 0
    failures: list[BlockFailure] = field(default_factory=list)

    def blocks(self) -> Iterator[int]:
        """Those to compute, until another process takes the folder."""
        for index in self.begun.pending:
            if self.lost.is_set():
                self.wanted = self.submitted
                return
            self.submitted += 1
            yield index

    @property
    def settled(self) -> bool:
        """Whether nothing of it is left to compute."""
        return self.computed + len(self.failures) >= self.wanted


_Through = tuple[Entry, SceneResult]
"""A scene of which nothing is to be computed, as the sources gave it, and what became of it."""


def _into(prepared: PreparedRun, folder: Path | Url) -> PreparedRun:
    """The same run in another folder."""
    return replace(prepared, folder=folder, spec=prepared.spec.model_copy(update={"out": folder}))


class _Batch:
    """The state of a batch. Results come from three threads, so they are guarded by a lock."""

    def __init__(
        self,
        spec: BatchSpec,
        listener: BatchListener,
        stop: threading.Event,
        memory: hardware.PeakMemory,
        workers: ExitStack,
    ) -> None:
        self._spec, self._listener, self._stop, self._memory, self._workers = spec, listener, stop, memory, workers
        self._client: Any = None
        self._results: dict[str, SceneResult] = {}  # by the names that the sources gave: others may have them
        self._placed: dict[str, str] = {}
        self._guard = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._room = threading.Semaphore(_BEHIND)
        self._begun = self._written = time.monotonic()
        self._gave_up = False

    def go(self) -> None:
        """Every scene once; those that failed again; those that another process held, if it died."""
        self._listener.start(len(self._spec.entries))
        self._round(self._spec.entries)
        for _ in range(self._spec.retries):
            again = self._with_status("failed")
            if not again or self._stop.is_set():
                break
            self._listener.notice(f"trying {len(again)} scene(s) again")
            self._round(again)
        self._wait_for_others()

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

    def _with_status(self, status: Status) -> list[Entry]:
        return [e for e in self._spec.entries if e.folder in self._results and self._results[e.folder].status == status]

    def _wait_for_others(self) -> None:
        """Take over what another process held and let go of. One that is alive is left alone."""
        deadline = time.monotonic() + 2 * lease.EXPIRES
        busy: set[str] = set()
        for entry in self._with_status("locked"):
            lease.alive(self._state_of(entry))  # what moved before now does not say who lives now
        while not self._stop.is_set() and time.monotonic() < deadline:
            locked = [entry for entry in self._with_status("locked") if entry.folder not in busy]
            for entry in locked:
                if lease.alive(self._state_of(entry)):
                    busy.add(entry.folder)
            free = [entry for entry in locked if entry.folder not in busy]
            if not free:
                return
            self._round(free)
            left = [entry for entry in self._with_status("locked") if entry in free]
            if len(left) < len(free):
                deadline = time.monotonic() + 2 * lease.EXPIRES  # computing them took its time
            if left:
                self._stop.wait(lease.BEAT / 2)

    def _state_of(self, entry: Entry) -> Path | Url:
        return self._spec.out / self._here(entry).folder / STATE

    # --- One round over some scenes ------------------------------------------------------------------------------

    def _round(self, entries: Sequence[Entry]) -> None:
        ready: queue.Queue[_Active | _Through | None] = queue.Queue(_AHEAD)
        ended = threading.Event()
        preparing = threading.Thread(target=self._prepare_all, args=(entries, ready, ended), name="prepare-scenes")
        preparing.start()
        try:
            with ThreadPoolExecutor(1, "finish-scenes") as finisher:
                feed = self._feed(ready, finisher)
                first = next(feed, None)
                if first is not None:
                    self._compute(first, feed, finisher)
        finally:
            ended.set()
            while preparing.is_alive() or not ready.empty():
                try:
                    left = ready.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(left, _Active):
                    self._active[left.entry.folder] = left
                elif left is not None:
                    self._note(*left)
            preparing.join()
            for active in list(self._active.values()):
                self._leave(active)

    def _prepare_all(
        self, entries: Sequence[Entry], ready: queue.Queue[_Active | _Through | None], ended: threading.Event
    ) -> None:
        for entry in entries:
            if self._stop.is_set() or ended.is_set():
                break
            started = time.perf_counter()
            try:
                found = self._get_ready(entry, started)
            except Exception as error:  # noqa: BLE001 - one scene that fails does not stop the others
                found = _failed(self._here(entry), error, time.perf_counter() - started)
            ready.put(found if isinstance(found, _Active) else (entry, found))
        ready.put(None)

    def _get_ready(self, entry: Entry, started: float) -> _Active | SceneResult:
        prepared = prepare(_spec_of(self._spec, entry))
        source, scene = Source.of(entry), prepared.identity["scene"]
        while True:
            name = self._placed[entry.folder] = folder_of(entry, self._spec.out, lambda: scene)
            prepared = _into(prepared, self._spec.out / name)
            if before := self._before(prepared)[1]:
                if Source.read(prepared.folder) != source:  # of a table that was corrected, or the scene was moved
                    source.write(prepared.folder)
                return _done(self._here(entry), before, "skipped", 0.0)
            lost = threading.Event()
            with ExitStack() as stack:
                held = stack.enter_context(hold(prepared, lost.set))
                # Another process may have had the folder until now, for this scene or for another one.
                if folder_of(entry, self._spec.out, lambda: scene) != name:
                    continue
                different, before = self._before(prepared)
                if before:
                    return _done(self._here(entry), before, "skipped", 0.0)
                known = Source.read(prepared.folder)
                changed = known is not None and known.place == source.place and set(different) <= _OF_THE_SCENE
                if different and (changed or self._spec.options.get("overwrite")):
                    prepared = replace(prepared, spec=prepared.spec.model_copy(update={"overwrite": True}))
                begun = begin(prepared, held)
                source.write(prepared.folder)
                job = make_job(begun) if begun.pending else None
                wanted = len(begun.pending)
                return _Active(entry, begun, job, Stopwatch(started), stack.pop_all(), wanted=wanted, lost=lost)

    def _before(self, prepared: PreparedRun) -> tuple[list[str], RunReport | None]:
        """What keeps a folder from being gone on with, and the report where it is finished."""
        if different := differences(prepared):
            return different, None
        try:
            return [], finished(prepared)
        except OutputsGone:
            if not self._spec.options.get("overwrite"):
                raise
            return ["outputs"], None

    def _here(self, entry: Entry) -> Entry:
        """A scene with the folder that it got."""
        return replace(entry, folder=self._placed.get(entry.folder, entry.folder))

    def _feed(
        self, ready: queue.Queue[_Active | _Through | None], finisher: ThreadPoolExecutor
    ) -> Iterator[tuple[Job, Iterable[int]]]:
        """The blocks of one scene after the other."""
        while (found := ready.get()) is not None:
            if not isinstance(found, _Active):
                self._note(*found)
                continue
            active, job = found, found.job
            self._active[job.key if job else active.entry.folder] = active
            active.clock.lap("start")
            for notice in active.begun.prepared.notices:
                self._listener.notice(f"{active.entry.shown}: {notice}")
            if job is not None:
                yield job, active.blocks()
            self._settle(active, finisher)

    def _compute(
        self,
        first: tuple[Job, Iterable[int]],
        feed: Iterator[tuple[Job, Iterable[int]]],
        finisher: ThreadPoolExecutor,
    ) -> None:
        def on_done(job: Job, record: BlockRecord) -> None:
            active = self._active[job.key]
            active.computed += 1
            for note in record.notes:
                self._listener.notice(f"{active.entry.shown}: {note}")
            self._listener.block(active.entry.shown, record, job.plan[record.index].core.pixels)
            self._settle(active, finisher)

        def on_failure(job: Job, failure: BlockFailure) -> None:
            active = self._active[job.key]
            active.failures.append(failure)
            self._gave_up = self._gave_up or disk_full(failure.error)
            self._settle(active, finisher)

        def all_of_it() -> Iterator[tuple[Job, Iterable[int]]]:
            yield first
            yield from feed

        active = self._active[first[0].key]
        prepared = active.begun.prepared
        if prepared.plan.workers == 0:
            run_feed_serially(segment_block, all_of_it(), on_done, on_failure, self._stop)
            return
        if self._client is None:
            blocks = prepared.plan.workers * len(self._spec.entries) + prepared.plan.blocks
            others = () if prepared.spec.remote is None else self._of_other_storages(active.entry)
            self._client = self._workers.enter_context(connected(prepared, blocks, _Notices(self._listener), others))
        run_feed(self._client, segment_block, all_of_it(), on_done, on_failure, self._stop)

    def _of_other_storages(self, first: Entry) -> tuple[Scene, ...]:
        """A scene from every other file system or server of this batch: workers must reach all of them."""
        known, found = {storage(first.scene)}, []
        for entry in self._spec.entries:
            where = storage(entry.scene)
            if where not in known:
                with suppress(InputError, UsageError, Unreachable):  # told of when it is its turn; another one may do
                    found.append(prepare(_spec_of(self._spec, entry)).scene)
                    known.add(where)
        return tuple(found)

    def _settle(self, active: _Active, finisher: ThreadPoolExecutor) -> None:
        """Have the outputs written once all blocks are through."""
        key = active.job.key if active.job else active.entry.folder
        if active.settled and key in self._active:
            del self._active[key]
            active.clock.lap("blocks")
            self._room.acquire()  # the finisher gives it back, and does not wait for this thread
            finisher.submit(self._finish, active)

    def _finish(self, active: _Active) -> None:
        try:
            self._note(active.entry, self._finished(active))
        finally:
            self._room.release()

    def _finished(self, active: _Active) -> SceneResult:
        begun, entry = active.begun, self._here(active.entry)
        try:
            with active.held:
                check_complete(begun, active.computed, active.failures)
                report = write_outputs(begun, Silent(), active.clock, active.computed, self._memory)
        except Exception as error:  # noqa: BLE001 - one scene that fails does not stop the others
            self._gave_up = self._gave_up or disk_full(error)
            return _failed(entry, error, time.perf_counter() - active.clock.begun, begun.prepared, active.computed)
        return _done(entry, report, "done", report.wall_seconds)

    def _leave(self, active: _Active) -> None:
        """Let go of a scene that is not finished: the batch was stopped."""
        spent, entry = time.perf_counter() - active.clock.begun, self._here(active.entry)
        try:
            with active.held:
                check_complete(active.begun, active.computed, active.failures)
        except Exception as error:  # noqa: BLE001 - told in its result
            self._note(active.entry, _failed(entry, error, spent, active.begun.prepared, active.computed))
        else:
            message = "stopped; what was finished is kept"
            self._note(active.entry, SceneResult(entry.shown, entry.folder, "pending", 1, message, seconds=spent))
        self._active = {key: other for key, other in self._active.items() if other is not active}

    def _note(self, entry: Entry, result: SceneResult) -> None:
        with self._guard:
            self._results[entry.folder] = result
            self._listener.scene(result)
            bad = sum(r.status in ("failed", "unusable") for r in self._results.values())
            due = time.monotonic() - self._written > _WRITE_SECONDS
        limit = self._spec.max_failures
        if limit is not None and bad > limit and not self._stop.is_set():
            self._gave_up = True
            self._listener.notice(f"{bad} scenes failed, more than --max-failures {limit}: stopping")
            self._stop.set()
        if due:
            self._written = time.monotonic()
            self.report().write(self._spec.stem)


class _Notices(Silent):
    """A run's listener that passes on what a batch's listener understands."""

    def __init__(self, listener: BatchListener) -> None:
        self._listener = listener

    def notice(self, text: str) -> None:
        """Pass it on."""
        self._listener.notice(text)


def _done(entry: Entry, report: RunReport, status: Status, seconds: float) -> SceneResult:
    polygons = sum(report.polygons.values())
    computed = report.computed if status == "done" else 0
    return SceneResult(entry.shown, entry.folder, status, 0, "", report.blocks, computed, polygons, round(seconds, 3))


def _failed(
    entry: Entry, error: Exception, seconds: float, prepared: PreparedRun | None = None, computed: int = 0
) -> SceneResult:
    """What an error means for its scene."""
    code = error.exit_code if isinstance(error, TilesegError) else TilesegError.exit_code
    status: Status = "failed"
    if code in (InputError.exit_code, UsageError.exit_code):
        status = "unusable"
    elif isinstance(error, LockedError):
        status = "locked"
    elif isinstance(error, Interrupted):
        status, code = "pending", TilesegError.exit_code
    told = isinstance(error, TilesegError)
    message = str(error) if told else f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, BlocksFailed):
        message = " ".join(message.split())
    blocks = 0 if prepared is None else prepared.plan.blocks
    return SceneResult(entry.shown, entry.folder, status, code, message, blocks, computed, seconds=round(seconds, 3))
