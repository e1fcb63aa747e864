"""What needs all blocks of a run: pyramid, label COG, quicklook, polygons, and the summary last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tileseg.cluster import hardware
from tileseg.errors import InputError, TilesegError, disk_full
from tileseg.formats import FORMATS, STYLE, style_paths, vector_paths
from tileseg.run.folder import OpenRun, T, pictured
from tileseg.run.ledger import Ledger, fragment_name
from tileseg.run.names import DISAGREEMENT, LABELS, MOSAIC, PROJECT, QUICKLOOK, SUMMARY, probability_files
from tileseg.run.prepare import PreparedRun
from tileseg.run.project import write_run_project
from tileseg.run.report import Listener, RunReport, summary_of
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic
from tileseg.window import Window

if TYPE_CHECKING:
    from tileseg.mosaic import Mosaic


class Stopwatch:
    """Seconds of the parts of a run, as they pass one after the other."""

    def __init__(self, start: float) -> None:
        self.start = self._lap = start
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Name the part that ends now."""
        now = time.perf_counter()
        self.seconds[name] = now - self._lap
        self._lap = now


def write_outputs(
    opened: OpenRun, listener: Listener, clock: Stopwatch, computed: int, memory: hardware.PeakMemory
) -> RunReport:
    """Write everything that needs all blocks: pyramid, COG, quicklook, polygons; the summary last.

    Of a finished run whose polygons are to be other ones, only those. Outputs that are there stay until all new ones
    are complete. Raises LockedError where another process took the folder meanwhile, TilesegError where something
    cannot be written, OSError where the disk is full.
    """
    try:
        if opened.before is not None:
            return _write_polygons_anew(opened, opened.before, listener, clock, memory)
        return _write_all(opened, listener, clock, computed, memory)
    except TilesegError:
        raise
    except OSError as error:
        if disk_full(error):
            raise
        raise TilesegError(
            f"{error.filename or opened.prepared.folder}: cannot be written: {error.strerror or error}; "
            "what was computed is kept: run the same command again"
        ) from error


def _write_all(
    opened: OpenRun, listener: Listener, clock: Stopwatch, computed: int, memory: hardware.PeakMemory
) -> RunReport:
    from tileseg.mosaic import Mosaic

    prepared, ledger = opened.prepared, opened.ledger
    folder, plan, grid = prepared.folder, prepared.plan, prepared.scene.grid
    mosaic = Mosaic(folder / MOSAIC)
    mosaic.remove_partial()
    stages: dict[str, float] = {}
    opened.lease.check()
    ledger.check()
    empty = set()
    for record in ledger.records():
        if record.valid == 0:
            empty.add(record.index)
        for stage, spent in record.seconds.items():
            stages[f"blocks: {stage}"] = stages.get(f"blocks: {stage}", 0.0) + spent
    listener.stage("labels, quicklook and polygons")
    mosaic.write_pyramid()
    notices = list(prepared.notices)
    with at(folder).workspace() as workspace:
        with ThreadPoolExecutor(2) as pool:
            labels = pool.submit(_timed, stages, LABELS, partial(_label_cog, prepared, mosaic, workspace))
            picture = pool.submit(_timed, stages, "quicklook", partial(_quicklook, opened, mosaic, workspace))
            measures = pool.submit(_timed, stages, "measures", partial(_measure_cogs, prepared, mosaic, workspace))
            polygons = _timed(stages, "polygons", partial(_vectors, prepared, ledger, workspace, empty))
            pixels = labels.result()
            measures.result()
            if (problem := picture.result()) is not None:
                notices.append(problem)
                listener.notice(problem)
        write_run_project(prepared, workspace, _measures(prepared))
        _publish_outputs(opened)
    clock.lap("finish")
    wall = time.perf_counter() - clock.start
    report = RunReport(
        folder=folder,
        outputs=_outputs(prepared, quicklook=problem is None),
        blocks=plan.blocks,
        computed=computed,
        empty=len(empty),
        polygons=polygons,
        pixels=pixels,
        seconds={stage: round(spent, 3) for stage, spent in {**clock.seconds, **stages}.items()},
        wall_seconds=round(wall, 3),
        megapixels_per_second=round(grid.height * grid.width / wall / 1e6, 3),
        peak_memory=memory.peak,
        projected_memory=plan.memory.total,
        notices=tuple(notices),
    )
    _write_summary(opened, report)
    return report


def _write_polygons_anew(
    opened: OpenRun, before: RunReport, listener: Listener, clock: Stopwatch, memory: hardware.PeakMemory
) -> RunReport:
    """Make the polygons of a finished run by other options, from its mosaic, and write its summary anew."""
    prepared, ledger = opened.prepared, opened.ledger
    stages: dict[str, float] = {}
    listener.stage("polygons")
    empty = {record.index for record in ledger.records() if record.valid == 0}
    with at(prepared.folder).workspace() as workspace:
        polygons = _timed(stages, "polygons", partial(_vectors, prepared, ledger, workspace, empty))
        write_run_project(prepared, workspace, _measures(prepared))
        _publish_outputs(opened)
    outputs = _outputs(prepared, quicklook="quicklook" in before.outputs)
    for name, place in before.outputs.items():
        if name not in outputs and name in FORMATS:
            at(place).remove()  # its polygons are those of the options before
    clock.lap("finish")
    report = replace(
        before,
        outputs=outputs,
        computed=0,
        polygons=polygons,
        seconds={**before.seconds, **{stage: round(spent, 3) for stage, spent in stages.items()}},
        wall_seconds=round(time.perf_counter() - clock.start, 3),
        peak_memory=memory.peak,
        notices=prepared.notices,
        only_polygons=True,
    )
    _write_summary(opened, report)
    return report


def _publish_outputs(opened: OpenRun) -> None:
    """Look for the last time whether the folder is ours, and unmark it as finished until all outputs are in it.

    From here on, what a killed process leaves is a run whose blocks are all done, with the options of this one.
    """
    opened.lease.check()
    opened.ledger.check()
    write_atomic(opened.ledger.run_file, opened.record.model_dump_json())
    at(opened.prepared.folder / SUMMARY).remove()


def _write_summary(opened: OpenRun, report: RunReport) -> None:
    """Write what says that the run is finished; then nobody needs the polygons of single blocks."""
    opened.lease.check()
    opened.ledger.check()
    text = json.dumps(summary_of(opened.prepared, opened.record, report), indent=2)
    write_atomic(opened.prepared.folder / SUMMARY, text + "\n")
    with suppress(OSError):
        at(opened.ledger.fragments).remove_tree()


def _outputs(prepared: PreparedRun, *, quicklook: bool) -> dict[str, Path | Url]:
    """Name -> place of what a run writes."""
    folder = prepared.folder
    return {
        "mosaic": folder / MOSAIC,
        "labels": folder / LABELS,
        **{Path(name).stem: folder / name for name in _measures(prepared)},
        **{f"{path.stem}_style": folder / path.name for path in _styles(prepared)},
        **({"quicklook": folder / QUICKLOOK} if quicklook else {}),
        "project": folder / PROJECT,
        **{form: folder / path.name for form, path in vector_paths(Path(), prepared.spec.formats).items()},
        "summary": folder / SUMMARY,
    }


def _styles(prepared: PreparedRun) -> list[Path]:
    """Names of the styles that QGIS looks for beside what a run writes."""
    rasters = [Path(name).with_suffix(STYLE) for name in (LABELS, *_measures(prepared))]
    return [*rasters, *style_paths(vector_paths(Path(), prepared.spec.formats)).values()]


def _vectors(prepared: PreparedRun, ledger: Ledger, workspace: Path, empty: Container[int]) -> dict[str, int]:
    """Polygons of all blocks, joined and written; how many of each class. ``empty``: blocks without any."""
    from tileseg.polygons.fragment import Fragment, load_fragments
    from tileseg.run.vectorize import Classes, chances_of, write_polygons

    card = prepared.card
    chances = chances_of(card.classes, {name: chance.weights for name, chance in card.objects.items()})
    with at(ledger.fragments).copied() as fragments:

        def load(index: int) -> tuple[Fragment, ...] | None:
            return None if index in empty else load_fragments(fragments / fragment_name(index))

        return write_polygons(
            [block.core for block in prepared.plan],
            load,
            prepared.scene.grid,
            replace(Classes.of_card(card.classes, prepared.spec.classes), chances=chances),
            prepared.spec,
            vector_paths(workspace, prepared.spec.formats),
        ).counts


def _timed(seconds: dict[str, float], name: str, part: Callable[[], T]) -> T:
    start = time.perf_counter()
    try:
        return part()
    finally:
        seconds[f"finish: {name}"] = time.perf_counter() - start


def _label_cog(prepared: PreparedRun, mosaic: Mosaic, workspace: Path) -> dict[str, int]:
    """Write the label COG; pixels per class, counted on the way."""
    from tileseg.labels import Labels, count
    from tileseg.publish.label_cog import write_label_cog

    classes = prepared.card.classes
    counts = np.zeros(256, np.int64)

    def read(window: Window) -> Labels:
        labels = mosaic.read_labels(window)
        count(labels, counts)
        return labels

    cores = (block.core for block in prepared.plan)
    write_label_cog(workspace / LABELS, prepared.scene.grid, classes, read, cores, threads=hardware.cpu().cores)
    return {info.name: int(counts[i]) for i, info in enumerate(classes)}


def _measures(prepared: PreparedRun) -> dict[str, int | None]:
    """Files of what is kept of pixels beside their labels -> the class whose probability it is; None: disagreement."""
    plan = prepared.plan
    files = probability_files(prepared.card.classes) if plan.keep == "probabilities" else {}
    return {**{name: i for i, name in files.items()}, **({DISAGREEMENT: None} if plan.disagreement else {})}


def _measure_cogs(prepared: PreparedRun, mosaic: Mosaic, workspace: Path) -> None:
    """Write them as COGs."""
    from tileseg.labels import BYTE_STEPS, NODATA, SPREAD_STEP, as_bytes
    from tileseg.publish.cog import Bytes, Layer, write_cogs
    from tileseg.publish.measure_cog import Measure

    files, classes = _measures(prepared), prepared.card.classes
    if not files:
        return

    def read(window: Window) -> list[Bytes]:
        found: list[Bytes] = []
        if ids := [i for i in files.values() if i is not None]:
            valid, chances = mosaic.read_labels(window) != NODATA, mosaic.read_probabilities(window)
            found += [as_bytes(chances[i], valid) for i in ids]
        if (spread := mosaic.read_disagreement(window)) is not None:
            found.append(spread)
        return found

    def meaning(class_id: int | None) -> Measure:
        if class_id is None:
            return Measure("standard deviation of probabilities over views", SPREAD_STEP)
        return Measure(f"probability of {classes[class_id].name}", 1 / BYTE_STEPS)

    layers = [Layer(workspace / name, meaning(i)) for name, i in files.items()]
    cores = (block.core for block in prepared.plan)
    write_cogs(layers, prepared.scene.grid, read, cores, threads=hardware.cpu().cores)


def _quicklook(opened: OpenRun, mosaic: Mosaic, workspace: Path) -> str | None:
    """Write the picture; what to say where the scene cannot be read for it: that alone fails no run."""
    from tileseg.publish.quicklook import write_quicklook

    prepared = opened.prepared
    window, levels = pictured(prepared), (1, *mosaic.levels)
    try:
        rgb = opened.preview.result()
    except InputError as error:
        return f"no {QUICKLOOK}: {error}"
    # The coarsest level that still has the picture's pixels.
    enough = min(rgb.shape[:2])
    level = max(f for f in levels if f == 1 or min(window.height // f, window.width // f) >= enough)
    size = prepared.scene.grid[window].pixel_metres
    write_quicklook(
        workspace / QUICKLOOK,
        prepared.spec.scene.name,
        rgb,
        mosaic.read_labels(_coarser(window, level), level),
        prepared.card.classes,
        None if size is None else size[0] * window.width / rgb.shape[1],
    )
    return None


def _coarser(window: Window, level: int) -> Window:
    """The pixels of a level of the pyramid that a window touches."""
    row, col = window.row_off // level, window.col_off // level
    return Window(row, col, -(-window.row_stop // level) - row, -(-window.col_stop // level) - col)
