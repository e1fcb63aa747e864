"""A line of pixel sides as a draughtsman would draw it: few straight walls, at right angles where they nearly are.

The line's main direction is the one that most of it runs along or across; the walls that cost least stand for it
(:mod:`tileseg.polygons.walls`), with a second pair of directions where oblique walls agree on one. Where they do not
keep as near as they must, or cross, only the walls there are drawn closer, and the others stay.
"""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.directions import main_direction, off_axis
from tileseg.polygons.rings import Array
from tileseg.polygons.thin import divide, far_wall, ring_area
from tileseg.polygons.walls import FREE, fit_walls

_STRAIGHT, _COMPACT = 0.5, 0.88
"""A ring is round where less than this share of it runs within 12 degrees of its main direction and across it (of a
circle 0.28, of a square with corners as round as a third of its side 0.55), and it has this share of the area of a
circle of its length (an octagon: 0.95, a square: 0.79)."""

_DETAIL = 0.25
"""Share of the tolerance, and of a pixel more than a half, up to which a line is straight between two marks."""

_MOST = 0.97
"""Share of the tolerance that walls are off at most."""

_CLOSER = 0.7
"""What remains of their reach for walls that do not fit."""

_ATTEMPTS = 8

_SWELL = 0.06
"""Share by which the area of a ring may change."""

_WINGS = 0.15
"""Share of the line that must run along a second direction."""

_AGREE = math.radians(12)
"""Walls no more than this apart have one direction."""

_SAME = math.radians(0.3)


@compiled
def regular_line(points: Array, closed: bool, tolerance: float, pixel: float, places: Array, closer: float) -> Array:
    """The corners (m, 2) of a line or a ring (n, 2) made regular; none where it has no directions to follow.

    ``points``: corners no more than about a pixel apart. ``tolerance``: how far both may lie apart (Hausdorff).
    The ends of a line stay. ``places``: (p, 2) near which lines may be apart by no more than ``closer``.
    """
    n = len(points)
    if n < (8 if closed else 4):
        return np.empty((0, 2))
    sides = (points[: n if closed else n - 1] + _following(points, closed)) / 2
    axis, share = main_direction(sides, closed, max(3, min(8, n // 16)))
    if closed and share < _STRAIGHT:
        ring = points[divide(points, closed, max(pixel, tolerance / 2))[:-1]]
        if _compactness(ring) > _COMPACT:
            return np.empty((0, 2))
    if closed:
        start = _farthest(sides)
        track = np.concatenate((sides[start:], sides[:start]))
    else:
        track = np.concatenate((points[:1], sides, points[n - 1 :]))
    at = divide(track, closed, max(0.6 * pixel, _DETAIL * tolerance))
    close = _close_to(track, places, 2 * tolerance)
    if close.any():
        at = _finer(at, close, divide(track, closed, 0.5 * pixel))
    sums = _sums(track, at)
    area = ring_area(points) if closed else 0.0
    reach = np.full(len(at), _MOST * tolerance - 0.35 * pixel)
    for mark in range(len(at)):
        if close[at[mark] % len(track)]:
            reach[mark] = min(reach[mark], closer)
    sizes = (pixel, tolerance)
    for _ in range(_ATTEMPTS):
        cost, line, walls = _cheapest(track, at, sums, reach, closed, axis, sizes)
        if math.isinf(cost) or len(line) < (3 if closed else 2):
            break
        if closed and abs(ring_area(line) - area) > _SWELL * abs(area):
            reach *= _CLOSER
            continue
        wall = far_wall(line, points, closed, tolerance)
        if wall >= 0:
            _draw_closer(reach, walls, wall, closed)
            continue
        one, other = _crossing(line, closed)
        if one < 0:
            return line
        _draw_closer(reach, walls, one, closed)
        _draw_closer(reach, walls, other, closed)
    return np.empty((0, 2))


@compiled
def _close_to(track: Array, places: Array, distance: float) -> Array:
    """(n,) bool: which points lie near one of the places."""
    close = np.zeros(len(track), np.bool_)
    for i in range(len(track)):
        for place in range(len(places)):
            close[i] |= (
                abs(track[i, 0] - places[place, 0]) <= distance and abs(track[i, 1] - places[place, 1]) <= distance
            )
            if close[i]:
                break
    return close


@compiled
def _finer(at: Array, close: Array, fine: Array) -> Array:
    """Positions, with those of the fine ones that are close."""
    keep = np.zeros(max(at[-1], fine[-1]) + 1, np.bool_)
    for position in at:
        keep[position] = True
    for position in fine:
        keep[position] |= close[position % len(close)]
    return np.flatnonzero(keep)


@compiled
def _cheapest(
    track: Array, at: Array, sums: Array, reach: Array, closed: bool, axis: float, sizes: tuple[float, float]
) -> tuple[float, Array, Array]:
    """The cheapest walls over the directions that the line may have: as ``fit_walls``."""
    second = math.nan
    cost, line, walls = fit_walls(track, at, sums, reach, closed, (axis, second), sizes)
    for _ in range(3):
        if math.isinf(cost):
            break
        finer = _refined(walls, sums, axis)
        oblique, wings = _oblique(walls, track, at)
        tried = cost
        if off_axis(finer, axis) > _SAME:
            found = fit_walls(track, at, sums, reach, closed, (finer, second), sizes)
            if found[0] < cost:
                cost, line, walls = found
                axis = finer
        if not math.isnan(oblique) and math.isnan(second):
            found = fit_walls(track, at, sums, reach, closed, (oblique, second), sizes)
            if found[0] < cost:
                cost, line, walls = found
                axis = oblique
            elif wings > 1:
                found = fit_walls(track, at, sums, reach, closed, (axis, oblique), sizes)
                if found[0] < cost:
                    cost, line, walls = found
                    second = oblique
        if cost >= tried:
            break
    return cost, line, walls


@compiled
def _draw_closer(reach: Array, walls: Array, wall: int, closed: bool) -> None:
    """Less reach for a wall and those beside it."""
    for w in range(wall - 1, wall + 2):
        if closed or 0 <= w < len(walls):
            low, high = walls[w % len(walls), 0], walls[w % len(walls), 1]
            for mark in range(low + (w < wall), high + (w <= wall)):
                reach[mark] *= _CLOSER
    if closed:
        reach[0] = reach[len(reach) - 1] = min(reach[0], reach[len(reach) - 1])


@compiled
def _crossing(line: Array, closed: bool) -> tuple[int, int]:
    """Two walls of a line that cross; -1 and -1 where there are none."""
    m = len(line)
    count = m if closed else m - 1
    loop = closed or (line[0, 0] == line[m - 1, 0] and line[0, 1] == line[m - 1, 1])
    least = np.empty(count)
    for w in range(count):
        least[w] = min(line[w, 0], line[(w + 1) % m, 0])
    order = np.argsort(least)
    for i in range(count):
        a = order[i]
        p, q = line[a], line[(a + 1) % m]
        most = max(p[0], q[0])
        for j in range(i + 1, count):
            b = order[j]
            if least[b] > most:
                break
            if abs(a - b) == 1 or (loop and abs(a - b) == count - 1):
                continue
            r, s = line[b], line[(b + 1) % m]
            if max(r[1], s[1]) < min(p[1], q[1]) or max(p[1], q[1]) < min(r[1], s[1]):
                continue
            if _side(p, q, r) * _side(p, q, s) <= 0 and _side(r, s, p) * _side(r, s, q) <= 0:
                return min(a, b), max(a, b)
    return -1, -1


@compiled
def _side(a: Array, b: Array, c: Array) -> float:
    found = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return 1.0 if found > 0 else -1.0 if found < 0 else 0.0


@compiled
def _compactness(ring: Array) -> float:
    """Share of the area of a circle of the same length."""
    length = 0.0
    for i in range(len(ring)):
        length += math.hypot(ring[i, 0] - ring[i - 1, 0], ring[i, 1] - ring[i - 1, 1])
    return 4 * math.pi * abs(ring_area(ring)) / max(length * length, 1e-12)


@compiled
def _following(points: Array, closed: bool) -> Array:
    if not closed:
        return points[1:]
    out = np.empty_like(points)
    out[:-1] = points[1:]
    out[-1] = points[0]
    return out


@compiled
def _farthest(sides: Array) -> int:
    """The point farthest from the middle."""
    x, y = sides[:, 0].mean(), sides[:, 1].mean()
    far, most = 0, -1.0
    for i in range(len(sides)):
        distance = (sides[i, 0] - x) ** 2 + (sides[i, 1] - y) ** 2
        if distance > most + 1e-9:
            far, most = i, distance
    return far


@compiled
def _sums(track: Array, at: Array) -> Array:
    """(k + 1, 6): number, x, y, xx, xy, yy of the points before each position."""
    sums = np.zeros((len(at), 6))
    for part in range(len(at) - 1):
        sums[part + 1] = sums[part]
        for i in range(at[part], at[part + 1]):
            x, y = track[i, 0], track[i, 1]
            sums[part + 1, 0] += 1
            sums[part + 1, 1] += x
            sums[part + 1, 2] += y
            sums[part + 1, 3] += x * x
            sums[part + 1, 4] += x * y
            sums[part + 1, 5] += y * y
    return sums


@compiled
def _refined(walls: Array, sums: Array, axis: float) -> float:
    """The direction that fits all walls along the first direction and across it best, at once."""
    sxx = sxy = syy = 0.0
    for wall in range(len(walls)):
        i, j, kind = walls[wall]
        if kind > 1:
            continue
        w = max(1.0, sums[j, 0] - sums[i, 0])
        x, y = sums[j, 1] - sums[i, 1], sums[j, 2] - sums[i, 2]
        xx, xy = sums[j, 3] - sums[i, 3] - x * x / w, sums[j, 4] - sums[i, 4] - x * y / w
        yy = sums[j, 5] - sums[i, 5] - y * y / w
        if kind == 0:
            sxx, sxy, syy = sxx + xx, sxy + xy, syy + yy
        else:
            sxx, sxy, syy = sxx + yy, sxy - xy, syy + xx
    return axis if sxx + syy == 0 else 0.5 * math.atan2(2 * sxy, sxx - syy)


@compiled
def _oblique(walls: Array, track: Array, at: Array) -> tuple[float, int]:
    """The direction of most free walls, and how many have it; nan where they are few."""
    total = best = 0.0
    angle, number, n = math.nan, 0, len(track)
    for one in range(len(walls)):
        dx, dy = track[at[walls[one, 1]] % n] - track[at[walls[one, 0]]]
        total += math.hypot(dx, dy)
        if walls[one, 2] != FREE:
            continue
        own = math.atan2(dy, dx)
        along = across = length = 0.0
        count = 0
        for other in range(len(walls)):
            if walls[other, 2] == FREE:
                ex, ey = track[at[walls[other, 1]] % n] - track[at[walls[other, 0]]]
                there = math.atan2(ey, ex)
                if off_axis(there, own) < _AGREE:
                    size = math.hypot(ex, ey)
                    count, length = count + 1, length + size
                    along, across = along + size * math.cos(4 * there), across + size * math.sin(4 * there)
        if length > best:
            best, number, angle = length, count, math.atan2(across, along) / 4
    return (angle, number) if best >= _WINGS * total else (math.nan, 0)
