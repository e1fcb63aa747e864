"""A run's folder: who holds it, whether it is finished, where a run goes on."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args
from uuid import uuid4

from tileseg.errors import (
    InputError,
    OutputsGone,
    TilesegError,
    disk_full,
    not_writable,
)
from tileseg.run.identity import refuse_other
from tileseg.run.ledger import Ledger
from tileseg.run.names import LABELS, MOSAIC, QUICKLOOK, STATE, SUMMARY
from tileseg.run.prepare import PreparedRun
from tileseg.run.report import RunReport
from tileseg.spec import VectorFormat
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

_QUICKLOOK_PIXELS = 900
"""Longest side of a quicklook's pictures."""


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder is held by this process, and what is left to compute."""

    prepared: PreparedRun
    """With the sizes that an earlier call chose, if there was one."""
    ledger: Ledger
    pending: tuple[int, ...]
    """Blocks that are not done yet."""
    done: int
    """Blocks that earlier calls finished."""
    preview: Future[npt.NDArray[np.uint8]]
    """The scene's picture (y, x, 3), read while blocks are computed."""


def finished(prepared: PreparedRun) -> RunReport | None:
    """The report of a run that is finished and had the same options, or None.

    None, too, where outputs were removed since that its mosaic gives again: :func:`begin` and :func:`finish` make them.
    Raises UsageError where the options differ, OutputsGone where what was removed cannot be made again.
    """
    path = prepared.folder / SUMMARY
    try:
        text = at(path).read()
    except FileNotFoundError:
        return None
    except (TilesegError, TimeoutError):
        raise
    except OSError as error:  # a file where the folder should be, or a folder that may not be read
        raise not_writable(prepared.folder, error) from error
    try:
        summary = json.loads(text)
    except ValueError:
        raise InputError(f"{path}: damaged; start anew with --overwrite") from None
    refuse_other(prepared, summary["identity"], summary["scene"]["path"])
    report = dict(summary["report"])
    report["folder"] = prepared.folder
    report["outputs"] = {name: prepared.folder / Path(path).name for name, path in report["outputs"].items()}
    report["notices"] = tuple(report["notices"])
    files, folders = at(prepared.folder).listed()
    if gone := sorted({path.name for path in report["outputs"].values()} - {*files, *folders}):
        # Of labels alone, polygons would have no probabilities.
        if MOSAIC in gone or prepared.spec.keep == "labels" or Ledger(prepared.folder / STATE).read_run() is None:
            raise OutputsGone(
                f"{prepared.folder}: was finished, but {', '.join(gone)} is not there any more; put it back, or start "
                "anew with --overwrite"
            )
        return None
    return RunReport(**{**report, "computed": 0, "finished_before": True})


@contextlib.contextmanager
def hold(prepared: PreparedRun, lost: Callable[[], None]) -> Iterator[Ledger]:
    """Make the folder and hold it for this process. Raises InputError, LockedError; ``lost`` is as of a lease."""
    _check_writable(prepared.folder)
    ledger = Ledger(prepared.folder / STATE)
    with ledger.lock(lost):
        yield ledger


def begin(prepared: PreparedRun, ledger: Ledger) -> OpenRun:
    """Begin anew, or go on with the sizes that the earlier run chose. The folder is held.

    Raises UsageError where the folder was made with other options.
    """
    prepared, ledger = _claim(prepared, ledger)
    if at(prepared.folder / SUMMARY).exists():  # it was finished, and outputs were removed since
        _trace_again(prepared, ledger)
    ledger.take_back()
    preview = _in_background(partial(_get_ready, prepared))
    done = ledger.done()
    pending = tuple(i for i in range(prepared.plan.blocks) if i not in done)
    return OpenRun(prepared, ledger, pending, len(done), preview)


def _trace_again(prepared: PreparedRun, ledger: Ledger) -> None:
    """Make the polygons of the blocks again, which a finished run keeps no more, as the blocks made them."""
    from tileseg.mosaic import Mosaic
    from tileseg.run.vectorize import Classes, trace

    mosaic, classes = Mosaic(prepared.folder / MOSAIC), Classes({}, prepared.ignore)
    for record in ledger.records():
        fragment = trace(mosaic, prepared.plan[record.index].core, classes, prepared.vectors) if record.valid else None
        if fragment is not None:
            place = ledger.fragment(record.index)
            at(place.parent).make_folder()
            at(place).deliver(fragment.save)


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


def _claim(prepared: PreparedRun, ledger: Ledger) -> tuple[PreparedRun, Ledger]:
    """The run with the sizes that it is computed with, and its ledger; an empty mosaic if it begins anew."""
    from tileseg.mosaic import Mosaic, create_mosaic

    folder, plan = prepared.folder, prepared.plan
    earlier = None if prepared.spec.overwrite else ledger.read_run()
    if earlier is not None:
        refuse_other(prepared, earlier["identity"], earlier.get("scene"))
        chosen = earlier["plan"]
        Mosaic(folder / MOSAIC).remove_partial()
        # Given by the user or chosen by the first call: the same sizes, so that the result is byte-identical.
        plan = replace(
            plan,
            block=tuple(chosen["block"]),
            tile=tuple(chosen["tile"]),
            step=tuple(chosen["step"]),
            batch=chosen["batch"],
            precision=chosen["precision"],
        )
        return replace(prepared, plan=plan), replace(ledger, begun=earlier.get("begun", ""))
    _clear(folder)
    create_mosaic(
        folder / MOSAIC,
        prepared.scene.grid,
        plan.block,
        prepared.card.classes,
        plan.keep,
        {"model": prepared.card.name, "model_sha256": prepared.card.sha256, "merge": prepared.spec.merge},
    )
    chosen = {name: getattr(plan, name) for name in ("block", "tile", "step", "batch", "precision")}
    at(ledger.root).make_folder()
    ledger = replace(ledger, begun=uuid4().hex)
    facts = {"identity": prepared.identity, "plan": chosen, "begun": ledger.begun, "scene": str(prepared.spec.scene)}
    write_atomic(ledger.run_file, json.dumps(facts))
    return prepared, ledger


def _clear(folder: Path | Url) -> None:
    """Remove what an earlier run wrote, and nothing else; what says that it is finished goes first."""
    from tileseg.run.vectorize import vector_paths

    vectors = (path.name for path in vector_paths(Path(), get_args(VectorFormat)).values())
    for name in (SUMMARY, f"{STATE}/run.json", LABELS, f"{LABELS}.aux.xml", QUICKLOOK, *vectors):
        at(folder / name).remove()
    for name in (MOSAIC, f"{STATE}/done", f"{STATE}/fragments"):
        at(folder / name).remove_tree()


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
    """Compile or load what the finish needs, and read the scene's picture (y, x, 3) for the quicklook."""
    from tileseg.run.vectorize import warm_up
    from tileseg.source.picture import overview_rgb

    warm_up()
    return overview_rgb(prepared.scene, _QUICKLOOK_PIXELS)
