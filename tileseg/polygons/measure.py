"""Areas and perimeters on the ellipsoid."""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array


def measure_rings(lonlat: Array, offsets: Array, a: float, es: float) -> tuple[Array, Array]:
    """(area, perimeter) of closed rings (n, 2) in radians on an ellipsoid; positive counter-clockwise.

    ``a``: semi-major axis in metres; ``es``: squared eccentricity.
    """
    return sums_to_rings(sum_lines(lonlat, offsets, a, es), a, es)


@compiled
def sum_lines(lonlat: Array, offsets: Array, a: float, es: float) -> Array:
    """(3, lines) what adds up over the parts of a ring: spherical excess, length, change of longitude; as above."""
    lines = len(offsets) - 1
    found = np.empty((3, lines))
    e = math.sqrt(es)
    polar = 2.0 if e < 1e-9 else 1 + (1 - es) * math.atanh(e) / e
    for line in range(lines):
        excess = length = turned = 0.0
        before_lon = before_half = before_x = before_y = before_z = 0.0
        before_lat = half = parallel = z = math.nan
        for i in range(offsets[line], offsets[line + 1]):
            lon, lat = lonlat[i, 0], lonlat[i, 1]
            if lat != before_lat:  # in most projections for the web, every other edge runs along a parallel
                s, c = math.sin(lat), math.cos(lat)
                q = 2 * s if e < 1e-9 else s * (1 - es) / (1 - es * s * s) + (1 - es) * math.atanh(e * s) / e
                authalic = min(1.0, max(-1.0, q / polar))
                half = authalic / (1 + math.sqrt(1 - authalic * authalic))  # tangent of half the authalic latitude
                normal = a / math.sqrt(1 - es * s * s)
                parallel, z = normal * c, normal * (1 - es) * s
            x, y = parallel * math.cos(lon), parallel * math.sin(lon)
            if i > offsets[line]:
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
        found[0, line], found[1, line], found[2, line] = excess, length, turned
    return found


def sums_to_rings(sums: Array, a: float, es: float) -> tuple[Array, Array]:
    """(area, perimeter) of rings by the sums (3, R) over their parts."""
    excess, length, turned = sums
    e = math.sqrt(es)
    polar = 2.0 if e < 1e-9 else 1 + (1 - es) * math.atanh(e) / e
    # Around a pole, what was summed lies towards the equator. Of the two sides, the smaller one is meant.
    polewards = np.round(np.abs(turned) / (2 * math.pi)) % 2 == 1
    around = excess - 2 * math.pi
    excess = np.where(polewards, around - 4 * math.pi * np.round(around / (4 * math.pi)), excess)
    return -excess * a * a * polar / 2, length


def surface_of(a: float, es: float) -> float:
    """Area of a whole ellipsoid; as above."""
    e = math.sqrt(es)
    return 2 * math.pi * a * a * (2.0 if e < 1e-9 else 1 + (1 - es) * math.atanh(e) / e)
