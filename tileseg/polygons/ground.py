"""A grid on the globe: where it bends, where it ends, and which of its polygons need more than a transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tileseg.errors import InputError
from tileseg.globe import Globe, globe_of
from tileseg.grid import Grid
from tileseg.polygons.densify import FINEST, densify
from tileseg.polygons.lattice import close_rings, longest_edge
from tileseg.polygons.rings import Array

_CELLS = 16
"""Cells along each side of a grid, in each of which lines are bent about alike."""

_TOLERANCE = 1 / 64
"""Pixels by which a straight line between two points in degrees may miss the line on the map; about: what is measured
is the middle of cells, so a quarter of that is kept in hand for the rest of them."""

_EVEN = 30.0
"""Degrees of longitude between neighbouring points of an ordinary grid, at most."""

_SHARP = 1e-6
"""Pixels: how near the border of the ground is found."""

_SEAM = 1e-3
"""Degrees: points on the border of the map this near to its seam are meant to lie on it."""

_MOST_BESIDE = 20_000
"""Points of a batch beside the map that are brought to its border; more are thinned out."""

ON, BESIDE, WHOLE, PARTLY = 0, 1, 2, 3
"""Where a ring lies: on the ground; beside it; around all of it; on the ground in part."""


@dataclass(frozen=True, slots=True)
class Rings:
    """Closed rings (n, 2) in the scene's CRS that keep to the ground."""

    xy: Array
    offsets: Array
    """(R + 1,) into them."""
    pole: Array
    """(n,) int8: 1 where a point is the North Pole, -1 the South Pole, else 0."""
    moved: Array
    """(n,) bool: which points were brought to the border of the map."""
    state: Array
    """(R,) int8: ON, BESIDE, WHOLE or PARTLY."""


class Ground:
    """What a grid with a coordinate reference system covers. Safe to share between threads."""

    def __init__(self, grid: Grid) -> None:
        assert grid.crs_wkt is not None
        self.grid = grid
        self.globe: Globe = globe_of(grid.crs_wkt)
        gt = grid.transform
        self._unit = math.sqrt(abs(gt.determinant))  # a pixel, in units of the CRS

    @cached_property
    def _nodes(self) -> Array:
        """(cells down + 1, cells across + 1, 2) column and row of the corners of the cells."""
        rows = np.linspace(0, self.grid.height, min(_CELLS, self.grid.height) + 1)
        cols = np.linspace(0, self.grid.width, min(_CELLS, self.grid.width) + 1)
        return np.stack(np.meshgrid(cols, rows), axis=-1)

    @cached_property
    def _cell(self) -> Array:
        down, across = (n - 1 for n in self._nodes.shape[:2])
        return np.array([self.grid.width / across, self.grid.height / down])

    def place(self, lattice: Array) -> Array:
        """(n, 2) columns and rows in the scene's CRS."""
        gt = self.grid.transform
        col, row = lattice.T
        return np.column_stack([gt.c + col * gt.a + row * gt.b, gt.f + col * gt.d + row * gt.e])

    @cached_property
    def _on(self) -> Array:
        """(cells down + 1, cells across + 1) whether the map has ground there. Raises InputError: nowhere."""
        shape = self._nodes.shape[:2]
        on = self.globe.on_ground(self.place(self._nodes.reshape(-1, 2)), 0.1 * self._unit).reshape(shape)
        if not on.any():
            raise InputError(
                f"the scene reaches to where its CRS {self.globe.crs.name!r} cannot be turned into longitude and "
                "latitude; check its georeference"
            )
        return on

    @cached_property
    def centre(self) -> Array:
        """(2,) column and row of a place on the ground, amid all that the grid has of it."""
        middle = np.array([self.grid.width // 2, self.grid.height // 2], np.float64)
        if self._on.all():
            return middle
        there = self._nodes[self._on]
        return np.asarray(there[np.hypot(*(there - there.mean(axis=0)).T).argmin()])

    @cached_property
    def is_partial(self) -> bool:
        """Whether some of the grid lies beside the map."""
        return not self._on.all()

    @cached_property
    def mirrored(self) -> bool:
        """Whether a ring that runs counter-clockwise in (x, y) runs clockwise in longitude and latitude."""
        col, row = self.centre
        step = 0.25
        xy = self.place(np.array([(col, row), (col + step, row), (col, row + step)]))
        here, right, down = self.globe.lonlat(xy)
        a, b = right - here, down - here
        a[0], b[0] = (math.remainder(v, 360.0) for v in (a[0], b[0]))
        return bool((a[0] * b[1] - a[1] * b[0] < 0) != (self.grid.transform.determinant < 0))

    @cached_property
    def poles(self) -> Array:
        """(k, 3) column, row and sign of the poles that lie on the grid or near it."""
        found = []
        for sign, x, y in self.globe.poles:
            col, row = ~self.grid.transform @ (x, y)
            far = (
                max(0.0, -col, col - self.grid.width) / self._cell[0]
                + max(0.0, -row, row - self.grid.height) / (self._cell[1])
            )
            if far < 4:
                snapped = [round(v) if abs(v - round(v)) < FINEST / 4 else v for v in (col, row)]
                found.append((*snapped, float(sign)))
        return np.array(found, np.float64).reshape(-1, 3)

    @cached_property
    def is_ordinary(self) -> bool:
        """Whether no polygon can reach a pole, 180 degrees or the end of the map."""
        if self.is_partial or len(self.poles):
            return False
        lonlat = self.globe.lonlat(self.place(self._nodes.reshape(-1, 2))).reshape(self._nodes.shape)
        lon, lat = np.abs(lonlat[..., 0]), np.abs(lonlat[..., 1])
        if self.globe.is_plain:
            return bool(lon.max() <= 180 + _NOISE and lat.max() <= 90 + _NOISE)
        steps = [np.abs(np.diff(lonlat[..., 0], axis=axis)).max() for axis in (0, 1)]
        return bool(max(steps) < _EVEN and lon.max() + max(steps) < 180 and lat.max() < 89)

    @cached_property
    def _spacing(self) -> Array:
        """(cells down, cells across, 3) pixels between points on lines along rows, along columns, and others."""
        down, across = (n - 1 for n in self._nodes.shape[:2])
        if self.globe.is_plain and (self.globe.shares_datum or not self.globe.is_earth):
            return np.full((down, across, 3), np.inf)
        nodes = (self._nodes[1:, 1:] + self._nodes[:-1, :-1]) / 2
        reach = self._cell / 2
        points = {(i, j): nodes + reach * (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        places = {k: self.globe.lonlat(self.place(p.reshape(-1, 2))).reshape(p.shape) for k, p in points.items()}
        with np.errstate(invalid="ignore"):
            sides = {k: place - places[0, 0] for k, place in places.items()}
        with np.errstate(all="ignore"):
            for side in sides.values():
                side[..., 0] = np.remainder(side[..., 0] + 180, 360) - 180
            # From degrees to pixels, about the middle of the cell.
            east, south = (sides[1, 0] - sides[-1, 0]) / 2 / reach[0], (sides[0, 1] - sides[0, -1]) / 2 / reach[1]
            det = east[..., 0] * south[..., 1] - east[..., 1] * south[..., 0]

            def bend(i: int, j: int) -> Array:
                """Pixels by which a line bends, divided by the square of its length."""
                off = (sides[i, j] + sides[-i, -j]) / 2
                col = (off[..., 0] * south[..., 1] - off[..., 1] * south[..., 0]) / det
                row = (off[..., 1] * east[..., 0] - off[..., 0] * east[..., 1]) / det
                way = reach * (i, j)
                across = np.abs(col * way[1] - row * way[0]) / np.hypot(*way)
                return np.asarray(across / (4 * (way @ way)))

            along_row, along_col = bend(1, 0), bend(0, 1)
            either = np.maximum(np.maximum(bend(1, 1), bend(1, -1)), np.maximum(along_row, along_col))
            found = np.sqrt(_TOLERANCE / np.stack([along_row, along_col, either], axis=-1))
        found[~np.isfinite(found) & ~np.isposinf(found)] = 1.0
        corners = self._on[1:, 1:] & self._on[1:, :-1] & self._on[:-1, 1:] & self._on[:-1, :-1]
        found[~corners] = np.minimum(found[~corners], 1.0)
        middle = nodes[..., None, :] - self.poles[:, :2]
        by_pole = (np.hypot(middle[..., 0], middle[..., 1]) < 2 * self._cell.max()).any(axis=-1)
        found[by_pole] = np.inf  # the distance from the pole decides
        if not self.is_ordinary:  # so that longitudes can be followed from point to point
            found = np.minimum(found, self._cell.min())
        return np.asarray(np.maximum(found, FINEST))

    def bends(self, coordinates: Array, offsets: Array) -> bool:
        """Whether edges of open lattice rings may not be straight in degrees."""
        least = 0.0 if len(self.poles) else float(self._spacing.min())
        return bool(len(coordinates) and longest_edge(coordinates, offsets) > least)

    def dense(self, coordinates: Array, offsets: Array, *, closed: bool) -> tuple[Array, Array]:
        """Lattice rings (``closed``: open ones, as in a batch) or lines with points where edges are not straight."""
        near = 3 * float(self._cell.max())
        return densify(
            coordinates, offsets, closed,
            self._spacing, self._cell, np.ascontiguousarray(self.poles[:, :2]), near, _TOLERANCE,
        )  # fmt: skip

    def rings(self, lattice: Array, offsets: Array, *, reverse: bool) -> Rings:
        """Open lattice rings, closed, in the scene's CRS, with what lies beside the map brought to its border."""
        gt = self.grid.transform
        xy, ends = close_rings(lattice, offsets, reverse, gt.c, gt.a, gt.b, gt.f, gt.d, gt.e)
        moved, state = np.zeros(len(xy), np.bool_), np.zeros(len(ends) - 1, np.int8)
        if self.is_partial and len(xy):
            xy, ends, moved, state = self._kept_to_ground(xy, ends)
        pole = np.zeros(len(xy), np.int8)
        if len(self.poles):
            cols, rows = ~gt @ (xy[:, 0], xy[:, 1])
            for col, row, sign in self.poles.tolist():
                pole[np.hypot(cols - col, rows - row) < 1.5 * FINEST] = int(sign)
        return Rings(xy, ends, pole, moved, state)

    def degrees(self, rings: Rings) -> Array:
        """(n, 2) longitude and latitude of rings; along the seam of the map exactly on it."""
        found = self.globe.lonlat(rings.xy)
        seam = self.globe.seam
        if seam is not None and rings.moved.any():
            off = np.remainder(found[:, 0] - seam + 180, 360) - 180
            along = rings.moved & (np.abs(off) < _SEAM)
            found[along, 0] -= off[along]
        return found

    def _kept_to_ground(self, xy: Array, offsets: Array) -> tuple[Array, Array, Array, Array]:
        """Points beside the map are moved towards its middle up to its border, and edges across it get a point there.

        That holds for maps that are convex, as those of the whole globe and of what a satellite sees are.
        """
        on = self._on_ground(xy)
        rings = len(offsets) - 1
        state = np.zeros(rings, np.int8)
        if on.all():
            return xy, offsets, ~on, state
        centre = self.place(self.centre[None])[0]
        there = np.add.reduceat(on.astype(np.int64), offsets[:-1])
        state[there < np.diff(offsets)] = PARTLY
        for ring in np.flatnonzero(there == 0):
            state[ring] = WHOLE if _holds(xy[offsets[ring] : offsets[ring + 1]], centre) else BESIDE
        ring_of = np.repeat(np.arange(rings), np.diff(offsets))
        every = 1 + int(np.count_nonzero(~on) // _MOST_BESIDE)
        if every > 1:
            keep = on | (np.arange(len(xy)) % every == 0)
            keep[offsets[:-1]] = keep[offsets[1:] - 1] = True
            keep[1:] |= on[:-1]
            keep[:-1] |= on[1:]
            xy, on, ring_of = xy[keep], on[keep], ring_of[keep]
        crossing = np.flatnonzero((on[1:] != on[:-1]) & (ring_of[1:] == ring_of[:-1]))
        first, second = xy[crossing], xy[crossing + 1]
        inside = np.where(on[crossing][:, None], first, second)
        outside = np.where(on[crossing][:, None], second, first)
        border = self._border(inside, outside)
        out = xy.copy()
        off = np.flatnonzero(~on)
        out[off] = self._border(np.broadcast_to(centre, (len(off), 2)), xy[off])
        out = np.insert(out, crossing + 1, border, axis=0)
        moved = np.insert(~on, crossing + 1, np.True_)
        lengths = np.bincount(ring_of, minlength=rings) + np.bincount(ring_of[crossing], minlength=rings)
        return out, np.concatenate([[0], np.cumsum(lengths)]), moved, state

    def _border(self, inside: Array, outside: Array) -> Array:
        """(n, 2) the last points of the ground on the way out."""
        if not len(inside):
            return inside
        low, high = np.zeros(len(inside)), np.ones(len(inside))
        way = float(np.hypot(*(outside - inside).T).max())
        for _ in range(min(50, math.ceil(math.log2(max(2.0, way / (_SHARP * self._unit)))))):
            middle = (low + high) / 2
            on = self._on_ground(inside + (outside - inside) * middle[:, None])
            low, high = np.where(on, middle, low), np.where(on, high, middle)
        return np.asarray(inside + (outside - inside) * low[:, None])

    def _on_ground(self, xy: Array) -> Array:
        return self.globe.on_ground(xy, 1e-3 * self._unit)


_NOISE = 1e-9
"""Degrees: what sums of pixel sizes are off."""


def _holds(ring: Array, point: Array) -> bool:
    """Whether a closed ring (n, 2) goes around a point."""
    (x0, y0), (x1, y1) = (ring[:-1] - point).T, (ring[1:] - point).T
    with np.errstate(all="ignore"):
        crosses = ((y0 > 0) != (y1 > 0)) & (x0 - y0 * (x1 - x0) / (y1 - y0) > 0)
    return bool(crosses.sum() % 2)


def decimals_of(grid: Grid) -> int:
    """Decimals with which coordinates are written (degrees; those of the grid without a CRS).

    7 (a centimetre), and more where pixels are so small that rounding would move corners by more than 1/16 of one.
    """
    if grid.geod is None or grid.pixel_metres is None:
        gt = grid.transform
        size = min(math.hypot(gt.a, gt.d), math.hypot(gt.b, gt.e))
        most = math.floor(18 - math.log10(max(1.0, *map(abs, grid.bounds))))  # digits that 64 bits hold
    else:
        size, most = math.degrees(min(grid.pixel_metres) / grid.geod.a), 12
    return max(7, min(most, math.ceil(-math.log10(size / 8))))


def digits_of_areas(grid: Grid) -> int:
    """Decimals with which areas and perimeters are written: 4, and more where pixels are small."""
    if grid.geod is None or grid.pixel_metres is None:
        return 4
    return min(12, max(4, 2 - math.floor(math.log10(math.prod(grid.pixel_metres)))))
