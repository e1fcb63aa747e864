"""Rings on the pixel lattice: closing, pieces, splitting edges, junctions, areas in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from affine import Affine

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import release

_IDENTITY = Affine.identity()


@compiled
def close_rings(
    coordinates: Array, offsets: Array, reverse: bool, x0: float, xx: float, xy: float, y0: float, yx: float, yy: float
) -> tuple[Array, Array]:
    """Closed rings on the ground: x = x0 + col * xx + row * xy, added in this order, as GDAL does."""
    rings = len(offsets) - 1
    out = np.empty((len(coordinates) + rings, 2), np.float64)
    out_offsets = np.empty(rings + 1, np.int64)
    n = 0
    out_offsets[0] = 0
    for ring in range(rings):
        low, high = offsets[ring], offsets[ring + 1]
        for i in range(high - low + 1):
            k = low if i == high - low else low + i
            if reverse and 0 < i < high - low:
                k = high - i
            col, row = coordinates[k, 0], coordinates[k, 1]
            out[n, 0] = x0 + col * xx + row * xy
            out[n, 1] = y0 + col * yx + row * yy
            n += 1
        out_offsets[ring + 1] = n
    return out, out_offsets


@dataclass(frozen=True, slots=True)
class Lines:
    """Closed rings as lines, or a part of a ring too long to be worked on at a time."""

    rings: slice
    """Which rings."""
    points: Array
    """(n, 2) float64."""
    offsets: Array
    """(lines + 1,) int64, into them."""
    begins: bool
    """Whether it begins its ring; else its first point is the last one of the part before."""


def lines_of(
    coordinates: Array, offsets: Array, most: int, *, reverse: bool, transform: Affine = _IDENTITY
) -> Iterator[Lines]:
    """Open lattice rings, closed and placed by a transform, of about ``most`` corners at a time."""
    gt = transform
    for low, high in ring_pieces(offsets, most):
        first, last = int(offsets[low]), int(offsets[high])
        if last - first <= most:
            points, ends = close_rings(
                coordinates[first:last], offsets[low : high + 1] - first, reverse, gt.c, gt.a, gt.b, gt.f, gt.d, gt.e
            )
            yield Lines(slice(low, high), points, ends, begins=True)
        else:
            for start in range(0, last - first, most):
                stop = min(start + most, last - first)
                corners = np.arange(start, stop + 1)
                corners = (-corners if reverse else corners) % (last - first)
                col, row = coordinates[first + corners].astype(np.float64).T
                x, y = gt.c + col * gt.a + row * gt.b, gt.f + col * gt.d + row * gt.e
                yield Lines(slice(low, high), np.column_stack([x, y]), np.array([0, stop - start + 1]), start == 0)
        release(coordinates)


def ring_pieces(offsets: Array, corners: int) -> Iterator[tuple[int, int]]:
    """Ranges of rings of so many corners in all at most, or of one ring."""
    low = 0
    while low < len(offsets) - 1:
        high = max(low + 1, int(np.searchsorted(offsets, offsets[low] + corners, "right")) - 1)
        yield low, high
        low = high


def with_junctions(coordinates: Array, offsets: Array) -> tuple[Array, Array]:
    """The rings with a vertex wherever another ring has a corner on one of their edges: shared borders then match."""
    wide = coordinates.astype(np.int64)
    by_row = np.unique(wide[:, 1] << 32 | wide[:, 0])
    by_col = np.unique(wide[:, 0] << 32 | wide[:, 1])
    lengths, _ = _insert_junctions(wide, offsets, by_row, by_col, np.empty(0, np.int64))
    return _insert_junctions(wide, offsets, by_row, by_col, lengths)[1], np.concatenate([[0], np.cumsum(lengths)])


@compiled
def _insert_junctions(
    coordinates: Array, offsets: Array, by_row: Array, by_col: Array, lengths: Array
) -> tuple[Array, Array]:
    """Vertices of each ring (count) where ``lengths`` is empty, else the vertices themselves."""
    rings = len(offsets) - 1
    counting = len(lengths) < rings
    counts = np.zeros(rings, np.int64)
    out = np.empty((0 if counting else lengths.sum(), 2), np.int32)
    n = 0
    for ring in range(rings):
        low, high = offsets[ring], offsets[ring + 1]
        begun = n
        for i in range(low, high):
            k = i + 1 if i + 1 < high else low
            along = 0 if coordinates[k, 1] == coordinates[i, 1] else 1
            corners = by_row if along == 0 else by_col
            start, stop, line = coordinates[i, along], coordinates[k, along], coordinates[i, 1 - along]
            first = np.searchsorted(corners, line << 32 | min(start, stop))
            last = np.searchsorted(corners, line << 32 | max(start, stop))
            if not counting:
                for step in range(last - first):  # the corner at the far end belongs to the next edge
                    corner = corners[first + step if start < stop else last - step] & 0xFFFFFFFF
                    out[n + step, along], out[n + step, 1 - along] = corner, line
            n += last - first
        counts[ring] = n - begun
    return counts, out


@compiled
def longest_edge(coordinates: Array, offsets: Array) -> int:
    """Length of the longest edge of open rings, in pixels, along rows or columns."""
    longest = 0
    for ring in range(len(offsets) - 1):
        k = offsets[ring + 1] - 1
        for i in range(offsets[ring], offsets[ring + 1]):
            longest = max(
                longest, abs(coordinates[i, 0] - coordinates[k, 0]), abs(coordinates[i, 1] - coordinates[k, 1])
            )
            k = i
    return longest


@compiled
def has_slanting_edges(coordinates: Array, offsets: Array) -> bool:
    """Whether edges of open rings run neither along rows nor along columns: of simplified polygons."""
    for ring in range(len(offsets) - 1):
        k = offsets[ring + 1] - 1
        for i in range(offsets[ring], offsets[ring + 1]):
            if coordinates[i, 0] != coordinates[k, 0] and coordinates[i, 1] != coordinates[k, 1]:
                return True
            k = i
    return False


@compiled
def split_edges(coordinates: Array, offsets: Array, step: float, closed: bool) -> tuple[Array, Array]:
    """The rings with vertices added on edges longer than ``step`` pixels (not always a whole number).

    ``closed``: a last edge goes back to the first vertex; else they are lines.
    """
    rings = len(offsets) - 1
    out_offsets = np.zeros(rings + 1, np.int64)
    for counting in (True, False):
        n = 0
        if counting:
            out = np.empty((0, 2), np.float64)
        else:
            out = np.empty((out_offsets[rings], 2), np.float64)
        for ring in range(rings):
            low, high = offsets[ring], offsets[ring + 1]
            for i in range(low, high):
                k = i + 1 if i + 1 < high else low
                dx, dy = coordinates[k, 0] - coordinates[i, 0], coordinates[k, 1] - coordinates[i, 1]
                parts = max(1, math.ceil(max(abs(dx), abs(dy)) / step))
                if not closed and i + 1 == high:
                    parts = 1
                if not counting:
                    for part in range(parts):
                        out[n + part, 0] = coordinates[i, 0] + dx * (part / parts)
                        out[n + part, 1] = coordinates[i, 1] + dy * (part / parts)
                n += parts
            out_offsets[ring + 1] = n
    return out, out_offsets


@compiled
def lattice_areas(coordinates: Array, offsets: Array) -> tuple[Array, Array]:
    """(area in pixels, perimeter in pixel sides) of open rings; positive with the pixels on the right hand."""
    rings = len(offsets) - 1
    area, perimeter = np.empty(rings), np.empty(rings)
    for ring in range(rings):
        twice = 0  # whole numbers as long as coordinates are
        length = 0.0
        k = offsets[ring + 1] - 1
        for i in range(offsets[ring], offsets[ring + 1]):
            x, y = coordinates[i, 0], coordinates[i, 1]
            before_x, before_y = coordinates[k, 0], coordinates[k, 1]
            twice += before_x * y - x * before_y
            length += math.hypot(x - before_x, y - before_y)
            k = i
        area[ring] = twice / 2
        perimeter[ring] = length
    return area, perimeter
