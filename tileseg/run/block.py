"""One block, from reading its pixels to its ledger record: the only task that workers know."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.cluster import hardware
from tileseg.cluster.hardware import COMPUTE_THREADS
from tileseg.engine.registry import open_network
from tileseg.engine.tiled import Cut, InferenceSpec, TiledNetwork
from tileseg.errors import TilesegError
from tileseg.labels import NODATA, Logits, decide, spread_bytes
from tileseg.mosaic import Mosaic
from tileseg.plan import Plan
from tileseg.polygons.fragment import save_fragments
from tileseg.polygons.trace import trace_block
from tileseg.run.feeding import Flight
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.source.aoi import Aoi
from tileseg.source.protocol import PixelSource
from tileseg.source.scene import read_plane
from tileseg.storage.store import at
from tileseg.window import Window

_INFINITE = 0x7C00
"""Exponent bits of a float16: all set in infinities and NaN."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute any block of a run: paths and small values, no arrays, no model."""

    key: str
    """Names the run."""
    scene: PixelSource
    plan: Plan
    model: Path
    """Model folder."""
    scaling: Scaling
    """The card's scaling, with the scene's own statistics where the card wants them."""
    merge: Literal["logits", "probabilities"]
    mosaic: Mosaic
    ledger: Ledger
    aoi: Aoi | None
    ignore: frozenset[int]
    """Class ids that are not vectorised."""
    connectivity: Literal[4, 8]
    compute_threads: int | None
    """Processor threads for the network; None: as many as the worker's environment says (COMPUTE_THREADS), or all."""


class NonFiniteLogits(TilesegError):
    """The network gave NaN or infinity."""


def segment_block(job: Job, index: int) -> BlockRecord:
    """Compute, write, trace and record one block. Running it again gives the same files.

    Raises InputError where the scene cannot be read or the model folder is another by now, NonFiniteLogits,
    DeviceMemory, OSError where the disk is full, Superseded where the folder belongs to another run by now.
    """
    if (before := job.ledger.record(index)) is not None:
        # Its worker died between finishing it and saying so.
        return before
    clock = _Clock()
    try:
        with _FLIGHT.block(job.plan.threads):
            valid, notes = _segment(job, index, clock)
    except Exception as error:
        _clear_frames(error)
        raise
    record = BlockRecord(index, valid, dict(clock.seconds), notes)
    job.ledger.record_done(record)
    return record


def _clear_frames(error: BaseException | None) -> None:
    """Empty the frames of an error and of those behind it.

    Dask keeps errors: with their frames it would keep the block's arrays, and the next attempt would have less memory.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _segment(job: Job, index: int, clock: _Clock) -> tuple[int, tuple[str, ...]]:
    """Valid pixels, and what the user should know."""
    plan = job.plan
    core = plan[index].core
    if job.aoi is not None and not job.aoi.touches(core):
        return 0, ()
    read = plan.read(core)
    with clock("read"):
        pixels, data = read_plane(job.scene, read, plan.reflect, fill_of(job.scaling, job.scene.dtype))
        rows, cols = core.relative_to(read).slices
        valid = data[rows, cols]
        if job.aoi is not None:
            valid = valid & job.aoi.mask(core)
        count = int(np.count_nonzero(valid))
        if count == 0:
            return 0, ()
        cut = Cut(InferenceSpec(plan, job.scaling, job.merge), pixels, valid, core)
    with clock("wait"):
        # While one thread has the device, the others read the next blocks and write the last.
        _FLIGHT.take()
    try:
        with clock("load"):
            network = _network_for(job)
        with clock("network"):
            pieces = network(cut)
    finally:
        _FLIGHT.leave()
    del pixels, cut
    with clock("labels"):
        logits, notes = pieces.whole(), pieces.notes
        del pieces
        classes = len(plan.card.classes)
        logits, more = logits[:classes], logits[classes:]
        _check_finite(logits, valid, core)
        spread = spread_bytes(more[0], valid) if plan.disagreement else None
        if count < core.pixels:
            logits[:, ~valid] = np.nan
        labels, confidence = decide(logits, valid, plan.card.divisor)
    with clock("write"):
        job.ledger.check()
        job.mosaic.write_block(core, None if plan.keep == "labels" else logits, labels, spread)
    del logits, more

    def trace(path: Path) -> None:
        fragments = trace_block(
            labels, confidence, core, Window(0, 0, *plan.scene),
            connectivity=job.connectivity, ignore=job.ignore | {NODATA}, nodata=NODATA, disagreement=spread,
        )  # fmt: skip
        save_fragments(path, fragments)

    with clock("polygons"):
        at(job.ledger.fragment(index)).deliver(trace)
    return count, notes


def fill_of(scaling: Scaling, dtype: str) -> tuple[float, ...]:
    """The pixel value that the scaling maps to 0, per band: what the network sees where there is no data."""
    values = list(scaling.zero)
    if np.dtype(dtype).kind in "ui":
        limits = np.iinfo(dtype)
        values = [float(np.clip(round(v), limits.min, limits.max)) for v in values]
    return tuple(values)


def _check_finite(logits: Logits, valid: npt.NDArray[np.bool_], core: Window) -> None:
    """Raise NonFiniteLogits at the first valid pixel without a number.

    Pixels without data are not looked at: windows that hold nothing else are never computed.
    """
    bad = np.zeros(valid.shape, np.bool_)
    for plane in logits.view(np.uint16):  # one class after the other: a copy of all would be as large as the logits
        bad |= np.bitwise_and(plane, _INFINITE) == _INFINITE
    bad &= valid
    if bad.any():
        row, col = np.argwhere(bad)[0]
        raise NonFiniteLogits(
            f"block at {core}: the network gave NaN or infinity, first at row {core.row_off + row}, "
            f"column {core.col_off + col}; try --precision float32, or check the card's scaling"
        )


class _Clock:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


# One device per process: one network runs at a time, and one model is kept.
_FLIGHT = Flight()
NETWORK_LOADED = threading.Event()
"""Set when this process has its first network, or will have none: until then, whatever else needs Python waits."""
_loaded: tuple[_Model, TiledNetwork] | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    """What a loaded network depends on; how it is asked is :class:`tileseg.engine.tiled.InferenceSpec`'s matter."""

    folder: Path
    card: ModelCard
    """Card with the form alone that is computed, by its SHA-256."""
    engine: str
    threads: int
    """Threads of the processor."""


def _network_for(job: Job) -> TiledNetwork:
    """The network of a run, loaded once per process: runs of the same model share it. The caller holds the device."""
    global _loaded  # noqa: PLW0603 - a process has one device, and so one network
    threads = job.compute_threads or int(os.environ.get(COMPUTE_THREADS) or hardware.cpu().cores)
    plan = job.plan
    model = _Model(job.model, plan.card.using(plan.form), plan.engine, threads)
    if _loaded is None or _loaded[0] != model:
        _loaded = None  # goes before the next is loaded
        try:
            network = open_network(model.folder, model.card, threads, engine=plan.engine, form=plan.form)
        finally:
            NETWORK_LOADED.set()
        _loaded = (model, TiledNetwork(network))
    return _loaded[1]
