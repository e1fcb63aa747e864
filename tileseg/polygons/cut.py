"""Polygons on the globe as RFC 7946 wants them: within 180 degrees, cut at the antimeridian, with their poles.

A ring divides the globe, and its polygon lies on its left. In the plane of longitude and latitude, a ring that does
not go around the axis closes, and what lies left of it is its inside or all the rest; one that goes around once
eastwards has the North Pole on its left, westwards the South Pole. A polygon is what its rings have in common.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from shapely import affinity

from tileseg.compiled import compiled
from tileseg.polygons.ground import BESIDE, WHOLE
from tileseg.polygons.rings import Array

_WORLD = shapely.box(-180, -90, 180, 90)

_NOISE = 1e-9
"""Degrees."""

_SEAM = 1.0
"""Square degrees: a ring around no more than that, which goes around the whole map, goes along its seam."""


@compiled
def beyond_the_plane(
    lonlat: Array, offsets: Array, polygon_offsets: Array, pole: Array, state: Array, mirrored: bool, plain: bool
) -> Array:
    """(P,) bool: which polygons are not what their longitudes and latitudes, taken as plane coordinates, say.

    ``lonlat`` (n, 2): closed rings. ``plain``: longitudes run on by themselves, so rings are plane as they are.
    """
    polygons = len(polygon_offsets) - 1
    found = np.zeros(polygons, np.bool_)
    for polygon in range(polygons):
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            low, high = offsets[ring], offsets[ring + 1]
            twice = 0.0
            if state[ring] != 0:
                found[polygon] = True
            for i in range(low, high):
                lon, lat = lonlat[i, 0], lonlat[i, 1]
                if abs(lon) > 180 + _NOISE or abs(lat) > 90 + _NOISE or pole[i] != 0:
                    found[polygon] = True
                if i > low and not plain:
                    step = lon - lonlat[i - 1, 0]
                    if abs(step) > 180:
                        found[polygon] = True
                    twice += (lonlat[i - 1, 0] - lonlat[low, 0]) * (lat - lonlat[low, 1])
                    twice -= (lon - lonlat[low, 0]) * (lonlat[i - 1, 1] - lonlat[low, 1])
            is_left = (twice > 0) != mirrored
            if not plain and is_left != (ring == polygon_offsets[polygon]):
                found[polygon] = True
    return found


def cut(rings: list[Array], poles: list[Array], states: list[int], *, mirrored: bool, plain: bool) -> Any:
    """A polygon within 180 degrees: a shapely Polygon or MultiPolygon, empty if there is nothing of it on the globe.

    Args:
        rings: closed, (n, 2) longitude and latitude; the exterior first.
        poles: (n,) of each: 1 at the North Pole, -1 at the South Pole.
        states: of each: ON, BESIDE or WHOLE.
        mirrored: whether the polygon lies on the right of its rings.
        plain: longitudes run on by themselves.
    """
    if plain:
        return within_180(shapely.Polygon(rings[0], rings[1:]))
    return _common(rings, poles, states, mirrored)


def _common(rings: list[Array], poles: list[Array], states: list[int], mirrored: bool) -> Any:
    """What lies on the left of all rings."""
    region, holes = _WORLD, []
    for k, (ring, pole, state) in enumerate(zip(rings, poles, states, strict=True)):
        if k and state == BESIDE:
            continue
        if (k == 0 and state == BESIDE) or (k and state == WHOLE):
            return shapely.Polygon()
        path, turns = _unrolled(ring[::-1] if mirrored else ring, pole[::-1] if mirrored else pole)
        if turns:
            region = region.intersection(_around_pole(path, turns))
            continue
        inside = shapely.Polygon(path)
        left = _signed_area(path)
        if state == WHOLE and abs(left) < _SEAM:
            continue
        if left > 0:
            region = region.intersection(within_180(inside))
        else:
            holes += [p for p in shapely.get_parts(within_180(inside)) if p.geom_type == "Polygon"]
    if holes:
        together = shapely.MultiPolygon(holes)
        region = region.difference(together if together.is_valid else shapely.union_all(np.array(holes)))
    return region


def _unrolled(ring: Array, pole: Array) -> tuple[Array, int]:
    """The ring with longitudes that run on instead of jumping, and how often it goes around the axis eastwards.

    Across a pole, a polygon's border runs along the map's upper edge westwards, along the lower one eastwards.
    """
    ring, pole = ring[:-1], pole[:-1]
    away = np.flatnonzero(pole == 0)
    if not len(away):
        return np.empty((0, 2)), 0
    order = (np.arange(len(ring)) + away[0]) % len(ring)
    ring, pole = ring[order], pole[order]
    points = [ring[0].tolist()]
    sign = 0
    for (lon, lat), at in zip([*ring[1:].tolist(), ring[0].tolist()], [*pole[1:].tolist(), 0], strict=True):
        if at:
            sign = at
            continue
        before = points[-1][0]
        step = math.remainder(lon - before, 360)
        if sign:
            if step * sign > _NOISE:
                step -= 360 * sign
            points += [[before, 90.0 * sign], [before + step, 90.0 * sign]]
            sign = 0
        points.append([before + step, lat])
    turns = round((points[-1][0] - points[0][0]) / 360)
    if not turns:
        points[-1] = points[0]
    return np.array(points), turns


def _signed_area(ring: Array) -> float:
    x, y = (ring - ring[:1]).T if len(ring) else np.zeros((2, 1))
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def _around_pole(path: Array, turns: int) -> Any:
    """What lies between a line around the globe and the pole on its left."""
    reach = math.ceil((np.abs(path[:, 0]).max() + 180) / 360) + 1
    lines = [path[:-1] + np.array([360.0 * k * turns, 0.0]) for k in range(-reach, reach + 1)]
    line = np.concatenate(lines)
    end = 90.0 if turns > 0 else -90.0
    outline = np.vstack([line, [(line[-1, 0], end), (line[0, 0], end)]])
    return shapely.intersection(_valid(shapely.Polygon(outline)), _WORLD)


def within_180(polygon: Any) -> Any:
    """What of a polygon lies on the globe, turned by whole turns into its 360 degrees."""
    polygon = _valid(polygon)
    if polygon.is_empty:
        return polygon
    west, _, east, _ = polygon.bounds
    turns = range(math.floor((-180 - east) / 360), math.ceil((180 - west) / 360) + 1)
    parts = [affinity.translate(polygon, 360.0 * turn).intersection(_WORLD) for turn in turns]
    return shapely.union_all(np.array([part for part in parts if not part.is_empty], object))


def _valid(polygon: Any) -> Any:
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


def tidy(region: Any, decimals: int) -> list[Any]:
    """The polygons of a geometry: rounded, and valid still; exteriors counter-clockwise, without slivers."""
    rounded = shapely.set_precision(_polygons(_valid(region)), 10.0**-decimals)
    parts = [part for part in shapely.get_parts(_polygons(rounded)) if part.area > 10.0 ** (-2 * decimals)]
    return [shapely.orient_polygons(part) for part in parts]


def _polygons(region: Any) -> Any:
    """The polygons among the parts of a geometry."""
    parts = shapely.get_parts(shapely.get_parts(region))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon" and part.area])
