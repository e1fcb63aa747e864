"""A run's folder: who holds it, whether it is finished, where a run goes on."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tileseg.ahead import computed_ahead
from tileseg.errors import InputError, OutputsGone, TilesegError, UsageError, disk_full, not_writable
from tileseg.formats import FORMATS
from tileseg.run.identity import Record, check_engine, foreign, polygons_differ, refuse_other, resumed, tracing_differs
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.run.names import DONE, FRAGMENTS, MOSAIC, RECORD, STATE, SUMMARY, written_files
from tileseg.run.prepare import PreparedRun
from tileseg.run.report import RunReport
from tileseg.storage.lease import Hold
from tileseg.storage.place import Url, printable
from tileseg.storage.store import at, write_atomic
from tileseg.window import Window

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

_HEAD_START = 5.0
"""Seconds at most that a network is waited for before other things are loaded."""
_QUICKLOOK_PIXELS = 900
"""Longest side of a quicklook's pictures."""


@dataclass(frozen=True)
class HeldFolder:
    """A run's folder that this process holds."""

    ledger: Ledger
    lease: Hold


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder is held by this process, and what is left to compute."""

    prepared: PreparedRun
    """The prepared run, with the sizes that an earlier call chose, if there was one."""
    record: Record
    """What ``run.json`` says, or is to say once the polygons of a finished run are made anew."""
    ledger: Ledger
    lease: Hold
    pending: tuple[int, ...]
    """Blocks that are not done yet."""
    done: int
    """Blocks that earlier calls finished."""
    before: RunReport | None
    """Report of a finished run, of which only the polygons are made anew; else None."""
    preview: Future[npt.NDArray[np.uint8]]
    """The scene's picture (y, x, 3), read while blocks are computed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What ``summary.json`` says of a finished run."""

    record: Record
    report: RunReport


def read_summary(folder: Path | Url) -> Summary | None:
    """The summary in a run's folder, or None where no run is finished. Raises InputError in one line."""
    path = folder / SUMMARY
    try:
        text = at(path).read()
    except FileNotFoundError:
        return None
    except (TilesegError, TimeoutError):
        raise
    except OSError as error:  # a file where the folder should be, or a folder that may not be read
        raise not_writable(folder, error) from error
    try:
        values = json.loads(text)
    except ValueError:
        raise InputError(f"{path}: damaged: not JSON; choose another --out, or start anew with --overwrite") from None
    try:
        record = Record.parse(_record_in(values), path)
        report = dict(values["report"])
        report["folder"] = folder
        report["outputs"] = {str(name): folder / Path(place).name for name, place in report["outputs"].items()}
        report["notices"] = tuple(report["notices"])
        return Summary(record, RunReport(**report))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise foreign(path, values) from None


def _record_in(values: Any) -> dict[str, Any]:
    """The part of a summary that is the run's record."""
    return {
        "identity": values["identity"],
        "scene": values["scene"]["path"],
        "begun": "",
        **{name: values[name] for name in ("sizes", "earlier_sizes") if name in values},
    }


def finished(prepared: PreparedRun) -> RunReport | None:
    """The report of a run that is finished and had the same options, or None.

    None, too, where its mosaic gives what is missing: outputs that were removed since, or polygons by other options
    (:func:`begin` and :func:`tileseg.run.finish.write_outputs` make them). Raises UsageError where other options
    differ, OutputsGone where what was removed cannot be made again.
    """
    summary = read_summary(prepared.folder)
    if summary is None:
        return None
    refuse_other(prepared, summary.record)
    report = summary.report
    files, folders = at(prepared.folder).listed()
    if gone := sorted({path.name for path in report.outputs.values()} - {*files, *folders}):
        # Of labels alone, polygons would have no probabilities.
        if MOSAIC in gone or prepared.plan.keep == "labels" or Record.read(prepared.folder) is None:
            raise OutputsGone(
                f"{prepared.folder}: was finished, but {', '.join(gone)} is not there any more; put it back, or start "
                "anew with --overwrite"
            )
        return None
    if polygons_differ(prepared, summary.record):
        if Record.read(prepared.folder) is None:
            raise OutputsGone(
                f"{prepared.folder}: was finished, but {STATE}/{RECORD} is not there any more, without which its "
                f"polygons are not made anew; use tileseg vectorize {prepared.folder}, or start anew with --overwrite"
            )
        return None
    return replace(report, computed=0, finished_before=True)


@contextlib.contextmanager
def hold(prepared: PreparedRun, lost: Callable[[], None]) -> Iterator[HeldFolder]:
    """Make the folder and hold it for this process. Raises InputError, LockedError; ``lost`` is as of a lease."""
    _check_name(prepared.folder)
    if not prepared.spec.overwrite:
        _check_own(prepared.folder)
    _check_writable(prepared.folder)
    ledger = Ledger(prepared.folder / STATE)
    with ledger.lock(lost) as lease:
        for name in at(prepared.folder).listed()[1]:
            if name.startswith(".") and name.endswith(".partial"):  # of a process that was killed
                at(prepared.folder / name).remove_tree()
        yield HeldFolder(ledger, lease)


def begin(prepared: PreparedRun, held: HeldFolder) -> OpenRun:
    """Begin anew, or go on with the sizes that the earlier run chose. The folder is held.

    Raises UsageError where the folder was made with other options, OSError where it cannot be written.
    """
    folder, ledger = prepared.folder, held.ledger
    record = None if prepared.spec.overwrite else Record.read(folder)
    before: RunReport | None = None
    if record is None:
        record = Record.start(prepared)
        ledger = replace(ledger, begun=record.begun)
        _start(prepared, ledger, record)
    else:
        prepared, now = resumed(prepared, record)
        ledger = replace(ledger, begun=record.begun)
        before = _go_on(prepared, ledger, record, now)
        record = now
    preview = _in_background(partial(_get_ready, prepared))
    done = ledger.done()
    pending = tuple(i for i in range(prepared.plan.blocks) if i not in done)
    if pending:
        check_engine(prepared)
    return OpenRun(prepared, record, ledger, held.lease, pending, len(done), before, preview)


def _start(prepared: PreparedRun, ledger: Ledger, record: Record) -> None:
    """Make an empty mosaic, and the record of the run last."""
    from tileseg.mosaic import create_mosaic

    _clear(prepared.folder)
    create_mosaic(
        prepared.folder / MOSAIC,
        prepared.scene.grid,
        prepared.plan.block,
        prepared.card.classes,
        prepared.plan.keep,
        {
            "model": prepared.card.name,
            "model_sha256": prepared.card.sha256,
            "merge": prepared.spec.merge,
            **({"hands_over": usual} if (usual := prepared.card.hands_over.given) else {}),
            **{name: value for name, value in prepared.card.decides.items() if name in ("temperature", "objects")},
        },
        disagreement=prepared.plan.disagreement,
    )
    at(ledger.root).make_folder()
    write_atomic(ledger.run_file, record.model_dump_json())


def _go_on(prepared: PreparedRun, ledger: Ledger, record: Record, now: Record) -> RunReport | None:
    """See that each finished block has its polygons; the report of a finished run whose polygons are made anew.

    The record of a finished run is written by whoever writes the polygons: until then, the old ones are there.
    """
    from tileseg.mosaic import Mosaic

    Mosaic(prepared.folder / MOSAIC).remove_partial()
    summary = read_summary(prepared.folder)
    anew = summary is not None and polygons_differ(prepared, summary.record)
    if anew or tracing_differs(prepared, record):
        at(ledger.fragments).remove_tree()
    if not anew and now != record:
        write_atomic(ledger.run_file, now.model_dump_json())
    missing = ledger.without_polygons()
    if prepared.plan.keep == "labels":
        for block in missing:
            ledger.take_back(block.index)
    elif missing:
        _trace_again(prepared, ledger, missing)
    if not anew or summary is None:
        return None
    files, folders = at(prepared.folder).listed()
    vectors = set(FORMATS)
    there = {*files, *folders}
    return (
        summary.report
        if all(place.name in there for name, place in summary.report.outputs.items() if name not in vectors)
        else None
    )


def _trace_again(prepared: PreparedRun, ledger: Ledger, records: Sequence[BlockRecord]) -> None:
    """Make the polygons of finished blocks again from the mosaic, as the blocks made them."""
    from tileseg.mosaic import Mosaic
    from tileseg.polygons.fragment import save_fragments
    from tileseg.run.vectorize import Classes, trace, tracing_threads

    mosaic, classes = Mosaic(prepared.folder / MOSAIC), Classes({}, prepared.ignore)

    def work(record: BlockRecord) -> None:
        fragments = trace(mosaic, prepared.plan[record.index].core, classes, prepared.spec)
        if fragments is not None:
            place = ledger.fragment(record.index)
            at(place.parent).make_folder()
            at(place).deliver(partial(save_fragments, fragments=fragments))

    threads = tracing_threads(prepared.plan[0].core)
    for _ in computed_ahead(work, records, ahead=2 * threads, threads=threads):
        pass


def _check_name(folder: Path | Url) -> None:
    """Raise InputError where the folder's name, or that of one around it, is none for GDAL and JSON."""
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{printable(str(folder))}: its name, or that of a folder around it, is not UTF-8; choose another --out"
        ) from None


def _check_own(folder: Path | Url) -> None:
    """Raise UsageError where outputs would replace files that no run wrote: the folder has no state of one.

    Raises InputError where the folder cannot be looked into.
    """
    try:
        files, folders = at(folder).listed()
    except TilesegError:
        raise
    except OSError as error:  # a bucket that is not there, a folder that may not be read
        raise not_writable(folder, error) from error
    taken = sorted([*written_files(files), *({MOSAIC} & {*files, *folders})])
    if STATE not in folders and taken:
        raise UsageError(
            f"{folder}: {', '.join(taken)} is there, but no run of tileseg wrote it; choose another --out, or replace "
            "it with --overwrite"
        )


def _check_writable(folder: Path | Url) -> None:
    """Make the folder. Raises InputError where it cannot be written, OSError where the disk is full."""
    try:
        at(folder / STATE).check_writable()
    except TilesegError:
        raise
    except OSError as error:
        if disk_full(error):
            raise
        raise not_writable(folder, error) from error


def _clear(folder: Path | Url) -> None:
    """Remove what an earlier run wrote, and nothing else; what says that it is finished goes first.

    Raises InputError where something stays: a record that is left would be taken for one of the new run.
    """
    try:
        at(folder / SUMMARY).remove()
        at(folder / STATE / RECORD).remove()
        for name in written_files(at(folder).listed()[0]):
            at(folder / name).remove()
        for place in (folder / MOSAIC, folder / STATE / DONE, folder / STATE / FRAGMENTS):
            at(place).remove_tree()
    except TilesegError:
        raise
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be removed: {error.strerror or error}; remove it, or choose another "
            "--out"
        ) from error


def _in_background(part: Callable[[], T]) -> Future[T]:
    """Start it in a thread that an interrupted process does not wait for."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(part())
        except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _get_ready(prepared: PreparedRun) -> npt.NDArray[np.uint8]:
    """Read the scene's picture (y, x, 3) for the quicklook, and compile or load what the outputs need.

    One thread at a time runs Python. Where this process computes the network, that is loaded first, and the rest while
    it computes.
    """
    from tileseg.run.vectorize import warm_up
    from tileseg.source.picture import overview_rgb

    picture = overview_rgb(prepared.scene, _QUICKLOOK_PIXELS, pictured(prepared))
    if prepared.plan.workers == 0:
        from tileseg.run.block import NETWORK_LOADED

        NETWORK_LOADED.wait(_HEAD_START)
    warm_up(regular=prepared.spec.regularize is not None)
    import tileseg.publish.label_cog
    import tileseg.publish.quicklook  # noqa: F401 - for the finish

    return picture


def pictured(prepared: PreparedRun) -> Window:
    """What the quicklook shows: the scene, or what of it the area lies in, in whole pixels of the pyramid's level."""
    extent = prepared.scene.grid.extent
    if prepared.aoi is None:
        return extent
    left, top, right, bottom = prepared.aoi.area.bounds
    longest = max(right - left, bottom - top, 1.0)
    step = 2 ** max(0, math.ceil(math.log2(longest / _QUICKLOOK_PIXELS)))
    row, col = (max(0, math.floor(side / step) * step) for side in (top, left))
    rows, cols = (math.ceil(side / step) * step for side in (bottom, right))
    inside = Window(row, col, max(1, rows - row), max(1, cols - col)).intersection(extent)
    return extent if inside is None else inside
