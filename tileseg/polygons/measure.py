"""Areas and perimeters on the ellipsoid."""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array


@compiled
def measure_rings(lonlat: Array, offsets: Array, a: float, es: float) -> tuple[Array, Array]:
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
        if round(abs(turned) / (2 * math.pi)) % 2 == 1:  # around a pole: what was summed lies towards the equator
            excess -= 2 * math.pi
            excess -= 4 * math.pi * round(excess / (4 * math.pi))  # of the two sides, the smaller one
        area[ring] = -excess * a * a * polar / 2
        perimeter[ring] = length
    return area, perimeter


def surface_of(a: float, es: float) -> float:
    """Area of a whole ellipsoid; as above."""
    e = math.sqrt(es)
    return 2 * math.pi * a * a * (2.0 if e < 1e-9 else 1 + (1 - es) * math.atanh(e) / e)
