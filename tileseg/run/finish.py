"""What needs all blocks of a run: pyramid, label COG, quicklook, polygons, and the summary last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tileseg.cluster import hardware
from tileseg.run.folder import OpenRun, T
from tileseg.run.ledger import Ledger, fragment_name
from tileseg.run.names import LABELS, MOSAIC, QUICKLOOK, SUMMARY
from tileseg.run.prepare import PreparedRun
from tileseg.run.report import Listener, RunReport, summary_of
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic

if TYPE_CHECKING:
    from tileseg.mosaic import Mosaic


class Stopwatch:
    """Seconds of the parts of a run, as they pass one after the other."""

    def __init__(self, begun: float) -> None:
        self.begun = self._lap = begun
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Name the part that ends now."""
        now = time.perf_counter()
        self.seconds[name] = now - self._lap
        self._lap = now


def write_outputs(
    begun: OpenRun, listener: Listener, clock: Stopwatch, computed: int, memory: hardware.PeakMemory
) -> RunReport:
    """Everything that needs all blocks: pyramid, COG, quicklook, polygons; the summary last."""
    from tileseg.mosaic import Mosaic
    from tileseg.run.vectorize import vector_paths

    prepared, ledger = begun.prepared, begun.ledger
    folder, plan, grid = prepared.folder, prepared.plan, prepared.scene.grid
    mosaic = Mosaic(folder / MOSAIC)
    mosaic.remove_partial()
    stages: dict[str, float] = {}
    ledger.check()
    empty = set()
    for record in ledger.records():
        if record.valid == 0:
            empty.add(record.index)
        for stage, spent in record.seconds.items():
            stages[f"blocks: {stage}"] = stages.get(f"blocks: {stage}", 0.0) + spent
    listener.stage("labels, quicklook and polygons")
    mosaic.write_pyramid()
    with at(folder).workspace() as desk, ThreadPoolExecutor(2) as pool:
        labels = pool.submit(_timed, stages, "labels.tif", partial(_label_cog, prepared, mosaic, desk))
        picture = pool.submit(_timed, stages, "quicklook", partial(_quicklook, prepared, mosaic, desk, begun.preview))
        vectors = _timed(stages, "polygons", partial(_vectors, prepared, ledger, desk, empty))
        pixels = labels.result()
        picture.result()
    clock.lap("finish")
    wall = time.perf_counter() - clock.begun
    outputs: dict[str, Path | Url] = {
        "mosaic": folder / MOSAIC,
        "labels": folder / LABELS,
        "quicklook": folder / QUICKLOOK,
        **{str(form): folder / path.name for form, path in vector_paths(Path(), prepared.spec.formats).items()},
        "summary": folder / SUMMARY,
    }
    report = RunReport(
        folder=folder,
        outputs=outputs,
        blocks=plan.blocks,
        computed=computed,
        empty=len(empty),
        polygons=vectors,
        pixels=pixels,
        seconds={stage: round(spent, 3) for stage, spent in {**clock.seconds, **stages}.items()},
        wall_seconds=round(wall, 3),
        megapixels_per_second=round(grid.height * grid.width / wall / 1e6, 3),
        peak_memory=memory.peak,
        projected_memory=plan.memory.total,
        notices=prepared.notices,
    )
    ledger.check()
    write_atomic(folder / SUMMARY, json.dumps(summary_of(prepared, report), indent=2) + "\n")
    at(ledger.fragments).remove_tree()
    return report


def _vectors(prepared: PreparedRun, ledger: Ledger, desk: Path, empty: Container[int]) -> dict[str, int]:
    """Polygons of all blocks, joined and written; how many of each class. ``empty``: blocks without any."""
    from tileseg.polygons.fragment import Fragment
    from tileseg.run.vectorize import vector_paths, write_polygons

    with at(ledger.fragments).copied() as fragments:

        def load(index: int) -> Fragment | None:
            return None if index in empty else Fragment.load(fragments / fragment_name(index))

        return write_polygons(
            [block.core for block in prepared.plan],
            load,
            prepared.scene.grid,
            {i: info.name for i, info in enumerate(prepared.card.classes)},
            prepared.vectors,
            vector_paths(desk, prepared.spec.formats),
        ).counts


def _timed(seconds: dict[str, float], name: str, part: Callable[[], T]) -> T:
    start = time.perf_counter()
    try:
        return part()
    finally:
        seconds[f"finish: {name}"] = time.perf_counter() - start


def _label_cog(prepared: PreparedRun, mosaic: Mosaic, desk: Path) -> dict[str, int]:
    """Write the label COG; pixels per class, counted on the way."""
    from tileseg.labels import Labels, count
    from tileseg.publish.cog import write_label_cog
    from tileseg.window import Window

    classes = prepared.card.classes
    counts = np.zeros(256, np.int64)

    def read(window: Window) -> Labels:
        labels = mosaic.read_labels(window)
        count(labels, counts)
        return labels

    cores = (block.core for block in prepared.plan)
    write_label_cog(desk / LABELS, prepared.scene.grid, classes, read, cores)
    return {info.name: int(counts[i]) for i, info in enumerate(classes)}


def _quicklook(prepared: PreparedRun, mosaic: Mosaic, desk: Path, preview: Future[npt.NDArray[np.uint8]]) -> None:
    from tileseg.publish.quicklook import metres_per_pixel, write_quicklook

    plan, grid = prepared.plan, prepared.scene.grid
    rgb = preview.result()
    # The coarsest level that still has the picture's pixels.
    level = max(f for f in (1, *mosaic.levels) if f == 1 or min(s // f for s in plan.scene) >= min(rgb.shape[:2]))
    write_quicklook(
        desk / QUICKLOOK,
        prepared.spec.scene.name,
        rgb,
        mosaic.read_labels(grid.overview(level).extent, level),
        prepared.card.classes,
        metres_per_pixel(grid, rgb.shape[1]),
    )
