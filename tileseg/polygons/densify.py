"""Points along edges, where a straight line of the scene is bent in longitude and latitude."""

from __future__ import annotations

import math

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array

FINEST = 1 / 256
"""Pixels: points lie no closer together than this, and an edge this near to a pole runs through it."""

_COARSEST = 65_536.0


@compiled
def densify(
    coordinates: Array, offsets: Array, closed: bool,
    spacing: Array, cell: Array, poles: Array, near: float, tolerance: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Lattice rings with points added along long edges: (vertices (n, 2) float64, offsets).

    The points lie where a line crosses columns (of steep lines: rows) that are multiples of a power of two, so they
    depend on the line alone: polygons on both sides of a border get the same ones, whichever way they go round.

    Args:
        coordinates: (n, 2) column and row of the vertices.
        offsets: (R + 1,) into them.
        closed: whether a last edge goes back to the first vertex; else they are lines.
        spacing: (cells down, cells across, 3) pixels between points that keep within the tolerance, for lines along
            rows, along columns, and others.
        cell: (2,) width and height of a cell in pixels.
        poles: (k, 2) column and row of poles: around them the spacing follows the distance instead.
        near: how far around, in pixels.
        tolerance: how far the border may be off, in pixels.
    """
    least = np.empty(3)
    for kind in range(3):
        least[kind] = spacing[:, :, kind].min() if len(poles) == 0 else 0.0
    enough = max(1.0, least.min())  # no shorter edge needs points anywhere, whatever others there are
    rings = len(offsets) - 1
    out_offsets = np.zeros(rings + 1, np.int64)
    out = np.empty((0, 2), np.float64)
    for counting in (True, False):
        if not counting:
            out = np.empty((out_offsets[rings], 2), np.float64)
        n = 0
        for ring in range(rings):
            low, high = offsets[ring], offsets[ring + 1]
            for i in range(low, high):
                k = i + 1 if i + 1 < high else low
                x0, y0 = float(coordinates[i, 0]), float(coordinates[i, 1])
                x1, y1 = float(coordinates[k, 0]), float(coordinates[k, 1])
                along = 0 if abs(x1 - x0) >= abs(y1 - y0) else 1
                backward = (x1 < x0) if along == 0 else (y1 < y0)
                if backward:
                    x0, y0, x1, y1 = x1, y1, x0, y0
                if not counting:
                    out[n, 0], out[n, 1] = coordinates[i, 0], coordinates[i, 1]
                n += 1
                if not closed and i + 1 == high:
                    break
                added = 0
                begin, end = (x0, x1) if along == 0 else (y0, y1)
                if end - begin > enough or len(poles):
                    kind = 0 if y0 == y1 else 1 if x0 == x1 else 2
                    first = n
                    at = begin
                    while True:
                        at = _next(at, x0, y0, x1, y1, along, kind, spacing, cell, poles, near, tolerance, least)
                        if at >= end:
                            break
                        if not counting:
                            x, y = _on_line(at, x0, y0, x1, y1, along)
                            out[n, 0], out[n, 1] = x, y
                        n += 1
                        added += 1
                    if backward and not counting:
                        for j in range(added // 2):
                            a, b = first + j, first + added - 1 - j
                            for axis in range(2):
                                out[a, axis], out[b, axis] = out[b, axis], out[a, axis]
            out_offsets[ring + 1] = n
    return out, out_offsets


@compiled
def _on_line(at: float, x0: float, y0: float, x1: float, y1: float, along: int) -> tuple[float, float]:
    """Where a line is at a column (``along`` 0) or a row."""
    if along == 0:
        return at, y0 if y0 == y1 else y0 + (y1 - y0) * ((at - x0) / (x1 - x0))
    return x0 if x0 == x1 else x0 + (x1 - x0) * ((at - y0) / (y1 - y0)), at


@compiled
def _next(
    at: float, x0: float, y0: float, x1: float, y1: float, along: int, kind: int,
    spacing: Array, cell: Array, poles: Array, near: float, tolerance: float, least: Array,
) -> float:  # fmt: skip
    """The next point along a line: the end of the largest piece around ``at`` that needs no more points."""
    size = _COARSEST
    base = math.floor(at / size) * size
    while size > FINEST:
        if size > cell[along]:
            fits = size <= least[kind]
        else:
            fits = True
            for part in range(3):
                x, y = _on_line(base + size * (part / 2), x0, y0, x1, y1, along)
                if size > _spacing_at(x, y, kind, spacing, cell, poles, near, tolerance):
                    fits = False
                    break
        if fits:
            break
        size /= 2
        if at >= base + size:
            base += size
    found = base + size
    # Through a pole, exactly: longitudes on the two sides of it have nothing in common.
    length = math.hypot(x1 - x0, y1 - y0)
    for pole in range(len(poles)):
        dx, dy = poles[pole, 0] - x0, poles[pole, 1] - y0
        if abs(dx * (y1 - y0) - dy * (x1 - x0)) < FINEST * length:
            foot = poles[pole, along]
            if at < foot < found:
                found = foot
    return found


@compiled
def _spacing_at(
    x: float, y: float, kind: int, spacing: Array, cell: Array, poles: Array, near: float, tolerance: float
) -> float:
    col = min(max(int(x // cell[0]), 0), spacing.shape[1] - 1)
    row = min(max(int(y // cell[1]), 0), spacing.shape[0] - 1)
    found = spacing[row, col, kind]
    for pole in range(len(poles)):
        distance = math.hypot(x - poles[pole, 0], y - poles[pole, 1])
        if distance < near:
            found = min(found, math.sqrt(tolerance * distance), distance / 2)
    return float(max(found, FINEST))
