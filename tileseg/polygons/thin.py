"""Lines with fewer corners, and how far lines lie apart."""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array


@compiled
def plain_line(points: Array, closed: bool, tolerance: float, detail: float) -> Array:
    """Corners (m, 2) of a line or ring (n, 2) with fewer of them: no point is further off than ``detail``.

    None where it would be further than ``tolerance`` (Hausdorff).
    """
    marks = divide(points, closed, detail)
    found = points[marks[:-1]] if closed else points[marks]
    if len(found) < (3 if closed else 2) or not keeps_near(found, points, closed, tolerance):
        return np.empty((0, 2))
    return found


@compiled
def divide(points: Array, closed: bool, tolerance: float) -> Array:
    """Positions of the points that keep a line within a tolerance, ends included; of a ring, n stands for 0."""
    n = len(points)
    last = n if closed else n - 1
    keep = np.zeros(last + 1, np.bool_)
    keep[0] = keep[last] = True
    stack = np.empty((n + 2, 2), np.int64)
    depth = 0
    if closed:
        far, most = 0, -1.0
        for i in range(n):
            distance = (points[i, 0] - points[0, 0]) ** 2 + (points[i, 1] - points[0, 1]) ** 2
            if distance > most:
                far, most = i, distance
        keep[far] = True
        stack[0, 0], stack[0, 1] = 0, far
        stack[1, 0], stack[1, 1] = far, n
        depth = 2
    else:
        stack[0, 0], stack[0, 1] = 0, last
        depth = 1
    while depth:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        far, most = low, tolerance
        for i in range(low + 1, high):
            distance = to_segment(points[i], points[low], points[high % n])
            if distance > most:
                far, most = i, distance
        if far > low:
            keep[far] = True
            stack[depth, 0], stack[depth, 1] = low, far
            stack[depth + 1, 0], stack[depth + 1, 1] = far, high
            depth += 2
    return np.flatnonzero(keep)


@compiled
def to_segment(point: Array, a: Array, b: Array) -> float:
    """Distance of a point from a segment."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    square = dx * dx + dy * dy
    along = 0.0
    if square > 0:
        along = min(1.0, max(0.0, ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / square))
    return math.hypot(point[0] - a[0] - along * dx, point[1] - a[1] - along * dy)


@compiled
def keeps_near(line: Array, points: Array, closed: bool, tolerance: float) -> bool:
    """Whether a line and its points (both closed, or both not) are nowhere further apart than a tolerance."""
    return bool(far_wall(line, points, closed, tolerance) < 0)


@compiled
def far_wall(line: Array, points: Array, closed: bool, tolerance: float) -> int:
    """Which segment of a line is further from its points than a tolerance, or they from it; -1 where none is.

    Each corner of the line is given a point near it, in order. If the points between two of these are near the straight
    line between their corners, then so is all in between, and all of the straight line is near them.
    """
    n, m = len(points), len(line)
    total = n if closed else n - 1
    at = 0
    if closed:
        nearest = math.inf
        for i in range(n):
            distance = math.hypot(points[i, 0] - line[0, 0], points[i, 1] - line[0, 1])
            if distance < nearest:
                at, nearest = i, distance
        if nearest > tolerance:
            return 0
    start = at
    for c in range(m if closed else m - 1):
        a, b = line[c], line[(c + 1) % m]
        final = c == (m - 1 if closed else m - 2)
        end = start + total if final else at
        if not final:  # as far as the points keep near this wall: the nearest to its end
            nearest, i = math.inf, at
            while i <= start + total and to_segment(points[i % n], a, b) <= tolerance:
                distance = math.hypot(points[i % n, 0] - b[0], points[i % n, 1] - b[1])
                if distance < nearest:
                    end, nearest = i, distance
                i += 1
            if nearest > tolerance:
                return c
        else:
            for i in range(at, end + 1):
                if to_segment(points[i % n], a, b) > tolerance:
                    return c
        at = end
    return -1


@compiled
def ring_area(ring: Array) -> float:
    """Area of an open ring (n, 2); its sign is that of its direction."""
    twice = 0.0
    for i in range(len(ring)):
        x, y = ring[i - 1, 0] - ring[0, 0], ring[i - 1, 1] - ring[0, 1]
        twice += x * (ring[i, 1] - ring[i - 1, 1]) - y * (ring[i, 0] - ring[i - 1, 0])
    return twice / 2


@compiled
def fitting_tolerance(steps: Array, closed: bool, tolerance: float, pixel: float) -> float:
    """The tolerance, less for a ring (n, 2) in steps of pixel sides that is small or narrow: a quarter of its width."""
    if not closed:
        return tolerance
    # Steps go along rows and columns: most ways are about a fifth shorter.
    width = 2 * abs(ring_area(steps)) / (0.8 * pixel * len(steps))
    return min(tolerance, max(1.5 * pixel, width / 4))
