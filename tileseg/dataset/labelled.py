"""One scene with its labels, read window by window at the target ground sample distance."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from tileseg.card import ClassInfo
from tileseg.dataset.known_area import KnownArea
from tileseg.dataset.raster_truth import NoTruth, Truth
from tileseg.dataset.spec import IGNORE, DatasetSpec, SceneFiles, Split, is_there
from tileseg.dataset.truth import open_truth
from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.source.protocol import Mask, PixelSource, Words
from tileseg.source.rescale import Axis, Rescale
from tileseg.source.scene import open_scene
from tileseg.window import Window, tile

Pixels = npt.NDArray[Any]

CACHE = 1 << 30
"""Bytes of resampled pixels and labels that a process keeps, in tiles."""
_TILE = 256
_CLOSE = 0.02
"""Share by which a scene's ground sample distance may differ from the target and be read as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScene:
    """An image with its labels on one grid; picklable."""

    name: str
    """Unique in the dataset."""
    split: Split
    grid: Grid
    """Where its pixels lie, at the target ground sample distance."""
    bands: tuple[str, ...]
    """What the bands mean."""
    classes: tuple[ClassInfo, ...]
    """What the labels mean, in the order of their ids."""
    weight: float
    """How often it is sampled, over other scenes."""
    scene: PixelSource
    """The image, at its own ground sample distance."""
    ground_sample_distance: float | None
    """Metres per pixel of the image itself, or None where it is not known."""
    rescale: Rescale
    """From the image's pixels to those of ``grid``."""
    truth: Truth
    """The labels, on ``grid``."""
    known: KnownArea | None
    """Where ``truth`` is complete; None: everywhere."""
    key: str
    """Digest of all that decides what is read."""
    fill: tuple[float, ...] = (0.0,)
    """Value of pixels without data: one, or one per band."""
    place: str = ""
    """Where on Earth it lies: scenes of one place are scored together, and places count alike."""
    drawn: bool = False
    """Whether a program made it instead of a camera."""
    trust_vrt: bool = False
    """Whether its virtual rasters may refer to files outside their own folder."""
    cached: bool = False
    """Whether tiles are kept in memory once they were read."""

    @property
    def has_labels(self) -> bool:
        """Whether anything is known of it: of other scenes only a teacher can say what is there."""
        return not isinstance(self.truth, NoTruth)

    @property
    def dtype(self) -> str:
        """NumPy type of the pixels: the file's own."""
        return self.scene.dtype

    @property
    def extent(self) -> Window:
        """All pixels."""
        return self.grid.extent

    @property
    def bytes(self) -> int:
        """Memory of all its pixels and labels."""
        mask = int(self.scene.has_gaps)
        return self.extent.pixels * (len(self.bands) * np.dtype(self.dtype).itemsize + 1 + mask)

    def read(self, window: Window) -> tuple[Pixels, Labels]:
        """Read a window inside the grid: pixels (y, x, band), C-contiguous, and labels (y, x) uint8.

        Pixels have the image's own type; ``fill`` where it has no data. Labels are IGNORE (255) there, and wherever
        the class is not known. Safe from several threads. Raises InputError, naming the file, where it cannot be read.
        """
        pixels, labels, _ = self.read_with_gaps(window)
        return pixels, labels

    def read_with_gaps(self, window: Window) -> tuple[Pixels, Labels, Mask]:
        """What :meth:`read` gives, and (y, x) where the image has data: there a class may still not be known."""
        if self.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside {self.name} of {self.grid.height} x {self.grid.width} pixels")
        if not self.cached:
            return self._read(window)
        pixels = np.empty((window.height, window.width, len(self.bands)), self.dtype)
        labels = np.empty((window.height, window.width), np.uint8)
        valid = np.ones((window.height, window.width), np.bool_)
        first = Window(window.row_off // _TILE, window.col_off // _TILE, 1, 1)
        last = ((window.row_stop - 1) // _TILE, (window.col_stop - 1) // _TILE)
        for row in range(first.row_off, last[0] + 1):
            for col in range(first.col_off, last[1] + 1):
                whole = Window(row * _TILE, col * _TILE, _TILE, _TILE).intersection(self.extent)
                assert whole is not None
                part = whole.intersection(window)
                assert part is not None
                kept = _TILES.get(self, whole)
                there, here = part.relative_to(whole).slices, part.relative_to(window).slices
                pixels[here], labels[here] = kept.pixels[there], kept.labels[there]
                if kept.valid is not None:
                    valid[here] = kept.valid[there]
        return pixels, labels, valid

    def read_labels(self, window: Window) -> Labels:
        """The labels of :meth:`read`, without reading pixels where the image has data everywhere."""
        if self.cached or self.scene.has_gaps:
            return self.read(window)[1]
        return self._labels(window)

    def _labels(self, window: Window) -> Labels:
        labels = self.truth.read(window)
        if self.known is not None:
            labels[~self.known.mask(window)] = IGNORE
        return labels

    def _read(self, window: Window) -> tuple[Pixels, Labels, Mask]:
        if self.rescale.identity:
            pixels, valid = self.scene.read(window)
        else:
            pixels, valid = self.rescale.image(*self.scene.read(self.rescale.source(window)), window)
        labels = self._labels(window)
        if not valid.all():
            pixels[~valid] = np.asarray(self.fill).astype(pixels.dtype)
            labels[~valid] = IGNORE
        return pixels, labels, valid

    def windows(self, size: int) -> list[Window]:
        """The grid cut into windows of ``size``, smaller at the right and at the bottom."""
        return tile(self.extent, size, size)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of a scene that was read."""

    pixels: Pixels
    labels: Labels
    valid: Mask | None
    """None: all of it has data."""

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in (self.pixels, self.labels, self.valid) if part is not None)


class _Tiles:
    """Tiles that were read before, the least recently used given up first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], _Tile] = OrderedDict()
        self._bytes = 0

    def get(self, scene: LabelledScene, window: Window) -> _Tile:
        key = (scene.key, scene.fill, window.row_off, window.col_off)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Outside the lock: two threads may read the same tile, which is better than waiting for each other.
        pixels, labels, valid = scene._read(window)  # noqa: SLF001 - the scene and its tiles are one thing
        found = _Tile(pixels, labels, None if valid.all() else valid)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += found.bytes
            while self._bytes > CACHE:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.bytes
        return found


_TILES = _Tiles()


def open_labelled(pair: SceneFiles, spec: DatasetSpec, gsd: float | None) -> LabelledScene:
    """Open an image and its labels, to be read at ``gsd`` metres per pixel (None: the image's own).

    Raises InputError in one line: a file that cannot be read, or labels that do not belong to the image.
    """
    scene = open_image(pair, spec)
    own = pair.reading.pixel_size or scene.grid.ground_sample_distance
    scale = 1.0 if own is None or gsd is None or math.isclose(own, gsd, rel_tol=_CLOSE) else own / gsd
    if not 1 / 64 <= scale <= 16:
        raise InputError(
            f"{pair.image}: has {own:.4g} m per pixel, too far from the {gsd:.4g} m of the dataset to be resampled"
        )
    rescale = Rescale(Axis(scene.grid.height, scale), Axis(scene.grid.width, scale))
    grid = Grid(
        rescale.rows.count, rescale.cols.count, scene.grid.transform @ Affine.scale(1 / scale), scene.grid.crs_wkt
    )
    truth = open_truth(pair, spec, scene.grid, grid, rescale)
    listed = pair.reading.known if pair.labels is not None else None
    known = None if listed is None else KnownArea.open(Path(listed), grid)
    key = hashlib.sha256(repr((scene, scale, truth, *([known] if known else []))).encode()).hexdigest()
    return LabelledScene(
        name=pair.name,
        split=pair.split,
        grid=grid,
        bands=spec.bands,
        classes=spec.classes,
        weight=pair.reading.weight,
        place=pair.place,
        drawn=pair.reading.drawn,
        scene=scene,
        ground_sample_distance=own,
        rescale=rescale,
        truth=truth,
        known=known,
        key=key,
        trust_vrt=pair.reading.trust_vrt,
    )


def open_image(pair: SceneFiles, spec: DatasetSpec) -> PixelSource:
    """The image of a pair. Raises InputError in one line."""
    if not is_there(pair.image):
        whose = "an image" if pair.labels is None else f"the image of {pair.labels.name}"
        raise InputError(f"{pair.image}: is not there; expected {whose}")
    # The same rules as for a run, but here bands are chosen in the file that lists the scenes.
    words = Words(
        option="image_bands",
        taker="the dataset has",
        warp=None,
        remedy="list under bands what all images have, or say which bands to take with image_bands",
        repeat='a dataset of grey images needs bands = ["grey"] at its top (image_bands = [{once}] repeats the one '
        "band)",
    )
    bands = pair.reading.image_bands
    try:
        return open_scene(
            pair.image,
            expected=len(spec.bands),
            bands=bands,
            names=spec.bands,
            trust_vrt=pair.reading.trust_vrt,
            words=words,
        )
    except UsageError as error:
        raise InputError(f"{pair.image}: {error}") from error
