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
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.rings import Array, compiled, gather_rings

if TYPE_CHECKING:
    from pyproj import CRS, Transformer

_STEP = 2_500.0
"""Metres: longer edges are measured in parts, since a straight line on the map is no geodesic."""
_QUANTITY = re.compile(r"\s*(?P<value>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>px|m|m2|m\^2|m²)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An area or a length, on the ground or in pixels."""

    value: float
    """Square metres or metres; pixels if ``in_pixels``. Not negative."""
    in_pixels: bool = False
    """Whether it is counted in pixels. (Without a CRS everything is.)"""

    @staticmethod
    def parse(text: str | float) -> Quantity:
        """``"25"``, ``"25 m2"`` or ``"50px"``. Raises UsageError."""
        match = _QUANTITY.fullmatch(str(text))
        if match is None:
            raise UsageError(
                f"{text!r} is no area or length: expected metres such as 25 or 0.5, or pixels such as 50px"
            )
        return Quantity(float(match["value"]), (match["unit"] or "").lower() == "px")

    def __str__(self) -> str:
        return f"{self.value:g}{'px' if self.in_pixels else ''}"


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
        xy, offsets = _close(
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
        coordinates, ring_offsets = _with_junctions(whole.coordinates, whole.ring_offsets)
        closed, offsets = _close(coordinates, ring_offsets, False, 0.0, scale[0], 0.0, 0.0, 0.0, scale[1])
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
        area = _lattice_areas(batch.coordinates, batch.ring_offsets)[0] if in_pixels else self._measure(batch)[0]
        keep = np.ones(len(area), np.bool_)
        if hole:
            exterior = np.zeros(len(area), np.bool_)
            exterior[batch.polygon_offsets[:-1]] = True
            keep = exterior | (-area >= hole)
        total = _per_polygon(np.where(keep, area, 0.0), batch.polygon_offsets[:-1], len(batch))
        return _select(batch, keep, total >= least)

    def _measure(
        self, batch: PolygonBatch, lonlat: Array | None = None, offsets: Array | None = None
    ) -> tuple[Array, Array]:
        """(area, perimeter) of each ring; areas of holes are negative.

        ``lonlat``, ``offsets``: the batch's closed rings in degrees on the CRS's own datum, where they are at hand.
        """
        if not self.is_georeferenced:
            return _lattice_areas(batch.coordinates, batch.ring_offsets)
        geod = self.grid.geod
        assert geod is not None
        step = _STEP / max(self.pixel_size)
        gt = self.grid.transform
        coordinates, ring_offsets = batch.coordinates, batch.ring_offsets
        long_edges = len(coordinates) and _longest_edge(coordinates, ring_offsets) > step
        if lonlat is not None and offsets is not None and not long_edges:
            radians = np.radians(lonlat)
        else:
            if long_edges:
                coordinates, ring_offsets = _split_edges(coordinates, ring_offsets, step)
            xy, offsets = _close(coordinates, ring_offsets, False, gt.c, gt.a, gt.b, gt.f, gt.d, gt.e)
            radians = self._to_geodetic(xy)
        area, perimeter = _measure_rings(radians, offsets, geod.a, geod.es)
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


def concatenate(batches: list[PolygonBatch]) -> PolygonBatch:
    """Several batches as one."""

    def stacked(name: str) -> Array:
        parts = [getattr(batch, name) for batch in batches]
        if not name.endswith("offsets"):
            return np.concatenate(parts) if parts else np.empty(_EMPTY[name][1], _EMPTY[name][0])
        lengths = [np.empty(0, np.int64), *(np.diff(part) for part in parts)]
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])

    return PolygonBatch(**{field.name: stacked(field.name) for field in fields(PolygonBatch)})


_EMPTY: dict[str, tuple[type, tuple[int, ...]]] = {
    "coordinates": (np.int32, (0, 2)),
    "label": (np.int32, (0,)),
    "pixels": (np.int64, (0,)),
    "confidence_sum": (np.int64, (0,)),
    "confidence_min": (np.int32, (0,)),
    "touches_edge": (np.bool_, (0,)),
    "touches_nodata": (np.bool_, (0,)),
    "first_pixel": (np.int64, (0,)),
}


def split(batch: PolygonBatch, vertices: int) -> Iterable[PolygonBatch]:
    """The batch in parts of about so many vertices."""
    ends = batch.ring_offsets[batch.polygon_offsets]
    low = 0
    while low < len(batch):
        high = max(low + 1, int(np.searchsorted(ends, ends[low] + vertices, "right")) - 1)
        rings = slice(batch.polygon_offsets[low], batch.polygon_offsets[high] + 1)
        yield PolygonBatch(
            coordinates=batch.coordinates[ends[low] : ends[high]],
            ring_offsets=batch.ring_offsets[rings] - ends[low],
            polygon_offsets=batch.polygon_offsets[low : high + 1] - batch.polygon_offsets[low],
            **{name: getattr(batch, name)[low:high] for name in _EMPTY if name != "coordinates"},
        )
        low = high


def _select(batch: PolygonBatch, rings: Array, polygons: Array) -> PolygonBatch:
    rings = rings & np.repeat(polygons, np.diff(batch.polygon_offsets))
    if rings.all():
        return batch
    coordinates, offsets = gather_rings(batch.coordinates, batch.ring_offsets, np.flatnonzero(rings), 0, 0)
    counts = np.add.reduceat(rings.astype(np.int64), batch.polygon_offsets[:-1])[polygons]
    return PolygonBatch(
        coordinates=coordinates,
        ring_offsets=offsets,
        polygon_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{name: getattr(batch, name)[polygons] for name in _EMPTY if name != "coordinates"},
    )


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


@compiled
def _close(
    coordinates: Array, offsets: Array, reverse: bool, x0: float, xx: float, xy: float, y0: float, yx: float, yy: float
) -> tuple[Array, Array]:
    """Closed rings on the ground: x = x0 + col * xx + row * xy, added in this order, as GDAL does."""
    rings = len(offsets) - 1
    out = np.empty((len(coordinates) + rings, 2), np.float64)
    out_offsets = np.empty(rings + 1, np.int64)
    n = 0
    out_offsets[0] = 0
    for ring in range(rings):
        low, high = offsets[ring], offsets[ring + 1]
        for i in range(high - low + 1):
            k = low if i == high - low else low + i
            if reverse and 0 < i < high - low:
                k = high - i
            col, row = coordinates[k, 0], coordinates[k, 1]
            out[n, 0] = x0 + col * xx + row * xy
            out[n, 1] = y0 + col * yx + row * yy
            n += 1
        out_offsets[ring + 1] = n
    return out, out_offsets


def _with_junctions(coordinates: Array, offsets: Array) -> tuple[Array, Array]:
    """The rings with a vertex wherever another ring has a corner on one of their edges: shared borders then match."""
    wide = coordinates.astype(np.int64)
    by_row = np.unique(wide[:, 1] << 32 | wide[:, 0])
    by_col = np.unique(wide[:, 0] << 32 | wide[:, 1])
    lengths, _ = _insert_junctions(wide, offsets, by_row, by_col, np.empty(0, np.int64))
    return _insert_junctions(wide, offsets, by_row, by_col, lengths)[1], np.concatenate([[0], np.cumsum(lengths)])


@compiled
def _insert_junctions(
    coordinates: Array, offsets: Array, by_row: Array, by_col: Array, lengths: Array
) -> tuple[Array, Array]:
    """With empty ``lengths``: vertices of each ring; with those: the vertices themselves."""
    rings = len(offsets) - 1
    counting = len(lengths) < rings
    counts = np.zeros(rings, np.int64)
    out = np.empty((0 if counting else lengths.sum(), 2), np.int32)
    n = 0
    for ring in range(rings):
        low, high = offsets[ring], offsets[ring + 1]
        begun = n
        for i in range(low, high):
            k = i + 1 if i + 1 < high else low
            along = 0 if coordinates[k, 1] == coordinates[i, 1] else 1
            corners = by_row if along == 0 else by_col
            start, stop, line = coordinates[i, along], coordinates[k, along], coordinates[i, 1 - along]
            first = np.searchsorted(corners, line << 32 | min(start, stop))
            last = np.searchsorted(corners, line << 32 | max(start, stop))
            if not counting:
                for step in range(last - first):  # the corner at the far end belongs to the next edge
                    corner = corners[first + step if start < stop else last - step] & 0xFFFFFFFF
                    out[n + step, along], out[n + step, 1 - along] = corner, line
            n += last - first
        counts[ring] = n - begun
    return counts, out


@compiled
def _longest_edge(coordinates: Array, offsets: Array) -> int:
    longest = 0
    for ring in range(len(offsets) - 1):
        k = offsets[ring + 1] - 1
        for i in range(offsets[ring], offsets[ring + 1]):
            longest = max(
                longest, abs(coordinates[i, 0] - coordinates[k, 0]), abs(coordinates[i, 1] - coordinates[k, 1])
            )
            k = i
    return longest


@compiled
def _split_edges(coordinates: Array, offsets: Array, step: float) -> tuple[Array, Array]:
    """The rings with vertices added on edges longer than ``step`` pixels (not always a whole number)."""
    rings = len(offsets) - 1
    out_offsets = np.zeros(rings + 1, np.int64)
    for counting in (True, False):
        n = 0
        if counting:
            out = np.empty((0, 2), np.float64)
        else:
            out = np.empty((out_offsets[rings], 2), np.float64)
        for ring in range(rings):
            low, high = offsets[ring], offsets[ring + 1]
            for i in range(low, high):
                k = i + 1 if i + 1 < high else low
                dx, dy = coordinates[k, 0] - coordinates[i, 0], coordinates[k, 1] - coordinates[i, 1]
                parts = max(1, math.ceil(max(abs(dx), abs(dy)) / step))
                if not counting:
                    for part in range(parts):
                        out[n + part, 0] = coordinates[i, 0] + dx * (part / parts)
                        out[n + part, 1] = coordinates[i, 1] + dy * (part / parts)
                n += parts
            out_offsets[ring + 1] = n
    return out, out_offsets


@compiled
def _lattice_areas(coordinates: Array, offsets: Array) -> tuple[Array, Array]:
    """(area in pixels, perimeter in pixel sides) of open rings; positive with the pixels on the right hand."""
    rings = len(offsets) - 1
    area, perimeter = np.empty(rings), np.empty(rings)
    for ring in range(rings):
        twice = np.int64(0)
        length = 0.0
        k = offsets[ring + 1] - 1
        for i in range(offsets[ring], offsets[ring + 1]):
            x, y = np.int64(coordinates[i, 0]), np.int64(coordinates[i, 1])
            before_x, before_y = np.int64(coordinates[k, 0]), np.int64(coordinates[k, 1])
            twice += before_x * y - x * before_y
            length += math.hypot(x - before_x, y - before_y)
            k = i
        area[ring] = twice / 2
        perimeter[ring] = length
    return area, perimeter


@compiled
def _measure_rings(lonlat: Array, offsets: Array, a: float, es: float) -> tuple[Array, Array]:
    """(area, perimeter) of closed rings (n, 2) in radians on an ellipsoid; positive counter-clockwise.

    ``a``: semi-major axis in metres; ``es``: squared eccentricity.
    """
    rings = len(offsets) - 1
    area, perimeter = np.empty(rings), np.empty(rings)
    e = math.sqrt(es)
    polar = 2.0 if e < 1e-9 else 1 + (1 - es) * math.atanh(e) / e
    for ring in range(rings):
        excess = length = turned = 0.0
        before_lon = before_half = before_x = before_y = before_z = 0.0
        before_lat = half = parallel = z = math.nan
        for i in range(offsets[ring], offsets[ring + 1]):
            lon, lat = lonlat[i, 0], lonlat[i, 1]
            if lat != before_lat:  # in most projections for the web, every other edge runs along a parallel
                s, c = math.sin(lat), math.cos(lat)
                q = 2 * s if e < 1e-9 else s * (1 - es) / (1 - es * s * s) + (1 - es) * math.atanh(e * s) / e
                authalic = min(1.0, max(-1.0, q / polar))
                half = authalic / (1 + math.sqrt(1 - authalic * authalic))  # tangent of half the authalic latitude
                normal = a / math.sqrt(1 - es * s * s)
                parallel, z = normal * c, normal * (1 - es) * s
            x, y = parallel * math.cos(lon), parallel * math.sin(lon)
            if i > offsets[ring]:
                delta = lon - before_lon
                if delta > math.pi:
                    delta -= 2 * math.pi
                elif delta < -math.pi:
                    delta += 2 * math.pi
                if delta != 0:
                    turned += delta
                    excess += 2 * math.atan2(math.tan(delta / 2) * (before_half + half), 1 + before_half * half)
                length += math.sqrt((x - before_x) ** 2 + (y - before_y) ** 2 + (z - before_z) ** 2)
            before_lat, before_lon, before_half, before_x, before_y, before_z = lat, lon, half, x, y, z
        if abs(turned) > math.pi:  # around a pole: what was summed lies between the ring and the equator
            size = 2 * math.pi - abs(excess)
            excess = -size if (turned > 0) == (lonlat[offsets[ring], 1] > 0) else size
        area[ring] = -excess * a * a * polar / 2
        perimeter[ring] = length
    return area, perimeter
