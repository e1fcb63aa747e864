"""A line of pixel sides as a draughtsman would draw it: few straight walls, at right angles where they nearly are.

The line is divided (Douglas and Peucker, 1973), its main directions are found, and each piece becomes a wall: along a
main direction, across it, or, where it is long and clearly oblique, as it runs. Walls are placed by least squares
through all pixel sides that belong to them; short ones between two others go, least first; walls meet in corners.
A wall keeps what it is fitted to as sums, so that two become one by adding.
"""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.directions import is_across, main_direction, off_axis
from tileseg.polygons.rings import Array
from tileseg.polygons.thin import divide, keeps_near, ring_area

_STRAIGHT, _COMPACT = 0.5, 0.88
"""A ring is round where less than this share of it runs within 12 degrees of its main direction and across it (of a
circle 0.28, of a square with corners as round as a third of its side 0.55), and it has this share of the area of a
circle of its length (an octagon: 0.95, a square: 0.79)."""

_SNAP = math.radians(24)
"""A wall this near to a main direction is along it."""

_SNAP_SHORT = math.radians(36)
"""The same for a wall so short that it hardly moves."""

_PARALLEL = math.radians(15)
"""Walls that meet at no more than this become one."""

_PARTS = (1.5, 1.0, 0.75, 0.5, 0.25)
"""Shares of the tolerance that are tried; that with the fewest corners is taken, where crooked ones count threefold."""

_SWELL = 0.06
"""Share by which the area of a ring may change."""

_RIGHT = math.sin(math.radians(10))

_MOST = 0.95
"""Share of the tolerance that a corner is moved by at most: pixel sides are not exactly where the outline is."""

_WINGS = 0.2
"""Share of the line that must run along a second direction."""

ALONG, ACROSS, WING, WING_ACROSS, FREE, SHORT = 0, 1, 2, 3, 4, 5
"""What a wall follows: the main direction, its perpendicular, a second direction, its perpendicular, none; or it is too
short to tell."""

_W, _X, _Y, _XX, _XY, _YY, _ANGLE, _LOW, _HIGH = range(9)
"""Columns of a wall: sums of weight, x, y and their squares, angle, first point, point after the last."""


@compiled
def regular_line(points: Array, closed: bool, tolerance: float, pixel: float) -> Array:
    """The corners (m, 2) of a line or a ring (n, 2) made regular; none where it has no directions to follow.

    ``points``: corners no more than about a pixel apart. ``tolerance``: how far both may lie apart (Hausdorff).
    The ends of a line stay.
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
    best, least = np.empty((0, 2)), np.inf
    area = ring_area(points) if closed else 0.0
    for part in _PARTS:
        found = _walls(points, sides, closed, axis, part * tolerance, pixel)
        if len(found) < (3 if closed else 2) or not keeps_near(found, points, closed, tolerance):
            continue
        if closed and abs(ring_area(found) - area) > _SWELL * abs(area):
            continue
        effort = len(found) + 2 * _crooked(found, closed)
        if effort < least:
            best, least = found, effort
    return best


@compiled
def _crooked(line: Array, closed: bool) -> int:
    """How many corners are more than 10 degrees off a right angle."""
    found, m = 0, len(line)
    for i in range(0 if closed else 1, m if closed else m - 1):
        k = (i + 1) % m
        ax, ay = line[i, 0] - line[i - 1, 0], line[i, 1] - line[i - 1, 1]
        bx, by = line[k, 0] - line[i, 0], line[k, 1] - line[i, 1]
        found += abs(ax * bx + ay * by) > _RIGHT * math.hypot(ax, ay) * math.hypot(bx, by)
    return found


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
def _walls(points: Array, sides: Array, closed: bool, axis: float, tolerance: float, pixel: float) -> Array:
    """Corners of the walls; none where they do not make a line."""
    n = len(sides)
    if closed:  # from a corner on
        start = _farthest(sides)
        sides = np.concatenate((sides[start:], sides[:start]))
        points = np.concatenate((points[start:], points[:start]))
    marks = divide(sides, closed, max(0.8 * pixel, 0.5 * tolerance))
    k = len(marks) - 1
    walls, kind, length = np.zeros((2 * k, 9)), np.empty(2 * k, np.int64), np.empty(k)
    for w in range(k):
        low, high = marks[w], marks[w + 1] + (0 if closed or w + 1 < k else 1)
        for i in range(low, high):
            _add(walls[w], sides[i, 0], sides[i, 1])
        walls[w, _LOW], walls[w, _HIGH] = low, high
        a, b = sides[marks[w]], sides[marks[w + 1] % n]
        length[w] = math.hypot(b[0] - a[0], b[1] - a[1])
        walls[w, _ANGLE] = math.atan2(b[1] - a[1], b[0] - a[0])
        if high - low > 3:
            walls[w, _ANGLE] = _steepest(walls[w])
    for _ in range(2):
        _name(walls[:k], kind, length, axis, tolerance, pixel)
        axis = _refined(walls[:k], kind, axis)
    second = _second_direction(walls[:k], kind, length)
    for w in range(k):
        if kind[w] == FREE and not math.isnan(second) and off_axis(walls[w, _ANGLE], second) < _SNAP:
            kind[w] = WING_ACROSS if is_across(walls[w, _ANGLE], second) else WING
        walls[w, _ANGLE] = _angle_of(kind[w], walls[w], axis, second)
    before, after = np.arange(2 * k) - 1, np.arange(2 * k) + 1
    if closed:
        before[0], after[k - 1] = k - 1, 0
    else:
        after[k - 1] = -1
    first = _without_short(walls, kind, before, after, k, sides, tolerance)
    _insert_steps(walls, kind, before, after, k, first, sides, tolerance)
    first = _fewer(walls, kind, before, after, first, sides, tolerance)
    return _corners(walls, before, after, first, points, closed)


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
def _add(wall: Array, x: float, y: float) -> None:
    wall[_W] += 1
    wall[_X] += x
    wall[_Y] += y
    wall[_XX] += x * x
    wall[_XY] += x * y
    wall[_YY] += y * y


@compiled
def _scatter(wall: Array) -> tuple[float, float, float]:
    w = max(1.0, wall[_W])
    return (
        wall[_XX] - wall[_X] * wall[_X] / w,
        wall[_XY] - wall[_X] * wall[_Y] / w,
        wall[_YY] - wall[_Y] * wall[_Y] / w,
    )


@compiled
def _steepest(wall: Array) -> float:
    """Angle of the line that fits best."""
    xx, xy, yy = _scatter(wall)
    return 0.5 * math.atan2(2 * xy, xx - yy)


@compiled
def _name(walls: Array, kind: Array, length: Array, axis: float, tolerance: float, pixel: float) -> None:
    for w in range(len(walls)):
        off = off_axis(walls[w, _ANGLE], axis)
        bent = length[w] * math.sin(off)
        if (off < _SNAP and bent < 2 * tolerance) or (off < _SNAP_SHORT and bent < tolerance):
            kind[w] = ACROSS if is_across(walls[w, _ANGLE], axis) else ALONG
        else:
            kind[w] = FREE if length[w] >= max(3 * pixel, 3 * tolerance) else SHORT


@compiled
def _refined(walls: Array, kind: Array, axis: float) -> float:
    """The direction that fits all walls along it and across it best, at once."""
    sxx = sxy = syy = 0.0
    for w in range(len(walls)):
        xx, xy, yy = _scatter(walls[w])
        if kind[w] == ALONG:
            sxx, sxy, syy = sxx + xx, sxy + xy, syy + yy
        elif kind[w] == ACROSS:
            sxx, sxy, syy = sxx + yy, sxy - xy, syy + xx
    return axis if sxx + syy == 0 else 0.5 * math.atan2(2 * sxy, sxx - syy)


@compiled
def _second_direction(walls: Array, kind: Array, length: Array) -> float:
    """Direction of the oblique walls, where they are many and agree; else nan."""
    along = across = free = 0.0
    number = 0
    for w in range(len(walls)):
        if kind[w] == FREE:
            number += 1
            free += length[w]
            along += length[w] * math.cos(4 * walls[w, _ANGLE])
            across += length[w] * math.sin(4 * walls[w, _ANGLE])
    if number < 2 or free < _WINGS * length.sum() or math.hypot(along, across) < 0.7 * free:
        return math.nan
    return math.atan2(across, along) / 4


@compiled
def _angle_of(kind: int, wall: Array, axis: float, second: float) -> float:
    if kind in (ALONG, ACROSS):
        return axis + kind * math.pi / 2
    if kind in (WING, WING_ACROSS):
        return second + (kind - WING) * math.pi / 2
    return float(wall[_ANGLE])


@compiled
def _offset(walls: Array, wall: int, other: int) -> float:
    """How far the middle of the other wall lies from the line of a wall."""
    dx = walls[other, _X] / walls[other, _W] - walls[wall, _X] / walls[wall, _W]
    dy = walls[other, _Y] / walls[other, _W] - walls[wall, _Y] / walls[wall, _W]
    return float(dy * math.cos(walls[wall, _ANGLE]) - dx * math.sin(walls[wall, _ANGLE]))


@compiled
def _between(walls: Array, a: int, b: int) -> float:
    """The angle between two walls, 0...pi/2."""
    turned = (walls[a, _ANGLE] - walls[b, _ANGLE]) % math.pi
    return float(min(turned, math.pi - turned))


@compiled
def _drop(before: Array, after: Array, w: int) -> None:
    if before[w] >= 0:
        after[before[w]] = after[w]
    if after[w] >= 0:
        before[after[w]] = before[w]


@compiled
def _unite(walls: Array, kind: Array, before: Array, after: Array, p: int, q: int) -> None:
    """Make wall ``p`` of itself and the wall ``q`` further on, which goes."""
    if kind[p] == FREE and kind[q] != FREE and walls[q, _W] > 0.5 * walls[p, _W]:
        kind[p], walls[p, _ANGLE] = kind[q], walls[q, _ANGLE]
    for column in range(_ANGLE):
        walls[p, column] += walls[q, column]
    walls[p, _HIGH] = walls[q, _HIGH]
    if kind[p] == FREE:
        walls[p, _ANGLE] = _steepest(walls[p])
    _drop(before, after, q)


@compiled
def _without_short(
    walls: Array, kind: Array, before: Array, after: Array, k: int, sides: Array, tolerance: float
) -> int:
    """Take out pieces too short to have a direction, unless they are a step; the first wall that stays, or -1."""
    first = -1
    for w in range(k):
        if kind[w] != SHORT:
            first = w
            break
    if first < 0:
        return -1
    w = after[first]
    while w != first and w >= 0:  # neighbouring short pieces are one
        following = after[w]
        if kind[w] == SHORT and kind[before[w]] == SHORT:
            for column in range(_ANGLE):
                walls[before[w], column] += walls[w, column]
            walls[before[w], _HIGH] = walls[w, _HIGH]
            _drop(before, after, w)
        w = following
    w = after[first]
    while w != first and w >= 0:
        following = after[w]
        if kind[w] == SHORT:
            p, q = before[w], after[w]
            step = p >= 0 and q >= 0 and p != q and _between(walls, p, q) < _PARALLEL
            if step and abs(_offset(walls, p, q)) > tolerance:
                kind[w] = kind[p] ^ 1 if kind[p] < FREE else FREE
                walls[w, _ANGLE] = walls[p, _ANGLE] + math.pi / 2
            elif p >= 0 and q >= 0 and p != q and not step and _loss(walls, p, q, sides) > _MOST * tolerance:
                kind[w], walls[w, _ANGLE] = FREE, _steepest(walls[w])
            else:
                _drop(before, after, w)
        w = following
    return first


@compiled
def _insert_steps(
    walls: Array, kind: Array, before: Array, after: Array, k: int, first: int, sides: Array, tolerance: float
) -> None:
    """Put a wall across between neighbours that run alike and too far apart to be one."""
    w, new = first, k
    while w >= 0 and first >= 0:
        q = after[w]
        if q < 0 or q == w:
            break
        if kind[w] == kind[q] and kind[w] < FREE:
            lighter = min(walls[w, _W], walls[q, _W]) / (walls[w, _W] + walls[q, _W])
            if abs(_offset(walls, w, q)) * (1 - lighter) > tolerance:
                at = int(walls[q, _LOW]) % len(sides)
                _add(walls[new], sides[at, 0], sides[at, 1])
                walls[new, _ANGLE] = walls[w, _ANGLE] + math.pi / 2
                kind[new] = kind[w] ^ 1
                after[w], before[new], after[new], before[q] = new, w, q, new
                new += 1
        w = q
        if w == first:
            break


@compiled
def _fewer(walls: Array, kind: Array, before: Array, after: Array, first: int, sides: Array, tolerance: float) -> int:
    """Unite walls that go on in each other, and take out those that matter least; the first that stays, or -1."""
    if first < 0:
        return -1
    for limit in (0.0, 0.3 * tolerance, 0.6 * tolerance, _MOST * tolerance):
        changed = True
        while changed:
            changed = False
            number, w = 1, after[first]
            while w != first and w >= 0:
                number, w = number + 1, after[w]
            w, seen = first, 0
            while w >= 0 and seen <= number and number > 1:
                seen += 1
                p, q = before[w], after[w]
                if q >= 0 and q != w and _between(walls, w, q) < _PARALLEL:
                    _unite(walls, kind, before, after, w, q)
                    if q == first:
                        first = w
                    number, changed = number - 1, True
                    continue
                least = 4 if before[first] >= 0 else 2
                if p >= 0 and q >= 0 and number > least and limit > 0 and _loss(walls, p, q, sides) <= limit:
                    _drop(before, after, w)
                    if w == first:
                        first = q
                    number, changed = number - 1, True
                    if _between(walls, p, q) < _PARALLEL and p != q:
                        _unite(walls, kind, before, after, p, q)
                        if q == first:
                            first = p
                        number -= 1
                    w = p
                    continue
                w = q
    return first


@compiled
def _loss(walls: Array, p: int, q: int, sides: Array) -> float:
    """How far the line moves where what is between two walls goes."""
    if _between(walls, p, q) < _PARALLEL:
        lighter = min(walls[p, _W], walls[q, _W]) / (walls[p, _W] + walls[q, _W])
        return float(abs(_offset(walls, p, q)) * (1 - lighter))
    x, y, fine = _meeting(walls, p, q)
    if not fine:
        return math.inf
    n = len(sides)
    begin, count = int(walls[p, _HIGH]) - 1, int(walls[q, _LOW] - walls[p, _HIGH]) % n + 2
    nearest = math.inf
    for i in range(begin, begin + count):
        nearest = min(nearest, math.hypot(sides[i % n, 0] - x, sides[i % n, 1] - y))
    return nearest


@compiled
def _meeting(walls: Array, a: int, b: int) -> tuple[float, float, bool]:
    """Where the lines of two walls meet, and whether they do."""
    ax, ay = walls[a, _X] / walls[a, _W], walls[a, _Y] / walls[a, _W]
    bx, by = walls[b, _X] / walls[b, _W], walls[b, _Y] / walls[b, _W]
    ux, uy = math.cos(walls[a, _ANGLE]), math.sin(walls[a, _ANGLE])
    vx, vy = math.cos(walls[b, _ANGLE]), math.sin(walls[b, _ANGLE])
    det = ux * vy - uy * vx
    if abs(det) < 0.1:
        return 0.0, 0.0, False
    t = ((bx - ax) * vy - (by - ay) * vx) / det
    return ax + t * ux, ay + t * uy, True


@compiled
def _corners(walls: Array, before: Array, after: Array, first: int, points: Array, closed: bool) -> Array:
    """Where each wall meets the next."""
    out = np.empty((len(walls) + 2, 2))
    if first < 0:
        return out[:0]
    m = 0
    if not closed:
        while before[first] >= 0:
            first = before[first]
        last = first
        while after[last] >= 0:
            last = after[last]
        if first == last:
            out[0], out[1] = points[0], points[len(points) - 1]
            return out[:2]
        _through(walls[first], points[0])
        _through(walls[last], points[len(points) - 1])
        out[0] = points[0]
        m = 1
    w = first
    while True:
        q = after[w]
        if q < 0 or q == w:
            break
        x, y, fine = _meeting(walls, w, q)
        if not fine:
            return out[:0]
        out[m, 0], out[m, 1] = x, y
        m += 1
        w = q
        if w == first:
            break
    if not closed:
        out[m] = points[len(points) - 1]
        m += 1
    return out[:m]


@compiled
def _through(wall: Array, point: Array) -> None:
    """Move a wall so that it goes through a point."""
    wall[_W], wall[_X], wall[_Y] = 1.0, point[0], point[1]
