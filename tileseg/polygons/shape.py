"""From lattice polygons to shapes on the ground: coordinates, areas, filters, simplification.

Areas and perimeters are those of the ellipsoid under the scene's CRS, whatever its projection: boundaries are
followed as they run in the CRS, in steps of at most 1 km, each taken as a great circle of the authalic sphere (same
area as the ellipsoid; Snyder, Map Projections, 1987, section 3) and as a chord through the ellipsoid. For the same
steps this is within 1e-7 of Karney's geodesics (pyproj.Geod), a seventh of the time, and closer to the truth for
polygons of a few square metres, where pyproj.Geod is off by some 1e-4 m2; the steps are good for 1e-5.
Without a CRS, areas and perimeters are counted in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine

from tileseg.grid import Grid
from tileseg.labels import SPREAD_STEP
from tileseg.polygons.batch import concatenate, select
from tileseg.polygons.cut import beyond_the_plane, cut
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.ground import BESIDE, WHOLE, Ground, decimals_of, digits_of_areas
from tileseg.polygons.lattice import (
    Lines,
    close_rings,
    has_slanting_edges,
    lattice_areas,
    lines_of,
    longest_edge,
    split_edges,
    with_junctions,
)
from tileseg.polygons.measure import measure_rings, sum_lines, sums_to_rings, surface_of
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.regularize import Rules, regularize
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch, release

if TYPE_CHECKING:
    from pyproj import Geod


_STEP = 2_500.0
"""Metres: longer edges are measured in parts, since a straight line on the map is no geodesic."""

_AT_A_TIME = 1 << 18
"""Corners worked on at a time; polygons of more wait in files."""

_MOVED, _MOVED_PIXELS, _MOVED_UNKNOWN = 1.0, 2.5, 3.0
"""How far regular outlines may move by default: metres, but at least so many pixels; pixels of unknown size."""

_TINY, _SEAM = 1e-12, 1e-6
"""Shares of the globe: what rounding leaves of an area; what a ring along the seam of a map goes around."""


@dataclass(frozen=True, slots=True)
class LonLat:
    """Polygons in degrees: WGS 84, or a body's own. With points along edges that are not straight in degrees."""

    coordinates: Array
    """(n, 2) float64: longitude, latitude. Rings are closed and run as in the CRS."""
    ring_offsets: Array
    """(R + 1,) int64, into them."""
    parts: Mapping[int, Any]
    """Shapely geometries of the polygons that ``coordinates`` do not show: cut at 180 degrees, or around a pole."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Polygons ready to be written. P polygons, R rings, n vertices.

    Rings are closed (the first vertex is repeated); exteriors run counter-clockwise and holes clockwise in (x, y).
    """

    coordinates: Array
    """(n, 2) float64: x, y in the scene's CRS; bit-equal to what GDAL computes."""
    lonlat: LonLat | None
    """The same rings in longitude and latitude; None if not wanted or no CRS."""
    ring_offsets: Array
    """(R + 1,) int64, into the vertices."""
    polygon_offsets: Array
    """(P + 1,) int64, into the rings; a polygon's first ring is its exterior."""
    label: Array
    """(P,) int32: class id."""
    area: Array
    """(P,) float64: square metres, or pixels without a CRS."""
    perimeter: Array
    """(P,) float64: metres, or pixels without a CRS; holes included."""
    mean_probability: Array | None
    """(P,) float64: mean probability of the class over the pixels, 4 decimals; None where unknown."""
    min_probability: Array | None
    """(P,) float64: the least of them."""
    mean_disagreement: Array | None
    """(P,) float64: mean over the pixels of the disagreement of views, 4 decimals; None where unknown."""
    pixels: Array
    """(P,) int64: labelled pixels (those of filled holes are not among them)."""
    touches_edge: Array
    """(P,) bool."""
    touches_nodata: Array
    """(P,) bool."""
    scratch: Scratch
    """Where a polygon of more vertices than it holds in memory waits: then it is alone."""

    def __len__(self) -> int:
        """Number of polygons."""
        return len(self.label)

    def geometries(self) -> Array:
        """(P,) shapely polygons, in the scene's CRS."""
        return _polygons(self.coordinates, self.ring_offsets, self.polygon_offsets)


class Shaper:
    """Places batches on the ground, leaving out what is too small. Safe to share between threads."""

    def __init__(
        self,
        grid: Grid,
        pixel_metres: tuple[float, float] | None = None,
        *,
        min_area: Quantity | None = None,
        fill_holes: Quantity | None = None,
        has_confidence: bool = True,
        has_disagreement: bool = False,
        lonlat: bool = True,
        scratch: Scratch | None = None,
    ) -> None:
        """``min_area``: smaller polygons are left out; ``fill_holes``: smaller holes are filled (before that).

        ``pixel_metres``: along rows and columns, where the grid does not say it; without either, limits in metres
        count pixels. ``lonlat``: whether to give WGS 84 coordinates too. ``scratch``: where polygons wait that are too
        large for memory.
        """
        self.grid = grid
        self.pixel_metres = grid.pixel_metres or pixel_metres
        self.min_area = min_area
        self.fill_holes = fill_holes
        self.has_confidence = has_confidence
        self.has_disagreement = has_disagreement
        self.lonlat = lonlat and self.is_georeferenced
        self.scratch = Scratch(None, _AT_A_TIME) if scratch is None else scratch

    @cached_property
    def is_georeferenced(self) -> bool:
        """Whether areas are in square metres: there is a CRS, and it has an ellipsoid."""
        return self.grid.geod is not None

    def shape(self, batch: PolygonBatch) -> Shapes:
        """Place a batch on the ground, filtered. Raises InputError where the CRS does not reach."""
        batch = self.filter(batch)
        start, counts = batch.polygon_offsets[:-1], len(batch)
        xy, offsets = self._placed(batch)
        lonlat = self._lonlat(batch, xy, offsets) if self.lonlat else None
        area, perimeter = self._measure(batch, lonlat)
        has = self.has_confidence
        return Shapes(
            coordinates=xy,
            lonlat=lonlat,
            ring_offsets=offsets,
            polygon_offsets=np.asarray(batch.polygon_offsets),
            label=np.asarray(batch.label),
            area=np.round(_per_polygon(area, start, counts), self._digits),
            perimeter=np.round(_per_polygon(perimeter, start, counts), self._digits),
            mean_probability=np.round(batch.confidence_sum / (batch.pixels * 65535.0), 4) if has else None,
            min_probability=np.round(batch.confidence_min / 65535.0, 4) if has else None,
            mean_disagreement=(
                np.round(batch.disagreement_sum * SPREAD_STEP / batch.pixels, 4) if self.has_disagreement else None
            ),
            pixels=np.asarray(batch.pixels),
            touches_edge=np.asarray(batch.touches_edge),
            touches_nodata=np.asarray(batch.touches_nodata),
            scratch=self.scratch,
        )

    def filter(self, batch: PolygonBatch) -> PolygonBatch:
        """The batch with small holes filled and without small polygons."""
        for in_pixels in (True, False):
            batch = self._filtered(batch, in_pixels=in_pixels)
        return batch

    def unfiltered(self) -> Shaper:
        """The same without limits, for polygons that were filtered before."""
        return Shaper(
            self.grid,
            self.pixel_metres,
            has_confidence=self.has_confidence,
            has_disagreement=self.has_disagreement,
            lonlat=self.lonlat,
            scratch=self.scratch,
        )

    def simplify(self, batches: Iterable[PolygonBatch], tolerance: Quantity) -> PolygonBatch:
        """All polygons at once with fewer vertices; borders that two of them share stay shared.

        Visvalingam-Whyatt on the whole coverage (shapely.coverage_simplify): ``tolerance`` is the root of the area
        of the triangles that are removed. It works on the pixel lattice scaled to metres at the scene's centre, so
        it means the same in degrees and in Web Mercator; vertices that stay are corners of pixels still.
        **Holds all polygons in memory**, unlike everything else here. Polygons are filtered before.
        """
        whole = concatenate([self.filter(batch) for batch in batches])
        if not len(whole):
            return whole
        # Rounded, so that noise in the last digits does not decide between triangles of the same size.
        sides = (1.0, 1.0) if tolerance.in_pixels else self.pixel_metres or (1.0, 1.0)
        scale = tuple(float(f"{side:.4g}") for side in sides)
        coordinates, ring_offsets = with_junctions(whole.coordinates, whole.ring_offsets)
        closed, offsets = close_rings(coordinates, ring_offsets, False, 0.0, scale[0], 0.0, 0.0, 0.0, scale[1])
        thin = shapely.coverage_simplify(_polygons(closed, offsets, whole.polygon_offsets), tolerance.value)
        _, xy, (ring_offsets, polygon_offsets) = shapely.to_ragged_array(shapely.orient_polygons(thin))
        lattice = np.rint(xy / scale).astype(np.int32)
        opened = np.ones(len(lattice), bool)
        opened[ring_offsets[1:] - 1] = False
        return replace(
            whole,
            coordinates=lattice[opened],
            ring_offsets=np.asarray(ring_offsets, np.int64) - np.arange(len(ring_offsets)),
            polygon_offsets=np.asarray(polygon_offsets, np.int64),
        )

    def regularize(
        self, batches: Iterable[PolygonBatch], tolerance: Quantity | None, wanted: Callable[[Array], Array]
    ) -> Iterator[PolygonBatch]:
        """The polygons with straight walls and right angles where they nearly are so; shared borders stay shared.

        ``wanted``: of labels (P,), which are wanted (bool). ``tolerance``: how far outlines may move; by default 1 m or
        2.5 pixels, whichever is more. Right angles are those on the ground, at the scene's centre. Polygons are
        filtered before, and wait in files meanwhile.
        """
        sides = tuple(float(f"{side:.4g}") for side in self.pixel_metres or (1.0, 1.0))
        most = usual_tolerance(tolerance, (sides[0], sides[1]) if self.pixel_metres else None)
        rules = Rules((sides[0], sides[1]), most, wanted, (self.grid.height, self.grid.width))
        return regularize(map(self.filter, batches), rules, self.scratch)

    def _filtered(self, batch: PolygonBatch, *, in_pixels: bool) -> PolygonBatch:
        """Apply the limits that are given in pixels (cheap: no coordinates needed), or the others."""

        def limit(quantity: Quantity | None) -> float:
            if quantity is None or (quantity.in_pixels or not self.is_georeferenced) != in_pixels:
                return 0.0
            flat = not quantity.in_pixels and not self.is_georeferenced
            return quantity.value / math.prod(self.pixel_metres or (1.0, 1.0)) if flat else quantity.value

        least, hole = limit(self.min_area), limit(self.fill_holes)
        if not (least or hole) or not len(batch):
            return batch
        area = lattice_areas(batch.coordinates, batch.ring_offsets)[0] if in_pixels else self._measure(batch)[0]
        release(batch.coordinates)
        keep = np.ones(len(area), np.bool_)
        if hole:
            exterior = np.zeros(len(area), np.bool_)
            exterior[batch.polygon_offsets[:-1]] = True
            keep = exterior | (-area >= hole)
        total = _per_polygon(np.where(keep, area, 0.0), batch.polygon_offsets[:-1], len(batch))
        return select(batch, keep, total >= least, self.scratch)

    def _lonlat(self, batch: PolygonBatch, xy: Array, offsets: Array) -> LonLat:
        """The batch in degrees; ``xy``, ``offsets``: its closed rings in the CRS."""
        ground = self._ground
        if ground.is_ordinary:
            degrees, offsets = self._degrees(batch, xy, offsets)
            broken = self._invalid(batch, degrees, offsets)
            return LonLat(degrees, offsets, {i: _polygon(degrees, offsets, batch, i) for i in broken})
        lattice, ends = batch.coordinates, batch.ring_offsets
        if ground.bends(lattice, ends):
            lattice, ends = ground.dense(lattice, ends, closed=True)
        rings = ground.rings(lattice, ends, reverse=self._reverse)
        degrees = ground.degrees(rings)
        globe, mirrored = ground.globe, ground.mirrored
        beyond = beyond_the_plane(
            degrees, rings.offsets, batch.polygon_offsets, rings.pole, rings.state, mirrored, globe.is_plain
        )
        parts = {
            i: cut(
                [degrees[rings.offsets[r] : rings.offsets[r + 1]] for r in which],
                [rings.pole[rings.offsets[r] : rings.offsets[r + 1]] for r in which],
                rings.state[which].tolist(),
                mirrored=mirrored,
                plain=globe.is_plain,
            )
            for i in np.flatnonzero(beyond).tolist()
            for which in [np.arange(batch.polygon_offsets[i], batch.polygon_offsets[i + 1])]
        }
        broken = [i for i in self._invalid(batch, degrees, rings.offsets) if i not in parts]
        parts |= {i: _polygon(degrees, rings.offsets, batch, i) for i in broken}
        return LonLat(degrees, rings.offsets, parts)

    def _placed(self, batch: PolygonBatch) -> tuple[Array, Array]:
        """Closed rings in the scene's CRS: (n, 2) and their offsets."""
        pile = self.scratch.pile(len(batch.coordinates))
        for line in self._lines(batch, self.grid.transform):
            pile.add(line.points if line.begins else line.points[1:])
        offsets = batch.ring_offsets + np.arange(len(batch.ring_offsets))
        return (pile.whole() if len(batch) else np.empty((0, 2))), offsets

    def _degrees(self, batch: PolygonBatch, xy: Array, offsets: Array) -> tuple[Array, Array]:
        """Closed rings in longitude and latitude, on a grid without poles and seams: (n, 2) and their offsets.

        ``xy``, ``offsets``: the same in the scene's CRS.
        """
        ground, most = self._ground, self.scratch.in_memory
        pile = self.scratch.pile(len(batch.coordinates))
        if not ground.bends(batch.coordinates, batch.ring_offsets):
            release(batch.coordinates)
            for low in range(0, max(1, len(xy)), most):
                pile.add(ground.globe.lonlat(xy[low : low + most]))
                release(xy)
            return pile.whole(), offsets
        lengths = np.zeros(len(offsets), np.int64)
        for line in self._lines(batch):
            points, ends = ground.dense(line.points, line.offsets, closed=False)
            known = 0 if line.begins else 1
            pile.add(ground.globe.lonlat(ground.place(points[known:])))
            lengths[1:][line.rings] += np.diff(ends) - known
        return pile.whole(), np.cumsum(lengths)

    def _lines(self, batch: PolygonBatch, transform: Affine | None = None) -> Iterator[Lines]:
        """The rings in pieces, closed, in the order of those of the scene's CRS; on the lattice unless placed."""
        return lines_of(
            batch.coordinates, batch.ring_offsets, self.scratch.in_memory,
            reverse=self._reverse, transform=transform or Affine.identity(),
        )  # fmt: skip

    def _invalid(self, batch: PolygonBatch, degrees: Array, offsets: Array) -> list[int]:
        """Polygons that would cross themselves as they are written.

        Rounding cannot do that to polygons of whole pixels, only to those with slanting edges, which may come nearer
        to one another than the rounding and the bending of straight lines.
        """
        slanting = len(batch) and has_slanting_edges(batch.coordinates, batch.ring_offsets)
        release(batch.coordinates)
        if not slanting:
            return []
        rounded = _polygons(np.round(degrees, decimals_of(self.grid)), offsets, batch.polygon_offsets)
        broken: list[int] = np.flatnonzero(~shapely.is_valid(rounded)).tolist()
        return broken

    def _measure(self, batch: PolygonBatch, lonlat: LonLat | None = None) -> tuple[Array, Array]:
        """(area, perimeter) of each ring; areas of holes are negative. ``lonlat``: of the batch, if at hand."""
        if not self.is_georeferenced:
            return lattice_areas(batch.coordinates, batch.ring_offsets)
        geod, ground = self.grid.geod, self._ground
        assert geod is not None
        step = _STEP / max(self.pixel_metres or (_STEP,))
        coordinates, ring_offsets = batch.coordinates, batch.ring_offsets
        long_edges = len(coordinates) and longest_edge(coordinates, ring_offsets) > step
        release(coordinates)
        small = len(coordinates) <= self.scratch.in_memory
        if small and lonlat is not None and ground.globe.shares_datum and ground.is_ordinary and not long_edges:
            return self._signed(
                batch, *measure_rings(np.radians(lonlat.coordinates), lonlat.ring_offsets, *_shape(geod))
            )
        if ground.is_ordinary:
            sums = np.zeros((3, len(ring_offsets) - 1))
            for line in self._lines(batch):
                points, ends = line.points, line.offsets
                if long_edges:
                    points, ends = split_edges(points, ends, step, closed=False)
                sums[:, line.rings] += sum_lines(ground.globe.radians(ground.place(points)), ends, *_shape(geod))
            return self._signed(batch, *sums_to_rings(sums, *_shape(geod)))
        if long_edges:
            coordinates, ring_offsets = split_edges(coordinates, ring_offsets, step, closed=True)
        rings = ground.rings(coordinates, ring_offsets, reverse=self._reverse)
        area, perimeter = measure_rings(ground.globe.radians(rings.xy), rings.offsets, *_shape(geod))
        if ground.globe.is_plain:
            return self._signed(batch, area, perimeter)
        # Of the two sides of a ring, the polygon's is not always the smaller one.
        surface = surface_of(*_shape(geod))
        exterior = np.zeros(len(area), np.bool_)
        exterior[batch.polygon_offsets[:-1]] = True
        area = np.where(exterior != ground.mirrored, area, -area)  # positive, as far as it is the smaller side
        whole = (rings.state == WHOLE) & (np.abs(area) < _SEAM * surface)
        area = np.where(whole, surface, np.where(area < -_TINY * surface, area + surface, area))
        area[rings.state == BESIDE] = perimeter[rings.state == BESIDE] = 0.0
        return np.where(exterior, area, -area), perimeter

    def _signed(self, batch: PolygonBatch, area: Array, perimeter: Array) -> tuple[Array, Array]:
        """Areas with the sign of their exterior taken out: rings may be mirrored on the ground."""
        sign = np.ones(len(area))
        exteriors = batch.polygon_offsets[:-1]
        if len(exteriors):
            sign = np.repeat(np.sign(area[exteriors]), np.diff(batch.polygon_offsets))
        return area * sign, perimeter

    @cached_property
    def _digits(self) -> int:
        return digits_of_areas(self.grid)

    @property
    def _reverse(self) -> bool:
        """Whether lattice rings must be turned around to run counter-clockwise in (x, y)."""
        return self.grid.transform.determinant < 0

    @cached_property
    def _ground(self) -> Ground:
        return Ground(self.grid)


def usual_tolerance(tolerance: Quantity | None, sides: tuple[float, float] | None) -> float:
    """How far regular outlines may move: metres, or pixels where ``sides``, the metres of a pixel, are not known."""
    if tolerance is None:
        return max(_MOVED, _MOVED_PIXELS * max(sides)) if sides else _MOVED_UNKNOWN
    return tolerance.value * (min(sides) if sides and tolerance.in_pixels else 1.0)


def _per_polygon(rings: Array, first: Array, polygons: int) -> Array:
    return np.add.reduceat(rings, first) if polygons else np.empty(0)


def _polygons(closed: Array, ring_offsets: Array, polygon_offsets: Array) -> Array:
    geometries: Array = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets))
    return geometries


def _polygon(degrees: Array, ring_offsets: Array, batch: PolygonBatch, index: int) -> Any:
    rings = range(batch.polygon_offsets[index], batch.polygon_offsets[index + 1])
    exterior, *holes = (degrees[ring_offsets[r] : ring_offsets[r + 1]] for r in rings)
    return shapely.Polygon(exterior, holes)


def _shape(geod: Geod) -> tuple[float, float]:
    """Semi-major axis in metres and squared eccentricity."""
    return float(geod.a), float(geod.es)
