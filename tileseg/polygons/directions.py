"""The main direction of a line, up to right angles: the one that most of it keeps to, or crosses at a right angle."""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array

_BINS = 90
"""One for each degree up to a right angle."""

_NEAR = 12
"""Degrees on both sides of a direction that belong to it."""


@compiled
def main_direction(points: Array, closed: bool, reach: int) -> tuple[float, float]:
    """(angle in 0...pi/2, share of the line that runs along it or across) of points a pixel or less apart.

    What counts is the way from each point to the one ``reach`` further on, so that single pixels do not.
    """
    n = len(points)
    reach = max(1, min(reach, n // 4))
    counts = np.zeros(_BINS)
    total = 0.0
    for i in range(n if closed else n - reach):
        k = (i + reach) % n
        dx, dy = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1]
        weight = math.hypot(dx, dy)
        if weight > 0:
            angle = math.degrees(math.atan2(dy, dx)) % 90.0
            counts[min(_BINS - 1, int(angle))] += weight
            total += weight
    if total == 0:
        return 0.0, 0.0
    best, most = 0, -1.0
    for b in range(_BINS):
        found = 0.0
        for off in range(-_NEAR, _NEAR + 1):
            found += counts[(b + off) % _BINS] * (1 - abs(off) / (_NEAR + 1))
        if found > most:
            best, most = b, found
    within = along = across = 0.0
    for off in range(-_NEAR, _NEAR + 1):
        weight = counts[(best + off) % _BINS]
        within += weight
        along += weight * math.cos(math.radians(4 * off))
        across += weight * math.sin(math.radians(4 * off))
    angle = math.radians(best + 0.5) + math.atan2(across, along) / 4
    return angle % (math.pi / 2), within / total


@compiled
def off_axis(angle: float, axis: float) -> float:
    """By how much an angle misses an axis or its perpendicular: 0...pi/4."""
    turned = (angle - axis) % (math.pi / 2)
    return float(min(turned, math.pi / 2 - turned))


@compiled
def is_across(angle: float, axis: float) -> bool:
    """Whether an angle is nearer to the perpendicular of an axis than to the axis."""
    return bool(abs(math.sin(angle - axis)) > abs(math.cos(angle - axis)))
