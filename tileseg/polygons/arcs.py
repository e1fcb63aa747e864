"""Rings cut into arcs: what two polygons share is one and the same line for both.

An arc ends where more than two polygon sides meet (a node), and where a ring reaches the scene's edge. It runs from the
end that comes first in reading order, whichever ring it is of, so that what is made of it is the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.lattice import with_junctions
from tileseg.polygons.rings import Array

_EAST, _SOUTH, _WEST, _NORTH = 0, 1, 2, 3

_BITS = np.array([mask.bit_count() for mask in range(16)])


@dataclass(frozen=True, slots=True)
class Arcs:
    """The arcs of some rings, ring by ring, in the order in which each ring follows them. A arcs, n points."""

    points: Array
    """(n, 2) int32, on the pixel lattice. A closed arc does not repeat its first point."""
    offsets: Array
    """(A + 1,) int64, into the points."""
    ring: Array
    """(A,) int64: position of the ring among those given."""
    closed: Array
    """(A,) bool: a whole ring without nodes."""
    backward: Array
    """(A,) bool: whether the ring follows the arc from its end to its beginning."""
    key: Array
    """(A,) int64: equal for the same arc of two rings, and for no others."""
    wanted: Array
    """(A,) bool: whether a polygon on either side is wanted."""


def arcs_of(coordinates: Array, offsets: Array, rings: int, wanted: Array, shape: tuple[int, int]) -> Arcs:
    """Cut the first so many ``rings`` of open lattice rings (n, 2) at their nodes.

    The other rings are all that touch them. ``wanted``: (R,) bool, of each ring's polygon; ``shape``: (rows, columns)
    of the scene.
    """
    points, ends = with_junctions(coordinates, offsets)
    key, mask = _marks(points, ends, wanted)
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    together = np.bitwise_or.reduceat(mask[order], first) if len(first) else mask
    at = np.empty(len(key), np.uint8)
    at[order] = np.repeat(together, np.diff(np.append(first, len(key))))
    rows, cols = shape
    x, y = points[:, 0], points[:, 1]
    node = (_BITS[at & 15] != 2) | (x == 0) | (y == 0) | (x == cols) | (y == rows)
    return Arcs(*_cut(points, ends[: rings + 1], node, at >> 4))


@compiled
def _marks(points: Array, offsets: Array, wanted: Array) -> tuple[Array, Array]:
    """The place of each vertex as one number, and in which directions sides go from it; wanted ones 4 bits higher."""
    key, mask = np.empty(len(points), np.int64), np.empty(len(points), np.uint8)
    for ring in range(len(offsets) - 1):
        low, high = offsets[ring], offsets[ring + 1]
        for i in range(low, high):
            p, q = (i - 1 if i > low else high - 1), (i + 1 if i + 1 < high else low)
            sides = 1 << _direction(points[i], points[p]) | 1 << _direction(points[i], points[q])
            key[i] = np.int64(points[i, 1]) << 32 | np.int64(points[i, 0])
            mask[i] = sides | (sides << 4 if wanted[ring] else 0)
    return key, mask


@compiled
def _direction(a: Array, b: Array) -> int:
    if a[1] == b[1]:
        return _EAST if b[0] > a[0] else _WEST
    return _SOUTH if b[1] > a[1] else _NORTH


@compiled
def _cut(
    points: Array, offsets: Array, node: Array, wanted: Array
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """The fields of :class:`Arcs`. ``wanted``: (n,) by direction, as in ``_marks``."""
    rings = len(offsets) - 1
    arcs = 0
    for ring in range(rings):
        nodes = 0
        for i in range(offsets[ring], offsets[ring + 1]):
            nodes += node[i]
        arcs += max(1, nodes)
    out = np.empty((offsets[rings] + arcs, 2), np.int32)
    ends, of_ring = np.zeros(arcs + 1, np.int64), np.empty(arcs, np.int64)
    closed, backward = np.zeros(arcs, np.bool_), np.zeros(arcs, np.bool_)
    key, needed = np.empty(arcs, np.int64), np.empty(arcs, np.bool_)
    n = arc = 0
    for ring in range(rings):
        low, size = offsets[ring], offsets[ring + 1] - offsets[ring]
        start = -1
        for i in range(size):
            if node[low + i]:
                start = i
                break
        closed_ring = start < 0
        start = max(0, start)
        i = 0
        while i < size:
            begun = n
            out[n] = points[low + (start + i) % size]
            first = low + (start + i) % size
            n, i = n + 1, i + 1
            while i < size and (closed_ring or not node[low + (start + i) % size]):
                out[n] = points[low + (start + i) % size]
                n, i = n + 1, i + 1
            if not closed_ring:
                out[n] = points[low + (start + i) % size]
                n += 1
            needed[arc] = wanted[first] >> _direction(points[first], out[begun + 1]) & 1
            if _runs_backward(out[begun:n], closed_ring):
                backward[arc] = True
                a = begun + 1 if closed_ring else begun
                b = n - 1
                while a < b:
                    for axis in range(2):
                        out[a, axis], out[b, axis] = out[b, axis], out[a, axis]
                    a, b = a + 1, b - 1
            direction = _direction(out[begun], out[begun + 1])
            key[arc] = np.int64(out[begun, 1]) << 34 | np.int64(out[begun, 0]) << 2 | direction
            closed[arc], of_ring[arc] = closed_ring, ring
            arc += 1
            ends[arc] = n
    return out[:n], ends, of_ring, closed, backward, key, needed


@compiled
def _runs_backward(line: Array, closed: bool) -> bool:
    """Whether the line must be turned around, to run from the end that comes first in reading order."""
    last = len(line) - 1
    if closed:
        return bool(line[1, 1] != line[0, 1])
    if line[0, 1] != line[last, 1]:
        return bool(line[0, 1] > line[last, 1])
    if line[0, 0] != line[last, 0]:
        return bool(line[0, 0] > line[last, 0])
    return bool(_direction(line[0], line[1]) > _direction(line[last], line[last - 1]))
