"""The walls that stand for a line of pixel sides at the least cost: a shortest path over where walls may end.

A line is known by marks (points of it, between which it is straight up to a detail) and by the sums of its pixel sides
up to each mark. A wall goes from one mark to a later one: along one of two pairs of right-angled directions, or free,
as the sides there run. Each corner costs one, one that is no right angle more, and so does the distance of the sides
from their wall; the cheapest row of walls is found from mark to mark (Bellman, 1957). No wall is further than its reach
from the sides that it stands for, and no corner from the mark where two walls meet.
"""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array

FREE = 4
"""Kind of a wall that follows no direction. Kinds 0 and 1 run along the first direction and across it, 2 and 3 along
the second one and across it."""

_KINDS = 5

_OBLIQUE = 5.0
"""What a corner costs more that is no right angle."""

_FREELY_RIGHT = 0.5
"""The same of a corner that is one within eight degrees, of walls that follow no direction."""

_SPREAD = 1.2
"""Cost of a wall as long as its reach whose sides are as far off as the reach."""

_STUB = 0.8
"""What a wall costs more that is shorter than its reach."""

_ACUTE = math.sin(math.radians(25))
"""Walls that turn by less than this do not meet in a corner."""

_NEARLY = math.sin(math.radians(8))

_FIRSTS = 200
"""Marks up to which each kind of first wall is tried to the end; of more, the first wall is the one that seems best."""

_COST, _X, _Y, _ANGLE, _CORNER_X, _CORNER_Y, _END_X, _END_Y, _FIRST_X, _FIRST_Y, _FIRST_ANGLE = range(11)
"""What is known of the best row of walls up to a mark: its cost, a point and the angle of its last wall, the corner
where that begins, that where the one before ends (the same, or a step away), and a point and the angle of its first
wall."""


@compiled
def fit_walls(
    points: Array, at: Array, sums: Array, reach: Array, closed: bool, directions: tuple[float, float],
    sizes: tuple[float, float],
) -> tuple[float, Array, Array]:  # fmt: skip
    """The cheapest walls for a line: (cost, corners (m, 2), walls (m or m - 1, 3): first mark, last mark, kind).

    points: (n, 2). at: (k + 1,) positions of the marks among them; of a ring, the last is n and stands for 0. sums:
    (k + 1, 6) over the points before each mark: their number, x, y, xx, xy and yy. reach: (k + 1,) how far a wall may
    be from the points at each mark. ``directions``: the second may be nan. ``sizes``: of a pixel, and the reach that
    costs are relative to. The corners of a line begin and end at its ends. There is a wall for each two corners.
    """
    k = len(at) - 1
    axis, second = directions
    angles = np.array([axis, axis + math.pi / 2, second, second + math.pi / 2])
    marks, lows, highs = _extents(points, at, angles)
    kinds = np.array([0, 1, FREE]) if math.isnan(second) else np.arange(_KINDS)
    firsts = _KINDS if closed and k <= _FIRSTS else 1
    best = np.full((k + 1, firsts, _KINDS, 11), np.inf)
    origin = np.full((k + 1, firsts, _KINDS, 3), -1, np.int64)  # mark before, kind before, kind of the first wall
    wall = np.empty((_KINDS, 5))  # cost, x, y, angle; 1 where there is such a wall
    for j in range(1, k + 1):
        near, low, high = reach[j], np.full(4, np.inf), np.full(4, -np.inf)
        for i in range(j - 1, -1, -1):
            near = min(near, reach[i])
            low, high = np.minimum(low, lows[i]), np.maximum(high, highs[i])
            some = False
            for c in kinds:
                fixed = not closed and (i == 0 or j == k)
                wall[c, 4] = 0.0
                if c == FREE:
                    some |= _free_wall(wall[c], marks, sums, i, j, near, fixed, sizes)
                elif high[c] - low[c] <= 2 * near:
                    _straight_wall(wall[c], marks, sums, i, j, near, fixed, angles[c], low[c], high[c], sizes)
                    some = True
            if not some:
                break
            for c in kinds:
                if wall[c, 4]:
                    _extend(best, origin, wall[c], c, marks, i, j, reach[i], kinds, closed, sizes)
    return _read(best, origin, marks, reach[0], closed)


@compiled
def _extents(points: Array, at: Array, angles: Array) -> tuple[Array, Array, Array]:
    """The marks (k + 1, 2), and how far to the side of each angle the points of each part lie: (k, 4) twice."""
    n, k = len(points), len(at) - 1
    marks, low, high = np.empty((k + 1, 2)), np.full((k, 4), np.inf), np.full((k, 4), -np.inf)
    for mark in range(k + 1):
        marks[mark] = points[at[mark] % n]
    for c in range(4):
        dx, dy = -math.sin(angles[c]), math.cos(angles[c])
        for part in range(k):
            for i in range(at[part], at[part + 1] + 1):
                off = points[i % n, 0] * dx + points[i % n, 1] * dy
                low[part, c], high[part, c] = min(low[part, c], off), max(high[part, c], off)
    return marks, low, high


@compiled
def _straight_wall(
    wall: Array, marks: Array, sums: Array, i: int, j: int, near: float, fixed: bool, angle: float,
    low: float, high: float, sizes: tuple[float, float],
) -> None:  # fmt: skip
    """A wall in a direction from mark ``i`` to ``j``, through the middle of the sides, or a fixed end of the line."""
    dx, dy = -math.sin(angle), math.cos(angle)
    w = max(1.0, sums[j, 0] - sums[i, 0])
    x, y = (sums[j, 1] - sums[i, 1]) / w, (sums[j, 2] - sums[i, 2]) / w
    mean = x * dx + y * dy
    square = (
        (sums[j, 3] - sums[i, 3]) * dx * dx
        + 2 * (sums[j, 4] - sums[i, 4]) * dx * dy
        + (sums[j, 5] - sums[i, 5]) * dy * dy
    ) / w
    off = min(low + near, max(high - near, mean))
    if fixed:
        end = marks[0] if i == 0 else marks[len(marks) - 1]
        off = end[0] * dx + end[1] * dy
        if max(high - off, off - low) > near or (i == 0 and j == len(marks) - 1):
            return
    spread = max(0.0, square - 2 * off * mean + off * off)
    wall[0] = _SPREAD * spread * w * sizes[0] / sizes[1] ** 3
    wall[1], wall[2], wall[3], wall[4] = x + (off - mean) * dx, y + (off - mean) * dy, angle, 1.0


@compiled
def _free_wall(
    wall: Array, marks: Array, sums: Array, i: int, j: int, near: float, fixed: bool, sizes: tuple[float, float]
) -> bool:
    """A wall as the sides run from mark ``i`` to ``j``; whether a longer one may yet be near enough."""
    w = max(1.0, sums[j, 0] - sums[i, 0])
    x, y = (sums[j, 1] - sums[i, 1]) / w, (sums[j, 2] - sums[i, 2]) / w
    xx, xy, yy = (sums[j, 3] - sums[i, 3]) / w, (sums[j, 4] - sums[i, 4]) / w, (sums[j, 5] - sums[i, 5]) / w
    px, py = x, y
    if fixed:
        last = len(marks) - 1
        px, py = (marks[0, 0], marks[0, 1]) if i == 0 else (marks[last, 0], marks[last, 1])
    # Second moments about the point that the wall goes through.
    xx, xy, yy = xx - 2 * px * x + px * px, xy - px * y - py * x + px * py, yy - 2 * py * y + py * py
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    if w < 3 or (fixed and i == 0 and j == len(marks) - 1):
        angle = math.atan2(marks[j, 1] - marks[i, 1], marks[j, 0] - marks[i, 0])
    dx, dy = -math.sin(angle), math.cos(angle)
    most = 0.0
    for m in range(i, j + 1):
        most = max(most, abs((marks[m, 0] - px) * dx + (marks[m, 1] - py) * dy))
    long = math.hypot(marks[j, 0] - marks[i, 0], marks[j, 1] - marks[i, 1])
    if j == i + 1 or (most <= 0.9 * near and long >= sizes[1]):
        spread = max(0.0, xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy)
        wall[0] = _SPREAD * spread * w * sizes[0] / sizes[1] ** 3
        wall[1], wall[2], wall[3], wall[4] = px, py, angle, 1.0
    return most <= 2 * near


@compiled
def _extend(
    best: Array, origin: Array, wall: Array, c: int, marks: Array, i: int, j: int, near: float, kinds: Array,
    closed: bool, sizes: tuple[float, float],
) -> None:  # fmt: skip
    """Go on from the best rows of walls up to mark ``i`` with a wall of kind ``c`` to mark ``j``."""
    firsts = best.shape[1]
    if i == 0:
        f = c if firsts > 1 else 0
        if wall[0] < best[j, f, c, _COST]:
            best[j, f, c, _COST] = wall[0]
            for column in range(3):
                best[j, f, c, _X + column] = best[j, f, c, _FIRST_X + column] = wall[1 + column]
            best[j, f, c, _CORNER_X] = math.nan if closed else marks[0, 0]
            best[j, f, c, _CORNER_Y] = math.nan if closed else marks[0, 1]
            best[j, f, c, _END_X] = math.nan
            origin[j, f, c, 0], origin[j, f, c, 1], origin[j, f, c, 2] = 0, -1, c
        return
    for f in range(firsts):
        for p in kinds:
            state = best[i, f, p]
            if state[_COST] + 1 + wall[0] >= best[j, f, c, _COST]:
                continue
            turn = _turn(state[_X : _ANGLE + 1], p, wall[1:4], c, marks[i], near)
            cost = state[_COST] + wall[0] + turn[0] + (_STUB if turn[5] < sizes[1] and turn[5] > 0 else 0.0)
            if not math.isnan(state[_CORNER_X]):
                before = marks[origin[i, f, p, 0]]
                dx, dy = turn[1] - state[_CORNER_X], turn[2] - state[_CORNER_Y]
                if dx * (marks[i, 0] - before[0]) + dy * (marks[i, 1] - before[1]) <= 0:
                    continue
                if math.hypot(dx, dy) < sizes[1]:
                    cost += _STUB
            if cost < best[j, f, c, _COST]:
                best[j, f, c] = state
                best[j, f, c, _COST], best[j, f, c, _X], best[j, f, c, _Y] = cost, wall[1], wall[2]
                best[j, f, c, _ANGLE] = wall[3]
                best[j, f, c, _END_X], best[j, f, c, _END_Y] = turn[1], turn[2]
                best[j, f, c, _CORNER_X], best[j, f, c, _CORNER_Y] = turn[3], turn[4]
                origin[j, f, c, 0], origin[j, f, c, 1], origin[j, f, c, 2] = i, p, origin[i, f, p, 2]


@compiled
def _turn(
    before: Array, p: int, after: Array, c: int, mark: Array, near: float
) -> tuple[float, float, float, float, float, float]:
    """How a wall (x, y, angle) of kind ``p`` goes over into one of kind ``c`` at a mark.

    Returns what it costs, the corner where the one ends and that where the other begins (x and y each), and how far
    apart they are: not at all where the walls meet near the mark, else a step leads from one to the other.
    """
    x, y, meet = _meeting(before[0], before[1], before[2], after[0], after[1], after[2])
    if meet and math.hypot(x - mark[0], y - mark[1]) <= near:
        if p ^ c == 1 and max(p, c) < FREE:
            return 1.0, x, y, x, y, 0.0
        nearly = abs(math.cos(before[2] - after[2])) < _NEARLY
        return 1.0 + (_FREELY_RIGHT if nearly else _OBLIQUE), x, y, x, y, 0.0
    ax, ay = _foot(before, mark)
    bx, by = _foot(after, mark)
    apart = math.hypot(bx - ax, by - ay)
    if p == c and c != FREE:
        return 2.0, ax, ay, bx, by, apart
    return 2.0 * (1.0 + _OBLIQUE), ax, ay, bx, by, apart


@compiled
def _foot(wall: Array, mark: Array) -> tuple[float, float]:
    """The point of a wall nearest to a mark."""
    ux, uy = math.cos(wall[2]), math.sin(wall[2])
    along = (mark[0] - wall[0]) * ux + (mark[1] - wall[1]) * uy
    return wall[0] + along * ux, wall[1] + along * uy


@compiled
def _meeting(ax: float, ay: float, a: float, bx: float, by: float, b: float) -> tuple[float, float, bool]:
    """Where two walls meet (points and angles), and whether they do."""
    det = math.sin(b - a)
    if abs(det) < _ACUTE:
        return 0.0, 0.0, False
    t = ((bx - ax) * math.sin(b) - (by - ay) * math.cos(b)) / det
    return ax + t * math.cos(a), ay + t * math.sin(a), True


@compiled
def _read(best: Array, origin: Array, marks: Array, near: float, closed: bool) -> tuple[float, Array, Array]:
    """The cheapest row of walls to the last mark; of a ring, with the corner or step where it closes."""
    k = len(marks) - 1
    least, end_f, end_c = math.inf, -1, -1
    close = (0.0, marks[k, 0], marks[k, 1], marks[k, 0], marks[k, 1], 0.0)
    for f in range(best.shape[1]):
        for c in range(_KINDS):
            state = best[k, f, c]
            if state[_COST] >= least:
                continue
            turn = (0.0, marks[k, 0], marks[k, 1], marks[0, 0], marks[0, 1], 0.0)
            if closed:
                first = origin[k, f, c, 2]
                turn = _turn(state[_X : _ANGLE + 1], c, state[_FIRST_X : _FIRST_ANGLE + 1], first, marks[0], near)
            if state[_COST] + turn[0] < least:
                least, end_f, end_c, close = state[_COST] + turn[0], f, c, turn
    # From the end: each wall, and the step before it.
    corners, walls = np.empty((2 * k + 2, 2)), np.empty((2 * k + 2, 3), np.int64)
    m, j, c = 0, k, end_c
    corners[0, 0], corners[0, 1] = close[1], close[2]
    while c >= 0:
        i, p = origin[j, end_f, c, 0], origin[j, end_f, c, 1]
        walls[m, 0], walls[m, 1], walls[m, 2] = i, j, c
        state = best[j, end_f, c]
        begin_x, begin_y, end_x, end_y = state[_CORNER_X], state[_CORNER_Y], state[_END_X], state[_END_Y]
        if p < 0 and closed:
            begin_x, begin_y, end_x, end_y = close[3], close[4], close[1], close[2]
        corners[m + 1, 0], corners[m + 1, 1] = begin_x, begin_y
        m += 1
        if (p >= 0 or closed) and (begin_x != end_x or begin_y != end_y):
            walls[m, 0], walls[m, 1], walls[m, 2] = i, i, c
            corners[m + 1, 0], corners[m + 1, 1] = end_x, end_y
            m += 1
        j, c = i, p
    corners, walls = corners[: m + 1][::-1].copy(), walls[:m][::-1].copy()
    return least, (corners[1:] if closed else corners), walls
