"""Labels of rasters on the scene's own grid: class ids, or colours that mean classes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tileseg.dataset.spec import IGNORE
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.source.protocol import PixelSource
from tileseg.source.rescale import Rescale
from tileseg.window import Window

_STEPS = 512
"""Points along the scene's diagonal: a straight line in one coordinate reference system is bent in another."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


class Truth(Protocol):
    """Labels of a scene, on the target grid."""

    def read(self, window: Window) -> Labels:
        """(height, width) uint8: class ids, IGNORE where the class is not known. Raises InputError."""


@dataclass(frozen=True, slots=True)
class NoTruth:
    """The labels of a scene of which nothing is known."""

    def read(self, window: Window) -> Labels:
        """IGNORE everywhere."""
        return np.full((window.height, window.width), IGNORE, np.uint8)


@dataclass(frozen=True, slots=True)
class ValueTable:
    """What the values of a label raster mean."""

    path: str
    meaning: tuple[tuple[int, int], ...]
    """(value, label), sorted by value."""
    colors: bool = False
    """Whether values are 0xRRGGBB."""
    assumed: bool = False
    """Whether 255 is taken for not known although the user does not say so."""
    hidden: int | None = None
    """The raster's nodata value, if it is also the id of a class and the user does not say what it means."""

    def labels(self, values: npt.NDArray[np.integer], where: Window) -> Labels:
        """Labels of values (y, x). Raises InputError naming a value that has no meaning."""
        known, label = _tables(self.meaning)
        at = np.minimum(np.searchsorted(known, values.ravel()), len(known) - 1) if values.dtype.itemsize > 1 else None
        if at is None:
            found = _byte_table(self.meaning, values.dtype.kind == "i")[values.view(np.uint8)]
            unknown = found < 0
        else:
            found = label[at].reshape(values.shape)
            unknown = (known[at] != values.ravel()).reshape(values.shape)
        if unknown.any():
            value = self.shown(int(values[unknown][0]))
            meant = [v for v in known.tolist() if not self.colors or v != NO_COLOR]
            listed = ", ".join(map(self.shown, meant[:8])) + (", ..." if len(meant) > 8 else "")
            raise InputError(
                f"{self.path}: has the value {value} at {where}, which is no class ({listed} are); "
                "say what it means in label_map, or list it under ignore"
            )
        return np.asarray(found, np.uint8)

    def shown(self, value: int) -> str:
        """A value as ``label_map`` would write it."""
        return f"#{value:06x}" if self.colors else str(value)

    def unknown(self, values: npt.NDArray[np.integer]) -> dict[int, int]:
        """Values without a meaning, and how many pixels have each."""
        known, _ = _tables(self.meaning)
        found, counts = np.unique(values, return_counts=True)
        return {int(v): int(n) for v, n in zip(found, counts, strict=True) if v not in known}


@lru_cache(maxsize=256)
def _tables(meaning: tuple[tuple[int, int], ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    known, label = np.array(meaning, np.int64).T
    return known, label.astype(np.int16)


@lru_cache(maxsize=256)
def _byte_table(meaning: tuple[tuple[int, int], ...], signed: bool) -> npt.NDArray[np.int16]:
    table = np.full(256, -1, np.int16)
    for value, label in meaning:
        if (-128 <= value < 128) if signed else (0 <= value < 256):
            table[value % 256] = label
    return table


class ValueRaster(Protocol):
    """A raster whose pixels stand for classes."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""

    @property
    def path(self) -> str:
        """The file as the user named it."""

    @property
    def nodata(self) -> int | None:
        """Value of pixels without data."""

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        """Values (y, x) of a window."""


NO_COLOR = -1
"""Value of a pixel of a colour raster that has no data."""


@dataclass(frozen=True, slots=True)
class ColorRaster:
    """A picture (or a raster with a palette) whose colours stand for classes; its values are 0xRRGGBB."""

    scene: PixelSource
    listed: frozenset[int]
    """Colours that are meant even where the file calls them nodata or transparent."""
    nodata: int | None = NO_COLOR

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""
        return self.scene.grid

    @property
    def path(self) -> str:
        """The file as the user named it."""
        return self.scene.path

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        """Colours (y, x) as int32, NO_COLOR where there is no data."""
        pixels, valid = self.scene.read(window)
        rgb = pixels.astype(np.int32)
        colors = np.asarray(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], np.int32)
        if not valid.all():
            colors[~valid & ~np.isin(colors, list(self.listed))] = NO_COLOR
        return colors


@dataclass(frozen=True, slots=True)
class RasterTruth:
    """A raster on the image's own pixels."""

    raster: ValueRaster
    values: ValueTable
    rescale: Rescale

    def read(self, window: Window) -> Labels:
        """Labels of a window of the target grid: the most frequent one of the pixels that became one."""
        source = self.rescale.source(window)
        labels = self.values.labels(self.raster.read_labels(source), source)
        return labels if self.rescale.identity else self.rescale.labels(labels, window)
