"""From any labels, read block by block, to polygon files.

Two stages, so that `tileseg run` can do the first where the labels are made: tracing (blocks, in any order and any
process, each saved as a fragment) and :func:`write_polygons` (join, shape, write). :func:`vectorize` does both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine

from tileseg.ahead import computed_ahead
from tileseg.card import ClassInfo
from tileseg.cluster import hardware
from tileseg.errors import UsageError, did_you_mean, disk_full, not_writable
from tileseg.formats import FORMATS, style_paths
from tileseg.grid import Grid
from tileseg.polygons.batch import split
from tileseg.polygons.fragment import Array, Fragment, PolygonBatch, load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.memory import trace_bytes
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.scratch import Scratch
from tileseg.polygons.seams import Load
from tileseg.polygons.shape import Shaper, Shapes
from tileseg.polygons.trace import trace_block
from tileseg.polygons.trace import warm_up as warm_up_trace
from tileseg.publish.geojson import geojson_features
from tileseg.publish.table import Table
from tileseg.publish.vectors import write_vectors
from tileseg.spec import VectorOptions
from tileseg.window import Window, tile

BLOCK = 2048
"""Pixels: side of a block where nothing else decides."""

_VERTICES = 1 << 18
"""Vertices shaped at a time."""

_SHAPING_THREADS = 2


class LabelSource(Protocol):
    """Labels that can be read block by block. Reading must be safe from several threads at once."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""

    @property
    def nodata(self) -> int | None:
        """The label of pixels without data."""

    def read_labels(self, window: Window) -> Array:
        """(height, width) integers."""

    def read_confidence(self, window: Window) -> Array | None:
        """(height, width) uint16: probability of the pixel's class in units of 1/65535; None where unknown."""

    def read_disagreement(self, window: Window) -> Array | None:
        """(height, width) uint8: disagreement of views, units of tileseg.labels.SPREAD_STEP; None where unknown."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What labels mean, and which of them become polygons."""

    names: Mapping[int, str]
    """Names of ids; an id without one is its own name."""
    ignore: frozenset[int] = frozenset()
    """Ids that do not become polygons."""
    only: frozenset[int] | None = None
    """If given, no other id does."""
    colors: Mapping[int, str] = field(default_factory=dict)
    """Colours (``#rrggbb``) of ids; an id without one gets one by its number."""
    chances: Mapping[int, Array] = field(default_factory=dict)
    """Of ids: weights of the chance that polygons are real objects, see :mod:`tileseg.polygons.chance`."""

    @property
    def wanted(self) -> frozenset[int]:
        """Ids that are known to become polygons where they occur."""
        return frozenset(self.names) - self.ignore if self.only is None else self.only

    @staticmethod
    def of_card(classes: Sequence[ClassInfo], wanted: Sequence[str] | None = None) -> Classes:
        """The classes of a model: all but background, or those wanted by name or id. Raises UsageError."""
        names = {i: info.name for i, info in enumerate(classes)}
        colors = {i: info.color for i, info in enumerate(classes)}
        if wanted is None:
            ignore = frozenset(i for i, info in enumerate(classes) if info.background)
        else:
            ignore = frozenset(names) - _ids(names, wanted, known=True)
        return Classes(names, ignore, colors=colors)

    @staticmethod
    def of_raster(
        names: Mapping[int, str], wanted: Sequence[str] | None = None, background: frozenset[int] = frozenset()
    ) -> Classes:
        """The classes of a label raster: all ids but background, or those wanted. Raises UsageError."""
        return Classes(names, background) if wanted is None else Classes(names, only=_ids(names, wanted, known=False))


def _ids(names: Mapping[int, str], wanted: Sequence[str], *, known: bool, option: str = "--classes") -> frozenset[int]:
    """Ids of classes named by name or id; ``known``: ids must be among the names."""
    by_name = {name.casefold(): i for i, name in names.items()}
    found = set()
    for text in wanted:
        if (number := by_name.get(text.casefold())) is None:
            number = int(text) if text.lstrip("-").isdigit() else None
            if number is None or (known and number not in names):
                choice = ", ".join(f"{name} ({i})" for i, name in names.items()) or "ids only: there are no names"
                meant = did_you_mean(text, names.values())
                raise UsageError(f"{option} {text}: no such class{meant}; expected some of {choice}")
        found.add(number)
    return frozenset(found)


def chances_of(classes: Sequence[ClassInfo], weights: Mapping[str, Sequence[float]]) -> dict[int, Array]:
    """Class id -> weights of a card's chances, which are by name."""
    return {i: np.array(weights[info.name]) for i, info in enumerate(classes) if info.name in weights}


def ignored_classes(classes: Sequence[ClassInfo], wanted: Sequence[str] | None) -> frozenset[int]:
    """Ids that do not become polygons: background, or all but those wanted by name or id. Raises UsageError."""
    return Classes.of_card(classes, wanted).ignore


def regular_classes(names: Mapping[int, str], wanted: Sequence[str], *, known: bool = False) -> frozenset[int] | None:
    """Ids of the classes that ``--regularize`` names; None: all. ``known``: ids must have names. Raises UsageError."""
    if [text.casefold() for text in wanted] == ["all"]:
        return None
    return _ids(names, wanted, known=known, option="--regularize")


@dataclass(frozen=True, slots=True)
class VectorReport:
    """What came out."""

    counts: dict[str, int]
    """Class name -> polygons, by class id."""
    paths: dict[str, Path]
    """Format -> file, and the styles beside them."""
    seconds: dict[str, float]
    """``trace`` (reading included), ``finish``."""


def vectorize(
    source: LabelSource,
    outputs: Mapping[str, Path],
    classes: Classes,
    options: VectorOptions | None = None,
    *,
    block: int = BLOCK,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VectorReport:
    """Make polygon files of labels. Fragments wait in a temporary folder beside the first output.

    Args:
        source: the labels.
        outputs: where each format goes; :func:`tileseg.formats.vector_paths` gives the usual names.
        classes: what the labels mean, and which are wanted.
        options: filters and connectivity. (``formats`` and ``classes`` have been resolved into the arguments above.)
        block: side of the blocks in pixels; the polygons do not depend on it, their order and ids do.
        threads: how many read and trace; by default :func:`tracing_threads`.
        progress: called with (blocks done, blocks) after each block.

    Raises:
        UsageError, InputError, TilesegError: as the parts do.
    """
    options = options or VectorOptions()
    if options.regularize is not None:
        regular_classes(classes.names, options.regularize)  # refused before anything is traced
    start = time.perf_counter()
    cores = tile(source.grid.extent, block, block)
    first = next(iter(outputs.values()))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if disk_full(error):
            raise
        raise not_writable(first.parent, error) from error
    with tempfile.TemporaryDirectory(prefix=".fragments-", dir=first.parent) as temporary:
        folder = Path(temporary)
        there = np.zeros(len(cores), np.bool_)
        for done, (index, found) in enumerate(_trace_all(source, cores, classes, options, folder, threads), start=1):
            there[index] = found
            if progress is not None:
                progress(done, len(cores))
        traced = time.perf_counter() - start

        def load(index: int) -> tuple[Fragment, ...] | None:
            return load_fragments(_fragment(folder, index)) if there[index] else None

        report = write_polygons(cores, load, source.grid, classes, options, outputs)
    return VectorReport(report.counts, report.paths, {"trace": traced, **report.seconds})


def trace(source: LabelSource, core: Window, classes: Classes, options: VectorOptions) -> Iterator[Fragment] | None:
    """Read one block, to be traced band by band; None where it is wholly nodata."""
    labels = source.read_labels(core)
    nodata = source.nodata
    if nodata is not None and (labels == nodata).all():
        return None
    ignore = set(classes.ignore)
    if classes.only is not None:
        present = np.unique(labels)
        ignore |= {int(label) for label in present} - classes.only
    return trace_block(
        labels, source.read_confidence(core), core, source.grid.extent,
        connectivity=options.connectivity, ignore=ignore, nodata=nodata, disagreement=source.read_disagreement(core),
    )  # fmt: skip


def write_polygons(
    cores: Sequence[Window],
    load: Load,
    grid: Grid,
    classes: Classes,
    options: VectorOptions,
    outputs: Mapping[str, Path],
) -> VectorReport:
    """Join the fragments of all blocks, filter, place and write.

    ``cores``: the scene's blocks in row-major order; ``load``: the fragments of one, or None (wholly nodata).
    Memory is that of :func:`tileseg.polygons.memory.join_bytes` and of the polygons that are shaped: a few hundred
    thousand vertices, or those of the largest polygon. Simplifying holds all of them, ``regularize`` what
    :func:`tileseg.polygons.regularize.regularize` says.
    """
    start = time.perf_counter()
    first = next((f for f in map(load, range(len(cores))) if f is not None), None)
    has_confidence = first is None or first[0].has_confidence
    has_disagreement = first is not None and first[0].has_disagreement
    folder = next(iter(outputs.values())).parent
    shaper = Shaper(
        grid,
        options.pixel_metres(grid),
        min_area=options.min_area,
        fill_holes=options.fill_holes,
        has_confidence=has_confidence,
        has_disagreement=has_disagreement,
        lonlat=any(FORMATS[form].in_degrees for form in outputs),
        scratch=Scratch(folder, _VERTICES),
    )
    names = classes.names
    batches, shaper = _outlined(join(cores, load, options.connectivity, scratch=folder), shaper, options, names)
    shapes = _shapes(batches, shaper)
    table = Table(grid, names, has_confidence, has_disagreement, classes.colors, classes.wanted, classes.chances)
    counts = write_vectors(shapes, outputs, table)
    named = {names.get(label, str(label)): count for label, count in sorted(counts.items())}
    return VectorReport(named, {**outputs, **style_paths(outputs)}, {"finish": time.perf_counter() - start})


def warm_up(*, regular: bool = False) -> None:
    """Compile tracing, joining, shaping and GeoJSON, or load them from Numba's cache; writes nothing.

    ``regular``: what makes outlines regular, too.
    """
    from pyproj import CRS

    warm_up_trace()
    extent = Window(0, 0, 12, 16)
    cores = tile(extent, 6, 8)
    labels = np.zeros((12, 16), np.uint8)
    labels[2:10, 3:8], labels[2:9, 8:13] = 1, 2
    labels[5, 0] = labels[6, 1] = 1  # meet in a corner on a seam
    parts = [tuple(trace_block(labels[core.slices], None, core, extent)) for core in cores]
    grid = Grid(12, 16, Affine(1e4, 0, 5e5, 0, -1e4, 0), CRS.from_epsg(32633).to_wkt())
    shaper = Shaper(grid, min_area=Quantity(1, in_pixels=True), fill_holes=Quantity(1))
    table = Table(grid, {}, shaper.has_confidence)
    outlines = [VectorOptions(), VectorOptions(regularize=("all",))]
    for options in outlines[: 1 + regular]:
        batches, final = _outlined(join(cores, parts.__getitem__, 4), shaper, options, {})
        for batch in batches:
            shapes = final.shape(batch)
            for _ in geojson_features(shapes, table.values(shapes, 1), table, b"\n"):
                pass


def _outlined(
    batches: Iterator[PolygonBatch], shaper: Shaper, options: VectorOptions, class_names: Mapping[int, str]
) -> tuple[Iterator[PolygonBatch], Shaper]:
    """The polygons with other outlines, where they are wanted so, and what shapes these."""
    if options.simplify is not None:
        return iter([shaper.simplify(batches, options.simplify)]), shaper.unfiltered()
    if options.regularize is None:
        return batches, shaper
    ids = regular_classes(class_names, options.regularize)

    def wanted(labels: Array) -> Array:
        return np.ones(len(labels), np.bool_) if ids is None else np.isin(labels, list(ids))

    return shaper.regularize(batches, options.tolerance, wanted), shaper.unfiltered()


def _shapes(batches: Iterator[PolygonBatch], shaper: Shaper) -> Iterator[Shapes]:
    # Shaping is compiled or in PROJ, writing is mostly Python: so they overlap, a few batches at a time, in order.
    parts = (part for batch in batches for part in split(batch, _VERTICES))
    return computed_ahead(shaper.shape, parts, ahead=_SHAPING_THREADS, threads=_SHAPING_THREADS)


def _trace_all(
    source: LabelSource,
    cores: Sequence[Window],
    classes: Classes,
    options: VectorOptions,
    folder: Path,
    threads: int | None,
) -> Iterator[tuple[int, bool]]:
    """Trace and save every block: its index, and whether there is a fragment, in order. A bounded number waits."""
    threads = threads or tracing_threads(cores[0])

    def work(index: int) -> tuple[int, bool]:
        fragments = trace(source, cores[index], classes, options)
        if fragments is None:
            return index, False
        path = _fragment(folder, index)
        path.parent.mkdir(exist_ok=True)
        save_fragments(path, fragments)
        return index, True

    return computed_ahead(work, range(len(cores)), ahead=2 * threads, threads=threads)


def tracing_threads(core: Window) -> int:
    """How many blocks like this one are read and traced at a time: one per core, 8 at most, if memory allows."""
    pixels = core.height * core.width
    # Labels as the file has them, as whole numbers and compared with nodata; their confidence.
    each = pixels * (8 + 4 + 1 + 2) + trace_bytes(core.height, core.width, 4)
    return max(1, min(8, hardware.cpu().cores, hardware.memory().available // 2 // each))


def _fragment(folder: Path, index: int) -> Path:
    return folder / f"{index // 1000:06d}" / f"{index:09d}.fragment"
