"""Where a grid lies on the square of web maps (Web Mercator), and which of their tiles show it.

Places are *fractions* of that square: (0, 0) is its upper left corner, (1, 1) the lower right one. A grid without a
coordinate reference system lies at the square's middle, a pixel to a metre at the equator, rows running down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tileseg.globe import Globe, globe_of
from tileseg.grid import Grid

if TYPE_CHECKING:
    from affine import Affine

Array = npt.NDArray[np.float64]

WORLD = 2 * math.pi * 6_378_137.0
"""Metres: side of the square, along the equator."""

MOST_ZOOM = 22
"""Tiles of higher zooms are shown by none of the usual viewers."""

_EDGE = math.degrees(2 * math.atan(math.exp(math.pi)) - math.pi / 2)
"""Latitude at which the square ends, 85.05 degrees."""
_TURN = 360.0
_STEPS = 64


@dataclass(frozen=True)
class Placement:
    """A grid on the square. Safe to share between threads."""

    grid: Grid

    @property
    def on_globe(self) -> bool:
        """Whether places are longitudes and latitudes; else they are pixels."""
        return self.globe is not None

    @cached_property
    def globe(self) -> Globe | None:
        """The globe of the grid's system; None where it has none, or a local engineering one."""
        return None if self.grid.geod is None or self.grid.crs_wkt is None else globe_of(self.grid.crs_wkt)

    @cached_property
    def _pixel(self) -> float:
        """Side of a pixel of a grid that lies nowhere, as a fraction."""
        side = max(self.grid.height, self.grid.width) / WORLD
        return 2.0 ** -max(0, math.ceil(math.log2(4 * side))) / WORLD

    def of_lonlat(self, lonlat: Array) -> Array:
        """(n, 2) fractions of longitudes and latitudes (degrees); those beyond the square's edge lie beside it."""
        y = np.radians(np.clip(lonlat[:, 1], -89.9, 89.9))
        return np.column_stack([lonlat[:, 0] / _TURN + 0.5, 0.5 - np.arcsinh(np.tan(y)) / (2 * math.pi)])

    def lonlat(self, fractions: Array) -> Array:
        """(n, 2) longitudes and latitudes (degrees) of fractions."""
        y = np.arctan(np.sinh((0.5 - fractions[:, 1]) * 2 * math.pi))
        return np.column_stack([(fractions[:, 0] - 0.5) * _TURN, np.degrees(y)])

    def of_crs(self, xy: Array) -> Array:
        """(n, 2) fractions of coordinates in the grid's system: of pixels, where it has none."""
        if self.globe is not None:
            return self.of_lonlat(self.globe.lonlat(xy))
        return _moved(~self.grid.transform, xy) * self._pixel + 0.5

    def of_pixels(self, lattice: Array) -> Array:
        """(n, 2) fractions of (column, row); not finite where the map has no ground."""
        return self.of_crs(_moved(self.grid.transform, np.asarray(lattice, np.float64)))

    def pixels(self, fractions: Array) -> Array:
        """(n, 2) column and row of fractions; not finite where the map does not reach."""
        if self.globe is None:
            return (fractions - 0.5) / self._pixel
        lonlat = self.lonlat(fractions)
        if self.globe.is_plain:  # longitudes may run on beyond half a turn
            west = self.grid.bounds[0] * math.degrees(self.globe.crs.axis_info[0].unit_conversion_factor)
            lonlat[:, 0] = np.remainder(lonlat[:, 0] - west, _TURN) + west
        xy = self.globe.xy(lonlat)
        return _moved(~self.grid.transform, xy)

    @cached_property
    def outline(self) -> Array:
        """(n, 2) fractions along the grid's border, clockwise from the first pixel's corner; all are finite.

        They lie together: to the right of 1 or the left of 0 where the border crosses 180 degrees.
        """
        height, width = self.grid.height, self.grid.width
        there, back = np.arange(_STEPS) / _STEPS, 1 - np.arange(_STEPS) / _STEPS
        cols = np.concatenate([there, np.ones(_STEPS), back, np.zeros(_STEPS)]) * width
        rows = np.concatenate([np.zeros(_STEPS), there, np.ones(_STEPS), back]) * height
        found = self.of_pixels(np.column_stack([cols, rows]))
        found = found[np.isfinite(found).all(axis=1)]
        if self.on_globe and len(found):
            found[:, 0] -= np.rint(found[:, 0] - found[0, 0])
        return found

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom as fractions: of the border, so without a pole that lies within."""
        if not len(self.outline):
            return 0.0, 0.0, 1.0, 1.0
        left, top = np.clip(self.outline.min(axis=0), (-1, 0), (1, 1)).tolist()
        right, bottom = np.clip(self.outline.max(axis=0), (0, 0), (2, 1)).tolist()
        return left, top, right, bottom

    @cached_property
    def degrees(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the same, in degrees."""
        left, top, right, bottom = self.bounds
        (west, north), (east, south) = self.lonlat(np.array([[left, top], [right, bottom]])).tolist()
        return west, max(south, -_EDGE), east, min(north, _EDGE)

    @cached_property
    def pixel(self) -> float:
        """Side of a pixel at the grid's middle, as a fraction."""
        middle = np.array([self.grid.width / 2, self.grid.height / 2])
        here, right, down = self.of_pixels(middle + np.array([(0, 0), (0.5, 0), (0, 0.5)]))
        (a, b), (c, d) = ((there - here - [np.rint(there[0] - here[0]), 0]) * 2 for there in (right, down))
        side = math.sqrt(abs(a * d - b * c))
        return side if math.isfinite(side) and side > 0 else 1 / max(self.grid.height, self.grid.width)

    def zoom(self, units: float) -> int:
        """The first zoom at which a tile of ``units`` along its side has at least one of them per pixel."""
        return min(MOST_ZOOM, max(0, math.ceil(-math.log2(units * self.pixel))))


def _moved(transform: Affine, points: Array) -> Array:
    """(n, 2) points through an affine transform; what is not finite stays so."""
    x, y = points.T
    with np.errstate(invalid="ignore"):
        return np.column_stack(
            [transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f]
        )
