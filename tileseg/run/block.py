"""One block, from reading its pixels to its ledger record: the only task that workers know."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import Scaling
from tileseg.cluster import hardware
from tileseg.cluster.hardware import COMPUTE_THREADS
from tileseg.errors import TilesegError
from tileseg.labels import NODATA, Logits, decide
from tileseg.mosaic import Mosaic
from tileseg.plan import Plan
from tileseg.polygons.trace import trace_block
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.source.aoi import Aoi
from tileseg.source.scene import Scene
from tileseg.storage.store import at
from tileseg.window import Window

if TYPE_CHECKING:
    from tileseg.nn.predictor import Predictor

_INFINITE = 0x7C00
"""Exponent bits of a float16: all set in infinities and NaN."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute any block of a run: paths and small values, no arrays, no model."""

    key: str
    """Names the run: workers keep what they loaded for it."""
    scene: Scene
    plan: Plan
    model: Path
    """Model folder."""
    scaling: Scaling
    """With the scene's own statistics filled in where the card wants them."""
    merge: Literal["logits", "probabilities"]
    mosaic: Mosaic
    ledger: Ledger
    aoi: Aoi | None
    ignore: frozenset[int]
    """Class ids that are not vectorised."""
    connectivity: Literal[4, 8]
    compute_threads: int | None
    """Processor threads for the network; None: as many as the worker was told (COMPUTE_THREADS), or may use."""


class NonFiniteLogits(TilesegError):
    """The network gave NaN or infinity."""


class DeviceMemory(TilesegError):
    """Not even the smallest window fits the device's memory."""


def segment_block(job: Job, index: int) -> BlockRecord:
    """Compute, write, trace and record one block. Running it again gives the same files.

    Raises InputError where the scene cannot be read, NonFiniteLogits, DeviceMemory, OSError where the disk is full,
    Superseded where the folder belongs to another run by now.
    """
    if (before := job.ledger.record(index)) is not None:
        # Its worker died between finishing it and saying so.
        return before
    clock = _Clock()
    try:
        valid, notes = _segment(job, index, clock)
    except Exception as error:
        _let_go(error)
        raise
    record = BlockRecord(index, valid, dict(clock.seconds), notes)
    job.ledger.record_done(record)
    return record


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of an error and of those behind it.

    Who keeps it, as Dask does, would keep the block's arrays, and the next attempt has less memory.
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
        pixels, data = job.scene.read_plane(read, plan.reflect, fill_of(job.scaling, job.scene.dtype))
        rows, cols = core.relative_to(read).slices
        valid = data[rows, cols]
        if job.aoi is not None:
            valid = valid & job.aoi.mask(core)
    count = int(np.count_nonzero(valid))
    if count == 0:
        return 0, ()
    with clock("wait"):
        # While one thread has the device, the others read the next block and write the last.
        _DEVICE.acquire()
    try:
        with clock("load"):
            engine = _engine_for(job)
        with clock("network"):
            logits, notes = engine(pixels, valid, core)
    finally:
        _DEVICE.release()
    del pixels
    with clock("labels"):
        _check_finite(logits, valid, core)
        if count < core.pixels:
            logits[:, ~valid] = np.nan
        labels, confidence = decide(logits, valid)
    with clock("polygons"):
        fragment = trace_block(
            labels, confidence, core, Window(0, 0, *plan.scene),
            connectivity=job.connectivity, ignore=job.ignore | {NODATA}, nodata=NODATA,
        )  # fmt: skip
    with clock("write"):
        job.ledger.check()
        job.mosaic.write_block(core, None if plan.keep == "labels" else logits, labels)
        at(job.ledger.fragment(index)).deliver(fragment.save)
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
_DEVICE = threading.Lock()
_engine: tuple[str, Engine] | None = None


def _engine_for(job: Job) -> Engine:
    """The engine of a run, loaded once per process: scenes of a batch share it. The caller holds the device."""
    global _engine  # noqa: PLW0603 - a process has one device, and so one engine
    key, engine = _engine or (None, None)
    if engine is not None and key == job.key:
        return engine
    _engine = None
    if engine is not None and engine.source == _source(job):
        engine.turn_to(job)
    else:
        engine = None  # let go of before the next is loaded
        engine = Engine(job)
    _engine = (job.key, engine)
    return engine


def _source(job: Job) -> tuple[Path, str]:
    return job.model, job.plan.card.sha256


def _functions_of(job: Job) -> tuple[object, ...]:
    """What the compiled functions of a run, and the sizes that they are given, depend on."""
    plan = job.plan
    sizes = plan.tile, plan.step, plan.batch, plan.margin, plan.halo, plan.stitch
    return *sizes, plan.views, plan.precision, job.merge, job.scaling


class Engine:
    """Asks the network for the logits of a block, tile by tile, and puts them together."""

    def __init__(self, job: Job) -> None:
        from tileseg.nn import backend
        from tileseg.nn.bundle import load_bundle

        told = os.environ.get(COMPUTE_THREADS) or hardware.cpu().cores
        backend.configure(threads=job.compute_threads or int(told))
        self._plan = job.plan
        self._scaling = job.scaling
        self._merge = job.merge
        self.source = _source(job)
        """Where the model came from, and its digest."""
        self._made_for = _functions_of(job)
        self._model, self._card = load_bundle(job.model)
        self._predictor: Predictor | None = self._build()

    def turn_to(self, job: Job) -> None:
        """Go on with another run of the same model: what is compiled is kept where it would be the same."""
        if self._made_for == _functions_of(job):
            # Smaller ones for want of memory stay so.
            self._plan = replace(job.plan, tile=self._plan.tile, step=self._plan.step, batch=self._plan.batch)
            return
        self._made_for = _functions_of(job)
        self._plan, self._scaling, self._merge = job.plan, job.scaling, job.merge
        self._predictor = None
        self._predictor = self._build()

    def _build(self) -> Predictor:
        from tileseg.nn.predictor import Predictor

        plan = self._plan
        return Predictor(
            self._model, self._card,
            core=plan.tile, margin=plan.margin, batch=plan.batch, views=plan.views, merge=self._merge,
            precision=plan.precision, halo=plan.halo if plan.stitch == "exact" else 0, scaling=self._scaling,
            output="float16" if plan.stitch == "exact" else "float32",
        )  # fmt: skip

    def __call__(
        self, pixels: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], core: Window
    ) -> tuple[Logits, tuple[str, ...]]:
        """Logits (class, y, x) of a block, and what was done to make it fit.

        ``pixels`` (y, x, band) begin at ``plan.read(core)``; ``valid`` (y, x) is that of the core.
        """
        from tileseg.nn.backend import is_out_of_memory

        notes: list[str] = []
        while True:
            try:
                return self._compute(pixels, valid, core), tuple(notes)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                notes.append(self._shrink(core, error))

    def _shrink(self, core: Window, error: Exception) -> str:
        """Halve the batch, or else the tile. The smaller one is kept for the blocks that follow."""
        plan = self._plan
        if plan.batch > 1:
            self._plan = replace(plan, batch=plan.batch // 2)
            done = f"batch {plan.batch} -> {plan.batch // 2}"
        else:
            height, width = (max(plan.align, -(-side // (2 * plan.align)) * plan.align) for side in plan.tile)
            tile = (height, width)
            if plan.stitch != "exact" or tile == plan.tile:
                raise DeviceMemory(
                    f"block at {core}: the device's memory does not hold one window of {plan.tile[0]}x{plan.tile[1]}"
                    f"{'' if plan.stitch == 'exact' else ' (blended windows keep their size)'}; lower --window or "
                    "--scales, or free the device"
                ) from error
            self._plan = replace(plan, tile=tile, step=tile)
            done = f"window {plan.tile[0]}x{plan.tile[1]} -> {tile[0]}x{tile[1]}"
        self._predictor = None
        self._predictor = self._build()
        return f"device out of memory: {done}"

    def _compute(self, pixels: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], core: Window) -> Logits:
        plan = self._plan
        origin = plan.read(core)
        assert self._predictor is not None
        tiles = [tile for tile in plan.tiles(core) if _any_valid(valid, tile, core)]
        shape = (len(self._card.classes), core.height, core.width)
        exact = plan.stitch == "exact"
        whole = np.full(shape, np.nan, np.float16) if exact else np.zeros(shape, np.float32)
        weight = None if exact else np.multiply.outer(plan.weights(0), plan.weights(1))
        for start in range(0, len(tiles), plan.batch):
            part = tiles[start : start + plan.batch]
            batch = np.stack([_cut(pixels, tile.buffer(plan.margin).relative_to(origin)) for tile in part])
            for tile, logits in zip(part, self._predictor(batch), strict=True):
                overlap = tile.intersection(core)
                assert overlap is not None
                source, target = overlap.relative_to(tile).slices, overlap.relative_to(core).slices
                if weight is None:
                    whole[(slice(None), *target)] = logits[(slice(None), *source)]
                else:
                    whole[(slice(None), *target)] += logits[(slice(None), *source)] * weight[source]
        return whole.astype(np.float16, copy=False)


def _any_valid(valid: npt.NDArray[np.bool_], tile: Window, core: Window) -> bool:
    overlap = tile.intersection(core)
    return overlap is not None and bool(valid[overlap.relative_to(core).slices].any())


def _cut(pixels: npt.NDArray[np.generic], window: Window) -> npt.NDArray[np.generic]:
    """The pixels of a tile.

    After tiles were halved, the last ones may reach past what was read: past the block, and further from its core
    than the network sees.
    """
    rows, cols = window.slices
    part = pixels[rows, cols]
    lack = (window.height - part.shape[0], window.width - part.shape[1])
    return np.pad(part, ((0, lack[0]), (0, lack[1]), (0, 0)), mode="edge") if any(lack) else part
