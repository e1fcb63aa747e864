"""Which lines may stand in for arcs without crossing, touching or jumping over any other.

A line may stand in for its arc if it meets none of the lines that might stand for other arcs, but in nodes that both
share, and if none of them lies between it and its arc. That depends on what is near alone, not on what was decided for
others, so it is the same wherever the scene is divided; and two lines that both may do not meet either.
Coordinates are whole numbers (a fraction of a pixel each), and all comparisons exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array, wide


@dataclass(frozen=True, slots=True)
class Lines:
    """Arcs with the lines that might stand for them. A arcs, L lines, n points."""

    points: Array
    """(n, 2) int32."""
    offsets: Array
    """(L + 1,) int64, into the points."""
    arc: Array
    """(L,) int64: the arc of each line, ascending; an arc's first line is the arc itself."""
    key: Array
    """(A,) int64: of each arc; equal for the same one."""
    closed: Array
    """(A,) bool: the first point follows the last."""

    def line(self, number: int) -> Array:
        """The points of a line."""
        return self.points[self.offsets[number] : self.offsets[number + 1]]

    def may_be(self, number: int, points: int) -> bool:
        """Whether a line of so many points can stand for the arc of this one: a ring and a loop go around something."""
        raw = self.line(int(np.searchsorted(self.arc, self.arc[number])))
        loop = bool((raw[0] == raw[-1]).all())
        return points >= (3 if self.closed[self.arc[number]] else 4 if loop else 2)

    def of_arcs(self, arcs: int) -> Lines:
        """Those of the first so many arcs."""
        lines = int(np.searchsorted(self.arc, arcs))
        return Lines(
            self.points[: self.offsets[lines]], self.offsets[: lines + 1], self.arc[:lines], self.key[:arcs],
            self.closed[:arcs],
        )  # fmt: skip

    def with_others(self, others: Mapping[int, Array]) -> Lines:
        """The same with other points of some lines."""
        if not others:
            return self
        parts = [others.get(number, self.line(number)) for number in range(len(self.arc))]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return Lines(np.concatenate(parts), offsets, self.arc, self.key, self.closed)


def fitting_lines(lines: Lines, arcs: int, cell: int) -> Array:
    """(L,) bool: which lines of the first so many ``arcs`` may stand in. An arc itself always may.

    ``cell``: side of the squares in which lines are looked up; as far as lines reach from their arcs, at least.
    """
    squares, segments = _in_squares(lines.points, lines.offsets, lines.closed[lines.arc], cell)
    order = np.lexsort((segments[:, 0], squares))
    keys, first = np.unique(squares[order], return_index=True)
    return _fitting(
        lines.points, lines.offsets, lines.arc, lines.key, lines.closed,
        arcs, cell, keys, np.append(first, len(squares)), segments[order],
    )  # fmt: skip


def meeting_places(lines: Lines, chosen: Array, cell: int) -> tuple[Array, Array]:
    """Where some lines meet themselves or lines of other arcs: (n,) lines, (n, 2) float64 places, in order."""
    squares, segments = _in_squares(lines.points, lines.offsets, lines.closed[lines.arc], cell)
    order = np.lexsort((segments[:, 0], squares))
    keys, first = np.unique(squares[order], return_index=True)
    found = _places(
        lines.points, lines.offsets, lines.arc, lines.key, lines.closed,
        chosen, cell, keys, np.append(first, len(squares)), segments[order],
    )  # fmt: skip
    every = np.unique(np.array(found, np.float64).reshape(-1, 3), axis=0)
    return every[:, 0].astype(np.int64), every[:, 1:]


@compiled
def _square(col: int, row: int) -> int:
    return (wide(row) << 32) + wide(col)


@compiled
def _span(a: Array, b: Array, row: int, cell: int) -> tuple[int, int]:
    """First and last column of the squares of a row that a segment may touch."""
    low, high = min(a[0], b[0]), max(a[0], b[0])
    if a[1] != b[1]:
        slope = (b[0] - a[0]) / (b[1] - a[1])
        x0, x1 = a[0] + (row * cell - a[1]) * slope, a[0] + ((row + 1) * cell - a[1]) * slope
        low, high = max(low, int(min(x0, x1)) - 1), min(high, int(max(x0, x1)) + 1)
    return low // cell, high // cell


@compiled
def _in_squares(points: Array, offsets: Array, closed: Array, cell: int) -> tuple[Array, Array]:
    """Squares that segments touch, and the segments as (line, first point)."""
    n = 0
    squares, segments = np.empty(0, np.int64), np.empty((0, 2), np.int64)
    for counting in (True, False):
        if not counting:
            squares, segments = np.empty(n, np.int64), np.empty((n, 2), np.int64)
        n = 0
        for line in range(len(offsets) - 1):
            low, high = offsets[line], offsets[line + 1]
            for i in range(low, high if closed[line] else high - 1):
                a, b = points[i], points[i + 1 if i + 1 < high else low]
                for row in range(min(a[1], b[1]) // cell, max(a[1], b[1]) // cell + 1):
                    first, last = _span(a, b, row, cell)
                    for col in range(first, last + 1):
                        if not counting:
                            squares[n] = _square(col, row)
                            segments[n, 0], segments[n, 1] = line, i
                        n += 1
    return squares, segments


@compiled
def _fitting(
    points: Array, offsets: Array, arc: Array, key: Array, closed: Array,
    arcs: int, cell: int, squares: Array, first: Array, segments: Array,
) -> Array:  # fmt: skip
    lines = len(offsets) - 1
    fine = np.ones(lines, np.bool_)
    own = np.zeros(len(key) + 1, np.int64)  # the first line of each arc
    for line in range(lines - 1, -1, -1):
        own[arc[line]] = line
    for line in range(lines):
        if arc[line] >= arcs:
            break
        if line == own[arc[line]]:
            continue
        low, high = offsets[line], offsets[line + 1]
        for i in range(low, high if closed[arc[line]] else high - 1):
            a, b = points[i], points[i + 1 if i + 1 < high else low]
            for row in range(min(a[1], b[1]) // cell, max(a[1], b[1]) // cell + 1):
                begin, end = _span(a, b, row, cell)
                for col in range(begin, end + 1):
                    at = np.searchsorted(squares, _square(col, row))
                    if at == len(squares) or squares[at] != _square(col, row):
                        continue
                    for s in range(first[at], first[at + 1]):
                        other, j = segments[s, 0], segments[s, 1]
                        if other == line:
                            if i < j and _crosses_itself(points, low, high, closed[arc[line]], i, j):
                                fine[line] = False
                        elif key[arc[other]] != key[arc[line]] and _conflict(
                            points, offsets, arc, closed, line, i, other, j
                        ):
                            fine[line] = False
                    if not fine[line]:
                        break
                if not fine[line]:
                    break
            if not fine[line]:
                break
    _forbid_jumps(points, offsets, arc, key, closed, arcs, cell, squares, first, segments, own, fine)
    return fine


@compiled
def _places(
    points: Array, offsets: Array, arc: Array, key: Array, closed: Array,
    chosen: Array, cell: int, squares: Array, first: Array, segments: Array,
) -> list[tuple[float, float, float]]:  # fmt: skip
    """(line, x, y) of each place where one of the chosen lines meets what it may not."""
    out = [(0.0, 0.0, 0.0)][:0]
    for line in chosen:
        low, high = offsets[line], offsets[line + 1]
        is_closed = closed[arc[line]]
        for i in range(low, high if is_closed else high - 1):
            a, b = points[i], points[i + 1 if i + 1 < high else low]
            for row in range(min(a[1], b[1]) // cell, max(a[1], b[1]) // cell + 1):
                begin, end = _span(a, b, row, cell)
                for col in range(begin, end + 1):
                    at = np.searchsorted(squares, _square(col, row))
                    if at == len(squares) or squares[at] != _square(col, row):
                        continue
                    for s in range(first[at], first[at + 1]):
                        other, j = segments[s, 0], segments[s, 1]
                        meet = False
                        if other == line:
                            meet = i < j and _crosses_itself(points, low, high, is_closed, i, j)
                        elif key[arc[other]] != key[arc[line]]:
                            meet = _conflict(points, offsets, arc, closed, line, i, other, j)
                        if meet:
                            c = points[j]
                            d = points[j + 1 if j + 1 < offsets[other + 1] else offsets[other]]
                            x0, x1 = max(min(a[0], b[0]), min(c[0], d[0])), min(max(a[0], b[0]), max(c[0], d[0]))
                            y0, y1 = max(min(a[1], b[1]), min(c[1], d[1])), min(max(a[1], b[1]), max(c[1], d[1]))
                            out.append((float(line), float(x0), float(y0)))
                            out.append((float(line), float(x1), float(y1)))
                            out.append((float(line), (x0 + x1) / 2, (y0 + y1) / 2))
    return out


@compiled
def _forbid_jumps(
    points: Array, offsets: Array, arc: Array, key: Array, closed: Array,
    arcs: int, cell: int, squares: Array, first: Array, segments: Array, own: Array, fine: Array,
) -> None:  # fmt: skip
    """Lines that have another between them and their arc may not stand in."""
    near = np.empty(64, np.int64)
    for other in range(len(offsets) - 1):
        low, high = offsets[other], offsets[other + 1]
        middle = low + (high - low - 1) // 2
        following = middle + 1 if middle + 1 < high else low
        # Doubled, so that the middle of a side, which is no node, is a whole number.
        x = wide(points[middle, 0]) + wide(points[following, 0])
        y = wide(points[middle, 1]) + wide(points[following, 1])
        found = 0
        for row in range(y // 2 // cell - 1, y // 2 // cell + 2):
            for col in range(x // 2 // cell - 1, x // 2 // cell + 2):
                at = np.searchsorted(squares, _square(col, row))
                if at == len(squares) or squares[at] != _square(col, row):
                    continue
                last = -1
                for s in range(first[at], first[at + 1]):
                    line = segments[s, 0]
                    if line == last or arc[line] >= arcs or line == own[arc[line]] or not fine[line]:
                        continue
                    last = line
                    if key[arc[line]] == key[arc[other]]:
                        continue
                    known = False
                    for k in range(found):
                        known = known or near[k] == line
                    if known:
                        continue
                    if found == len(near):
                        near = np.concatenate((near, near))
                    near[found] = line
                    found += 1
        for k in range(found):
            line = near[k]
            mine = own[arc[line]]
            is_closed = closed[arc[line]]
            inside = _crossings(points, offsets[line], offsets[line + 1], is_closed, x, y)
            inside += _crossings(points, offsets[mine], offsets[mine + 1], is_closed, x, y)
            if inside % 2:
                fine[line] = False


@compiled
def _crossings(points: Array, low: int, high: int, closed: bool, x: int, y: int) -> int:
    """How many segments of a line lie to the right of a point, whose coordinates are doubled."""
    found = 0
    for i in range(low, high if closed else high - 1):
        k = i + 1 if i + 1 < high else low
        ax, ay = 2 * wide(points[i, 0]), 2 * wide(points[i, 1])
        bx, by = 2 * wide(points[k, 0]), 2 * wide(points[k, 1])
        if (ay > y) != (by > y):
            side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            found += (side > 0) == (by > ay)
    return found


@compiled
def _side(a: Array, b: Array, c: Array) -> int:
    """1, 0 or -1: on which side of the line from ``a`` to ``b`` a point lies."""
    found = (wide(b[0]) - wide(a[0])) * (wide(c[1]) - wide(a[1]))
    found -= (wide(b[1]) - wide(a[1])) * (wide(c[0]) - wide(a[0]))
    return 1 if found > 0 else -1 if found < 0 else 0


@compiled
def _between(a: Array, b: Array, c: Array) -> bool:
    """Whether ``c``, on the line through ``a`` and ``b``, lies between them or on them."""
    return bool(min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1]))


@compiled
def _meet(a: Array, b: Array, c: Array, d: Array) -> bool:
    """Whether two segments have a point in common."""
    if max(a[0], b[0]) < min(c[0], d[0]) or max(c[0], d[0]) < min(a[0], b[0]):
        return False
    if max(a[1], b[1]) < min(c[1], d[1]) or max(c[1], d[1]) < min(a[1], b[1]):
        return False
    one, two, three, four = _side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b)
    if one * two < 0 and three * four < 0:
        return True
    return (
        (one == 0 and _between(a, b, c))
        or (two == 0 and _between(a, b, d))
        or (three == 0 and _between(c, d, a))
        or (four == 0 and _between(c, d, b))
    )


@compiled
def _fold(a: Array, b: Array, c: Array) -> bool:
    """Whether the way from ``b`` to ``c`` goes back along the one from ``a`` to ``b``."""
    if _side(a, b, c) != 0:
        return False
    ahead = (wide(b[0]) - wide(a[0])) * (wide(c[0]) - wide(b[0]))
    return bool(ahead + (wide(b[1]) - wide(a[1])) * (wide(c[1]) - wide(b[1])) <= 0)


@compiled
def _crosses_itself(points: Array, low: int, high: int, closed: bool, i: int, j: int) -> bool:
    """Whether segments ``i`` < ``j`` of a line meet otherwise than one after the other."""
    after_i, after_j = i + 1, j + 1 if j + 1 < high else low
    if j == after_i:
        return _fold(points[i], points[j], points[after_j])
    if closed and after_j == i:
        return _fold(points[j], points[i], points[after_i])
    if not closed and i == low and j == high - 2:
        a, b = points[low], points[high - 1]
        if a[0] == b[0] and a[1] == b[1]:  # a loop from a node to itself
            return _fold(points[j], points[i], points[after_i])
    return _meet(points[i], points[after_i], points[j], points[after_j])


@compiled
def _conflict(points: Array, offsets: Array, arc: Array, closed: Array, line: int, i: int, other: int, j: int) -> bool:
    """Whether segments of lines of two arcs meet otherwise than in a node of both."""
    low, high = offsets[line], offsets[line + 1]
    other_low, other_high = offsets[other], offsets[other + 1]
    after_i, after_j = (i + 1 if i + 1 < high else low), (j + 1 if j + 1 < other_high else other_low)
    a, b, c, d = points[i], points[after_i], points[j], points[after_j]
    if not _meet(a, b, c, d):
        return False
    if closed[arc[line]] or closed[arc[other]]:
        return True
    shared = 0
    for mine in range(2):
        for theirs in range(2):
            p, q = (a if mine == 0 else b), (c if theirs == 0 else d)
            if p[0] != q[0] or p[1] != q[1]:
                continue
            at_end = (i == low) if mine == 0 else (after_i == high - 1)
            at_other_end = (j == other_low) if theirs == 0 else (after_j == other_high - 1)
            if not (at_end and at_other_end):
                return True
            shared += 1
            away, other_away = (b if mine == 0 else a), (d if theirs == 0 else c)
            if _same_way(p, away, other_away):
                return True
    return shared == 0


@compiled
def _same_way(node: Array, a: Array, b: Array) -> bool:
    """Whether two ways from a node set out in the same direction."""
    if _side(node, a, b) != 0:
        return False
    ahead = (wide(a[0]) - wide(node[0])) * (wide(b[0]) - wide(node[0]))
    return bool(ahead + (wide(a[1]) - wide(node[1])) * (wide(b[1]) - wide(node[1])) > 0)
