"""One scene being scored, block by block: counts go on, contours and traced polygons wait in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine

from tileseg.ahead import computed_ahead
from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.evaluate import boundary
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import IGNORE, Matrix, confusion, iou
from tileseg.evaluate.distances import NO_DISTANCES, PREDICTION, TRUTH, Contours, Distances
from tileseg.evaluate.objects import Matcher, ObjectMatches, Objects, together
from tileseg.evaluate.scores import Comparison, Options, RankedWindow
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.polygons.fragment import Fragment, load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.shape import Shaper
from tileseg.polygons.trace import trace_block
from tileseg.window import Window, tile

BLOCK = 1024
"""Pixels: side of a block. Scores do not depend on it."""

TILE = 512
"""Pixels: side of the windows that are ranked; a whole part of a block."""

WIDEST_BAND = 15
"""Pixels: the band of the boundary IoU is not wider unless asked for."""

_BAND_SHARE = 0.02
"""Share of the scene's diagonal that is the band's width in the boundary IoU's paper."""

_PRESENT = 0.01
"""Share of a tile: a class with less in both truth and prediction does not rank it."""


def band_width(grid: Grid, wanted: Quantity | None) -> int:
    """Pixels of the boundary IoU's band. Raises UsageError."""
    if wanted is None:
        return int(np.clip(round(_BAND_SHARE * float(np.hypot(grid.height, grid.width))), 1, WIDEST_BAND))
    size = 1.0 if wanted.in_pixels else grid.ground_sample_distance
    width = max(1, round(wanted.value / (size or 1.0)))
    if width > BLOCK:
        raise UsageError(f"--boundary {wanted}: is {width} pixels wide; expected at most {BLOCK}")
    return width


@dataclass(frozen=True)
class BlockCounts:
    """What a block gave, or several."""

    matrix: Matrix
    band: Matrix
    calibration: Calibration | None
    unknown: int
    missing: int
    ranked: tuple[RankedWindow, ...] = ()

    def __add__(self, other: BlockCounts) -> BlockCounts:
        calibration = self.calibration + other.calibration if self.calibration and other.calibration else None
        return BlockCounts(
            self.matrix + other.matrix,
            self.band + other.band,
            calibration,
            self.unknown + other.unknown,
            self.missing + other.missing,
        )


_KINDS = ("truth", "prediction", "unknown")


@dataclass(frozen=True)
class SceneWork:
    """One scene being scored."""

    pair: Comparison
    classes: Sequence[ClassInfo]
    options: Options
    folder: Path
    width: int
    cores: list[Window]
    contours: Contours
    traced: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Which blocks have a fragment, of those sides whose polygons are traced."""

    @classmethod
    def begin(cls, pair: Comparison, classes: Sequence[ClassInfo], options: Options, folder: Path) -> SceneWork:
        """Cut the scene into blocks, and make room in ``folder``. Raises UsageError for a band that is too wide."""
        cores = tile(pair.grid.extent, BLOCK, BLOCK)
        objects = {"truth": pair.truth_objects, "prediction": pair.predicted_objects}
        # Polygons that were not traced may lie where nothing is known; so what is unknown is traced for them.
        wanted = [kind for kind, given in objects.items() if given is None]
        if len(wanted) < len(objects):
            wanted.append("unknown")
        for kind in (*_KINDS, "contours"):
            (folder / kind).mkdir()
        return cls(
            pair,
            classes,
            options,
            folder,
            band_width(pair.grid, options.band),
            cores,
            Contours(folder / "contours", cores, len(classes)),
            {kind: np.zeros(len(cores), np.bool_) for kind in wanted} if options.polygons else {},
        )

    @property
    def foreground(self) -> list[int]:
        """Ids of the classes whose objects count."""
        return [i for i, info in enumerate(self.classes) if not info.background]

    def run(self) -> Iterator[BlockCounts]:
        """Counts of every block, in order; a few are worked on at once."""
        threads = max(1, self.options.threads)
        return computed_ahead(self.block, range(len(self.cores)), ahead=2 * threads, threads=threads)

    def block(self, index: int) -> BlockCounts:
        """Read and count one block."""
        core, pair = self.cores[index], self.pair
        around = core.buffer(self.width + 1).intersection(pair.grid.extent)
        assert around is not None
        truth, prediction = pair.truth.read(around), pair.prediction.read(around)
        inner = core.relative_to(around).slices
        unknown = (truth == IGNORE) | (prediction == IGNORE)
        missing = int(np.count_nonzero((prediction[inner] == IGNORE) & (truth[inner] != IGNORE)))
        lost = int(np.count_nonzero(truth[inner] == IGNORE))
        truth, prediction = (np.where(unknown, np.uint8(IGNORE), side) for side in (truth, prediction))
        band = np.zeros((len(self.classes), 2), np.int64)
        for label in range(len(self.classes)):
            band[label] = self._borders(index, label, (truth, prediction), unknown, inner)
        truth, prediction = (np.ascontiguousarray(side[inner]) for side in (truth, prediction))
        calibration = None
        if pair.chances is not None:
            calibration = Calibration.empty(len(self.classes))
            calibration.add(truth, prediction, pair.chances(core))
        self._trace(index, {"truth": truth, "prediction": prediction, "unknown": truth})
        matrix = confusion(truth, prediction, len(self.classes))
        return BlockCounts(matrix, band, calibration, lost, missing, tuple(self._ranked(core, truth, prediction)))

    def _borders(
        self, index: int, label: int, sides: tuple[Labels, Labels], unknown: boundary.Mask, inner: tuple[slice, slice]
    ) -> tuple[int, int]:
        """Keep a class's contours; pixels of the block that are in both bands, and in either."""
        core = self.cores[index]
        bands: list[boundary.Mask | None] = []
        for side, labels in zip((TRUTH, PREDICTION), sides, strict=True):
            mask = labels == label
            if not mask.any():
                bands.append(None)
                continue
            # What is unknown is taken for the class, so that it has no border there.
            known = ~unknown[inner]
            wide = mask | unknown
            bands.append(boundary.band(wide, self.width)[inner] & known)
            if self.options.distances:
                points = np.argwhere(boundary.contour(wide)[inner] & known) + np.array([core.row_off, core.col_off])
                self.contours.put(index, label, side, points.astype(np.int32))
        found = [b for b in bands if b is not None]
        if len(found) < 2:
            return 0, int(np.count_nonzero(found[0])) if found else 0
        return int(np.count_nonzero(found[0] & found[1])), int(np.count_nonzero(found[0] | found[1]))

    def _ranked(self, core: Window, truth: Labels, prediction: Labels) -> Iterator[RankedWindow]:
        for part in tile(core, TILE, TILE):
            here = part.relative_to(core).slices
            matrix = confusion(truth[here], prediction[here], len(self.classes))
            total = int(matrix.sum())
            if 2 * total < part.pixels or 4 * part.pixels < min(TILE * TILE, self.pair.grid.extent.pixels):
                continue  # mostly unknown, or a strip at the scene's edge
            enough = np.maximum(matrix.sum(axis=0), matrix.sum(axis=1)) >= _PRESENT * total
            counted = [i for i in self.foreground if enough[i]]
            if counted:
                wrong = total - int(np.trace(matrix))
                yield RankedWindow(self.pair.name, part, float(iou(matrix)[counted].mean()), wrong)

    def _trace(self, index: int, labels: Mapping[str, Labels]) -> None:
        core, extent = self.cores[index], self.pair.grid.extent
        background = {i for i in range(len(self.classes)) if i not in self.foreground}
        for kind, there in self.traced.items():
            values, ignore = labels[kind], background
            if kind == "unknown":
                values, ignore = (values == IGNORE).view(np.uint8), {0}
            if (values == IGNORE).all() or (kind == "unknown" and not values.any()):
                continue
            nodata = None if kind == "unknown" else IGNORE
            fragments = trace_block(values, None, core, extent, connectivity=4, ignore=ignore, nodata=nodata)
            save_fragments(self._fragment(kind, index), fragments)
            there[index] = True

    def _fragment(self, kind: str, index: int) -> Path:
        return self.folder / kind / f"{index}.fragment"

    def distances(self) -> tuple[tuple[Distances, ...], tuple[Distances, ...] | None, tuple[int, ...]]:
        """Distances of each class in pixels and metres, and 1 where only one side has a border."""
        if not self.options.distances:
            none = (NO_DISTANCES,) * len(self.classes)
            return none, none, (0,) * len(self.classes)
        pixels = tuple(self.contours.distances(label) for label in range(len(self.classes)))
        lonely = tuple(int(self.contours.is_one_sided(label)) for label in range(len(self.classes)))
        size = self.pair.grid.pixel_metres
        if size is None:
            return pixels, None, lonely
        along_row, along_col = size
        if abs(along_row / along_col - 1) < 0.01:
            metres = tuple(found.scaled(float(np.sqrt(along_row * along_col))) for found in pixels)
        else:
            metres = tuple(self.contours.distances(k, (along_col, along_row)) for k in range(len(self.classes)))
        return pixels, metres, lonely

    def matchings(self) -> dict[int, ObjectMatches]:
        """True and predicted polygons of each class matched; the true ones are held, the predicted ones pass by."""
        if not self.options.polygons:
            return {}
        size = self.pair.grid.pixel_metres
        aspect = 1.0 if size is None else size[1] / size[0]
        truth = together(self._objects("truth"))
        matchers = {label: Matcher(truth.of(label), aspect) for label in self.foreground}
        for batch in self._objects("prediction"):
            for label, matcher in matchers.items():
                matcher.add(batch.of(label), batch.features_of(label))
        return {label: matcher.result() for label, matcher in matchers.items()}

    def _objects(self, kind: str) -> Iterator[Objects]:
        given = self.pair.truth_objects if kind == "truth" else self.pair.predicted_objects
        least = self._least_area()
        if given is None:
            yield from self._joined(kind, least)
            return
        unknown = together(self._joined("unknown", 0)).geometries
        for batch in given.batches():
            yield batch.within(self.pair.grid.height, self.pair.grid.width).at_least(least).without(unknown)

    def _least_area(self) -> float:
        wanted = self.options.min_area
        if wanted is None:
            return 0
        size = self.pair.grid.ground_sample_distance
        return wanted.value if wanted.in_pixels or size is None else wanted.value / size**2

    def _joined(self, kind: str, least: float) -> Iterator[Objects]:
        """Polygons traced from labels."""
        there = self.traced[kind]

        def load(index: int) -> tuple[Fragment, ...] | None:
            return load_fragments(self._fragment(kind, index)) if there[index] else None

        # A grid whose coordinates are its pixels, so that shapes are in columns and rows.
        plain = Grid(self.pair.grid.height, self.pair.grid.width, Affine.identity())
        smallest = Quantity(least, in_pixels=True) if least else None
        shaper = Shaper(plain, min_area=smallest, has_confidence=False, lonlat=False)
        for batch in join(self.cores, load, 4):
            shapes = shaper.shape(batch)
            yield Objects(np.asarray(shapes.geometries()), np.asarray(shapes.label, np.int64))
