"""From lattice polygons to shapes on the ground: coordinates, areas, filters, simplification.

Areas and perimeters are those of the ellipsoid under the scene's CRS, whatever its projection: boundaries are
followed as they run in the CRS, in steps of at most 1 km, each taken as a great circle of the authalic sphere (same
area as the ellipsoid; Snyder, Map Projections, 1987, section 3) and as a chord through the ellipsoid. For the same
steps this is within 1e-7 of Karney's geodesics (pyproj.Geod), a seventh of the time, and closer to the truth for
polygons of a few square metres, where pyproj.Geod is off by some 1e-4 m2; the steps are good for 1e-5.
Without a CRS, areas and perimeters are counted in pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.polygons.batch import concatenate, select
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.lattice import close_rings, lattice_areas, longest_edge, split_edges, with_junctions
from tileseg.polygons.measure import measure_rings
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.rings import Array

if TYPE_CHECKING:
    from pyproj import CRS, Transformer


_STEP = 2_500.0
"""Metres: longer edges are measured in parts, since a straight line on the map is no geodesic."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Polygons ready to be written. P polygons, R rings, n vertices.

    Rings are closed (the first vertex is repeated); exteriors run counter-clockwise and holes clockwise in (x, y).
    """

    coordinates: Array
    """(n, 2) float64: x, y in the scene's CRS; bit-equal to what GDAL computes."""
    lonlat: Array | None
    """(n, 2) float64: longitude, latitude (WGS 84, degrees) of the same vertices; None if not wanted or no CRS."""
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
    pixels: Array
    """(P,) int64: labelled pixels (those of filled holes are not among them)."""
    touches_edge: Array
    """(P,) bool."""
    touches_nodata: Array
    """(P,) bool."""

    def __len__(self) -> int:
        """Number of polygons."""
        return len(self.label)

    def geometries(self) -> Array:
        """(P,) shapely polygons, in the scene's CRS."""
        return _polygons(self.coordinates, self.ring_offsets, self.polygon_offsets)


class Shaper:
    """Turns batches into shapes, leaving out what is too small. Safe to share between threads."""

    def __init__(
        self,
        grid: Grid,
        *,
        min_area: Quantity | None = None,
        fill_holes: Quantity | None = None,
        has_confidence: bool = True,
        lonlat: bool = True,
    ) -> None:
        """``min_area``: smaller polygons are left out; ``fill_holes``: smaller holes are filled (before that).

        ``lonlat``: whether to give WGS 84 coordinates too. Raises UsageError where a CRS is needed and missing.
        """
        self.grid = grid
        self.min_area = min_area
        self.fill_holes = fill_holes
        self.has_confidence = has_confidence
        self.lonlat = lonlat and self.is_georeferenced
        self._local = threading.local()

    @cached_property
    def is_georeferenced(self) -> bool:
        """Whether areas are in square metres: there is a CRS, and it has an ellipsoid."""
        return self.grid.geod is not None

    def shape(self, batch: PolygonBatch) -> Shapes:
        """Place a batch on the ground, filtered. Raises InputError where the CRS does not reach."""
        batch = self.filter(batch)
        start, counts = batch.polygon_offsets[:-1], len(batch)
        gt = self.grid.transform
        xy, offsets = close_rings(
            batch.coordinates, batch.ring_offsets, self._reverse,
            gt.c, gt.a, gt.b, gt.f, gt.d, gt.e,
        )  # fmt: skip
        lonlat = self._to_wgs84(xy) if self.lonlat else None
        area, perimeter = self._measure(batch, lonlat if self._shares_datum else None, offsets)
        has = self.has_confidence
        return Shapes(
            coordinates=xy,
            lonlat=lonlat,
            ring_offsets=offsets,
            polygon_offsets=np.asarray(batch.polygon_offsets),
            label=np.asarray(batch.label),
            area=np.round(_per_polygon(area, start, counts), 4),
            perimeter=np.round(_per_polygon(perimeter, start, counts), 4),
            mean_probability=np.round(batch.confidence_sum / (batch.pixels * 65535.0), 4) if has else None,
            min_probability=np.round(batch.confidence_min / 65535.0, 4) if has else None,
            pixels=np.asarray(batch.pixels),
            touches_edge=np.asarray(batch.touches_edge),
            touches_nodata=np.asarray(batch.touches_nodata),
        )

    def filter(self, batch: PolygonBatch) -> PolygonBatch:
        """The batch with small holes filled and without small polygons."""
        for in_pixels in (True, False):
            batch = self._filtered(batch, in_pixels=in_pixels)
        return batch

    def unfiltered(self) -> Shaper:
        """The same without limits, for polygons that were filtered before."""
        return Shaper(self.grid, has_confidence=self.has_confidence, lonlat=self.lonlat)

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
        scale = (1.0, 1.0) if tolerance.in_pixels or not self.is_georeferenced else self.pixel_size
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

    @cached_property
    def pixel_size(self) -> tuple[float, float]:
        """Metres along a row and down a column of one pixel at the scene's centre."""
        geod = self.grid.geod
        if geod is None:
            raise UsageError("a scene without a CRS has no pixel size in metres: give pixels, such as 2px")
        col, row = self.grid.width // 2, self.grid.height // 2
        corners = np.array([self.grid.transform @ xy for xy in ((col, row), (col + 1, row), (col, row + 1))])
        degrees = np.degrees(self._to_geodetic(corners))
        (x0, y0), (x1, y1), (x2, y2) = degrees.tolist()
        return float(geod.inv(x0, y0, x1, y1)[2]), float(geod.inv(x0, y0, x2, y2)[2])

    def _filtered(self, batch: PolygonBatch, *, in_pixels: bool) -> PolygonBatch:
        """Apply the limits that are given in pixels (cheap: no coordinates needed), or the others."""

        def limit(quantity: Quantity | None) -> float:
            if quantity is None or (quantity.in_pixels or not self.is_georeferenced) != in_pixels:
                return 0.0
            return quantity.value

        least, hole = limit(self.min_area), limit(self.fill_holes)
        if not (least or hole) or not len(batch):
            return batch
        area = lattice_areas(batch.coordinates, batch.ring_offsets)[0] if in_pixels else self._measure(batch)[0]
        keep = np.ones(len(area), np.bool_)
        if hole:
            exterior = np.zeros(len(area), np.bool_)
            exterior[batch.polygon_offsets[:-1]] = True
            keep = exterior | (-area >= hole)
        total = _per_polygon(np.where(keep, area, 0.0), batch.polygon_offsets[:-1], len(batch))
        return select(batch, keep, total >= least)

    def _measure(
        self, batch: PolygonBatch, lonlat: Array | None = None, offsets: Array | None = None
    ) -> tuple[Array, Array]:
        """(area, perimeter) of each ring; areas of holes are negative.

        ``lonlat``, ``offsets``: the batch's closed rings in degrees on the CRS's own datum, where they are at hand.
        """
        if not self.is_georeferenced:
            return lattice_areas(batch.coordinates, batch.ring_offsets)
        geod = self.grid.geod
        assert geod is not None
        step = _STEP / max(self.pixel_size)
        gt = self.grid.transform
        coordinates, ring_offsets = batch.coordinates, batch.ring_offsets
        long_edges = len(coordinates) and longest_edge(coordinates, ring_offsets) > step
        if lonlat is not None and offsets is not None and not long_edges:
            radians = np.radians(lonlat)
        else:
            if long_edges:
                coordinates, ring_offsets = split_edges(coordinates, ring_offsets, step)
            xy, offsets = close_rings(coordinates, ring_offsets, False, gt.c, gt.a, gt.b, gt.f, gt.d, gt.e)
            radians = self._to_geodetic(xy)
        area, perimeter = measure_rings(radians, offsets, geod.a, geod.es)
        # Rings have their pixels on the right hand in the lattice, which may be mirrored on the ground.
        sign = np.ones(len(area))
        exteriors = batch.polygon_offsets[:-1]
        if len(exteriors):
            sign = np.repeat(np.sign(area[exteriors]), np.diff(batch.polygon_offsets))
        return area * sign, perimeter

    @property
    def _reverse(self) -> bool:
        """Whether lattice rings must be turned around to run counter-clockwise in (x, y)."""
        return self.grid.transform.determinant < 0

    @cached_property
    def _crs(self) -> CRS:
        crs = self.grid.crs
        assert crs is not None, "asked for only where is_georeferenced"
        return crs

    @cached_property
    def _geodetic(self) -> tuple[CRS, float]:
        """The CRS's own longitude and latitude, and radians per unit of them."""
        geodetic = self._crs.geodetic_crs
        if geodetic is None:
            raise InputError(
                f"the CRS {self._crs.name!r} has no longitude and latitude below it: areas cannot be measured; "
                "assign another CRS to the scene"
            )
        return geodetic, geodetic.axis_info[0].unit_conversion_factor

    @cached_property
    def _is_wgs84(self) -> bool:
        return bool(self._crs.is_geographic) and self._crs.to_epsg() == 4326

    @cached_property
    def _shares_datum(self) -> bool:
        """Whether the CRS's own longitude and latitude are those of WGS 84: then one transform does for both."""
        return self.is_georeferenced and self._geodetic[0].equals(_wgs84(), ignore_axis_order=True)

    def _to_geodetic(self, xy: Array) -> Array:
        """Longitude and latitude in radians on the CRS's own datum."""
        geodetic, unit = self._geodetic
        if self._crs.is_geographic:
            return xy * unit
        return self._transform("geodetic", geodetic, xy) * unit

    def _to_wgs84(self, xy: Array) -> Array:
        """Longitude and latitude in degrees."""
        return xy if self._is_wgs84 else self._transform("wgs84", _wgs84(), xy)

    def _transform(self, name: str, target: CRS, xy: Array) -> Array:
        transformer = getattr(self._local, name, None)
        if transformer is None:  # not to be shared between threads
            transformer = _transformer(self._crs, target)
            setattr(self._local, name, transformer)
        lon, lat = transformer.transform(xy[:, 0], xy[:, 1])
        out = np.column_stack([lon, lat])
        if not np.isfinite(out).all():
            raise InputError(
                f"the scene reaches to where its CRS {self._crs.name!r} cannot be turned into longitude and latitude; "
                "check its georeference"
            )
        return out


def _per_polygon(rings: Array, first: Array, polygons: int) -> Array:
    return np.add.reduceat(rings, first) if polygons else np.empty(0)


def _polygons(closed: Array, ring_offsets: Array, polygon_offsets: Array) -> Array:
    geometries: Array = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets))
    return geometries


def _wgs84() -> CRS:
    from pyproj import CRS

    return CRS.from_epsg(4326)


def _transformer(crs: CRS, target: CRS) -> Transformer:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(crs, target, always_xy=True)
    except ProjError as error:
        raise InputError(f"the CRS {crs.name!r} cannot be turned into {target.name}: {error}") from error
