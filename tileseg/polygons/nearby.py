"""What comes near lines, found in squares of some pixels; and lines taken out of many."""

from __future__ import annotations

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array

SQUARE = 16
"""Pixels: side of the squares in which neighbours are looked for, at least."""

_MOST_SQUARES = 1 << 11
"""Squares along a side, at most, in which a part of the polygons is drawn to find what is near."""


def near_boxes(points: Array, offsets: Array, boxes: Array, reach: int, scale: int) -> Array:
    """Boxes (n, 4) that come near lines, in squares of some pixels; ascending.

    ``reach``: pixels that count as near; ``scale``: units of the points and boxes in a pixel.
    """
    origin, far = points.min(axis=0) - reach * scale, points.max(axis=0) + reach * scale
    side = max(SQUARE * scale, reach * scale, int((far - origin).max()) // _MOST_SQUARES + 1)
    drawn = np.zeros(tuple(((far - origin) // side + 2)[::-1]), np.int32)
    _draw(points, offsets, origin, side, reach * scale, drawn)
    drawn = drawn.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    return np.flatnonzero(_touched(boxes, origin, side, drawn))


@compiled
def _draw(points: Array, offsets: Array, origin: Array, side: int, reach: int, drawn: Array) -> None:
    """Mark the squares that segments of lines, closed, may come near; one row and column further."""
    for line in range(len(offsets) - 1):
        k = offsets[line + 1] - 1
        for i in range(offsets[line], offsets[line + 1]):
            # In pieces of at most a square, so that slanting ones do not mark all around them.
            dx, dy = float(points[i, 0] - points[k, 0]), float(points[i, 1] - points[k, 1])
            pieces = int(max(abs(dx), abs(dy)) / side) + 1
            for piece in range(pieces):
                x0, y0 = points[k, 0] + dx * (piece / pieces), points[k, 1] + dy * (piece / pieces)
                x1, y1 = points[k, 0] + dx * ((piece + 1) / pieces), points[k, 1] + dy * ((piece + 1) / pieces)
                low_x, high_x = int(min(x0, x1)) - 1 - reach, int(max(x0, x1)) + 1 + reach
                low_y, high_y = int(min(y0, y1)) - 1 - reach, int(max(y0, y1)) + 1 + reach
                for row in range(max(0, (low_y - origin[1]) // side), (high_y - origin[1]) // side + 1):
                    for col in range(max(0, (low_x - origin[0]) // side), (high_x - origin[0]) // side + 1):
                        if row + 1 < drawn.shape[0] and col + 1 < drawn.shape[1]:
                            drawn[row + 1, col + 1] = 1
            k = i


@compiled
def _touched(boxes: Array, origin: Array, side: int, sums: Array) -> Array:
    """(n,) bool: which boxes lie on a marked square. ``sums``: of the marks, from the first row and column on."""
    found = np.zeros(len(boxes), np.bool_)
    rows, cols = sums.shape
    for i in range(len(boxes)):
        x0, x1 = (boxes[i, 0] - origin[0]) // side, (boxes[i, 2] - origin[0]) // side + 1
        y0, y1 = (boxes[i, 1] - origin[1]) // side, (boxes[i, 3] - origin[1]) // side + 1
        x0, x1, y0, y1 = max(0, x0), min(cols - 1, x1), max(0, y0), min(rows - 1, y1)
        found[i] = x0 < x1 and y0 < y1 and sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0
    return found


@compiled
def boxes_of(points: Array, offsets: Array) -> Array:
    """(lines, 4) int64: least and greatest x and y (xmin, ymin, xmax, ymax)."""
    out = np.empty((len(offsets) - 1, 4), np.int64)
    for line in range(len(offsets) - 1):
        for axis in range(2):
            out[line, axis] = out[line, 2 + axis] = points[offsets[line], axis]
        for i in range(offsets[line] + 1, offsets[line + 1]):
            for axis in range(2):
                out[line, axis] = min(out[line, axis], points[i, axis])
                out[line, 2 + axis] = max(out[line, 2 + axis], points[i, axis])
    return out


@compiled
def gather(points: Array, offsets: Array, chosen: Array) -> tuple[Array, Array]:
    """Lines, one after the other, and their offsets."""
    ends = np.zeros(len(chosen) + 1, np.int64)
    for k in range(len(chosen)):
        ends[k + 1] = ends[k] + offsets[chosen[k] + 1] - offsets[chosen[k]]
    out = np.empty((ends[-1], 2), np.int32)
    for k in range(len(chosen)):
        start = offsets[chosen[k]]
        for i in range(ends[k + 1] - ends[k]):
            out[ends[k] + i, 0], out[ends[k] + i, 1] = points[start + i, 0], points[start + i, 1]
    return out, ends
