"""Which numbers pixels are: as they are stored, or with the scale and the offset that metadata says of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tileseg.choices import Values
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.protocol import Mask, Pixels, PixelSource
from tileseg.source.raster import RasterScene
from tileseg.window import Window

_SENTINEL_2 = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\w*?_N(\d{4})_")
"""Names of Sentinel-2's products hold the processing baseline."""
_SHIFTED_FROM = 400
"""Baseline from which on 1000 is added to all numbers (Sentinel-2 Products Specification, RADIO_ADD_OFFSET)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What numbers stand for: ``number * scale + offset``."""

    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class Converted:
    """A source whose numbers are turned into others as they are read."""

    source: PixelSource
    values: Values
    measures: tuple[Measure, ...]
    """Of each band."""

    @property
    def path(self) -> str:
        """As the user named it."""
        return self.source.path

    @property
    def storage(self) -> str:
        """The source's own."""
        return self.source.storage

    @property
    def grid(self) -> Grid:
        """The source's own."""
        return self.source.grid

    @property
    def bands(self) -> tuple[int, ...]:
        """The source's own."""
        return self.source.bands

    @property
    def palette(self) -> bool:
        """The source's own."""
        return self.source.palette

    @property
    def has_gaps(self) -> bool:
        """The source's own."""
        return self.source.has_gaps

    @property
    def notes(self) -> tuple[str, ...]:
        """The source's own."""
        return self.source.notes

    @property
    def dtype(self) -> str:
        """float32 of physical values, else the source's own."""
        return "float32" if self.values == "physical" else self.source.dtype

    @property
    def identity(self) -> str:
        """That of the source, and how its numbers are turned into others."""
        return hashlib.sha256(repr((self.source.identity, self.values, self.measures)).encode()).hexdigest()

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band) and valid (y, x)."""
        pixels, valid = self.source.read(window)
        found = self._converted(pixels)
        if fill is not None and not valid.all():
            found[~valid] = np.asarray(fill, found.dtype)
        return found, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""
        pixels, valid = self.source.read_thinned(window, shape)
        return self._converted(pixels), valid

    def _converted(self, pixels: Pixels) -> Pixels:
        scales, offsets = (np.array([getattr(m, name) for m in self.measures]) for name in ("scale", "offset"))
        if self.values == "physical":
            return np.asarray(pixels * scales + offsets, np.float32)
        shifts = offsets / scales
        if pixels.dtype.kind == "f":
            return np.asarray(pixels + shifts, pixels.dtype)
        limits = np.iinfo(pixels.dtype)
        return np.asarray(np.clip(np.rint(pixels + shifts), limits.min, limits.max), pixels.dtype)


def measures_of(scene: RasterScene, told: Measure | None = None) -> tuple[Measure, ...]:
    """What the numbers of a file stand for: by whoever names it, by itself, or by its name as Sentinel-2 gives it."""
    if told is not None:
        return (told,) * len(scene.bands)
    found = tuple(Measure(*pair) for pair in zip(scene.scales, scene.offsets, strict=True))
    if all(measure == Measure(1.0, 0.0) for measure in found) and (product := _SENTINEL_2.search(scene.path)):
        return (Measure(1e-4, -0.1 if int(product[1]) >= _SHIFTED_FROM else 0.0),) * len(scene.bands)
    return found


def valued(scene: RasterScene, values: Values, told: Measure | None = None) -> PixelSource:
    """A file with the numbers that are wanted. Raises InputError where its metadata makes no sense."""
    if values == "stored":
        return scene
    measures = measures_of(scene, told)
    if not all(np.isfinite([measure.scale, measure.offset]).all() and measure.scale for measure in measures):
        named = ", ".join(f"{measure.scale:g} and {measure.offset:g}" for measure in measures)
        raise InputError(f"{scene.path}: its scale and offset are {named}; correct them, or say --values stored")
    if values == "harmonized" and all(measure.offset == 0 for measure in measures):
        return scene
    return Converted(scene, values, measures)
