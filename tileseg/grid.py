"""A georeferenced lattice of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from affine import Affine

from tileseg.errors import UsageError
from tileseg.window import Window

if TYPE_CHECKING:
    from pyproj import CRS, Geod


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie on the ground."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """(column, row) of a pixel's corner -> (x, y) in the CRS; (0, 0) is the outer corner of the first pixel."""
    crs_wkt: str | None = None
    """Coordinate reference system as WKT 2, or None: then x and y are pixels."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(f"a grid needs at least one pixel, not {self.height} rows x {self.width} columns")
        if self.transform.is_degenerate:
            raise UsageError(f"the transform maps all pixels onto a line: {tuple(self.transform)[:6]}")

    def __getitem__(self, window: Window) -> Grid:
        """The grid of a window."""
        shifted = self.transform @ Affine.translation(window.col_off, window.row_off)
        return Grid(window.height, window.width, shifted, self.crs_wkt)

    @property
    def extent(self) -> Window:
        """All pixels."""
        return Window(0, 0, self.height, self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x, least y, greatest x, greatest y of the corners, in the CRS."""
        corners = [self.transform @ (x, y) for x in (0, self.width) for y in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def is_north_up(self) -> bool:
        """Whether rows run along x and columns along y (south-up counts): then 1-D coordinates describe it."""
        return self.transform.b == 0 and self.transform.d == 0

    @cached_property
    def crs(self) -> CRS | None:
        """The coordinate reference system, axis order x, y (as GIS tools use it)."""
        return None if self.crs_wkt is None else _crs(self.crs_wkt)

    @cached_property
    def geod(self) -> Geod | None:
        """The ellipsoid to measure on, or None without a CRS (or with a local engineering one)."""
        return None if self.crs is None else self.crs.get_geod()

    @cached_property
    def pixel_metres(self) -> tuple[float, float] | None:
        """Metres on the ground from one pixel to the next along the middle row, and along the middle column.

        Measured on the ellipsoid, so right for degrees and for Web Mercator too (whose metres are longer than those on
        the ground); a local engineering system is flat. None without a CRS, or with one of no known unit.
        """
        if self.crs is not None and self.crs.is_engineering:
            axis = self.crs.axis_info[0] if self.crs.axis_info else None
            if axis is None or axis.unit_name in ("unknown", "degree", "") or not axis.unit_conversion_factor > 0:
                return None
            along, across = (self.transform.a, self.transform.d), (self.transform.b, self.transform.e)
            return math.hypot(*along) * axis.unit_conversion_factor, math.hypot(*across) * axis.unit_conversion_factor
        if self.crs is None or self.geod is None or self.crs.geodetic_crs is None:
            return None
        from pyproj import Transformer

        to_degrees = Transformer.from_crs(self.crs, self.crs.geodetic_crs, always_xy=True)
        lines = (
            [(self.width * i / 32, self.height / 2) for i in range(33)],
            [(self.width / 2, self.height * i / 32) for i in range(33)],
        )
        found = []
        for pixels, line in zip((self.width, self.height), lines, strict=True):
            points = [self.transform @ point for point in line]
            lon, lat = to_degrees.transform([x for x, _ in points], [y for _, y in points])
            # Beside the map, and beyond the poles, there is nothing to measure.
            parts = [m for m in self.geod.line_lengths(lon, lat) if math.isfinite(m) and m > 0]
            found.append(sum(parts) / len(parts) * (len(line) - 1) / pixels if parts else 0.0)
        along_row, along_col = found
        return (along_row, along_col) if along_row > 0 and along_col > 0 else None

    @property
    def ground_sample_distance(self) -> float | None:
        """Metres per pixel on the ground: the geometric mean of those along rows and columns; None if not known."""
        return None if self.pixel_metres is None else math.sqrt(math.prod(self.pixel_metres))

    def overview(self, factor: int) -> Grid:
        """The grid of every ``factor``-th pixel: ceil(size / factor) pixels, the same outer corner."""
        return Grid(
            -(-self.height // factor),
            -(-self.width // factor),
            self.transform @ Affine.scale(factor),
            self.crs_wkt,
        )


@lru_cache(maxsize=16)
def _crs(wkt: str) -> CRS:
    from pyproj import CRS

    return CRS.from_wkt(wkt)
